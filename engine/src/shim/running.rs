//! A shim's life beside a running container: one loop over everything that can happen.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::ContainerState;

use super::audience::Audience;
use super::create::hooks_of;
use super::exec::{Process, Target, Wanted};
use super::protocol::{self, Exit, FromShim, ToShim};
use super::stdio::{self, Output};
use super::{Shim, config::Namespace};
use crate::container::hooks;
use crate::container::log::Stream;
use crate::container::log::writer::{Pumped, Writer};
use crate::container::step::{Context, ENGINE, Step, fault};
use crate::network::is_port;
use crate::sys::{clone, pidfd, process, socket};

/// The most connections at a time, besides the supervisor's.
const CONNECTIONS: usize = 256;

/// How long the log waits for more after a small read. A container that writes line by line would otherwise wake the shim
/// for each, which costs both of them more than the writing.
const PAUSE: Duration = Duration::from_millis(1);

/// A read of this many bytes was worth its while.
const WORTHWHILE: usize = 16 << 10;

/// How long somebody who had a container started for them may take to attach to it.
const HOLD: Duration = Duration::from_secs(10);

/// How long the shim waits for a new supervisor before it starts another, doubled each time up to the limit.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_LIMIT: Duration = Duration::from_secs(30);

/// The shim of a running container.
#[derive(Debug)]
pub(super) struct Running {
    shim: Shim,
    pid: Pid,
    pidfd: OwnedFd,
    network: OwnedFd,
    kept: Kept,
    output: Output,
    log: Option<Writer>,
    /// Not before this time is output looked for again.
    next_read: Option<Instant>,
    listener: OwnedFd,
    audience: Audience,
    /// Until then the container waits for somebody to attach: neither its output nor its end is looked at.
    held: Option<Instant>,
    /// The writing end of a standard input that ends with its writers, until somebody attaches.
    input: Option<OwnedFd>,
    connections: Vec<Connection>,
    next_connection: u64,
    processes: Vec<Process>,
    /// How PID 1 ended.
    exit: Option<Exit>,
    /// Whether the supervisor knows how PID 1 ended.
    released: bool,
    /// When a supervisor is missing: when the next one is started, and how long to wait after that.
    missing: Option<(Instant, Duration)>,
}

/// What a shim needs for its work that can fail, and therefore comes before there is a container.
#[derive(Debug)]
pub(super) struct Place {
    log: Option<Writer>,
    listener: OwnedFd,
    /// The writing end of a standard input that ends with its writers.
    pub(super) input: Option<OwnedFd>,
}

impl Place {
    /// Opens the log, and the socket for everybody who wants something of the container.
    pub(super) fn prepare(shim: &Shim) -> Step<Self> {
        let listener = socket::listen_in(&shim.directory, protocol::SOCKET)
            .step(|| format!("listen at {}", shim.run.join(protocol::SOCKET).display()))?;
        Ok(Self { log: stdio::log(shim)?, listener, input: None })
    }
}

/// Somebody who talks to the shim.
#[derive(Debug)]
struct Connection {
    number: u64,
    socket: OwnedFd,
    supervisor: bool,
}

/// Descriptors that the shim keeps for its supervisor.
#[derive(Debug, Default)]
pub(super) struct Kept {
    names: Vec<String>,
    fds: Vec<OwnedFd>,
}

impl Kept {
    /// Adds descriptors, one per name. One of a name that is kept already takes its place.
    pub(super) fn add(&mut self, names: Vec<String>, fds: Vec<OwnedFd>) {
        for (name, fd) in names.into_iter().zip(fds) {
            match self.names.iter().position(|known| *known == name) {
                Some(index) => self.fds[index] = fd,
                None if self.fds.len() < socket::DESCRIPTORS => {
                    self.names.push(name);
                    self.fds.push(fd);
                }
                // More could not be handed back in one message.
                None => {}
            }
        }
    }

    /// Lets go of published ports: whoever hears of the container's end may publish them.
    fn release_ports(&mut self) {
        let (names, fds) = (std::mem::take(&mut self.names), std::mem::take(&mut self.fds));
        (self.names, self.fds) = names.into_iter().zip(fds).filter(|(name, _)| !is_port(name)).unzip();
    }
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Init,
    Listener,
    Connection(u64),
    /// The channel of a further process on its way to its program.
    Starting(u64, u32),
    /// A further process that runs.
    Process(u64, u32),
    Output,
    /// Somebody who is attached can take more.
    Audience,
    /// Who gets the log's lines can take more.
    Forward,
}

