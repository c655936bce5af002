//! Further processes in a running container (`exec`).
//!
//! Two clones: a helper that enters the container's cgroups and namespaces, and the process itself, which the helper clones
//! inside (a PID namespace is entered by children only) as the shim's child, and which then executes the program.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, FsType};
use nix::unistd::Pid;
use oci_spec::runtime::{Process as OciProcess, UserBuilder};

use super::channel::{self, Message};
use super::config::{Namespaces, Network, Seccomp, ShimConfig, Time};
use super::init::{PROGRAM, console_size, filter, read_spec, set_oom_score};
use super::protocol::{Exec, ExecNews, Failure, FromShim};
use super::running::open_path;
use super::{Shim, died};
use crate::container::cgroup::{Plan, Version};
use crate::container::mounts::device::{self, Terminal};
use crate::container::step::{Context, Step, fault};
use crate::container::user::UserDatabase;
use crate::container::{beneath, capabilities, process as program};
use crate::id::Id;
use crate::sys::clone::{self, Cloned};
use crate::sys::{mount, pidfd, process, socket};

/// The container that a further process is to be in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Where `config.json` is.
    pub(crate) bundle: &'a Path,
    pub(crate) cgroup: &'a Plan,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) network: &'a Network,
    pub(crate) seccomp: Seccomp,
    /// Its PID 1.
    pub(crate) init: BorrowedFd<'a>,
}

impl<'a> Target<'a> {
    pub(super) fn new(shim: &'a Shim, init: BorrowedFd<'a>) -> Self {
        let ShimConfig { cgroup, namespaces, network, seccomp, .. } = &shim.config;
        Self { bundle: &shim.bundle, cgroup, namespaces, network, seccomp: *seccomp, init }
    }
}

/// What a further process is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// As PID 1, but for this.
    Like(&'a Exec),
    /// This, and descriptors from the number on close with the exec.
    Exactly(&'a OciProcess, RawFd),
}

impl Wanted<'_> {
    fn terminal(self) -> bool {
        match self {
            Self::Like(request) => request.tty,
            Self::Exactly(process, _) => process.terminal() == Some(true),
        }
    }

    /// Rows and columns of its terminal.
    fn size(self) -> Option<(u16, u16)> {
        match self {
            Self::Like(request) => request.size,
            Self::Exactly(process, _) => console_size(process),
        }
    }
}

/// A further process of the container.
#[derive(Debug)]
pub(crate) struct Process {
    /// The connection that asked for it.
    pub(super) connection: u64,
    /// The number that the asker gave it.
    pub(super) exec: u32,
    /// Its arguments, until the supervisor was told of it.
    args: Vec<String>,
    /// What events call it.
    id: Option<Id>,
    /// Until it has executed its program.
    channel: Option<OwnedFd>,
    helper: Option<OwnedFd>,
    child: Option<(i32, OwnedFd)>,
    master: Option<OwnedFd>,
    executing: bool,
    failure: Option<Failure>,
    killed: bool,
}

impl Process {
    /// Begins to start a process. `stdio` is its standard input, output and error; empty with a terminal.
    pub(crate) fn start(
        target: Target<'_>,
        (connection, exec): (u64, u32),
        wanted: Wanted<'_>,
        stdio: &[OwnedFd],
    ) -> Step<Self> {
        if !wanted.terminal() && stdio.len() != 3 {
            return Err(fault(format!("exec: {} standard streams were sent instead of 3", stdio.len())));
        }
        let (ours, theirs) = socket::pair().step(|| "make a socket pair for the process".into())?;
        let clone = |group: Option<OwnedFd>| clone::clone3(0, group.as_ref().map(AsFd::as_fd));
        let cloned = match clone(target.cgroup.open()?) {
            Err(Errno::EBUSY) => {
                let init = pidfd::pid(target.init).ok_or(Errno::ESRCH).step(|| "find the container's PID 1".into())?;
                clone(target.cgroup.open_group_of(init)?)
            }
            cloned => cloned,
        };
        match cloned.step(|| "clone the exec helper".into())? {
            Cloned::Child => {
                nix::unistd::close(ours.as_raw_fd()).ok();
                let Err(failure) = enter(target, wanted, &theirs, stdio);
                channel::send_failure(&theirs, &failure);
                clone::exit(failure.code)
            }
            Cloned::Parent { pidfd, .. } => Ok(Self {
                connection,
                exec,
                args: match wanted {
                    Wanted::Like(request) => request.args.clone(),
                    Wanted::Exactly(..) => Vec::new(),
                },
                id: None,
                channel: Some(ours),
                helper: Some(pidfd),
                child: None,
                master: None,
                executing: false,
                failure: None,
                killed: false,
            }),
        }
    }

