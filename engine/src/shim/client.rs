//! A client of a container's shim: `exec`, health checks, and knowing when the container is gone.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::protocol::{self, Exec, Failure, FromShim, ToShim};
use crate::sys::socket;

/// A connection to a shim. Its descriptor is readable when [`Client::receive`] has something, or the shim is gone.
///
/// Blocking; for use with tokio set [`Client::set_nonblocking`], wrap it in `AsyncFd` and treat `WouldBlock` as usual.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    next: u32,
}

/// What a client that is attached to PID 1 got.
#[derive(Debug)]
pub struct Attached {
    /// Whether PID 1 has a terminal.
    pub terminal: bool,
    /// The terminal's master, or the writing end of standard input.
    pub input: Option<OwnedFd>,
}

/// How a further process ended, or why it never ran.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the container is not running")]
    NotRunning(#[source] io::Error),
    #[error("cannot talk to the container's shim")]
    Talk(#[source] io::Error),
    #[error("the connection to the container's shim has ended")]
    Gone,
    #[error("{0}")]
    Failed(Failure),
}

impl Client {
    /// Connects to the shim of the container with this run directory (`Root::container_run`).
    pub fn connect(run: &Path) -> Result<Self, ClientError> {
        let not_running = |errno: nix::Error| ClientError::NotRunning(errno.into());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(run, flags, Mode::empty()).map_err(not_running)?;
        let socket = socket::connect_in(&directory, protocol::SOCKET).map_err(not_running)?;
        Ok(Self { socket, next: 0 })
    }

    /// Takes a socket that is connected already, such as the supervisor's end of [`super::launcher::Launcher::spawn`].
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket, next: 0 }
    }

    /// Makes sending and receiving fail with `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        fcntl(&self.socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).map_err(Into::into)
    }

    /// Sends one message.
    pub fn send(&self, message: &ToShim, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        protocol::send(&self.socket, message, fds).map_err(Into::into)
    }

    /// Receives one message and its descriptors; `None`: the shim is gone.
    pub fn receive(&self) -> io::Result<Option<(FromShim, Vec<OwnedFd>)>> {
        protocol::receive(&self.socket).map_err(Into::into)
    }

    /// Starts a further process and waits until it runs. Returns the number that its end will be told with, its process
    /// id, and with a terminal its master. `stdio` is input, output and error; empty with a terminal.
    pub fn exec(
        &mut self,
        mut request: Exec,
        stdio: &[BorrowedFd<'_>],
    ) -> Result<(u32, i32, Option<OwnedFd>), ClientError> {
        self.next += 1;
        request.exec = self.next;
        self.send(&ToShim::Exec(Box::new(request)), stdio).map_err(ClientError::Talk)?;
        loop {
            match self.receive().map_err(ClientError::Talk)? {
                Some((FromShim::ExecStarted { exec, pid }, mut fds)) if exec == self.next => {
                    return Ok((exec, pid, fds.pop()));
                }
                Some((FromShim::ExecFailed { exec, failure }, _)) if exec == self.next => {
                    return Err(ClientError::Failed(failure));
                }
                Some(_) => {}
                None => return Err(ClientError::Gone),
            }
        }
    }

    /// Attaches to PID 1: `outputs` are the writing ends of pipes for what it writes (see [`ToShim::Attach`]).
    pub fn attach(&self, stdin: bool, outputs: &[BorrowedFd<'_>]) -> Result<Attached, ClientError> {
        self.send(&ToShim::Attach { stdin }, outputs).map_err(ClientError::Talk)?;
        loop {
            match self.receive().map_err(ClientError::Talk)? {
                Some((FromShim::Attached { terminal, stdin }, mut fds)) => {
                    return Ok(Attached { terminal, input: fds.pop().filter(|_| stdin || terminal) });
                }
                Some((FromShim::AttachFailed(failure), _)) => return Err(ClientError::Failed(failure)),
                Some(_) => {}
                None => return Err(ClientError::Gone),
            }
        }
    }

    /// Waits for the end of a process and returns its exit code; 137 where the end of the container killed it.
    pub fn wait(&self, exec: u32) -> Result<i32, ClientError> {
        loop {
            match self.receive().map_err(ClientError::Talk)? {
                Some((FromShim::ExecExited { exec: ended, code }, _)) if ended == exec => return Ok(code),
                Some(_) => {}
                None => return Err(ClientError::Gone),
            }
        }
    }
}

/// Runs a process without input to its end, hands every line that it writes to `heard`, and returns its exit code.
///
/// What a process that it left behind writes later is nobody's business, and is not waited for.
pub fn capture(client: &mut Client, request: Exec, heard: &mut dyn FnMut(&str)) -> Result<i32, ClientError> {
    let (mut reader, writer) = io::pipe().map_err(ClientError::Talk)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| ClientError::Talk(errno.into()))?;
    let null = std::fs::File::open("/dev/null").map_err(ClientError::Talk)?;
    let (number, ..) = client.exec(request, &[null.as_fd(), writer.as_fd(), writer.as_fd()])?;
    drop(writer);
    let mut lines = Lines::default();
    let mut open = true;
    loop {
        let ended = {
            let mut fds = vec![PollFd::new(client.as_fd(), PollFlags::POLLIN)];
            if open {
                fds.push(PollFd::new(reader.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result.map_err(|errno| ClientError::Talk(errno.into()))?,
            };
            fds[0].any().unwrap_or(true)
        };
        open = open && lines.read(&mut reader, heard).map_err(ClientError::Talk)?;
        if ended {
            match client.receive().map_err(ClientError::Talk)? {
                Some((FromShim::ExecExited { exec, code }, _)) if exec == number => {
                    if open {
                        lines.read(&mut reader, heard).map_err(ClientError::Talk)?;
                    }
                    lines.finish(heard);
                    return Ok(code);
                }
                Some(_) => {}
                None => return Err(ClientError::Gone),
            }
        }
    }
}

/// The longest line that is put together, in bytes; a longer one comes in pieces.
const LONGEST: usize = 1 << 14;

/// Output that is cut into lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Reads what there is; `false` at the end of the stream.
    fn read(&mut self, reader: &mut io::PipeReader, heard: &mut dyn FnMut(&str)) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    for byte in &buffer[..count] {
                        if *byte == b'\n' || self.begun.len() == LONGEST {
                            self.finish(heard);
                        }
                        if *byte != b'\n' {
                            self.begun.push(*byte);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn finish(&mut self, heard: &mut dyn FnMut(&str)) {
        if !self.begun.is_empty() {
            heard(String::from_utf8_lossy(&std::mem::take(&mut self.begun)).trim_end_matches('\r'));
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
