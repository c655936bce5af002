//! Who is called what: the names of each network, and what a container can see of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::container::state::EndpointState;
use crate::id::Id;
use crate::network::config::Network;
use crate::network::lease::Leases;
use crate::network::pool::{self, Cidr};

/// The addresses of a name. Each answer begins with another one.
#[derive(Debug, Default)]
struct Addresses {
    ipv4: Vec<Ipv4Addr>,
    ipv6: Vec<Ipv6Addr>,
    turn: AtomicUsize,
}

impl Addresses {
    /// Returns those of one kind, beginning with another one each time.
    fn of(&self, kind: Kind) -> Vec<IpAddr> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match kind {
            Kind::V4 => rotated(&self.ipv4, turn).map(IpAddr::V4).collect(),
            Kind::V6 => rotated(&self.ipv6, turn).map(IpAddr::V6).collect(),
            _ => Vec::new(),
        }
    }
}

/// The names of one network at one moment. It never changes: a new one takes its place.
#[derive(Debug, Default)]
pub(crate) struct NetworkNames {
    network: String,
    internal: bool,
    subnets: Vec<Cidr>,
    gateways: Vec<IpAddr>,
    names: HashMap<String, Addresses>,
    /// Names of containers that are not in service: nobody outside is to be asked for them.
    absent: HashSet<String>,
    pointers: HashMap<IpAddr, String>,
}

impl NetworkNames {
    /// Collects the names of the containers that are in service.
    pub(crate) fn new(network: &Network, leases: &Leases) -> Self {
        let mut table = Self {
            network: network.config.name.to_ascii_lowercase(),
            internal: network.config.internal,
            subnets: network.subnets.iter().map(|s| s.subnet).collect(),
            gateways: network.subnets.iter().filter_map(|s| s.gateway).collect(),
            ..Self::default()
        };
        // In the order of addresses, so that what the first answer is does not depend on random ids.
        let mut members: Vec<_> = leases.0.values().collect();
        members.sort_by_key(|lease| (lease.ipv4, lease.ipv6));
        for lease in members {
            let names: BTreeSet<String> = lease.names.iter().map(|name| name.to_ascii_lowercase()).collect();
            if !(lease.active && lease.visible) {
                table.absent.extend(names);
                continue;
            }
            for name in names {
                let addresses = table.names.entry(name).or_default();
                addresses.ipv4.extend(lease.ipv4);
                addresses.ipv6.extend(lease.ipv6);
            }
            let full = format!("{}.{}", lease.name, network.config.name);
            for address in lease.ipv4.map(IpAddr::V4).into_iter().chain(lease.ipv6.map(IpAddr::V6)) {
                table.pointers.insert(address, full.clone());
            }
        }
        table
    }
}

/// The current names of one network.
#[derive(Debug, Default)]
struct Cell(RwLock<Arc<NetworkNames>>);

impl Cell {
    fn get(&self) -> Arc<NetworkNames> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The names of every network that a container of ours is on.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    cells: Mutex<BTreeMap<Id, Arc<Cell>>>,
    /// Names of the project's services, which nobody outside is asked for even if none of their containers runs.
    reserved: RwLock<Arc<HashSet<String>>>,
}

impl Tables {
    fn cell(&self, id: &Id) -> Arc<Cell> {
        Arc::clone(self.cells.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default())
    }

    /// Replaces the names of a network.
    pub(crate) fn set(&self, id: &Id, names: NetworkNames) {
        *self.cell(id).0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    pub(crate) fn remove(&self, id: &Id) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Adds to the names that are never asked for outside.
    pub(crate) fn reserve(&self, names: impl IntoIterator<Item = String>) {
        let mut reserved = self.reserved.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut reserved).extend(names.into_iter().map(|name| name.to_ascii_lowercase()));
    }
}