    /// Returns the channel while the program is not executed yet.
    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|(_, pidfd)| pidfd.as_fd())
    }

    /// Returns what the supervisor is to know of it: once, when it was started or its program could not be executed.
    pub(super) fn began(&mut self) -> FromShim {
        let id = self.id.insert(Id::random()).clone();
        FromShim::Exec(ExecNews::Began { id, args: std::mem::take(&mut self.args) })
    }

    /// Returns what the supervisor is to know of its end.
    pub(super) fn ended(&self, code: i32) -> Option<FromShim> {
        self.id.clone().map(|id| FromShim::Exec(ExecNews::Ended { id, code }))
    }

    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.master.take()
    }

    /// Hears one message of the channel; returns the outcome once the program runs, or will not.
    pub(crate) fn hear(&mut self) -> Option<Result<i32, Failure>> {
        let channel = self.channel.as_ref()?;
        match channel::receive(channel) {
            Ok(Some(Message::Failed(failure))) => self.failure = Some(failure),
            Ok(Some(Message::Process(pid, pidfd))) => {
                self.child = Some((pid, pidfd));
                if self.killed {
                    self.kill();
                }
            }
            Ok(Some(Message::Terminal(master))) => self.master = Some(master),
            Ok(Some(Message::Executing)) => self.executing = true,
            Ok(Some(_)) | Err(Errno::EBADMSG | Errno::EMSGSIZE | Errno::EAGAIN) => {}
            Ok(None) | Err(_) => return Some(self.decide()),
        }
        None
    }

    /// Both the helper and the process have closed the channel.
    fn decide(&mut self) -> Result<i32, Failure> {
        self.channel = None;
        if let Some(helper) = self.helper.take() {
            // It has ended, or does so now.
            pidfd::kill_and_reap(helper.as_fd());
        }
        let failure = match (self.failure.take(), &self.child) {
            (None, Some((pid, _))) if self.executing => return Ok(*pid),
            (Some(failure), _) => failure,
            (None, _) => died("the process"),
        };
        if let Some((_, pidfd)) = self.child.take() {
            pidfd::kill_and_reap(pidfd.as_fd());
        }
        Err(failure)
    }

    /// Kills the process and its group; if it does not exist yet, as soon as it does.
    pub(super) fn kill(&mut self) {
        self.killed = true;
        let Some((pid, pidfd)) = &self.child else { return };
        // It leads its group. While the pidfd is not reaped the number cannot be another's.
        nix::sys::signal::killpg(Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).ok();
        pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL).ok();
    }
}

