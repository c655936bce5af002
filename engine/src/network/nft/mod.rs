//! The packet filter: our table `inet rcompose`, and our place in the tables of others.
//!
//! Several supervisors, of several roots, share the table. They agree without a lock: whoever changes its structure
//! reads the generation that the kernel counts, decides, and has the transaction refused if somebody was faster.

mod batch;
mod conntrack;
mod expression;
mod foreign;
mod ruleset;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use self::batch::{Batch, DELETE_TABLE, Element, Family, GET_ELEMENT, GET_GENERATION, Hook, INET, IPV4, OUTPUT};
use self::expression::{Attributes, Base, R0, equal, immediate, interface, meta, payload, rewrite};
use self::ruleset::{
    ANY4, ANY6, APART, AT4, AT6, BRIDGES, INTERNAL, MASQUERADED, PAIRS, PORT_SETS, SELF4, SELF6, TABLE,
};
use super::config::BRIDGE_PREFIX;
use super::link::LinkError;
use super::netlink::{Refusal, Socket, attributes};
use crate::container::config::Protocol;

pub(crate) use self::batch::SUBSYSTEM_GENERATION;
pub(crate) use self::foreign::legacy_filter;

/// Why the packet filter is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("cannot open a netlink socket to the packet filter")]
    Open(#[source] std::io::Error),
    #[error("cannot read the packet filter's {what}")]
    Read {
        what: &'static str,
        #[source]
        source: Refusal,
    },
    #[error("cannot change the packet filter: {what}")]
    Write {
        what: &'static str,
        #[source]
        source: Refusal,
    },
    /// Other programs change the rules faster than we can read them.
    #[error("the packet filter's rules keep changing under our hands")]
    Busy,
    #[error("cannot see which networks are there")]
    Links(#[source] LinkError),
}

/// What the packet filter has to know about a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) internal: bool,
    pub(crate) masquerade: bool,
    /// Whether containers of it may not speak to each other.
    pub(crate) apart: bool,
}

/// One published port, as the packet filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    /// The host's side; an unspecified address is every address of that family.
    pub(crate) host: SocketAddr,
    pub(crate) container: SocketAddr,
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

