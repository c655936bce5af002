//! Who sees what the container writes, besides the log.
//!
//! Each listener has a pipe per stream, of which the shim has the writing end. What a pipe does not take at once waits
//! here, and until it is gone the shim reads no more of the container's output: nothing is lost, and the memory is bound.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::container::log::Stream;

/// Everybody who is attached.
#[derive(Debug, Default)]
pub(super) struct Audience {
    pipes: Vec<Pipe>,
}

/// One stream on its way to one listener.
#[derive(Debug)]
struct Pipe {
    /// The connection that asked for it.
    connection: u64,
    stream: Stream,
    fd: OwnedFd,
    /// What the pipe has not taken yet.
    pending: Vec<u8>,
}

impl Audience {
    /// Adds a listener: its pipes for standard output and error.
    pub(super) fn add(&mut self, connection: u64, fds: Vec<OwnedFd>) {
        for (stream, fd) in [Stream::Stdout, Stream::Stderr].into_iter().zip(fds) {
            self.pipes.push(Pipe { connection, stream, fd, pending: Vec::new() });
        }
    }

    /// Returns who listens.
    pub(super) fn connections(&self) -> BTreeSet<u64> {
        self.pipes.iter().map(|pipe| pipe.connection).collect()
    }

    /// A connection is gone, and with it its interest.
    pub(super) fn remove(&mut self, connection: u64) {
        self.pipes.retain(|pipe| pipe.connection != connection);
    }

    /// Shows everybody what was written.
    pub(super) fn show(&mut self, stream: Stream, bytes: &[u8]) {
        self.pipes.retain_mut(|pipe| pipe.stream != stream || pipe.write(bytes));
    }

    /// Writes what had to wait.
    pub(super) fn flush(&mut self) {
        self.pipes.retain_mut(|pipe| pipe.write(&[]));
    }

    /// Returns the pipes that have not taken everything yet.
    pub(super) fn behind(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().filter(|pipe| !pipe.pending.is_empty()).map(|pipe| pipe.fd.as_fd())
    }
}

impl Pipe {
    /// Writes what waits and then `bytes`, as much as the pipe takes; returns whether anybody reads it.
    fn write(&mut self, bytes: &[u8]) -> bool {
        self.pending.extend_from_slice(bytes);
        while !self.pending.is_empty() {
            match nix::unistd::write(&self.fd, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        if self.pending.is_empty() {
            // A shim is to stay small, however much went through it.
            self.pending = Vec::new();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use nix::fcntl::OFlag;

    use super::*;

    fn listener(audience: &mut Audience, connection: u64) -> std::fs::File {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        audience.add(connection, vec![writer]);
        reader.into()
    }

    #[test]
    fn what_a_pipe_does_not_take_waits_in_order() {
        let mut audience = Audience::default();
        let mut slow = listener(&mut audience, 1);
        let text = (0..40_000).flat_map(|n: u32| n.to_le_bytes()).collect::<Vec<_>>();
        for part in text.chunks(30_000) {
            audience.show(Stream::Stdout, part);
            audience.show(Stream::Stderr, b"for nobody");
        }
        assert_eq!(audience.behind().count(), 1);
        let mut seen = Vec::new();
        while audience.behind().count() > 0 {
            let mut buffer = [0; 10_000];
            let count = slow.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..count]);
            audience.flush();
        }
        audience.remove(1);
        slow.read_to_end(&mut seen).unwrap();
        assert!(seen == text);
    }

    #[test]
    fn a_listener_that_left_holds_nobody_up() {
        let mut audience = Audience::default();
        drop(listener(&mut audience, 1));
        let mut there = listener(&mut audience, 2);
        audience.show(Stream::Stdout, b"hello");
        assert_eq!(audience.pipes.len(), 1);
        let mut buffer = [0; 10];
        assert_eq!(there.read(&mut buffer).unwrap(), 5);
    }
}
