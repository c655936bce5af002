//! Networks: addresses, bridges, packet filter, published ports, names.
//!
//! [`Networks`] is the whole of it: a handle, cheap to clone, of which each supervisor has one, and each command
//! that makes or removes networks. What changes the host
//! is done by one thread (`worker`), what enters network namespaces by two others (`sandbox`), name queries and IPv6
//! relays by tasks of the runtime. State on disk is the record of each network; everything else (who has which
//! address, who is called what) is in the run-time directory, shared with supervisors of other projects.
//!
//! Invariants: no helper program is ever run. Nothing of ours in the kernel outlives the last network, but for
//! `net.ipv4.ip_forward`. A veth is never deleted, it goes with its namespace. No thread but those of `sandbox` ever
//! leaves the host's namespace.

pub mod config;
mod connect;
mod dns;
mod error;
pub mod files;
mod instance;
pub mod lease;
mod link;
mod listing;
mod netlink;
mod nft;
pub mod options;
pub mod pool;
mod port;
mod relay;
pub mod sandbox;
mod settings;
mod store;
mod succession;
mod traffic;
pub mod trial;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::config::Network;
pub use self::error::NetworkError;
pub use self::instance::is_of_instance;
pub use self::lease::LeaseError;
pub use self::link::LinkError;
pub use self::netlink::Refusal;
pub use self::nft::FilterError;
pub use self::port::PortError;
pub(crate) use self::port::{is_port, name as port_name};
pub use self::sandbox::{Sandbox, SandboxError};
pub use self::settings::SettingsError;
pub use self::store::StoreError;
pub use self::worker::{endpoints, is_interrupted, list};

use self::config::NetworkConfig;
use self::dns::table::{Tables, View};
use self::dns::{Forwarder, Resolver, Upstream};
use self::nft::Mapping;
use self::pool::Pool;
use self::port::Reservation;
use self::relay::Relays;
use self::sandbox::Sandboxes;
use self::worker::publish_target;
use crate::container::config::{Endpoint, PublishedPort};
use crate::container::state::{BoundPort, EndpointState};
use crate::id::Id;
use crate::root::Root;

/// What [`Networks::open`] may be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where subnets come from that nobody chose, in place of what the settings of this host say.
    pub pools: Option<Vec<Pool>>,
    /// The file that names the host's resolvers.
    pub resolv_conf: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { pools: None, resolv_conf: files::host_path().to_owned() }
    }
}

/// A container as networks know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: Id,
    pub name: String,
    pub project: String,
    /// Whether its names lead to it.
    pub visible: bool,
}

/// The resolvers that a container was told to use instead of the host's.
pub type Dns = Vec<IpAddr>;

/// What a container got.
#[derive(Debug)]
pub struct Joined {
    pub endpoints: Vec<EndpointState>,
    pub ports: Vec<BoundPort>,
    /// Descriptors that must outlive the supervisor, with the names to keep them under: the namespace, the resolver's
    /// sockets, the published ports. [`Networks::adopt`] takes them back.
    pub keep: Vec<(String, OwnedFd)>,
}

/// What of ours is in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Bridges and their ports.
    pub links: Vec<String>,
    /// Whether the packet filter has our table.
    pub table: bool,
    /// Bridges that the table knows.
    pub bridges: Vec<String>,
    /// Published ports, each address family counted.
    pub ports: usize,
    /// Rules of ours in tables of others.
    pub foreign_rules: usize,
}

impl Census {
    /// Returns whether nothing of ours is there.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A network that is gone for everybody, and whose bridge is being deleted.
#[derive(Debug)]
pub struct Removal(tokio::sync::oneshot::Receiver<Result<(), NetworkError>>);

impl Removal {
    /// Waits until nothing of the network is left. Dropping this does not stop the deletion.
    pub async fn finished(self) -> Result<(), NetworkError> {
        self.0.await.map_err(|_| NetworkError::Gone)?
    }
}

/// What belongs to one running container and is not in the kernel.
#[derive(Debug)]
struct Running {
    sandbox: Sandbox,
    resolver: Resolver,
    endpoints: Vec<EndpointState>,
    /// Keeps the ports taken.
    reservations: Vec<Reservation>,
    relays: Relays,
}

impl Running {
    /// The ports that are bound for it.
    fn ports(&self) -> Vec<BoundPort> {
        self.reservations.iter().map(|reservation| reservation.port.clone()).collect()
    }

