//! Manifests, indexes and descriptors (OCI image specification; Docker image manifest version 2, schema 2).
//!
//! Documents come from a hostile registry: they are read with bounds, a document that could be read both as a manifest
//! and as an index is refused (CVE-2021-41190), and nothing in them is ever used as a path.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Largest manifest or index that is read, in bytes.
pub(crate) const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
/// Largest image configuration that is read, in bytes.
pub(crate) const MAX_CONFIG: u64 = 8 * 1024 * 1024;
/// Most layers of an image: what the kernel's overlay file system stacks (`OVL_MAX_STACK`).
pub(crate) const MAX_LAYERS: usize = 500;
/// Most values in a document that is read: each takes dozens of bytes of memory and may be as short as two. Honest
/// documents have some thousands.
const MAX_VALUES: usize = 100_000;
/// Most entries of an index that is read from a registry.
const MAX_MANIFESTS: usize = 4096;

/// Media types, as registries and layouts name them.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A statement about an image (in-toto).
    pub const IN_TOTO: &str = "application/vnd.in-toto+json";
    /// OCI layer, not compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, not compressed.
    pub const DOCKER_LAYER_PLAIN: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Docker image manifest, schema 1 (unsupported), signed.
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Returns the bare media type of a `Content-Type` value.
    pub(crate) fn bare(content_type: &str) -> &str {
        content_type.split(';').next().unwrap_or_default().trim()
    }
    pub(crate) fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }
    pub(crate) fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_INDEX)
    }
    /// Tells whether a layer is one that registries do not distribute, to be fetched from a URL of the image's choice.
    pub(crate) fn is_foreign(media_type: &str) -> bool {
        media_type.contains("nondistributable") || media_type.contains(".rootfs.foreign.")
    }
}

/// Whose media types the documents of an image have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Those of the OCI image specification.
    #[default]
    Oci,
    /// Those of Docker's image manifest, version 2, schema 2.
    Docker,
}

impl Dialect {
    pub(crate) fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media::OCI_MANIFEST,
            Self::Docker => media::DOCKER_MANIFEST,
        }
    }

    pub(crate) fn index(self) -> &'static str {
        match self {
            Self::Oci => media::OCI_INDEX,
            Self::Docker => media::DOCKER_INDEX,
        }
    }

    pub(crate) fn config(self) -> &'static str {
        match self {
            Self::Oci => media::OCI_CONFIG,
            Self::Docker => media::DOCKER_CONFIG,
        }
    }

    /// Returns what a layer is called, whatever it was called before. What has no other name keeps it.
    pub(crate) fn layer(self, media_type: &str) -> &str {
        const NAMES: [(&str, &str); 3] = [
            (media::OCI_LAYER, media::DOCKER_LAYER_PLAIN),
            (media::OCI_LAYER_GZIP, media::DOCKER_LAYER),
            (media::OCI_LAYER_ZSTD, media::DOCKER_LAYER_ZSTD),
        ];
        let known = NAMES.iter().find(|(oci, docker)| [*oci, *docker].contains(&media_type));
        known.map_or(media_type, |(oci, docker)| match self {
            Self::Oci => oci,
            Self::Docker => docker,
        })
    }
}

/// Tells whether a JSON document has so many values that it would take much more memory than it is long.
pub(crate) fn is_dense(document: &[u8]) -> bool {
    document.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > MAX_VALUES
}

/// Names a piece of content: what it is, its digest and its size (OCI descriptor).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes.
    pub size: u64,
    /// Other places that claim to have the content. They are never asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Free-form metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What machine the content is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Fields that other tools wrote; they are kept.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Descriptor {
    /// Describes content of a known length.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: None,
            annotations: None,
            platform: None,
            other: serde_json::Map::new(),
        }
    }

    /// Returns an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Sets an annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.get_or_insert_default().insert(key.to_owned(), value.into());
        self
    }
}

/// The machine an image is for: `os/architecture[/variant]`, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A string that does not name a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: expected os/architecture[/variant], such as linux/amd64")]
pub struct PlatformError(String);

