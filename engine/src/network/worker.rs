//! The one thread that changes networks: records, bridges, interfaces, the packet filter.
//!
//! The kernel does all link work under one lock, so one thread loses nothing, and the state that belongs to it needs no
//! lock of ours. The runtime's threads, which answer name queries, never wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use netlink_packet_route::link::{IpVlanMode, MacVlanMode};
use tokio::sync::oneshot;

use super::config::{BRIDGE_PREFIX, Driver, Network, NetworkConfig, Subnet};
use super::dns::table::{NetworkNames, Tables};
use super::lease::{self, Lease, Leases};
use super::link::{self, Interface, Links, Parent, sysctl};
use super::nft::{self, Bridge, Filter, Mapping};
use super::pool::{self, Cidr, Pool};
use super::sandbox::Sandbox;
use super::store::{self, Durability};
use super::{Census, Member, NetworkError};
use crate::container::config::Endpoint;
use crate::container::state::{BoundPort, EndpointState};
use crate::id::{Id, hex};
use crate::root::Root;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// The thread's name, by which supervisors know each other's changes of the packet filter.
pub(crate) const THREAD: &str = "rcompose-net";

/// The way to the thread. It ends when the last of these is gone.
#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::Sender<Job>);

impl Handle {
    /// Runs `job` on the thread and returns what it returns.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Worker) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (reply, result) = oneshot::channel();
        self.send(move |worker| {
            // Whoever asked may have given up waiting; the work is done all the same.
            let _ = reply.send(job(worker));
        })?;
        result.await.map_err(|_| NetworkError::Gone)?
    }

    pub(crate) fn send(&self, job: impl FnOnce(&mut Worker) + Send + 'static) -> Result<(), NetworkError> {
        self.0.send(Box::new(job)).map_err(|_| NetworkError::Gone)
    }
}

/// What a file was when it was read, to know whether it is another by now: every change makes a new inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, i64, i64, u64);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self(meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
    }
}

/// The state that the thread owns.
#[derive(Debug)]
pub(crate) struct Worker {
    records: PathBuf,
    registries: PathBuf,
    pools: Vec<Pool>,
    links: Links,
    filter: Filter,
    /// Records as they were last read.
    networks: BTreeMap<Id, Network>,
    leases: BTreeMap<Id, (Stamp, Leases)>,
    /// Which registries the resolver's tables were made of.
    shown: BTreeMap<Id, Option<Stamp>>,
    /// Networks that containers of ours are on, or that we were asked to ensure: those we repair.
    used: BTreeSet<Id>,
    /// Published ports, by container.
    published: BTreeMap<Id, Vec<Mapping>>,
    tables: Arc<Tables>,
}

/// Starts the thread in the calling thread's network namespace.
pub(crate) fn start(root: &Root, pools: Vec<Pool>, tables: Arc<Tables>) -> Result<Handle, NetworkError> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let (ready, started) = mpsc::channel();
    let (records, registries) = (root.networks(), root.run().join("networks"));
    let work = move || {
        let opened = Links::open().map_err(NetworkError::from).and_then(|l| Ok((l, Filter::open()?)));
        let (links, filter) = match opened {
            Ok(both) => both,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let mut worker = Worker {
            records,
            registries,
            pools,
            links,
            filter,
            networks: BTreeMap::new(),
            leases: BTreeMap::new(),
            shown: BTreeMap::new(),
            used: BTreeSet::new(),
            published: BTreeMap::new(),
            tables,
        };
        if ready.send(Ok(())).is_err() {
            return;
        }
        for job in jobs {
            job(&mut worker);
        }
    };
    std::thread::Builder::new().name(THREAD.into()).spawn(work).map_err(NetworkError::Thread)?;
    started.recv().map_err(|_| NetworkError::Gone)??;
    Ok(Handle(sender))
}

/// How often a subnet is chosen anew because somebody else was faster.
const ATTEMPTS: usize = 16;

/// What is written to disk: the network, and whether it is on its way out.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    #[serde(flatten)]
    network: Network,
    #[serde(default)]
    removing: bool,
}

/// A network that is no longer listed and whose bridge is still there.
#[derive(Debug)]
pub(crate) struct Removed(Network);

impl Worker {
    fn record(&self, id: &Id) -> PathBuf {
        self.records.join(format!("{id}.json"))
    }

    fn registry(&self, id: &Id) -> PathBuf {
        self.registries.join(format!("{id}.json"))
    }

