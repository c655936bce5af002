//! Connection tracking's table (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::FilterError;
use super::expression::Attributes;
use crate::network::netlink::{Refusal, Request, Socket, attributes};

/// The subsystem's number, in the upper byte of a message type.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// `CTA_TUPLE_ORIG` and `CTA_TUPLE_REPLY`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const UDP: u8 = 17;

fn request(kind: u16, family: u8, body: &Attributes) -> Request {
    let mut payload = vec![family, 0, 0, 0];
    payload.extend_from_slice(&body.0);
    Request { kind, flags: 0, payload }
}

/// Where a tuple comes from, if it is one of UDP.
fn source(tuple: &[u8]) -> Option<SocketAddr> {
    let (mut address, mut port, mut udp) = (None, None, false);
    for (part, value) in attributes(tuple) {
        for (kind, value) in attributes(value) {
            match (part, kind) {
                // CTA_TUPLE_IP: CTA_IP_V4_SRC, CTA_IP_V6_SRC.
                (1, 1) => address = <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
                (1, 3) => address = <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
                // CTA_TUPLE_PROTO: CTA_PROTO_NUM, CTA_PROTO_SRC_PORT.
                (2, 1) => udp = value == [UDP],
                (2, 2) => port = <[u8; 2]>::try_from(value).ok().map(u16::from_be_bytes),
                _ => {}
            }
        }
    }
    udp.then_some(())?;
    Some(SocketAddr::new(address?, port?))
}

/// Removes the UDP flows that these containers' addresses answer to.
pub(super) fn forget(socket: &mut Socket, containers: &[SocketAddr]) -> Result<(), FilterError> {
    let error = |what| move |source: Refusal| FilterError::Read { what, source };
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).expect("address families are small");
        if !containers.iter().any(|c| c.is_ipv4() == (i32::from(family) == libc::AF_INET)) {
            continue;
        }
        let flows = match socket.dump(&request(GET, family, &Attributes::default())) {
            // The table is of a module that nothing has loaded: no flow is tracked.
            Err(refusal) if matches!(refusal.errno, Errno::EINVAL | Errno::EOPNOTSUPP) => continue,
            other => other.map_err(error("tracked connections"))?,
        };
        for flow in flows {
            let tuples: Vec<(u16, &[u8])> = attributes(flow.payload.get(4..).unwrap_or_default()).collect();
            let tuple = |wanted: u16| tuples.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
            let (Some(original), Some(reply)) = (tuple(ORIGINAL), tuple(REPLY)) else { continue };
            if source(reply).is_some_and(|from| containers.contains(&from)) {
                let tuple = Attributes::default().nest(ORIGINAL, &Attributes(original.to_vec()));
                match socket.execute(&[request(DELETE, family, &tuple)]) {
                    // It ended by itself.
                    Err(refusal) if refusal.errno == Errno::ENOENT => {}
                    other => {
                        other.map_err(|source| FilterError::Write { what: "forget a connection", source })?;
                    }
                }
            }
        }
    }
    Ok(())
}