impl Running {
    /// Begins to look after a container that runs.
    pub(super) fn new(
        shim: Shim,
        Place { log, listener, input }: Place,
        pid: Pid,
        pidfd: OwnedFd,
        network: OwnedFd,
        kept: Kept,
        output: Output,
    ) -> Self {
        let held = shim.attended.map(|_| Instant::now() + HOLD);
        Self {
            shim,
            pid,
            pidfd,
            network,
            kept,
            output,
            log,
            next_read: None,
            listener,
            audience: Audience::default(),
            held,
            input,
            connections: Vec::new(),
            next_connection: 0,
            processes: Vec::new(),
            exit: None,
            released: false,
            missing: None,
        }
    }

    /// Takes over a container whose shim died. The descriptors are those of [`FromShim::Started`].
    pub(super) fn adopt(shim: Shim, pid: i32, fds: Vec<OwnedFd>) -> Step<Self> {
        let mut fds = fds.into_iter();
        let mut next = |what: &str| fds.next().ok_or_else(|| fault(format!("adopt the container: no {what} was sent")));
        let (pidfd, network) = (next("pidfd")?, next("network namespace")?);
        let output = if shim.config.tty { Output::terminal(next("terminal")?) } else { Output::open(&shim)? };
        let place = Place::prepare(&shim)?;
        Ok(Self::new(shim, place, Pid::from_raw(pid), pidfd, network, Kept::default(), output))
    }

    /// Runs until the container has ended and the supervisor knows.
    pub(super) fn run(mut self, supervisor: OwnedFd) -> ! {
        self.connect(supervisor, true);
        // Making the container took more than looking after it does.
        process::trim_heap();
        loop {
            let ready = self.wait();
            for source in ready {
                match source {
                    Source::Init => self.init_ended(),
                    Source::Listener => {
                        if let Ok(Some(socket)) = socket::accept(self.listener.as_fd()) {
                            self.connect(socket, false);
                        }
                    }
                    Source::Connection(number) => self.hear(number),
                    Source::Starting(connection, exec) => self.exec_started(connection, exec),
                    Source::Process(connection, exec) => self.exec_ended(connection, exec),
                    Source::Output => self.pump(),
                    Source::Audience => self.audience.flush(),
                    Source::Forward => {
                        if let Some(log) = &mut self.log {
                            log.flush();
                        }
                    }
                }
            }
            self.miss_supervisor();
            // What somebody who is attached has not seen yet comes first.
            if self.released && self.audience.behind().next().is_none() {
                clone::exit(0);
            }
        }
    }

