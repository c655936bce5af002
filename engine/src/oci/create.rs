//! `create`, `start`, and both in one, `run`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, Spec};

use super::OciError;
use super::convert::{convert, is_socket};
use super::state::{CONFIG, Container, Lock, Process, Record, Runtime, START, Status, read};
use super::{attached, lifecycle};
use crate::container::hooks;
use crate::container::mounts::clone_source;
use crate::container::mounts::options::{self, Options};
use crate::container::step::{Context, Step, fault};
use crate::host::Host;
use crate::shim::channel::{self, Message};
use crate::shim::config::{Blueprint, MountExtra, RootSource};
use crate::shim::init::{Init, Sources, set_oom_score};
use crate::shim::protocol::Failure;
use crate::sys::mount::{self, Attributes};
use crate::sys::{pidfd, process, socket};

/// A container that is to be made.
#[derive(Debug, Clone)]
pub struct Create {
    pub id: String,
    /// The directory of `config.json`.
    pub bundle: PathBuf,
    /// A file that gets the number of the container's process.
    pub pid_file: Option<PathBuf>,
    /// A socket that gets the master of the container's terminal.
    pub console_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the container's process gets.
    pub preserve_fds: u32,
}

/// A container that was made and waits for its start.
#[derive(Debug)]
struct Made {
    pidfd: OwnedFd,
    /// The terminal's master, where nobody else was given it.
    master: Option<OwnedFd>,
    warnings: Vec<String>,
}

impl Runtime {
    /// Creates a container, whose program waits for [`Runtime::start`]. Returns warnings.
    pub fn create(&self, request: &Create) -> Result<Vec<String>, OciError> {
        Ok(self.make(request, true)?.warnings)
    }

    /// Executes the program of a container that was created.
    pub fn start(&self, id: &str) -> Result<(), OciError> {
        let container = self.find(id)?;
        let lock = container.lock()?;
        let (status, process) = container.status_locked()?;
        let (Status::Created, Some(process)) = (status, process) else {
            return Err(OciError::Status { id: id.to_owned(), status, wanted: "created" });
        };
        let spec = container.spec()?;
        let record = container.known()?;
        let subject = record.subject();
        let directory = container.open()?;
        execute(&directory, &subject.text(ContainerState::Created, Some(process.pid))?)?;
        // From now on it counts as running.
        let socket = container.directory.join(START);
        std::fs::remove_file(&socket).map_err(|source| OciError::Write { path: socket, source })?;
        drop(lock);
        let poststart = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_deref());
        if poststart.is_none_or(<[_]>::is_empty) {
            return Ok(());
        }
        let state = subject.text(ContainerState::Running, Some(process.pid))?;
        if let Err(failure) = hooks::run("poststart", poststart, &state) {
            if let Some(pidfd) = process.open() {
                lifecycle::end(&record, pidfd.as_fd())?;
            }
            return Err(failure.into());
        }
        Ok(())
    }

    /// Creates and starts a container. Unless it is detached, waits for its end, removes it if it is not to be kept, and
    /// returns the exit code of its program.
    pub fn run(&self, request: &Create, detach: bool, keep: bool) -> Result<(i32, Vec<String>), OciError> {
        let made = self.make(request, detach)?;
        let started = self.start(&request.id);
        if let Err(error) = started {
            pidfd::kill_and_reap(made.pidfd.as_fd());
            self.delete(&request.id, true)?;
            return Err(error);
        }
        if detach {
            return Ok((0, made.warnings));
        }
        let code = attached::wait(made.pidfd.as_fd(), made.master)?;
        let mut warnings = made.warnings;
        if !keep {
            warnings.extend(self.delete(&request.id, true)?);
        }
        Ok((code, warnings))
    }

    /// Makes everything of a container but its program's execution. What was made is removed where a step fails.
    fn make(&self, request: &Create, detach: bool) -> Result<Made, OciError> {
        let bundle = request.bundle.canonicalize();
        let bundle = bundle.map_err(|source| OciError::Read { path: request.bundle.clone(), source })?;
        let spec: Spec = read(&bundle.join(CONFIG))?;
        let (spec, record, warnings) = convert(&request.id, &bundle, spec, &Host::detect()?)?;
        let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal) == Some(true);
        check_console(terminal, detach, request.console_socket.as_deref())?;
        check_preserved(request.preserve_fds)?;
        let (container, lock) = self.add(&request.id)?;
        match make(request, &container, &spec, &record) {
            Ok((pidfd, master)) => {
                drop(lock);
                Ok(Made { pidfd, master, warnings })
            }
            Err(error) => {
                clear(&container, &lock, &record);
                Err(error)
            }
        }
    }
}

