//! Looking at processes through /proc.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A process that has to do with one root of rcompose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The name it gave itself, at most 15 bytes (`/proc/PID/comm`).
    pub name: String,
    /// The words it was started with.
    pub words: Vec<String>,
    /// The program; `None` for a zombie or a kernel thread.
    pub program: Option<PathBuf>,
}

impl Process {
    /// Sends a signal; the process may be gone by now, which is no error here.
    pub fn signal(&self, signal: Signal) {
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => panic!("cannot signal {self:?}: {error}"),
        }
    }

    /// Whether it has a file open whose path contains `part`.
    pub fn has_open(&self, part: &str) -> bool {
        fs::read_dir(format!("/proc/{}/fd", self.pid))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| target.to_string_lossy().contains(part))
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        read(self.pid).is_some_and(|now| now.parent != 0 && now.program.is_some() && now.words == self.words)
    }
}

/// Returns all processes that mention `root` in their command line, environment, working folder or mounts: what
/// rcompose started for that root, and the containers in it.
pub fn of_root(root: &Path) -> Vec<Process> {
    let needle = root.to_string_lossy().into_owned();
    let me = std::process::id();
    let mounts = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let host = mounts("thread-self");
    pids()
        .into_iter()
        .filter(|pid| u32::try_from(*pid).is_ok_and(|pid| pid != me))
        .filter(|pid| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let mentions = |name: &str| {
                fs::read(folder.join(name)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&needle))
            };
            let links = |name: &str| fs::read_link(folder.join(name)).is_ok_and(|target| target.starts_with(root));
            // What is mounted on the host is seen by all who have no mounts of their own.
            let apart = || mounts(&pid.to_string()) != host;
            let own = mentions("cmdline") || mentions("environ") || links("cwd") || links("root");
            own || (apart() && mentions("mountinfo"))
        })
        .filter_map(read)
        .collect()
}

/// Returns the pids of all processes, in ascending order.
pub fn pids() -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

/// Returns the process that was executed with just these words.
pub fn that_runs(words: &[&str]) -> Option<i32> {
    let line = words.iter().flat_map(|word| word.bytes().chain([0])).collect::<Vec<_>>();
    pids().into_iter().find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|own| own == line))
}

/// Reads one process; `None` when there is none.
pub fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, even parentheses.
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words =
        words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>();
    let words = words.strip_suffix(&[String::new()]).unwrap_or(&words).to_vec();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned();
    Some(Process { pid, parent, name, words, program: fs::read_link(format!("/proc/{pid}/exe")).ok() })
}

/// Returns the proportional set size of a process in KiB.
pub fn pss(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
}
