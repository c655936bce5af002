//! What the shim and the container's init need to know beyond the OCI configuration: `shim.json` in the bundle.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::cgroup;
use crate::container::config::LogConfig;

/// The name of its file in the bundle.
pub const FILE: &str = "shim.json";

/// How a container is made and looked after, apart from `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShimConfig {
    pub rootfs: Rootfs,
    /// What some mounts of `config.json` need besides, by destination.
    pub mounts: BTreeMap<String, MountExtra>,
    /// Directories of the host that are made if they do not exist, because a bind mount needs them.
    pub create_host_paths: Vec<PathBuf>,
    pub cgroup: cgroup::Plan,
    pub namespaces: Namespaces,
    pub network: Network,
    /// Owner of the standard output and error.
    pub uid: u32,
    pub gid: u32,
    /// Whether standard input is a FIFO of the run directory instead of `/dev/null`.
    pub stdin_open: bool,
    /// Whether standard input ends when the first who attached to it leaves.
    #[serde(default)]
    pub stdin_once: bool,
    pub tty: bool,
    /// Whether PID 1 is ours: it reaps zombies and forwards signals to the container's program.
    pub init: bool,
    pub log: LogConfig,
    pub seccomp: Seccomp,
    /// How a supervisor is started when this one's has died: arguments of our own binary, the first being its name.
    pub supervisor_command: Vec<String>,
}

/// The overlay that is the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// The directories of the image's layers, topmost first.
    pub layers: Vec<PathBuf>,
    /// A directory, shared by all containers and made by the first, that goes above the layers: the places that something
    /// is mounted on in every container. Otherwise each would have to be made in the upper directory, with a file or
    /// directory of the host's filesystem for each, and those cost more than the mounts.
    pub places: Option<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Whether nobody will want the upper directory again, so that it need not be synced when the container ends.
    pub volatile: bool,
}

/// What a mount needs that an OCI mount cannot say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountExtra {
    /// Copy the image's content at the destination into the source, which is an empty volume.
    pub copy_up: bool,
    /// The part of the source to mount. Resolved inside the source, whose content may be hostile.
    pub subpath: Option<PathBuf>,
    /// The mount is a read-only view of an image: its layers, topmost first.
    pub layers: Vec<PathBuf>,
    /// The source is in another container, which has this mount namespace, such as `/proc/1234/ns/mnt`.
    pub namespace: Option<PathBuf>,
}

/// Where the container's namespaces come from, apart from mount (always its own) and network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    pub cgroup: Namespace,
}

/// Where one namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    New,
    Host,
    /// The one of another container, such as `/proc/1234/ns/ipc`.
    Path(PathBuf),
}

/// Where the container's network namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// It shares the host's.
    Host,
    /// The supervisor sends it (`ToShim::Network`): one of its own or that of another container.
    Sent,
}

/// Which system calls the container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// All.
    Unconfined,
    /// The engine's profile, compiled for the container's capabilities.
    Default,
    /// The one in `config.json`.
    Profile,
}
