//! The supervisor's connection to a shim.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::shim::protocol::{FromShim, ToShim};
use crate::sys::{readiness, socket};

/// A packet socket whose other end is a shim.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    /// Takes over the supervisor's end of a shim's socketpair.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self { socket: readiness::watch(socket)? })
    }

    /// Connects to the shim that listens in a container's run directory.
    pub(super) fn connect(run: &Path) -> io::Result<Self> {
        Self::new(socket::connect_in(File::open(run)?, "shim.sock")?)
    }

    /// Sends one message.
    pub(super) async fn send(&self, message: &ToShim, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        self.socket.async_io(Interest::WRITABLE, |socket| Ok(socket::send(socket.as_fd(), &bytes, fds)?)).await
    }

    /// Receives the next message; `None` when the shim is gone. Cancel-safe.
    pub(super) async fn receive(&mut self) -> io::Result<Option<(FromShim, Vec<OwnedFd>)>> {
        let receive = |socket: &OwnedFd| {
            let Some((bytes, fds)) = socket::receive(socket.as_fd())? else { return Ok(None) };
            Ok(Some((serde_json::from_slice(&bytes)?, fds)))
        };
        self.socket.async_io(Interest::READABLE, receive).await
    }
}
