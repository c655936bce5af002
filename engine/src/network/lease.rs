//! Who is on a network: the registry of its endpoints, and the choice of their addresses.
//!
//! It is a file in the run-time directory, so that supervisors of several projects share a network: each gives
//! addresses under one lock, and answers for the names of all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::config::Subnet;
use super::pool;
use crate::container::config::Endpoint;
use crate::container::state::BoundPort;
use crate::id::Id;

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The container's name.
    pub name: String,
    pub project: String,
    /// Every name that resolves to it on this network, as they were given.
    pub names: Vec<String>,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac_address: [u8; 6],
    pub interface: String,
    /// The host's end of the container's link, for a bridge. While the container lives, it is there.
    #[serde(default)]
    pub host_end: Option<String>,
    /// Whether the container runs. The addresses of one that does not are kept for it as long as others are free.
    pub active: bool,
    /// Whether its names resolve: `false` keeps a container out of service discovery while it runs.
    pub visible: bool,
    /// Ports published through this endpoint.
    #[serde(default)]
    pub ports: Vec<BoundPort>,
}

/// All endpoints of a network, by container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases(pub BTreeMap<Id, Lease>);

/// Why an endpoint cannot have the addresses it wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    #[error("address {address} is not in a subnet of network {network} ({subnets})")]
    OutsideSubnet { address: IpAddr, network: String, subnets: String },
    #[error("address {address} of network {network} is taken by {holder}")]
    Taken { address: IpAddr, network: String, holder: String },
    #[error("network {network} has no free {family} address left ({count} in use)")]
    Exhausted { network: String, family: &'static str, count: usize },
    #[error("network {network} has no IPv6 subnet for address {address}")]
    NoIpv6 { network: String, address: Ipv6Addr },
}

impl Lease {
    /// Returns whose it is, for people.
    pub fn holder(&self) -> String {
        if self.project.is_empty() {
            format!("container {}", self.name)
        } else {
            format!("container {} of project {}", self.name, self.project)
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.ipv4 == Some(v4),
            IpAddr::V6(v6) => self.ipv6 == Some(v6),
        }
    }
}

impl Leases {
    /// Returns the endpoints of containers that run.
    pub fn active(&self) -> impl Iterator<Item = (&Id, &Lease)> {
        self.0.iter().filter(|(_, lease)| lease.active)
    }

    /// Chooses the addresses of `container` on a network: those the endpoint asks for, else those it had before, else
    /// the lowest that nobody has ever had, else the lowest whose owner does not run.
    pub fn choose(
        &self,
        network: &str,
        subnets: &[Subnet],
        container: &Id,
        endpoint: &Endpoint,
    ) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), LeaseError> {
        let v4 = self.choose_family(network, subnets, container, endpoint.ipv4_address.map(IpAddr::V4), true)?;
        let wanted6 = endpoint.ipv6_address;
        let v6 = match (wanted6, subnets.iter().any(|s| s.subnet.0.is_ipv6())) {
            (Some(address), false) => return Err(LeaseError::NoIpv6 { network: network.to_owned(), address }),
            _ => self.choose_family(network, subnets, container, wanted6.map(IpAddr::V6), false)?,
        };
        let v4 = v4.and_then(|a| if let IpAddr::V4(v4) = a { Some(v4) } else { None });
        let v6 = v6.and_then(|a| if let IpAddr::V6(v6) = a { Some(v6) } else { None });
        Ok((v4, v6))
    }

    fn choose_family(
        &self,
        network: &str,
        subnets: &[Subnet],
        container: &Id,
        wanted: Option<IpAddr>,
        v4: bool,
    ) -> Result<Option<IpAddr>, LeaseError> {
        let subnets: Vec<&Subnet> = subnets.iter().filter(|s| s.subnet.0.is_ipv4() == v4).collect();
        let reserved = |address: IpAddr| {
            subnets.iter().find_map(|s| {
                if s.gateway == Some(address) {
                    return Some("the gateway".to_owned());
                }
                s.aux_addresses
                    .iter()
                    .find(|(_, a)| **a == address)
                    .map(|(name, _)| format!("auxiliary address {name}"))
            })
        };
        let others = || self.0.iter().filter(|(id, _)| *id != container).map(|(_, lease)| lease);
        if let Some(address) = wanted {
            if !subnets.iter().any(|s| pool::contains(s.subnet, address)) {
                let subnets = subnets.iter().map(|s| format!("{}/{}", s.subnet.0, s.subnet.1)).collect::<Vec<_>>();
                let subnets = if subnets.is_empty() { "it has none of that family".into() } else { subnets.join(", ") };
                return Err(LeaseError::OutsideSubnet { address, network: network.to_owned(), subnets });
            }
            let holder = reserved(address).or_else(|| others().find(|l| l.active && l.has(address)).map(Lease::holder));
            return match holder {
                Some(holder) => Err(LeaseError::Taken { address, network: network.to_owned(), holder }),
                None => Ok(Some(address)),
            };
        }
        if subnets.is_empty() {
            return Ok(None);
        }
        let address_of = |lease: &Lease| if v4 { lease.ipv4.map(IpAddr::V4) } else { lease.ipv6.map(IpAddr::V6) };
        let running: BTreeSet<IpAddr> = others().filter(|l| l.active).filter_map(address_of).collect();
        let resting: BTreeSet<IpAddr> = others().filter(|l| !l.active).filter_map(address_of).collect();
        let in_range =
            |address: IpAddr| subnets.iter().any(|s| pool::contains(s.ip_range.unwrap_or(s.subnet), address));
        let before = self.0.get(container).and_then(address_of);
        if let Some(address) = before
            && in_range(address)
            && !running.contains(&address)
            && reserved(address).is_none()
        {
            return Ok(Some(address));
        }
        let candidates = || subnets.iter().flat_map(|s| pool::hosts(s.subnet, s.ip_range.unwrap_or(s.subnet)));
        // An IPv6 subnet has more addresses than can be tried; among this many one must be free.
        let limit = running.len() + resting.len() + 4096;
        candidates()
            .take(limit)
            .find(|a| !running.contains(a) && !resting.contains(a) && reserved(*a).is_none())
            .or_else(|| candidates().take(limit).find(|a| !running.contains(a) && reserved(*a).is_none()))
            .map(Some)
            .ok_or_else(|| LeaseError::Exhausted {
                network: network.to_owned(),
                family: if v4 { "IPv4" } else { "IPv6" },
                count: running.len(),
            })
    }
}