    /// Reads every record, and finishes removals that were interrupted.
    pub(crate) fn load(&mut self) -> Result<Vec<Network>, NetworkError> {
        let mut networks = BTreeMap::new();
        let mut unfinished = Vec::new();
        for path in store::list(&self.records)? {
            // Somebody else may have removed it since it was listed.
            let Some(record) = store::read::<Record>(&path)? else { continue };
            if record.removing {
                unfinished.push(record.network);
            } else {
                networks.insert(record.network.id.clone(), record.network);
            }
        }
        self.networks = networks;
        for network in unfinished {
            self.finish_removal(&Removed(network))?;
        }
        Ok(self.networks.values().cloned().collect())
    }

    fn by_name(&mut self, name: &str) -> Result<Network, NetworkError> {
        let known = self.networks.values().find(|network| network.config.name == name);
        if let Some(network) = known
            && self.record(&network.id).exists()
        {
            return Ok(network.clone());
        }
        let found = self.load()?.into_iter().find(|network| network.config.name == name);
        found.ok_or_else(|| NetworkError::Unknown(name.to_owned()))
    }

    /// Makes a network if there is none of its name, and repairs what is broken of it. Returns whether it is new.
    ///
    /// If it cannot be made, nothing of it is left.
    pub(crate) fn ensure(&mut self, config: &NetworkConfig) -> Result<(Network, bool), NetworkError> {
        for _ in 0..ATTEMPTS {
            // Held until the network is there or gone again: who else wants it must not find it half-made.
            let _lock = store::lock(&self.records)?;
            let (network, created) = match self.by_name(&config.name) {
                Ok(network) => (network, false),
                Err(NetworkError::Unknown(_)) => (self.allocate(config)?, true),
                Err(error) => return Err(error),
            };
            let made = self.realise(&network);
            if !created {
                return made.map(|()| (network, false));
            }
            match made.and_then(|()| self.outrun(&network)) {
                Ok(None) => return Ok((network, true)),
                Ok(Some(conflict)) => {
                    self.unmake(&network);
                    if network.config.subnets.iter().any(|s| s.subnet == conflict.0) {
                        let (subnet, with) = conflict;
                        return Err(NetworkError::SubnetTaken { network: config.name.clone(), subnet, with });
                    }
                }
                Err(error) => {
                    self.unmake(&network);
                    return Err(error);
                }
            }
        }
        Err(NetworkError::PoolExhausted { network: config.name.clone(), taken: ATTEMPTS })
    }

    /// Returns what took a subnet of a network that was just made, if somebody with another root, whose lock is not
    /// ours, made one at the same moment. Of the two the one with the older bridge stays.
    fn outrun(&self, network: &Network) -> Result<Option<(Cidr, String)>, NetworkError> {
        if network.config.driver != Driver::Bridge {
            return Ok(None);
        }
        let Some(own) = self.links.find(&network.bridge())? else { return Ok(None) };
        for used in self.links.used()? {
            let taken = network.subnets.iter().find(|s| pool::overlap(s.subnet, used.range));
            if let Some(subnet) = taken.filter(|_| used.address && used.link != own.index && used.link < own.index) {
                return Ok(Some((subnet.subnet, format!("{}/{} of another link", used.range.0, used.range.1))));
            }
        }
        Ok(None)
    }

    /// Removes what there is of a network that could not be made. What cannot be removed is finished by the next
    /// [`Self::load`], and the error that led here is the one to tell.
    fn unmake(&mut self, network: &Network) {
        self.used.remove(&network.id);
        self.networks.remove(&network.id);
        let undone = self.write_record(network, true).and_then(|()| self.finish_removal(&Removed(network.clone())));
        if let Err(error) = undone {
            tracing::warn!(error = &error as &dyn std::error::Error, network = network.config.name, "left half-made");
        }
    }

