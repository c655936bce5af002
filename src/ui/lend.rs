//! This process's standard streams lent to a process in a container that has no terminal of its own.
//!
//! A pipe or socket is handed over as it is, and nothing is copied. Anything else stays here, and the process gets a pipe: it
//! could open a file that it was only given to read anew, to write to it (`/proc/self/fd/0`), leave the container through a
//! directory, or change the owner and mode of a terminal.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::{SFlag, fstat};
use rcompose_engine::shim::client::{Client, ClientError};
use rcompose_engine::shim::protocol::Exec;

use super::terminal::{self, Ended};

/// The most that a pipe holds, in bytes (`fs.pipe-max-size`, unless its owner has allowed more).
const PIPE: usize = 1 << 20;

/// Bytes that are copied at once.
const BUFFER: usize = 1 << 16;

/// Runs a process with our standard streams until it ends; a signal to end us ends it too.
pub fn run(client: &mut Client, request: Exec) -> io::Result<Ended> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let own = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut streams = Streams::default();
    let mut theirs: [Option<OwnedFd>; 3] = [None, None, None];
    for (number, fd) in own.into_iter().enumerate() {
        if !may_leave(fd)? {
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            let (ours, other) = if number == 0 { (writer, reader) } else { (reader, writer) };
            terminal::nonblocking(&ours)?;
            theirs[number] = Some(other);
            streams.ours[number] = Some(ours.into());
        }
    }
    let given = [0, 1, 2].map(|number: usize| theirs[number].as_ref().map_or(own[number], AsFd::as_fd));
    let number = match client.exec(request, &given) {
        Ok((number, ..)) => number,
        Err(error @ (ClientError::Failed(_) | ClientError::Gone)) => return Ok(Ended::NeverBegan(error)),
        Err(error) => return Err(io::Error::other(error)),
    };
    drop(theirs);
    streams.connect(client, number)
}

/// Returns whether a process in a container may have this descriptor of ours. The null device is replaced by the
/// container's own when it arrives.
fn may_leave(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let status = fstat(fd)?;
    let null = status.st_rdev == nix::sys::stat::makedev(1, 3);
    Ok(match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFIFO | SFlag::S_IFSOCK => true,
        SFlag::S_IFCHR => null,
        _ => false,
    })
}

/// Our ends of the pipes that stand for our standard streams.
#[derive(Debug, Default)]
struct Streams {
    ours: [Option<File>; 3],
    /// What was read from standard input and is not taken yet.
    pending: Vec<u8>,
}

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Shim,
    Signal,
    /// Standard input has something.
    Typed,
    /// The process can take more of it.
    Input,
    Output(usize),
}

impl Streams {
    /// Copies what comes until the process has ended, and all that it wrote before.
    fn connect(mut self, client: &Client, number: u32) -> io::Result<Ended> {
        let signals = terminal::signals(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
        let stdin = io::stdin();
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut sources = vec![Source::Shim, Source::Signal];
            let mut fds =
                vec![PollFd::new(client.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match &self.ours[0] {
                Some(_) if self.pending.is_empty() => {
                    sources.push(Source::Typed);
                    fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
                }
                Some(input) => {
                    sources.push(Source::Input);
                    fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
                }
                None => {}
            }
            for output in [1, 2] {
                if let Some(file) = &self.ours[output] {
                    sources.push(Source::Output(output));
                    fds.push(PollFd::new(file.as_fd(), PollFlags::POLLIN));
                }
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            let ready = fds.iter().zip(&sources).filter(|(fd, _)| fd.any().unwrap_or(true));
            let ready: Vec<Source> = ready.map(|(_, source)| *source).collect();
            drop(fds);
            for source in &ready {
                match source {
                    Source::Typed => match nix::unistd::read(&stdin, &mut buffer) {
                        Ok(count @ 1..) => self.pending.extend_from_slice(&buffer[..count]),
                        Err(Errno::EINTR | Errno::EAGAIN) => {}
                        // The process sees the end.
                        Ok(0) | Err(_) => self.ours[0] = None,
                    },
                    Source::Input => self.feed(),
                    Source::Output(output) => self.show(*output, &mut buffer, 1)?,
                    Source::Shim | Source::Signal => {}
                }
            }
            if ready.contains(&Source::Shim)
                && let Some(ended) = terminal::ended(client, number)?
            {
                // What it wrote before is in the pipes, which hold no more than this. Others that still have them open and
                // may write for ever are not waited for.
                for output in [1, 2] {
                    self.show(output, &mut buffer, PIPE / BUFFER + 1)?;
                }
                return Ok(ended);
            }
            if ready.contains(&Source::Signal)
                && let Some(signal) = signals.read_signal()?
            {
                terminal::kill(client, number);
                return Ok(Ended::Interrupted(i32::try_from(signal.ssi_signo).unwrap_or(0)));
            }
        }
    }

    /// Hands on what waits, as far as it is taken.
    fn feed(&mut self) {
        let Some(input) = &mut self.ours[0] else { return };
        match input.write(&self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Nobody reads it any more.
            Err(_) => self.ours[0] = None,
        }
    }

    /// Writes what an output has at the moment to ours, at most as many buffers of it.
    fn show(&mut self, number: usize, buffer: &mut [u8], most: usize) -> io::Result<()> {
        for _ in 0..most {
            let Some(file) = &mut self.ours[number] else { break };
            match file.read(buffer) {
                Ok(0) => self.ours[number] = None,
                Ok(count) if number == 1 => {
                    let mut out = io::stdout().lock();
                    out.write_all(&buffer[..count])?;
                    out.flush()?;
                }
                Ok(count) => io::stderr().lock().write_all(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pipes_sockets_and_the_null_device_leave() {
        let (reader, writer) = io::pipe().unwrap();
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        for fd in [reader.as_fd(), writer.as_fd(), socket.as_fd(), File::open("/dev/null").unwrap().as_fd()] {
            assert!(may_leave(fd).unwrap());
        }
        for path in ["/", "/dev/zero", "/proc/self/status"] {
            assert!(!may_leave(File::open(path).unwrap().as_fd()).unwrap(), "{path}");
        }
    }
}
