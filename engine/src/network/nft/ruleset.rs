//! The one table of ours: what its sets, maps and rules are.
//!
//! Every network is an element of a few sets and every published port an element of a map, so the rules are the same
//! for one network and for five hundred, and each packet meets a handful of hash look-ups. The rules are written anew,
//! in one transaction with the removal of the old ones, whenever a network is made: whatever was there before, this is
//! what is there afterwards, while the elements of other projects stay.

use super::batch::{Batch, FORWARD, Family, Hook, INET, INPUT, OUTPUT, POSTROUTING, PREROUTING, SetKind};
use super::expression::{
    ACCEPT, Base, DROP, Expression, Meta, R0, R1, R2, R4, R5, STATE_ESTABLISHED_RELATED, STATE_NEW, STATUS_DNAT,
    absent, conntrack, contained, destination_type, dnat, equal, jump, mapped, mask, masquerade, meta, payload,
    unequal, verdict,
};

/// The table's name; its family is `inet`.
pub(super) const TABLE: &str = "rcompose";

// Type numbers as nft knows them, so that `nft list table inet rcompose` prints the elements.
const IPV4_ADDRESS: u32 = 7;
const IPV6_ADDRESS: u32 = 8;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
pub(super) const INTERFACE: u32 = 41;

/// Every bridge of ours.
pub(super) const BRIDGES: SetKind = SetKind { name: "bridges", key: (INTERFACE, 16), data: None };
/// Every bridge with itself: what is routed back to where it came from.
pub(super) const PAIRS: SetKind = SetKind { name: "pairs", key: (INTERFACE << 6 | INTERFACE, 32), data: None };
/// Bridges of networks whose containers may not speak to each other.
pub(super) const APART: SetKind = SetKind { name: "apart", key: (INTERFACE, 16), data: None };
/// Bridges of internal networks.
pub(super) const INTERNAL: SetKind = SetKind { name: "internal", key: (INTERFACE, 16), data: None };
/// Bridges whose containers speak to the world with the host's address.
pub(super) const MASQUERADED: SetKind = SetKind { name: "masqueraded", key: (INTERFACE, 16), data: None };
/// Ports published at one address: address, protocol, port to address, port.
pub(super) const AT4: SetKind = SetKind {
    name: "published-at4",
    key: (IPV4_ADDRESS << 12 | PROTOCOL << 6 | PORT, 12),
    data: Some((IPV4_ADDRESS << 6 | PORT, 8)),
};
/// Ports published at every IPv4 address of the host.
pub(super) const ANY4: SetKind =
    SetKind { name: "published4", key: (PROTOCOL << 6 | PORT, 8), data: Some((IPV4_ADDRESS << 6 | PORT, 8)) };
pub(super) const AT6: SetKind = SetKind {
    name: "published-at6",
    key: (IPV6_ADDRESS << 12 | PROTOCOL << 6 | PORT, 24),
    data: Some((IPV6_ADDRESS << 6 | PORT, 20)),
};
pub(super) const ANY6: SetKind =
    SetKind { name: "published6", key: (PROTOCOL << 6 | PORT, 8), data: Some((IPV6_ADDRESS << 6 | PORT, 20)) };

/// A container's own address with ports it publishes: what it must not be led back to by the bridge it came from.
pub(super) const SELF4: SetKind =
    SetKind { name: "self4", key: (IPV4_ADDRESS << 12 | PROTOCOL << 6 | PORT, 12), data: None };
pub(super) const SELF6: SetKind =
    SetKind { name: "self6", key: (IPV6_ADDRESS << 12 | PROTOCOL << 6 | PORT, 24), data: None };

/// What has an element for each published port.
pub(super) const PORT_SETS: [SetKind; 6] = [AT4, ANY4, AT6, ANY6, SELF4, SELF6];

const DNAT: &str = "dnat";

/// `RTN_LOCAL`: an address of the host itself.
const LOCAL: u32 = 2;

