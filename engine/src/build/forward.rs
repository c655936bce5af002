//! The socket of an SSH agent as a command has it (`RUN --mount=type=ssh`).
//!
//! An agent serves its own user and root only. So a command has a socket of its own, with the owner and the mode that its
//! mount asks for, and what is said there is passed on.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

use super::execute::Temporary;

/// What the socket is called in its directory.
const NAME: &str = "agent";

/// A socket of one command. With it go its connections.
#[derive(Debug)]
pub(crate) struct Forward {
    directory: Temporary,
    task: AbortHandle,
}

impl Forward {
    /// Listens in a directory of its own, and passes on to an agent.
    pub(crate) fn listen(directory: Temporary, agent: PathBuf, (uid, gid, mode): (u32, u32, u32)) -> io::Result<Self> {
        // The path may be longer than the address of a socket.
        let opened = File::open(&directory.0)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd()))?;
        let path = directory.0.join(NAME);
        std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        chown(&path, Some(uid), Some(gid))?;
        let task = tokio::spawn(serve(listener, agent)).abort_handle();
        Ok(Self { directory, task })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.0.join(NAME)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, agent: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((command, _)) => drop(connections.spawn(pass_on(command, agent.clone()))),
                Err(error) => return tracing::warn!(%error, "cannot pass on to an SSH agent any more"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Passes on both ways, until one side has nothing more to say. A command whose agent is gone is hung up on.
async fn pass_on(mut command: UnixStream, agent: PathBuf) {
    if let Err(error) = connect(&mut command, &agent).await {
        tracing::debug!(%error, "a connection to an SSH agent has ended");
    }
}

async fn connect(command: &mut UnixStream, agent: &Path) -> io::Result<()> {
    let mut agent = UnixStream::connect(agent).await?;
    tokio::io::copy_bidirectional(command, &mut agent).await.map(drop)
}
