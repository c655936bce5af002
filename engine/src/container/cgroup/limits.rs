//! From the limits of an OCI configuration (`linux.resources`) to the files of a container's cgroups.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Hierarchy, Plan, Version, Write, devices, support};
use crate::host::{Cgroups, Host};

/// The period of the CPU quota unless told, in microseconds.
const PERIOD: u64 = 100_000;

/// Controllers that every container gets, because something depends on them: device rules, memory and process limits
/// and counts, pausing, statistics.
const ALWAYS: [&str; 6] = ["memory", "devices", "freezer", "pids", "cpu", "cpuacct"];

/// Why limits cannot be kept on this host.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("linux.resources.{0} is not supported on a host with cgroup version {1}")]
    Version(&'static str, u8),
    #[error("linux.resources.blockIO: the kernel of this host weighs no input and output")]
    Weight,
    #[error("linux.resources.devices: a rule is not valid")]
    Device,
    #[error("linux.resources.unified: `{0}` is not the name of a cgroup file")]
    Unified(String),
}

/// Decides on the groups of a container and what is written there. The path is relative to the root of each hierarchy.
pub fn plan(path: PathBuf, resources: &LinuxResources, host: &Host) -> Result<Plan, LimitError> {
    let rules = resources.devices().iter().flatten();
    let rules = rules.filter(|rule| rule.access().as_ref().is_some_and(|access| !access.is_empty()));
    let rules = rules.map(|rule| devices::Rule::from_oci(rule).ok_or(LimitError::Device));
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    // Where everything is allowed in the end, nothing needs to be asked.
    let rules = if rules.last().is_none_or(|last| last.allow && last.is_universal()) { None } else { Some(rules) };
    let weight_file = resources.block_io().as_ref().and_then(|_| support::weight_file(&host.cgroups));
    match &host.cgroups {
        Cgroups::V1(controllers) => {
            let mut writes = version_1(resources, weight_file)?;
            for rule in rules.iter().flatten() {
                let (file, value) = (rule.file().into(), rule.line());
                // The file knows this rule under one letter.
                let value = if rule.is_universal() { "a".into() } else { value };
                writes.push(Write { controller: "devices".into(), file, value, optional: false });
            }
            let mut hierarchies: Vec<Hierarchy> = Vec::new();
            for (name, mount) in controllers {
                if !ALWAYS.contains(&name.as_str()) && writes.iter().all(|write| write.controller != *name) {
                    continue;
                }
                match hierarchies.iter_mut().find(|hierarchy| hierarchy.mount == *mount) {
                    Some(hierarchy) => hierarchy.controllers.push(name.clone()),
                    None => hierarchies.push(Hierarchy { mount: mount.clone(), controllers: vec![name.clone()] }),
                }
            }
            Ok(Plan { path, version: Version::V1, hierarchies, writes, devices: None })
        }
        Cgroups::V2(mount) => {
            let writes = version_2(resources, weight_file)?;
            let available = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
            let wanted = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"];
            let used = |name: &&str| {
                let always = matches!(*name, "cpu" | "memory" | "pids");
                let needed = always || writes.iter().any(|write| write.controller == *name);
                needed && available.split_whitespace().any(|controller| controller == *name)
            };
            let controllers = wanted.iter().filter(|name| used(name)).map(ToString::to_string).collect();
            let hierarchies = vec![Hierarchy { mount: mount.clone(), controllers }];
            Ok(Plan { path, version: Version::V2, hierarchies, writes, devices: rules })
        }
    }
}

/// Drops everything from a path that could lead out of a hierarchy.
pub fn beneath(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}

/// What is to be written, in order.
#[derive(Default)]
struct Writes(Vec<Write>);

impl Writes {
    fn add(&mut self, controller: &str, file: &str, value: Option<String>) {
        self.push(controller, file, value, false);
    }

    /// Likewise for a file that some kernels do not have, such as one without swap accounting.
    fn add_optional(&mut self, controller: &str, file: &str, value: Option<String>) {
        self.push(controller, file, value, true);
    }