const CHAINS: [(&str, Option<Hook>); 7] = [
    (DNAT, None),
    // Before connection tracking, so that it sees what really is on the wire.
    ("loopback", Some(Hook { kind: "filter", number: PREROUTING, priority: -300 })),
    ("forward", Some(Hook { kind: "filter", number: FORWARD, priority: 0 })),
    ("input", Some(Hook { kind: "filter", number: INPUT, priority: 0 })),
    ("prerouting", Some(Hook { kind: "nat", number: PREROUTING, priority: -100 })),
    ("output", Some(Hook { kind: "nat", number: OUTPUT, priority: -100 })),
    ("postrouting", Some(Hook { kind: "nat", number: POSTROUTING, priority: 100 })),
];

fn iif_in(set: SetKind) -> [Expression; 2] {
    [meta(Meta::IifName, R0), contained(set.name, R0)]
}

fn oif_in(set: SetKind) -> [Expression; 2] {
    [meta(Meta::OifName, R0), contained(set.name, R0)]
}

fn same_bridge() -> [Expression; 3] {
    [meta(Meta::IifName, R0), meta(Meta::OifName, R4), contained(PAIRS.name, R0)]
}

fn state(bits: u32) -> [Expression; 3] {
    [conntrack(0, R0), mask(R0, &bits.to_ne_bytes()), unequal(R0, &[0; 4])]
}

fn translated() -> [Expression; 3] {
    [conntrack(2, R0), mask(R0, &STATUS_DNAT.to_ne_bytes()), unequal(R0, &[0; 4])]
}

pub(super) fn protocol(family: Family) -> [Expression; 2] {
    [meta(Meta::NfProto, R0), equal(R0, &[family.0])]
}

const V4: Family = super::batch::IPV4;
const V6: Family = super::batch::IPV6;

/// The first byte of the IPv4 source (offset 12) or destination (offset 16) is 127.
pub(super) fn loopback(offset: u32) -> Vec<Expression> {
    [&protocol(V4)[..], &[payload(Base::Network, offset, 1, R0), equal(R0, &[127])]].concat()
}

fn to_host() -> [Expression; 2] {
    [destination_type(R0), equal(R0, &LOCAL.to_ne_bytes())]
}

