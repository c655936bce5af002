//! A service and the parts of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text;
use super::values::{Condition, HealthTest, HostPorts, MountKind, NetworkMode, PullPolicy, Restart, WatchAction};
use super::{Build, Deploy, DeviceRequest};

/// One service, with env files, label files, `extends` and all short forms resolved.
///
/// Where a number means "not set" when it is 0, it is a plain number, as in the engine's API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub name: String,
    /// sha256 of the canonical definition without `build`, `pull_policy`, `scale`, `deploy.replicas`, `depends_on` and
    /// `profiles`; what `config --hash` prints and the label `com.docker.compose.config-hash` holds.
    pub config_hash: String,
    /// What is hashed: JSON.
    pub definition: String,
    pub profiles: Vec<String>,
    pub annotations: BTreeMap<String, String>,
    /// Whether `up` shows the logs (None: yes).
    pub attach: Option<bool>,
    pub build: Option<Build>,
    pub develop: Option<Develop>,
    pub blkio_config: Option<Blkio>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub cgroup_parent: Option<String>,
    /// `host` or `private`.
    pub cgroup: Option<String>,
    pub cpu_count: i64,
    pub cpu_percent: f32,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_rt_period: i64,
    /// Microseconds.
    pub cpu_rt_runtime: i64,
    /// Processors, fractions allowed; 0: no limit. See also [`Service::cpu_limit`].
    pub cpus: f32,
    pub cpuset: Option<String>,
    pub cpu_shares: i64,
    /// None: the image's. Some(empty): none at all.
    pub command: Option<Vec<String>>,
    pub configs: Vec<FileMount>,
    pub container_name: Option<String>,
    pub credential_spec: Option<CredentialSpec>,
    /// `links`, `volumes_from` and shared namespaces are in here too.
    pub depends_on: BTreeMap<String, Dependency>,
    pub deploy: Option<Deploy>,
    pub device_cgroup_rules: Vec<String>,
    pub devices: Vec<Device>,
    pub dns: Vec<String>,
    pub dns_opt: Vec<String>,
    pub dns_search: Vec<String>,
    pub domainname: Option<String>,
    /// None: the image's. Some(empty): none at all. Where it is set, the image's command does not count.
    pub entrypoint: Option<Vec<String>>,
    pub provider: Option<Provider>,
    /// `env_file` under `environment`. None: the variable is taken away from what the image sets.
    pub environment: BTreeMap<String, Option<String>>,
    pub expose: Vec<String>,
    pub external_links: Vec<String>,
    /// `host=address`; the address may be `host-gateway`.
    pub extra_hosts: Vec<String>,
    pub group_add: Vec<String>,
    pub gpus: Vec<DeviceRequest>,
    pub hostname: Option<String>,
    pub healthcheck: Option<Healthcheck>,
    pub image: Option<String>,
    pub init: Option<bool>,
    pub ipc: Option<String>,
    pub isolation: Option<String>,
    /// `label_file` under `labels`.
    pub labels: BTreeMap<String, String>,
    pub links: Vec<String>,
    pub logging: Option<Logging>,
    /// Bytes; 0: no limit. See also [`Service::memory_limit`].
    #[serde(with = "text::decimal")]
    pub mem_limit: i64,
    /// Bytes.
    #[serde(with = "text::decimal")]
    pub mem_reservation: i64,
    /// Bytes, memory included; -1: no limit.
    #[serde(with = "text::decimal")]
    pub memswap_limit: i64,
    /// 0 to 100.
    #[serde(with = "text::decimal")]
    pub mem_swappiness: i64,
    pub mac_address: Option<String>,
    pub models: BTreeMap<String, Option<ServiceModel>>,
    /// None: the networks of `networks`.
    pub network_mode: Option<NetworkMode>,
    /// By the key of the top-level network.
    pub networks: BTreeMap<String, Option<ServiceNetwork>>,
    pub oom_kill_disable: bool,
    pub oom_score_adj: i64,
    pub pid: Option<String>,
    /// 0: no limit; -1 also. See also [`Service::process_limit`].
    pub pids_limit: i64,
    pub platform: Option<String>,
    pub ports: Vec<Port>,
    pub privileged: bool,
    pub pull_policy: Option<PullPolicy>,
    pub read_only: bool,
    pub restart: Option<Restart>,
    pub runtime: Option<String>,
    /// `scale` as written; [`Service::replicas`] is the number to use.
    pub scale: Option<i64>,
    pub secrets: Vec<FileMount>,
    pub security_opt: Vec<String>,
    /// Bytes; 0: the default.
    #[serde(with = "text::decimal")]
    pub shm_size: i64,
    pub stdin_open: bool,
    /// None: 10 seconds.
    #[serde(with = "text::optional_duration")]
    pub stop_grace_period: Option<Duration>,
    /// None: the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    pub storage_opt: BTreeMap<String, String>,
    pub sysctls: BTreeMap<String, String>,
    /// `path` or `path:options`.
    pub tmpfs: Vec<String>,
    pub tty: bool,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub use_api_socket: bool,
    pub user: Option<String>,
    pub userns_mode: Option<String>,
    pub uts: Option<String>,
    pub volumes: Vec<Mount>,
    /// `service[:ro]` or `container:name[:ro]`.
    pub volumes_from: Vec<String>,
    pub working_dir: Option<String>,
    /// Of the specification after Docker Compose 2.40: run in containers of their own before the service starts.
    pub pre_start: Vec<PreStart>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
}

