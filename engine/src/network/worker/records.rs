//! The records of networks: which there are, and the choice of their subnets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Worker;
use crate::id::Id;
use crate::network::NetworkError;
use crate::network::config::{Driver, Network, NetworkConfig, Subnet};
use crate::network::link;
use crate::network::pool::{self, Cidr};
use crate::network::settings;
use crate::network::store::{self, Durability, StoreError};
use crate::root::Root;

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

/// Returns every network below a root.
pub fn list(root: &Root) -> Result<Vec<Network>, StoreError> {
    let there = read(&root.networks())?.into_iter().filter(|record| !record.removing);
    Ok(there.map(|record| record.network).collect())
}

fn read(records: &Path) -> Result<Vec<Record>, StoreError> {
    // Somebody may remove one after it was listed.
    let records = store::list(records)?.into_iter().filter_map(|path| store::read(&path).transpose());
    records.collect()
}

impl Worker {
    /// Reads every record, and finishes removals that were interrupted.
    pub(crate) fn load(&mut self) -> Result<Vec<Network>, NetworkError> {
        let (going, there): (Vec<_>, Vec<_>) = read(&self.records)?.into_iter().partition(|record| record.removing);
        self.networks = there.into_iter().map(|record| (record.network.id.clone(), record.network)).collect();
        for record in going {
            self.finish_removal(&Removed(record.network))?;
        }
        Ok(self.networks.values().cloned().collect())
    }

    pub(super) fn by_name(&mut self, name: &str) -> Result<Network, NetworkError> {
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
        config.check_options()?;
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
}