    /// Ends everything, and returns when nothing of ours holds a socket of the container any more.
    async fn end(self) {
        self.relays.end().await;
    }
}

#[derive(Debug)]
struct Shared {
    worker: worker::Handle,
    sandboxes: Sandboxes,
    tables: Arc<Tables>,
    forwarder: Arc<Forwarder>,
    running: Mutex<BTreeMap<Id, Running>>,
    stop: CancellationToken,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// All networks below one root, as one supervisor sees them.
#[derive(Debug, Clone)]
pub struct Networks(Arc<Shared>);

impl Networks {
    /// Starts the threads and tasks that look after networks, in the network namespace of the calling thread, which
    /// must be the host's and that of every thread of the current runtime.
    ///
    /// Removals that a killed process left unfinished are finished, and what it was writing is removed.
    pub async fn open(root: &Root, options: Options) -> Result<Self, NetworkError> {
        let tables = Arc::new(Tables::default());
        let worker = worker::start(root, options.pools, Arc::clone(&tables))?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let registries = root.networks_run();
        watch::start(&worker, &registries, &tasks, &stop)?;
        let shared = Shared {
            worker,
            sandboxes: Sandboxes::start()?,
            tables,
            forwarder: Arc::new(Forwarder::new(options.resolv_conf)),
            running: Mutex::default(),
            stop,
        };
        shared.worker.run(worker::Worker::recover).await?;
        if nft::legacy_filter() {
            tracing::warn!(
                "this host filters with iptables-legacy too: if its FORWARD policy is DROP, containers need \
                 `iptables-legacy -I FORWARD -i rc+ -j ACCEPT` and the same with -o"
            );
        }
        Ok(Self(Arc::new(shared)))
    }

    /// Finishes removals that were begun and that nobody is at any more.
    pub async fn recover(&self) -> Result<(), NetworkError> {
        self.0.worker.run(worker::Worker::recover).await
    }

    /// Lists every network.
    pub async fn list(&self) -> Result<Vec<Network>, NetworkError> {
        self.0.worker.run(worker::Worker::load).await
    }

    /// Returns the network of this name.
    pub async fn get(&self, name: &str) -> Result<Option<Network>, NetworkError> {
        Ok(self.list().await?.into_iter().find(|network| network.config.name == name))
    }

    /// Makes a network if there is none of its name, and repairs it if something of it is missing. Returns whether it
    /// is new.
    ///
    /// A network that exists stays as it is, whatever `config` says: whether it must be made anew is for the planner.
    pub async fn ensure(&self, config: &NetworkConfig) -> Result<(Network, bool), NetworkError> {
        let config = config.clone();
        self.0.worker.run(move |worker| worker.ensure(&config)).await
    }

    /// Removes a network. It is gone for everybody when this returns; its bridge, which takes the kernel tens of
    /// milliseconds, when [`Removal::finished`] does.
    pub async fn remove(&self, name: &str) -> Result<Removal, NetworkError> {
        let name = name.to_owned();
        let (finished, rest) = tokio::sync::oneshot::channel();
        let (removed, result) = tokio::sync::oneshot::channel();
        self.0.worker.send(move |worker| {
            let outcome = worker.remove(&name);
            let (answer, network) = match outcome {
                Ok(network) => (Ok(()), Some(network)),
                Err(error) => (Err(error), None),
            };
            // Whoever asked may have given up waiting; the work is done all the same.
            let _ = removed.send(answer);
            if let Some(network) = network {
                let _ = finished.send(worker.finish_removal(&network));
            }
        })?;
        result.await.map_err(|_| NetworkError::Gone)??;
        Ok(Removal(rest))
    }

    /// Repairs every network that containers of ours are on.
    pub async fn repair(&self) -> Result<(), NetworkError> {
        self.0.worker.run(worker::Worker::repair).await
    }

    /// Begins to make sandboxes that will be wanted soon, so that `count` of them are ready or under way.
    pub fn prepare(&self, count: usize) {
        self.0.sandboxes.prepare(count);
    }

    /// Drops sandboxes that were made ahead and not used.
    pub fn discard_prepared(&self) {
        self.0.sandboxes.discard();
    }