/// What one container can see: the networks it is on, in its order.
#[derive(Debug)]
pub(crate) struct View {
    tables: Arc<Tables>,
    networks: RwLock<Arc<Vec<Seen>>>,
}

/// A network that a container is on.
#[derive(Debug)]
struct Seen {
    cell: Arc<Cell>,
    /// Names that only this container has for others, in lower case.
    links: HashMap<String, Vec<String>>,
}

impl Seen {
    /// Returns who is called `name` here; `None` if nobody ever was.
    fn find<'a>(&self, network: &'a NetworkNames, name: &str) -> Option<Vec<&'a Addresses>> {
        let found: Vec<&Addresses> = match self.links.get(name) {
            Some(names) => names.iter().filter_map(|name| network.names.get(name)).collect(),
            None => network.names.get(name).into_iter().collect(),
        };
        let known = !found.is_empty() || self.links.contains_key(name) || network.absent.contains(name);
        known.then_some(found)
    }
}

/// What the tables say to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Addresses(Vec<IpAddr>),
    Name(String),
    /// The name exists and has nothing of the kind asked for.
    Nothing,
    /// It is ours and does not exist.
    Unknown,
    /// It is none of ours.
    Foreign,
}

/// What is asked of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    V4,
    V6,
    Pointer,
    Other,
}

impl View {
    pub(crate) fn new(tables: Arc<Tables>, endpoints: &[EndpointState]) -> Self {
        let view = Self { tables, networks: RwLock::default() };
        view.set(endpoints);
        view
    }