/// Writes the table, its sets, maps and chains, and every rule anew.
pub(super) fn write(batch: &mut Batch) {
    batch.table(INET, TABLE);
    for set in [BRIDGES, PAIRS, APART, INTERNAL, MASQUERADED].into_iter().chain(PORT_SETS) {
        batch.set(INET, TABLE, set);
    }
    for (chain, hook) in CHAINS {
        batch.chain(INET, TABLE, chain, hook);
        batch.flush(INET, TABLE, chain);
    }
    let mut rule = |chain: &str, parts: &[&[Expression]]| batch.rule(INET, TABLE, chain, &parts.concat());

    // `route_localnet` lets answers come home to connections from 127.0.0.1 that were sent to a container. It would
    // also let a container speak to, or as, 127.0.0.1 of the host.
    rule("loopback", &[&iif_in(BRIDGES), &loopback(16), &[verdict(DROP)]]);
    rule("loopback", &[&iif_in(BRIDGES), &loopback(12), &[verdict(DROP)]]);

    // The ports of the bridge keep frames apart; this is for packets that a container asks us to carry.
    rule("forward", &[&iif_in(APART), &same_bridge(), &[verdict(DROP)]]);
    rule("forward", &[&same_bridge(), &[verdict(ACCEPT)]]);
    rule("forward", &[&iif_in(INTERNAL), &[verdict(DROP)]]);
    rule("forward", &[&oif_in(INTERNAL), &[verdict(DROP)]]);
    rule("forward", &[&oif_in(BRIDGES), &state(STATE_ESTABLISHED_RELATED), &[verdict(ACCEPT)]]);
    rule("forward", &[&oif_in(BRIDGES), &translated(), &[verdict(ACCEPT)]]);
    rule("forward", &[&oif_in(BRIDGES), &[verdict(DROP)]]);

    // The host may speak to containers of an internal network (health checks by hand), not they to the host.
    // Neighbour discovery is untracked, not new.
    rule("input", &[&iif_in(INTERNAL), &state(STATE_NEW), &[verdict(DROP)]]);

    // A packet for 127.0.0.0/8 that comes from outside is about to be thrown away as a martian, and must not be
    // saved from that by a port that is published there; from the host itself it comes through `output`.
    rule("prerouting", &[&loopback(16), &[verdict(ACCEPT)]]);
    // A bridge does not send a frame back through the port it came from, and with `br_netfilter` (Docker loads it) it
    // is the bridge that would have to: a container that asks for its own published port is served by the relay.
    let service4 = [payload(Base::Network, 12, 4, R0), meta(Meta::L4Proto, R1), payload(Base::Transport, 2, 2, R2)];
    let service6 = [payload(Base::Network, 8, 16, R0), meta(Meta::L4Proto, R4), payload(Base::Transport, 2, 2, R5)];
    let itself = |set: SetKind| [contained(set.name, R0), verdict(ACCEPT)];
    rule("prerouting", &[&protocol(V4), &service4, &itself(SELF4)]);
    rule("prerouting", &[&protocol(V6), &service6, &itself(SELF6)]);
    // For the same reason the relay serves those who may only meet at a published port.
    rule("prerouting", &[&iif_in(APART), &[verdict(ACCEPT)]]);
    rule("prerouting", &[&to_host(), &[jump(DNAT)]]);
    rule("output", &[&to_host(), &[jump(DNAT)]]);

    let key4 = [payload(Base::Network, 16, 4, R0), meta(Meta::L4Proto, R1), payload(Base::Transport, 2, 2, R2)];
    let any = [meta(Meta::L4Proto, R0), payload(Base::Transport, 2, 2, R1)];
    // An IPv6 address fills four registers.
    let key6 = [payload(Base::Network, 24, 16, R0), meta(Meta::L4Proto, R4), payload(Base::Transport, 2, 2, R5)];
    let to4 = dnat(u32::from(V4.0), R0, R1);
    let to6 = dnat(u32::from(V6.0), R0, R4);
    rule(DNAT, &[&protocol(V4), &key4, &[mapped(AT4.name, R0, R0), to4.clone()]]);
    rule(DNAT, &[&protocol(V4), &any, &[mapped(ANY4.name, R0, R0), to4]]);
    rule(DNAT, &[&protocol(V6), &key6, &[mapped(AT6.name, R0, R0), to6.clone()]]);
    rule(DNAT, &[&protocol(V6), &any, &not_loopback6(), &[mapped(ANY6.name, R0, R0), to6]]);

    // A container that asks for a port of its own network at the host's address must get the answer from there.
    rule("postrouting", &[&same_bridge(), &translated(), &[masquerade()]]);
    // So must the host, which may have asked from 127.0.0.1. There is no interface the packet came from; nor is there
    // one, here, for the packets of the rule above where `br_netfilter` lets the bridge itself carry them.
    let nowhere = [meta(Meta::IifName, R0), equal(R0, &[0; 16])];
    rule("postrouting", &[&nowhere, &oif_in(BRIDGES), &translated(), &[masquerade()]]);
    let abroad = [meta(Meta::OifName, R0), absent(BRIDGES.name, R0)];
    rule("postrouting", &[&iif_in(MASQUERADED), &abroad, &[masquerade()]]);
}

/// `::1` has no route out of the loopback device, whatever `route_localnet` is for IPv4: the relay serves it.
/// Leaves registers 0 and 1 as they are.
fn not_loopback6() -> [Expression; 2] {
    let mut one = [0; 16];
    one[15] = 1;
    [payload(Base::Network, 24, 16, R4), unequal(R4, &one)]
}
