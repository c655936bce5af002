//! Sandboxes: the network namespaces of containers, made ahead of them.
//!
//! A sandbox is a namespace with its loopback device up and the sockets of the resolver at 127.0.0.11 in it. The
//! container's first process joins it; nothing of the container's own code is needed to make it. It lives as long as
//! somebody holds its descriptor or is in it: there is nothing to clean up.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use netlink_packet_core::Emitable;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

use super::netlink::{Refusal, Request, Socket};
use super::{listing, nft, traffic};

/// Where a container's resolver is.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Why a sandbox could not be made or taken over.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("cannot start a thread for network namespaces")]
    Thread(#[source] io::Error),
    #[error("cannot make a network namespace")]
    Unshare(#[source] io::Error),
    #[error("cannot enter a network namespace")]
    Enter(#[source] io::Error),
    #[error("cannot return from a network namespace")]
    Return(#[source] io::Error),
    #[error("cannot bring up the loopback device of a network namespace")]
    Loopback(#[source] Refusal),
    #[error("cannot bind the resolver's sockets in a network namespace")]
    Resolver(#[source] io::Error),
    #[error("cannot set {path} in a network namespace")]
    Sysctl {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove the interfaces of the last run from a network namespace")]
    Empty(#[source] Refusal),
    #[error("the thread for network namespaces has ended")]
    Gone,
}

/// A container's network namespace. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    netns: OwnedFd,
    resolver: (UdpSocket, TcpListener),
    route: Mutex<Socket>,
}

impl Sandbox {
    /// Returns the namespace's descriptor.
    pub fn netns(&self) -> &OwnedFd {
        &self.0.netns
    }

    /// Returns copies of the descriptors that must outlive the supervisor: the namespace, and the resolver's UDP and TCP
    /// sockets.
    pub fn descriptors(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let (udp, tcp) = self.resolver()?;
        Ok(vec![("netns", self.0.netns.try_clone()?), ("dns-udp", udp.into()), ("dns-tcp", tcp.into())])
    }

    /// Returns copies of the resolver's sockets.
    pub(crate) fn resolver(&self) -> io::Result<(UdpSocket, TcpListener)> {
        let (udp, tcp) = &self.0.resolver;
        Ok((udp.try_clone()?, tcp.try_clone()?))
    }

    /// Runs `work` with a netlink socket of the namespace.
    pub(crate) fn configure<T>(&self, work: impl FnOnce(&mut Socket) -> T) -> T {
        work(&mut self.0.route.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Reply = oneshot::Sender<Result<Sandbox, SandboxError>>;
type Pending = oneshot::Receiver<Result<Sandbox, SandboxError>>;

#[derive(Debug)]
enum Job {
    Create(Reply),
    Adopt {
        netns: OwnedFd,
        udp: Option<OwnedFd>,
        tcp: Option<OwnedFd>,
        reply: Reply,
    },
    /// Empties a namespace that others than its owner are in, for the owner's next run.
    Reuse {
        netns: OwnedFd,
        reply: Reply,
    },
    Set {
        sandbox: Sandbox,
        settings: Vec<(String, String)>,
        reply: Reply,
    },
    /// Opens what tells of the connections there.
    Watch {
        sandbox: Sandbox,
        watch: oneshot::Sender<io::Result<traffic::Opened>>,
        reply: Reply,
    },
}

/// The threads that enter network namespaces, so that no other thread of the process ever does.
#[derive(Debug, Clone)]
pub(crate) struct Sandboxes {
    jobs: mpsc::Sender<Job>,
    ready: Arc<Mutex<Vec<Pending>>>,
}

/// Making a namespace is pure computation in the kernel, half of it outside any global lock, so two threads make them
/// almost twice as fast.
const THREADS: usize = 2;

impl Sandboxes {
    /// Starts the threads in the calling thread's network namespace.
    pub(crate) fn start() -> Result<Self, SandboxError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = Arc::clone(&queue);
            let home = File::open("/proc/thread-self/ns/net").map_err(SandboxError::Enter)?;
            let work = move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    let (result, reply) = match job {
                        Job::Create(reply) => (create(), reply),
                        Job::Adopt { netns, udp, tcp, reply } => (adopt(netns, udp, tcp), reply),
                        Job::Reuse { netns, reply } => (reuse(netns), reply),
                        Job::Set { sandbox, settings, reply } => (set(sandbox, &settings), reply),
                        Job::Watch { sandbox, watch, reply } => (open_watch(sandbox, watch), reply),
                    };
                    // A thread that stays inside keeps the namespace alive, until it has done its next job.
                    let back = || setns(&home, CloneFlags::CLONE_NEWNET);
                    let result = match back().or_else(|_| back()) {
                        Ok(()) => result,
                        Err(errno) => Err(SandboxError::Return(errno.into())),
                    };
                    // Whoever asked may have given up; the sandbox then goes with the message.
                    let _ = reply.send(result);
                }
            };
            thread::Builder::new().name("sandbox".into()).spawn(work).map_err(SandboxError::Thread)?;
        }
        Ok(Self { jobs, ready: Arc::default() })
    }

    /// Begins to make `count` sandboxes that will be asked for soon.
    pub(crate) fn prepare(&self, count: usize) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        while ready.len() < count {
            let (reply, result) = oneshot::channel();
            if self.jobs.send(Job::Create(reply)).is_err() {
                return;
            }
            ready.push(result);
        }
    }

    /// Returns how many sandboxes were made ahead and not taken yet.
    pub(crate) fn prepared(&self) -> usize {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Drops what was made ahead.
    pub(crate) fn discard(&self) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) async fn create(&self) -> Result<Sandbox, SandboxError> {
        let ready = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            // The oldest is the likeliest to be ready.
            if ready.is_empty() { None } else { Some(ready.remove(0)) }
        };
        match ready {
            Some(result) => result.await.map_err(|_| SandboxError::Gone)?,
            None => self.ask(Job::Create).await,
        }
    }

    pub(crate) async fn adopt(
        &self,
        netns: OwnedFd,
        udp: Option<OwnedFd>,
        tcp: Option<OwnedFd>,
    ) -> Result<Sandbox, SandboxError> {
        self.ask(|reply| Job::Adopt { netns, udp, tcp, reply }).await
    }

    /// Makes a sandbox of a namespace that a container had in an earlier run, and that others share.
    pub(crate) async fn reuse(&self, netns: OwnedFd) -> Result<Sandbox, SandboxError> {
        self.ask(|reply| Job::Reuse { netns, reply }).await
    }

    /// Writes settings inside a sandbox: paths below `/proc/sys` and values.
    pub(crate) async fn set(&self, sandbox: Sandbox, settings: Vec<(String, String)>) -> Result<(), SandboxError> {
        self.ask(|reply| Job::Set { sandbox, settings, reply }).await.map(|_| ())
    }

    /// Opens what tells of the TCP connections inside a sandbox; an error where the kernel does not tell.
    pub(crate) async fn watch(&self, sandbox: Sandbox) -> Result<io::Result<traffic::Opened>, SandboxError> {
        let (watch, opened) = oneshot::channel();
        self.ask(|reply| Job::Watch { sandbox, watch, reply }).await?;
        opened.await.map_err(|_| SandboxError::Gone)
    }

    async fn ask(&self, job: impl FnOnce(Reply) -> Job) -> Result<Sandbox, SandboxError> {
        let (reply, result) = oneshot::channel();
        self.jobs.send(job(reply)).map_err(|_| SandboxError::Gone)?;
        result.await.map_err(|_| SandboxError::Gone)?
    }
}

/// What Docker sets in every namespace: ports below 1024 and `ping` need no capability.
const SYSCTLS: [(&str, &str); 2] =
    [("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"), ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")];

fn create() -> Result<Sandbox, SandboxError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| SandboxError::Unshare(errno.into()))?;
    let netns = File::open("/proc/thread-self/ns/net").map_err(SandboxError::Unshare)?.into();
    let mut route = Socket::route().map_err(|error| SandboxError::Loopback(error.into()))?;
    let mut up = LinkMessage::default();
    up.header.index = 1;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    route.execute(&[set_link(&up)]).map_err(SandboxError::Loopback)?;
    for (path, value) in SYSCTLS {
        match std::fs::write(path, value) {
            // A user namespace with few group ids cannot have the range; then ping needs its capability as before.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other.map_err(|source| SandboxError::Sysctl { path: path.to_owned(), source })?,
        }
    }
    let resolver = bind_resolver().map_err(SandboxError::Resolver)?;
    Ok(Sandbox(Arc::new(Inner { netns, resolver, route: Mutex::new(route) })))
}

pub(crate) fn set_link(message: &LinkMessage) -> Request {
    request(libc::RTM_SETLINK, 0, message)
}

pub(crate) fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request { kind, flags, payload }
}

/// Binds the resolver to a port of its own and leads port 53 there, or binds port 53 where the kernel cannot.
fn bind_resolver() -> io::Result<(UdpSocket, TcpListener)> {
    let bind = |port| {
        let udp = UdpSocket::bind(SocketAddrV4::new(RESOLVER, port))?;
        let tcp = TcpListener::bind(SocketAddrV4::new(RESOLVER, udp.local_addr()?.port()))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok::<_, io::Error>((udp, tcp))
    };
    let (udp, tcp) = bind(0)?;
    let port = udp.local_addr()?.port();
    // Where only the kernel's answer was lost, port 53 leads there now, and would lead nowhere if that were given up.
    match nft::redirect_dns(RESOLVER, port).or_else(|_| nft::redirect_dns(RESOLVER, port)) {
        Ok(()) => Ok((udp, tcp)),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the resolver takes port 53 itself");
            bind(53)
        }
    }
}

