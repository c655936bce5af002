//! What a shim, its supervisor and its clients say to each other.
//!
//! One JSON document per packet of a `SOCK_SEQPACKET` Unix socket; descriptors travel beside it (`SCM_RIGHTS`, in the
//! order a variant's documentation gives). The supervisor holds one end of a socketpair per shim; a client such as
//! `rcompose exec`, and a supervisor that was started anew, connects to `shim.sock` in the container's run directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::id::Id;

/// The name of the socket in a container's run directory.
pub const SOCKET: &str = "shim.sock";

/// Sends one message as one packet. Fails with `EMSGSIZE` where it is longer than the kernel takes (about 200 KiB).
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let data = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
    crate::sys::socket::send(socket, &data, fds)
}

/// Likewise, but loses the message where the other side has not read enough of those before it, instead of waiting.
pub fn send_at_once<T: Serialize>(socket: impl AsFd, message: &T) -> nix::Result<()> {
    let data = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
    crate::sys::socket::send_at_once(socket, &data)
}

/// Receives one message, or `None` where the other side is gone. Fails with `EBADMSG` where it is none of ours.
pub fn receive<T: serde::de::DeserializeOwned>(socket: impl AsFd) -> nix::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some((packet, fds)) = crate::sys::socket::receive(socket)? else { return Ok(None) };
    let message = serde_json::from_slice(&packet).map_err(|_| Errno::EBADMSG)?;
    Ok(Some((message, fds)))
}

/// What the supervisor asks its launcher for. Descriptors: the shim's end of the socketpair, then what `task` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    pub id: Id,
    /// The OCI bundle (`config.json`, `shim.json`).
    pub bundle: PathBuf,
    /// The container's run-time directory, which exists.
    pub run: PathBuf,
    pub task: Task,
}

/// Why a shim is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    /// To create and start the container.
    Create,
    /// Likewise, for somebody who attaches at once ([`ToShim::Attach`]) and is to miss nothing: neither output nor the end
    /// of the container is taken note of before that, for a while.
    CreateAttended {
        /// The size of the container's terminal from the beginning: rows and columns.
        size: Option<(u16, u16)>,
    },
    /// To take over a running container whose shim died. Descriptors: the ones of [`FromShim::Started`].
    Adopt { pid: i32 },
}

/// From the supervisor or a client to the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToShim {
    /// The network namespace is ready; the init process may join it and go on. Descriptors: the namespace, of its own or
    /// another container's. Not sent where the container shares the host's (`shim::config::Network`).
    Network,
    /// Descriptors that the shim keeps while the container runs, so that they outlive the supervisor: the DNS
    /// sockets of the namespace, bound published ports. Descriptors: one per name, in this order.
    Keep { names: Vec<String> },
    /// Runs a further process in the container. Descriptors: standard input, output and error; none with a terminal.
    Exec(Box<Exec>),
    /// From now on, what the container writes also goes to the sender, and with `stdin` the sender is its standard input.
    /// Descriptors: the writing ends of pipes for standard output and error (with a terminal only one), which do not
    /// block. Answered by [`FromShim::Attached`] or [`FromShim::AttachFailed`]. The pipes close when the container has
    /// ended and everything was written to them; until the sender reads them the container waits, as it would for a pipe.
    Attach { stdin: bool },
    /// Kills a process started by [`ToShim::Exec`] on this connection, and its whole process group.
    KillExec { exec: u32 },
    /// A new supervisor has come and this connection is the supervisor's from now on. Answered by
    /// [`FromShim::Started`], [`FromShim::Kept`] and, where PID 1 has ended already, [`FromShim::Exited`].
    Adopt,
    /// [`FromShim::Exited`] was taken note of: the shim ends. Until it hears this it stays, and where its supervisor goes
    /// away without saying it, it starts another, so that an exit is never overlooked.
    Release,
}

/// A further process in a running container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Exec {
    /// Chosen by the sender, to tell its processes apart on one connection.
    pub exec: u32,
    pub args: Vec<String>,
    /// `NAME=value`; added to the container's own environment. A `NAME` alone is taken out of it.
    pub env: Vec<String>,
    /// `None`: as PID 1 was started.
    pub user: Option<String>,
    pub cwd: Option<String>,
    /// Allocate a pseudo-terminal in the container.
    pub tty: bool,
    /// The terminal's size from the beginning: rows and columns.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
    pub privileged: bool,
}

/// From the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromShim {
    /// PID 1 has executed its program. Descriptors: pidfd, the network namespace, then either the terminal's master or the
    /// reading ends of standard output and error. While the supervisor holds them, no output
    /// is lost even when the shim and then the container end.
    Started {
        pid: i32,
    },
    /// The container could not be made; nothing of it is left. The shim ends after this.
    Failed(Failure),
    /// The descriptors of [`ToShim::Keep`], in this order.
    Kept {
        names: Vec<String>,
    },
    /// PID 1 has ended, the log is complete and `exit.json` is written. To be answered by [`ToShim::Release`].
    Exited(Exit),
    /// Descriptors: with a terminal its master.
    ExecStarted {
        exec: u32,
        pid: i32,
    },
    ExecFailed {
        exec: u32,
        failure: Failure,
    },
    /// Descriptors: with a terminal its master; else, where standard input was asked for and is open, its writing end.
    Attached {
        terminal: bool,
        /// Whether a descriptor came for standard input. The container sees its end when that is closed, if it was made
        /// so (`stdin_once`).
        stdin: bool,
    },
    AttachFailed(Failure),
    ExecExited {
        exec: u32,
        code: i32,
    },
    /// To the supervisor.
    Exec(ExecNews),
}

/// What becomes of a further process of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ExecNews {
    /// Somebody has started it, or tried to with a program that cannot be executed.
    Began {
        id: Id,
        /// Its arguments.
        args: Vec<String>,
    },
    /// It has ended, which whoever started it is told only after this.
    Ended { id: Id, code: i32 },
}

/// A step of container creation that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done, such as `mount volume at /data`.
    pub step: String,
    /// `errno(3)`, 0 where no system call failed.
    pub errno: i32,
    /// The exit code that Docker gives such a failure: 126 cannot be executed, 127 not found, 125 otherwise.
    pub code: i32,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.step)?;
        if self.errno != 0 {
            write!(f, ": {}", nix::errno::Errno::from_raw(self.errno).desc())?;
        }
        Ok(())
    }
}

/// How PID 1 ended; also the content of `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell says it: 128 + n after signal n.
    pub code: i32,
    pub oom_killed: bool,
    pub finished_at: jiff::Timestamp,
}
