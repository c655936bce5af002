//! Published ports: which are free, who has those that are not, and how nobody else takes ours.
//!
//! The packet filter leads a port into its container without a socket, so any other program could bind the same port
//! and never hear a thing. Each published port is therefore also bound by a socket that lives as long as the container:
//! a conflict is an error on either side. What the kernel cannot lead (IPv6 to a container without it, a container's
//! question to its own published port) arrives at that socket, and `relay` carries it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, getsockname, listen, setsockopt, socket,
    sockopt,
};
use nix::unistd::Pid;

use super::instance;
use crate::container::config::{Protocol, PublishedPort};
use crate::container::state::BoundPort;
use crate::sys::pidfd;

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("port {address}/{} is already in use{}{}", protocol.as_str(), by(holder.as_deref()), advice(*next))]
    InUse { address: SocketAddr, protocol: Protocol, holder: Option<String>, next: Option<u16> },
    #[error("none of the ports {}-{} of {address}/{} is free: the first is in use{}", range.0, range.1, protocol.as_str(), by(holder.as_deref()))]
    RangeInUse { address: IpAddr, protocol: Protocol, range: (u16, u16), holder: Option<String> },
    #[error("cannot publish a port at {0}, which is not an address of this host")]
    NotLocal(IpAddr),
    #[error("cannot publish port {address}/{}", protocol.as_str())]
    Bind {
        address: SocketAddr,
        protocol: Protocol,
        #[source]
        source: io::Error,
    },
    #[error("no free port could be found for {address}/{}", protocol.as_str())]
    NoneFree { address: IpAddr, protocol: Protocol },
}

fn by(holder: Option<&str>) -> String {
    holder.map(|holder| format!(" by {holder}")).unwrap_or_default()
}

fn advice(next: Option<u16>) -> String {
    next.map(|port| format!("; the next free port is {port}")).unwrap_or_default()
}

/// A published port that nobody else can have any more.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) port: BoundPort,
    pub(crate) socket: OwnedFd,
}

impl Reservation {
    /// Returns what the socket is called where it is kept for the supervisor after us.
    pub(crate) fn name(&self) -> String {
        name(&self.port)
    }
}

/// Returns whether what is kept under a name is the socket of a published port.
pub(crate) fn is_port(name: &str) -> bool {
    name.starts_with("port ")
}

/// Returns the name under which a published port's socket is kept.
pub(crate) fn name(port: &BoundPort) -> String {
    let host = SocketAddr::new(port.host_ip, port.host_port);
    format!("port {host} {}/{}", port.container_port, port.protocol.as_str())
}

/// Binds a port again whose socket nobody kept.
pub(crate) fn rebind(port: &BoundPort) -> io::Result<Reservation> {
    let (socket, _) = bind_one(SocketAddr::new(port.host_ip, port.host_port), port.protocol)?;
    Ok(Reservation { port: port.clone(), socket })
}

/// What one attempt to bind came to.
enum Attempt {
    Bound(Vec<Reservation>),
    Busy(SocketAddr),
}

/// Attempts to find one port that is free in both families.
const EPHEMERAL_ATTEMPTS: usize = 64;
/// How far the search for the next free port goes.
const NEXT: u16 = 200;

/// Binds what one entry of `ports` asks for. `ours` says whose of our containers a port is.
pub(crate) fn reserve(
    wanted: &PublishedPort,
    ours: &dyn Fn(&BoundPort) -> Option<String>,
) -> Result<Vec<Reservation>, PortError> {
    // Without an address: all of IPv4, and all of IPv6 where this host has it.
    let addresses = wanted.host_ip.map_or_else(
        || vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        |address| vec![address],
    );
    let optional_v6 = wanted.host_ip.is_none();
    let busy = match wanted.host_port {
        None => {
            for _ in 0..EPHEMERAL_ATTEMPTS {
                if let Attempt::Bound(bound) = attempt(wanted, &addresses, 0, optional_v6)? {
                    return Ok(bound);
                }
            }
            return Err(PortError::NoneFree { address: addresses[0], protocol: wanted.protocol });
        }
        Some((first, last)) => {
            let mut busy = None;
            for port in first..=last.max(first) {
                match attempt(wanted, &addresses, port, optional_v6)? {
                    Attempt::Bound(bound) => return Ok(bound),
                    Attempt::Busy(address) => busy = busy.or(Some(address)),
                }
            }
            busy.expect("a range has at least one port, and each was bound or busy")
        }
    };
    let as_bound = BoundPort {
        host_ip: busy.ip(),
        host_port: busy.port(),
        container_port: wanted.container_port,
        protocol: wanted.protocol,
    };
    let holder = match ours(&as_bound) {
        Some(holder) => Some(holder),
        None => match after_a_shim_of_ours(wanted, &addresses, optional_v6, busy) {
            Some(bound) => return bound,
            None => process_holding(busy, wanted.protocol).map(|(_, holder)| holder),
        },
    };
    let (first, last) = wanted.host_port.unwrap_or((busy.port(), busy.port()));
    if last > first {
        let range = (first, last);
        return Err(PortError::RangeInUse { address: addresses[0], protocol: wanted.protocol, range, holder });
    }
    let next = (busy.port().saturating_add(1)..=busy.port().saturating_add(NEXT))
        .find(|port| matches!(attempt(wanted, &addresses, *port, optional_v6), Ok(Attempt::Bound(_))));
    Err(PortError::InUse { address: busy, protocol: wanted.protocol, holder, next })
}

