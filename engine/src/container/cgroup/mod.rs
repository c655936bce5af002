//! Control groups of both versions: limits, membership, what the kernel counts, removal (`cgroups(7)`).
//!
//! A container's group is `rcompose/<project>/<id>` in every hierarchy that is used. What is to be written there is
//! decided beforehand, as a [`Plan`], so that the shim only makes directories and writes files.

pub mod devices;
mod events;
pub mod limits;
pub mod support;

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::step::{Context, Step, fault};
use crate::host::Cgroups;
use crate::sys::pidfd;

/// How long the processes of a container have to stand still, or to have left a group that is to be removed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what is killed has to end before it is looked for what it has started meanwhile.
const KILLED: Duration = Duration::from_millis(100);
/// How often a freezer of version 1 is looked at.
const FREEZER: Duration = Duration::from_millis(1);

/// Where a container's cgroups are and what limits they get; part of `shim.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Relative to the root of each hierarchy.
    pub path: PathBuf,
    pub version: Version,
    pub hierarchies: Vec<Hierarchy>,
    pub writes: Vec<Write>,
    /// Device rules for version 2, where a program decides instead of a file; `None`: every device.
    pub devices: Option<Vec<devices::Rule>>,
}

/// The version of the control group interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    V1,
    V2,
}

/// A mounted hierarchy in which the container has a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    pub mount: PathBuf,
    /// The controllers that are used in it.
    pub controllers: Vec<String>,
}

/// A value for a file of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub controller: String,
    pub file: String,
    pub value: String,
    /// Whether a kernel without this file is good enough, such as one without swap accounting.
    pub optional: bool,
}

/// Returns where the groups of a project's containers are.
pub fn of_project(project: &str) -> PathBuf {
    Path::new("rcompose").join(project)
}

impl Plan {
    /// Returns a plan by which groups are removed from wherever they are.
    pub fn everywhere(path: PathBuf, host: &Cgroups) -> Self {
        let (version, mounts) = match host {
            Cgroups::V1(controllers) => (Version::V1, controllers.iter().map(|(_, mount)| mount).collect()),
            Cgroups::V2(mount) => (Version::V2, vec![mount]),
        };
        let hierarchy = |mount: &PathBuf| Hierarchy { mount: mount.clone(), controllers: Vec::new() };
        Self {
            path,
            version,
            hierarchies: mounts.into_iter().map(hierarchy).collect(),
            writes: Vec::new(),
            devices: None,
        }
    }

    /// Makes the groups and sets their limits. What was made is removed again when a step fails.
    pub fn create(&self) -> Step<()> {
        let result = self.try_create();
        if result.is_err() {
            self.remove().ok();
        }
        result
    }

