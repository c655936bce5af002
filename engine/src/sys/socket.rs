//! Packets with descriptors over Unix sockets of type `SOCK_SEQPACKET`.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, listen, recv, recvmsg, sendmsg, socket, socketpair,
};

/// The longest packet that is received. The kernel's default limit on sending (`net.core.wmem_default`) is below it.
pub const PACKET: usize = 256 << 10;

/// The most descriptors in a packet (`SCM_MAX_FD` of the kernel).
pub const DESCRIPTORS: usize = 253;

/// How often a call is repeated for which the kernel had no memory: a process that lost a connection for that would take
/// the other end for dead.
const PATIENCE: u32 = 100;

/// Gives the kernel a moment to find memory.
fn pause(patience: &mut u32) {
    *patience -= 1;
    std::thread::sleep(std::time::Duration::from_millis(5));
}

/// Returns two connected sockets.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends one packet. Fails with `EAGAIN` instead of waiting where the receiver's queue is full and the socket does not
/// block.
pub fn send(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_with(socket, data, fds, MsgFlags::empty())
}

/// Sends one packet, or fails with `EAGAIN` where the receiver's queue is full, whether or not the socket blocks.
pub fn send_at_once(socket: impl AsFd, data: &[u8]) -> Result<()> {
    send_with(socket, data, &[], MsgFlags::MSG_DONTWAIT)
}

fn send_with(socket: impl AsFd, data: &[u8], fds: &[BorrowedFd<'_>], flags: MsgFlags) -> Result<()> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let mut patience = PATIENCE;
    loop {
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(data)], control, flags, None);
        match sent {
            Err(Errno::EINTR) => {}
            Err(Errno::ENOMEM | Errno::ENOBUFS) if patience > 0 => pause(&mut patience),
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one packet, or `None` where the other side is gone.
///
/// Fails with `EMSGSIZE` where the packet is longer than [`PACKET`], which is taken all the same.
pub fn receive(socket: impl AsFd) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let socket = socket.as_fd().as_raw_fd();
    let mut patience = PATIENCE;
    // Its length first: a buffer for the longest would be most of what a shim has on its heap.
    let length = loop {
        match recv(socket, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Err(error) => bear(error, &mut patience)?,
            Ok(length) => break length,
        }
    };
    let mut bytes = vec![0; length.min(PACKET)];
    let mut space = nix::cmsg_space!([RawFd; 253]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message = loop {
        match recvmsg::<()>(socket, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(error) => bear(error, &mut patience)?,
            Ok(message) => break message,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just put these descriptors into this process, and only this list knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    // No message of ours is empty, so nothing at all means the end.
    if message.bytes == 0 && fds.is_empty() { Ok(None) } else { Ok(Some((bytes, fds))) }
}

/// Returns where receiving is to be tried again, with an error of which the connection is no worse.
fn bear(error: Errno, patience: &mut u32) -> Result<()> {
    match error {
        // ECONNRESET: the peer is gone and had not read everything. It is told once, and before what the peer said
        // last, which is still there to be read.
        Errno::EINTR | Errno::ECONNRESET => Ok(()),
        // The message is still there.
        Errno::ENOMEM | Errno::ENOBUFS if *patience > 0 => {
            pause(patience);
            Ok(())
        }
        error => Err(error),
    }
}

/// Listens at `name` in a directory, whose path may be longer than a socket's address allows (108 bytes).
/// A socket file that is there already is replaced. It takes its name when it listens, for which others watch.
pub fn listen_in(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let new = format!("{name}.new");
    match nix::unistd::unlinkat(directory.as_fd(), new.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    // The mode of the socket file follows that of the descriptor (unix(7): fchmod before bind).
    nix::sys::stat::fchmod(&fd, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    bind(fd.as_raw_fd(), &address(directory.as_fd(), &new)?)?;
    listen(&fd, Backlog::new(64)?)?;
    nix::fcntl::renameat(directory.as_fd(), new.as_str(), directory.as_fd(), name)?;
    Ok(fd)
}

/// Connects to the socket `name` in a directory, whose path may be longer than a socket's address allows.
pub fn connect_in(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &address(directory.as_fd(), name)?)?;
    Ok(fd)
}

/// Ends a connection for both sides.
pub fn hang_up(socket: impl AsFd) {
    // It may have ended by itself.
    nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
}

/// Accepts a connection, or `None` where it is gone again.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(Errno::EINTR | Errno::EAGAIN | Errno::ECONNABORTED) => Ok(None),
        Err(error) => Err(error),
    }
}

fn address(directory: BorrowedFd<'_>, name: &str) -> Result<UnixAddr> {
    UnixAddr::new(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}
