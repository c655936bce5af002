//! This process's terminal lent to a process in a container: raw, with its size, and given back as it was.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices as Character, Termios, cfmakeraw, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};
use rcompose_engine::shim::client::{Client, ClientError};
use rcompose_engine::shim::protocol::{Exec, FromShim, ToShim};
use rcompose_engine::sys::terminal::{Size, set_window_size, window_size};

/// How a process in a container came to its end.
#[derive(Debug)]
pub enum Ended {
    /// With this exit code.
    With(i32),
    /// It was killed because this signal came.
    Interrupted(i32),
    /// Nobody says it: the container has ended, and with it everything in it was killed, or else its shim is gone.
    Untold,
    NeverBegan(ClientError),
}

/// The terminal of standard input, in raw mode once the process runs.
#[derive(Debug)]
pub struct Session {
    signals: SignalFd,
    before: Before,
}

/// A terminal as it was, which it becomes again.
#[derive(Debug)]
pub struct Before(Termios);

impl Before {
    /// Notes how the terminal of standard input is.
    pub fn take() -> io::Result<Self> {
        Ok(Self(tcgetattr(io::stdin())?))
    }

    /// Makes it pass every key on as it is.
    pub fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.0.clone();
        cfmakeraw(&mut raw);
        self.make(&raw)
    }

    /// Makes it pass every key on at once and show none. Keys for signals, and what is written, stay as they are. Reading
    /// never waits.
    pub fn make_keys(&self) -> io::Result<()> {
        let mut keys = self.0.clone();
        keys.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        keys.control_chars[Character::VMIN as usize] = 0;
        keys.control_chars[Character::VTIME as usize] = 0;
        self.make(&keys)
    }

    fn make(&self, settings: &Termios) -> io::Result<()> {
        *changed() = Some(self.0.clone());
        Ok(tcsetattr(io::stdin(), SetArg::TCSADRAIN, settings)?)
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        restore();
    }
}

/// The settings that a terminal had before it was changed.
static CHANGED: Mutex<Option<Termios>> = Mutex::new(None);

fn changed() -> MutexGuard<'static, Option<Termios>> {
    CHANGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the terminal of standard input as it was, if it was changed. For ends that drop nothing, too.
pub fn restore() {
    if let Some(before) = changed().take()
        && is_ours()
    {
        // The terminal may be gone, and then there is nothing to restore.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Returns whether this process may read from the terminal of its standard input and set it. Another one in its foreground
/// (a shell, after Control-Z) is to find it as it set it.
pub fn is_ours() -> bool {
    // Without job control, for a terminal that is not this session's, everybody may.
    tcgetpgrp(io::stdin()).map_or(true, |foreground| foreground == getpgrp())
}

impl Session {
    /// Takes over the signals that concern a terminal. Must be called while this process has one thread.
    pub fn begin() -> io::Result<Self> {
        let signals = signals(&[Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT])?;
        Ok(Self { signals, before: Before::take()? })
    }

    /// Runs a process with a terminal of its own and connects the two, until it ends.
    pub fn run(self, client: &mut Client, mut request: Exec) -> io::Result<Ended> {
        request.size = window_size(io::stdin()).ok().map(Size::rows_and_columns);
        let (number, master) = match client.exec(request, &[]) {
            Ok((number, _, Some(master))) => (number, File::from(master)),
            Ok((_, _, None)) => return Err(io::Error::other("the container gave no terminal")),
            Err(error) => return Ok(Ended::NeverBegan(error)),
        };
        nonblocking(&master)?;
        self.before.make_raw()?;
        self.connect(client, number, &master)
    }

    fn connect(&self, client: &Client, number: u32, mut master: &File) -> io::Result<Ended> {
        let mut pending = Vec::new();
        let (mut stdin_open, mut hung_up) = (true, false);
        let mut buffer = [0; 1 << 14];
        loop {
            let stdin = io::stdin();
            let mut fds = vec![
                PollFd::new(client.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            // A descriptor that has come to its end would be ready for ever.
            if !hung_up {
                let writing = if pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
                fds.push(PollFd::new(master.as_fd(), PollFlags::POLLIN | writing));
            }
            // What was typed waits here while nobody reads it, and the rest of it where it is.
            let typing = stdin_open && pending.is_empty();
            if typing {
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            let ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(true));
            let (told, signalled, typed) = (ready(0), ready(1), typing && ready(fds.len() - 1));
            hung_up |= copy(master, &mut buffer)?;
            if !pending.is_empty() {
                match master.write(&pending) {
                    Ok(count) => drop(pending.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // The process is gone; its end will be told.
                    Err(_) => pending.clear(),
                }
            }
            if told && let Some(ended) = ended(client, number)? {
                // What it wrote last is still on its way.
                copy(master, &mut buffer)?;
                return Ok(ended);
            }
            if signalled && let Some(signal) = self.signal(master)? {
                kill(client, number);
                return Ok(Ended::Interrupted(signal));
            }
            if typed {
                let count = nix::unistd::read(&stdin, &mut buffer)?;
                stdin_open = count > 0;
                pending.extend_from_slice(&buffer[..count]);
            }
        }
    }

    /// Takes the signals that came; returns one that ends us.
    fn signal(&self, master: &File) -> io::Result<Option<i32>> {
        while let Some(signal) = self.signals.read_signal()? {
            match i32::try_from(signal.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGWINCH)) => drop(resize(master, 0)),
                Ok(Ok(signal)) => return Ok(Some(signal as i32)),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Takes the next message of the shim, which has one; returns how the process ended, if that is what it says.
pub(super) fn ended(client: &Client, number: u32) -> io::Result<Option<Ended>> {
    Ok(match client.receive()? {
        Some((FromShim::ExecExited { exec, code }, _)) if exec == number => Some(Ended::With(code)),
        Some(_) => None,
        None => Some(Ended::Untold),
    })
}

pub(super) fn kill(client: &Client, number: u32) {
    // A shim that is gone has taken the process along.
    let _ = client.send(&ToShim::KillExec { exec: number }, &[]);
}

/// Copies everything that the process has written so far to standard output; returns whether nothing more can come.
fn copy(mut master: &File, buffer: &mut [u8]) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    loop {
        match master.read(buffer) {
            Ok(0) => break,
            Ok(count) => out.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                out.flush()?;
                return Ok(false);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // EIO: nobody has the other end open any more (ioctl_tty(2)).
            Err(_) => break,
        }
    }
    out.flush()?;
    Ok(true)
}

/// Gives a container's terminal the size of ours, and this many rows and columns more. Returns the rows and columns that
/// it has now; a terminal without a size, or one that is gone, is none that the process could be told of.
pub fn resize(master: &File, more: u16) -> Option<(u16, u16)> {
    let size = window_size(io::stdin()).ok()?.grown(more);
    set_window_size(master, size).ok()?;
    Some(size.rows_and_columns()).filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// Makes these signals readable instead of deadly.
pub(super) fn signals(signals: &[Signal]) -> io::Result<SignalFd> {
    let set = signals.iter().copied().collect::<SigSet>();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Makes reading and writing fail instead of waiting.
pub(super) fn nonblocking(file: impl AsFd) -> io::Result<()> {
    let file = file.as_fd();
    let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
