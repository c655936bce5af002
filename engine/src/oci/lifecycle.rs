//! What can be done with a container that is there: look at it, signal it, stop its processes for a while, change its
//! limits, delete it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use nix::errno::Errno;
use oci_spec::runtime::{ContainerState, LinuxResources};
use serde::Serialize;
use serde_json::Value;

use super::OciError;
use super::state::{Record, Runtime, Status};
use crate::container::cgroup::limits;
use crate::container::{hooks, signal, stats};
use crate::host::Host;
use crate::shim::config::Namespace;
use crate::sys::pidfd;

/// How long a process that was killed may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A line of the list of containers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub oci_version: String,
    pub id: String,
    /// 0 where it has none.
    pub pid: i32,
    pub status: &'static str,
    pub bundle: String,
    pub created: String,
    /// The name, or else the number, of the user that it belongs to.
    pub owner: String,
}

impl Runtime {
    /// Returns the container's state as JSON (OCI runtime specification, "State").
    pub fn state(&self, id: &str) -> Result<Value, OciError> {
        let container = self.find(id)?;
        let (status, _) = container.status()?;
        let path = container.directory.clone();
        let mut state = serde_json::to_value(container.state()?).map_err(|source| OciError::Parse { path, source })?;
        // Not of the specification, which allows more.
        state["status"] = status.as_str().into();
        Ok(state)
    }

    /// Returns all containers.
    pub fn list(&self) -> Result<Vec<Listed>, OciError> {
        let mut list = Vec::new();
        for id in self.names()? {
            // One that is deleted meanwhile is not there.
            let Ok(container) = self.find(&id) else { continue };
            let Ok((status, process)) = container.status() else { continue };
            let record = container.record()?;
            let uid = std::fs::metadata(&container.directory).map(|metadata| metadata.uid()).unwrap_or_default();
            list.push(Listed {
                oci_version: record.as_ref().map_or_else(|| super::VERSION.into(), |record| record.oci_version.clone()),
                id,
                pid: process.map_or(0, |process| process.pid),
                status: status.as_str(),
                bundle: record.as_ref().map(|record| record.bundle.display().to_string()).unwrap_or_default(),
                created: record.map(|record| record.created.to_string()).unwrap_or_default(),
                owner: if uid == 0 { "root".into() } else { uid.to_string() },
            });
        }
        Ok(list)
    }

    /// Sends a signal, given by name or number, to the container's process, or to all its processes.
    pub fn kill(&self, id: &str, name: &str, all: bool) -> Result<(), OciError> {
        let number = signal::parse(name).ok_or_else(|| OciError::Signal(name.to_owned()))?;
        let container = self.find(id)?;
        let (status, process) = container.status()?;
        let opened = process.and_then(super::state::Process::open);
        let record = container.record()?;
        let (Some(pidfd), Some(record)) = (opened, record) else {
            return Err(OciError::Status { id: id.to_owned(), status, wanted: "running" });
        };
        if all {
            for pid in stats::pids(&record.cgroup) {
                match pidfd::open(nix::unistd::Pid::from_raw(pid)).and_then(|fd| pidfd::send_signal(fd.as_fd(), number))
                {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(OciError::Kill(errno)),
                }
            }
            return Ok(());
        }
        if number == libc::SIGKILL && record.namespaces.pid != Namespace::New {
            // Nobody else kills the rest of a container that has no PID namespace of its own.
            record.cgroup.kill_all();
        }
        match pidfd::send_signal(pidfd.as_fd(), number) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(OciError::Kill(errno)),
        }
        if number == libc::SIGKILL && status == Status::Paused {
            record.cgroup.freeze(false)?;
        }
        Ok(())
    }

    /// Deletes a container that has ended; with `force` it is ended, and need not even be there. Returns warnings: hooks
    /// that failed.
    pub fn delete(&self, id: &str, force: bool) -> Result<Vec<String>, OciError> {
        let container = match self.find(id) {
            Err(OciError::Unknown(_)) if force => return Ok(Vec::new()),
            found => found?,
        };
        let _lock = container.lock()?;
        let (status, process) = container.status_locked()?;
        let mut warnings = Vec::new();
        // One that was killed before it wrote anything down has made nothing.
        if let Some(record) = container.record()? {
            if let Some(pidfd) = process.and_then(super::state::Process::open) {
                if !force {
                    return Err(OciError::Status { id: id.to_owned(), status, wanted: "stopped" });
                }
                end(&record, pidfd.as_fd())?;
            }
            // What it left behind, or what a runtime that was killed had begun.
            record.cgroup.kill_all();
            let poststop = container.spec()?.hooks().as_ref().and_then(|hooks| hooks.poststop().clone());
            if let Some(poststop) = poststop.filter(|_| container.process().is_ok_and(|process| process.is_some())) {
                let state = record.subject().text(ContainerState::Stopped, None)?;
                let failures = hooks::run_all("poststop", Some(&poststop), &state);
                warnings.extend(failures.iter().map(ToString::to_string));
            }
            record.cgroup.remove().map_err(|source| OciError::Write { path: record.cgroup.path.clone(), source })?;
        }
        container.remove()?;
        Ok(warnings)
    }

    /// Stops all processes of a container for a while, or lets them go on.
    pub fn pause(&self, id: &str, pause: bool) -> Result<(), OciError> {
        let container = self.find(id)?;
        let _lock = container.lock()?;
        let (status, _) = container.status_locked()?;
        let (allowed, wanted) = match status {
            Status::Created | Status::Running => (pause, "paused"),
            Status::Paused => (!pause, "running"),
            Status::Creating | Status::Stopped => (false, "running"),
        };
        if !allowed {
            return Err(OciError::Status { id: id.to_owned(), status, wanted });
        }
        Ok(container.known()?.cgroup.freeze(pause)?)
    }

    /// Changes the limits of a container; what is not said stays as it is.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), OciError> {
        let container = self.find(id)?;
        let _lock = container.lock()?;
        let (status, process) = container.status_locked()?;
        if process.is_none() {
            return Err(OciError::Status { id: id.to_owned(), status, wanted: "running" });
        }
        let mut record = container.known()?;
        let mut resources = resources.clone();
        // Devices are decided when the container is made.
        resources.set_devices(None);
        let plan = limits::plan(record.cgroup.path.clone(), &resources, &Host::detect()?)
            .map_err(|error| OciError::property("linux.resources", error.to_string()))?;
        record.cgroup.update(&plan)?;
        container.write_record(&record)
    }

    /// Returns the numbers of all processes of a container.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>, OciError> {
        let container = self.find(id)?;
        let (status, process) = container.status()?;
        if process.is_none() {
            return Err(OciError::Status { id: id.to_owned(), status, wanted: "running" });
        }
        Ok(stats::pids(&container.known()?.cgroup))
    }
}

/// Kills a container's process and waits for its end.
pub(super) fn end(record: &Record, process: BorrowedFd<'_>) -> Result<(), OciError> {
    match pidfd::send_signal(process, libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(OciError::Kill(errno)),
    }
    if record.cgroup.is_frozen() {
        record.cgroup.freeze(false)?;
    }
    match pidfd::wait_ended(process, PATIENCE) {
        Ok(true) => Ok(()),
        Ok(false) => Err(OciError::Kill(Errno::ETIMEDOUT)),
        Err(errno) => Err(OciError::Kill(errno)),
    }
}
