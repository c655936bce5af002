//! Every attribute with its type, in the order in which Docker Compose prints them.

use std::sync::OnceLock;

use super::{Field, Kind, Shape};

const fn field(key: &'static str, kind: Kind) -> Field {
    Field { key, kind, json: key, always: false }
}

const fn always(key: &'static str, kind: Kind) -> Field {
    Field { key, kind, json: key, always: true }
}

const fn renamed(key: &'static str, json: &'static str, kind: Kind) -> Field {
    Field { key, kind, json, always: true }
}

const fn shape(fields: &'static [Field]) -> Shape {
    Shape { fields, sorted: OnceLock::new() }
}

pub(super) static SERVICE: Shape = shape(&[
    field("profiles", Kind::Texts),
    field("annotations", Kind::Mapping),
    field("attach", Kind::OptionalFlag),
    field("build", Kind::OptionalStruct(&BUILD)),
    field("develop", Kind::OptionalStruct(&DEVELOP)),
    field("blkio_config", Kind::OptionalStruct(&BLKIO)),
    field("cap_add", Kind::Texts),
    field("cap_drop", Kind::Texts),
    field("cgroup_parent", Kind::Text),
    field("cgroup", Kind::Text),
    field("cpu_count", Kind::Int),
    field("cpu_percent", Kind::Float),
    field("cpu_period", Kind::Int),
    field("cpu_quota", Kind::Int),
    field("cpu_rt_period", Kind::Int),
    field("cpu_rt_runtime", Kind::Int),
    field("cpus", Kind::Float),
    field("cpuset", Kind::Text),
    field("cpu_shares", Kind::Int),
    field("command", Kind::Command),
    field("configs", Kind::List(&FILE_MOUNT)),
    field("container_name", Kind::Text),
    field("credential_spec", Kind::OptionalStruct(&CREDENTIAL_SPEC)),
    field("depends_on", Kind::Dictionary(&DEPENDENCY)),
    field("deploy", Kind::OptionalStruct(&DEPLOY)),
    field("device_cgroup_rules", Kind::Texts),
    field("devices", Kind::List(&DEVICE)),
    field("dns", Kind::TextOrTexts),
    field("dns_opt", Kind::Texts),
    field("dns_search", Kind::TextOrTexts),
    field("domainname", Kind::Text),
    field("entrypoint", Kind::Command),
    field("provider", Kind::OptionalStruct(&PROVIDER)),
    field("environment", Kind::Variables),
    field("env_file", Kind::EnvFiles),
    field("expose", Kind::TextsOrNumbers),
    field("extends", Kind::OptionalStruct(&EXTENDS)),
    field("external_links", Kind::Texts),
    field("extra_hosts", Kind::Hosts),
    field("group_add", Kind::Texts),
    field("gpus", Kind::List(&DEVICE_REQUEST)),
    field("hostname", Kind::Text),
    field("healthcheck", Kind::OptionalStruct(&HEALTHCHECK)),
    field("image", Kind::Text),
    field("init", Kind::OptionalFlag),
    field("ipc", Kind::Text),
    field("isolation", Kind::Text),
    field("labels", Kind::Mapping),
    field("label_file", Kind::TextOrTexts),
    field("links", Kind::Texts),
    field("logging", Kind::OptionalStruct(&LOGGING)),
    field("mem_limit", Kind::Bytes),
    field("mem_reservation", Kind::Bytes),
    field("memswap_limit", Kind::Bytes),
    field("mem_swappiness", Kind::Bytes),
    field("mac_address", Kind::Text),
    field("models", Kind::OptionalDictionary(&SERVICE_MODEL)),
    field("network_mode", Kind::Text),
    field("networks", Kind::OptionalDictionary(&SERVICE_NETWORK)),
    field("oom_kill_disable", Kind::Flag),
    field("oom_score_adj", Kind::Int),
    field("pid", Kind::Text),
    field("pids_limit", Kind::Int),
    field("platform", Kind::Text),
    field("ports", Kind::List(&PORT)),
    field("privileged", Kind::Flag),
    field("pull_policy", Kind::Text),
    field("read_only", Kind::Flag),
    field("restart", Kind::Text),
    field("runtime", Kind::Text),
    field("scale", Kind::OptionalInt),
    field("secrets", Kind::List(&FILE_MOUNT)),
    field("security_opt", Kind::Texts),
    field("shm_size", Kind::Bytes),
    field("stdin_open", Kind::Flag),
    field("stop_grace_period", Kind::OptionalDuration),
    field("stop_signal", Kind::Text),
    field("storage_opt", Kind::StrictOptions),
    field("sysctls", Kind::Mapping),
    field("tmpfs", Kind::TextOrTexts),
    field("tty", Kind::Flag),
    field("ulimits", Kind::Ulimits),
    field("use_api_socket", Kind::Flag),
    field("user", Kind::Text),
    field("userns_mode", Kind::Text),
    field("uts", Kind::Text),
    field("volumes", Kind::List(&MOUNT)),
    field("volumes_from", Kind::Texts),
    field("working_dir", Kind::Text),
    field("pre_start", Kind::List(&PRE_START)),
    field("post_start", Kind::List(&HOOK)),
    field("pre_stop", Kind::List(&HOOK)),
]);

