//! From what a container was asked to be limited to, to the files of its cgroups.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Hierarchy, Plan, Version, Write, devices};
use crate::container::config::{ContainerConfig, Resources};
use crate::host::{Cgroups, Host};

/// The period of the CPU quota that `cpus` is expressed in, as Docker's, in microseconds.
const PERIOD: u64 = 100_000;

/// Controllers that every container gets, because something depends on them: device rules, memory and process limits
/// and counts, pausing, statistics.
const ALWAYS: [&str; 6] = ["memory", "devices", "freezer", "pids", "cpu", "cpuacct"];

/// Decides on the groups of a container and what is written there.
pub fn plan(config: &ContainerConfig, host: &Host, rules: Vec<devices::Rule>) -> Plan {
    let path = match &config.cgroup_parent {
        Some(parent) => beneath(parent).join(config.id.as_str()),
        None => Path::new("rcompose").join(&config.project).join(config.id.as_str()),
    };
    let rules = if config.privileged { None } else { Some(rules) };
    match &host.cgroups {
        Cgroups::V1(controllers) => {
            let mut writes = version_1(&config.resources, config.oom_kill_disable);
            if let Some(rules) = &rules {
                let write = |file: &str, value: String| Write {
                    controller: "devices".into(),
                    file: file.into(),
                    value,
                    optional: false,
                };
                writes.push(write("devices.deny", "a".into()));
                writes.extend(rules.iter().map(|rule| write("devices.allow", rule.line())));
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
            Plan { path, version: Version::V1, hierarchies, writes, devices: None }
        }
        Cgroups::V2(mount) => {
            let writes = version_2(&config.resources);
            let available = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
            let wanted = ["cpu", "cpuset", "io", "memory", "pids"];
            let used = |name: &&str| {
                let needed = !matches!(*name, "cpuset" | "io") || writes.iter().any(|write| write.controller == *name);
                needed && available.split_whitespace().any(|controller| controller == *name)
            };
            let controllers = wanted.iter().filter(|name| used(name)).map(ToString::to_string).collect();
            let hierarchies = vec![Hierarchy { mount: mount.clone(), controllers }];
            Plan { path, version: Version::V2, hierarchies, writes, devices: rules }
        }
    }
}

/// Drops everything from a path that could lead out of a hierarchy.
fn beneath(path: &str) -> PathBuf {
    path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect()
}

/// Returns period and quota in microseconds.
fn quota(resources: &Resources) -> (Option<u64>, Option<i64>) {
    match resources.nano_cpus {
        Some(cpus) if cpus > 0 => (Some(PERIOD), i64::try_from(cpus / (1_000_000_000 / PERIOD)).ok()),
        _ => (resources.cpu_period, resources.cpu_quota),
    }
}

/// Returns the limit on memory and swap together: twice the memory unless told, as Docker.
fn memory_and_swap(resources: &Resources) -> Option<i64> {
    match (resources.memory, resources.memory_swap) {
        (None, _) => None,
        (Some(memory), None | Some(0)) => i64::try_from(memory.saturating_mul(2)).ok(),
        (Some(_), swap) => swap,
    }
}

fn version_1(resources: &Resources, oom_kill_disable: bool) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut add = |controller: &str, file: &str, value: Option<String>, optional: bool| {
        if let Some(value) = value {
            writes.push(Write { controller: controller.into(), file: file.into(), value, optional });
        }
    };
    let text = |value: Option<u64>| value.filter(|value| *value > 0).map(|value| value.to_string());
    add("memory", "memory.limit_in_bytes", text(resources.memory), false);
    // Missing where the kernel does not account for swap.
    let swap = memory_and_swap(resources).map(|value| value.to_string());
    add("memory", "memory.memsw.limit_in_bytes", swap, true);
    add("memory", "memory.soft_limit_in_bytes", text(resources.memory_reservation), false);
    let swappiness = resources.memory_swappiness.map(|value| value.to_string());
    add("memory", "memory.swappiness", swappiness, false);
    add("memory", "memory.oom_control", oom_kill_disable.then(|| "1".to_owned()), false);
    let (period, quota) = quota(resources);
    add("cpu", "cpu.cfs_period_us", text(period), false);
    add("cpu", "cpu.cfs_quota_us", quota.filter(|quota| *quota != 0).map(|quota| quota.to_string()), false);
    add("cpu", "cpu.shares", text(resources.cpu_shares), false);
    add("cpu", "cpu.rt_period_us", text(resources.cpu_rt_period), false);
    let runtime = resources.cpu_rt_runtime.filter(|runtime| *runtime != 0);
    add("cpu", "cpu.rt_runtime_us", runtime.map(|runtime| runtime.to_string()), false);
    add("cpuset", "cpuset.cpus", set(resources.cpuset_cpus.as_ref()), false);
    add("cpuset", "cpuset.mems", set(resources.cpuset_mems.as_ref()), false);
    add("pids", "pids.max", pids(resources), false);
    let blkio = &resources.blkio;
    add("blkio", "blkio.weight", text(blkio.weight.map(u64::from)), true);
    for (device, weight) in &blkio.weight_device {
        add("blkio", "blkio.weight_device", numbers(device).map(|device| format!("{device} {weight}")), true);
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", &blkio.read_bps),
        ("blkio.throttle.write_bps_device", &blkio.write_bps),
        ("blkio.throttle.read_iops_device", &blkio.read_iops),
        ("blkio.throttle.write_iops_device", &blkio.write_iops),
    ];
    for (file, limits) in throttles {
        for (device, limit) in limits {
            add("blkio", file, numbers(device).map(|device| format!("{device} {limit}")), false);
        }
    }
    writes
}