    /// Returns how many sandboxes were made ahead and are not used yet.
    pub fn prepared(&self) -> usize {
        self.0.sandboxes.prepared()
    }

    /// Makes a sandbox, or takes one that was made ahead. A container with `network_mode: none` needs nothing more.
    pub async fn sandbox(&self) -> Result<Sandbox, NetworkError> {
        Ok(self.0.sandboxes.create().await?)
    }

    /// Makes a sandbox of a namespace that a container had in an earlier run, and that others share with it: what is left
    /// of that run in it is removed.
    pub async fn reuse(&self, netns: OwnedFd) -> Result<Sandbox, NetworkError> {
        Ok(self.0.sandboxes.reuse(netns).await?)
    }

    /// Connects a container to its networks, starts its resolver and publishes its ports. If something fails, nothing
    /// of it is left but the sandbox.
    ///
    /// `dns` are the resolvers to be asked about the rest of the world, the host's if there are none.
    pub async fn join(
        &self,
        sandbox: &Sandbox,
        member: &Member,
        endpoints: &[Endpoint],
        ports: &[PublishedPort],
        dns: &[IpAddr],
    ) -> Result<Joined, NetworkError> {
        let states = {
            let (sandbox, member, endpoints) = (sandbox.clone(), member.clone(), endpoints.to_vec());
            self.0.worker.run(move |worker| worker.join(&sandbox, &member, &endpoints, &[])).await?
        };
        let served = match self.configure(sandbox, endpoints, &states).await {
            Ok(()) => self.serve(sandbox, member, &states, ports, dns).await,
            Err(error) => Err(error),
        };
        match served {
            Ok((bound, keep)) => Ok(Joined { endpoints: states, ports: bound, keep }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.disconnect_all(sandbox, &member.id, &states).await;
                Err(error)
            }
        }
    }

    /// Applies the settings that endpoints ask for.
    async fn configure(
        &self,
        sandbox: &Sandbox,
        endpoints: &[Endpoint],
        states: &[EndpointState],
    ) -> Result<(), NetworkError> {
        let mut settings = Vec::new();
        for (endpoint, state) in endpoints.iter().zip(states) {
            let asked = options::sysctls(endpoint, &state.interface);
            let network = || endpoint.network.clone();
            settings.extend(asked.map_err(|setting| NetworkError::InvalidSetting { network: network(), setting })?);
        }
        if settings.is_empty() { Ok(()) } else { Ok(self.0.sandboxes.set(sandbox.clone(), settings).await?) }
    }

    async fn disconnect_all(
        &self,
        sandbox: &Sandbox,
        container: &Id,
        states: &[EndpointState],
    ) -> Result<(), NetworkError> {
        let left = self.leave(container).await;
        for state in states {
            let (sandbox, id, network) = (sandbox.clone(), container.clone(), state.network.clone());
            self.0.worker.run(move |worker| worker.detach(&sandbox, &id, &network)).await?;
        }
        left
    }

    async fn serve(
        &self,
        sandbox: &Sandbox,
        member: &Member,
        states: &[EndpointState],
        ports: &[PublishedPort],
        dns: &[IpAddr],
    ) -> Result<(Vec<BoundPort>, Vec<(String, OwnedFd)>), NetworkError> {
        let reservations = match publish_target(states) {
            _ if ports.is_empty() => Vec::new(),
            Some(_) => self.reserve(states, ports).await?,
            None => {
                tracing::warn!(container = member.name, "ports are not published on internal networks");
                Vec::new()
            }
        };
        let bound: Vec<BoundPort> = reservations.iter().map(|reservation| reservation.port.clone()).collect();
        let mut keep: Vec<(String, OwnedFd)> = Vec::new();
        let failed = |source| NetworkError::Resolver { container: member.name.clone(), source };
        for (name, fd) in sandbox.descriptors().map_err(failed)? {
            keep.push((name.to_owned(), fd));
        }
        for reservation in &reservations {
            keep.push((reservation.name(), reservation.socket.try_clone().map_err(failed)?));
        }
        if let Some((network, _, _)) = publish_target(states)
            && !bound.is_empty()
        {
            let (id, network, ports) = (member.id.clone(), network.clone(), bound.clone());
            let mappings = mappings(states, &bound);
            self.0.worker.run(move |worker| worker.publish(&id, &network, mappings, ports)).await?;
        }
        self.run(sandbox, member, states, dns, reservations)?;
        Ok((bound, keep))
    }