fn adopt(netns: OwnedFd, udp: Option<OwnedFd>, tcp: Option<OwnedFd>) -> Result<Sandbox, SandboxError> {
    setns(&netns, CloneFlags::CLONE_NEWNET).map_err(|errno| SandboxError::Enter(errno.into()))?;
    let route = Socket::route().map_err(SandboxError::Enter)?;
    let resolver = match (udp, tcp) {
        (Some(udp), Some(tcp)) => (udp.into(), tcp.into()),
        // Both the supervisor and the shim died.
        _ => bind_resolver().map_err(SandboxError::Resolver)?,
    };
    Ok(Sandbox(Arc::new(Inner { netns, resolver, route: Mutex::new(route) })))
}

fn reuse(netns: OwnedFd) -> Result<Sandbox, SandboxError> {
    let sandbox = adopt(netns, None, None)?;
    sandbox
        .configure(|socket| {
            for link in listing::links(socket)? {
                // What containers get, and no fixture of the namespace.
                if ["veth", "macvlan", "ipvlan"].contains(&link.kind.as_str()) {
                    let mut gone = LinkMessage::default();
                    gone.header.index = link.index;
                    socket.execute(&[request(libc::RTM_DELLINK, 0, &gone)])?;
                }
            }
            Ok(())
        })
        .map_err(SandboxError::Empty)?;
    Ok(sandbox)
}

fn set(sandbox: Sandbox, settings: &[(String, String)]) -> Result<Sandbox, SandboxError> {
    setns(sandbox.netns(), CloneFlags::CLONE_NEWNET).map_err(|errno| SandboxError::Enter(errno.into()))?;
    for (path, value) in settings {
        let path = format!("/proc/sys/{path}");
        std::fs::write(&path, value).map_err(|source| SandboxError::Sysctl { path, source })?;
    }
    Ok(sandbox)
}

fn open_watch(sandbox: Sandbox, watch: oneshot::Sender<io::Result<traffic::Opened>>) -> Result<Sandbox, SandboxError> {
    setns(sandbox.netns(), CloneFlags::CLONE_NEWNET).map_err(|errno| SandboxError::Enter(errno.into()))?;
    // Whoever asked may have given up.
    let _ = watch.send(traffic::open());
    Ok(sandbox)
}