/// Removes what is left of a container that could not be made.
fn clear(container: &Container, _lock: &Lock, record: &Record) {
    // The failure that came first is the one to tell.
    record.cgroup.remove().ok();
    container.remove().ok();
}

/// Makes sure that somebody gets the master of a terminal.
pub(super) fn check_console(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<(), OciError> {
    match (terminal, detach, socket) {
        (true, true, None) => Err(OciError::Usage(
            "process.terminal: a container that is detached needs --console-socket, which gets its terminal",
        )),
        (false, _, Some(_)) => Err(OciError::Usage("--console-socket: the process is to have no terminal")),
        (_, _, Some(path)) if !is_socket(path) => Err(OciError::Console {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "it is not a socket"),
        }),
        _ => Ok(()),
    }
}

/// Makes sure that the descriptors that are to be kept are there: otherwise ones of ours would have their numbers.
pub(super) fn check_preserved(count: u32) -> Result<(), OciError> {
    process::keep_on_exec(3, first_closed(count))
        .map_err(|_| OciError::Usage("--preserve-fds: not all of these descriptors are open"))
}

pub(super) fn first_closed(preserved: u32) -> RawFd {
    3_i32.saturating_add(i32::try_from(preserved).unwrap_or(i32::MAX))
}

fn make(
    request: &Create,
    container: &Container,
    spec: &Spec,
    record: &Record,
) -> Result<(OwnedFd, Option<OwnedFd>), OciError> {
    container.write(spec, record)?;
    record.cgroup.create()?;
    let directory = container.open()?;
    let listener = socket::listen_in(&directory, START).step(|| format!("listen at {START}"))?;
    let (ours, theirs) = socket::pair().step(|| "make a socket pair for init".into())?;
    if let (Some(score), Some(_)) =
        (spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj), &record.namespaces.user)
    {
        // Its root may not lower it.
        set_oom_score(score)?;
    }
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let tree = tree(&root, spec)?;
    let extras = BTreeMap::new();
    let config = Blueprint {
        rootfs: RootSource::Tree(tree.as_fd(), &root),
        mounts: &extras,
        create_host_paths: &[],
        cgroup: &record.cgroup,
        namespaces: &record.namespaces,
        network: &record.network,
        init: false,
        seccomp: record.seccomp,
        hooks: spec.hooks().as_ref().is_some_and(hooks::belong_to_creation),
    };
    let init = Init {
        bundle: &container.directory,
        config,
        size: None,
        channel: theirs,
        stdio: stdio(),
        sources: if record.namespaces.user.is_some() { sources(spec)? } else { Sources::new() },
        start: Some(listener),
        first_closed: first_closed(request.preserve_fds),
    };
    let (pid, pidfd) = crate::shim::create::clone(init, &ours)?;
    let mut making = Making::default();
    let result = making
        .watch(spec, record, &ours, pid)
        .map_err(OciError::from)
        .and_then(|()| hand_over(request, container, making.master.take(), &ours, pid));
    match result {
        Ok(master) => Ok((pidfd, master)),
        Err(error) => {
            pidfd::kill_and_reap(pidfd.as_fd());
            if making.hooked {
                let state = record.subject().text(ContainerState::Stopped, None)?;
                let poststop = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref());
                // What failed first is the one to tell.
                drop(hooks::run_all("poststop", poststop, &state));
            }
            Err(error)
        }
    }
}

/// Returns the caller's standard streams; one that is closed becomes the container's null device.
pub(super) fn stdio() -> [Option<OwnedFd>; 3] {
    let streams = [
        std::io::stdin().as_fd().try_clone_to_owned(),
        std::io::stdout().as_fd().try_clone_to_owned(),
        std::io::stderr().as_fd().try_clone_to_owned(),
    ];
    streams.map(Result::ok)
}

