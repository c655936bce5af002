//! Who is on which network: the registries of endpoints, and what containers have on their networks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::link::{IpVlanMode, MacVlanMode};

use super::{Stamp, Worker, registry};
use crate::container::config::Endpoint;
use crate::container::state::{BoundPort, EndpointState};
use crate::id::{Id, hex};
use crate::network::config::{BRIDGE_PREFIX, Driver, Network};
use crate::network::lease::{self, Lease, Leases};
use crate::network::link::{self, Interface, Parent};
use crate::network::nft::{self, Mapping};
use crate::network::sandbox::Sandbox;
use crate::network::store::{self, Durability, StoreError};
use crate::network::{Member, NetworkError, is_of_instance};
use crate::network::{options, pool};
use crate::root::Root;

/// Returns who is on a network, or was and has its addresses kept.
pub fn endpoints(root: &Root, network: &Id) -> Result<Leases, StoreError> {
    Ok(store::read(&registry(&root.networks_run(), network))?.unwrap_or_default())
}

/// What one of two containers has after one has taken over from the other.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) container: Id,
    /// The network through which its published ports lead in.
    pub(crate) leads_in: Option<Id>,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) ports: Vec<BoundPort>,
}

impl Worker {
    pub(super) fn read_leases(&mut self, id: &Id) -> Result<Leases, NetworkError> {
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

    /// Connects a container to networks: an interface on each, a place in each registry, names in the resolver.
    ///
    /// If one fails, the others are undone. `there` are interfaces that the container has already: then its default
    /// routes stay as they are ([`Self::reroute`]).
    pub(crate) fn join(
        &mut self,
        sandbox: &Sandbox,
        member: &Member,
        endpoints: &[Endpoint],
        there: &[String],
    ) -> Result<Vec<EndpointState>, NetworkError> {
        let networks = self.networks_for(endpoints)?;
        let names = interface_names(endpoints, &networks, there)?;
        let default4 = gateway_endpoint(endpoints, &networks, true).filter(|_| there.is_empty());
        let default6 = gateway_endpoint(endpoints, &networks, false).filter(|_| there.is_empty());
        let mut states: Vec<EndpointState> = Vec::new();
        for (index, ((endpoint, network), name)) in endpoints.iter().zip(&networks).zip(names).enumerate() {
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

    fn networks_for(&mut self, endpoints: &[Endpoint]) -> Result<Vec<Network>, NetworkError> {
        endpoints.iter().map(|endpoint| self.by_name(&endpoint.network)).collect()
    }

    /// Leads the default routes of a running container through the networks that they belong to by now. `states` are
    /// what became of `endpoints`, in the same order.
    pub(crate) fn reroute(
        &mut self,
        sandbox: &Sandbox,
        endpoints: &[Endpoint],
        mut states: Vec<EndpointState>,
    ) -> Result<Vec<EndpointState>, NetworkError> {
        let networks = self.networks_for(endpoints)?;
        let default4 = gateway_endpoint(endpoints, &networks, true);
        let default6 = gateway_endpoint(endpoints, &networks, false);
        for (index, state) in states.iter_mut().enumerate() {
            let gateway4 = state.ipv4_gateway.filter(|_| default4 == Some(index)).map(IpAddr::V4);
            let gateway6 = state.ipv6_gateway.filter(|_| default6 == Some(index)).map(IpAddr::V6);
            for gateway in gateway4.into_iter().chain(gateway6) {
                link::route(sandbox, &state.interface, gateway)?;
            }
            state.default_route = gateway4.is_some() || gateway6.is_some();
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
        if self.used.insert(network.id.clone()) {
            // Somebody else made it, and what is in the kernel of it may have been lost since.
            self.restore(network)?;
        }
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
            links: endpoint.links.clone(),
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
                self.restore(network)?;
                self.links.find(&name)?.ok_or_else(|| link::LinkError::NoLink(name.clone()))?
            };
            let mut random = [0_u8; 6];
            crate::sys::random(&mut random);
            let host_end = format!("{BRIDGE_PREFIX}v{}", hex(&random));
            let isolated = !network.connects_containers();
            let parent = Parent::Bridge { bridge: bridge.index, name, host_end: host_end.clone(), isolated };
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
            visible: member.visible,
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
            match self.retake(member, endpoint) {
                // Somebody removed its record by hand. The container still has its other networks.
                Err(NetworkError::Unknown(network)) => {
                    tracing::warn!(container = member.name, network, "a running container's network is gone");
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn retake(&mut self, member: &Member, endpoint: &EndpointState) -> Result<(), NetworkError> {
        let network = self.by_name(&endpoint.network)?;
        self.used.insert(network.id.clone());
        let lock = store::lock(&self.registries)?;
        let mut leases = self.read_leases(&network.id)?;
        // The registry is lost only if somebody empties the run-time directory by hand, and who is to be found by its names
        // is another one only if a supervisor was killed while one container took over from another.
        if leases.0.get(&member.id).is_none_or(|lease| !lease.active || lease.visible != member.visible) {
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
                visible: member.visible,
                ports: known.map(|lease| lease.ports).unwrap_or_default(),
            };
            leases.0.insert(member.id.clone(), lease);
            self.write_leases(&network.id, leases)?;
        }
        // The lock of the records is taken before this one, or without it.
        drop(lock);
        self.restore(&network)
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

    /// Gives a container that runs another name.
    pub(crate) fn rename(&mut self, container: &Id, name: &str) -> Result<(), NetworkError> {
        for network in self.networks_of(container)? {
            self.change_lease(&network, container, |lease| {
                let before = std::mem::replace(&mut lease.name, name.to_owned());
                lease.names.retain(|known| *known != before && known != name);
                lease.names.insert(0, name.to_owned());
            })?;
        }
        Ok(())
    }

    /// Leads the ports and names of one container to another, which has the first one's own name besides its own from
    /// then on.
    pub(crate) fn hand_over(&mut self, giver: &Handed, taker: &Handed) -> Result<(), NetworkError> {
        let before = self.published.get(&giver.container).cloned().unwrap_or_default();
        let led = |mapping: &&Mapping| {
            taker.mappings.iter().any(|to| (to.protocol, to.host) == (mapping.protocol, mapping.host))
        };
        let moved: Vec<Mapping> = before.iter().filter(led).copied().collect();
        let outcome = self.filter.lead_over(&moved, &taker.mappings);
        for handed in [giver, taker] {
            self.published.insert(handed.container.clone(), handed.mappings.clone());
        }
        match outcome {
            // Somebody flushed the rules; `filter_whole` writes all of them, with these.
            Err(nft::FilterError::Write { source, .. }) if source.errno == nix::errno::Errno::ENOENT => {
                self.filter_whole()?;
            }
            other => other?,
        }
        // What UDP clients go on to send belongs to whoever has the port: there is no connection that could end.
        self.filter.forget_flows(&moved)?;
        let networks = self.networks_of(&giver.container)?.into_iter().chain(self.networks_of(&taker.container)?);
        for network in networks.collect::<BTreeSet<_>>() {
            self.hand_over_names(&network, giver, taker)?;
        }
        Ok(())
    }

    fn hand_over_names(&mut self, network: &Id, giver: &Handed, taker: &Handed) -> Result<(), NetworkError> {
        let _lock = store::lock(&self.registries)?;
        let mut leases = self.read_leases(network)?;
        let mut name = None;
        if let Some(lease) = leases.0.get_mut(&giver.container) {
            lease.visible = false;
            if giver.leads_in.as_ref() == Some(network) {
                lease.ports.clone_from(&giver.ports);
            }
            name = Some(lease.name.clone());
        }
        if let Some(lease) = leases.0.get_mut(&taker.container) {
            lease.visible = true;
            if taker.leads_in.as_ref() == Some(network) {
                lease.ports.clone_from(&taker.ports);
            }
            lease.names.extend(name.filter(|name| !lease.names.contains(name)));
        }
        self.write_leases(network, leases)
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

    /// Leads ports into a container that were led there another way, or nowhere.
    pub(crate) fn republish(
        &mut self,
        container: &Id,
        network: Option<&Id>,
        mappings: Vec<Mapping>,
        bound: Vec<BoundPort>,
    ) -> Result<(), NetworkError> {
        self.unpublish(container)?;
        for network in self.networks_of(container)? {
            self.change_lease(&network, container, |lease| lease.ports.clear())?;
        }
        match network {
            Some(network) => self.publish(container, network, mappings, bound),
            None => Ok(()),
        }
    }

    /// Returns whose published port this is, if it is one of ours.
    pub(crate) fn port_holder(&mut self, port: &BoundPort) -> Result<Option<String>, NetworkError> {
        for path in store::list(&self.registries)? {
            let Some(leases) = store::read::<Leases>(&path)? else { continue };
            for (_, lease) in leases.active() {
                // At an address of one project alone nobody else's port is in the way.
                let apart = |a: &BoundPort, b: &BoundPort| is_of_instance(a.host_ip) && a.host_ip != b.host_ip;
                let same = |other: &BoundPort| {
                    !apart(other, port)
                        && !apart(port, other)
                        && other.protocol == port.protocol
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
}

/// Returns what the interfaces of these endpoints are called, beside those that are there.
fn interface_names(
    endpoints: &[Endpoint],
    networks: &[Network],
    there: &[String],
) -> Result<Vec<String>, NetworkError> {
    let asked: Vec<Option<&str>> = endpoints.iter().map(options::interface_name).collect();
    let mut taken: BTreeSet<String> = there.iter().cloned().collect();
    for (name, endpoint) in asked.iter().zip(endpoints) {
        if let Some(name) = name
            && !taken.insert((*name).to_owned())
        {
            return Err(NetworkError::InterfaceTaken {
                network: endpoint.network.clone(),
                interface: (*name).to_owned(),
            });
        }
    }
    let name = |(asked, network): (Option<&str>, &Network)| {
        if let Some(name) = asked {
            return name.to_owned();
        }
        // One number more than there are names must be free.
        let mut numbered = (0..=taken.len()).map(|n| format!("{}{n}", network.interface_prefix()));
        let name = numbered.find(|name| !taken.contains(name)).expect("one number is free");
        taken.insert(name.clone());
        name
    };
    Ok(asked.into_iter().zip(networks).map(name).collect())
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

/// Returns the addresses that a published port of the container leads to.
pub(crate) fn publish_target(endpoints: &[EndpointState]) -> Option<(&Id, Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let with_route = endpoints.iter().find(|endpoint| endpoint.default_route)?;
    Some((&with_route.network_id, with_route.ipv4.map(|(a, _)| a), with_route.ipv6.map(|(a, _)| a)))
}
