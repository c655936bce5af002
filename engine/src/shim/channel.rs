//! Between a shim and a process that it has cloned and that is on its way to its program: the socket closes with the exec.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::protocol::Failure;
use crate::container::process::Program;
use crate::container::step::{Context, Step, fault};
use crate::sys::{clone, socket};

/// What is said, the first byte of a packet.
#[derive(Debug)]
pub(crate) enum Message {
    /// To init: the network namespace.
    Network(OwnedFd),
    /// To init: the ids of its user namespace are mapped.
    Mapped,
    /// From init: everything is made, and the hooks of the runtime's namespaces come next.
    Hooks,
    /// To init: it may go on. The container's state, for the hooks that it runs itself.
    GoOn(String),
    /// From init: only the program is missing, which waits for somebody to say [`Message::Start`].
    Ready,
    /// To init: who cloned it ends, and it is to stay.
    Release,
    /// To init, from whoever wants it: the program is to be executed. The container's state.
    Start(String),
    /// From init or an exec helper: the master of the terminal.
    Terminal(OwnedFd),
    /// The program comes next: if the socket closes now, it runs.
    Executing,
    /// From an exec helper: the process and its pidfd.
    Process(i32, OwnedFd),
    Failed(Failure),
}

const NETWORK: u8 = b'n';
const MAPPED: u8 = b'm';
const HOOKS: u8 = b'h';
const GO_ON: u8 = b'g';
const READY: u8 = b'r';
const RELEASE: u8 = b'l';
const START: u8 = b's';
const TERMINAL: u8 = b't';
const EXECUTING: u8 = b'e';
const PROCESS: u8 = b'p';
const FAILED: u8 = b'f';

pub(crate) fn send_network(channel: impl AsFd, namespace: BorrowedFd<'_>) -> nix::Result<()> {
    socket::send(channel, &[NETWORK], &[namespace])
}

pub(super) fn send_mapped(channel: impl AsFd) -> nix::Result<()> {
    socket::send(channel, &[MAPPED], &[])
}

pub(super) fn send_hooks(channel: impl AsFd) -> nix::Result<()> {
    socket::send(channel, &[HOOKS], &[])
}

pub(crate) fn send_go_on(channel: impl AsFd, state: &str) -> nix::Result<()> {
    socket::send(channel, &[&[GO_ON], state.as_bytes()].concat(), &[])
}

pub(super) fn send_ready(channel: impl AsFd) -> nix::Result<()> {
    socket::send(channel, &[READY], &[])
}

pub(crate) fn send_release(channel: impl AsFd) -> nix::Result<()> {
    socket::send(channel, &[RELEASE], &[])
}

pub(crate) fn send_start(channel: impl AsFd, state: &str) -> nix::Result<()> {
    socket::send(channel, &[&[START], state.as_bytes()].concat(), &[])
}

pub(super) fn send_terminal(channel: impl AsFd, master: BorrowedFd<'_>) -> nix::Result<()> {
    socket::send(channel, &[TERMINAL], &[master])
}

/// Executes the program, or tells the shim why that failed and ends.
pub(super) fn execute(channel: &OwnedFd, program: &Program) -> ! {
    // A shim that is gone cannot be told, and this process is about to be killed with it.
    socket::send(channel, &[EXECUTING], &[]).ok();
    let failure = program.exec();
    send_failure(channel, &failure);
    clone::exit(failure.code)
}

pub(super) fn send_process(channel: impl AsFd, pid: i32, pidfd: BorrowedFd<'_>) -> nix::Result<()> {
    let mut packet = vec![PROCESS];
    packet.extend_from_slice(&pid.to_le_bytes());
    socket::send(channel, &packet, &[pidfd])
}

/// Tells the shim what failed. Where even that fails the shim is gone, and nobody is left to tell.
pub(super) fn send_failure(channel: impl AsFd, failure: &Failure) {
    let mut packet = vec![FAILED];
    packet.extend(serde_json::to_vec(failure).unwrap_or_default());
    socket::send(channel, &packet, &[]).ok();
}

/// Receives one message; `None`: the other side is gone, or has executed its program.
pub(crate) fn receive(channel: impl AsFd) -> nix::Result<Option<Message>> {
    let Some((packet, fds)) = socket::receive(channel)? else { return Ok(None) };
    let (kind, rest) = packet.split_first().ok_or(Errno::EBADMSG)?;
    let mut fds = fds.into_iter();
    let mut fd = || fds.next().ok_or(Errno::EBADMSG);
    Ok(Some(match *kind {
        NETWORK => Message::Network(fd()?),
        MAPPED => Message::Mapped,
        HOOKS => Message::Hooks,
        GO_ON => Message::GoOn(text(rest)?),
        READY => Message::Ready,
        RELEASE => Message::Release,
        START => Message::Start(text(rest)?),
        TERMINAL => Message::Terminal(fd()?),
        EXECUTING => Message::Executing,
        PROCESS => {
            let pid = rest.try_into().map_err(|_| Errno::EBADMSG)?;
            Message::Process(i32::from_le_bytes(pid), fd()?)
        }
        FAILED => Message::Failed(serde_json::from_slice(rest).map_err(|_| Errno::EBADMSG)?),
        _ => return Err(Errno::EBADMSG),
    }))
}

fn text(bytes: &[u8]) -> nix::Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Errno::EBADMSG)
}

/// What init has been told so far; it waits for what it needs next.
#[derive(Debug, Default)]
pub(super) struct Heard {
    network: Option<OwnedFd>,
    mapped: bool,
    go_on: Option<String>,
    released: bool,
}

impl Heard {
    /// Waits for the network namespace.
    pub(super) fn network(&mut self, channel: impl AsFd) -> Step<OwnedFd> {
        loop {
            if let Some(namespace) = self.network.take() {
                return Ok(namespace);
            }
            self.hear(&channel, "wait for the network namespace")?;
        }
    }

    /// Waits until the ids of this process's user namespace are mapped.
    pub(super) fn mapped(&mut self, channel: impl AsFd) -> Step<()> {
        while !self.mapped {
            self.hear(&channel, "wait for the ids of the user namespace")?;
        }
        Ok(())
    }

    /// Has the hooks of the runtime's namespaces run. Returns the container's state.
    pub(super) fn hooks(&mut self, channel: impl AsFd) -> Step<String> {
        send_hooks(&channel).step(|| "ask for the hooks to be run".into())?;
        loop {
            if let Some(state) = self.go_on.take() {
                return Ok(state);
            }
            self.hear(&channel, "wait for the hooks")?;
        }
    }

    /// Tells who cloned this process that everything is made, and waits until it is allowed to outlive that.
    pub(super) fn released(&mut self, channel: impl AsFd) -> Step<()> {
        send_ready(&channel).step(|| "say that everything is made".into())?;
        while !self.released {
            self.hear(&channel, "wait to be released")?;
        }
        Ok(())
    }

    fn hear(&mut self, channel: impl AsFd, what: &str) -> Step<()> {
        match receive(channel).step(|| what.to_owned())? {
            Some(Message::Network(namespace)) => self.network = Some(namespace),
            Some(Message::Mapped) => self.mapped = true,
            Some(Message::GoOn(state)) => self.go_on = Some(state),
            Some(Message::Release) => self.released = true,
            Some(_) => {}
            None => return Err(fault(format!("{what}: the shim is gone"))),
        }
        Ok(())
    }
}