static BUILD: Shape = shape(&[
    field("context", Kind::Text),
    field("dockerfile", Kind::Text),
    field("dockerfile_inline", Kind::Text),
    field("entitlements", Kind::Texts),
    field("args", Kind::Variables),
    field("provenance", Kind::Text),
    field("sbom", Kind::Text),
    field("ssh", Kind::Ssh),
    field("labels", Kind::Mapping),
    field("cache_from", Kind::TextOrTexts),
    field("cache_to", Kind::TextOrTexts),
    field("no_cache", Kind::Flag),
    field("additional_contexts", Kind::Mapping),
    field("pull", Kind::Flag),
    field("extra_hosts", Kind::Hosts),
    field("isolation", Kind::Text),
    field("network", Kind::Text),
    field("target", Kind::Text),
    field("secrets", Kind::List(&FILE_MOUNT)),
    field("shm_size", Kind::Bytes),
    field("tags", Kind::TextOrTexts),
    field("ulimits", Kind::Ulimits),
    field("platforms", Kind::TextOrTexts),
    field("privileged", Kind::Flag),
]);

static DEVELOP: Shape = shape(&[field("watch", Kind::List(&WATCH))]);

static WATCH: Shape = shape(&[
    always("path", Kind::Text),
    always("action", Kind::Text),
    field("target", Kind::Text),
    field("exec", Kind::Struct(&HOOK)),
    field("include", Kind::Texts),
    field("ignore", Kind::Texts),
    field("initial_sync", Kind::Flag),
]);

static HOOK: Shape = shape(&[
    field("command", Kind::Command),
    field("user", Kind::Text),
    field("privileged", Kind::Flag),
    field("working_dir", Kind::Text),
    field("environment", Kind::Variables),
]);

static PRE_START: Shape = shape(&[
    field("command", Kind::Command),
    field("user", Kind::Text),
    field("privileged", Kind::Flag),
    field("working_dir", Kind::Text),
    field("environment", Kind::Variables),
    field("image", Kind::Text),
    field("per_replica", Kind::Flag),
]);

static BLKIO: Shape = shape(&[
    field("weight", Kind::Unsigned),
    field("weight_device", Kind::List(&WEIGHT)),
    field("device_read_bps", Kind::List(&RATE)),
    field("device_read_iops", Kind::List(&RATE)),
    field("device_write_bps", Kind::List(&RATE)),
    field("device_write_iops", Kind::List(&RATE)),
]);

static WEIGHT: Shape = shape(&[renamed("path", "Path", Kind::Text), renamed("weight", "Weight", Kind::Unsigned)]);
static RATE: Shape = shape(&[renamed("path", "Path", Kind::Text), renamed("rate", "Rate", Kind::Bytes)]);