    /// Finds subnets for a network and records it. The caller holds the lock.
    fn allocate(&mut self, config: &NetworkConfig) -> Result<Network, NetworkError> {
        let name = || config.name.clone();
        let host = self.links.used()?;
        let mut taken: Vec<Cidr> = host.iter().map(|used| used.range).collect();
        taken.extend(self.networks.values().flat_map(|n| &n.subnets).map(|s| s.subnet));
        let mut subnets = config.subnets.clone();
        // A macvlan or ipvlan network is part of its parent's network: that the host has it is the point.
        let own = config.driver == Driver::Bridge;
        for subnet in &mut subnets {
            let (address, prefix) = subnet.subnet;
            let width = if address.is_ipv4() { 32 } else { 128 };
            if prefix > width || pool::network(subnet.subnet) != subnet.subnet {
                return Err(NetworkError::InvalidSubnet { network: name(), subnet: subnet.subnet });
            }
            if own {
                self.check_free(config, subnet.subnet, &host)?;
            }
        }
        if config.enable_ipv4 && own && !subnets.iter().any(|s| s.subnet.0.is_ipv4()) {
            let subnet = pool::choose(&self.pools, &config.name, &taken)
                .ok_or_else(|| NetworkError::PoolExhausted { network: name(), taken: taken.len() })?;
            subnets.insert(0, Subnet { subnet, ip_range: None, gateway: None, aux_addresses: BTreeMap::new() });
        }
        if config.enable_ipv6 && own && !subnets.iter().any(|s| s.subnet.0.is_ipv6()) {
            let subnet = pool::random_ula();
            subnets.push(Subnet { subnet, ip_range: None, gateway: None, aux_addresses: BTreeMap::new() });
        }
        for subnet in &mut subnets {
            if subnet.gateway.is_none() && own {
                subnet.gateway = pool::hosts(subnet.subnet, subnet.subnet)
                    .find(|address| !subnet.aux_addresses.values().any(|aux| aux == address));
            }
        }
        let network = Network { id: Id::random(), created: jiff::Timestamp::now(), config: config.clone(), subnets };
        self.write_record(&network, false)?;
        self.networks.insert(network.id.clone(), network.clone());
        Ok(network)
    }

    fn write_record(&self, network: &Network, removing: bool) -> Result<(), NetworkError> {
        let record = Record { network: network.clone(), removing };
        Ok(store::write(&self.record(&network.id), &record, Durability::Disk)?)
    }

    /// Says what a subnet that was asked for overlaps with.
    fn check_free(&self, config: &NetworkConfig, subnet: Cidr, host: &[link::Used]) -> Result<(), NetworkError> {
        let conflict = |with: String| NetworkError::SubnetTaken { network: config.name.clone(), subnet, with };
        for other in self.networks.values() {
            if let Some(theirs) = other.subnets.iter().find(|s| pool::overlap(s.subnet, subnet)) {
                let (address, prefix) = theirs.subnet;
                return Err(conflict(format!("{address}/{prefix} of network {}", other.config.name)));
            }
        }
        if let Some(used) = host.iter().find(|used| pool::overlap(used.range, subnet)) {
            let links = self.links.links()?;
            let link = links.iter().find(|link| link.index == used.link).map_or("no link", |link| &link.name);
            let what = if used.address { "address range" } else { "route" };
            return Err(conflict(format!("{what} {}/{} of link {link}", used.range.0, used.range.1)));
        }
        Ok(())
    }

    /// Makes what a record says exist: bridge, addresses, settings, its part of the packet filter, and the ports of the
    /// bridge that lost it.
    fn realise(&mut self, network: &Network) -> Result<(), NetworkError> {
        self.used.insert(network.id.clone());
        if network.config.driver == Driver::Bridge {
            self.realise_bridge(network)?;
            self.filter_whole()?;
        }
        self.refresh(&network.id)
    }

    fn realise_bridge(&mut self, network: &Network) -> Result<link::Link, NetworkError> {
        let name = network.bridge();
        let gateway4 = network.subnet(true).and_then(|s| s.gateway);
        let mac = match gateway4 {
            Some(IpAddr::V4(v4)) => lease::mac_for(Some(v4), None),
            _ => lease::mac_for(None, None),
        };
        let (bridge, new) = self.links.bridge(&name, mac, network.mtu())?;
        let ipv6 = network.subnet(false).is_some();
        sysctl(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        // A kernel without IPv6 has nothing to switch off.
        if Path::new("/proc/sys/net/ipv6").exists() {
            sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), if ipv6 { "0" } else { "1" })?;
            if ipv6 {
                sysctl(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
            }
        }
        for subnet in &network.subnets {
            if let Some(gateway) = subnet.gateway {
                self.links.add_address(&bridge, gateway, subnet.subnet.1)?;
            }
        }
        if !network.config.internal {
            sysctl("ipv4/ip_forward", "1")?;
            if ipv6 {
                forward_ipv6()?;
            }
        }
        if new {
            let leases = self.read_leases(&network.id)?;
            for (_, lease) in leases.active() {
                if let Some(port) = &lease.host_end {
                    self.links.enslave(port, &bridge)?;
                }
            }
        }
        Ok(bridge)
    }

