//! The launcher: a small process that clones shims for a supervisor, which itself is too large and has too many threads.
//!
//! Forked before the supervisor makes its first thread, it has next to no memory of its own, so a clone of it is cheap, and
//! its clones, the shims, share nearly all of their pages with it and each other: a shim has 120 KiB of its own (mean of 20
//! that have written a log, `tests/container_cost.rs`), and needs no exec, which would cost 0.75 ms (`docs/floor.md`).
//! Shims are made the supervisor's children (`CLONE_PARENT`), so the launcher need not look after them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;

use super::protocol::{Failure, FromShim, Spawn, send};
use crate::container::step::ENGINE;
use crate::sys::clone::{self, Cloned};
use crate::sys::{process, socket};

/// The supervisor's side of the launcher. The launcher ends when this is dropped.
#[derive(Debug)]
pub struct Launcher {
    socket: OwnedFd,
    pid: Pid,
}

/// Why a shim could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    #[error("cannot fork the launcher")]
    Fork(#[source] Errno),
    #[error("cannot make a socket pair for a shim")]
    Pair(#[source] Errno),
    #[error("cannot send a task to the launcher")]
    Send(#[source] Errno),
}

impl Launcher {
    /// Forks the launcher. To be called before the first thread, and before anything large is allocated.
    ///
    /// The caller should be a child subreaper (`PR_SET_CHILD_SUBREAPER`), so that it becomes the parent of a container
    /// whose shim dies.
    pub fn start() -> Result<Self, LauncherError> {
        let (ours, theirs) = socket::pair().map_err(LauncherError::Fork)?;
        if let Some(pid) = clone::fork().map_err(LauncherError::Fork)? {
            return Ok(Self { socket: ours, pid });
        }
        drop(ours);
        launch(&theirs)
    }

    /// Asks for a shim and returns the supervisor's end of its socket, which does not block. Returns at once: what
    /// becomes of the task is heard from the shim, and a closed socket means that it died.
    ///
    /// `fds` are what the task wants (`protocol::Task`).
    pub fn spawn(&self, spawn: &Spawn, fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, LauncherError> {
        let (ours, theirs) = socket::pair().map_err(LauncherError::Pair)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(LauncherError::Pair)?;
        let mut all = vec![theirs.as_fd()];
        all.extend_from_slice(fds);
        send(&self.socket, spawn, &all).map_err(LauncherError::Send)?;
        Ok(ours)
    }

    /// Returns the launcher's process id; it is a child to be reaped.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

/// The launcher's life.
fn launch(socket: &OwnedFd) -> ! {
    // What the supervisor had open is none of a shim's business, and would stay open for as long as shims live.
    let ready = process::close_all_but(&[socket.as_fd()]).and_then(|()| {
        nix::sys::prctl::set_name(c"rcompose-launch")?;
        // Nothing in a container may look into a shim, or into a process on its way into the container.
        nix::sys::prctl::set_dumpable(false)?;
        nix::unistd::setsid()?;
        Ok(())
    });
    process::keep_heap_small();
    process::ignore_signal(nix::sys::signal::Signal::SIGPIPE);
    process::ignore_signal(nix::sys::signal::Signal::SIGHUP);
    process::ignore_signal(nix::sys::signal::Signal::SIGINT);
    loop {
        let (packet, mut fds) = match socket::receive(socket) {
            Ok(Some(packet)) if !packet.1.is_empty() => packet,
            Ok(Some(_)) | Err(Errno::EMSGSIZE) => continue,
            Ok(None) | Err(_) => clone::exit(0),
        };
        let cloned = match ready {
            Ok(()) => clone::clone3(clone::PARENT, None).map_err(|errno| ("clone the shim", errno)),
            Err(errno) => Err(("prepare the launcher", errno)),
        };
        match cloned {
            Ok(Cloned::Child) => {
                let supervisor = fds.remove(0);
                let Ok(spawn) = serde_json::from_slice::<Spawn>(&packet) else { clone::exit(1) };
                drop(packet);
                super::run(&spawn, supervisor, fds);
            }
            Ok(Cloned::Parent { .. }) => {}
            Err((step, errno)) => {
                let failure = Failure { step: step.into(), errno: errno as i32, code: ENGINE };
                // A supervisor that is gone has no use for the answer.
                send(&fds[0], &FromShim::Failed(failure), &[]).ok();
            }
        }
    }
}
