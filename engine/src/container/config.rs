//! What a container was asked to be: the input of `create`, kept as `container.json` in its bundle.
//!
//! `None` and empty mean "as the image says" where an image can say it, and the engine's default elsewhere. Everything
//! an OCI runtime needs is derived from this and the image (`container::spec`) and kept beside it as `config.json`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::Id;

/// Everything `create` needs to know about a container, but for the content of its image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub id: Id,
    pub name: String,
    pub project: String,
    /// The image as it was asked for, such as `postgres:16`.
    pub image: String,
    /// The digest of the image's configuration, `sha256:…`.
    pub image_id: String,
    pub created: jiff::Timestamp,
    /// What it was made from, in the words of who asked for it; the engine keeps it and does not look into it.
    #[serde(default)]
    pub definition: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,

    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// A variable without a value is removed from what the image sets.
    pub environment: BTreeMap<String, Option<String>>,
    pub working_dir: Option<String>,
    /// `user`, `uid`, `user:group`, … as `--user` of Docker; names are those of the image.
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub tty: bool,
    pub stdin_open: bool,
    /// Whether standard input ends when the first who attached to it leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// Whether it is removed, with its anonymous volumes, as soon as it has ended.
    #[serde(default)]
    pub auto_remove: bool,
    /// Whether a PID 1 of ours reaps zombies and forwards signals.
    pub init: bool,
    pub stop_signal: Option<String>,
    pub stop_grace_period: Option<Duration>,

    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub privileged: bool,
    pub read_only: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// `no-new-privileges`, `seccomp=…`, `apparmor=…`, `label=…`, `systempaths=unconfined`.
    pub security_opt: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    /// Devices by name (`container::cdi`), such as `nvidia.com/gpu=0`.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    pub uts: NamespaceMode,
    pub cgroup: NamespaceMode,
    pub userns: NamespaceMode,
    pub cgroup_parent: Option<String>,
    pub resources: Resources,
    /// Bytes of `/dev/shm`; 64 MiB unless told.
    pub shm_size: Option<u64>,
    pub oom_score_adj: Option<i32>,
    pub oom_kill_disable: bool,

    pub mounts: Vec<Mount>,

    pub network: NetworkMode,
    pub ports: Vec<PublishedPort>,
    /// Ports the service declares without publishing them, such as `8080/tcp`.
    pub expose: Vec<String>,
    /// Name and address, in the order in which they were given; an address may be `host-gateway`.
    pub extra_hosts: Vec<(String, String)>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,

    /// `None`: as the image says.
    pub healthcheck: Option<Healthcheck>,
    pub restart: RestartPolicy,
    pub log: LogConfig,
}

impl ContainerConfig {
    /// Returns a container of which nothing else is said.
    pub fn new(name: String, project: String, image: String, image_id: String) -> Self {
        Self {
            id: Id::random(),
            name,
            project,
            image,
            image_id,
            created: jiff::Timestamp::now(),
            definition: String::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            entrypoint: None,
            command: None,
            environment: BTreeMap::new(),
            working_dir: None,
            user: None,
            group_add: Vec::new(),
            tty: false,
            stdin_open: false,
            stdin_once: false,
            auto_remove: false,
            init: false,
            stop_signal: None,
            stop_grace_period: None,
            hostname: None,
            domainname: None,
            privileged: false,
            read_only: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            security_opt: Vec::new(),
            sysctls: BTreeMap::new(),
            ulimits: Vec::new(),
            devices: Vec::new(),
            device_cgroup_rules: Vec::new(),
            cdi_devices: Vec::new(),
            pid: NamespaceMode::Private,
            ipc: NamespaceMode::Private,
            uts: NamespaceMode::Private,
            cgroup: NamespaceMode::Private,
            userns: NamespaceMode::Private,
            cgroup_parent: None,
            resources: Resources::default(),
            shm_size: None,
            oom_score_adj: None,
            oom_kill_disable: false,
            mounts: Vec::new(),
            network: NetworkMode::None,
            ports: Vec::new(),
            expose: Vec::new(),
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_opt: Vec::new(),
            healthcheck: None,
            restart: RestartPolicy::No,
            log: LogConfig::default(),
        }
    }
}

/// How a container shares one kind of namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    #[default]
    Private,
    /// Private, and other containers may join it.
    Shareable,
    Host,
    Container(Id),
}

/// A resource limit of the process (`setrlimit(2)`); -1 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Lower case without `RLIMIT_`, such as `nofile`.
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

