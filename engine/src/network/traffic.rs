//! Who is connected to a container: the TCP connections that others have opened to it, as the kernel lists them and
//! tells of their end (`sock_diag(7)`).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::SockProtocol;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::netlink::{Refusal, Request, Socket};
use super::{NetworkError, Networks, watch};
use crate::id::Id;
use crate::sys::readiness;

/// Somebody who was told the address of a container just before it was taken off its names has connected by then.
const LATE: Duration = Duration::from_secs(1);

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY`.
const ENDS: [i32; 2] = [1, 3];

// States of TCP, as `linux/tcp_states.h` numbers them.
const ESTABLISHED: u8 = 1;
const SYN_RECEIVED: u8 = 3;
const FIN_WAIT_1: u8 = 4;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// Those in which something may still have to be sent, and that of listening sockets.
const STATES: [u8; 7] = [ESTABLISHED, SYN_RECEIVED, FIN_WAIT_1, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING];

/// What tells of the connections in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    list: Socket,
    ends: OwnedFd,
}

/// Opens it in the calling thread's network namespace.
pub(crate) fn open() -> io::Result<Opened> {
    Ok(Opened { list: Socket::diagnosis()?, ends: watch::subscribed(SockProtocol::NetlinkSockDiag, &ENDS)? })
}

impl Networks {
    /// Waits until nobody is connected to a running container any more. Where the kernel does not tell, that never comes.
    pub async fn drained(&self, container: &Id) -> Result<(), NetworkError> {
        let sandbox = self.running().get(container).map(|running| running.sandbox.clone());
        let Some(sandbox) = sandbox else { return Ok(()) };
        let drained = match self.0.sandboxes.watch(sandbox).await? {
            Ok(opened) => watch_ends(opened).await,
            Err(error) => Err(error),
        };
        match drained {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not tell of connections");
                std::future::pending().await
            }
        }
    }
}

async fn watch_ends(Opened { mut list, ends }: Opened) -> io::Result<()> {
    let ends: AsyncFd<OwnedFd> = readiness::watch(ends)?;
    let mut late = false;
    loop {
        let count;
        (list, count) = tokio::task::spawn_blocking(move || {
            let count = inbound(&mut list);
            (list, count)
        })
        .await?;
        match (count.map_err(|refusal| io::Error::from(refusal.errno))?, late) {
            (0, true) => return Ok(()),
            (0, false) => late = timeout(LATE, watch::news(&ends, |_| true)).await.is_err(),
            _ => {
                late = false;
                watch::news(&ends, |_| true).await;
            }
        }
    }
}

/// Counts the connections that others have opened to services here.
fn inbound(list: &mut Socket) -> Result<usize, Refusal> {
    let (mut listening, mut connections) = (HashSet::new(), Vec::new());
    for family in [libc::AF_INET, libc::AF_INET6] {
        let replies = match list.dump(&request(family)) {
            // A kernel without IPv6.
            Err(refusal) if family == libc::AF_INET6 && refusal.errno == nix::errno::Errno::ENOENT => continue,
            other => other?,
        };
        for reply in replies {
            let Some(listed) = Listed::parse(&reply.payload) else { continue };
            if listed.state == LISTEN {
                listening.insert(listed.port);
            } else if !listed.address.is_loopback() {
                connections.push(listed.port);
            }
        }
    }
    Ok(connections.into_iter().filter(|port| listening.contains(port)).count())
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, and a socket id that is not looked at.
fn request(family: i32) -> Request {
    let family = u8::try_from(family).expect("address families are small");
    let protocol = u8::try_from(libc::IPPROTO_TCP).expect("protocols have eight bits");
    let states = STATES.iter().fold(0_u32, |states, state| states | 1 << state);
    let mut payload = vec![family, protocol, 0, 0];
    payload.extend_from_slice(&states.to_ne_bytes());
    payload.resize(56, 0);
    Request { kind: BY_FAMILY, flags: 0, payload }
}

/// The head of `struct inet_diag_msg`.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    state: u8,
    /// The own end.
    address: IpAddr,
    port: u16,
}

impl Listed {
    fn parse(payload: &[u8]) -> Option<Self> {
        let [family, state, _, _, high, low] = *payload.first_chunk()?;
        let address = payload.get(8..24)?;
        let address = if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::from(*address.first_chunk()?))
        } else {
            IpAddr::V6(Ipv6Addr::from(*address.first_chunk()?)).to_canonical()
        };
        Some(Self { state, address, port: u16::from_be_bytes([high, low]) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_the_kernel_lists() {
        let mut message = vec![2, ESTABLISHED, 0, 0, 0, 80, 0x9c, 0x40, 10, 1, 0, 2];
        message.resize(72, 0);
        let listed = Listed { state: ESTABLISHED, address: "10.1.0.2".parse().unwrap(), port: 80 };
        assert_eq!(Listed::parse(&message), Some(listed));
        // IPv4 on a socket of both families.
        let mut message = vec![10, LISTEN, 0, 0, 31, 144, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        message.resize(72, 0);
        assert!(Listed::parse(&message).unwrap().address.is_loopback());
        assert_eq!(Listed::parse(&message[..20]), None);
    }

    #[tokio::test]
    async fn a_namespace_is_drained_when_its_last_connection_has_ended() {
        // A thread of its own, which leaves the host's namespace and takes nobody along.
        let (ready, opened) = tokio::sync::oneshot::channel();
        let (close, closing) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut route = Socket::route().unwrap();
            let up = |index: i32| {
                let mut payload = vec![0_u8; 16];
                payload[4..8].copy_from_slice(&index.to_ne_bytes());
                payload[8..12].copy_from_slice(&1_u32.to_ne_bytes());
                payload[12..16].copy_from_slice(&1_u32.to_ne_bytes());
                Request { kind: 19, flags: 0, payload }
            };
            route.execute(&[up(1)]).unwrap();
            // An address that is not one of the loopback network, on the loopback device.
            let mut address = vec![2_u8, 32, 0, 0, 1, 0, 0, 0];
            address.extend_from_slice(&[8, 0, 2, 0, 10, 77, 0, 1]);
            route.execute(&[Request { kind: 20, flags: 0x400 | 0x200, payload: address }]).unwrap();
            let listener = TcpListener::bind("10.77.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let mut opened = open().unwrap();
            assert_eq!(inbound(&mut opened.list).unwrap(), 1);
            ready.send(opened).unwrap();
            closing.recv().unwrap();
            drop(client);
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        });
        let drained = watch_ends(opened.await.unwrap());
        close.send(()).unwrap();
        drained.await.unwrap();
        thread.join().unwrap();
    }
}