fn version_2(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut add = |controller: &str, file: &str, value: Option<String>, optional: bool| {
        if let Some(value) = value {
            writes.push(Write { controller: controller.into(), file: file.into(), value, optional });
        }
    };
    let text = |value: Option<u64>| value.filter(|value| *value > 0).map(|value| value.to_string());
    add("memory", "memory.max", text(resources.memory), false);
    let swap = memory_and_swap(resources).map(|both| {
        let memory = resources.memory.and_then(|memory| i64::try_from(memory).ok()).unwrap_or_default();
        // Version 2 limits swap alone.
        if both < 0 { "max".to_owned() } else { (both - memory).max(0).to_string() }
    });
    add("memory", "memory.swap.max", swap, true);
    add("memory", "memory.low", text(resources.memory_reservation), false);
    let (period, quota) = quota(resources);
    if period.is_some() || quota.is_some() {
        let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        add("cpu", "cpu.max", Some(format!("{quota} {}", period.unwrap_or(PERIOD))), false);
    }
    // Shares of 2..=262144 onto weights of 1..=10000, as runc and systemd do.
    let weight = resources.cpu_shares.filter(|shares| *shares > 0);
    let weight = weight.map(|shares| 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142);
    add("cpu", "cpu.weight", weight.map(|weight| weight.to_string()), false);
    add("cpuset", "cpuset.cpus", set(resources.cpuset_cpus.as_ref()), false);
    add("cpuset", "cpuset.mems", set(resources.cpuset_mems.as_ref()), false);
    add("pids", "pids.max", pids(resources), false);
    let blkio = &resources.blkio;
    // 10..=1000 onto 1..=10000, as runc does.
    let weight = blkio.weight.filter(|weight| *weight > 0);
    let weight = weight.map(|weight| 1 + (u64::from(weight).max(10) - 10) * 9_999 / 990);
    add("io", "io.weight", weight.map(|weight| weight.to_string()), true);
    let limits = [
        ("rbps", &blkio.read_bps),
        ("wbps", &blkio.write_bps),
        ("riops", &blkio.read_iops),
        ("wiops", &blkio.write_iops),
    ];
    for (key, limits) in limits {
        for (device, limit) in limits {
            add("io", "io.max", numbers(device).map(|device| format!("{device} {key}={limit}")), false);
        }
    }
    writes
}

fn set(value: Option<&String>) -> Option<String> {
    value.filter(|value| !value.is_empty()).cloned()
}

fn pids(resources: &Resources) -> Option<String> {
    match resources.pids {
        None | Some(0) => None,
        Some(limit) if limit < 0 => Some("max".to_owned()),
        Some(limit) => Some(limit.to_string()),
    }
}

/// Returns `major:minor` of a block device of the host.
fn numbers(device: &Path) -> Option<String> {
    let number = std::fs::metadata(device).ok()?.rdev();
    Some(format!("{}:{}", libc::major(number), libc::minor(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[Write]) -> Vec<String> {
        writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect()
    }

    #[test]
    fn limits_are_those_of_docker_in_both_versions() {
        let resources = Resources {
            memory: Some(64 << 20),
            nano_cpus: Some(1_500_000_000),
            cpu_shares: Some(1024),
            pids: Some(100),
            ..Resources::default()
        };
        assert_eq!(
            lines(&version_1(&resources, false)),
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
            lines(&version_2(&resources)),
            [
                "memory.max=67108864",
                "memory.swap.max=67108864",
                "cpu.max=150000 100000",
                "cpu.weight=39",
                "pids.max=100"
            ]
        );
        assert!(version_1(&Resources::default(), false).is_empty());
        assert!(version_2(&Resources::default()).is_empty());
    }

    #[test]
    fn a_parent_cannot_lead_out_of_the_hierarchy() {
        assert_eq!(beneath("/a/../../b/./c"), Path::new("a/b/c"));
    }
}
