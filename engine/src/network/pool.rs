//! Arithmetic of subnets, and the choice of one that nobody uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address range: first address and prefix length.
pub type Cidr = (IpAddr, u8);

/// A range that subnets are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub base: (Ipv4Addr, u8),
    /// Prefix length of the subnets.
    pub size: u8,
}

/// 1024 networks of 254 addresses in the part of 172.16.0.0/12 that Docker and the large clouds' defaults leave alone
/// longest, then 256 more in 10.0.0.0/8.
pub const DEFAULT_POOLS: [Pool; 2] = [
    Pool { base: (Ipv4Addr::new(172, 24, 0, 0), 14), size: 24 },
    Pool { base: (Ipv4Addr::new(10, 213, 0, 0), 16), size: 24 },
];

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

/// Returns the address with this value in the family of `like`.
fn address(like: IpAddr, value: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value & 0xffff_ffff).expect("32 bits"))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(value)),
    }
}

/// The bits that differ within a range: one less than it has addresses.
fn host_bits(width: u32, prefix: u8) -> u128 {
    1_u128.checked_shl(width.saturating_sub(u32::from(prefix))).map_or(u128::MAX, |size| size - 1)
}

/// Returns the range's first address: `subnet` with its host bits cleared.
pub fn network(subnet: Cidr) -> Cidr {
    let (value, width) = bits(subnet.0);
    (address(subnet.0, value & !host_bits(width, subnet.1)), subnet.1)
}

/// Returns whether `address` is in the range.
pub fn contains(subnet: Cidr, address: IpAddr) -> bool {
    subnet.0.is_ipv4() == address.is_ipv4() && network((address, subnet.1)).0 == network(subnet).0
}

/// Returns whether two ranges have an address in common.
pub fn overlap(a: Cidr, b: Cidr) -> bool {
    if a.1 <= b.1 { contains(a, b.0) } else { contains(b, a.0) }
}

/// Returns the `n`th address of the range, or `None` beyond its end.
pub fn nth(subnet: Cidr, n: u128) -> Option<IpAddr> {
    let (value, width) = bits(network(subnet).0);
    (n <= host_bits(width, subnet.1)).then(|| address(subnet.0, value + n))
}

/// Returns the addresses of `range` that a host of `subnet` may have: for IPv4 neither the first nor the last of the
/// subnet, for IPv6 not the first.
pub fn hosts(subnet: Cidr, range: Cidr) -> impl Iterator<Item = IpAddr> {
    let (first, width) = bits(network(subnet).0);
    let last = first + host_bits(width, subnet.1);
    let (start, _) = bits(network(range).0);
    let end = start + host_bits(width, range.1);
    let like = subnet.0;
    // A subnet of one or two addresses has nothing to leave out (RFC 3021).
    let tiny = host_bits(width, subnet.1) <= 1;
    (start..=end)
        .filter(move |value| tiny || (*value != first && (like.is_ipv6() || *value != last)))
        .map(move |value| address(like, value))
}

/// Returns a subnet of the pools that overlaps none of `taken`, beginning the search at a place that `name` decides,
/// so that a network that is made again gets the same one.
pub fn choose(pools: &[Pool], name: &str, taken: &[Cidr]) -> Option<Cidr> {
    // FNV-1a: the same on every machine and in every version.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    pools.iter().find_map(|pool| {
        let count = 1_u64 << u32::from(pool.size.saturating_sub(pool.base.1)).min(24);
        let base = network((IpAddr::V4(pool.base.0), pool.base.1)).0;
        (0..count).map(|n| seed.wrapping_add(n) % count).find_map(|n| {
            let (value, width) = bits(base);
            let subnet = (address(base, value + u128::from(n) * (host_bits(width, pool.size) + 1)), pool.size);
            taken.iter().all(|other| !overlap(*other, subnet)).then_some(subnet)
        })
    })
}

/// Returns a subnet of local IPv6 addresses with a random 40-bit prefix (RFC 4193).
pub fn random_ula() -> Cidr {
    let mut octets = [0_u8; 16];
    crate::sys::random(&mut octets[1..6]);
    octets[0] = 0xfd;
    (IpAddr::V6(Ipv6Addr::from(octets)), 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        let (address, prefix) = text.split_once('/').unwrap();
        (address.parse().unwrap(), prefix.parse().unwrap())
    }

    #[test]
    fn ranges() {
        assert_eq!(network(cidr("10.1.2.3/24")), cidr("10.1.2.0/24"));
        assert_eq!(network(cidr("0.0.0.0/0")), cidr("0.0.0.0/0"));
        assert!(contains(cidr("10.0.0.0/8"), "10.255.255.255".parse().unwrap()));
        assert!(!contains(cidr("10.0.0.0/8"), "11.0.0.0".parse().unwrap()));
        assert!(!contains(cidr("0.0.0.0/0"), "::1".parse().unwrap()));
        assert!(contains(cidr("::/0"), "::1".parse().unwrap()));
        assert!(overlap(cidr("10.0.0.0/8"), cidr("10.3.0.0/24")));
        assert!(overlap(cidr("10.3.0.0/24"), cidr("10.0.0.0/8")));
        assert!(!overlap(cidr("10.3.0.0/24"), cidr("10.3.1.0/24")));
        assert_eq!(nth(cidr("10.3.0.0/30"), 3), Some("10.3.0.3".parse().unwrap()));
        assert_eq!(nth(cidr("10.3.0.0/30"), 4), None);
    }

    #[test]
    fn hosts_leave_out_network_and_broadcast() {
        let all: Vec<_> = hosts(cidr("10.3.0.0/30"), cidr("10.3.0.0/30")).map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.3.0.1", "10.3.0.2"]);
        let part: Vec<_> = hosts(cidr("10.3.0.0/24"), cidr("10.3.0.252/30")).map(|a| a.to_string()).collect();
        assert_eq!(part, ["10.3.0.252", "10.3.0.253", "10.3.0.254"]);
        assert_eq!(hosts(cidr("fd00::/64"), cidr("fd00::/64")).next(), Some("fd00::1".parse().unwrap()));
        assert_eq!(hosts(cidr("10.3.0.4/31"), cidr("10.3.0.4/31")).count(), 2);
    }

    #[test]
    fn a_network_made_again_gets_the_same_subnet_and_never_a_taken_one() {
        let first = choose(&DEFAULT_POOLS, "shop_default", &[]).unwrap();
        assert_eq!(choose(&DEFAULT_POOLS, "shop_default", &[]), Some(first));
        let second = choose(&DEFAULT_POOLS, "shop_default", &[first]).unwrap();
        assert!(!overlap(first, second));
        // The whole first pool is behind a VPN.
        let third = choose(&DEFAULT_POOLS, "shop_default", &[cidr("172.16.0.0/12")]).unwrap();
        assert!(contains(cidr("10.213.0.0/16"), third.0));
        assert_eq!(choose(&DEFAULT_POOLS, "x", &[cidr("172.16.0.0/12"), cidr("10.0.0.0/8")]), None);
    }

    #[test]
    fn pools_hold_five_hundred_networks() {
        let mut taken = Vec::new();
        for n in 0..500 {
            let subnet = choose(&DEFAULT_POOLS, &format!("project{n}_default"), &taken).unwrap();
            taken.push(subnet);
        }
        assert_eq!(taken.len(), 500);
    }
}