    fn try_create(&self) -> Step<()> {
        for hierarchy in &self.hierarchies {
            let path = hierarchy.mount.join(&self.path);
            make(&path, &hierarchy.mount).step(|| format!("create cgroup {}", path.display()))?;
            if self.version == Version::V1 && hierarchy.controllers.iter().any(|name| name == "cpuset") {
                self.fill_cpusets(hierarchy)?;
            }
            if self.version == Version::V2 {
                self.enable_controllers(hierarchy)?;
            }
        }
        self.apply(&self.writes)?;
        if let (Version::V2, Some(rules), [hierarchy]) = (self.version, &self.devices, &self.hierarchies[..]) {
            let path = hierarchy.mount.join(&self.path);
            let fd = open_directory(&path).step(|| format!("open cgroup {}", path.display()))?;
            devices::attach(fd.as_fd(), rules).step(|| format!("attach the device filter to {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes values to the container's groups.
    fn apply(&self, writes: &[Write]) -> Step<()> {
        // Device rules are many lines for one file, each of which takes a write of its own.
        let mut open: Option<(PathBuf, std::fs::File)> = None;
        for write in writes {
            let Some(directory) = self.directory(&write.controller) else {
                if write.optional {
                    continue;
                }
                let Write { controller, file, value, .. } = write;
                return Err(fault(format!("write {value} to {file}: the host has no {controller} cgroup")));
            };
            let path = directory.join(&write.file);
            let describe = || format!("write {} to {}", write.value, path.display());
            if open.as_ref().is_none_or(|(name, _)| *name != path) {
                open = match std::fs::File::options().write(true).open(&path) {
                    Err(error) if write.optional && error.kind() == io::ErrorKind::NotFound => continue,
                    file => Some((path.clone(), file.step(describe)?)),
                };
            }
            if let Some((_, file)) = &mut open {
                file.write_all(write.value.as_bytes()).step(describe)?;
            }
        }
        Ok(())
    }

    /// Changes limits of groups that are there to those of another plan for the same groups.
    pub fn update(&mut self, other: &Self) -> Step<()> {
        for hierarchy in &other.hierarchies {
            let controllers = hierarchy.controllers.iter().filter(|name| {
                other.writes.iter().any(|write| write.controller == **name) && self.directory(name).is_none()
            });
            if let Some(name) = controllers.into_iter().next() {
                return Err(fault(format!("change limits: the container was made without a {name} cgroup")));
            }
        }
        // On version 1 the limit of memory is never above that of memory and swap, whose file comes second: where it
        // grows, the order is the other one.
        let first = self.apply(&other.writes);
        if first.as_ref().is_err_and(|failure| failure.errno == Errno::EINVAL as i32 && self.version == Version::V1) {
            let swap = |write: &&Write| write.file == "memory.memsw.limit_in_bytes";
            let swap: Vec<Write> = other.writes.iter().filter(swap).cloned().collect();
            self.apply(&swap)?;
            return self.apply(&other.writes);
        }
        first
    }

    /// Gives new groups the processors and memory nodes of their parents: on version 1 they begin with none, and a process
    /// cannot join them so (`cpuset(7)`).
    fn fill_cpusets(&self, hierarchy: &Hierarchy) -> Step<()> {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let mut directory = hierarchy.mount.clone();
            let mut value = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
            for component in self.path.components() {
                directory.push(component);
                let path = directory.join(file);
                let describe = || format!("write {} to {}", value.trim(), path.display());
                let current = std::fs::read_to_string(&path).step(describe)?;
                if current.trim().is_empty() {
                    std::fs::write(&path, value.trim()).step(describe)?;
                } else {
                    value = current;
                }
            }
        }
        Ok(())
    }

    /// Makes the controllers available in the container's group: each ancestor has to hand them down
    /// (`cgroup.subtree_control`).
    fn enable_controllers(&self, hierarchy: &Hierarchy) -> Step<()> {
        let mut directory = hierarchy.mount.clone();
        let mut components = self.path.components().peekable();
        while let Some(component) = components.next() {
            let file = directory.join("cgroup.subtree_control");
            let enabled = std::fs::read_to_string(&file).step(|| format!("read {}", file.display()))?;
            for controller in &hierarchy.controllers {
                if !enabled.split_whitespace().any(|name| name == controller) {
                    std::fs::write(&file, format!("+{controller}"))
                        .step(|| format!("enable controller {controller} in {}", file.display()))?;
                }
            }
            directory.push(component);
            if components.peek().is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Returns the container's group in the hierarchy of this controller.
    pub fn directory(&self, controller: &str) -> Option<PathBuf> {
        let mut hierarchies = self.hierarchies.iter();
        let found = match self.version {
            Version::V1 => hierarchies.find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller)),
            Version::V2 => hierarchies.next(),
        };
        found.map(|hierarchy| hierarchy.mount.join(&self.path))
    }

    /// Opens the group of version 2, to clone a process into it.
    pub fn open(&self) -> Step<Option<OwnedFd>> {
        match (self.version, &self.hierarchies[..]) {
            (Version::V2, [hierarchy]) => {
                let path = hierarchy.mount.join(&self.path);
                open_directory(&path).map(Some).step(|| format!("open cgroup {}", path.display()))
            }
            _ => Ok(None),
        }
    }

    /// Opens the group of version 2 that the container's PID 1 has moved to, below its own.
    ///
    /// A group that hands its controllers on has no processes itself (`cgroups(7)`, "no internal processes"): an init that
    /// manages groups, such as systemd, moves to one below, and so must every further process.
    pub fn open_group_of(&self, init: Pid) -> Step<Option<OwnedFd>> {
        let [hierarchy] = &self.hierarchies[..] else { return Ok(None) };
        let file = format!("/proc/{init}/cgroup");
        let groups = std::fs::read_to_string(&file).step(|| format!("read {file}"))?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).map(Path::new);
        let Some(group) = group.filter(|group| group.starts_with(&self.path)) else {
            return Err(fault("the container's PID 1 has left its cgroup, which takes no more processes".into()));
        };
        let path = hierarchy.mount.join(group);
        open_directory(&path).map(Some).step(|| format!("open cgroup {}", path.display()))
    }

    /// Moves this process, which has one thread, into the groups of version 1.
    ///
    /// A thread that moves itself (`0` to `tasks`) is spared the lock that every other move takes (Linux 5.4, 9a3284fad42f),
    /// and with that the grace period of 5 to 10 ms that the lock waits for on an idle system.
    pub fn enter(&self) -> Step<()> {
        for hierarchy in &self.hierarchies {
            let path = hierarchy.mount.join(&self.path).join("tasks");
            std::fs::write(&path, "0").step(|| format!("write 0 to {}", path.display()))?;
        }
        Ok(())
    }

    /// Returns whether any of the groups is there, as far as one can look.
    pub fn exist(&self) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.mount.join(&self.path).try_exists().unwrap_or(true))
    }

