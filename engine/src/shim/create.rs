//! Creating a container: cgroups, streams, the clone into new namespaces, and waiting until it has executed its program.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, Hooks};

use super::channel::{self, Message};
use super::config::{Mappings, Namespace, Namespaces, Network, Time};
use super::init::{Init, Sources, read_spec};
use super::protocol::{self, Failure, ToShim};
use super::running::{Kept, Place, Running};
use super::stdio::{self, Output};
use super::{Shim, died};
use crate::container::hooks::{self, Subject};
use crate::container::step::{Context, Step, fault};
use crate::sys::clone::{self, Cloned};
use crate::sys::{pidfd, process, socket};

/// Creates and starts the container. Where a step fails, nothing of it is left.
pub(super) fn create(shim: Shim, supervisor: &OwnedFd) -> Step<Running> {
    match std::fs::remove_file(shim.bundle.join(stdio::EXIT)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).step(|| "remove the record of the last exit".into());
        }
        _ => {}
    }
    shim.config.cgroup.create()?;
    let cgroup = shim.config.cgroup.clone();
    start(shim, supervisor).inspect_err(|_| {
        // The failure that came first is the one to tell.
        cgroup.remove().ok();
    })
}

fn start(shim: Shim, supervisor: &OwnedFd) -> Step<Running> {
    let stdio = stdio::create(&shim)?;
    let mut output = Output::open(&shim)?;
    let mut place = Place::prepare(&shim)?;
    place.input = stdio.input;
    // Told to the supervisor where the container shares it.
    let host_network = nix::fcntl::open("/proc/self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .step(|| "open the host's network namespace".into())?;
    let (ours, theirs) = socket::pair().step(|| "make a socket pair for init".into())?;
    let (pid, pidfd) = clone_init(&shim, stdio.container, &ours, theirs)?;
    let mut started = Starting::default();
    let runs = started.watch(&shim, supervisor, &ours, pid).and_then(|()| run_poststart(&shim, pid));
    if let Err(failure) = runs {
        pidfd::kill_and_reap(pidfd.as_fd());
        return Err(failure);
    }
    if let Some(master) = started.master {
        output = Output::terminal(master);
    }
    let network = started.network.unwrap_or(host_network);
    let running = Running::new(shim, place, pid, pidfd, network, started.kept, output);
    // What the supervisor never heard of it would not end either.
    running.introduce(supervisor).inspect_err(|_| pidfd::kill_and_reap(running.pidfd()))?;
    Ok(running)
}

/// Runs the hooks of a container whose program has just begun.
fn run_poststart(shim: &Shim, pid: Pid) -> Step<()> {
    if !shim.config.hooks {
        return Ok(());
    }
    let (subject, hooks) = hooks_of(shim)?;
    let state = subject.text(ContainerState::Running, Some(pid.as_raw()))?;
    hooks::run("poststart", hooks.poststart().as_deref(), &state)
}

/// Clones init into the namespaces and the cgroup of version 2 that it is to have. `theirs` is its end of the channel.
fn clone_init(shim: &Shim, stdio: [Option<OwnedFd>; 3], ours: &OwnedFd, theirs: OwnedFd) -> Step<(Pid, OwnedFd)> {
    let init = Init {
        bundle: &shim.bundle,
        config: shim.config.blueprint(&shim.run),
        size: shim.attended.and_then(|attended| attended.size),
        channel: theirs,
        stdio,
        sources: Sources::new(),
        start: None,
        first_closed: 3,
    };
    clone(init, ours)
}

/// Clones a container's init, which begins with what it is given. `ours` is this process's end of the channel.
pub(crate) fn clone(init: Init<'_>, ours: &OwnedFd) -> Step<(Pid, OwnedFd)> {
    let describe = || "clone the container's init".to_owned();
    let Namespaces { pid, ipc, uts, cgroup, user, time } = init.config.namespaces;
    let mut flags = clone::NEWNS;
    for (namespace, flag) in [(pid, clone::NEWPID), (ipc, clone::NEWIPC), (uts, clone::NEWUTS)] {
        if *namespace == Namespace::New {
            flags |= flag;
        }
    }
    if *init.config.network == Network::New {
        flags |= clone::NEWNET;
    }
    if user.is_some() {
        flags |= clone::NEWUSER;
    }
    let group = init.config.cgroup.open()?;
    // The new cgroup namespace begins at the group that the process is in: on version 1 init makes it later.
    if group.is_some() && *cgroup == Namespace::New {
        flags |= clone::NEWCGROUP;
    }
    let open = |path: &Path| nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    // These are entered by children only: join for the one clone, then turn back.
    let own_time = if *time == Time::Host { None } else { Some(open(Path::new("/proc/self/ns/time")).step(describe)?) };
    enter_time(time)?;
    let own = match pid {
        Namespace::Path(path) => {
            let own = open(Path::new("/proc/self/ns/pid")).step(describe)?;
            let describe = || format!("join namespace {}", path.display());
            setns(open(path).step(describe)?, CloneFlags::CLONE_NEWPID).step(describe)?;
            Some(own)
        }
        _ => None,
    };
    let cloned = clone::clone3(flags, group.as_ref().map(AsFd::as_fd));
    if !matches!(cloned, Ok(Cloned::Child)) {
        if let Some(own) = own {
            setns(own, CloneFlags::CLONE_NEWPID).step(|| "return to the host's PID namespace".into())?;
        }
        if let Some(own) = own_time {
            process::join_time_namespace(own.as_fd()).step(|| "return to the host's time namespace".into())?;
        }
    }
    match cloned.step(describe)? {
        Cloned::Parent { pid, pidfd } => {
            if let Some(mappings) = user
                && let Err(failure) = map_ids(pid, mappings, ours)
            {
                pidfd::kill_and_reap(pidfd.as_fd());
                return Err(failure);
            }
            Ok((pid, pidfd))
        }
        Cloned::Child => {
            // The other end must close here, or the death of who has it would not be noticed.
            close_copy(ours);
            init.become_container()
        }
    }
}

/// Makes a time namespace for the next child, or joins one.
fn enter_time(time: &Time) -> Step<()> {
    match time {
        Time::Host => Ok(()),
        Time::New(offsets) => {
            process::new_time_namespace().step(|| "make a time namespace".into())?;
            offsets.iter().try_for_each(|line| {
                std::fs::write("/proc/self/timens_offsets", line).step(|| format!("set the time offset {line}"))
            })
        }
        Time::Path(path) => {
            let describe = || format!("join namespace {}", path.display());
            let namespace = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?;
            process::join_time_namespace(namespace.as_fd()).step(describe)
        }
    }
}

/// Maps the ids of a process's new user namespace, and tells it.
fn map_ids(pid: Pid, mappings: &Mappings, channel: &OwnedFd) -> Step<()> {
    for (file, text) in ["uid_map", "gid_map"].into_iter().zip(mappings.texts()) {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, &text).step(|| format!("write {} to {path}", text.trim().replace('\n', ", ")))?;
    }
    channel::send_mapped(channel).step(|| "tell init of its ids".into())
}