    fn push(&mut self, controller: &str, file: &str, value: Option<String>, optional: bool) {
        if let Some(value) = value {
            self.0.push(Write { controller: controller.into(), file: file.into(), value, optional });
        }
    }
}

/// Zero is no limit.
fn positive(value: Option<u64>) -> Option<String> {
    value.filter(|value| *value > 0).map(|value| value.to_string())
}

/// Zero is no limit, negative is explicitly none.
fn signed(value: Option<i64>) -> Option<String> {
    value.filter(|value| *value != 0).map(|value| value.to_string())
}

fn version_1(resources: &LinuxResources, weight_file: Option<&str>) -> Result<Vec<Write>, LimitError> {
    let mut writes = Writes::default();
    if let Some(memory) = resources.memory() {
        writes.add("memory", "memory.limit_in_bytes", signed(memory.limit()));
        // Missing where the kernel does not account for swap.
        writes.add_optional("memory", "memory.memsw.limit_in_bytes", signed(memory.swap()));
        writes.add("memory", "memory.soft_limit_in_bytes", signed(memory.reservation()));
        writes.add_optional("memory", "memory.kmem.tcp.limit_in_bytes", signed(memory.kernel_tcp()));
        writes.add("memory", "memory.swappiness", memory.swappiness().map(|value| value.to_string()));
        let disabled = memory.disable_oom_killer().unwrap_or(false);
        writes.add("memory", "memory.oom_control", disabled.then(|| "1".to_owned()));
    }
    if let Some(cpu) = resources.cpu() {
        writes.add("cpu", "cpu.cfs_period_us", positive(cpu.period()));
        writes.add("cpu", "cpu.cfs_quota_us", signed(cpu.quota()));
        writes.add("cpu", "cpu.cfs_burst_us", positive(cpu.burst()));
        writes.add("cpu", "cpu.shares", positive(cpu.shares()));
        writes.add("cpu", "cpu.idle", signed(cpu.idle()));
        writes.add("cpu", "cpu.rt_period_us", positive(cpu.realtime_period()));
        writes.add("cpu", "cpu.rt_runtime_us", signed(cpu.realtime_runtime()));
        cpusets(&mut writes, cpu);
    }
    writes.add("pids", "pids.max", pids(resources));
    if let Some(blkio) = resources.block_io() {
        if is_weighed(blkio) {
            let file = weight_file.ok_or(LimitError::Weight)?;
            writes.add("blkio", file, weight(blkio).map(|weight| weight.to_string()));
            for (device, weight) in device_weights(blkio) {
                writes.add("blkio", &format!("{file}_device"), Some(format!("{device} {weight}")));
            }
        }
        for (_, file, limits) in throttles(blkio) {
            for limit in limits {
                writes.add("blkio", file, Some(format!("{}:{} {}", limit.major(), limit.minor(), limit.rate())));
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        writes.add("hugetlb", &file, Some(limit.limit().to_string()));
    }
    if let Some(network) = resources.network() {
        writes.add("net_cls", "net_cls.classid", network.class_id().map(|class| class.to_string()));
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            writes.add("net_prio", "net_prio.ifpriomap", Some(value));
        }
    }
    rdma(&mut writes, resources);
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(LimitError::Version("unified", 1));
    }
    Ok(writes.0)
}

