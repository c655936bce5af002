//! What became of a container: `state.json` in its bundle, written by the supervisor alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::config::Protocol;
use crate::id::Id;

/// A container's state as `ps` and `inspect` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    pub status: Status,
    /// PID 1 of the container as the host sees it, while it runs.
    pub pid: Option<i32>,
    /// When that process was started, so that a pid that was given to another process is never taken for it.
    pub pid_started: Option<ProcessStart>,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// Why it could not be started.
    pub error: Option<String>,
    pub started_at: Option<jiff::Timestamp>,
    pub finished_at: Option<jiff::Timestamp>,
    /// Restarts by the restart policy since it was last started by hand.
    pub restart_count: u32,
    /// Stopped by hand: `always` and `unless-stopped` leave it alone until it is started again.
    pub stopped: bool,
    /// `None` where there is no health check.
    pub health: Option<Health>,
    pub endpoints: Vec<EndpointState>,
    pub ports: Vec<BoundPort>,
    /// The container whose place it is to take, and beside which it runs until then, without ports and names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Id>,
}

impl ContainerState {
    /// Returns the state of a container that has never been started, but for its status.
    pub fn new(status: Status) -> Self {
        Self {
            status,
            pid: None,
            pid_started: None,
            exit_code: 0,
            oom_killed: false,
            error: None,
            started_at: None,
            finished_at: None,
            restart_count: 0,
            stopped: false,
            health: None,
            endpoints: Vec::new(),
            ports: Vec::new(),
            beside: None,
        }
    }

    /// Returns what is said of a container whose state is not known any more: that it was running, and is not.
    pub(crate) fn lost() -> Self {
        Self::new(Status::Running)
    }
}

/// When a process was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStart {
    /// The kernel's name for the time between two boots: process ids and times begin anew with each.
    pub boot: String,
    /// Clock ticks since then (field 22 of `proc_pid_stat(5)`).
    pub ticks: u64,
}

/// The words of Docker's `State.Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl Status {
    /// Returns the word that Docker prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Returns whether the container has a process.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// The outcome of the health checks so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five results, oldest first.
    pub log: Vec<HealthResult>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Returns the word that Docker prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One run of a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    pub start: jiff::Timestamp,
    pub end: jiff::Timestamp,
    /// -1 where the check was killed because its time was up.
    pub exit_code: i32,
    /// At most 4096 bytes.
    pub output: String,
}

/// The interface a container got on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    pub network: String,
    pub network_id: Id,
    pub interface: String,
    pub mac_address: [u8; 6],
    /// Address and prefix length.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// Address and prefix length.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Every name that resolves to it on this network.
    pub names: Vec<String>,
    /// Names that it alone has for others of this network: what each stands for.
    #[serde(default)]
    pub links: BTreeMap<String, Vec<String>>,
    /// Whether the container's way to the world, and the world's to its published ports, is through this network.
    #[serde(default)]
    pub default_route: bool,
}

/// A published port as it was bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPort {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}
