//! Waiting for a process in the foreground: signals are passed on to it, and its terminal is this process's.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::OciError;
use crate::sys::{pidfd, terminal};

/// How many bytes are read at a time, and kept for a terminal that does not take them.
const CHUNK: usize = 16 << 10;

/// Waits for the end of a child and returns its exit code, as a shell says it. With a `master` everything goes between
/// that and the standard input and output.
pub(super) fn wait(process: BorrowedFd<'_>, master: Option<OwnedFd>) -> Result<i32, OciError> {
    let failed = |errno: Errno| OciError::Terminal(errno.into());
    SigSet::all().thread_set_mask().map_err(failed)?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
    let signals = signals.map_err(failed)?;
    let _raw = master.as_ref().and_then(|_| Raw::enter());
    let mut console = master.map(Console::new).transpose().map_err(failed)?;
    loop {
        let mut fds = vec![PollFd::new(process, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let stdin = io::stdin();
        if let Some(console) = &console {
            let wants =
                if console.pending.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
            fds.push(PollFd::new(console.master.as_fd(), wants));
            if console.reads && console.pending.is_empty() {
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.map_err(failed)?,
        };
        let ready: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(fds);
        if !ready[1].is_empty() {
            while let Ok(Some(information)) = signals.read_signal() {
                pass_on(information.ssi_signo.cast_signed(), process, console.as_ref());
            }
        }
        if let Some(open) = &mut console {
            let gone = !ready[2].is_empty() && !open.output(ready[2]).map_err(OciError::Terminal)?;
            if ready.get(3).is_some_and(|flags| !flags.is_empty()) {
                open.input();
            }
            if gone {
                console = None;
            }
        }
        if !ready[0].is_empty() {
            if let Some(console) = &mut console {
                console.drain().map_err(OciError::Terminal)?;
            }
            return Ok(pidfd::exit_code(process).unwrap_or(255));
        }
    }
}

/// Gives a signal of this process to the one that it waits for.
fn pass_on(signal: i32, process: BorrowedFd<'_>, console: Option<&Console>) {
    match signal {
        libc::SIGWINCH => {
            if let Some(console) = console {
                console.follow_size();
            }
        }
        // They are about this process: its child has ended, or its terminal is in use elsewhere.
        libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU | libc::SIGURG => {}
        // One that has ended needs no signal.
        _ => drop(pidfd::send_signal(process, signal)),
    }
}

/// The terminal of the process, as seen from here.
struct Console {
    master: OwnedFd,
    /// What was typed and not taken yet.
    pending: VecDeque<u8>,
    /// Whether there may be more to be typed.
    reads: bool,
}

impl Console {
    fn new(master: OwnedFd) -> nix::Result<Self> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let console = Self { master, pending: VecDeque::new(), reads: true };
        console.follow_size();
        Ok(console)
    }

    /// Gives it the size of this process's terminal, if there is one.
    fn follow_size(&self) {
        if let Ok(size) = terminal::window_size(io::stdin()) {
            // One that was closed has no size.
            terminal::set_window_size(&self.master, size).ok();
        }
    }

    /// Moves what is ready. Returns whether the terminal is still there.
    fn output(&mut self, ready: PollFlags) -> io::Result<bool> {
        if ready.contains(PollFlags::POLLOUT) {
            let (first, _) = self.pending.as_slices();
            if let Ok(count) = nix::unistd::write(&self.master, first) {
                self.pending.drain(..count);
            }
        }
        if !ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Ok(true);
        }
        self.copy()
    }

    /// Copies once what was written to the terminal. Returns whether there may be more.
    fn copy(&mut self) -> io::Result<bool> {
        let mut buffer = [0; CHUNK];
        match nix::unistd::read(&self.master, &mut buffer) {
            Ok(0) | Err(Errno::EIO) => Ok(false),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno.into()),
            Ok(count) => {
                let mut left = &buffer[..count];
                while !left.is_empty() {
                    match nix::unistd::write(io::stdout(), left) {
                        Ok(count) => left = &left[count..],
                        Err(Errno::EINTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Ok(true)
            }
        }
    }

    fn input(&mut self) {
        let mut buffer = [0; CHUNK];
        match nix::unistd::read(io::stdin(), &mut buffer) {
            Ok(0) => self.reads = false,
            Ok(count) => self.pending.extend(&buffer[..count]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.reads = false,
        }
    }

    /// Copies what is left when everybody who wrote has ended.
    fn drain(&mut self) -> io::Result<()> {
        let ready = |master: &OwnedFd| {
            let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        };
        while ready(&self.master) && self.copy()? {}
        Ok(())
    }
}

/// While it exists, this process's terminal passes everything on as it is typed.
struct Raw(Termios);

impl Raw {
    /// `None`: standard input is no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0).ok();
    }
}
