//! Waiting for descriptors: by tokio's reactor (`epoll(7)`), or on the calling thread (`poll(2)`).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for reading and writing.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its descriptor open and the same for as long as it lives, which is as long as the
    // registration does.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Watches a descriptor for reading, such as a pidfd, which cannot be written.
pub fn watch_reading(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as in `watch`.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Waits on this thread for what `flags` say of a descriptor, at most so long. Returns whether it came.
pub fn wait(fd: BorrowedFd<'_>, flags: PollFlags, patience: Duration) -> nix::Result<bool> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up, so as not to give up before the time.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, flags)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(0) if !left.is_zero() => {}
            result => return result.map(|count| count > 0),
        }
    }
}