    /// Waits until something happens.
    fn wait(&mut self) -> Vec<Source> {
        let now = Instant::now();
        let mut sources = vec![Source::Listener];
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        self.held = self.held.filter(|until| *until > now);
        if self.exit.is_none() && self.held.is_none() {
            sources.push(Source::Init);
            fds.push(PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN));
        }
        for connection in &self.connections {
            sources.push(Source::Connection(connection.number));
            fds.push(PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN));
        }
        for process in &self.processes {
            let (source, fd) = match process.channel() {
                Some(channel) => (Source::Starting(process.connection, process.exec), channel),
                None => match process.pidfd() {
                    Some(pidfd) => (Source::Process(process.connection, process.exec), pidfd),
                    None => continue,
                },
            };
            sources.push(source);
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        let mut behind = false;
        for fd in self.audience.behind() {
            behind = true;
            sources.push(Source::Audience);
            fds.push(PollFd::new(fd, PollFlags::POLLOUT));
        }
        if let Some((fd, waits)) = self.log.as_ref().and_then(Writer::behind) {
            behind |= waits;
            sources.push(Source::Forward);
            fds.push(PollFd::new(fd, PollFlags::POLLOUT));
        }
        let mut deadline = [self.missing.map(|(at, _)| at), self.held].into_iter().flatten().min();
        if self.exit.is_none() && self.held.is_none() && !behind {
            match self.next_read.filter(|at| *at > now) {
                Some(at) => deadline = Some(deadline.map_or(at, |other| other.min(at))),
                None => {
                    for (_, fd) in self.output.sources() {
                        sources.push(Source::Output);
                        fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                    }
                }
            }
        }
        let timeout = deadline.map(|at| nix::sys::time::TimeSpec::from_duration(at.saturating_duration_since(now)));
        match nix::poll::ppoll(&mut fds, timeout, None) {
            Ok(_) => {
                let ready = fds.iter().zip(sources).filter(|(fd, _)| fd.any().unwrap_or(true));
                ready.map(|(_, source)| source).collect()
            }
            // Interrupted, or out of memory for a moment.
            Err(_) => Vec::new(),
        }
    }

    /// Writes what the container has said.
    fn pump(&mut self) {
        let mut most = 0;
        let Self { output, log, audience, .. } = self;
        for (stream, fd) in output.sources() {
            match read(log, stream, fd.as_fd(), audience) {
                Ok(Pumped::Bytes(count)) => most = most.max(count),
                Ok(Pumped::Nothing) => {}
                // A terminal that was hung up, or a log that cannot be opened anew: look again, but not at once.
                Err(_) => self.next_read = Some(Instant::now() + PAUSE * 100),
            }
        }
        // Without a word from either, the writers are gone for now and the descriptor says so for ever.
        let pause = match most {
            0 => PAUSE * 100,
            WORTHWHILE.. => return,
            _ => PAUSE,
        };
        self.next_read = Some(Instant::now() + pause);
    }

    /// Notes how PID 1 ended, completes the log, and tells the supervisor.
    fn init_ended(&mut self) {
        if self.shim.config.namespaces.pid != Namespace::New {
            // Nobody kills the rest of a container that has no PID namespace of its own.
            self.shim.config.cgroup.kill_all();
        }
        self.drain();
        self.kept.release_ports();
        let code = self.exit_code();
        let exit = Exit { code, oom_killed: self.shim.config.cgroup.oom_killed(), finished_at: jiff::Timestamp::now() };
        if self.shim.config.hooks {
            self.run_poststop();
        }
        // Where it cannot be written the supervisor still hears of it.
        write_exit(&self.shim, &exit).ok();
        for connection in self.audience.connections() {
            self.tell(connection, &FromShim::Exited(exit.clone()), &[]);
        }
        self.tell_supervisor(&FromShim::Exited(exit.clone()), &[]);
        self.exit = Some(exit);
    }

    /// Runs the hooks for a container that has ended. What fails is told on the supervisor's standard error, its log: there
    /// is nothing left that it could stop.
    #[expect(clippy::print_stderr, reason = "a shim's standard error is the supervisor's log")]
    fn run_poststop(&self) {
        let failed = hooks_of(&self.shim).and_then(|(subject, hooks)| {
            let state = subject.text(ContainerState::Stopped, None)?;
            Ok(hooks::run_all("poststop", hooks.poststop().as_deref(), &state))
        });
        let failures = failed.unwrap_or_else(|failure| vec![failure]);
        for failure in failures {
            eprintln!("container {}: {failure}", self.shim.id.short());
        }
    }

    /// Reads the streams to their ends. What is in them was there when PID 1, and with it everybody else, ended.
    fn drain(&mut self) {
        let Self { output, log, audience, .. } = self;
        for (stream, fd) in output.sources() {
            while has_more(fd.as_fd())
                && let Ok(Pumped::Bytes(_)) = read(log, stream, fd.as_fd(), audience)
            {}
        }
        if let Some(log) = log {
            log.finish();
        }
    }

    fn exit_code(&self) -> i32 {
        if let Some(code) = pidfd::exit_code(self.pidfd.as_fd()) {
            return code;
        }
        // An adopted container is somebody else's child. The kernel tells once its parent has reaped it.
        pidfd::wait_reaped(self.pidfd.as_fd(), 2000);
        pidfd::exit_code(self.pidfd.as_fd()).unwrap_or(255)
    }

    fn connect(&mut self, socket: OwnedFd, supervisor: bool) {
        if self.connections.len() > CONNECTIONS {
            return;
        }
        self.next_connection += 1;
        self.connections.push(Connection { number: self.next_connection, socket, supervisor });
    }

    /// Tells a supervisor which container this is. One that is gone finds out when it is back.
    pub(super) fn introduce(&self, supervisor: &OwnedFd) -> Step<()> {
        let mut fds = vec![self.pidfd.as_fd(), self.network.as_fd()];
        let sources = self.output.sources();
        fds.extend(sources.iter().map(|(_, fd)| fd.as_fd()));
        sent(protocol::send(supervisor, &FromShim::Started { pid: self.pid.as_raw() }, &fds))
            .step(|| "tell the supervisor which container runs".into())
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Says something to the supervisor, if there is one.
    fn tell_supervisor(&self, message: &FromShim, fds: &[BorrowedFd<'_>]) {
        let supervisor = self.connections.iter().find(|connection| connection.supervisor);
        if supervisor.is_some_and(|connection| sent(protocol::send(&connection.socket, message, fds)).is_err()) {
            // A shim that its supervisor waits for in vain is worth less than none, which gets a successor.
            clone::exit(1);
        }
    }

    /// Mentions to the supervisor what only its listeners care for: nobody waits for them.
    fn mention(&self, message: &FromShim) {
        if let Some(connection) = self.connections.iter().find(|connection| connection.supervisor) {
            // A supervisor that is gone, or has much to read, does not hear it.
            protocol::send_at_once(&connection.socket, message).ok();
        }
    }

    /// Hears what a connection has to say.
    fn hear(&mut self, number: u64) {
        let Some(index) = self.connections.iter().position(|connection| connection.number == number) else { return };
        let (message, fds) = match protocol::receive::<ToShim>(&self.connections[index].socket) {
            Ok(Some(received)) => received,
            // Not understood: a newer client. It hears nothing, and everybody else goes on.
            Err(Errno::EBADMSG | Errno::EMSGSIZE | Errno::EAGAIN) => return,
            Ok(None) | Err(_) => {
                let gone = self.connections.swap_remove(index);
                self.audience.remove(gone.number);
                if gone.supervisor {
                    // Not all shims of a project at once: the first to start a supervisor saves the others the work.
                    let digits = u64::from_str_radix(&self.shim.id.as_str()[..2], 16).unwrap_or_default();
                    self.missing = Some((Instant::now() + Duration::from_millis(digits / 4), PATIENCE));
                }
                return;
            }
        };
        match message {
            ToShim::Adopt => {
                self.connections.retain(|connection| !connection.supervisor);
                self.missing = None;
                if let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) {
                    connection.supervisor = true;
                }
                let supervisor = self.connections.iter().find(|connection| connection.supervisor);
                if supervisor.is_some_and(|connection| self.introduce(&connection.socket).is_err()) {
                    clone::exit(1);
                }
                let kept: Vec<BorrowedFd<'_>> = self.kept.fds.iter().map(AsFd::as_fd).collect();
                self.tell_supervisor(&FromShim::Kept { names: self.kept.names.clone() }, &kept);
                if let Some(exit) = &self.exit {
                    self.tell_supervisor(&FromShim::Exited(exit.clone()), &[]);
                }
            }
            ToShim::Release => self.released = self.exit.is_some(),
            ToShim::Keep { names } => self.kept.add(names, fds),
            // It has its network already.
            ToShim::Network => {}
            ToShim::Exec(request) => {
                let exec = request.exec;
                let started = if self.exit.is_some() {
                    Err(fault("the container is not running".into()))
                } else {
                    let target = Target::new(&self.shim, self.pidfd.as_fd());
                    Process::start(target, (number, exec), Wanted::Like(&request), &fds)
                };
                match started {
                    Ok(process) => self.processes.push(process),
                    Err(failure) => self.tell(number, &FromShim::ExecFailed { exec, failure }, &[]),
                }
            }
            ToShim::Attach { stdin } => self.attach(number, stdin, fds),
            ToShim::KillExec { exec } => {
                let mut processes = self.processes.iter_mut();
                if let Some(process) = processes.find(|process| process.connection == number && process.exec == exec) {
                    process.kill();
                }
            }
        }
    }

    fn tell(&self, number: u64, message: &FromShim, fds: &[BorrowedFd<'_>]) {
        if let Some(connection) = self.connections.iter().find(|connection| connection.number == number) {
            // A client that went away does not hear how its process fared, and one that cannot be told must not wait.
            if protocol::send(&connection.socket, message, fds).is_err() {
                socket::hang_up(&connection.socket);
            }
        }
    }

    /// Lets somebody see what the container writes, and write to it.
    fn attach(&mut self, number: u64, stdin: bool, fds: Vec<OwnedFd>) {
        if self.exit.is_some() {
            let failure = fault("attach: the container is not running".into());
            return self.tell(number, &FromShim::AttachFailed(failure), &[]);
        }
        let opened;
        let (terminal, input) = match &self.output {
            Output::Terminal { master, .. } => (true, Some(master.as_fd())),
            _ if stdin && self.shim.config.stdin_open => {
                opened = match self.input.take() {
                    Some(input) => Some(input),
                    None => stdio::open_input(&self.shim).ok(),
                };
                (false, opened.as_ref().map(AsFd::as_fd))
            }
            _ => (false, None),
        };
        let attached = FromShim::Attached { terminal, stdin: stdin && self.shim.config.stdin_open && input.is_some() };
        self.tell(number, &attached, input.as_slice());
        self.audience.add(number, fds);
        self.held = None;
    }

    fn process(&mut self, connection: u64, exec: u32) -> Option<usize> {
        self.processes.iter().position(|process| process.connection == connection && process.exec == exec)
    }

    /// Hears a further process on its way to its program.
    fn exec_started(&mut self, connection: u64, exec: u32) {
        let Some(index) = self.process(connection, exec) else { return };
        match self.processes[index].hear() {
            None => {}
            Some(Ok(pid)) => {
                let master = self.processes[index].take_terminal();
                let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
                self.tell(connection, &FromShim::ExecStarted { exec, pid }, &fds);
                let began = self.processes[index].began();
                self.mention(&began);
            }
            Some(Err(failure)) => {
                let mut process = self.processes.swap_remove(index);
                // Who asked for what cannot be made at all has not begun anything.
                if failure.code != ENGINE {
                    self.mention(&process.began());
                }
                self.tell(connection, &FromShim::ExecFailed { exec, failure }, &[]);
            }
        }
    }

    fn exec_ended(&mut self, connection: u64, exec: u32) {
        let Some(index) = self.process(connection, exec) else { return };
        let process = self.processes.swap_remove(index);
        let code = process.pidfd().and_then(pidfd::exit_code).unwrap_or(255);
        if let Some(ended) = process.ended(code) {
            self.mention(&ended);
        }
        self.tell(connection, &FromShim::ExecExited { exec, code }, &[]);
    }

    /// Starts another supervisor where there has been none for long enough.
    fn miss_supervisor(&mut self) {
        let Some((at, patience)) = self.missing.filter(|(at, _)| *at <= Instant::now()) else { return };
        // Whoever took the run directory away knows how the container ended, and could not say so.
        if self.exit.is_some() && nix::sys::stat::fstat(&self.shim.directory).is_ok_and(|status| status.st_nlink == 0) {
            self.released = true;
        }
        // Who has let go of it is not missed.
        if self.released {
            self.missing = None;
            return;
        }
        // Where even this fails there is nothing to do but to try again later.
        super::sealed::start_supervisor(&self.shim.config.supervisor_command).ok();
        self.missing = Some((at.max(Instant::now()) + patience, (patience * 2).min(PATIENCE_LIMIT)));
    }
}

/// A connection that is broken reads as closed, and is dealt with then.
fn sent(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Ok(()),
        result => result,
    }
}

