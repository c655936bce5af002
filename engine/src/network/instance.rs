//! Ports at addresses that belong to one project alone (127.128.0.0/9, `--instance`).
//!
//! The packet filter leads them in before any port that is published at every address. A socket that listened there
//! would stand in the way of one that listens at every address, and that one in its way. So what keeps such a port from
//! being published twice is not a socket of TCP or UDP, but a name that only one socket of the host's network can have
//! (`unix(7)`, abstract). Nothing can arrive there that would have to be relayed: the addresses are the host's own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

use crate::container::config::Protocol;

/// Returns whether an address belongs to one project alone.
pub fn is_of_instance(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_loopback() && v4.octets()[1] >= 128)
}

fn name(at: SocketAddr, protocol: Protocol) -> String {
    format!("rcompose port {at}/{}", protocol.as_str())
}

/// Takes a port that nobody else has.
pub(super) fn take(at: SocketAddr, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let fd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new_abstract(name(at, protocol).as_bytes())?)?;
    Ok(fd)
}

/// Returns the number of the socket that keeps a port, as `/proc/net/unix` lists it.
pub(super) fn holder(at: SocketAddr, protocol: Protocol) -> Option<u64> {
    let path = format!("@{}", name(at, protocol));
    let text = fs::read_to_string("/proc/thread-self/net/unix").ok()?;
    text.lines().find_map(|line| inode(line, &path))
}

fn inode(line: &str, path: &str) -> Option<u64> {
    line.strip_suffix(path)?.split_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_can_have_a_port() {
        let at = "127.200.1.2:8080".parse().unwrap();
        let taken = take(at, Protocol::Tcp).unwrap();
        assert_eq!(take(at, Protocol::Tcp).unwrap_err(), Errno::EADDRINUSE);
        take(at, Protocol::Udp).unwrap();
        assert!(holder(at, Protocol::Tcp).is_some());
        drop(taken);
        assert_eq!(holder(at, Protocol::Tcp), None);
        take(at, Protocol::Tcp).unwrap();
    }

    #[test]
    fn the_kernels_list_of_sockets() {
        let line = "0000000000000000: 00000002 00000000 00000000 0002 01 33171 @rcompose port 127.200.1.2:8080/tcp";
        assert_eq!(inode(line, "@rcompose port 127.200.1.2:8080/tcp"), Some(33171));
        assert_eq!(inode(line, "@rcompose port 127.200.1.2:80/tcp"), None);
    }

    #[test]
    fn addresses_of_instances() {
        let is = |address: &str| is_of_instance(address.parse().unwrap());
        assert_eq!(
            ["127.128.0.1", "127.255.9.9", "127.0.0.1", "10.200.0.1", "::1"].map(is),
            [true, true, false, false, false]
        );
    }
}