    /// Replaces the networks that the container is on.
    pub(crate) fn set(&self, endpoints: &[EndpointState]) {
        let lower = |names: &Vec<String>| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let seen = endpoints.iter().map(|endpoint| Seen {
            cell: self.tables.cell(&endpoint.network_id),
            links: endpoint.links.iter().map(|(alias, names)| (alias.to_ascii_lowercase(), lower(names))).collect(),
        });
        *self.networks.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen.collect());
    }

    fn seen(&self) -> Arc<Vec<Seen>> {
        Arc::clone(&self.networks.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn networks(&self) -> impl Iterator<Item = Arc<NetworkNames>> {
        let seen = self.seen();
        (0..seen.len()).map(move |n| seen[n].cell.get())
    }

    /// Returns whether nothing outside may be asked (CVE-2024-29018): every network is internal.
    pub(crate) fn confined(&self) -> bool {
        self.networks().all(|network| network.internal)
    }

    /// Answers a question about a name in lower case without the final dot.
    pub(crate) fn answer(&self, name: &str, kind: Kind) -> Answer {
        if let Some(address) = pointed_at(name) {
            return self.pointer(address, kind);
        }
        let mut known = false;
        let mut gone = false;
        for seen in self.seen().iter() {
            let network = seen.cell.get();
            let short = name.strip_suffix(network.network.as_str()).and_then(|name| name.strip_suffix('.'));
            let found = seen.find(&network, name).or_else(|| seen.find(&network, short?));
            let Some(found) = found else { continue };
            gone |= found.is_empty();
            known |= !found.is_empty();
            let list: Vec<IpAddr> = found.iter().flat_map(|addresses| addresses.of(kind)).collect();
            if !list.is_empty() {
                return Answer::Addresses(list);
            }
        }
        if known {
            return Answer::Nothing;
        }
        if gone {
            return Answer::Unknown;
        }
        match name {
            "localhost" => return addresses([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], kind),
            "host.docker.internal" | "gateway.docker.internal" if !self.confined() => {
                let outward = self.networks().find(|network| !network.internal);
                return addresses(outward.map(|n| n.gateways.clone()).unwrap_or_default(), kind);
            }
            _ => {}
        }
        if self.tables.reserved.read().unwrap_or_else(PoisonError::into_inner).contains(name) {
            return Answer::Unknown;
        }
        Answer::Foreign
    }

    /// Returns the containers that answer to a name, each by a name of its own, with their addresses.
    pub(crate) fn members(&self, name: &str) -> Vec<(String, IpAddr)> {
        let addresses = [Kind::V4, Kind::V6].into_iter().flat_map(|kind| match self.answer(name, kind) {
            Answer::Addresses(addresses) => addresses,
            _ => Vec::new(),
        });
        let named = addresses.filter_map(|address| match self.pointer(address, Kind::Pointer) {
            Answer::Name(name) => Some((name, address)),
            _ => None,
        });
        named.collect()
    }

    fn pointer(&self, address: IpAddr, kind: Kind) -> Answer {
        let mut ours = false;
        for network in self.networks() {
            if let Some(name) = network.pointers.get(&address) {
                return if kind == Kind::Pointer { Answer::Name(name.clone()) } else { Answer::Nothing };
            }
            ours |= network.subnets.iter().any(|subnet| pool::contains(*subnet, address));
        }
        if ours { Answer::Unknown } else { Answer::Foreign }
    }
}

fn addresses(all: impl IntoIterator<Item = IpAddr>, kind: Kind) -> Answer {
    let wanted = |address: &IpAddr| match kind {
        Kind::V4 => address.is_ipv4(),
        Kind::V6 => address.is_ipv6(),
        _ => false,
    };
    let list: Vec<IpAddr> = all.into_iter().filter(wanted).collect();
    if list.is_empty() { Answer::Nothing } else { Answer::Addresses(list) }
}

fn rotated<T: Copy>(list: &[T], turn: usize) -> impl Iterator<Item = T> {
    let start = if list.is_empty() { 0 } else { turn % list.len() };
    list[start..].iter().chain(&list[..start]).copied()
}

/// Returns the address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn pointed_at(name: &str) -> Option<IpAddr> {
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = reversed.split('.').collect();
        parts.reverse();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let reversed = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<&str> = reversed.split('.').collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let text: String = digits.into_iter().rev().collect();
    u128::from_str_radix(&text, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::config::{NetworkConfig, Subnet};
    use crate::network::lease::tests::{called as lease, id};

    fn network(digit: char, name: &str, internal: bool) -> Network {
        let subnet = Subnet {
            subnet: ("10.1.0.0".parse().unwrap(), 24),
            ip_range: None,
            gateway: Some("10.1.0.1".parse().unwrap()),
            aux_addresses: BTreeMap::new(),
        };
        Network {
            id: id(digit),
            created: jiff::Timestamp::UNIX_EPOCH,
            config: NetworkConfig { name: name.into(), internal, ..NetworkConfig::default() },
            subnets: vec![subnet],
        }
    }

    /// The place of a container on this network.
    fn on(digit: char) -> EndpointState {
        EndpointState {
            network: String::new(),
            network_id: id(digit),
            interface: "eth0".into(),
            mac_address: [0; 6],
            ipv4: None,
            ipv4_gateway: None,
            ipv6: None,
            ipv6_gateway: None,
            names: Vec::new(),
            links: BTreeMap::new(),
            default_route: false,
        }
    }

    fn v4(answer: &Answer) -> Vec<String> {
        match answer {
            Answer::Addresses(list) => list.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_of_a_network() {
        let tables = Arc::new(Tables::default());
        let leases = Leases(BTreeMap::from([
            (id('1'), lease("shop-web-1", &["Web"], "10.1.0.2", true)),
            (id('2'), lease("shop-web-2", &["Web"], "10.1.0.3", true)),
            (id('3'), lease("shop-db-1", &["db"], "10.1.0.4", false)),
        ]));
        tables.set(&id('a'), NetworkNames::new(&network('a', "shop_default", false), &leases));
        tables.reserve(["Cache".to_owned()]);
        let view = View::new(Arc::clone(&tables), &[on('a')]);
        assert_eq!(v4(&view.answer("web", Kind::V4)), ["10.1.0.2", "10.1.0.3"]);
        assert_eq!(v4(&view.answer("web", Kind::V4)), ["10.1.0.3", "10.1.0.2"]);
        assert_eq!(v4(&view.answer("shop-web-2.shop_default", Kind::V4)), ["10.1.0.3"]);
        assert_eq!(view.answer("web", Kind::V6), Answer::Nothing);
        assert_eq!(view.answer("web", Kind::Other), Answer::Nothing);
        assert_eq!(view.answer("db", Kind::V4), Answer::Unknown);
        assert_eq!(view.answer("db.shop_default", Kind::V4), Answer::Unknown);
        assert_eq!(view.answer("cache", Kind::V4), Answer::Unknown);
        assert_eq!(view.answer("example.org", Kind::V4), Answer::Foreign);
        assert_eq!(v4(&view.answer("host.docker.internal", Kind::V4)), ["10.1.0.1"]);
        assert_eq!(view.answer("3.0.1.10.in-addr.arpa", Kind::Pointer), Answer::Name("shop-web-2.shop_default".into()));
        assert_eq!(view.answer("9.0.1.10.in-addr.arpa", Kind::Pointer), Answer::Unknown);
        assert_eq!(view.answer("8.8.8.8.in-addr.arpa", Kind::Pointer), Answer::Foreign);
    }

    #[test]
    fn a_container_sees_only_its_own_networks() {
        let tables = Arc::new(Tables::default());
        let leases = Leases(BTreeMap::from([(id('1'), lease("db", &[], "10.1.0.2", true))]));
        tables.set(&id('a'), NetworkNames::new(&network('a', "back", true), &leases));
        tables.set(&id('b'), NetworkNames::new(&network('b', "front", false), &Leases::default()));
        let front = View::new(Arc::clone(&tables), &[on('b')]);
        assert_eq!(front.answer("db", Kind::V4), Answer::Foreign);
        assert!(!front.confined());
        front.set(&[on('b'), on('a')]);
        assert_eq!(v4(&front.answer("db", Kind::V4)), ["10.1.0.2"]);
        let back = View::new(tables, &[on('a')]);
        assert!(back.confined());
        assert_eq!(back.answer("host.docker.internal", Kind::V4), Answer::Foreign);
    }

    #[test]
    fn a_link_is_a_name_for_one_container_only() {
        let tables = Arc::new(Tables::default());
        let leases = Leases(BTreeMap::from([
            (id('1'), lease("shop-db-1", &["db"], "10.1.0.2", true)),
            (id('2'), lease("shop-db-2", &["db"], "10.1.0.3", true)),
            (id('3'), lease("cache", &[], "10.1.0.4", false)),
        ]));
        tables.set(&id('a'), NetworkNames::new(&network('a', "net", false), &leases));
        let links = [("Database", vec!["DB"]), ("first", vec!["shop-db-1"]), ("memory", vec!["cache"])];
        let links = links.map(|(alias, names)| (alias.to_owned(), names.into_iter().map(str::to_owned).collect()));
        let linking = View::new(Arc::clone(&tables), &[EndpointState { links: links.into(), ..on('a') }]);
        assert_eq!(v4(&linking.answer("database", Kind::V4)).len(), 2);
        assert_eq!(v4(&linking.answer("first.net", Kind::V4)), ["10.1.0.2"]);
        assert_eq!(linking.answer("database", Kind::V6), Answer::Nothing);
        // What it stands for does not run, and is nobody else's business.
        assert_eq!(linking.answer("memory", Kind::V4), Answer::Unknown);
        let other = View::new(tables, &[on('a')]);
        assert_eq!(other.answer("database", Kind::V4), Answer::Foreign);
    }

    #[test]
    fn reverse_names() {
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(pointed_at(six), Some("fd00::1".parse().unwrap()));
        assert_eq!(pointed_at("1.in-addr.arpa"), None);
        assert_eq!(pointed_at("in-addr.arpa"), None);
    }
}