impl Platform {
    /// Returns the platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: variant.map(str::to_owned) }
    }

    /// Ranks how well a candidate serves this wish: 0 is exact, `None` is not at all.
    pub fn rank(&self, candidate: &Self) -> Option<u32> {
        if self.os != candidate.os || self.architecture != candidate.architecture {
            return None;
        }
        let level = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            // What a missing variant stands for.
            ("arm64", None) => Some(8),
            ("arm", None) => Some(7),
            ("amd64", None) => Some(1),
            (_, None | Some("")) => Some(0),
            (_, Some(variant)) => variant.strip_prefix('v').and_then(|digits| digits.parse::<u32>().ok()),
        };
        if self.variant == candidate.variant {
            return Some(0);
        }
        let (wanted, offered) = (level(self)?, level(candidate)?);
        // A newer machine runs code for an older one, not the other way round.
        (offered <= wanted).then(|| wanted - offered)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let mut parts = text.split('/');
        let (Some(os), architecture, variant, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(PlatformError(text.to_owned()));
        };
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // `linux` alone and `arm64` alone are both in use.
        let (os, architecture) = match architecture {
            Some(architecture) => (os, architecture.to_owned()),
            None if os == "linux" => (os, Self::host().architecture),
            None => ("linux", os.to_owned()),
        };
        let architecture = match architecture.as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "i386" => "386".to_owned(),
            _ => architecture,
        };
        if !is_word(os) || !is_word(&architecture) || !variant.is_none_or(is_word) {
            return Err(PlatformError(text.to_owned()));
        }
        Ok(Self { architecture, os: os.to_owned(), variant: variant.map(str::to_owned) })
    }
}

/// An image manifest: one configuration and its layers, bottom first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type. OCI documents may lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// Free-form metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An index (manifest list): one image for several platforms, or the table of contents of an image layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own media type. OCI documents may lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The entries.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Fields that other tools wrote; they are kept.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.to_owned()),
            manifests: Vec::new(),
            other: serde_json::Map::new(),
        }
    }
}

impl Index {
    /// Chooses the entry for a platform.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor, ManifestError> {
        let candidates = self.manifests.iter().filter_map(|entry| Some((entry.platform.as_ref()?, entry)));
        candidates
            .filter_map(|(offered, entry)| Some((platform.rank(offered)?, entry)))
            // `min_by_key` returns the first of equals, which is the order the specification asks for.
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry)
            .ok_or_else(|| {
                let offered: Vec<String> = self
                    .manifests
                    .iter()
                    .filter_map(|entry| entry.platform.as_ref())
                    // Attestations are entries for `unknown/unknown`.
                    .filter(|offered| offered.os != "unknown")
                    .map(ToString::to_string)
                    .collect();
                ManifestError::NoPlatform {
                    wanted: platform.to_string(),
                    offered: if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") },
                }
            })
    }
}

/// What a registry answers when asked for a manifest.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// One image for several platforms.
    Index(Index),
}