/// Reads what a stream has, for the log and for everybody who is attached.
fn read(
    log: &mut Option<Writer>,
    stream: Stream,
    fd: BorrowedFd<'_>,
    audience: &mut Audience,
) -> std::io::Result<Pumped> {
    if let Some(log) = log {
        return log.pump(stream, fd, &mut |stream, bytes| audience.show(stream, bytes));
    }
    let mut buffer = vec![0; process::readable(fd)?.min(WORTHWHILE)];
    if buffer.is_empty() {
        return Ok(Pumped::Nothing);
    }
    let count = nix::unistd::read(fd, &mut buffer)?;
    audience.show(stream, &buffer[..count]);
    Ok(Pumped::Bytes(count))
}

/// Returns whether there is something to read. What was written to a terminal is on its way for a moment: poll(2) waits for
/// it, and FIONREAD does not.
fn has_more(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let polled = nix::poll::poll(&mut fds, PollTimeout::ZERO);
    polled.is_ok() && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

/// Records how PID 1 ended, for a supervisor that comes when this process is gone too.
fn write_exit(shim: &Shim, exit: &Exit) -> std::io::Result<()> {
    let new = shim.bundle.join("exit.json.new");
    std::fs::write(&new, serde_json::to_vec(exit)?)?;
    std::fs::rename(&new, shim.bundle.join(stdio::EXIT))
}

/// Opens a directory to resolve paths in.
pub(super) fn open_path(path: &str) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}
