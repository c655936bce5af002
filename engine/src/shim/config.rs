//! What the shim and the container's init need to know beyond the OCI configuration: `shim.json` in the bundle.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIdMapping;
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
    /// Whether `config.json` has hooks.
    #[serde(default)]
    pub hooks: bool,
    /// How a supervisor is started when this one's has died: arguments of our own binary, the first being its name.
    pub supervisor_command: Vec<String>,
}

impl ShimConfig {
    /// Returns what init needs to know. The root is put on top of `run`.
    pub fn blueprint<'a>(&'a self, run: &'a Path) -> Blueprint<'a> {
        Blueprint {
            rootfs: RootSource::Overlay(&self.rootfs, run),
            mounts: &self.mounts,
            create_host_paths: &self.create_host_paths,
            cgroup: &self.cgroup,
            namespaces: &self.namespaces,
            network: &self.network,
            init: self.init,
            seccomp: self.seccomp,
            hooks: self.hooks,
        }
    }
}

/// How a container is made, apart from `config.json`: the same for the engine's own and for those of an OCI bundle.
#[derive(Debug, Clone, Copy)]
pub struct Blueprint<'a> {
    pub rootfs: RootSource<'a>,
    pub mounts: &'a BTreeMap<String, MountExtra>,
    pub create_host_paths: &'a [PathBuf],
    pub cgroup: &'a cgroup::Plan,
    pub namespaces: &'a Namespaces,
    pub network: &'a Network,
    pub init: bool,
    pub seccomp: Seccomp,
    /// Whether `config.json` has hooks that belong to the creation.
    pub hooks: bool,
}

/// What the container's root is made of.
#[derive(Debug, Clone, Copy)]
pub enum RootSource<'a> {
    /// An overlay, put on top of this directory.
    Overlay(&'a Rootfs, &'a Path),
    /// A copy of what is mounted at this directory, put on top of it where the container's root user may go there.
    Tree(BorrowedFd<'a>, &'a Path),
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
    /// Its own user namespace has these ids; `None`: the host's.
    #[serde(default)]
    pub user: Option<Mappings>,
    #[serde(default)]
    pub time: Time,
}

/// The ids of a user namespace (`user_namespaces(7)`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    pub uids: Vec<LinuxIdMapping>,
    pub gids: Vec<LinuxIdMapping>,
}

impl Mappings {
    /// Returns the content of `uid_map` and `gid_map`.
    pub fn texts(&self) -> [String; 2] {
        let text = |mappings: &[LinuxIdMapping]| {
            let line = |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
            mappings.iter().map(line).collect()
        };
        [text(&self.uids), text(&self.gids)]
    }
}

/// Where the container's time namespace comes from (`time_namespaces(7)`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Time {
    #[default]
    Host,
    /// A new one, with these lines in `timens_offsets`.
    New(Vec<String>),
    Path(PathBuf),
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// It shares the host's.
    Host,
    /// The supervisor sends it (`ToShim::Network`): one of its own or that of another container.
    Sent,
    /// It is new, and has nothing but a loopback interface.
    New,
    Path(PathBuf),
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
