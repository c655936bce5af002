//! Which limits the kernel of this host can keep. What it cannot is taken away from a container, and named in the words of
//! Docker's engine (moby, `daemon/daemon_unix.go`).

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::config::Resources;
use crate::host::Cgroups;

/// What a container asks for that not every kernel has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    pub resources: Resources,
    pub oom_kill_disable: bool,
}

/// A limit that some kernels cannot keep.
struct Limit {
    is_asked: fn(&Asked) -> bool,
    is_kept: fn(&Cgroups, &Asked) -> bool,
    discard: fn(&mut Asked),
    says: &'static str,
}

/// In the order in which Docker looks at them.
const LIMITS: [Limit; 15] = [
    Limit {
        is_asked: |asked| asked.resources.memory.is_some(),
        is_kept: |host, _| has(host, "memory", "memory.limit_in_bytes"),
        discard: |asked| (asked.resources.memory, asked.resources.memory_swap) = (None, None),
        says: "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
    },
    Limit {
        is_asked: |asked| asked.resources.memory.is_some() && asked.resources.memory_swap != Some(-1),
        is_kept: |host, _| counts_swap(host),
        discard: |asked| asked.resources.memory_swap = Some(-1),
        says: "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
    },
    Limit {
        is_asked: |asked| asked.resources.memory_swappiness.is_some(),
        is_kept: |host, _| is_first_version(host) && has(host, "memory", "memory.swappiness"),
        discard: |asked| asked.resources.memory_swappiness = None,
        says: "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
    },
    Limit {
        is_asked: |asked| asked.resources.memory_reservation.is_some(),
        is_kept: |host, _| has(host, "memory", "memory.soft_limit_in_bytes"),
        discard: |asked| asked.resources.memory_reservation = None,
        says: "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
    },
    Limit {
        is_asked: |asked| asked.oom_kill_disable,
        is_kept: |host, _| is_first_version(host) && has(host, "memory", "memory.oom_control"),
        discard: |asked| asked.oom_kill_disable = false,
        says: "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
    },
    Limit {
        is_asked: |asked| asked.resources.pids.is_some(),
        // The first hierarchy's root has no limit.
        is_kept: |host, _| has(host, "pids", "cgroup.procs"),
        discard: |asked| asked.resources.pids = None,
        says: "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
    },
    Limit {
        is_asked: |asked| asked.resources.cpu_shares.is_some(),
        is_kept: |host, _| has(host, "cpu", "cpu.shares"),
        discard: |asked| asked.resources.cpu_shares = None,
        says: "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
    },
    Limit {
        is_asked: |asked| asked.resources.cpu_period.is_some() || asked.resources.cpu_quota.is_some(),
        is_kept: |host, _| has(host, "cpu", "cpu.cfs_quota_us"),
        discard: |asked| (asked.resources.cpu_period, asked.resources.cpu_quota) = (None, None),
        says: "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
    },
    Limit {
        is_asked: |asked| asked.resources.cpuset_cpus.is_some() || asked.resources.cpuset_mems.is_some(),
        is_kept: |host, _| has(host, "cpuset", "cpuset.cpus"),
        discard: |asked| (asked.resources.cpuset_cpus, asked.resources.cpuset_mems) = (None, None),
        says: "Your kernel does not support cpuset or the cgroup is not mounted. CPUset discarded.",
    },
    Limit {
        is_asked: |asked| asked.resources.blkio.weight.is_some(),
        is_kept: |host, _| weight_file(host).is_some(),
        discard: |asked| asked.resources.blkio.weight = None,
        says: "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
    },
    Limit {
        is_asked: |asked| !asked.resources.blkio.weight_device.is_empty(),
        is_kept: |host, asked| {
            let devices = asked.resources.blkio.weight_device.iter().map(|(device, _)| &**device);
            weighs_devices(host, devices)
        },
        discard: |asked| asked.resources.blkio.weight_device.clear(),
        says: "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
    },
    Limit {
        is_asked: |asked| !asked.resources.blkio.read_bps.is_empty(),
        is_kept: |host, _| has(host, "blkio", "blkio.throttle.read_bps_device"),
        discard: |asked| asked.resources.blkio.read_bps.clear(),
        says: "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
    },
    Limit {
        is_asked: |asked| !asked.resources.blkio.write_bps.is_empty(),
        is_kept: |host, _| has(host, "blkio", "blkio.throttle.write_bps_device"),
        discard: |asked| asked.resources.blkio.write_bps.clear(),
        says: "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
    },
    Limit {
        is_asked: |asked| !asked.resources.blkio.read_iops.is_empty(),
        is_kept: |host, _| has(host, "blkio", "blkio.throttle.read_iops_device"),
        discard: |asked| asked.resources.blkio.read_iops.clear(),
        says: "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
    },
    Limit {
        is_asked: |asked| !asked.resources.blkio.write_iops.is_empty(),
        is_kept: |host, _| has(host, "blkio", "blkio.throttle.write_iops_device"),
        discard: |asked| asked.resources.blkio.write_iops.clear(),
        says: "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
    },
];