    fn bridges(&self) -> Vec<Bridge> {
        let ours = self.used.iter().filter_map(|id| self.networks.get(id));
        ours.filter(|network| network.config.driver == Driver::Bridge)
            .map(|network| Bridge {
                name: network.bridge(),
                internal: network.config.internal,
                masquerade: network.masquerade(),
            })
            .collect()
    }

    /// Makes the packet filter whole if it is not.
    fn filter_whole(&mut self) -> Result<(), NetworkError> {
        let bridges = self.bridges();
        let mappings: Vec<Mapping> = self.published.values().flatten().copied().collect();
        if !self.filter.has(&bridges, &mappings)? || self.filter.foreign_chains_need_us()? {
            self.filter.ensure(&bridges, &mappings)?;
        }
        Ok(())
    }

    /// Repairs every network in use: after `ip link del`, `nft flush ruleset`, the reload of a firewall.
    pub(crate) fn repair(&mut self) -> Result<(), NetworkError> {
        let ids: Vec<Id> = self.used.iter().cloned().collect();
        for id in ids {
            match self.networks.get(&id).cloned() {
                Some(network) if self.record(&id).exists() => self.realise(&network)?,
                // Another process removed it.
                _ => {
                    self.used.remove(&id);
                    self.networks.remove(&id);
                }
            }
        }
        Ok(())
    }

    /// Takes a network off the list and out of the packet filter. Its bridge is left for [`Self::finish_removal`].
    pub(crate) fn remove(&mut self, name: &str) -> Result<Removed, NetworkError> {
        let _lock = store::lock(&self.records)?;
        let network = self.by_name(name)?;
        let _registry = store::lock(&self.registries)?;
        let leases = self.read_leases(&network.id)?;
        let mut holders = Vec::new();
        for (_, lease) in leases.active() {
            // The link of a container that died without a word went with it.
            let alive = match &lease.host_end {
                Some(link) => self.links.find(link)?.is_some(),
                None => true,
            };
            if alive {
                holders.push(lease.holder());
            }
        }
        if !holders.is_empty() {
            return Err(NetworkError::InUse { network: name.to_owned(), holders });
        }
        self.write_record(&network, true)?;
        self.networks.remove(&network.id);
        self.used.remove(&network.id);
        self.leases.remove(&network.id);
        self.shown.remove(&network.id);
        self.tables.remove(&network.id);
        Ok(Removed(network))
    }

    /// Deletes what is left of a removed network: its part of the packet filter, its bridge, its files.
    pub(crate) fn finish_removal(&mut self, removed: &Removed) -> Result<(), NetworkError> {
        let network = &removed.0;
        if network.config.driver == Driver::Bridge {
            let bridge = network.bridge();
            let subnets: Vec<Cidr> = network.subnets.iter().map(|s| s.subnet).collect();
            let there: BTreeSet<String> = self.links.links()?.into_iter().map(|link| link.name).collect();
            self.filter.remove(std::slice::from_ref(&bridge), &subnets, &|name| there.contains(name))?;
            self.links.delete(&bridge)?;
        }
        store::remove(&self.registry(&network.id))?;
        Ok(store::remove(&self.record(&network.id))?)
    }

    fn read_leases(&mut self, id: &Id) -> Result<Leases, NetworkError> {
        let path = self.registry(id);
        let stamp = Stamp::of(&path);
        if let (Some((known, leases)), Some(now)) = (self.leases.get(id), stamp)
            && *known == now
        {
            return Ok(leases.clone());
        }
        let leases: Leases = store::read(&path)?.unwrap_or_default();
        match stamp {
            Some(stamp) => self.leases.insert(id.clone(), (stamp, leases.clone())),
            None => self.leases.remove(id),
        };
        Ok(leases)
    }

    fn write_leases(&mut self, id: &Id, leases: Leases) -> Result<(), NetworkError> {
        let path = self.registry(id);
        store::write(&path, &leases, Durability::Memory)?;
        if let Some(stamp) = Stamp::of(&path) {
            self.leases.insert(id.clone(), (stamp, leases));
        }
        self.refresh(id)
    }