    /// Binds every published port; on the first conflict none is left bound.
    async fn reserve(
        &self,
        states: &[EndpointState],
        ports: &[PublishedPort],
    ) -> Result<Vec<Reservation>, NetworkError> {
        let mut ports = ports.to_vec();
        let network = publish_target(states).map(|(network, ..)| network.clone());
        self.0
            .worker
            .run(move |worker| {
                // Where a port that names no address is bound may be a matter of the network.
                if let Some(address) = network.and_then(|network| worker.host_binding(&network)) {
                    for port in &mut ports {
                        port.host_ip = port.host_ip.or(Some(address));
                    }
                }
                let worker = std::cell::RefCell::new(worker);
                let ours = |port: &BoundPort| match worker.borrow_mut().port_holder(port) {
                    Ok(holder) => holder,
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot look up who has a port");
                        None
                    }
                };
                let mut all = Vec::new();
                for port in &ports {
                    all.extend(port::reserve(port, &ours)?);
                }
                Ok(all)
            })
            .await
    }

    /// Starts the resolver and the relays of a container.
    fn run(
        &self,
        sandbox: &Sandbox,
        member: &Member,
        states: &[EndpointState],
        dns: &[IpAddr],
        reservations: Vec<Reservation>,
    ) -> Result<(), NetworkError> {
        let container = || member.name.clone();
        let failed = |source| NetworkError::Resolver { container: container(), source };
        let sockets = sandbox.resolver().map_err(failed)?;
        let view = Arc::new(View::new(Arc::clone(&self.0.tables), states));
        let patience = files::ResolvConf::default().timeout();
        let upstream = (!dns.is_empty()).then(|| Upstream::new(dns, patience));
        let resolver = Resolver::start(sockets, view, Arc::clone(&self.0.forwarder), upstream).map_err(failed)?;
        let relays = Relays::new(&self.0.stop);
        let running = Running {
            sandbox: sandbox.clone(),
            resolver,
            endpoints: states.to_vec(),
            reservations,
            relays: relays.clone(),
        };
        // Whatever fails below, the container's entry is there for `leave` to clear.
        let old = self.running().insert(member.id.clone(), running);
        if let Some(old) = old {
            old.relays.cancel();
        }
        self.relay(member, states, &relays)
    }

    /// Starts the relays of a container.
    fn relay(&self, member: &Member, states: &[EndpointState], relays: &Relays) -> Result<(), NetworkError> {
        let container = || member.name.clone();
        let failed = |source| NetworkError::Resolver { container: container(), source };
        for (port, target, socket) in self.relays(&member.id, states).map_err(failed)? {
            let address = SocketAddr::new(port.host_ip, port.host_port);
            relays.start(socket, port.protocol, target).map_err(|source| NetworkError::Relay {
                container: container(),
                port: address,
                source,
            })?;
        }
        Ok(())
    }

