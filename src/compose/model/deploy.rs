//! `deploy` and the device requests that `gpus` shares with it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text;

/// `deploy`: replicas and resources; what only a cluster could honour is kept as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deploy {
    pub mode: Option<String>,
    pub replicas: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub update_config: Option<UpdateConfig>,
    pub rollback_config: Option<UpdateConfig>,
    pub resources: Resources,
    pub restart_policy: Option<DeployRestartPolicy>,
    pub placement: Placement,
    pub endpoint_mode: Option<String>,
}

/// `deploy.update_config` and `deploy.rollback_config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    pub parallelism: Option<u64>,
    #[serde(with = "text::duration")]
    pub delay: Duration,
    pub failure_action: Option<String>,
    #[serde(with = "text::duration")]
    pub monitor: Duration,
    pub max_failure_ratio: f32,
    pub order: Option<String>,
}

/// `deploy.resources`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub limits: Option<ResourceLimits>,
    pub reservations: Option<Reservations>,
}

/// `deploy.resources.limits`. 0 means no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    /// Processors, fractions allowed.
    pub cpus: f32,
    /// Bytes.
    #[serde(with = "text::decimal")]
    pub memory: i64,
    pub pids: i64,
}

/// `deploy.resources.reservations`. 0 means nothing reserved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reservations {
    /// Processors, fractions allowed.
    pub cpus: f32,
    /// Bytes.
    #[serde(with = "text::decimal")]
    pub memory: i64,
    pub pids: i64,
    pub devices: Vec<DeviceRequest>,
    pub generic_resources: Vec<GenericResource>,
}

/// Devices asked for by capability (`gpus`, `deploy.resources.reservations.devices`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    pub capabilities: Vec<String>,
    pub driver: Option<String>,
    /// How many; -1: all.
    pub count: i64,
    pub device_ids: Vec<String>,
    pub options: BTreeMap<String, String>,
}

/// A user-defined countable resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenericResource {
    pub discrete_resource_spec: Option<serde_json::Value>,
}

/// `deploy.restart_policy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeployRestartPolicy {
    /// `none`, `on-failure` or `any`.
    pub condition: Option<String>,
    #[serde(with = "text::optional_duration")]
    pub delay: Option<Duration>,
    pub max_attempts: Option<u64>,
    #[serde(with = "text::optional_duration")]
    pub window: Option<Duration>,
}

/// `deploy.placement`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    pub constraints: Vec<String>,
    pub preferences: Vec<BTreeMap<String, String>>,
    pub max_replicas_per_node: u64,
}
