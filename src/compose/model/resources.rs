//! Top-level networks, volumes, configs, secrets and models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A top-level network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The engine's name of it: `name`, or `<project>_<key>`, or the key itself where it is external.
    pub name: String,
    /// None: the engine's default driver (`bridge`).
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub ipam: Ipam,
    /// Exists already; never created and never removed.
    pub external: bool,
    /// No route to the outside.
    pub internal: bool,
    pub attachable: bool,
    pub labels: BTreeMap<String, String>,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    /// The hash of the definition (sha256, hexadecimal), as in Docker Compose's label `com.docker.compose.config-hash`.
    pub config_hash: String,
}

/// How a network gets its addresses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// None: the engine's default.
    pub driver: Option<String>,
    /// Empty: a pool of the engine's choice.
    pub config: Vec<IpamPool>,
}

/// One address pool of a network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamPool {
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub ip_range: Option<String>,
    pub aux_addresses: BTreeMap<String, String>,
}

/// A top-level volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// The engine's name of it: `name`, or `<project>_<key>`, or the key itself where it is external.
    pub name: String,
    /// None: `local`.
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    /// Exists already; never created and never removed.
    pub external: bool,
    pub labels: BTreeMap<String, String>,
    /// The hash of the definition (sha256, hexadecimal), as in Docker Compose's label `com.docker.compose.config-hash`.
    pub config_hash: String,
}

/// A top-level config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub name: String,
    /// The file of the host with the content, absolute.
    pub file: Option<String>,
    /// The variable with the content; the value, where there is one, is in `content`.
    pub environment: Option<String>,
    pub content: Option<String>,
    pub external: bool,
    pub labels: BTreeMap<String, String>,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub template_driver: Option<String>,
}

/// A top-level secret.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    pub name: String,
    /// The file of the host with the content, absolute.
    pub file: Option<String>,
    /// The variable with the content; the value, where there is one, is in `content`.
    pub environment: Option<String>,
    /// The value of the variable; `config` never prints it.
    pub content: Option<String>,
    pub external: bool,
    pub labels: BTreeMap<String, String>,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub template_driver: Option<String>,
}

/// Everything but the content, which must not get into a log.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("file", &self.file)
            .field("environment", &self.environment)
            .field("external", &self.external)
            .finish_non_exhaustive()
    }
}

/// A top-level model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    pub name: Option<String>,
    /// The model's OCI reference.
    pub model: String,
    pub context_size: i64,
    pub runtime_flags: Vec<String>,
}