/// The helper: enters the container and clones the process there. Ends when that is done; returns only a failure.
fn enter(
    target: Target<'_>,
    request: Wanted<'_>,
    theirs: &OwnedFd,
    stdio: &[OwnedFd],
) -> Step<std::convert::Infallible> {
    // What the shim has open is none of the container's business. Its owners are in frames that are never returned to.
    let kept = stdio.iter().map(AsFd::as_fd).chain([target.init, theirs.as_fd()]).collect::<Vec<_>>();
    let first_closed = match request {
        Wanted::Like(_) => 3,
        Wanted::Exactly(_, first_closed) => first_closed,
    };
    process::close_all_but_from(first_closed, &kept).step(|| "close the shim's descriptors".into())?;
    process::forget_origin(PROGRAM).step(|| "forget the engine's environment".into())?;
    let spec = read_spec(target.bundle)?;
    let own = spec.process().as_ref().ok_or_else(|| fault("config.json has no process".into()))?;
    let mut wanted = match request {
        Wanted::Like(_) => own.clone(),
        Wanted::Exactly(process, _) => process.clone(),
    };
    let linux = spec.linux().clone().unwrap_or_default();
    if let Some(score) = wanted.oom_score_adj() {
        set_oom_score(score)?;
    }
    if target.cgroup.version == Version::V1 {
        target.cgroup.enter()?;
    }
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    if *target.network != Network::Host {
        namespaces |= CloneFlags::CLONE_NEWNET;
    }
    if target.namespaces.user.is_some() {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    if target.namespaces.time != Time::Host {
        // Time namespaces have no name in nix.
        namespaces |= CloneFlags::from_bits_retain(process::CLONE_NEWTIME);
    }
    setns(target.init, namespaces).step(|| "join the container's namespaces".into())?;
    let mut kind = target.seccomp;
    if let Wanted::Like(request) = request {
        adjust(&mut wanted, request)?;
        if request.privileged {
            kind = Seccomp::Unconfined;
        }
    }
    let terminal = if request.terminal() { Some(open_terminal(theirs, &wanted, request.size())?) } else { None };
    let filter = filter(kind, &linux, spec.process().as_ref().unwrap_or(&wanted))?;
    match clone::clone3(clone::PARENT, None).step(|| "clone the process".into())? {
        Cloned::Parent { pid, pidfd } => {
            channel::send_process(theirs, pid.as_raw(), pidfd.as_fd()).step(|| "tell the shim".into())?;
            clone::exit(0)
        }
        Cloned::Child => {
            connect(terminal.as_ref(), stdio)?;
            drop(terminal);
            match program::prepare(&wanted, filter.as_ref(), theirs.as_fd(), first_closed) {
                Ok(program) => channel::execute(theirs, &program),
                Err(failure) => Err(failure),
            }
        }
    }
}

/// Turns the container's own process into the one that is asked for.
fn adjust(wanted: &mut OciProcess, request: &Exec) -> Step<()> {
    wanted.set_args(Some(request.args.clone()));
    let mut env = wanted.env().clone().unwrap_or_default();
    if let Some(name) = &request.user {
        let users = UserDatabase::read(&["/"]).map_err(|error| fault(format!("read the user database: {error}")))?;
        let resolved = users.resolve(name, &[]).map_err(|error| fault(error.to_string()))?;
        // The home of PID 1's user was the engine's choice and gives way; a HOME that the image or the service set stays.
        let own = users.resolve(&wanted.user().uid().to_string(), &[]);
        let chosen = own.is_ok_and(|own| env.contains(&format!("HOME={}", own.home)));
        if chosen || !env.iter().any(|variable| variable.starts_with("HOME=")) {
            set_variable(&mut env, &format!("HOME={}", resolved.home));
        }
        let user = UserBuilder::default()
            .uid(resolved.uid)
            .gid(resolved.gid)
            .additional_gids(resolved.additional_gids)
            .build()
            .map_err(|error| fault(format!("describe the user: {error}")))?;
        wanted.set_user(user);
    }
    if request.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    for variable in &request.env {
        set_variable(&mut env, variable);
    }
    wanted.set_env(Some(env));
    if let Some(cwd) = &request.cwd {
        wanted.set_cwd(cwd.into());
    }
    if request.privileged {
        let all = Some(capabilities::to_oci(capabilities::available()));
        let mut sets = wanted.capabilities().clone().unwrap_or_default();
        sets.set_bounding(all.clone()).set_permitted(all.clone()).set_effective(all);
        wanted.set_capabilities(Some(sets));
        if wanted.apparmor_profile().is_some() {
            wanted.set_apparmor_profile(Some("unconfined".to_owned()));
        }
    }
    Ok(())
}

/// Sets `NAME=value` in an environment, or takes `NAME` out of it.
fn set_variable(env: &mut Vec<String>, variable: &str) {
    let (name, value) = variable.split_once('=').map_or((variable, None), |(name, value)| (name, Some(value)));
    env.retain(|known| known.split_once('=').is_none_or(|(known, _)| known != name));
    if value.is_some() {
        env.push(variable.to_owned());
    }
}

/// Allocates a terminal in the container's own `devpts` and sends its master to the shim.
fn open_terminal(theirs: &OwnedFd, wanted: &OciProcess, size: Option<(u16, u16)>) -> Step<Terminal> {
    let describe = || "allocate a terminal".to_owned();
    let root = open_path("/").step(describe)?;
    let devpts = beneath::open(&root, "/dev/pts", OFlag::O_PATH | OFlag::O_DIRECTORY).step(describe)?;
    if !mount::is_filesystem(&devpts, devpts_magic()).step(describe)? {
        return Err(fault("allocate a terminal: /dev/pts of the container is no devpts".into()));
    }
    let terminal = Terminal::allocate(devpts.as_fd(), wanted.user().uid())?;
    if let Some((rows, columns)) = size {
        process::set_terminal_size(terminal.master.as_fd(), rows, columns)
            .step(|| "set the size of the terminal".into())?;
    }
    channel::send_terminal(theirs, terminal.master.as_fd()).step(|| "hand over the terminal".into())?;
    Ok(terminal)
}

fn devpts_magic() -> FsType {
    DEVPTS_SUPER_MAGIC
}

/// Begins a session with these standard streams.
fn connect(terminal: Option<&Terminal>, stdio: &[OwnedFd]) -> Step<()> {
    let describe = || "connect the standard input, output and error".to_owned();
    nix::unistd::setsid().step(|| "begin a session".into())?;
    let mut null = None;
    for number in 0..3 {
        let own = usize::try_from(number).ok().and_then(|index| stdio.get(index));
        let Some(mut fd) = terminal.map(|terminal| &terminal.peer).or(own) else { continue };
        // The host's is none of the container's business (`device::null`).
        if device::is_null(fd).step(describe)? {
            if null.is_none() {
                let root = open_path("/").step(describe)?;
                null = Some(device::null_inside(root.as_fd())?);
            }
            fd = null.as_ref().unwrap_or(fd);
        }
        process::dup_to_stdio(fd.as_fd(), number).step(describe)?;
    }
    if let Some(terminal) = terminal {
        process::set_controlling_terminal(terminal.peer.as_fd())
            .step(|| "make the terminal the controlling one".into())?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    Ok(())
}