    /// Gives the resolver the names of a network as the registry has them now.
    pub(crate) fn refresh(&mut self, id: &Id) -> Result<(), NetworkError> {
        if !self.used.contains(id) {
            return Ok(());
        }
        let leases = self.read_leases(id)?;
        let stamp = self.leases.get(id).map(|(stamp, _)| *stamp);
        // We hear of our own changes too; and whose turn it is to be the first answer begins anew with each table.
        if let Some(network) = self.networks.get(id)
            && self.shown.get(id) != Some(&stamp)
        {
            self.tables.set(id, NetworkNames::new(network, &leases));
            self.shown.insert(id.clone(), stamp);
        }
        Ok(())
    }

    /// Connects a container to networks: an interface on each, a place in each registry, names in the resolver.
    ///
    /// If one fails, the others are undone. `first` is the number of the first interface, `routes` whether default
    /// routes are wanted.
    pub(crate) fn join(
        &mut self,
        sandbox: &Sandbox,
        member: &Member,
        endpoints: &[Endpoint],
        first: usize,
        routes: bool,
    ) -> Result<Vec<EndpointState>, NetworkError> {
        let mut networks = Vec::new();
        for endpoint in endpoints {
            networks.push(self.by_name(&endpoint.network)?);
        }
        let default4 = gateway_endpoint(endpoints, &networks, true).filter(|_| routes);
        let default6 = gateway_endpoint(endpoints, &networks, false).filter(|_| routes);
        let mut states: Vec<EndpointState> = Vec::new();
        for (index, (endpoint, network)) in endpoints.iter().zip(&networks).enumerate() {
            let name = endpoint.interface_name.clone().unwrap_or_else(|| format!("eth{}", first + index));
            let gateways = (default4 == Some(index), default6 == Some(index));
            match self.attach(sandbox, member, endpoint, network, name, gateways) {
                Ok(state) => states.push(state),
                Err(error) => {
                    for state in &states {
                        // The first error is the one to tell; what cannot be undone here goes with the namespace.
                        let _ = self.detach(sandbox, &member.id, &state.network);
                    }
                    return Err(error);
                }
            }
        }
        Ok(states)
    }

    fn attach(
        &mut self,
        sandbox: &Sandbox,
        member: &Member,
        endpoint: &Endpoint,
        network: &Network,
        interface: String,
        (default4, default6): (bool, bool),
    ) -> Result<EndpointState, NetworkError> {
        self.used.insert(network.id.clone());
        let (parent, host_end) = self.parent(network)?;
        let lease = self.lease(member, endpoint, network, interface, host_end)?;
        let prefix = |v4: bool| network.subnet(v4).map_or(0, |s| s.subnet.1);
        let gateway = |v4: bool| {
            let address = if v4 { lease.ipv4.map(IpAddr::V4) } else { lease.ipv6.map(IpAddr::V6) }?;
            network.subnets.iter().find(|s| pool::contains(s.subnet, address))?.gateway
        };
        let prefix_of = |address: IpAddr, v4: bool| {
            let subnet = network.subnets.iter().find(|s| pool::contains(s.subnet, address));
            subnet.map_or_else(|| prefix(v4), |s| s.subnet.1)
        };
        let ipv4 = lease.ipv4.map(|a| (a, prefix_of(IpAddr::V4(a), true)));
        let ipv6 = lease.ipv6.map(|a| (a, prefix_of(IpAddr::V6(a), false)));
        let gateway4 = gateway(true).and_then(|g| if let IpAddr::V4(v4) = g { Some(v4) } else { None });
        let gateway6 = gateway(false).and_then(|g| if let IpAddr::V6(v6) = g { Some(v6) } else { None });
        let wanted = Interface {
            name: lease.interface.clone(),
            mac: lease.mac_address,
            mtu: network.mtu(),
            ipv4,
            ipv6,
            link_local: endpoint.link_local_ips.clone(),
            gateway4: gateway4.filter(|_| default4),
            gateway6: gateway6.filter(|_| default6),
        };
        if let Err(error) = self.links.attach(sandbox, &parent, &wanted) {
            self.change_lease(&network.id, &member.id, |lease| lease.active = false)?;
            return Err(NetworkError::Attach {
                container: member.name.clone(),
                network: network.config.name.clone(),
                source: Box::new(error),
            });
        }
        Ok(EndpointState {
            network: network.config.name.clone(),
            network_id: network.id.clone(),
            interface: wanted.name,
            mac_address: lease.mac_address,
            ipv4,
            ipv4_gateway: gateway4.filter(|_| !network.config.internal),
            ipv6,
            ipv6_gateway: gateway6.filter(|_| !network.config.internal),
            names: lease.names,
            default_route: default4 || default6,
        })
    }