impl Asked {
    /// Takes away what this kernel cannot limit. Returns a sentence for each.
    pub fn discard(&mut self, host: &Cgroups) -> Vec<&'static str> {
        let mut said = Vec::new();
        for limit in &LIMITS {
            if (limit.is_asked)(self) && !(limit.is_kept)(host, self) {
                (limit.discard)(self);
                said.push(limit.says);
            }
        }
        said
    }
}

/// Returns where the weight of a container's input and output is written: by whichever part of the kernel weighs.
pub(super) fn weight_file(host: &Cgroups) -> Option<&'static str> {
    match host {
        Cgroups::V1(_) => {
            // A root has no weight, but where there are any it has the counters.
            let files = [("blkio.weight", "blkio.weight"), ("blkio.bfq.io_serviced", "blkio.bfq.weight")];
            files.into_iter().find(|(seen, _)| has(host, "blkio", seen)).map(|(_, file)| file)
        }
        // A root has no weight, but it has what the cost model is set by (kernel documentation, `cgroup-v2`).
        Cgroups::V2(mount) => {
            let io = has(host, "blkio", "");
            let cost = io && mount.join("io.cost.qos").exists();
            let bfq = if io { schedulers() } else { Vec::new() };
            if bfq.iter().any(|schedulers| schedulers.contains("[bfq]")) {
                return Some("io.bfq.weight");
            }
            if cost {
                return Some("io.weight");
            }
            bfq.iter().any(|schedulers| schedulers.contains("bfq")).then_some("io.bfq.weight")
        }
    }
}

/// Returns whether these devices can be given weights of their own: by BFQ those that it schedules, by the cost model those
/// that it is switched on for.
fn weighs_devices<'a>(host: &Cgroups, mut devices: impl Iterator<Item = &'a Path>) -> bool {
    match (weight_file(host), host) {
        (None, _) => false,
        (Some("blkio.weight"), _) => true,
        (Some("io.weight"), Cgroups::V2(mount)) => {
            let costs = std::fs::read_to_string(mount.join("io.cost.qos")).unwrap_or_default();
            let switched_on = |number: &str| costs.lines().any(|line| line.starts_with(&format!("{number} enable=1")));
            devices.all(|device| number(device).is_some_and(|number| switched_on(&number)))
        }
        (Some(_), _) => devices.all(|device| scheduler(device).is_some_and(|schedulers| schedulers.contains("[bfq]"))),
    }
}

/// Returns the number of a device.
fn number(device: &Path) -> Option<String> {
    let number = std::fs::metadata(device).ok()?.rdev();
    Some(format!("{}:{}", libc::major(number), libc::minor(number)))
}

/// Returns the schedulers of a block device, the one in use in brackets.
fn scheduler(device: &Path) -> Option<String> {
    let folder = Path::new("/sys/dev/block").join(number(device)?);
    // A partition has the queue of its disk.
    let mut files = ["queue/scheduler", "../queue/scheduler"].into_iter().map(|file| folder.join(file));
    files.find_map(|file| std::fs::read_to_string(file).ok())
}

