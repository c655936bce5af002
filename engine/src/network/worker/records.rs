//! The records of networks: which there are, and the choice of their subnets.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::Worker;
use crate::id::Id;
use crate::network::NetworkError;
use crate::network::config::{Driver, Network, NetworkConfig, Subnet};
use crate::network::listing::Used;
use crate::network::pool::{self, Cidr};
use crate::network::settings;
use crate::network::store::{self, Durability, StoreError};
use crate::root::Root;

/// What is written to disk: the network, and whether it is on its way out.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    #[serde(flatten)]
    network: Network,
    #[serde(default)]
    removing: bool,
}

/// A network that is no longer listed, and of which only the bridge is still there.
#[derive(Debug)]
pub(crate) struct Removed {
    network: Network,
    /// The lock of its record: who holds it deletes the bridge.
    claim: File,
}

/// Returns every network below a root.
pub fn list(root: &Root) -> Result<Vec<Network>, StoreError> {
    let there = read(&root.networks())?.into_iter().filter(|record| !record.removing);
    Ok(there.map(|record| record.network).collect())
}

/// Returns whether a removal of a network of a project was cut short, because its supervisor was killed. The next supervisor to
/// start finishes that.
///
/// Waits for who is at it: a supervisor that was killed lives until the kernel has deleted the bridge for it.
pub fn is_interrupted(root: &Root, project: &str) -> Result<bool, StoreError> {
    let own = |record: &Record| record.removing && record.network.config.project.as_deref() == Some(project);
    for record in read(&root.networks())?.into_iter().filter(own) {
        let path = path(&root.networks(), &record.network.id);
        match File::open(&path).and_then(|claim| claim.lock_shared()) {
            Ok(()) if path.try_exists().unwrap_or(true) => return Ok(true),
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(StoreError::Lock { path, source }),
            // It is gone by now.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(false)
}

/// Returns where the record of a network is.
pub(super) fn path(records: &Path, id: &Id) -> PathBuf {
    records.join(format!("{id}.json"))
}

fn read(records: &Path) -> Result<Vec<Record>, StoreError> {
    // Somebody may remove one after it was listed.
    let records = store::list(records)?.into_iter().filter_map(|path| store::read(&path).transpose());
    records.collect()
}

impl Worker {
    /// Reads every record.
    pub(crate) fn load(&mut self) -> Result<Vec<Network>, NetworkError> {
        let there = read(&self.records)?.into_iter().filter(|record| !record.removing);
        self.networks = there.map(|record| (record.network.id.clone(), record.network)).collect();
        Ok(self.networks.values().cloned().collect())
    }

    /// Reads every record, and finishes what killed processes have begun: removals, files.
    pub(crate) fn recover(&mut self) -> Result<(), NetworkError> {
        let _lock = store::lock(&self.records)?;
        store::sweep(&self.records)?;
        {
            let _registries = store::lock(&self.registries)?;
            store::sweep(&self.registries)?;
        }
        self.finish_interrupted()?;
        self.load()?;
        Ok(())
    }

    /// Finishes removals that nobody is at any more; returns those that another process is at. The caller holds the lock.
    fn finish_interrupted(&mut self) -> Result<Vec<Removed>, NetworkError> {
        let mut theirs = Vec::new();
        for record in read(&self.records)?.into_iter().filter(|record| record.removing) {
            let Some(removed) = self.removed(record.network)? else { continue };
            match removed.claim.try_lock() {
                Ok(()) => self.finish_anew(&removed)?,
                Err(TryLockError::WouldBlock) => theirs.push(removed),
                Err(TryLockError::Error(source)) => return Err(self.cannot_claim(&removed.network, source).into()),
            }
        }
        Ok(theirs)
    }

    /// Waits until another process is through with a removal. The caller holds the lock.
    fn wait_for(&mut self, removed: &Removed) -> Result<(), NetworkError> {
        removed.claim.lock().map_err(|source| self.cannot_claim(&removed.network, source))?;
        // It ended before it was through.
        let left = self.record(&removed.network.id).try_exists().unwrap_or(true);
        if left { self.finish_anew(removed) } else { Ok(()) }
    }

    /// Opens the record of a network that is on its way out; `None` if it is gone.
    fn removed(&self, network: Network) -> Result<Option<Removed>, StoreError> {
        match File::open(self.record(&network.id)) {
            Ok(claim) => Ok(Some(Removed { network, claim })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.cannot_claim(&network, source)),
        }
    }

    fn cannot_claim(&self, network: &Network, source: io::Error) -> StoreError {
        StoreError::Lock { path: self.record(&network.id), source }
    }

    pub(super) fn by_name(&mut self, name: &str) -> Result<Network, NetworkError> {
        let known = self.networks.values().find(|network| network.config.name == name);
        if let Some(network) = known
            && self.stands(&network.id)?
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
        // Held until the network is there or gone again: who else wants it must not find it half-made.
        let _lock = store::lock(&self.records)?;
        match self.by_name(&config.name) {
            Ok(network) => {
                self.realise(&network)?;
                return Ok((network, false));
            }
            Err(NetworkError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
        let mut going = self.finish_interrupted()?;
        for removed in going.extract_if(.., |removed| removed.holds_any_of(&config.subnets)) {
            self.wait_for(&removed)?;
        }
        // Until its bridge has its addresses, nobody with another root may choose a subnet either.
        let _host = store::lock_host()?;
        let network = self.allocate(config, &going)?;
        match self.realise(&network) {
            Ok(()) => Ok((network, true)),
            Err(error) => {
                self.unmake(&network);
                Err(error)
            }
        }
    }

    /// Makes what is missing of a network that others may be about to remove.
    pub(super) fn restore(&mut self, network: &Network) -> Result<(), NetworkError> {
        // Who removes a network says so under this lock, before anything of it goes.
        let _lock = store::lock(&self.records)?;
        if self.stands(&network.id)? {
            self.realise(network)
        } else {
            Err(NetworkError::Unknown(network.config.name.clone()))
        }
    }

    /// Returns whether there is a network, and nobody removes it.
    fn stands(&self, id: &Id) -> Result<bool, NetworkError> {
        Ok(store::read::<Record>(&self.record(id))?.is_some_and(|record| !record.removing))
    }

    /// Removes what there is of a network that could not be made. What cannot be removed is finished by the next
    /// [`Self::load`], and the error that led here is the one to tell.
    fn unmake(&mut self, network: &Network) {
        self.used.remove(&network.id);
        self.networks.remove(&network.id);
        let undone = self.retire(network).and_then(|removed| self.finish_removal(&removed));
        if let Err(error) = undone {
            tracing::warn!(error = &error as &dyn std::error::Error, network = network.config.name, "left half-made");
        }
    }

    /// Finds subnets for a network and records it; those of networks that are `going` are taken. The caller holds the lock.
    fn allocate(&mut self, config: &NetworkConfig, going: &[Removed]) -> Result<Network, NetworkError> {
        config.check_options()?;
        let name = || config.name.clone();
        let host = self.links.used()?;
        let mut taken: Vec<Cidr> = host.iter().map(|used| used.range).collect();
        let networks = self.networks.values().chain(going.iter().map(|removed| &removed.network));
        taken.extend(networks.flat_map(|n| &n.subnets).map(|s| s.subnet));
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
            let pools = self.pools.clone().map_or_else(settings::pools, Ok)?;
            let subnet = pool::choose(&pools, &config.name, &taken)
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
    fn check_free(&mut self, config: &NetworkConfig, subnet: Cidr, host: &[Used]) -> Result<(), NetworkError> {
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
        let removed = self.retire(&network)?;
        self.networks.remove(&network.id);
        self.used.remove(&network.id);
        self.leases.remove(&network.id);
        self.shown.remove(&network.id);
        self.tables.remove(&network.id);
        Ok(removed)
    }

    /// Says in its record that a network goes, and takes it out of the packet filter. The caller holds the lock.
    fn retire(&mut self, network: &Network) -> Result<Removed, NetworkError> {
        self.write_record(network, true)?;
        let removed =
            self.removed(network.clone())?.ok_or_else(|| NetworkError::Unknown(network.config.name.clone()))?;
        // Nobody else can have it: claims are made under the lock that the caller holds.
        removed.claim.lock().map_err(|source| self.cannot_claim(network, source))?;
        self.unfilter(network)?;
        Ok(removed)
    }

    /// Finishes a removal that was interrupted, wherever. The caller holds the lock, and the claim.
    fn finish_anew(&mut self, removed: &Removed) -> Result<(), NetworkError> {
        self.unfilter(&removed.network)?;
        self.finish_removal(removed)
    }

    /// Takes a network out of the packet filter. Under the lock: its subnet may be another network's in the next moment.
    fn unfilter(&mut self, network: &Network) -> Result<(), NetworkError> {
        if network.config.driver == Driver::Bridge {
            let subnets: Vec<Cidr> = network.subnets.iter().map(|s| s.subnet).collect();
            let links = &mut self.links;
            let mut there = || Ok(links.links()?.into_iter().map(|link| link.name).collect());
            self.filter.remove(&network.bridge(), &subnets, &mut there)?;
        }
        Ok(())
    }

    /// Deletes what is left of a removed network: its bridge, its files.
    pub(crate) fn finish_removal(&mut self, removed: &Removed) -> Result<(), NetworkError> {
        let network = &removed.network;
        if network.config.driver == Driver::Bridge {
            self.links.delete(&network.bridge())?;
        }
        store::remove(&self.registry(&network.id))?;
        Ok(store::remove(&self.record(&network.id))?)
    }
}

impl Removed {
    /// Returns whether one of these subnets overlaps with one that it had.
    fn holds_any_of(&self, subnets: &[Subnet]) -> bool {
        let mut had = self.network.subnets.iter();
        had.any(|had| subnets.iter().any(|wanted| pool::overlap(had.subnet, wanted.subnet)))
    }
}