    /// Removes the groups, and their ancestors (but for the outermost level of a hierarchy) as far as they are empty.
    ///
    /// A group whose last process has just ended may be busy for a moment still.
    pub fn remove(&self) -> io::Result<()> {
        let mut first_error = None;
        for hierarchy in &self.hierarchies {
            let path = hierarchy.mount.join(&self.path);
            if let Err(error) = remove_group(&path, self.version) {
                first_error.get_or_insert(error);
                continue;
            }
            let mut parent = self.path.parent();
            while let Some(relative) = parent.filter(|relative| !relative.as_os_str().is_empty()) {
                match remove_directory(&hierarchy.mount.join(relative)) {
                    Ok(()) => parent = relative.parent(),
                    // Not empty, or just removed by somebody else: both are fine.
                    Err(error) if is_busy(&error) || error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => {
                        first_error.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Returns whether the kernel killed a process of the container for want of memory.
    pub fn oom_killed(&self) -> bool {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let Some(directory) = self.directory("memory") else { return false };
        let text = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    /// Returns whether the processes of the container stand still.
    pub fn is_frozen(&self) -> bool {
        let (controller, file, frozen) = match self.version {
            Version::V1 => ("freezer", "freezer.state", "FROZEN"),
            Version::V2 => ("", "cgroup.freeze", "1"),
        };
        let path = self.directory(controller).map(|directory| directory.join(file));
        path.and_then(|path| std::fs::read_to_string(path).ok()).is_some_and(|state| state.trim() == frozen)
    }

    /// Stops or continues every process of the container. Returns when they stand still, or run.
    pub fn freeze(&self, frozen: bool) -> Step<()> {
        let (controller, file, value) = match (self.version, frozen) {
            (Version::V1, true) => ("freezer", "freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer", "freezer.state", "THAWED"),
            (Version::V2, true) => ("", "cgroup.freeze", "1"),
            (Version::V2, false) => ("", "cgroup.freeze", "0"),
        };
        let path = self
            .directory(controller)
            .ok_or_else(|| fault("freeze the container: the host has no freezer cgroup".into()))?
            .join(file);
        let write = || std::fs::write(&path, value).step(|| format!("write {value} to {}", path.display()));
        write()?;
        if !frozen {
            return Ok(());
        }
        let stand = match self.version {
            Version::V1 => {
                let standing = || std::fs::read_to_string(&path).is_ok_and(|state| state.trim() == value);
                let deadline = Instant::now() + PATIENCE;
                // It has no event: the state changes when it is read, and a process that was born meanwhile may be
                // overlooked until it is asked again.
                while !standing() && Instant::now() < deadline {
                    std::thread::sleep(FREEZER);
                    write()?;
                }
                standing()
            }
            Version::V2 => {
                let group = path.parent().unwrap_or(&path);
                events::wait(group, events::FROZEN, PATIENCE)
                    .step(|| format!("wait for the processes in {} to stand still", group.display()))?
            }
        };
        if !stand {
            // Half of it must not stay as it is.
            self.freeze(false)?;
            return Err(fault("freeze the container: its processes do not stand still".into()));
        }
        Ok(())
    }

    /// Kills every process in the groups: what a container without a PID namespace of its own leaves behind.
    pub fn kill_all(&self) {
        let Some(hierarchy) = self.hierarchies.first() else { return };
        let directory = hierarchy.mount.join(&self.path);
        if std::fs::write(directory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // A process may fork while the list is read, so until the list is empty; each round leaves fewer. What stands still
        // neither forks nor ends.
        let frozen = self.is_frozen();
        let deadline = Instant::now() + KILLED;
        loop {
            let members = members(&directory);
            for (_, process) in &members {
                // It may have ended meanwhile.
                pidfd::send_signal(process.as_fd(), Signal::SIGKILL as i32).ok();
            }
            if frozen {
                return;
            }
            for (_, process) in &members {
                let left = deadline.saturating_duration_since(Instant::now());
                // Where it does not end in time, nothing else would help.
                pidfd::wait_ended(process.as_fd(), left).ok();
            }
            if members.is_empty() || Instant::now() >= deadline {
                return;
            }
        }
    }
}

/// Returns the processes of a group.
fn members(group: &Path) -> Vec<(i32, OwnedFd)> {
    let list = || -> Vec<i32> {
        let list = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let open = |pid: i32| Some((pid, pidfd::open(Pid::from_raw(pid)).ok()?));
    let opened: Vec<_> = list().into_iter().filter_map(open).collect();
    // A number that was another process's by the time it was opened is not in the list any more.
    let still = list();
    opened.into_iter().filter(|(pid, _)| still.contains(pid)).collect()
}

fn open_directory(path: &Path) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Makes a directory and its ancestors up to `mount`, while others may remove them because they are empty.
fn make(path: &Path, mount: &Path) -> io::Result<()> {
    for _ in 0..100 {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent() != Some(mount) => {
                if let Some(parent) = path.parent() {
                    make(parent, mount)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            result => return result,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// Removes an empty group. Nobody comes back for it, so what may have been a failure of the moment is tried again.
fn remove_directory(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if !is_busy(&error) && error.kind() != io::ErrorKind::NotFound => std::fs::remove_dir(path),
        result => result,
    }
}

fn is_busy(error: &io::Error) -> bool {
    [Errno::EBUSY, Errno::ENOTEMPTY].map(|errno| Some(errno as i32)).contains(&error.raw_os_error())
}

/// Removes a group and, first, the groups that the container made in it.
fn remove_group(path: &Path, version: Version) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        let error = match remove_directory(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if !is_busy(&error) || Instant::now() >= deadline {
            return Err(error);
        }
        for entry in std::fs::read_dir(path)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_group(&entry.path(), version)?;
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match version {
            // The last member has just ended, of which version 1 tells nobody.
            Version::V1 => {
                std::thread::sleep(pause);
                pause += pause / 4;
            }
            Version::V2 => match events::wait(path, events::EMPTY, left) {
                Ok(_) => {}
                // Somebody else has removed it, as the next attempt tells.
                Err(error)
                    if [Errno::ENOENT, Errno::ENODEV].map(|e| Some(e as i32)).contains(&error.raw_os_error()) => {}
                Err(error) => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_parent_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rcompose/project/id");
        make(&path, directory.path()).unwrap();
        make(&path, directory.path()).unwrap();
        assert!(path.is_dir());
    }
}