    /// Finds, or makes again, what an interface of this network hangs on. For a bridge also a new name for its port.
    fn parent(&mut self, network: &Network) -> Result<(Parent, Option<String>), NetworkError> {
        let option = |name: &str| network.config.driver_opts.get(name).map(String::as_str);
        if network.config.driver == Driver::Bridge {
            let name = network.bridge();
            let bridge = if let Some(link) = self.links.find(&name)? {
                link
            } else {
                self.realise(network)?;
                self.links.find(&name)?.ok_or_else(|| link::LinkError::NoLink(name.clone()))?
            };
            let mut random = [0_u8; 6];
            crate::sys::random(&mut random);
            let host_end = format!("{BRIDGE_PREFIX}v{}", hex(&random));
            let parent = Parent::Bridge { bridge: bridge.index, name, host_end: host_end.clone() };
            return Ok((parent, Some(host_end)));
        }
        let name = option("parent").ok_or_else(|| NetworkError::NoParent(network.config.name.clone()))?.to_owned();
        let link = self.links.find(&name)?.ok_or_else(|| link::LinkError::NoLink(name.clone()))?;
        let invalid =
            |mode: &str| NetworkError::UnknownMode { network: network.config.name.clone(), mode: mode.into() };
        let parent = if network.config.driver == Driver::Macvlan {
            let mode = match option("macvlan_mode").unwrap_or("bridge") {
                "bridge" => MacVlanMode::Bridge,
                "private" => MacVlanMode::Private,
                "vepa" => MacVlanMode::Vepa,
                "passthru" => MacVlanMode::Passthrough,
                other => return Err(invalid(other)),
            };
            Parent::Macvlan { parent: link.index, name, mode }
        } else {
            let mode = match option("ipvlan_mode").unwrap_or("l2") {
                "l2" => IpVlanMode::L2,
                "l3" => IpVlanMode::L3,
                "l3s" => IpVlanMode::L3S,
                other => return Err(invalid(other)),
            };
            Parent::Ipvlan { parent: link.index, name, mode }
        };
        Ok((parent, None))
    }

