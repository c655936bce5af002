//! The one thread that changes networks: records, bridges, interfaces, the packet filter.
//!
//! The kernel does all link work under one lock, so one thread loses nothing, and the state that belongs to it needs no
//! lock of ours. The runtime's threads, which answer name queries, never wait for it.

mod members;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

pub use self::members::endpoints;
pub(crate) use self::members::{Handed, publish_target};
pub use self::records::{is_interrupted, list};
use super::config::{BRIDGE_PREFIX, Driver, Network};
use super::dns::table::{NetworkNames, Tables};
use super::lease::{self, Leases};
use super::link::{Links, sysctl};
use super::listing::Link;
use super::nft::{Bridge, Filter, Mapping};
use super::pool::Pool;
use super::{Census, NetworkError};
use crate::container::state::EndpointState;
use crate::id::Id;
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
    /// `None`: those of the host's settings.
    pools: Option<Vec<Pool>>,
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
pub(crate) fn start(root: &Root, pools: Option<Vec<Pool>>, tables: Arc<Tables>) -> Result<Handle, NetworkError> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let (ready, started) = mpsc::channel();
    let (records, registries) = (root.networks(), root.networks_run());
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

impl Worker {
    fn record(&self, id: &Id) -> PathBuf {
        records::path(&self.records, id)
    }

    fn registry(&self, id: &Id) -> PathBuf {
        registry(&self.registries, id)
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

    fn realise_bridge(&mut self, network: &Network) -> Result<Link, NetworkError> {
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
        if Path::new("/proc/sys/net/ipv6").try_exists().unwrap_or(true) {
            sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), if ipv6 { "0" } else { "1" })?;
            if ipv6 {
                sysctl(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
            }
        }
        if let Some(name) = network.bridge_alias() {
            self.links.add_name(&bridge, name)?;
        }
        for subnet in &network.subnets {
            if let Some(gateway) = subnet.gateway.filter(|gateway| gateway.is_ipv6() || !network.inhibits_ipv4()) {
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
                    if !network.connects_containers() && self.links.find(port)?.is_some() {
                        self.links.isolate(port)?;
                    }
                }
            }
        }
        Ok(bridge)
    }

    /// Whether one of these bridges is of a network that we repair.
    pub(super) fn uses_any_of(&self, bridges: &[String]) -> bool {
        self.bridges().iter().any(|own| bridges.contains(&own.name))
    }

    fn bridges(&self) -> Vec<Bridge> {
        let ours = self.used.iter().filter_map(|id| self.networks.get(id));
        ours.filter(|network| network.config.driver == Driver::Bridge)
            .map(|network| Bridge {
                name: network.bridge(),
                internal: network.config.internal,
                masquerade: network.masquerade(),
                apart: !network.connects_containers(),
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
            let restored = self.networks.get(&id).cloned().map(|network| self.restore(&network));
            match restored {
                Some(Ok(())) => {}
                // Another process removed it.
                None | Some(Err(NetworkError::Unknown(_))) => {
                    self.used.remove(&id);
                    self.networks.remove(&id);
                }
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(())
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

    /// Returns where ports are bound that name no address and lead in through this network.
    pub(crate) fn host_binding(&self, network: &Id) -> Option<IpAddr> {
        self.networks.get(network)?.host_binding()
    }

    /// The gateway of a container's network, which is an address of the host.
    pub(crate) fn host_gateway(&mut self, endpoints: &[EndpointState]) -> Result<Option<IpAddr>, NetworkError> {
        let Some(first) = endpoints.first() else { return Ok(None) };
        let network = self.by_name(&first.network)?;
        Ok(network.subnet(true).or_else(|| network.subnet(false)).and_then(|subnet| subnet.gateway))
    }
}

fn registry(registries: &Path, id: &Id) -> PathBuf {
    registries.join(format!("{id}.json"))
}

/// Returns whether a link is one of ours: a bridge (`rc` and 12 digits) or a port (`rcv` and 12 digits).
fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix(BRIDGE_PREFIX).map(|rest| rest.strip_prefix('v').unwrap_or(rest));
    digits.is_some_and(|d| d.len() == 12 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
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