/// Returns the hardware address that belongs to an address: who gets the address after another needs no one to forget
/// what they learned of its predecessor.
pub fn mac_for(ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> [u8; 6] {
    let tail: [u8; 4] = match (ipv4, ipv6) {
        (Some(v4), _) => v4.octets(),
        (None, Some(v6)) => {
            let o = v6.octets();
            [o[12], o[13], o[14], o[15]]
        }
        (None, None) => {
            let mut random = [0; 4];
            crate::sys::random(&mut random);
            random
        }
    };
    [0x02, 0x42, tail[0], tail[1], tail[2], tail[3]]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn subnet(text: &str, gateway: &str, range: Option<(&str, u8)>) -> Subnet {
        let (address, prefix) = text.split_once('/').unwrap();
        Subnet {
            subnet: (address.parse().unwrap(), prefix.parse().unwrap()),
            ip_range: range.map(|(a, p)| (a.parse().unwrap(), p)),
            gateway: Some(gateway.parse().unwrap()),
            aux_addresses: BTreeMap::from([("router".to_owned(), "10.9.0.3".parse().unwrap())]),
        }
    }

    /// Returns the place of a container that has no other names but these besides its own.
    pub(in crate::network) fn called(name: &str, aliases: &[&str], ipv4: &str, active: bool) -> Lease {
        Lease {
            name: name.into(),
            project: "shop".into(),
            names: std::iter::once(&name).chain(aliases).map(|name| (*name).to_owned()).collect(),
            ipv4: Some(ipv4.parse().unwrap()),
            ipv6: None,
            mac_address: [0; 6],
            interface: "eth0".into(),
            host_end: None,
            active,
            visible: true,
            ports: Vec::new(),
        }
    }

    fn lease(name: &str, ipv4: &str, active: bool) -> Lease {
        called(name, &[], ipv4, active)
    }

    pub(in crate::network) fn id(digit: char) -> Id {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn asks(v4: Option<&str>) -> Endpoint {
        Endpoint { network: "n".into(), ipv4_address: v4.map(|a| a.parse().unwrap()), ..Endpoint::default() }
    }

    #[test]
    fn the_lowest_address_that_nobody_ever_had() {
        let subnets = [subnet("10.9.0.0/29", "10.9.0.1", None)];
        let mut leases = Leases::default();
        let choose = |leases: &Leases, d| leases.choose("n", &subnets, &id(d), &asks(None)).map(|c| c.0.unwrap());
        assert_eq!(choose(&leases, 'a').unwrap().to_string(), "10.9.0.2");
        leases.0.insert(id('a'), lease("a", "10.9.0.2", false));
        // .3 is an auxiliary address, .2 rests.
        assert_eq!(choose(&leases, 'b').unwrap().to_string(), "10.9.0.4");
        // A container that comes back gets what it had.
        assert_eq!(choose(&leases, 'a').unwrap().to_string(), "10.9.0.2");
        for (digit, address) in [('b', "10.9.0.4"), ('c', "10.9.0.5"), ('d', "10.9.0.6")] {
            leases.0.insert(id(digit), lease("x", address, true));
        }
        assert_eq!(choose(&leases, 'e').unwrap().to_string(), "10.9.0.2");
        leases.0.insert(id('e'), lease("e", "10.9.0.2", true));
        let full = choose(&leases, 'f').unwrap_err();
        assert_eq!(full.to_string(), "network n has no free IPv4 address left (4 in use)");
        assert!(choose(&leases, 'a').is_err());
    }

    #[test]
    fn an_address_that_was_asked_for() {
        let subnets = [subnet("10.9.0.0/24", "10.9.0.1", Some(("10.9.0.128", 25)))];
        let leases = Leases(BTreeMap::from([(id('a'), lease("shop-db-1", "10.9.0.9", true))]));
        let choose = |v4| leases.choose("n", &subnets, &id('b'), &asks(v4)).map(|c| c.0.unwrap().to_string());
        assert_eq!(choose(None).unwrap(), "10.9.0.128");
        assert_eq!(choose(Some("10.9.0.10")).unwrap(), "10.9.0.10");
        assert_eq!(
            choose(Some("10.9.0.9")).unwrap_err().to_string(),
            "address 10.9.0.9 of network n is taken by container shop-db-1 of project shop"
        );
        assert_eq!(
            choose(Some("10.8.0.9")).unwrap_err().to_string(),
            "address 10.8.0.9 is not in a subnet of network n (10.9.0.0/24)"
        );
        assert!(choose(Some("10.9.0.1")).unwrap_err().to_string().ends_with("is taken by the gateway"));
        assert!(choose(Some("10.9.0.3")).unwrap_err().to_string().ends_with("auxiliary address router"));
    }
}