fn version_2(resources: &LinuxResources, weight_file: Option<&str>) -> Result<Vec<Write>, LimitError> {
    let mut writes = Writes::default();
    let limit =
        |value: Option<i64>| signed(value).map(|value| if value.starts_with('-') { "max".to_owned() } else { value });
    if let Some(memory) = resources.memory() {
        if memory.disable_oom_killer() == Some(true) {
            return Err(LimitError::Version("memory.disableOOMKiller", 2));
        }
        writes.add("memory", "memory.max", limit(memory.limit()));
        writes.add_optional("memory", "memory.swap.max", swap(memory));
        writes.add("memory", "memory.low", signed(memory.reservation()).filter(|value| !value.starts_with('-')));
    }
    if let Some(cpu) = resources.cpu() {
        if cpu.realtime_period().is_some_and(|value| value > 0) || cpu.realtime_runtime().is_some_and(|value| value > 0)
        {
            return Err(LimitError::Version("cpu.realtimePeriod and realtimeRuntime", 2));
        }
        // Zero is as good as absent.
        let (period, quota) = (cpu.period().filter(|period| *period > 0), cpu.quota().filter(|quota| *quota != 0));
        if period.is_some() || quota.is_some() {
            let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            writes.add("cpu", "cpu.max", Some(format!("{quota} {}", period.unwrap_or(PERIOD))));
        }
        writes.add("cpu", "cpu.max.burst", positive(cpu.burst()));
        // Shares of 2..=262144 onto weights of 1..=10000, as runc and systemd do.
        let weight = cpu.shares().filter(|shares| *shares > 0);
        let weight = weight.map(|shares| 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142);
        writes.add("cpu", "cpu.idle", signed(cpu.idle()));
        writes.add("cpu", "cpu.weight", weight.map(|weight| weight.to_string()));
        cpusets(&mut writes, cpu);
    }
    writes.add("pids", "pids.max", pids(resources));
    if let Some(blkio) = resources.block_io() {
        if is_weighed(blkio) {
            let file = weight_file.ok_or(LimitError::Weight)?;
            // 10..=1000 onto 1..=10000, as runc does; BFQ has the range of version 1.
            let scale = |weight: u16| match file {
                "io.weight" => 1 + (u64::from(weight).max(10) - 10) * 9_999 / 990,
                _ => u64::from(weight),
            };
            writes.add("io", file, weight(blkio).map(|weight| scale(weight).to_string()));
            for (device, weight) in device_weights(blkio) {
                writes.add("io", file, Some(format!("{device} {}", scale(weight))));
            }
        }
        for (key, _, limits) in throttles(blkio) {
            for limit in limits {
                let line = format!("{}:{} {key}={}", limit.major(), limit.minor(), limit.rate());
                writes.add("io", "io.max", Some(line));
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        writes.add("hugetlb", &format!("hugetlb.{}.max", limit.page_size()), Some(limit.limit().to_string()));
    }
    if let Some(network) = resources.network()
        && (network.class_id().is_some() || network.priorities().as_ref().is_some_and(|list| !list.is_empty()))
    {
        return Err(LimitError::Version("network", 2));
    }
    rdma(&mut writes, resources);
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        let controller = file.split_once('.').map(|(controller, _)| controller);
        let controller = controller.filter(|name| !name.is_empty() && !file.contains('/'));
        let controller = controller.ok_or_else(|| LimitError::Unified(file.clone()))?;
        writes.add(controller, file, Some(value.clone()));
    }
    Ok(writes.0)
}

/// Version 2 limits swap alone, the configuration swap and memory together.
fn swap(memory: &LinuxMemory) -> Option<String> {
    let both = memory.swap().filter(|swap| *swap != 0)?;
    let memory = memory.limit().unwrap_or_default().max(0);
    Some(if both < 0 { "max".to_owned() } else { (both - memory).max(0).to_string() })
}

fn cpusets(writes: &mut Writes, cpu: &LinuxCpu) {
    let set = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    writes.add("cpuset", "cpuset.cpus", set(cpu.cpus()));
    writes.add("cpuset", "cpuset.mems", set(cpu.mems()));
}

fn rdma(writes: &mut Writes, resources: &LinuxResources) {
    for (device, limits) in resources.rdma().iter().flatten() {
        let limit = |name: &str, value: Option<u32>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
        let (handles, objects) = (limit("hca_handle", limits.hca_handles()), limit("hca_object", limits.hca_objects()));
        writes.add("rdma", "rdma.max", Some(format!("{device}{handles}{objects}")));
    }
}

fn pids(resources: &LinuxResources) -> Option<String> {
    match resources.pids().as_ref()?.limit() {
        0 => None,
        limit if limit < 0 => Some("max".to_owned()),
        limit => Some(limit.to_string()),
    }
}

fn weight(blkio: &LinuxBlockIo) -> Option<u16> {
    blkio.weight().filter(|weight| *weight > 0)
}

/// Returns devices by number, and their weights.
fn device_weights(blkio: &LinuxBlockIo) -> Vec<(String, u16)> {
    let devices = blkio.weight_device().iter().flatten();
    let weights =
        devices.filter_map(|device| Some((format!("{}:{}", device.major(), device.minor()), device.weight()?)));
    weights.collect()
}

fn is_weighed(blkio: &LinuxBlockIo) -> bool {
    weight(blkio).is_some() || !device_weights(blkio).is_empty()
}

/// The key of version 2, the file of version 1, and the limits.
fn throttles(blkio: &LinuxBlockIo) -> [(&'static str, &'static str, &[LinuxThrottleDevice]); 4] {
    let list = |list| Option::as_deref(list).unwrap_or_default();
    [
        ("rbps", "blkio.throttle.read_bps_device", list(blkio.throttle_read_bps_device())),
        ("wbps", "blkio.throttle.write_bps_device", list(blkio.throttle_write_bps_device())),
        ("riops", "blkio.throttle.read_iops_device", list(blkio.throttle_read_iops_device())),
        ("wiops", "blkio.throttle.write_iops_device", list(blkio.throttle_write_iops_device())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[Write]) -> Vec<String> {
        writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect()
    }

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn limits_are_the_same_in_both_versions() {
        let limited = resources(
            r#"{"memory": {"limit": 67108864, "swap": 134217728}, "pids": {"limit": 100},
                "cpu": {"shares": 1024, "quota": 150000, "period": 100000}}"#,
        );
        assert_eq!(
            lines(&version_1(&limited, None).unwrap()),
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=134217728",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=150000",
                "cpu.shares=1024",
                "pids.max=100"
            ]
        );
        assert_eq!(
            lines(&version_2(&limited, None).unwrap()),
            [
                "memory.max=67108864",
                "memory.swap.max=67108864",
                "cpu.max=150000 100000",
                "cpu.weight=39",
                "pids.max=100"
            ]
        );
        assert!(version_1(&LinuxResources::default(), None).unwrap().is_empty());
        assert!(version_2(&LinuxResources::default(), None).unwrap().is_empty());
    }

    #[test]
    fn weights_are_written_where_the_kernel_takes_them() {
        let weighed =
            resources(r#"{"blockIO": {"weight": 300, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}"#);
        let first = version_1(&weighed, Some("blkio.bfq.weight")).unwrap();
        assert_eq!(lines(&first), ["blkio.bfq.weight=300", "blkio.bfq.weight_device=8:0 10"]);
        let second = |file| lines(&version_2(&weighed, Some(file)).unwrap());
        assert_eq!(second("io.weight"), ["io.weight=2930", "io.weight=8:0 1"]);
        assert_eq!(second("io.bfq.weight"), ["io.bfq.weight=300", "io.bfq.weight=8:0 10"]);
        assert!(matches!(version_1(&weighed, None), Err(LimitError::Weight)));
        assert!(matches!(version_2(&weighed, None), Err(LimitError::Weight)));
    }

    #[test]
    fn what_one_version_does_not_have_is_named() {
        let unified = resources(r#"{"unified": {"memory.high": "1000"}}"#);
        assert_eq!(lines(&version_2(&unified, None).unwrap()), ["memory.high=1000"]);
        assert!(version_1(&unified, None).unwrap_err().to_string().contains("unified"));
        for (json, name) in [
            (r#"{"network": {"classID": 1}}"#, "network"),
            (r#"{"memory": {"disableOOMKiller": true}}"#, "disableOOMKiller"),
            (r#"{"cpu": {"realtimePeriod": 5}}"#, "realtimePeriod"),
            (r#"{"unified": {"../memory.max": "1"}}"#, "../memory.max"),
        ] {
            let error = version_2(&resources(json), None).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_parent_cannot_lead_out_of_the_hierarchy() {
        assert_eq!(beneath(Path::new("/a/../../b/./c")), Path::new("a/b/c"));
    }
}