impl Mapping {
    /// Returns the sets and maps that this has an element in, and those elements; none where the families differ.
    fn elements(&self) -> Vec<(&'static str, Element)> {
        let service = [&[protocol_number(self.protocol), 0, 0, 0][..], &port(self.host.port())].concat();
        let (host, container) = (self.host.ip(), self.container.ip());
        let (at, any, own) = match (host, container) {
            (IpAddr::V4(_), IpAddr::V4(_)) => (AT4.name, ANY4.name, SELF4.name),
            (IpAddr::V6(_), IpAddr::V6(_)) => (AT6.name, ANY6.name, SELF6.name),
            _ => return Vec::new(),
        };
        let data = [&octets(container)[..], &port(self.container.port())].concat();
        let itself = Element { key: [&octets(container)[..], &service].concat(), data: Vec::new() };
        let lead = if host.is_unspecified() {
            (any, Element { key: service, data })
        } else {
            (at, Element { key: [octets(host), service].concat(), data })
        };
        vec![lead, (own, itself)]
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A port in a register of its own.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn element(name: &str) -> Element {
    Element { key: interface(name).to_vec(), data: Vec::new() }
}

fn pair(name: &str) -> Element {
    Element { key: [interface(name), interface(name)].concat(), data: Vec::new() }
}

/// How often a transaction is tried again because somebody else changed something meanwhile.
const ATTEMPTS: usize = 100;

/// The packet filter of one network namespace.
#[derive(Debug)]
pub(crate) struct Filter {
    socket: Socket,
}

impl Filter {
    /// Opens the packet filter of the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, FilterError> {
        Ok(Self { socket: Socket::filter().map_err(FilterError::Open)? })
    }

    /// Makes the table whole and puts these networks and ports into it, whatever was there before, and puts us at the
    /// head of chains of others that would drop our packets.
    pub(crate) fn ensure(&mut self, bridges: &[Bridge], mappings: &[Mapping]) -> Result<(), FilterError> {
        let what = "write our table";
        self.retry(what, |filter, batch| {
            ruleset::write(batch);
            // A network whose kind changed must not stay in a set it no longer belongs to.
            for (set, wanted) in [
                (INTERNAL.name, (|b: &Bridge| b.internal) as fn(&Bridge) -> bool),
                (MASQUERADED.name, |b: &Bridge| b.masquerade),
                (APART.name, |b: &Bridge| b.apart),
            ] {
                let there: BTreeSet<Vec<u8>> = filter.keys(set)?.into_iter().collect();
                let stale: Vec<Element> = bridges
                    .iter()
                    .filter(|bridge| !wanted(bridge))
                    .map(|bridge| element(&bridge.name))
                    .filter(|element| there.contains(&element.key))
                    .collect();
                batch.remove(INET, TABLE, set, &stale);
            }
            let names: Vec<Element> = bridges.iter().map(|b| element(&b.name)).collect();
            let pairs: Vec<Element> = bridges.iter().map(|b| pair(&b.name)).collect();
            let internal: Vec<Element> = bridges.iter().filter(|b| b.internal).map(|b| element(&b.name)).collect();
            let masqueraded: Vec<Element> = bridges.iter().filter(|b| b.masquerade).map(|b| element(&b.name)).collect();
            batch.add(INET, TABLE, BRIDGES.name, &names);
            batch.add(INET, TABLE, PAIRS.name, &pairs);
            batch.add(INET, TABLE, INTERNAL.name, &internal);
            batch.add(INET, TABLE, MASQUERADED.name, &masqueraded);
            let apart: Vec<Element> = bridges.iter().filter(|b| b.apart).map(|b| element(&b.name)).collect();
            batch.add(INET, TABLE, APART.name, &apart);
            filter.replace(batch, mappings)?;
            if !bridges.is_empty() {
                foreign::insert(&mut filter.socket, batch)?;
            }
            Ok(())
        })
    }

    /// Returns whether a chain of somebody else would drop what our bridges carry.
    pub(crate) fn foreign_chains_need_us(&mut self) -> Result<bool, FilterError> {
        let mut batch = Batch::new(None);
        foreign::insert(&mut self.socket, &mut batch)?;
        Ok(!batch.is_empty())
    }

    /// Returns whether the table has each of these networks and ports.
    pub(crate) fn has(&mut self, bridges: &[Bridge], mappings: &[Mapping]) -> Result<bool, FilterError> {
        let there: BTreeSet<Vec<u8>> = self.keys(BRIDGES.name)?.into_iter().collect();
        if !bridges.iter().all(|bridge| there.contains(&interface(&bridge.name)[..])) {
            return Ok(false);
        }
        for map in PORT_SETS {
            let wanted = elements_of(map.name, mappings);
            if !wanted.is_empty() {
                let there = self.elements(map.name)?;
                if !wanted.iter().all(|element| there.contains(element)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Leads published ports to their containers, replacing what was there for the same ports.
    pub(crate) fn publish(&mut self, mappings: &[Mapping]) -> Result<(), FilterError> {
        // As a rule nobody has had these ports before, and there is nothing to look up.
        let mut batch = Batch::new(None);
        for map in PORT_SETS {
            batch.add(INET, TABLE, map.name, &elements_of(map.name, mappings));
        }
        match batch.commit(&mut self.socket) {
            Err(refusal) if matches!(refusal.errno, Errno::EEXIST | Errno::EBUSY) => {}
            other => return other.map_err(|source| FilterError::Write { what: "publish ports", source }),
        }
        self.retry("publish ports", |filter, batch| filter.replace(batch, mappings))
    }

    /// Leads published ports that lead to one container to another one, all at the same moment. What connection tracking
    /// knows goes on as it is.
    pub(crate) fn lead_over(&mut self, from: &[Mapping], to: &[Mapping]) -> Result<(), FilterError> {
        self.retry("lead published ports to another container", |filter, batch| {
            for set in [SELF4, SELF6] {
                let there = filter.elements(set.name)?;
                let mut gone = elements_of(set.name, from);
                gone.retain(|element| there.contains(element));
                batch.remove(INET, TABLE, set.name, &gone);
            }
            filter.replace(batch, to)
        })
    }

    /// Removes published ports. One that was led elsewhere meanwhile, or that is gone, is left as it is.
    pub(crate) fn unpublish(&mut self, mappings: &[Mapping]) -> Result<(), FilterError> {
        // As a rule they are there.
        let mut batch = Batch::new(None);
        for map in PORT_SETS {
            batch.remove(INET, TABLE, map.name, &elements_of(map.name, mappings));
        }
        match batch.commit(&mut self.socket) {
            Err(refusal) if refusal.errno == Errno::ENOENT => {}
            other => return other.map_err(|source| FilterError::Write { what: "withdraw published ports", source }),
        }
        self.retry("withdraw published ports", |filter, batch| {
            for map in PORT_SETS {
                let mut gone = elements_of(map.name, mappings);
                if !gone.is_empty() {
                    let there = filter.elements(map.name)?;
                    gone.retain(|element| there.contains(element));
                    batch.remove(INET, TABLE, map.name, &gone);
                }
            }
            Ok(())
        })
    }

    /// Makes connection tracking forget the UDP flows through these ports, which would go on to be led to a container
    /// that is gone for as long as the client keeps sending.
    pub(crate) fn forget_flows(&mut self, mappings: &[Mapping]) -> Result<(), FilterError> {
        let mut containers: Vec<SocketAddr> =
            mappings.iter().filter(|m| m.protocol == Protocol::Udp).map(|m| m.container).collect();
        containers.sort_unstable();
        containers.dedup();
        if containers.is_empty() { Ok(()) } else { conntrack::forget(&mut self.socket, &containers) }
    }

    /// Removes a network and every port that leads into one of `subnets`. The table, and our rules in the tables of others,
    /// go with the last network: one is still there if `links` has its bridge.
    pub(crate) fn remove(
        &mut self,
        bridge: &str,
        subnets: &[(IpAddr, u8)],
        links: &mut dyn FnMut() -> Result<BTreeSet<String>, LinkError>,
    ) -> Result<(), FilterError> {
        self.retry("remove a network", |filter, batch| {
            let there = filter.keys(BRIDGES.name)?;
            // After the keys: a bridge is there before it is in the filter.
            let links = links().map_err(FilterError::Links)?;
            let gone: Vec<String> =
                there.iter().map(|key| text(key)).filter(|name| name == bridge || !links.contains(name)).collect();
            if gone.len() == there.len() {
                if !there.is_empty() || filter.has_table()? {
                    batch.push(DELETE_TABLE, 0, INET, &Attributes::default().text(1, TABLE));
                }
                return foreign::withdraw(&mut filter.socket, batch);
            }
            for set in [BRIDGES.name, INTERNAL.name, MASQUERADED.name, APART.name] {
                let there: BTreeSet<Vec<u8>> = filter.keys(set)?.into_iter().collect();
                let stale: Vec<Element> =
                    gone.iter().map(|name| element(name)).filter(|e| there.contains(&e.key)).collect();
                batch.remove(INET, TABLE, set, &stale);
            }
            let there: BTreeSet<Vec<u8>> = filter.keys(PAIRS.name)?.into_iter().collect();
            let stale: Vec<Element> = gone.iter().map(|name| pair(name)).filter(|e| there.contains(&e.key)).collect();
            batch.remove(INET, TABLE, PAIRS.name, &stale);
            for map in PORT_SETS {
                let stale: Vec<Element> = filter
                    .elements(map.name)?
                    .into_iter()
                    .filter(|element| {
                        target(if element.data.is_empty() { &element.key } else { &element.data })
                            .is_some_and(|ip| subnets.iter().any(|s| super::pool::contains(*s, ip)))
                    })
                    .collect();
                batch.remove(INET, TABLE, map.name, &stale);
            }
            Ok(())
        })
    }

    /// Returns the bridges that our table knows and how many ports it leads into containers; `None` without a table.
    pub(crate) fn census(&mut self) -> Result<Option<(Vec<String>, usize)>, FilterError> {
        if !self.has_table()? {
            return Ok(None);
        }
        let bridges = self.keys(BRIDGES.name)?.iter().map(|key| text(key)).collect();
        let mut ports = 0;
        for map in PORT_SETS.iter().filter(|set| set.data.is_some()) {
            ports += self.elements(map.name)?.len();
        }
        Ok(Some((bridges, ports)))
    }

    /// Returns how many rules of ours are in tables of others.
    pub(crate) fn foreign_rules(&mut self) -> Result<usize, FilterError> {
        foreign::count(&mut self.socket)
    }

    fn replace(&mut self, batch: &mut Batch, mappings: &[Mapping]) -> Result<(), FilterError> {
        for map in PORT_SETS {
            let mut wanted = elements_of(map.name, mappings);
            if wanted.is_empty() {
                continue;
            }
            let there = self.elements(map.name)?;
            let stale: Vec<Element> = there
                .iter()
                .filter(|old| wanted.iter().any(|new| new.key == old.key && new.data != old.data))
                .map(|old| Element { key: old.key.clone(), data: old.data.clone() })
                .collect();
            wanted.retain(|element| !there.contains(element));
            batch.remove(INET, TABLE, map.name, &stale);
            batch.add(INET, TABLE, map.name, &wanted);
        }
        Ok(())
    }

    /// Runs `build` and commits what it built, again if somebody else committed in between.
    fn retry(
        &mut self,
        what: &'static str,
        mut build: impl FnMut(&mut Self, &mut Batch) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new(Some(self.generation()?));
            match build(self, &mut batch) {
                // The kernel interrupted a dump because the rules changed under it.
                Err(FilterError::Read { source, .. }) if source.errno == Errno::EINTR => continue,
                other => other?,
            }
            match batch.commit(&mut self.socket) {
                Err(refusal) if refusal.errno == Errno::ERESTART => {}
                Err(source) => return Err(FilterError::Write { what, source }),
                Ok(()) => return Ok(()),
            }
        }
        Err(FilterError::Busy)
    }

    fn generation(&mut self) -> Result<u32, FilterError> {
        let request = batch::request(GET_GENERATION, batch::ANY, &Attributes::default());
        let replies = self.socket.get(&request).map_err(|source| FilterError::Read { what: "generation", source })?;
        let generation = replies.iter().flat_map(|reply| attributes(reply.payload.get(4..).unwrap_or_default()));
        let generation = generation.filter(|(kind, value)| *kind == 1 && value.len() == 4);
        Ok(generation.map(|(_, v)| u32::from_be_bytes([v[0], v[1], v[2], v[3]])).next().unwrap_or_default())
    }

    fn has_table(&mut self) -> Result<bool, FilterError> {
        const GET_TABLE: u16 = 1;
        let request = batch::request(GET_TABLE, INET, &Attributes::default().text(1, TABLE));
        match self.socket.get(&request) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(false),
            Err(source) => Err(FilterError::Read { what: "table", source }),
        }
    }

    /// Returns the keys of a set; none if there is no such set.
    fn keys(&mut self, set: &str) -> Result<Vec<Vec<u8>>, FilterError> {
        Ok(self.elements(set)?.into_iter().map(|element| element.key).collect())
    }

    fn elements(&mut self, set: &str) -> Result<Vec<Element>, FilterError> {
        let request = batch::request(GET_ELEMENT, INET, &Attributes::default().text(1, TABLE).text(2, set));
        let replies = match self.socket.dump(&request) {
            Ok(replies) => replies,
            Err(refusal) if refusal.errno == Errno::ENOENT => return Ok(Vec::new()),
            Err(source) => return Err(FilterError::Read { what: "sets", source }),
        };
        let value = |bytes: &[u8]| attributes(bytes).find(|(kind, _)| *kind == 1).map(|(_, v)| v.to_vec());
        let mut elements = Vec::new();
        for reply in &replies {
            for (_, list) in attributes(reply.payload.get(4..).unwrap_or_default()).filter(|(kind, _)| *kind == 3) {
                for (_, one) in attributes(list) {
                    let mut element = Element::default();
                    for (kind, bytes) in attributes(one) {
                        match kind {
                            1 => element.key = value(bytes).unwrap_or_default(),
                            2 => element.data = value(bytes).unwrap_or_default(),
                            _ => {}
                        }
                    }
                    elements.push(element);
                }
            }
        }
        Ok(elements)
    }
}

fn elements_of(map: &str, mappings: &[Mapping]) -> Vec<Element> {
    let all = mappings.iter().flat_map(Mapping::elements).filter(|(name, _)| *name == map);
    let mut elements: Vec<Element> = all.map(|(_, element)| element).collect();
    // A port that is published at several addresses is one of the container's own only once.
    elements.sort();
    elements.dedup();
    elements
}

/// The container's address in a map's data, or in the key of a set of own ports.
fn target(data: &[u8]) -> Option<IpAddr> {
    match data.len() {
        8 | 12 => <[u8; 4]>::try_from(&data[..4]).ok().map(IpAddr::from),
        20 | 24 => <[u8; 16]>::try_from(&data[..16]).ok().map(IpAddr::from),
        _ => None,
    }
}

fn text(key: &[u8]) -> String {
    let end = key.iter().position(|b| *b == 0).unwrap_or(key.len());
    String::from_utf8_lossy(&key[..end]).into_owned()
}

/// Makes queries to 127.0.0.11:53 in the calling thread's network namespace arrive at `port` of that address, and the
/// answers come from port 53.
///
/// The two directions are rewritten packet by packet, without connection tracking: loopback carries both, so the rule
/// for answers sees exactly the packets that the rule for queries caused, and a container's own traffic costs nothing.
/// Port 53 itself stays free for a name server that a container runs on every address.
pub(crate) fn redirect_dns(address: std::net::Ipv4Addr, port: u16) -> Result<(), FilterError> {
    let mut socket = Socket::filter().map_err(FilterError::Open)?;
    let mut batch = Batch::new(None);
    let (table, chain) = (TABLE, "dns");
    batch.table(IPV4, table);
    let hook = Hook { kind: "filter", number: OUTPUT, priority: -300 };
    batch.chain(IPV4, table, chain, Some(hook));
    // The namespace of a container that runs may have been led to sockets that nobody kept.
    batch.flush(IPV4, table, chain);
    let dns = 53_u16.to_be_bytes();
    let port = port.to_be_bytes();
    // Offsets: source and destination address 12 and 16 in the IP header, ports 0 and 2 and checksum (6 in UDP, 16 in
    // TCP) in the transport header.
    for (protocol, checksum) in [(17_u8, 6), (6, 16)] {
        for (address_at, port_at, from, to) in [(16, 2, dns, port), (12, 0, port, dns)] {
            let rule = [
                payload(Base::Network, address_at, 4, R0),
                equal(R0, &address.octets()),
                meta(expression::Meta::L4Proto, R0),
                equal(R0, &[protocol]),
                payload(Base::Transport, port_at, 2, R0),
                equal(R0, &from),
                immediate(R0, &to),
                rewrite(Base::Transport, port_at, 2, R0, checksum),
            ];
            batch.rule(IPV4, table, chain, &rule);
        }
    }
    batch.commit(&mut socket).map_err(|source| FilterError::Write { what: "redirect name queries", source })
}

/// The families whose tables may hold a chain that drops our packets.
const FAMILIES: [Family; 3] = [IPV4, batch::IPV6, INET];

/// How links of ours begin, as a rule of another table matches it.
fn prefix() -> &'static [u8] {
    BRIDGE_PREFIX.as_bytes()
}
