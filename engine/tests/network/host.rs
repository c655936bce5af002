//! A host of one test: a network namespace, directories, and containers that are nothing but sandboxes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rcompose_engine::container::config::{Endpoint, Protocol, PublishedPort};
use rcompose_engine::container::state::EndpointState;
use rcompose_engine::id::Id;
use rcompose_engine::network::config::NetworkConfig;
use rcompose_engine::network::{Joined, Member, NetworkError, Networks, Options, Sandbox};
use rcompose_engine::root::Root;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkInfo};

/// How long a connection may take that should work.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How long a connection is tried that should not.
pub(crate) const NEVER: Duration = Duration::from_millis(400);

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) networks: Networks,
    pub(crate) root: Root,
    _directory: tempfile::TempDir,
}

/// Runs `test` on a fresh host.
pub(crate) fn on_host<F>(test: impl FnOnce(Host) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    with_options(Options::default(), test);
}

pub(crate) fn with_options<F>(options: Options, test: impl FnOnce(Host) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            loopback_up().await;
            let directory = tempfile::tempdir().unwrap();
            let root = Root::below(directory.path());
            let networks = Networks::open(&root, options).await.unwrap();
            test(Host { networks, root, _directory: directory }).await;
        });
    };
    thread::spawn(run).join().unwrap();
}

pub(crate) fn rtnetlink() -> rtnetlink::Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

async fn loopback_up() {
    let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
    rtnetlink().link().set(up).execute().await.unwrap();
}

/// Runs `work` inside a network namespace.
pub(crate) fn within<T: Send + 'static>(netns: impl AsFd, work: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.as_fd().try_clone_to_owned().unwrap();
    let inside = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    thread::spawn(inside).join().unwrap()
}

pub(crate) fn network(name: &str) -> NetworkConfig {
    NetworkConfig { name: name.into(), project: Some("test".into()), enable_ipv4: true, ..NetworkConfig::default() }
}

pub(crate) fn on(network: &str, aliases: &[&str]) -> Endpoint {
    Endpoint {
        network: network.into(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        ..Endpoint::default()
    }
}

pub(crate) fn publish(host_ip: Option<&str>, host_port: Option<u16>, container_port: u16) -> PublishedPort {
    PublishedPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port: host_port.map(|port| (port, port)),
        container_port,
        protocol: Protocol::Tcp,
    }
}

/// A container without a process.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) member: Member,
    pub(crate) sandbox: Sandbox,
    pub(crate) joined: Joined,
    serving: Mutex<Vec<OwnedFd>>,
}

impl Drop for Container {
    fn drop(&mut self) {
        for socket in self.serving.lock().unwrap().iter() {
            // Wakes the thread that serves, which then lets go of the namespace.
            let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
    }
}

impl Container {
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.joined.endpoints[0].ipv4.unwrap().0
    }

    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        (self.ip(), port).into()
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        self.joined.endpoints[0].ipv4_gateway.unwrap().into()
    }

    pub(crate) fn endpoint(&self) -> &EndpointState {
        &self.joined.endpoints[0]
    }

    /// Serves a word, and who asked, on a port of every address of the container, as long as this lives.
    pub(crate) fn serve(&self, port: u16, word: &'static str) {
        let listener = within(self.sandbox.netns(), move || TcpListener::bind(("::", port))).unwrap();
        self.serving.lock().unwrap().push(listener.try_clone().unwrap().into());
        serve(listener, word);
    }

    pub(crate) fn serve_udp(&self, port: u16, word: &'static str) {
        let socket = within(self.sandbox.netns(), move || UdpSocket::bind(("0.0.0.0", port))).unwrap();
        self.serving.lock().unwrap().push(socket.try_clone().unwrap().into());
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((1.., from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{word} {from}").as_bytes(), from);
            }
        });
    }

    pub(crate) fn ask(&self, address: SocketAddr, patience: Duration) -> io::Result<String> {
        within(self.sandbox.netns(), move || ask(address, patience))
    }
}