/// Closes this process's copy of a descriptor that its parent owns.
fn close_copy(fd: &OwnedFd) {
    use std::os::fd::AsRawFd;
    nix::unistd::close(fd.as_raw_fd()).ok();
}

/// Reads a container's hooks, and what they are told of it.
pub(super) fn hooks_of(shim: &Shim) -> Step<(Subject, Hooks)> {
    let spec = read_spec(&shim.bundle)?;
    let (version, id) = (spec.version().clone(), shim.id.as_str().to_owned());
    let subject = Subject { version, id, bundle: shim.bundle.clone(), annotations: spec.annotations().clone() };
    Ok((subject, spec.hooks().clone().unwrap_or_default()))
}

/// A container on its way to its program.
#[derive(Debug, Default)]
struct Starting {
    network: Option<OwnedFd>,
    kept: Kept,
    master: Option<OwnedFd>,
    executing: bool,
    failure: Option<Failure>,
}

impl Starting {
    /// Serves init and the supervisor until init has executed the program.
    fn watch(&mut self, shim: &Shim, supervisor: &OwnedFd, init: &OwnedFd, pid: Pid) -> Step<()> {
        let mut supervised = true;
        loop {
            let mut fds = vec![PollFd::new(init.as_fd(), PollFlags::POLLIN)];
            if supervised {
                fds.push(PollFd::new(supervisor.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result.step(|| "wait for init".into())?,
            };
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            if ready.get(1) == Some(&true) {
                supervised = self.hear_supervisor(shim, supervisor, init)?;
            }
            if ready[0] && self.hear_init(shim, init, pid)? {
                return match self.failure.take() {
                    Some(failure) => Err(failure),
                    None if self.executing => Ok(()),
                    None => Err(died("the container's init")),
                };
            }
        }
    }

    /// An init that cannot be told anything any more has ended, and has said why.
    fn tell_init(sent: nix::Result<()>, what: &str) -> Step<()> {
        match sent {
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Ok(()),
            result => result.step(|| what.to_owned()),
        }
    }

    /// Returns whether the supervisor is still there.
    fn hear_supervisor(&mut self, shim: &Shim, supervisor: &OwnedFd, init: &OwnedFd) -> Step<bool> {
        match protocol::receive::<ToShim>(supervisor).step(|| "hear the supervisor".into())? {
            Some((ToShim::Network, mut fds)) if !fds.is_empty() => {
                let namespace = fds.remove(0);
                Self::tell_init(channel::send_network(init, namespace.as_fd()), "hand the network to init")?;
                self.network = Some(namespace);
            }
            Some((ToShim::Keep { names }, fds)) => self.kept.add(names, fds),
            Some(_) => {}
            None if shim.config.network == Network::Sent && self.network.is_none() => {
                return Err(fault("the supervisor is gone, and with it the network".into()));
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Returns whether init has said its last word.
    fn hear_init(&mut self, shim: &Shim, init: &OwnedFd, pid: Pid) -> Step<bool> {
        match channel::receive(init).step(|| "hear init".into())? {
            Some(Message::Failed(failure)) => self.failure = Some(failure),
            Some(Message::Terminal(master)) => self.master = Some(master),
            Some(Message::Executing) => self.executing = true,
            Some(Message::Hooks) => {
                let (subject, hooks) = hooks_of(shim)?;
                let state = subject.text(ContainerState::Creating, Some(pid.as_raw()))?;
                hooks::before_start(&hooks, &state)?;
                Self::tell_init(channel::send_go_on(init, &state), "tell init that the hooks have run")?;
            }
            Some(_) => {}
            None => return Ok(true),
        }
        Ok(false)
    }
}