static FILE_MOUNT: Shape = shape(&[
    field("source", Kind::Text),
    field("target", Kind::Text),
    field("uid", Kind::Text),
    field("gid", Kind::Text),
    field("mode", Kind::OptionalMode),
]);

static CREDENTIAL_SPEC: Shape =
    shape(&[field("config", Kind::Text), field("file", Kind::Text), field("registry", Kind::Text)]);

static DEPENDENCY: Shape =
    shape(&[field("condition", Kind::Text), field("restart", Kind::Flag), always("required", Kind::Flag)]);

static DEPLOY: Shape = shape(&[
    field("mode", Kind::Text),
    field("replicas", Kind::OptionalInt),
    field("labels", Kind::Mapping),
    field("update_config", Kind::OptionalStruct(&UPDATE)),
    field("rollback_config", Kind::OptionalStruct(&UPDATE)),
    field("resources", Kind::Struct(&RESOURCES)),
    field("restart_policy", Kind::OptionalStruct(&RESTART_POLICY)),
    field("placement", Kind::Struct(&PLACEMENT)),
    field("endpoint_mode", Kind::Text),
]);

static UPDATE: Shape = shape(&[
    field("parallelism", Kind::OptionalUnsigned),
    field("delay", Kind::Duration),
    field("failure_action", Kind::Text),
    field("monitor", Kind::Duration),
    field("max_failure_ratio", Kind::Float),
    field("order", Kind::Text),
]);

static RESOURCES: Shape =
    shape(&[field("limits", Kind::OptionalStruct(&RESOURCE)), field("reservations", Kind::OptionalStruct(&RESOURCE))]);

static RESOURCE: Shape = shape(&[
    field("cpus", Kind::Float),
    field("memory", Kind::Bytes),
    field("pids", Kind::Int),
    field("devices", Kind::List(&DEVICE_REQUEST)),
    field("generic_resources", Kind::List(&GENERIC_RESOURCE)),
]);

static DEVICE_REQUEST: Shape = shape(&[
    field("capabilities", Kind::Texts),
    field("driver", Kind::Text),
    field("count", Kind::Count),
    field("device_ids", Kind::Texts),
    field("options", Kind::Mapping),
]);

static GENERIC_RESOURCE: Shape = shape(&[field("discrete_resource_spec", Kind::OptionalStruct(&DISCRETE_RESOURCE))]);
static DISCRETE_RESOURCE: Shape = shape(&[always("kind", Kind::Text), always("value", Kind::Int)]);

static RESTART_POLICY: Shape = shape(&[
    field("condition", Kind::Text),
    field("delay", Kind::OptionalDuration),
    field("max_attempts", Kind::OptionalUnsigned),
    field("window", Kind::OptionalDuration),
]);

static PLACEMENT: Shape = shape(&[
    field("constraints", Kind::Texts),
    field("preferences", Kind::List(&PREFERENCE)),
    field("max_replicas_per_node", Kind::Unsigned),
]);

static PREFERENCE: Shape = shape(&[field("spread", Kind::Text)]);

static DEVICE: Shape =
    shape(&[field("source", Kind::Text), field("target", Kind::Text), field("permissions", Kind::Text)]);

static PROVIDER: Shape = shape(&[field("type", Kind::Text), field("options", Kind::MultiOptions)]);

static EXTENDS: Shape = shape(&[field("file", Kind::Text), field("service", Kind::Text)]);

static HEALTHCHECK: Shape = shape(&[
    field("test", Kind::Test),
    field("timeout", Kind::OptionalDuration),
    field("interval", Kind::OptionalDuration),
    field("retries", Kind::OptionalUnsigned),
    field("start_period", Kind::OptionalDuration),
    field("start_interval", Kind::OptionalDuration),
    field("disable", Kind::Flag),
]);

static LOGGING: Shape = shape(&[field("driver", Kind::Text), field("options", Kind::Options)]);

static SERVICE_MODEL: Shape = shape(&[field("endpoint_var", Kind::Text), field("model_var", Kind::Text)]);

