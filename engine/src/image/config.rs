//! An image that is in the store: its names, its configuration, its layers.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::manifest::{Descriptor, MAX_LAYERS, Platform, is_dense};
use super::reference::Reference;

/// An image of the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The name it was asked for or is listed by.
    pub reference: Reference,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of its configuration: the image id.
    pub id: Digest,
    /// The digest that the registry had under the name: of the index if there was one, of the manifest otherwise.
    pub source_digest: Digest,
    /// The image configuration (OCI image specification).
    pub config: ImageConfiguration,
    /// What Docker's configuration has beyond the specification.
    pub docker: DockerConfig,
    /// What machine it is for.
    pub platform: Platform,
    /// The digests of the unpacked layers, bottom first.
    pub diff_ids: Vec<Digest>,
    /// The layers as they are in the registry, bottom first.
    pub layers: Vec<Descriptor>,
    /// Bytes of all files in all layers, or of the compressed layers where that is not known.
    pub size: u64,
    /// When it was built (RFC 3339).
    pub created: Option<String>,
    /// Another image has taken its name; `reference` is the name by digest.
    pub dangling: bool,
    /// When a registry was last asked about the name, or told of it. An image that never met one has no such time.
    pub checked: Option<jiff::Timestamp>,
    /// When the image got the name.
    pub tagged: Option<jiff::Timestamp>,
}

impl Image {
    /// Returns the short image id, as listings show it.
    pub fn short_id(&self) -> String {
        self.id.short()
    }
}

/// The fields of an image configuration's `config` that Docker added and the specification reserves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DockerConfig {
    /// `HEALTHCHECK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `SHELL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// `ONBUILD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
}

/// An image's health check. Durations are in nanoseconds; 0 means "not set".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`; empty to inherit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// Time between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time a check may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two checks during the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not JSON of the expected form.
    #[error("cannot parse the image configuration: {0}")]
    Json(#[source] serde_json::Error),
    /// It would take much more memory than it is long.
    #[error("the image configuration has too many values")]
    Dense,
    /// Its root file system is described in a way that does not fit the manifest.
    #[error("the image configuration does not fit its manifest: {0}")]
    RootFs(String),
}

/// What a configuration blob says, before it is known which reference it is for.
#[derive(Debug)]
pub(crate) struct ParsedConfig {
    pub(crate) config: ImageConfiguration,
    pub(crate) docker: DockerConfig,
    pub(crate) platform: Platform,
    pub(crate) diff_ids: Vec<Digest>,
}

/// The Docker fields, wherever they are.
#[derive(Deserialize)]
struct DockerDocument {
    #[serde(default)]
    config: Option<DockerConfig>,
}

impl ParsedConfig {
    /// Parses a configuration blob that belongs to a manifest with so many layers.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ConfigError> {
        if is_dense(bytes) {
            return Err(ConfigError::Dense);
        }
        let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        let docker: DockerDocument = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        if config.rootfs().typ() != "layers" {
            let message = format!("its root file system is {:?} and not layers", config.rootfs().typ());
            return Err(ConfigError::RootFs(message));
        }
        let ids = config.rootfs().diff_ids();
        if ids.len() != layers || layers > MAX_LAYERS {
            return Err(ConfigError::RootFs(format!("it has {} diff ids for {layers} layers", ids.len())));
        }
        let diff_ids = ids
            .iter()
            .map(|id| id.parse().map_err(|error| ConfigError::RootFs(format!("{error}"))))
            .collect::<Result<_, _>>()?;
        let platform = Platform {
            architecture: config.architecture().to_string(),
            os: config.os().to_string(),
            variant: config.variant().clone().filter(|variant| !variant.is_empty()),
        };
        Ok(Self { config, docker: docker.config.unwrap_or_default(), platform, diff_ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dockers_fields_are_kept() {
        let document = json!({
            "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]},
            "history": [{"created_by": "x", "empty_layer": true}],
            "config": {
                "Hostname": "", "User": "", "Env": ["A=b"], "Cmd": null, "Entrypoint": ["/e"], "Volumes": null,
                "ExposedPorts": {"80/tcp": {}}, "OnBuild": null, "Labels": null, "StopSignal": "SIGQUIT",
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000_000, "Retries": 3},
                "Shell": ["/bin/bash", "-c"], "ArgsEscaped": true
            }
        });
        let parsed = ParsedConfig::parse(document.to_string().as_bytes(), 1).unwrap();
        let check = parsed.docker.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries, check.timeout), (1_000_000_000, 3, 0));
        assert_eq!(parsed.docker.shell.unwrap(), ["/bin/bash", "-c"]);
        assert_eq!(parsed.platform.to_string(), "linux/amd64");
        let config = parsed.config.config().as_ref().unwrap();
        assert_eq!(config.exposed_ports().as_deref(), Some(&["80/tcp".to_owned()][..]));
        assert_eq!(config.stop_signal().as_deref(), Some("SIGQUIT"));
        assert!(ParsedConfig::parse(document.to_string().as_bytes(), 2).is_err());
    }
}