/// A container that is started again may find its port still open in the process that kept it for the last run, if that
/// was killed and has not ended yet. Waits for the end of a holder that is a process of this very program.
fn after_a_shim_of_ours(
    wanted: &PublishedPort,
    addresses: &[IpAddr],
    optional_v6: bool,
    busy: SocketAddr,
) -> Option<Result<Vec<Reservation>, PortError>> {
    const PATIENCE: Duration = Duration::from_millis(100);
    const WAIT: Duration = Duration::from_millis(5);
    wanted.host_port.filter(|(first, last)| first == last)?;
    let program = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).map(|meta| (meta.dev(), meta.ino())).ok();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match attempt(wanted, addresses, busy.port(), optional_v6) {
            Ok(Attempt::Bound(bound)) => return Some(Ok(bound)),
            Ok(Attempt::Busy(_)) => {}
            Err(error) => return Some(Err(error)),
        }
        let Some((pid, _)) = process_holding(busy, wanted.protocol) else {
            // It is past the point where its descriptors can be seen, and the kernel tells nobody when the port is free.
            std::thread::sleep(WAIT);
            continue;
        };
        let Ok(holder) = pidfd::open(Pid::from_raw(pid.cast_signed())) else { continue };
        // One that is ending may have no program any more.
        if pid == std::process::id() || program(&pid.to_string()).is_some_and(|its| Some(its) != program("self")) {
            return None;
        }
        pidfd::wait_ended(holder.as_fd(), deadline.saturating_duration_since(Instant::now())).ok()?;
    }
    None
}

fn attempt(wanted: &PublishedPort, addresses: &[IpAddr], port: u16, optional_v6: bool) -> Result<Attempt, PortError> {
    let mut bound: Vec<Reservation> = Vec::new();
    let mut port = port;
    for address in addresses {
        let at = SocketAddr::new(*address, port);
        match bind_one(at, wanted.protocol) {
            Ok((socket, chosen)) => {
                port = chosen;
                let port = BoundPort {
                    host_ip: *address,
                    host_port: chosen,
                    container_port: wanted.container_port,
                    protocol: wanted.protocol,
                };
                bound.push(Reservation { port, socket });
            }
            Err(Errno::EADDRINUSE) => return Ok(Attempt::Busy(at)),
            // A host without IPv6.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if optional_v6 && address.is_ipv6() => {}
            Err(Errno::EADDRNOTAVAIL) => return Err(PortError::NotLocal(*address)),
            Err(errno) => {
                return Err(PortError::Bind { address: at, protocol: wanted.protocol, source: errno.into() });
            }
        }
    }
    Ok(Attempt::Bound(bound))
}

/// Binds a socket; returns it and its port.
fn bind_one(address: SocketAddr, protocol: Protocol) -> Result<(OwnedFd, u16), Errno> {
    if !instance::is_of_instance(address.ip()) {
        return bind_socket(address, protocol);
    }
    // The kernel's choice is one that nobody listens at.
    let port = if address.port() == 0 { bind_socket(address, protocol)?.1 } else { address.port() };
    Ok((instance::take(SocketAddr::new(address.ip(), port), protocol)?, port))
}

fn bind_socket(address: SocketAddr, protocol: Protocol) -> Result<(OwnedFd, u16), Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = match protocol {
        Protocol::Tcp => socket(family, SockType::Stream, flags, None)?,
        Protocol::Udp => socket(family, SockType::Datagram, flags, None)?,
        Protocol::Sctp => match crate::sys::net::sctp_socket(address.is_ipv6()) {
            Ok(fd) => fd,
            // A kernel without SCTP cannot have another program that uses it: any socket keeps the port's place.
            Err(_) => return Ok((socket(family, SockType::Datagram, flags, None)?, address.port())),
        },
    };
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that a former owner is still remembering (TIME_WAIT) are in nobody's way. It lets nobody in beside
        // us, since we listen.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    match address {
        SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
    }
    let port = if address.is_ipv4() {
        getsockname::<SockaddrIn>(fd.as_raw_fd())?.port()
    } else {
        getsockname::<SockaddrIn6>(fd.as_raw_fd())?.port()
    };
    if protocol == Protocol::Tcp {
        listen(&fd, Backlog::MAXCONN)?;
    }
    Ok((fd, port))
}

/// A line of `/proc/net/{tcp,udp}{,6}` (`proc_pid_net(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    local: SocketAddr,
    inode: u64,
}