static SERVICE_NETWORK: Shape = shape(&[
    field("aliases", Kind::Texts),
    field("driver_opts", Kind::Options),
    field("gw_priority", Kind::Int),
    field("interface_name", Kind::Text),
    field("ipv4_address", Kind::Text),
    field("ipv6_address", Kind::Text),
    field("link_local_ips", Kind::Texts),
    field("mac_address", Kind::Text),
    field("priority", Kind::Int),
]);

static PORT: Shape = shape(&[
    field("name", Kind::Text),
    field("mode", Kind::Text),
    field("host_ip", Kind::Text),
    field("target", Kind::Unsigned),
    field("published", Kind::Text),
    field("protocol", Kind::Text),
    field("app_protocol", Kind::Text),
]);

static MOUNT: Shape = shape(&[
    field("type", Kind::Text),
    field("source", Kind::Text),
    field("target", Kind::Text),
    field("read_only", Kind::Flag),
    field("consistency", Kind::Text),
    field("bind", Kind::OptionalStruct(&MOUNT_BIND)),
    field("volume", Kind::OptionalStruct(&MOUNT_VOLUME)),
    field("tmpfs", Kind::OptionalStruct(&MOUNT_TMPFS)),
    field("image", Kind::OptionalStruct(&MOUNT_IMAGE)),
]);

static MOUNT_BIND: Shape = shape(&[
    field("selinux", Kind::Text),
    field("propagation", Kind::Text),
    field("create_host_path", Kind::Flag),
    field("recursive", Kind::Text),
]);
static MOUNT_VOLUME: Shape =
    shape(&[field("labels", Kind::Mapping), field("nocopy", Kind::Flag), field("subpath", Kind::Text)]);
static MOUNT_TMPFS: Shape = shape(&[field("size", Kind::Bytes), field("mode", Kind::Unsigned)]);
static MOUNT_IMAGE: Shape = shape(&[field("subpath", Kind::Text)]);

pub(super) static NETWORK: Shape = shape(&[
    field("name", Kind::Text),
    field("driver", Kind::Text),
    field("driver_opts", Kind::Options),
    field("ipam", Kind::Struct(&IPAM)),
    field("external", Kind::Flag),
    field("internal", Kind::Flag),
    field("attachable", Kind::Flag),
    field("labels", Kind::Mapping),
    field("enable_ipv4", Kind::OptionalFlag),
    field("enable_ipv6", Kind::OptionalFlag),
]);

static IPAM: Shape = shape(&[field("driver", Kind::Text), field("config", Kind::List(&IPAM_POOL))]);
static IPAM_POOL: Shape = shape(&[
    field("subnet", Kind::Text),
    field("gateway", Kind::Text),
    field("ip_range", Kind::Text),
    field("aux_addresses", Kind::Mapping),
]);

pub(super) static VOLUME: Shape = shape(&[
    field("name", Kind::Text),
    field("driver", Kind::Text),
    field("driver_opts", Kind::Options),
    field("external", Kind::Flag),
    field("labels", Kind::Mapping),
]);

pub(super) static FILE_OBJECT: Shape = shape(&[
    field("name", Kind::Text),
    field("file", Kind::Text),
    field("environment", Kind::Text),
    field("content", Kind::Text),
    field("external", Kind::Flag),
    field("labels", Kind::Mapping),
    field("driver", Kind::Text),
    field("driver_opts", Kind::StrictOptions),
    field("template_driver", Kind::Text),
]);

pub(super) static MODEL: Shape = shape(&[
    field("name", Kind::Text),
    field("model", Kind::Text),
    field("context_size", Kind::Int),
    field("runtime_flags", Kind::Texts),
]);

/// The sections of a project, in the order of printing in YAML.
pub(super) static SECTIONS: [(&str, &Shape); 6] = [
    ("services", &SERVICE),
    ("networks", &NETWORK),
    ("volumes", &VOLUME),
    ("secrets", &FILE_OBJECT),
    ("configs", &FILE_OBJECT),
    ("models", &MODEL),
];