impl Service {
    /// How many containers the service has.
    pub fn replicas(&self) -> u32 {
        let wanted = self.scale.or_else(|| self.deploy.as_ref().and_then(|deploy| deploy.replicas)).unwrap_or(1);
        u32::try_from(wanted.max(0)).unwrap_or(u32::MAX)
    }

    /// The memory limit in bytes: `mem_limit`, else `deploy.resources.limits.memory`.
    pub fn memory_limit(&self) -> Option<i64> {
        positive(self.mem_limit).or_else(|| self.limits().and_then(|limits| positive(limits.memory)))
    }

    /// The processor limit: `cpus`, else `deploy.resources.limits.cpus`.
    pub fn cpu_limit(&self) -> Option<f32> {
        let given = |cpus: f32| (cpus > 0.0).then_some(cpus);
        given(self.cpus).or_else(|| self.limits().and_then(|limits| given(limits.cpus)))
    }

    /// The limit of processes: `pids_limit`, else `deploy.resources.limits.pids`.
    pub fn process_limit(&self) -> Option<i64> {
        positive(self.pids_limit).or_else(|| self.limits().and_then(|limits| positive(limits.pids)))
    }

    /// The restart policy: `restart`, else `deploy.restart_policy`, else never.
    pub fn restart_policy(&self) -> Restart {
        if let Some(restart) = &self.restart {
            return restart.clone();
        }
        let Some(policy) = self.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref()) else {
            return Restart::No;
        };
        match policy.condition.as_deref() {
            Some("none") => Restart::No,
            Some("on-failure") => Restart::OnFailure(policy.max_attempts.and_then(|times| u32::try_from(times).ok())),
            _ => Restart::Always,
        }
    }

    /// The keys of the networks to join, highest priority first, then by name.
    pub fn networks_by_priority(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self
            .networks
            .iter()
            .map(|(key, network)| (-network.as_ref().map_or(0, |network| network.priority), key.as_str()))
            .collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    fn limits(&self) -> Option<&super::ResourceLimits> {
        self.deploy.as_ref()?.resources.limits.as_ref()
    }
}

fn positive(number: i64) -> Option<i64> {
    (number > 0).then_some(number)
}

/// `depends_on` of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    /// Restart the dependent when Compose restarts the dependency.
    #[serde(default)]
    pub restart: bool,
    /// False: a warning, not an error, where the dependency is not there.
    pub required: bool,
}

/// A published port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    pub name: Option<String>,
    /// `host` or `ingress`; without a cluster they are the same.
    pub mode: Option<String>,
    /// None: all addresses.
    pub host_ip: Option<String>,
    /// The container's port. Above 65535 it cannot be published, which loading does not check (Docker Compose neither).
    pub target: u32,
    pub published: HostPorts,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// A mount (`volumes`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    #[serde(rename = "type")]
    pub kind: MountKind,
    /// Bind: an absolute path. Volume: the key of the top-level volume, or empty (anonymous). Image: the reference.
    pub source: String,
    /// The path in the container.
    pub target: String,
    pub read_only: bool,
    pub consistency: Option<String>,
    pub bind: Option<MountBind>,
    pub volume: Option<MountVolume>,
    pub tmpfs: Option<MountTmpfs>,
    pub image: Option<MountImage>,
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountBind {
    /// `z` (shared) or `Z` (private).
    pub selinux: Option<String>,
    pub propagation: Option<String>,
    /// Make the directory where it is missing.
    pub create_host_path: bool,
    /// `enabled`, `disabled`, `writable` or `readonly`.
    pub recursive: Option<String>,
}

/// Options of a volume mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountVolume {
    pub labels: BTreeMap<String, String>,
    /// Do not copy the image's content into a new volume.
    pub nocopy: bool,
    pub subpath: Option<String>,
}