/// Clones what is mounted at the container's root.
fn tree(root: &Path, spec: &Spec) -> Step<OwnedFd> {
    let describe = || format!("open the root {}", root.display());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(root, flags, Mode::empty()).step(describe)?;
    let tree = mount::open_tree_clone(directory.as_fd(), c"", true).step(describe)?;
    let wanted = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let follows = wanted.and_then(options::propagation).map(|(kind, _)| kind);
    let follows = follows.is_some_and(|kind| kind == libc::MS_SHARED || kind == libc::MS_SLAVE);
    // Nothing that is mounted in the container may show on the host.
    let propagation = if follows { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    mount::mount_setattr(tree.as_fd(), true, Attributes { propagation, ..Attributes::default() }).step(describe)?;
    Ok(tree)
}

/// Clones the sources of all bind mounts, which the root of a user namespace may not be able to go to.
fn sources(spec: &Spec) -> Step<Sources> {
    let mut sources = Sources::new();
    for item in spec.mounts().iter().flatten() {
        let options = Options::parse(item.options().iter().flatten());
        if options.bind || item.typ().as_deref() == Some("bind") {
            let tree = clone_source(item, &MountExtra::default(), &options)?;
            sources.insert(item.destination().clone(), tree);
        }
    }
    Ok(sources)
}

/// A container on its way to waiting for its start.
#[derive(Debug, Default)]
struct Making {
    master: Option<OwnedFd>,
    /// Whether hooks have been run.
    hooked: bool,
}

impl Making {
    /// Serves init until everything is made.
    fn watch(&mut self, spec: &Spec, record: &Record, init: &OwnedFd, pid: Pid) -> Step<()> {
        loop {
            match channel::receive(init).step(|| "hear init".into())? {
                Some(Message::Failed(failure)) => return Err(failure),
                Some(Message::Terminal(master)) => self.master = Some(master),
                Some(Message::Hooks) => {
                    let state = record.subject().text(ContainerState::Creating, Some(pid.as_raw()))?;
                    self.hooked = true;
                    if let Some(hooks) = spec.hooks() {
                        hooks::before_start(hooks, &state)?;
                    }
                    // An init that has ended meanwhile has said why.
                    channel::send_go_on(init, &state).ok();
                }
                Some(Message::Ready) => return Ok(()),
                Some(_) => {}
                None => return Err(fault("the container's init was killed".into())),
            }
        }
    }
}

/// Writes down that the container is there, and lets its process outlive this one. Returns the terminal's master where
/// nobody else gets it.
fn hand_over(
    request: &Create,
    container: &Container,
    master: Option<OwnedFd>,
    init: &OwnedFd,
    pid: Pid,
) -> Result<Option<OwnedFd>, OciError> {
    let mut kept = None;
    match (master, &request.console_socket) {
        (Some(master), Some(path)) => send_console(path, master.as_fd())?,
        (master, _) => kept = master,
    }
    let start_time = pidfd::start_time(pid).ok_or_else(|| fault("the container's init was killed".into()))?;
    if let Some(path) = &request.pid_file {
        write_pid(path, pid.as_raw())?;
    }
    container.write_process(Process { pid: pid.as_raw(), start_time })?;
    channel::send_release(init).step(|| "release init".into())?;
    // It closes its end when it does not depend on this process any more.
    match channel::receive(init) {
        Ok(Some(Message::Failed(failure))) => Err(failure.into()),
        _ => Ok(kept),
    }
}

/// Replaces a file by one with the number of a process.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<(), OciError> {
    let failed = |source| OciError::Write { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let new = path.with_file_name(format!(".{}", name.to_string_lossy()));
    std::fs::write(&new, pid.to_string()).and_then(|()| std::fs::rename(&new, path)).map_err(failed)
}

/// Sends the master of a terminal to whoever listens at a socket.
pub(super) fn send_console(path: &Path, master: BorrowedFd<'_>) -> Result<(), OciError> {
    let failed = |source| OciError::Console { path: path.to_owned(), source };
    let stream = std::os::unix::net::UnixStream::connect(path).map_err(failed)?;
    // Some want to hear a name beside the descriptor.
    socket::send(&stream, b"/dev/ptmx", &[master]).map_err(|errno| failed(errno.into()))
}

/// Tells a container's process to execute its program, and waits until it has.
fn execute(directory: &OwnedFd, state: &str) -> Step<()> {
    let describe = || "tell the container's process to start".to_owned();
    let connection = socket::connect_in(directory, START).step(describe)?;
    channel::send_start(&connection, state).step(describe)?;
    let mut executing = false;
    loop {
        match channel::receive(&connection).step(|| "hear the container's process".into())? {
            Some(Message::Failed(failure)) => return Err(failure),
            Some(Message::Executing) => executing = true,
            Some(_) => {}
            None if executing => return Ok(()),
            None => return Err(died()),
        }
    }
}

fn died() -> Failure {
    fault("the container's process was killed".into())
}