/// Returns the schedulers of each block device.
fn schedulers() -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices.filter_map(|device| std::fs::read_to_string(device.path().join("queue/scheduler")).ok()).collect()
}

/// Returns whether a hierarchy has a controller, and on version 1 whether its root has a file. What cannot be looked at counts as
/// there: a limit is not dropped for that, and whoever writes it hears what is wrong.
fn has(host: &Cgroups, controller: &str, file: &str) -> bool {
    match host {
        Cgroups::V1(controllers) => {
            controllers.iter().any(|(name, mount)| name == controller && mount.join(file).try_exists().unwrap_or(true))
        }
        Cgroups::V2(mount) => {
            let controller = if controller == "blkio" { "io" } else { controller };
            std::fs::read_to_string(mount.join("cgroup.controllers")).map_or_else(
                |error| error.kind() != ErrorKind::NotFound,
                |list| list.split_whitespace().any(|name| name == controller),
            )
        }
    }
}

fn is_first_version(host: &Cgroups) -> bool {
    matches!(host, Cgroups::V1(_))
}

/// Returns whether swap is limited: by version 2 wherever the kernel has any.
fn counts_swap(host: &Cgroups) -> bool {
    match host {
        Cgroups::V1(_) => has(host, "memory", "memory.memsw.limit_in_bytes"),
        Cgroups::V2(_) => has(host, "memory", "") && Path::new("/proc/swaps").try_exists().unwrap_or(true),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::super::config::Blkio;
    use super::*;

    fn everything() -> Asked {
        let device = PathBuf::from("/dev/null");
        let resources = Resources {
            memory: Some(1 << 26),
            memory_swappiness: Some(7),
            memory_reservation: Some(1 << 25),
            pids: Some(9),
            cpu_shares: Some(2),
            cpu_quota: Some(20_000),
            cpuset_cpus: Some("0".into()),
            blkio: Blkio {
                weight: Some(300),
                weight_device: vec![(device.clone(), 300)],
                read_bps: vec![(device.clone(), 1)],
                write_bps: vec![(device.clone(), 1)],
                read_iops: vec![(device.clone(), 1)],
                write_iops: vec![(device, 1)],
            },
            ..Resources::default()
        };
        Asked { resources, oom_kill_disable: true }
    }

    #[test]
    fn without_controllers_nothing_is_left_and_each_limit_is_named() {
        let empty = tempfile::tempdir().unwrap();
        std::fs::write(empty.path().join("cgroup.controllers"), "").unwrap();
        for host in [Cgroups::V1(Vec::new()), Cgroups::V2(empty.path().to_owned())] {
            let mut asked = everything();
            let said = asked.discard(&host);
            // Without a limit of memory there is none of swap.
            assert_eq!(said.len(), LIMITS.len() - 1, "{said:#?}");
            assert_eq!(asked, Asked::default());
            assert!(asked.discard(&host).is_empty());
        }
    }

    #[test]
    fn files_of_version_one_decide() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "memory.limit_in_bytes",
            "memory.swappiness",
            "memory.soft_limit_in_bytes",
            "memory.oom_control",
            "cgroup.procs",
            "cpu.shares",
            "cpu.cfs_quota_us",
            "cpuset.cpus",
            "blkio.bfq.io_serviced",
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        ] {
            std::fs::write(root.path().join(file), "").unwrap();
        }
        let controllers = ["memory", "pids", "cpu", "cpuset", "blkio"];
        let host = Cgroups::V1(controllers.map(|name| (name.to_owned(), root.path().to_owned())).to_vec());
        let mut asked = everything();
        let said = asked.discard(&host);
        let has = |words: &str| said.iter().any(|sentence| sentence.contains(words));
        // The swap is not counted, and the null device is scheduled by nobody.
        assert!(said.len() == 2 && has("swap limit") && has("weight_device"), "{said:#?}");
        assert_eq!((asked.resources.memory_swap, asked.resources.blkio.weight), (Some(-1), Some(300)));
        assert_eq!(weight_file(&host), Some("blkio.bfq.weight"));
    }
}
