//! What the kernel lists of links, routes and addresses (`rtnetlink(7)`).
//!
//! Only what is needed is read of a message, so that no kernel can add something that makes a link or a route unreadable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::Emitable;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;

use super::netlink::{Refusal, Socket, attributes};
use super::pool::{self, Cidr};
use super::sandbox::request;

/// Length of `struct ifinfomsg`, `struct rtmsg` and `struct ifaddrmsg`, which the attributes follow.
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const ADDRESS_HEADER: usize = 8;

/// A link of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// What made it: `bridge`, `veth`. Nothing for the loopback device and for hardware.
    pub(crate) kind: String,
}

impl Link {
    /// Reads the payload of a message `RTM_NEWLINK`.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(LINK_HEADER)?;
        let mut link = Self { index: u32_at(header, 4)?, name: String::new(), kind: String::new() };
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_LINKINFO => {
                    let mut info = attributes(value);
                    let kind = info.find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                    link.kind = kind.map(|(_, kind)| text(kind)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.kind == "bridge"
    }
}

/// An address range that the host uses, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) range: Cidr,
    /// Index of the link; 0 where the kernel names none.
    pub(crate) link: u32,
    /// Whether it is an address of the link, and not merely a route.
    pub(crate) address: bool,
}

/// Lists every link.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, Refusal> {
    list(socket, libc::RTM_GETLINK, &LinkMessage::default(), Link::parse)
}

/// Lists the ranges that routes of any table lead to, but for default routes.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<Used>, Refusal> {
    list(socket, libc::RTM_GETROUTE, &RouteMessage::default(), route)
}

/// Lists the ranges that links have an address in.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<Used>, Refusal> {
    list(socket, libc::RTM_GETADDR, &AddressMessage::default(), address)
}

fn list<T>(
    socket: &mut Socket,
    kind: u16,
    all: &impl Emitable,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Refusal> {
    let replies = socket.dump(&request(kind, 0, all))?;
    Ok(replies.iter().filter_map(|reply| parse(&reply.payload)).collect())
}

fn route(payload: &[u8]) -> Option<Used> {
    let (header, rest) = payload.split_at_checked(ROUTE_HEADER)?;
    let (prefix, kind) = (header[1], header[7]);
    let leads_to_somebody = matches!(
        kind,
        libc::RTN_UNICAST | libc::RTN_LOCAL | libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT
    );
    if !leads_to_somebody || prefix == 0 {
        return None;
    }
    let (mut destination, mut link) = (None, 0);
    for (kind, value) in attributes(rest) {
        match kind {
            libc::RTA_DST => destination = ip(header[0], value),
            libc::RTA_OIF => link = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Used { range: (destination?, prefix), link, address: false })
}

fn address(payload: &[u8]) -> Option<Used> {
    let (header, rest) = payload.split_at_checked(ADDRESS_HEADER)?;
    let address =
        attributes(rest).find(|(kind, _)| *kind == libc::IFA_ADDRESS).and_then(|(_, value)| ip(header[0], value))?;
    Some(Used { range: pool::network((address, header[1])), link: u32_at(header, 4)?, address: true })
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(bytes).ok().map(|v4| Ipv4Addr::from(v4).into()),
        libc::AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into()),
        // A label of MPLS looks like an address.
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `struct rtmsg` with the attributes of a route by link 7.
    fn route_message(family: i32, prefix: u8, kind: u8, destination: &[u8]) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(family).unwrap(), prefix, 0, 0, 254, 0, 0, kind, 0, 0, 0, 0];
        bytes.extend(attribute(libc::RTA_DST, destination));
        bytes.extend(attribute(libc::RTA_OIF, &7_u32.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_link_has_its_name_and_what_made_it() {
        let mut message = vec![0; LINK_HEADER];
        message[4] = 9;
        // Something that a later kernel may add.
        message.extend(attribute(999, b"?"));
        message.extend(attribute(libc::IFLA_IFNAME, b"rc0\0"));
        message.extend(attribute(libc::IFLA_LINKINFO, &attribute(libc::IFLA_INFO_KIND, b"bridge\0")));
        let link = Link::parse(&message).unwrap();
        assert!(link.is_bridge());
        assert_eq!((link.index, link.name.as_str()), (9, "rc0"));
        assert_eq!(Link::parse(&message[..8]), None);
    }

    #[test]
    fn only_routes_that_lead_to_addresses_count() {
        let used = route(&route_message(libc::AF_INET, 24, libc::RTN_UNICAST, &[10, 1, 2, 0])).unwrap();
        assert_eq!(used, Used { range: ("10.1.2.0".parse().unwrap(), 24), link: 7, address: false });
        let v6 = route(&route_message(libc::AF_INET6, 64, libc::RTN_UNREACHABLE, &[0xfd; 16])).unwrap();
        assert!(v6.range.0.is_ipv6());
        assert_eq!(route(&route_message(libc::AF_INET, 0, libc::RTN_UNICAST, &[0; 4])), None);
        assert_eq!(route(&route_message(libc::AF_INET, 32, libc::RTN_BROADCAST, &[10, 1, 2, 255])), None);
        assert_eq!(route(&route_message(libc::AF_MPLS, 20, libc::RTN_UNICAST, &[0, 6, 65, 0])), None);
        assert_eq!(route(&[2, 24]), None);
    }
}