/// A device of the host that the container gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub source: PathBuf,
    pub target: PathBuf,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// Limits that the cgroup enforces. `None`: no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub memory_reservation: Option<u64>,
    /// Memory and swap together, in bytes; -1 is unlimited swap.
    pub memory_swap: Option<i64>,
    pub memory_swappiness: Option<u64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_rt_period: Option<u64>,
    /// Microseconds.
    pub cpu_rt_runtime: Option<i64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub pids: Option<i64>,
    pub blkio: Blkio,
}

/// Limits and weights of block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blkio {
    pub weight: Option<u16>,
    pub weight_device: Vec<(PathBuf, u16)>,
    /// Bytes per second.
    pub read_bps: Vec<(PathBuf, u64)>,
    /// Bytes per second.
    pub write_bps: Vec<(PathBuf, u64)>,
    pub read_iops: Vec<(PathBuf, u64)>,
    pub write_iops: Vec<(PathBuf, u64)>,
}

/// One mount, in the order in which the container gets them (parents first is the engine's business).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, inside the container.
    pub target: String,
    pub read_only: bool,
    pub source: MountSource,
}

/// Where the content of a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountSource {
    /// A named or anonymous volume; its directory exists when the container is started.
    Volume {
        name: String,
        /// Whether the volume was made for this container and goes with it.
        anonymous: bool,
        /// Do not copy the image's content into an empty volume.
        no_copy: bool,
        subpath: Option<String>,
    },
    Bind {
        source: PathBuf,
        create_host_path: bool,
        /// `rprivate` unless told (`mount_namespaces(7)`).
        propagation: Option<String>,
        /// Whether mounts below the source come along; true unless told.
        recursive: bool,
    },
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        mode: Option<u32>,
        /// Further options of `tmpfs(5)`, such as `uid=70`, `noexec`.
        options: Vec<String>,
    },
    Image {
        image_id: String,
        subpath: Option<String>,
    },
    /// A config or secret: a file in memory (`container::memory`).
    File {
        content: FileContent,
        uid: u32,
        gid: u32,
        mode: u32,
    },
}

/// Where the content of a [`MountSource::File`] comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileContent {
    /// This file of the host, read whenever the container is started.
    Host(PathBuf),
    /// A command provides it (`Request::Provide`). The digest is that of `container::memory::digest`.
    Provided { digest: String },
}

/// What network a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Only a loopback interface.
    None,
    /// The host's network namespace.
    Host,
    /// Another container's network namespace.
    Container(Id),
    /// An interface on each of these networks. The order is the order of connection.
    Networks(Vec<Endpoint>),
}

/// A container's place on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name on this host, such as `shop_default`.
    pub network: String,
    /// Names besides the container's own that resolve to it on this network.
    pub aliases: Vec<String>,
    /// Names that this container alone has for others of the network: what each stands for.
    #[serde(default)]
    pub links: BTreeMap<String, Vec<String>>,
    pub ipv4_address: Option<Ipv4Addr>,
    pub ipv6_address: Option<Ipv6Addr>,
    pub link_local_ips: Vec<IpAddr>,
    pub mac_address: Option<[u8; 6]>,
    pub interface_name: Option<String>,
    /// The endpoint with the highest gives the default route.
    pub gw_priority: i32,
    pub driver_opts: BTreeMap<String, String>,
}

/// A port of the host that leads into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// `None`: every address of the host, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// First and last port of the range to choose from; `None`: any free one.
    pub host_port: Option<(u16, u16)>,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Returns the name that Docker prints, such as `tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// How a container's health is found out (Compose Specification, `healthcheck`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    pub test: HealthTest,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
}

/// What a health check runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// As the image says; the other fields still override it.
    Inherit,
    /// No health check, whatever the image says.
    None,
    /// Arguments, run as they are.
    Command(Vec<String>),
    /// A line for the container's shell.
    Shell(String),
}

/// What happens when PID 1 ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    /// Restarts after an exit code other than 0, at most this many times (0: for ever).
    OnFailure {
        maximum: u32,
    },
    UnlessStopped,
}

/// Where the output of PID 1 goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum LogConfig {
    /// Docker's json-file format, rotated when a file would exceed `max_size` bytes.
    JsonFile {
        max_size: Option<u64>,
        max_file: u32,
    },
    None,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self::JsonFile { max_size: None, max_file: 1 }
    }
}