/// Why a manifest or index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON of the expected form.
    #[error("cannot parse the manifest: {0}")]
    Json(#[source] serde_json::Error),
    /// It has the fields of a manifest and those of an index.
    #[error("the manifest is also an index: refused, since two readers could see two images")]
    Ambiguous,
    /// Its content and its declared media type do not agree.
    #[error("the manifest is declared as {declared:?} but is {actual}")]
    TypeMismatch {
        /// What was declared.
        declared: String,
        /// What was found.
        actual: &'static str,
    },
    /// It is of the old Docker format, or something else that is not an image.
    #[error("unsupported manifest format {found:?}")]
    Unsupported {
        /// The media type or schema version.
        found: String,
    },
    /// It describes something that cannot be run, such as a chart.
    #[error("not a container image: its configuration is {media_type:?}")]
    NotAnImage {
        /// The configuration's media type.
        media_type: String,
    },
    /// It is another artifact than the wanted one, or an image.
    #[error("no artifact of type {wanted:?}: it is {found:?}")]
    OtherArtifact {
        /// The type that was asked for.
        wanted: String,
        /// What it says it is.
        found: String,
    },
    /// Nothing in the index runs on the wanted platform.
    #[error("no matching manifest for {wanted} in the manifest list entries (it offers {offered})")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// A layer would have to be fetched from a URL that the image chose.
    #[error("layer {digest} is foreign ({media_type}): fetching from a URL inside an image is refused")]
    Foreign {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// A count or size is beyond what is accepted.
    #[error("the manifest is out of bounds: {0}")]
    Bounds(String),
}

/// All that could be in either document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document that was declared (by `Content-Type` or by a descriptor) to be of a media type.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::Bounds(format!("{} bytes", bytes.len())));
        }
        if is_dense(bytes) {
            return Err(ManifestError::Bounds(format!("more than {MAX_VALUES} values")));
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let is_manifest = probe.config.is_some() || probe.layers.is_some();
        let is_index = probe.manifests.is_some();
        if (is_manifest && is_index) || (probe.fs_layers.is_some() && (is_manifest || is_index)) {
            return Err(ManifestError::Ambiguous);
        }
        if probe.schema_version != Some(2) {
            let found = probe.schema_version.map_or("none".to_owned(), |version| format!("schema version {version}"));
            return Err(ManifestError::Unsupported { found });
        }
        let declared = declared.map(media::bare).filter(|declared| {
            // Servers that know no better send these.
            !matches!(*declared, "" | "application/json" | "application/octet-stream" | "text/plain")
        });
        for media_type in declared.into_iter().chain(probe.media_type.as_deref()) {
            let expected = if media::is_manifest(media_type) {
                is_manifest
            } else if media::is_index(media_type) {
                is_index
            } else {
                return Err(ManifestError::Unsupported { found: media_type.chars().take(100).collect() });
            };
            if !expected {
                let actual = if is_index { "an index" } else { "a manifest" };
                return Err(ManifestError::TypeMismatch { declared: media_type.to_owned(), actual });
            }
        }
        if is_index {
            let index: Index = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
            if index.manifests.len() > MAX_MANIFESTS {
                return Err(ManifestError::Bounds(format!("{} entries", index.manifests.len())));
            }
            return Ok(Self::Index(index));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        manifest.check()?;
        Ok(Self::Manifest(manifest))
    }
}

impl Manifest {
    fn check(&self) -> Result<(), ManifestError> {
        let config_type = self.config.media_type.as_str();
        if !matches!(config_type, media::OCI_CONFIG | media::DOCKER_CONFIG) {
            return Err(ManifestError::NotAnImage { media_type: config_type.chars().take(100).collect() });
        }
        if self.config.size > MAX_CONFIG {
            return Err(ManifestError::Bounds(format!("a configuration of {} bytes", self.config.size)));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(ManifestError::Bounds(format!("{} layers, at most {MAX_LAYERS}", self.layers.len())));
        }
        for layer in &self.layers {
            if media::is_foreign(&layer.media_type) {
                let media_type = layer.media_type.chars().take(100).collect();
                return Err(ManifestError::Foreign { digest: layer.digest, media_type });
            }
        }
        self.layers
            .iter()
            .try_fold(0_u64, |sum, layer| sum.checked_add(layer.size))
            .filter(|sum| i64::try_from(*sum).is_ok())
            .map(|_| ())
            .ok_or_else(|| ManifestError::Bounds("layers whose sizes overflow".to_owned()))
    }