/// Options of a tmpfs mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountTmpfs {
    /// Bytes; 0: the kernel's default.
    #[serde(with = "text::decimal")]
    pub size: i64,
    /// Permission bits; 0: the default.
    pub mode: u32,
}

/// Options of an image mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountImage {
    pub subpath: Option<String>,
}

/// A config or secret in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileMount {
    /// The key of the top-level config or secret.
    pub source: String,
    /// The path in the container; for a config, None means `/<source>`.
    pub target: Option<String>,
    pub uid: Option<String>,
    pub gid: Option<String>,
    #[serde(with = "text::optional_mode")]
    pub mode: Option<u32>,
}

/// `healthcheck`. What is None is the image's, else the engine's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", line]` or `["NONE"]`; see [`Healthcheck::check`].
    pub test: Vec<String>,
    #[serde(with = "text::optional_duration")]
    pub timeout: Option<Duration>,
    #[serde(with = "text::optional_duration")]
    pub interval: Option<Duration>,
    pub retries: Option<u64>,
    #[serde(with = "text::optional_duration")]
    pub start_period: Option<Duration>,
    #[serde(with = "text::optional_duration")]
    pub start_interval: Option<Duration>,
    pub disable: bool,
}

impl Healthcheck {
    /// The check itself; None where the file leaves it to the image.
    pub fn check(&self) -> Option<HealthTest> {
        if self.disable {
            return Some(HealthTest::None);
        }
        let (kind, rest) = self.test.split_first()?;
        Some(match kind.as_str() {
            "NONE" => HealthTest::None,
            "CMD-SHELL" => HealthTest::Shell(rest.join(" ")),
            _ => HealthTest::Command(rest.to_vec()),
        })
    }
}

/// How a service joins a network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    pub aliases: Vec<String>,
    pub driver_opts: BTreeMap<String, String>,
    /// The network with the highest one gives the default route.
    pub gw_priority: i64,
    pub interface_name: Option<String>,
    pub ipv4_address: Option<String>,
    pub ipv6_address: Option<String>,
    pub link_local_ips: Vec<String>,
    pub mac_address: Option<String>,
    /// The order of joining, highest first.
    pub priority: i64,
}

/// `logging`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: BTreeMap<String, String>,
}

/// One entry of `ulimits`; -1: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenUlimit")]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

/// A ulimit as it may be written: one number for both.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenUlimit {
    Single(i64),
    Pair { soft: i64, hard: i64 },
}

impl From<WrittenUlimit> for Ulimit {
    fn from(written: WrittenUlimit) -> Self {
        match written {
            WrittenUlimit::Single(limit) => Self { soft: limit, hard: limit },
            WrittenUlimit::Pair { soft, hard } => Self { soft, hard },
        }
    }
}

/// A command that runs in the container at a point of its life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    pub command: Option<Vec<String>>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    pub environment: BTreeMap<String, Option<String>>,
}

/// A hook that runs in a container of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreStart {
    pub command: Option<Vec<String>>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    pub environment: BTreeMap<String, Option<String>>,
    /// None: the service's.
    pub image: Option<String>,
    pub per_replica: bool,
}

/// `develop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Develop {
    pub watch: Vec<WatchRule>,
}

/// One entry of `develop.watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRule {
    /// Absolute.
    pub path: String,
    pub action: WatchAction,
    /// The path in the container.
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default)]
    pub exec: Hook,
    #[serde(default)]
    pub include: Vec<String>,
    #[serde(default)]
    pub ignore: Vec<String>,
    #[serde(default)]
    pub initial_sync: bool,
}

/// A device of the host (`devices`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// A path, or a CDI name.
    pub source: String,
    pub target: String,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A service that a program outside provides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    #[serde(rename = "type")]
    pub kind: String,
    pub options: BTreeMap<String, Vec<String>>,
}

/// How a service uses a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceModel {
    pub endpoint_var: Option<String>,
    pub model_var: Option<String>,
}

/// `credential_spec` (Windows).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialSpec {
    pub config: Option<String>,
    pub file: Option<String>,
    pub registry: Option<String>,
}

/// `blkio_config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blkio {
    pub weight: u16,
    pub weight_device: Vec<BlkioWeight>,
    pub device_read_bps: Vec<BlkioRate>,
    pub device_read_iops: Vec<BlkioRate>,
    pub device_write_bps: Vec<BlkioRate>,
    pub device_write_iops: Vec<BlkioRate>,
}

/// The weight of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioWeight {
    pub path: String,
    pub weight: u16,
}

/// The rate of one device, in bytes or operations a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioRate {
    pub path: String,
    #[serde(with = "text::decimal")]
    pub rate: i64,
}