    /// The published ports of a container with where they lead and copies of their sockets.
    fn relays(&self, container: &Id, states: &[EndpointState]) -> io::Result<Vec<(BoundPort, SocketAddr, OwnedFd)>> {
        let Some((_, ipv4, ipv6)) = publish_target(states) else { return Ok(Vec::new()) };
        let (ipv4, ipv6) = (ipv4.map(IpAddr::V4), ipv6.map(IpAddr::V6));
        let mut relays = Vec::new();
        if let Some(running) = self.running().get(container) {
            for Reservation { port, socket } in &running.reservations {
                let target = if port.host_ip.is_ipv4() { ipv4.or(ipv6) } else { ipv6.or(ipv4) };
                if let Some(target) = target.filter(|_| !is_of_instance(port.host_ip)) {
                    let target = SocketAddr::new(target, port.container_port);
                    relays.push((port.clone(), target, socket.try_clone()?));
                }
            }
        }
        Ok(relays)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a container that runs already, from what its shim kept ([`Joined::keep`]) and its state says. Of what
    /// was kept only the namespace is indispensable; the rest is made again where it is missing.
    pub async fn adopt(
        &self,
        member: &Member,
        states: &[EndpointState],
        ports: &[BoundPort],
        dns: &[IpAddr],
        kept: Vec<(String, OwnedFd)>,
    ) -> Result<Sandbox, NetworkError> {
        let mut kept: BTreeMap<String, OwnedFd> = kept.into_iter().collect();
        let netns = kept.remove("netns").ok_or_else(|| {
            SandboxError::Enter(io::Error::new(io::ErrorKind::NotFound, "the shim did not keep the network namespace"))
        })?;
        let (udp, tcp) = (kept.remove("dns-udp"), kept.remove("dns-tcp"));
        let sandbox = self.0.sandboxes.adopt(netns, udp, tcp).await?;
        let mut reservations = Vec::new();
        for port in ports {
            if let Some(socket) = kept.remove(&port::name(port)) {
                reservations.push(Reservation { port: port.clone(), socket });
                continue;
            }
            match port::rebind(port) {
                Ok(reservation) => reservations.push(reservation),
                // The packet filter still leads it into the container; only others can bind it as well.
                Err(error) => tracing::warn!(container = member.name, ?port, %error, "a published port was lost"),
            }
        }
        let (who, what) = (member.clone(), states.to_vec());
        let mappings = mappings(states, ports);
        self.0.worker.run(move |worker| worker.adopt(&who, &what, mappings)).await?;
        self.run(&sandbox, member, states, dns, reservations)?;
        Ok(sandbox)
    }

    /// Says that a container has ended: its names, ports and resolver go. Its addresses are kept for it.
    pub async fn leave(&self, container: &Id) -> Result<(), NetworkError> {
        let id = container.clone();
        // First the packet filter, then the sockets: nobody can take a port that still leads into the container.
        let left = self.0.worker.run(move |worker| worker.leave(&id)).await;
        let running = self.running().remove(container);
        if let Some(running) = running {
            running.end().await;
        }
        left
    }

    /// Says that a container was removed: nothing is kept for it.
    pub async fn forget(&self, container: &Id) -> Result<(), NetworkError> {
        let id = container.clone();
        let forgotten = self.0.worker.run(move |worker| worker.forget(&id)).await;
        let running = self.running().remove(container);
        if let Some(running) = running {
            running.end().await;
        }
        forgotten
    }

    /// Gives a running container another name.
    pub async fn rename(&self, container: &Id, name: &str) -> Result<(), NetworkError> {
        let (id, name) = (container.clone(), name.to_owned());
        self.0.worker.run(move |worker| worker.rename(&id, &name)).await
    }

    /// Puts a running container into, or takes it out of, the answers to its names.
    pub async fn set_visible(&self, container: &Id, visible: bool) -> Result<(), NetworkError> {
        let id = container.clone();
        self.0.worker.run(move |worker| worker.set_visible(&id, visible)).await
    }

    /// Says which names nobody outside is to be asked for, whether or not a container has them: the project's services.
    pub fn reserve_names(&self, names: impl IntoIterator<Item = String>) {
        self.0.tables.reserve(names);
    }

    /// Returns what `host-gateway` stands for in a container with these endpoints.
    pub async fn host_gateway(&self, states: &[EndpointState]) -> Result<Option<IpAddr>, NetworkError> {
        let states = states.to_vec();
        self.0.worker.run(move |worker| worker.host_gateway(&states)).await
    }

    /// Lists what of ours, of every root, is in the kernel.
    pub async fn census(&self) -> Result<Census, NetworkError> {
        self.0.worker.run(worker::Worker::census).await
    }
}

/// What the packet filter has to know of a container's published ports.
fn mappings(states: &[EndpointState], ports: &[BoundPort]) -> Vec<Mapping> {
    let Some((_, ipv4, ipv6)) = publish_target(states) else { return Vec::new() };
    let mut mappings = Vec::new();
    for port in ports {
        let container = if port.host_ip.is_ipv4() { ipv4.map(IpAddr::V4) } else { ipv6.map(IpAddr::V6) };
        // `::1` is the relay's.
        let loopback = port.host_ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
        if let Some(container) = container.filter(|_| !loopback) {
            mappings.push(Mapping {
                protocol: port.protocol,
                host: SocketAddr::new(port.host_ip, port.host_port),
                container: SocketAddr::new(container, port.container_port),
            });
        }
    }
    mappings
}