    /// Returns the sum of the layers' and the configuration's sizes, compressed, in bytes.
    pub fn download_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum::<u64>() + self.config.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": Digest::of(b"x"), "size": 1})
    }

    fn parse(document: &serde_json::Value, declared: Option<&str>) -> Result<Document, ManifestError> {
        Document::parse(document.to_string().as_bytes(), declared)
    }

    #[test]
    fn both_dialects_parse() {
        for (own, config, layer) in [
            (media::OCI_MANIFEST, media::OCI_CONFIG, media::OCI_LAYER_ZSTD),
            (media::DOCKER_MANIFEST, media::DOCKER_CONFIG, media::DOCKER_LAYER),
        ] {
            let document = json!({
                "schemaVersion": 2, "mediaType": own, "config": descriptor(config), "layers": [descriptor(layer)],
            });
            assert!(matches!(parse(&document, Some(own)), Ok(Document::Manifest(_))));
            assert!(matches!(parse(&document, Some(&format!("{own}; charset=utf-8"))), Ok(Document::Manifest(_))));
            assert!(matches!(parse(&document, Some("application/json")), Ok(Document::Manifest(_))));
            assert!(matches!(parse(&document, Some(media::OCI_INDEX)), Err(ManifestError::TypeMismatch { .. })));
        }
    }

    #[test]
    fn confusing_documents_are_refused() {
        let both = json!({
            "schemaVersion": 2, "config": descriptor(media::OCI_CONFIG), "layers": [], "manifests": [],
        });
        assert!(matches!(parse(&both, None), Err(ManifestError::Ambiguous)));
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(parse(&index, Some(media::OCI_MANIFEST)), Err(ManifestError::TypeMismatch { .. })));
        let old = json!({"schemaVersion": 1, "fsLayers": []});
        assert!(matches!(parse(&old, None), Err(ManifestError::Unsupported { .. })));
        let chart = json!({"schemaVersion": 2, "config": descriptor("application/x-chart"), "layers": []});
        assert!(matches!(parse(&chart, None), Err(ManifestError::NotAnImage { .. })));
        let foreign = json!({"schemaVersion": 2, "config": descriptor(media::OCI_CONFIG), "layers": [
            descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]});
        assert!(matches!(parse(&foreign, None), Err(ManifestError::Foreign { .. })));
        let many = json!({"schemaVersion": 2, "config": descriptor(media::OCI_CONFIG),
            "layers": vec![descriptor(media::OCI_LAYER); MAX_LAYERS + 1]});
        assert!(matches!(parse(&many, None), Err(ManifestError::Bounds(_))));
        let huge = json!({"mediaType": media::OCI_LAYER, "digest": Digest::of(b"x"), "size": u64::MAX});
        let overflow = json!({"schemaVersion": 2, "config": descriptor(media::OCI_CONFIG), "layers": [huge, huge]});
        assert!(matches!(parse(&overflow, None), Err(ManifestError::Bounds(_))));
        let evil = json!({"schemaVersion": 2, "config": descriptor(media::OCI_CONFIG), "layers": [
            {"mediaType": media::OCI_LAYER, "digest": "sha256:../../../etc/passwd", "size": 1}]});
        assert!(matches!(parse(&evil, None), Err(ManifestError::Json(_))));
        assert!(matches!(Document::parse(b"[[[[", None), Err(ManifestError::Json(_))));
        assert!(matches!(Document::parse("[".repeat(100_000).as_bytes(), None), Err(ManifestError::Json(_))));
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let entry = |platform: &str| {
            let mut entry = Descriptor::new(media::OCI_MANIFEST, Digest::of(platform.as_bytes()), 1);
            entry.platform = Some(platform.parse().unwrap());
            entry
        };
        let offered =
            ["unknown/unknown", "linux/arm/v5", "linux/amd64/v3", "linux/amd64", "linux/arm/v7", "linux/arm64/v8"];
        let index = Index { manifests: offered.iter().map(|platform| entry(platform)).collect(), ..Index::default() };
        let check = |wanted: &str, expected: &str| {
            let chosen = index.choose(&wanted.parse().unwrap()).unwrap();
            assert_eq!(chosen.digest, Digest::of(expected.as_bytes()), "{wanted}");
        };
        check("linux/amd64", "linux/amd64");
        check("linux/amd64/v2", "linux/amd64");
        check("linux/amd64/v3", "linux/amd64/v3");
        check("linux/arm64", "linux/arm64/v8");
        check("arm64", "linux/arm64/v8");
        check("linux/arm/v6", "linux/arm/v5");
        check("linux/arm", "linux/arm/v7");
        let error = index.choose(&"linux/s390x".parse().unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("linux/s390x") && error.contains("linux/arm/v5") && !error.contains("unknown"),
            "{error}"
        );
        for text in ["", "/", "linux/", "linux/amd64/v8/x", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
