//! This process's standard streams lent to PID 1 of a container, until it ends or the user leaves it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rcompose_engine::shim::client::{Attached, Client};
use rcompose_engine::shim::protocol::{Exit, FromShim};

use super::terminal;

/// The keys that leave a container without ending it, where nobody said: Ctrl-P, Ctrl-Q.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// How it came that nothing is connected any more.
#[derive(Debug)]
pub enum Left {
    /// Everything that was written has been shown. How the container ended, if its shim said so.
    Ended(Option<Exit>),
    /// The user pressed the keys for it.
    Detached,
}

/// What connects this process to a container.
#[derive(Debug)]
pub struct Session {
    client: Client,
    /// The reading ends of the container's standard output and error.
    outputs: [Option<File>; 2],
    /// Where standard input goes.
    input: Option<File>,
    keys: Keys,
}

impl Session {
    /// Attaches to the container behind `client`; with `stdin` also to its standard input. `keys` are the keys that leave
    /// a container with a terminal. Also returns the terminal's master, to tell it of changes of the size.
    pub fn attach(client: Client, stdin: bool, keys: Keys) -> Result<(Self, Option<File>), AttachError> {
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| AttachError::Pipe(errno.into()));
        let ((output, to_output), (error, to_error)) = (pipe()?, pipe()?);
        for fd in [&to_output, &to_error] {
            terminal::nonblocking(fd).map_err(AttachError::Pipe)?;
        }
        let Attached { terminal, input } = client.attach(stdin, &[to_output.as_fd(), to_error.as_fd()])?;
        drop((to_output, to_error));
        if let Some(fd) = &input {
            terminal::nonblocking(fd).map_err(AttachError::Pipe)?;
        }
        let copy = |fd: &OwnedFd| fd.try_clone().map(File::from).map_err(AttachError::Pipe);
        let master = input.as_ref().filter(|_| terminal).map(copy).transpose()?;
        let session = Self {
            client,
            outputs: [Some(output.into()), Some(error.into())],
            input: input.filter(|_| stdin).map(File::from),
            keys: if terminal { keys } else { Keys::default() },
        };
        Ok((session, master))
    }

    /// Copies what is written and typed. Blocks; returns when the container has ended or the user has left it.
    pub fn run(mut self) -> io::Result<Left> {
        let mut exit = None;
        let mut talking = true;
        let mut pending = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let stdin = io::stdin();
        while self.outputs.iter().any(Option::is_some) {
            let mut sources = Vec::new();
            let mut fds = Vec::new();
            for (number, output) in self.outputs.iter().enumerate() {
                if let Some(output) = output {
                    sources.push(Source::Output(number));
                    fds.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
                }
            }
            if talking {
                sources.push(Source::Shim);
                fds.push(PollFd::new(self.client.as_fd(), PollFlags::POLLIN));
            }
            if let Some(input) = &self.input {
                // What was typed waits here while nobody reads it, and the rest of it where it is.
                if pending.is_empty() {
                    sources.push(Source::Stdin);
                    fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
                } else {
                    sources.push(Source::Input);
                    fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
                }
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            let ready = fds.iter().zip(&sources).filter(|(fd, _)| fd.any().unwrap_or(true));
            let ready = ready.map(|(_, source)| *source).collect::<Vec<_>>();
            drop(fds);
            for source in ready {
                match source {
                    Source::Output(number) => {
                        if let Some(output) = &mut self.outputs[number]
                            && !show(output, number, &mut buffer)?
                        {
                            self.outputs[number] = None;
                        }
                    }
                    Source::Shim => match self.client.receive()? {
                        Some((FromShim::Exited(how), _)) => exit = Some(how),
                        Some(_) => {}
                        None => talking = false,
                    },
                    Source::Stdin => {
                        let count = nix::unistd::read(&stdin, &mut buffer).unwrap_or(0);
                        if count == 0 {
                            // The container sees the end too, where that was meant.
                            self.input = None;
                        } else if self.keys.take(&buffer[..count], &mut pending) {
                            return Ok(Left::Detached);
                        }
                    }
                    Source::Input => {
                        if let Some(input) = &mut self.input {
                            match input.write(&pending) {
                                Ok(count) => drop(pending.drain(..count)),
                                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                                // Nobody reads it any more.
                                Err(_) => self.input = None,
                            }
                        }
                    }
                }
            }
        }
        // The shim says how it ended before it closes anything.
        while talking && exit.is_none() {
            match self.client.receive()? {
                Some((FromShim::Exited(how), _)) => exit = Some(how),
                Some(_) => {}
                None => talking = false,
            }
        }
        Ok(Left::Ended(exit))
    }
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Output(usize),
    Shim,
    Stdin,
    Input,
}

