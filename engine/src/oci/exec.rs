//! `exec`: a further process in a container.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{Capability, Process as OciProcess};

use super::OciError;
use super::attached;
use super::convert::check_process;
use super::create::{check_console, check_preserved, first_closed, send_console, stdio, write_pid};
use super::state::{Runtime, Status, read};
use crate::container::capabilities;
use crate::container::step::Context;
use crate::shim::exec::{Process, Target, Wanted};
use crate::sys::capabilities::Set;

/// A further process that is to be started.
#[derive(Debug, Clone)]
pub struct Exec {
    pub id: String,
    pub process: OciProcess,
    pub pid_file: Option<PathBuf>,
    /// A socket that gets the master of the process's terminal.
    pub console_socket: Option<PathBuf>,
    pub detach: bool,
    /// How many descriptors from 3 on the process gets.
    pub preserve_fds: u32,
    /// Whether a container whose processes stand still is as good as one that runs.
    pub ignore_paused: bool,
}

/// What a further process has that the container's own has not.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<(u32, Option<u32>)>,
    pub additional_gids: Vec<u32>,
    pub terminal: bool,
    /// Names of capabilities that it gets besides.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
}

impl Runtime {
    /// Returns the description of a process in a file (`exec --process`).
    pub fn read_process(path: &std::path::Path) -> Result<OciProcess, OciError> {
        read(path)
    }

    /// Returns the description of a process that is as the container's own but for some things.
    pub fn process_like(&self, id: &str, overrides: &Overrides) -> Result<OciProcess, OciError> {
        let spec = self.find(id)?.spec()?;
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_args(Some(overrides.args.clone())).set_terminal(Some(overrides.terminal));
        let mut env = process.env().clone().unwrap_or_default();
        for variable in &overrides.env {
            let name = variable.split_once('=').map_or(&**variable, |(name, _)| name);
            env.retain(|known| known.split_once('=').map_or(&**known, |(name, _)| name) != name);
            env.push(variable.clone());
        }
        process.set_env(Some(env));
        if let Some(cwd) = &overrides.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some((uid, gid)) = overrides.user {
            process.user_mut().set_uid(uid);
            process.user_mut().set_gid(gid.unwrap_or(0));
        }
        if !overrides.additional_gids.is_empty() {
            let mut groups = process.user().additional_gids().clone().unwrap_or_default();
            groups.extend(&overrides.additional_gids);
            process.user_mut().set_additional_gids(Some(groups));
        }
        if overrides.no_new_privileges {
            process.set_no_new_privileges(Some(true));
        }
        let mut more = 0;
        for name in &overrides.capabilities {
            let number = capabilities::number(name)
                .ok_or_else(|| OciError::property("--cap", format!("there is no capability `{name}`")))?;
            more |= 1_u64 << number;
        }
        if more != 0 {
            let mut sets = process.capabilities().clone().unwrap_or_default();
            let added = capabilities::to_oci(Set(more));
            let join = |known: &Option<std::collections::HashSet<Capability>>| {
                Some(known.iter().flatten().chain(&added).copied().collect())
            };
            let (bounding, effective) = (join(sets.bounding()), join(sets.effective()));
            let permitted = join(sets.permitted());
            sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
            process.set_capabilities(Some(sets));
        }
        Ok(process)
    }

    /// Starts a further process. Unless it is detached, waits for its end and returns its exit code.
    pub fn exec(&self, request: &Exec) -> Result<i32, OciError> {
        let container = self.find(&request.id)?;
        let (status, process) = container.status()?;
        let able =
            matches!(status, Status::Created | Status::Running) || status == Status::Paused && request.ignore_paused;
        let opened = process.filter(|_| able).and_then(super::state::Process::open);
        let Some(init) = opened else {
            return Err(OciError::Status { id: request.id.clone(), status, wanted: "running" });
        };
        check_process(&request.process, "process")?;
        let terminal = request.process.terminal() == Some(true);
        check_console(terminal, request.detach, request.console_socket.as_deref())?;
        check_preserved(request.preserve_fds)?;
        let record = container.known()?;
        let target = Target {
            bundle: &container.directory,
            cgroup: &record.cgroup,
            namespaces: &record.namespaces,
            network: &record.network,
            seccomp: record.seccomp,
            init: init.as_fd(),
        };
        let wanted = Wanted::Exactly(&request.process, first_closed(request.preserve_fds));
        let null = || std::fs::File::options().read(true).write(true).open("/dev/null").map(Into::into);
        let mut streams = Vec::new();
        for stream in stdio().into_iter().take(if terminal { 0 } else { 3 }) {
            streams.push(stream.map_or_else(null, Ok).step(|| "open /dev/null".into())?);
        }
        let mut process = Process::start(target, (0, 0), wanted, &streams)?;
        drop(streams);
        let pid = loop {
            if let Some(channel) = process.channel() {
                // An interrupted wait is one that is begun again.
                poll(&mut [PollFd::new(channel, PollFlags::POLLIN)], PollTimeout::NONE).ok();
            }
            if let Some(outcome) = process.hear() {
                break outcome?;
            }
        };
        let mut master = process.take_terminal();
        if let Some(path) = &request.pid_file {
            write_pid(path, pid)?;
        }
        if let (Some(path), Some(terminal)) = (&request.console_socket, &master) {
            send_console(path, terminal.as_fd())?;
            master = None;
        }
        match process.pidfd() {
            Some(pidfd) if !request.detach => attached::wait(pidfd, master),
            _ => Ok(0),
        }
    }
}