    /// Takes a place in the network's registry.
    fn lease(
        &mut self,
        member: &Member,
        endpoint: &Endpoint,
        network: &Network,
        interface: String,
        host_end: Option<String>,
    ) -> Result<Lease, NetworkError> {
        let _lock = store::lock(&self.registries)?;
        let mut leases = self.read_leases(&network.id)?;
        let (ipv4, ipv6) = leases.choose(&network.config.name, &network.subnets, &member.id, endpoint)?;
        let mut names = Vec::new();
        for name in
            [member.name.as_str(), member.id.short()].into_iter().chain(endpoint.aliases.iter().map(String::as_str))
        {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        // Whoever had one of these addresses before does not get it back.
        leases.0.retain(|id, other| {
            *id == member.id
                || other.active
                || !((other.ipv4.is_some() && other.ipv4 == ipv4) || (other.ipv6.is_some() && other.ipv6 == ipv6))
        });
        let lease = Lease {
            name: member.name.clone(),
            project: member.project.clone(),
            names,
            ipv4,
            ipv6,
            mac_address: endpoint.mac_address.unwrap_or_else(|| lease::mac_for(ipv4, ipv6)),
            interface,
            host_end,
            active: true,
            visible: true,
            ports: Vec::new(),
        };
        leases.0.insert(member.id.clone(), lease.clone());
        self.write_leases(&network.id, leases)?;
        Ok(lease)
    }

    /// Changes a container's place in a registry, if it has one.
    fn change_lease(
        &mut self,
        network: &Id,
        container: &Id,
        change: impl FnOnce(&mut Lease),
    ) -> Result<(), NetworkError> {
        let _lock = store::lock(&self.registries)?;
        let mut leases = self.read_leases(network)?;
        let Some(lease) = leases.0.get_mut(container) else { return Ok(()) };
        let before = lease.clone();
        change(lease);
        if *lease == before { Ok(()) } else { self.write_leases(network, leases) }
    }

    /// Networks on which a container has a place.
    fn networks_of(&mut self, container: &Id) -> Result<Vec<Id>, NetworkError> {
        let mut found = Vec::new();
        for path in store::list(&self.registries)? {
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Id>().ok());
            if let Some(id) = id
                && self.read_leases(&id)?.0.contains_key(container)
            {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Takes up again what a container that runs already has on its networks.
    pub(crate) fn adopt(
        &mut self,
        member: &Member,
        endpoints: &[EndpointState],
        mappings: Vec<Mapping>,
    ) -> Result<(), NetworkError> {
        if !mappings.is_empty() {
            self.published.insert(member.id.clone(), mappings);
        }
        for endpoint in endpoints {
            let network = match self.by_name(&endpoint.network) {
                // Somebody removed its record by hand. The container still has its other networks.
                Err(NetworkError::Unknown(network)) => {
                    tracing::warn!(container = member.name, network, "a running container's network is gone");
                    continue;
                }
                other => other?,
            };
            self.used.insert(network.id.clone());
            let _lock = store::lock(&self.registries)?;
            let mut leases = self.read_leases(&network.id)?;
            // The registry is lost only if somebody empties the run-time directory by hand.
            if leases.0.get(&member.id).is_none_or(|lease| !lease.active) {
                let known = leases.0.get(&member.id).cloned();
                let lease = Lease {
                    name: member.name.clone(),
                    project: member.project.clone(),
                    names: endpoint.names.clone(),
                    ipv4: endpoint.ipv4.map(|(a, _)| a),
                    ipv6: endpoint.ipv6.map(|(a, _)| a),
                    mac_address: endpoint.mac_address,
                    interface: endpoint.interface.clone(),
                    host_end: known.as_ref().and_then(|lease| lease.host_end.clone()),
                    active: true,
                    visible: true,
                    ports: known.map(|lease| lease.ports).unwrap_or_default(),
                };
                leases.0.insert(member.id.clone(), lease);
                self.write_leases(&network.id, leases)?;
            }
            self.realise(&network)?;
        }
        Ok(())
    }

    /// Disconnects a running container from one network.
    pub(crate) fn detach(&mut self, sandbox: &Sandbox, container: &Id, network: &str) -> Result<(), NetworkError> {
        let network = self.by_name(network)?;
        let _lock = store::lock(&self.registries)?;
        let mut leases = self.read_leases(&network.id)?;
        let Some(lease) = leases.0.remove(container) else {
            return Err(NetworkError::NotConnected { network: network.config.name });
        };
        self.write_leases(&network.id, leases)?;
        Ok(link::detach(sandbox, &lease.interface)?)
    }

    /// Notes that a container has ended: its names and ports go, its addresses are kept for it.
    pub(crate) fn leave(&mut self, container: &Id) -> Result<(), NetworkError> {
        let unpublished = self.unpublish(container);
        for network in self.networks_of(container)? {
            self.change_lease(&network, container, |lease| {
                lease.active = false;
                lease.host_end = None;
                lease.ports.clear();
            })?;
        }
        unpublished
    }

    fn unpublish(&mut self, container: &Id) -> Result<(), NetworkError> {
        let Some(mappings) = self.published.remove(container) else { return Ok(()) };
        self.filter.unpublish(&mappings)?;
        Ok(self.filter.forget_flows(&mappings)?)
    }

    /// Notes that a container was removed: nothing is kept for it.
    pub(crate) fn forget(&mut self, container: &Id) -> Result<(), NetworkError> {
        let unpublished = self.unpublish(container);
        for network in self.networks_of(container)? {
            let _lock = store::lock(&self.registries)?;
            let mut leases = self.read_leases(&network)?;
            if leases.0.remove(container).is_some() {
                self.write_leases(&network, leases)?;
            }
        }
        unpublished
    }

    /// Puts a running container into, or takes it out of, the answers to its names.
    pub(crate) fn set_visible(&mut self, container: &Id, visible: bool) -> Result<(), NetworkError> {
        for network in self.networks_of(container)? {
            self.change_lease(&network, container, |lease| lease.visible = visible)?;
        }
        Ok(())
    }

    /// Leads ports into a container and notes them in the registry, for whoever meets them as a conflict.
    pub(crate) fn publish(
        &mut self,
        container: &Id,
        network: &Id,
        mappings: Vec<Mapping>,
        bound: Vec<BoundPort>,
    ) -> Result<(), NetworkError> {
        match self.filter.publish(&mappings) {
            // Somebody flushed the rules; `filter_whole` writes all of them, with these.
            Err(nft::FilterError::Write { source, .. }) if source.errno == nix::errno::Errno::ENOENT => {
                self.published.insert(container.clone(), mappings);
                self.filter_whole()?;
            }
            other => {
                other?;
                self.published.insert(container.clone(), mappings);
            }
        }
        self.change_lease(network, container, |lease| lease.ports = bound)
    }

    /// Returns whose published port this is, if it is one of ours.
    pub(crate) fn port_holder(&mut self, port: &BoundPort) -> Result<Option<String>, NetworkError> {
        for path in store::list(&self.registries)? {
            let Some(leases) = store::read::<Leases>(&path)? else { continue };
            for (_, lease) in leases.active() {
                let same = |other: &BoundPort| {
                    other.protocol == port.protocol
                        && other.host_port == port.host_port
                        && other.host_ip.is_ipv4() == port.host_ip.is_ipv4()
                        && (other.host_ip == port.host_ip
                            || other.host_ip.is_unspecified()
                            || port.host_ip.is_unspecified())
                };
                if lease.ports.iter().any(same) {
                    return Ok(Some(lease.holder()));
                }
            }
        }
        Ok(None)
    }

    /// Lists what of ours is in the kernel.
    pub(crate) fn census(&mut self) -> Result<Census, NetworkError> {
        let mut links: Vec<String> = self.links.links()?.into_iter().map(|link| link.name).collect();
        links.retain(|name| is_ours(name));
        links.sort();
        let table = self.filter.census()?;
        let foreign_rules = self.filter.foreign_rules()?;
        Ok(Census {
            links,
            table: table.is_some(),
            bridges: table.as_ref().map(|(bridges, _)| bridges.clone()).unwrap_or_default(),
            ports: table.map_or(0, |(_, ports)| ports),
            foreign_rules,
        })
    }

    /// The gateway of a container's network, which is an address of the host.
    pub(crate) fn host_gateway(&mut self, endpoints: &[EndpointState]) -> Option<IpAddr> {
        let first = endpoints.first()?;
        let network = self.by_name(&first.network).ok()?;
        network.subnet(true).or_else(|| network.subnet(false))?.gateway
    }
}

/// Returns whether a link is one of ours: a bridge (`rc` and 12 digits) or a port (`rcv` and 12 digits).
fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix(BRIDGE_PREFIX).map(|rest| rest.strip_prefix('v').unwrap_or(rest));
    digits.is_some_and(|d| d.len() == 12 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// The endpoint that gives the default route of a family: highest priority first, then by name, as Docker has it.
pub(crate) fn gateway_endpoint(endpoints: &[Endpoint], networks: &[Network], v4: bool) -> Option<usize> {
    let with_gateway = |network: &Network| {
        !network.config.internal && network.subnets.iter().any(|s| s.subnet.0.is_ipv4() == v4 && s.gateway.is_some())
    };
    let candidates = endpoints.iter().zip(networks).enumerate().filter(|(_, (_, network))| with_gateway(network));
    let best = candidates.min_by_key(|(_, (endpoint, _))| (-i64::from(endpoint.gw_priority), &endpoint.network));
    best.map(|(index, _)| index)
}

/// Lets IPv6 packets be forwarded, without costing the host the routes that it learns from router advertisements.
fn forward_ipv6() -> Result<(), NetworkError> {
    const ALL: &str = "ipv6/conf/all/forwarding";
    let base = Path::new("/proc/sys/net");
    if fs::read_to_string(base.join(ALL)).is_ok_and(|now| now.trim() == "1") {
        return Ok(());
    }
    if let Ok(entries) = fs::read_dir(base.join("ipv6/conf")) {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let path = format!("ipv6/conf/{}/accept_ra", name.to_string_lossy());
            // 1 means: unless the interface forwards. 2 means: also then.
            if name != "all" && fs::read_to_string(base.join(&path)).is_ok_and(|now| now.trim() == "1") {
                sysctl(&path, "2")?;
            }
        }
    }
    Ok(sysctl(ALL, "1")?)
}

/// Returns the addresses that a published port of the container leads to.
pub(crate) fn publish_target(endpoints: &[EndpointState]) -> Option<(&Id, Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let with_route = endpoints.iter().find(|endpoint| endpoint.default_route)?;
    Some((&with_route.network_id, with_route.ipv4.map(|(a, _)| a), with_route.ipv6.map(|(a, _)| a)))
}