/// Shows what a stream has; returns whether more can come.
fn show(output: &mut File, number: usize, buffer: &mut [u8]) -> io::Result<bool> {
    let count = match output.read(buffer) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
        count => count?,
    };
    if number == 0 {
        let mut out = io::stdout().lock();
        out.write_all(&buffer[..count])?;
        out.flush()?;
    } else {
        io::stderr().lock().write_all(&buffer[..count])?;
    }
    Ok(count > 0)
}

/// Why nothing could be connected.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("cannot make a pipe for the container's output")]
    Pipe(#[source] io::Error),
    #[error(transparent)]
    Client(#[from] rcompose_engine::shim::client::ClientError),
}

/// A sequence of keys, and how much of it was pressed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    sequence: Vec<u8>,
    pressed: usize,
}

impl Keys {
    /// Reads keys such as `ctrl-p,ctrl-q` or `a,b`; none at all for an empty text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = |key: &str| match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
            ([byte], None) => Ok(*byte),
            (_, Some([letter @ b'a'..=b'z'])) => Ok(letter - b'a' + 1),
            (_, Some([sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(sign - b'@'),
            _ => Err(format!("`{key}` is not a key: a single character, or ctrl- and one of a-z, @, [, \\, ], ^, _")),
        };
        let keys = text.split(',').filter(|_| !text.is_empty()).map(key);
        Ok(Self { sequence: keys.collect::<Result<_, _>>()?, pressed: 0 })
    }

    /// Passes on what was typed and does not belong to the sequence; returns whether the sequence is complete.
    fn take(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if self.sequence.get(self.pressed) == Some(&byte) {
                self.pressed += 1;
                if self.pressed == self.sequence.len() {
                    return true;
                }
                continue;
            }
            // It was meant for the container after all.
            out.extend_from_slice(&self.sequence[..self.pressed]);
            self.pressed = usize::from(self.sequence.len() > 1 && self.sequence[0] == byte);
            if self.pressed == 0 {
                out.push(byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_names() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q").unwrap().sequence, [16, 17]);
        assert_eq!(Keys::parse("a,ctrl-@,ctrl-_").unwrap().sequence, [b'a', 0, 31]);
        assert_eq!(Keys::parse("").unwrap(), Keys::default());
        for wrong in ["ctrl-", "ctrl-P", "ab", "a,,b", "ctrl-1"] {
            assert!(Keys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_only_begins_like_the_sequence_goes_on() {
        let typed = |parts: &[&[u8]]| {
            let mut keys = Keys::parse(DETACH_KEYS).unwrap();
            let mut out = Vec::new();
            let complete = parts.iter().any(|part| keys.take(part, &mut out));
            (out, complete)
        };
        assert_eq!(typed(&[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[b"\x10x\x10\x10y"]), (b"\x10x\x10\x10y".to_vec(), false));
        assert_eq!(typed(&[b"\x10", b"\x10", b"\x11"]), (b"\x10".to_vec(), true));
        let mut none = Keys::default();
        let mut out = Vec::new();
        assert!(!none.take(b"\x10\x11", &mut out));
        assert_eq!(out, b"\x10\x11");
    }
}
