//! Notices that a container gets another shim, where the one before was killed.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::sys::inotify::AddWatchFlags;
use tokio::io::unix::AsyncFd;

use crate::host;
use crate::sys::readiness;

/// A container's run directory that is watched: a shim's socket takes its name there when the shim listens.
#[derive(Debug)]
pub struct Arrival {
    readable: AsyncFd<OwnedFd>,
}

impl Arrival {
    /// Watches a container's run directory (`Root::container_run`) from now on.
    ///
    /// # Errors
    /// `NotFound` where the container does not run.
    pub fn watch(run: &Path) -> io::Result<Self> {
        let inotify = host::inotify()?;
        inotify
            .add_watch(run, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR)?;
        Ok(Self { readable: readiness::watch_reading(inotify.as_fd().try_clone_to_owned()?)? })
    }

    /// Returns when something has arrived, or the container has ended and the directory is gone.
    pub async fn seen(self) -> io::Result<()> {
        self.readable.readable().await.map(drop)
    }
}
