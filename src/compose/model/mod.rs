//! The typed result of loading: what the compose files *mean*.
//!
//! Everything here is plain data, serialisable with serde. The attribute names are the specification's; durations,
//! byte sizes, ports, restart policies and references are already parsed. Values that Docker Compose accepts without
//! looking at them, and that only the engine can refuse, end in a variant named `Other`, so that loading never fails
//! for something that `docker compose config` would have printed.

mod build;
mod deploy;
mod resources;
mod service;
pub mod text;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use build::{Build, SshKey};
pub use deploy::{
    Deploy, DeployRestartPolicy, DeviceRequest, GenericResource, Placement, Reservations, ResourceLimits, Resources,
    UpdateConfig,
};
pub use resources::{Config, Ipam, IpamPool, Model, Network, Secret, Volume};
pub use service::{
    Blkio, BlkioRate, BlkioWeight, CredentialSpec, Dependency, Develop, Device, FileMount, Healthcheck, Hook, Logging,
    Mount, MountBind, MountImage, MountTmpfs, MountVolume, Port, PreStart, Provider, Service, ServiceModel,
    ServiceNetwork, Ulimit, WatchRule,
};
pub use values::{Condition, HealthTest, HostPorts, MountKind, NetworkMode, PullPolicy, Restart, WatchAction};

/// A loaded project: the merge of all its compose files, with every default that the specification gives filled in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// The project's name (`[a-z0-9][a-z0-9_-]*`).
    pub name: String,
    /// The directory that relative paths were resolved from, absolute.
    pub working_dir: PathBuf,
    /// The compose files given or found, absolute, in the order they were merged (`-` for standard input).
    pub compose_files: Vec<PathBuf>,
    /// The variables that interpolation could see: the process environment over the `.env` files.
    pub environment: BTreeMap<String, String>,
    /// Whether names are made as Docker Compose 1 made them, with `_` (`--compatibility`).
    pub compatibility: bool,
    /// The active profiles.
    pub profiles: Vec<String>,
    /// The services whose profiles are active.
    pub services: BTreeMap<String, Service>,
    /// The services that no active profile asks for.
    pub disabled_services: BTreeMap<String, Service>,
    /// Top-level networks by key, `default` included where a service uses it.
    pub networks: BTreeMap<String, Network>,
    /// Top-level volumes by key.
    pub volumes: BTreeMap<String, Volume>,
    /// Top-level configs by key.
    pub configs: BTreeMap<String, Config>,
    /// Top-level secrets by key.
    pub secrets: BTreeMap<String, Secret>,
    /// Top-level models by key.
    pub models: BTreeMap<String, Model>,
    /// Top-level `x-` attributes.
    pub extensions: serde_json::Map<String, serde_json::Value>,
}
