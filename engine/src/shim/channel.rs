//! Between a shim and a process that it has cloned and that is on its way to its program: the socket closes with the exec.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::protocol::Failure;
use crate::container::process::Program;
use crate::container::step::{Context, Step, fault};
use crate::sys::{clone, socket};

/// What is said, the first byte of a packet.
#[derive(Debug)]
pub(super) enum Message {
    /// To init: the network namespace.
    Network(OwnedFd),
    /// From init or an exec helper: the master of the terminal.
    Terminal(OwnedFd),
    /// The program comes next: if the socket closes now, it runs.
    Executing,
    /// From an exec helper: the process and its pidfd.
    Process(i32, OwnedFd),
    Failed(Failure),
}

const NETWORK: u8 = b'n';
const TERMINAL: u8 = b't';
const EXECUTING: u8 = b'e';
const PROCESS: u8 = b'p';
const FAILED: u8 = b'f';

pub(super) fn send_network(channel: impl AsFd, namespace: BorrowedFd<'_>) -> nix::Result<()> {
    socket::send(channel, &[NETWORK], &[namespace])
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
pub(super) fn receive(channel: impl AsFd) -> nix::Result<Option<Message>> {
    let mut buffer = vec![0; 64 << 10];
    let Some((length, fds)) = socket::receive(channel, &mut buffer)? else { return Ok(None) };
    let (kind, rest) = buffer[..length].split_first().ok_or(Errno::EBADMSG)?;
    let mut fds = fds.into_iter();
    let mut fd = || fds.next().ok_or(Errno::EBADMSG);
    Ok(Some(match *kind {
        NETWORK => Message::Network(fd()?),
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

/// Waits for the network namespace.
pub(super) fn receive_network(channel: impl AsFd) -> Step<OwnedFd> {
    let describe = || "wait for the network namespace".to_owned();
    loop {
        match receive(&channel).step(describe)? {
            Some(Message::Network(namespace)) => return Ok(namespace),
            Some(_) => {}
            None => return Err(fault(format!("{}: the shim is gone", describe()))),
        }
    }
}
