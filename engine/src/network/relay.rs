//! Carries bytes from published ports to containers where the kernel's address translation cannot: it does not
//! translate between IPv6 and IPv4, nor lead connections from `::1` away from the loopback device, nor a container's
//! connection back to itself.
//!
//! It runs as tasks of the supervisor. While that is away, connections wait in the listening socket, which the shim
//! keeps open.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::config::Protocol;

/// Bytes in flight in each direction of a connection.
const BUFFER: usize = 64 << 10;
/// How long a UDP peer is remembered after its last datagram, as connection tracking does for a stream.
const UDP_IDLE: Duration = Duration::from_mins(2);
/// UDP peers at once; above it new ones are ignored.
const UDP_PEERS: usize = 1024;

/// All relays of one container. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Relays {
    /// They hold copies of the ports' sockets.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends only what takes in new connections.
    door: CancellationToken,
}

impl Relays {
    /// Returns none yet; they end with `parent` at the latest.
    pub(crate) fn new(parent: &CancellationToken) -> Self {
        let stop = parent.child_token();
        Self { tasks: TaskTracker::new(), door: stop.child_token(), stop }
    }

    /// Starts to carry what arrives at `socket` to `target`, on the current runtime.
    pub(crate) fn start(&self, socket: OwnedFd, protocol: Protocol, target: SocketAddr) -> io::Result<()> {
        let (tasks, stop, door) = (self.tasks.clone(), self.stop.clone(), self.door.clone());
        match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(socket.into())?;
                self.tasks.spawn(async move {
                    door.run_until_cancelled(accept(listener, target, tasks, stop)).await;
                });
            }
            Protocol::Udp => {
                let socket = UdpSocket::from_std(socket.into())?;
                self.tasks.spawn(async move {
                    door.run_until_cancelled(datagrams(Arc::new(socket), target, tasks, stop)).await;
                });
            }
            // An association of SCTP names its own addresses; only the kernel can translate it.
            Protocol::Sctp => {}
        }
        Ok(())
    }

    /// Takes in nothing new from now on, and lets new ones be started; what is under way goes on.
    pub(crate) fn close_door(&mut self) {
        self.door.cancel();
        self.door = self.stop.child_token();
    }

    /// Ends all of them, without waiting for that.
    pub(crate) fn cancel(&self) {
        self.stop.cancel();
    }

    /// Ends all of them, and returns when none holds a socket any more.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, tasks: TaskTracker, stop: CancellationToken) {
    loop {
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Out of descriptors, or the client is gone already: neither ends the port.
                tracing::debug!(%error, "a connection to a published port was lost");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            let carry = async {
                let mut server = TcpStream::connect(target).await?;
                // The bytes go on as they come; whoever wrote them decided how to group them.
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await
            };
            if let Some(Err(error)) = stop.run_until_cancelled(carry).await {
                tracing::debug!(%error, %target, "a relayed connection ended");
            }
        });
    }
}

async fn datagrams(socket: Arc<UdpSocket>, target: SocketAddr, tasks: TaskTracker, stop: CancellationToken) {
    let mut peers: HashMap<SocketAddr, (Arc<UdpSocket>, Instant)> = HashMap::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let now = Instant::now();
        // The task that carries answers back holds the other reference; it ends when none came for long.
        let known = peers.get(&client).is_some_and(|(server, _)| Arc::strong_count(server) > 1);
        if !known {
            peers.retain(|peer, (_, last)| *peer != client && now.duration_since(*last) < UDP_IDLE);
            if peers.len() >= UDP_PEERS {
                continue;
            }
            match open(target).await {
                Ok(server) => {
                    let server = Arc::new(server);
                    peers.insert(client, (Arc::clone(&server), now));
                    let back = answers(Arc::clone(&socket), server, client);
                    let stop = stop.clone();
                    tasks.spawn(async move { stop.run_until_cancelled(back).await });
                }
                Err(error) => {
                    tracing::debug!(%error, %target, "a datagram could not be relayed");
                    continue;
                }
            }
        }
        if let Some((server, last)) = peers.get_mut(&client) {
            *last = now;
            // A lost datagram is what UDP is about.
            let _ = server.send(&buffer[..length]).await;
        }
    }
}

async fn open(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr =
        if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let server = UdpSocket::bind(any).await?;
    server.connect(target).await?;
    Ok(server)
}

async fn answers(socket: Arc<UdpSocket>, server: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(received) = timeout(UDP_IDLE, server.recv(&mut buffer)).await {
        match received {
            Ok(length) => {
                let _ = socket.send_to(&buffer[..length], client).await;
            }
            // Nobody listens in the container yet; the next datagram may find somebody.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}