fn parse_entry(line: &str) -> Option<Entry> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let inode = fields.nth(7)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each group of eight digits is a 32-bit word in the host's byte order.
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .map(|n| u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let address: IpAddr = match words.as_slice() {
        [one] => Ipv4Addr::from(*one).into(),
        [_, _, _, _] => Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into(),
        _ => return None,
    };
    Some(Entry { local: SocketAddr::new(address, port), inode })
}

/// Lists the sockets that keep `address` from being bound.
fn conflicts(address: SocketAddr, protocol: Protocol) -> Vec<Entry> {
    let table = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let mut found = Vec::new();
    for file in [table.to_owned(), format!("{table}6")] {
        let path = Path::new("/proc/thread-self/net").join(file);
        let text = fs::read_to_string(path).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(parse_entry).filter(|entry| {
            let (theirs, ours) = (entry.local.ip(), address.ip());
            // A socket at `::` may take IPv4 along.
            let dual = theirs.is_ipv6() && theirs.is_unspecified();
            entry.local.port() == address.port()
                && (theirs == ours
                    || dual
                    || (theirs.is_ipv4() == ours.is_ipv4() && (theirs.is_unspecified() || ours.is_unspecified())))
        }));
    }
    found
}

/// Returns pid and command line of the process that keeps a port from being bound.
fn process_holding(address: SocketAddr, protocol: Protocol) -> Option<(u32, String)> {
    let inodes: Vec<u64> = if instance::is_of_instance(address.ip()) {
        instance::holder(address, protocol).into_iter().collect()
    } else {
        conflicts(address, protocol).iter().map(|entry| entry.inode).collect()
    };
    let sockets: Vec<String> =
        inodes.iter().filter(|inode| **inode != 0).map(|inode| format!("socket:[{inode}]")).collect();
    // A socket that is bound and does not listen is in no table; it may still be found by nobody.
    if sockets.is_empty() {
        return None;
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|target| target.to_str().is_some_and(|target| sockets.iter().any(|s| s == target)))
        });
        if holds {
            return Some((pid, format!("process {pid} ({})", command_line(pid))));
        }
    }
    None
}

/// Returns a process's command line, shortened for a message.
fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        bytes.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let text: String = words.join(" ").chars().filter(|c| !c.is_control()).take(120).collect();
    if text.is_empty() { "unknown".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_tables() {
        let four =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let entry = parse_entry(four).unwrap();
        assert_eq!((entry.local.to_string().as_str(), entry.inode), ("127.0.0.1:8080", 4711));
        let six = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 06 \
                   00000000:00000000 03:00000000 00000000     0        0 0 3 0";
        let entry = parse_entry(six).unwrap();
        assert_eq!((entry.local.to_string().as_str(), entry.inode), ("[::1]:80", 0));
        assert_eq!(parse_entry("sl local_address"), None);
    }

    fn wanted(port: Option<(u16, u16)>, protocol: Protocol) -> PublishedPort {
        PublishedPort { host_ip: Some(Ipv4Addr::LOCALHOST.into()), host_port: port, container_port: 80, protocol }
    }

    #[test]
    fn a_conflict_names_the_holder_and_the_next_free_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let nobody = |_: &BoundPort| None;
        let error = reserve(&wanted(Some((port, port)), Protocol::Tcp), &nobody).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("port 127.0.0.1:{port}/tcp is already in use by process ")), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        assert!(text.contains("; the next free port is "), "{text}");
        let ours = |_: &BoundPort| Some("container shop-web-1 of project shop".to_owned());
        let text = reserve(&wanted(Some((port, port)), Protocol::Tcp), &ours).unwrap_err().to_string();
        assert!(text.contains("in use by container shop-web-1 of project shop; "), "{text}");
        // The next port of a range is taken instead.
        let bound = reserve(&wanted(Some((port, port.saturating_add(20))), Protocol::Tcp), &nobody).unwrap();
        assert_ne!(bound[0].port.host_port, port);
    }

    #[test]
    fn a_reserved_port_is_nobody_elses() {
        let nobody = |_: &BoundPort| None;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let bound = reserve(&wanted(None, protocol), &nobody).unwrap();
            let port = bound[0].port.host_port;
            assert_ne!(port, 0);
            match protocol {
                Protocol::Tcp => drop(std::net::TcpListener::bind(("127.0.0.1", port)).unwrap_err()),
                _ => drop(std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap_err()),
            }
            assert!(reserve(&wanted(Some((port, port)), protocol), &nobody).is_err());
        }
    }

    #[test]
    fn an_address_of_another_host() {
        let mut other = wanted(None, Protocol::Tcp);
        other.host_ip = Some("192.0.2.7".parse().unwrap());
        let error = reserve(&other, &|_| None).unwrap_err();
        assert_eq!(error.to_string(), "cannot publish a port at 192.0.2.7, which is not an address of this host");
    }
}
