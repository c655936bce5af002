//! What a container uses, as its cgroups and the kernel's tables of its network and processes count it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cgroup::{Plan, Version};
use super::state::ProcessStart;

/// What was used up to one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub at: Instant,
    /// Processor time since the container was started.
    pub cpu: Duration,
    /// Bytes, without what the kernel would give back at once (inactive page cache).
    pub memory: u64,
    /// Bytes; where the container has no limit, the memory of the host.
    pub memory_limit: u64,
    /// Bytes received and sent on all interfaces but the loopback.
    pub network: (u64, u64),
    /// Bytes read from and written to block devices.
    pub block: (u64, u64),
    /// Processes and threads.
    pub pids: u64,
}

impl Sample {
    /// Takes a sample of a container that runs; `None` where it does not any more. `pid` is its first process, which is
    /// in its network; `network` is whether that is one of its own.
    pub fn take(plan: &Plan, pid: i32, network: bool) -> Option<Self> {
        ProcessStart::of(pid).ok()??;
        let group = |controller: &str| plan.directory(controller);
        let number = |controller: &str, file: &str| {
            fs::read_to_string(group(controller)?.join(file)).ok()?.trim().parse::<u64>().ok()
        };
        let (cpu, used, inactive, limit, block) = match plan.version {
            Version::V1 => (
                Duration::from_nanos(number("cpuacct", "cpuacct.usage").unwrap_or(0)),
                number("memory", "memory.usage_in_bytes"),
                field(&read(group("memory"), "memory.stat"), "total_inactive_file"),
                number("memory", "memory.limit_in_bytes"),
                match group("blkio") {
                    Some(directory) => {
                        service_bytes(&read(Some(directory), "blkio.throttle.io_service_bytes_recursive"))
                    }
                    None => of_processes(&pids(plan)),
                },
            ),
            Version::V2 => (
                Duration::from_micros(field(&read(group(""), "cpu.stat"), "usage_usec").unwrap_or(0)),
                number("", "memory.current"),
                field(&read(group(""), "memory.stat"), "inactive_file"),
                number("", "memory.max"),
                io_stat(&read(group(""), "io.stat")),
            ),
        };
        let total = field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:").unwrap_or(0) * 1024;
        Some(Self {
            at: Instant::now(),
            cpu,
            memory: used.unwrap_or(0).saturating_sub(inactive.unwrap_or(0)),
            memory_limit: limit.unwrap_or(total).min(total),
            network: if network { interfaces(pid) } else { (0, 0) },
            block,
            pids: number("pids", "pids.current").unwrap_or(0),
        })
    }

    /// Returns how much of one processor was used since an earlier sample, in percent.
    pub fn cpu_percent(&self, before: &Self) -> f64 {
        let passed = self.at.saturating_duration_since(before.at).as_secs_f64();
        let used = self.cpu.saturating_sub(before.cpu).as_secs_f64();
        if passed > 0.0 { used / passed * 100.0 } else { 0.0 }
    }
}

/// Returns the processes of a container as the host numbers them, lowest first, those of groups that it made included.
pub fn pids(plan: &Plan) -> Vec<i32> {
    let mut pids = Vec::new();
    let mut directories = plan.hierarchies.first().map(|hierarchy| hierarchy.mount.join(&plan.path));
    let mut waiting = directories.take().into_iter().collect::<Vec<_>>();
    while let Some(directory) = waiting.pop() {
        let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        pids.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        waiting.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn read(directory: Option<impl AsRef<Path>>, file: &str) -> String {
    directory.and_then(|directory| fs::read_to_string(directory.as_ref().join(file)).ok()).unwrap_or_default()
}

/// Returns the number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// Reads `8:0 Read 4096` of version 1.
fn service_bytes(text: &str) -> (u64, u64) {
    let mut total = (0, 0);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (kind, bytes) = (words.next(), words.next().and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0));
        match kind {
            Some("Read") => total.0 += bytes,
            Some("Write") => total.1 += bytes,
            _ => {}
        }
    }
    total
}

/// Reads `8:0 rbytes=4096 wbytes=0 …` of version 2.
fn io_stat(text: &str) -> (u64, u64) {
    let mut total = (0, 0);
    for (name, value) in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
        let bytes = value.parse::<u64>().unwrap_or(0);
        match name {
            "rbytes" => total.0 += bytes,
            "wbytes" => total.1 += bytes,
            _ => {}
        }
    }
    total
}

/// Sums up what the processes that live have read and written (`proc_pid_io(5)`), where no group counts it.
fn of_processes(pids: &[i32]) -> (u64, u64) {
    let texts = pids.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/io")).ok());
    texts.fold((0, 0), |(read, written), text| {
        let number = |name| field(&text, name).unwrap_or(0);
        (read + number("read_bytes:"), written + number("write_bytes:"))
    })
}

/// Sums up the interfaces of a process's network (`proc_pid_net(5)`).
fn interfaces(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    lines.fold((0, 0), |(received, sent), (_, counts)| {
        let counts = counts.split_ascii_whitespace().map(|count| count.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>();
        let count = |index: usize| counts.get(index).copied().unwrap_or(0);
        (received + count(0), sent + count(8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let text = "8:0 Read 4096\n8:0 Write 512\n8:16 Read 1\n8:0 Total 4609\nTotal 4609\n";
        assert_eq!(service_bytes(text), (4097, 512));
        assert_eq!(io_stat("8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n"), (11, 22));
        assert_eq!(field("a 1\nab 2\n", "ab"), Some(2));
        assert_eq!(field("MemTotal:       24 kB\n", "MemTotal:"), Some(24));
        assert_eq!(field("a max\n", "a"), None);
    }

    #[test]
    fn processor_time_is_a_part_of_the_time_that_passed() {
        let at = Instant::now();
        let before = Sample {
            at,
            cpu: Duration::from_millis(100),
            memory: 0,
            memory_limit: 0,
            network: (0, 0),
            block: (0, 0),
            pids: 1,
        };
        let after = Sample { at: at + Duration::from_millis(500), cpu: Duration::from_millis(850), ..before };
        assert!((after.cpu_percent(&before) - 150.0).abs() < 1e-9);
        assert!(before.cpu_percent(&before).abs() < f64::EPSILON);
    }
}
