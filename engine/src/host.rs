//! What this kernel and this user can do. Everything that needs root or a kernel feature asks the one [`Host`].

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};

/// Which cgroup hierarchies a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// One hierarchy per controller (`cgroups(7)`, version 1): controller names and their mount points.
    V1(Vec<(String, PathBuf)>),
    /// The unified hierarchy.
    V2(PathBuf),
}

/// The facts about this host that decide how containers are made.
#[derive(Debug, Clone)]
pub struct Host {
    /// Whether this process runs as root of the initial user namespace.
    pub root: bool,
    pub cgroups: Cgroups,
}

/// Why the host's facts could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no cgroup hierarchy is mounted")]
    NoCgroups,
}

/// The file with the kernel's name for the time since this boot (`random(4)`).
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Returns the kernel's name for the time since this boot: it tells what a reset left from what is being made.
pub fn boot_id() -> std::io::Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let read = std::fs::read_to_string(BOOT_ID)?.trim().to_owned();
    Ok(KNOWN.get_or_init(|| read).clone())
}

/// How many instances of inotify a user may have (`inotify(7)`): 128 where nobody set it, and each supervisor has one.
const INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";

/// How far that is raised.
const MOST_INSTANCES: u32 = 4096;

/// Returns an instance of inotify that does not wait. Where the user has too many, the limit is raised.
pub fn inotify() -> std::io::Result<Inotify> {
    let new = || Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
    match new() {
        Err(Errno::EMFILE) => {
            // Where the limit cannot be raised, that it was reached is what there is to say.
            raise_instances().ok();
            Ok(new()?)
        }
        made => Ok(made?),
    }
}

fn raise_instances() -> std::io::Result<()> {
    let limit = std::fs::read_to_string(INSTANCES)?;
    let limit = limit.trim().parse::<u32>().map_err(std::io::Error::other)?;
    if limit >= MOST_INSTANCES {
        return Ok(());
    }
    let more = limit.saturating_mul(2).min(MOST_INSTANCES);
    tracing::warn!(limit, more, "this host has reached fs.inotify.max_user_instances, which is raised");
    std::fs::write(INSTANCES, more.to_string())
}

impl Host {
    /// Looks at this host.
    pub fn detect() -> Result<Self, HostError> {
        let path = Path::new("/proc/self/mountinfo");
        let mountinfo =
            std::fs::read_to_string(path).map_err(|source| HostError::Read { path: path.to_owned(), source })?;
        Ok(Self { root: nix::unistd::geteuid().is_root(), cgroups: cgroups(&mountinfo).ok_or(HostError::NoCgroups)? })
    }
}

/// Reads the mounted cgroup hierarchies out of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
///
/// A hybrid host (version 1 controllers beside an almost empty version 2) counts as version 1, since that is where
/// its controllers are.
fn cgroups(mountinfo: &str) -> Option<Cgroups> {
    const CONTROLLERS: [&str; 13] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "pids",
        "blkio",
        "freezer",
        "hugetlb",
        "perf_event",
        "net_cls",
        "net_prio",
        "rdma",
    ];
    let mut v1: Vec<(String, PathBuf)> = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(target) = left.split(' ').nth(4) else { continue };
        let mut fields = right.split(' ');
        match fields.next() {
            Some("cgroup") => {
                for option in fields.nth(1).unwrap_or_default().split(',') {
                    let new = CONTROLLERS.contains(&option) && v1.iter().all(|(name, _)| name != option);
                    if new {
                        v1.push((option.to_owned(), PathBuf::from(target)));
                    }
                }
            }
            Some("cgroup2") if v2.is_none() => v2 = Some(PathBuf::from(target)),
            _ => {}
        }
    }
    if v1.is_empty() { v2.map(Cgroups::V2) } else { Some(Cgroups::V1(v1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_counts_as_version_one() {
        let text = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let both = PathBuf::from("/sys/fs/cgroup/cpu,cpuacct");
        let want = Cgroups::V1(vec![("cpu".into(), both.clone()), ("cpuacct".into(), both)]);
        assert_eq!(cgroups(text), Some(want));
    }

    #[test]
    fn a_unified_host_counts_as_version_two() {
        let text = "31 30 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroups(text), Some(Cgroups::V2(PathBuf::from("/sys/fs/cgroup"))));
        assert_eq!(cgroups(""), None);
    }
}
