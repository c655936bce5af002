//! Socket options and reads that nix does not have.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

fn set(fd: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).expect("four fits");
    // SAFETY: `value` is an initialised int that outlives the call and `length` is its size; the descriptor is open
    // as long as `fd` is borrowed.
    let result = unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, option, (&raw const value).cast::<libc::c_void>(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel explain netlink errors in words and leave out the request (`netlink(7)`, since Linux 4.12).
pub fn extended_ack(fd: &impl AsFd) -> io::Result<()> {
    set(fd, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
    set(fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)
}

/// Subscribes a netlink socket to a multicast group (`netlink(7)`, `NETLINK_ADD_MEMBERSHIP`).
pub fn netlink_subscribe(fd: &impl AsFd, group: i32) -> io::Result<()> {
    set(fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
}

/// Opens an SCTP socket (`sctp(7)`).
pub fn sctp_socket(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_SCTP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Brings the loopback interface of this network namespace up (`netdevice(7)`, `SIOCSIFFLAGS`).
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `ifreq` is a plain structure of integers, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