/// Answers each connection with `word` and the peer's address, until the process ends.
pub(crate) fn serve(listener: TcpListener, word: &'static str) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut peer = stream.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
            if let IpAddr::V6(v6) = peer
                && let Some(v4) = v6.to_ipv4_mapped()
            {
                peer = v4.into();
            }
            let _ = write!(stream, "{word} {peer}");
        }
    });
}

/// Connects and reads what is said.
pub(crate) fn ask(address: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

pub(crate) fn ask_udp(address: SocketAddr, patience: Duration) -> io::Result<String> {
    let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

impl Host {
    pub(crate) async fn container(
        &self,
        name: &str,
        endpoints: &[Endpoint],
        ports: &[PublishedPort],
    ) -> Result<Container, NetworkError> {
        let member = Member { id: Id::random(), name: name.into(), project: "test".into(), visible: true };
        let sandbox = self.networks.sandbox().await?;
        let joined = self.networks.join(&sandbox, &member, endpoints, ports, &[]).await?;
        Ok(Container { member, sandbox, joined, serving: Mutex::default() })
    }

    /// A second supervisor of the same root.
    pub(crate) async fn another(&self) -> Networks {
        Networks::open(&self.root, Options::default()).await.unwrap()
    }

    /// Adds a neighbour that reaches this host at 192.0.2.1 and has the address 192.0.2.2 itself.
    pub(crate) async fn lan(&self) -> Lan {
        let netns: OwnedFd = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap().into()
        })
        .join()
        .unwrap();
        let handle = rtnetlink();
        let mut message = rtnetlink::LinkVeth::new("lan0", "lan1").up().build();
        for attribute in &mut message.attributes {
            if let LinkAttribute::LinkInfo(infos) = attribute {
                for info in infos {
                    if let LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) = info {
                        peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
                    }
                }
            }
        }
        handle.link().add(message).execute().await.unwrap();
        add_address(&handle, "lan0", "192.0.2.1".parse().unwrap(), 24).await;
        add_address(&handle, "lan0", "2001:db8::1".parse().unwrap(), 64).await;
        let inside = netns.try_clone().unwrap();
        within(inside, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                loopback_up().await;
                let handle = rtnetlink();
                add_address(&handle, "lan1", "192.0.2.2".parse().unwrap(), 24).await;
                add_address(&handle, "lan1", "2001:db8::2".parse().unwrap(), 64).await;
                // This neighbour sends everything to our host, as an attacker would.
                let route =
                    rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new().gateway("192.0.2.1".parse().unwrap()).build();
                handle.route().add(route).execute().await.unwrap();
            });
        });
        Lan { netns: Arc::new(netns) }
    }
}

async fn add_address(handle: &rtnetlink::Handle, link: &str, address: IpAddr, prefix: u8) {
    let index = index(handle, link).await.unwrap();
    let up = rtnetlink::LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.unwrap();
    let mut add = handle.address().add(index, address, prefix);
    if address.is_ipv6() {
        add.message_mut().header.flags |= rtnetlink::packet_route::address::AddressHeaderFlags::Nodad;
    }
    add.execute().await.unwrap();
}

pub(crate) async fn index(handle: &rtnetlink::Handle, link: &str) -> Option<u32> {
    use futures_util::TryStreamExt;
    let mut found = std::pin::pin!(handle.link().get().match_name(link).execute());
    found.try_next().await.ok().flatten().map(|message| message.header.index)
}

#[derive(Debug, Clone)]
pub(crate) struct Lan {
    netns: Arc<OwnedFd>,
}

impl Lan {
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        within(self.netns.as_fd(), work)
    }

    pub(crate) fn ask(&self, address: &str, patience: Duration) -> io::Result<String> {
        let address = address.parse().unwrap();
        self.run(move || ask(address, patience))
    }
}

/// Runs nft for its output or its effect; `None` where it is not installed.
pub(crate) fn nft(arguments: &[&str]) -> Option<String> {
    let output = match std::process::Command::new("nft").args(arguments).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        other => other.unwrap(),
    };
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
