//! Transactions of nf_tables: everything in a batch happens, or nothing does.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::expression::{Attributes, Expression};
use crate::network::netlink::{Refusal, Request, Socket};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The subsystem's number, in the upper byte of a message type.
pub(super) const SUBSYSTEM: u16 = 10 << 8;

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(super) const DELETE_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
pub(super) const NEW_ELEMENT: u16 = 12;
pub(super) const GET_ELEMENT: u16 = 13;
pub(super) const DELETE_ELEMENT: u16 = 14;
pub(super) const GET_GENERATION: u16 = 16;

/// A family of tables (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Family(pub(super) u8);

pub(super) const ANY: Family = Family(0);
pub(super) const INET: Family = Family(1);
pub(super) const IPV4: Family = Family(2);
pub(super) const IPV6: Family = Family(10);

/// Makes a request outside of a batch.
pub(super) fn request(kind: u16, family: Family, attributes: &Attributes) -> Request {
    Request { kind: SUBSYSTEM | kind, flags: 0, payload: payload(family.0, 0, attributes) }
}

/// `struct nfgenmsg` (family, version, resource id in network byte order) and attributes.
fn payload(family: u8, resource: u16, attributes: &Attributes) -> Vec<u8> {
    let mut bytes = vec![family, 0];
    bytes.extend_from_slice(&resource.to_be_bytes());
    bytes.extend_from_slice(&attributes.0);
    bytes
}

/// A base chain's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    /// `filter` or `nat`.
    pub(super) kind: &'static str,
    /// `NF_INET_*`.
    pub(super) number: u32,
    pub(super) priority: i32,
}

pub(super) const PREROUTING: u32 = 0;
pub(super) const INPUT: u32 = 1;
pub(super) const FORWARD: u32 = 2;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;

/// What a set's elements are.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetKind {
    pub(super) name: &'static str,
    /// nft's numbers of the key's type, and its length in bytes.
    pub(super) key: (u32, u32),
    /// The same of the data, for a map.
    pub(super) data: Option<(u32, u32)>,
}

/// A transaction that is being written.
#[derive(Debug)]
pub(super) struct Batch {
    requests: Vec<Request>,
    sets: u32,
}

impl Batch {
    /// Begins a transaction; with `generation`, one that the kernel refuses with `ERESTART` if anything in any table
    /// of this network namespace changed since that generation.
    pub(super) fn new(generation: Option<u32>) -> Self {
        let attributes = generation.map_or_else(Attributes::default, |g| Attributes::default().number(1, g));
        let begin = Request { kind: BATCH_BEGIN, flags: 0, payload: payload(0, SUBSYSTEM >> 8, &attributes) };
        Self { requests: vec![begin], sets: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.len() == 1
    }

    pub(super) fn push(&mut self, kind: u16, flags: u16, family: Family, attributes: &Attributes) {
        self.requests.push(Request { flags, ..request(kind, family, attributes) });
    }

    pub(super) fn table(&mut self, family: Family, table: &str) {
        self.push(NEW_TABLE, NLM_F_CREATE, family, &Attributes::default().text(1, table));
    }

    /// Adds a chain, or changes nothing if it is there.
    pub(super) fn chain(&mut self, family: Family, table: &str, chain: &str, hook: Option<Hook>) {
        let mut attributes = Attributes::default().text(1, table).text(3, chain);
        if let Some(hook) = hook {
            let place = Attributes::default().number(1, hook.number).bytes(2, &hook.priority.to_be_bytes());
            // NFTA_CHAIN_POLICY 1: accept. What is not about our bridges is none of our business.
            attributes = attributes.nest(4, &place).number(5, 1).text(7, hook.kind);
        }
        self.push(NEW_CHAIN, NLM_F_CREATE, family, &attributes);
    }

    /// Adds a set or map, or changes nothing if it is there.
    pub(super) fn set(&mut self, family: Family, table: &str, set: SetKind) {
        const MAP: u32 = 0x8;
        self.sets += 1;
        let flags = if set.data.is_some() { MAP } else { 0 };
        let mut attributes = Attributes::default()
            .text(1, table)
            .text(2, set.name)
            .number(3, flags)
            .number(4, set.key.0)
            .number(5, set.key.1);
        if let Some((kind, length)) = set.data {
            attributes = attributes.number(6, kind).number(7, length);
        }
        if set.key.0 == super::ruleset::INTERFACE {
            // nft prints such a set's elements right only if it is told that they are in host byte order.
            attributes = attributes.bytes(13, &[&[0, 4][..], &1_u32.to_ne_bytes()].concat());
        }
        // An id by which later messages of the same transaction may refer to the set.
        self.push(NEW_SET, NLM_F_CREATE, family, &attributes.number(10, self.sets));
    }

    /// Removes every rule of a chain.
    pub(super) fn flush(&mut self, family: Family, table: &str, chain: &str) {
        self.push(DELETE_RULE, 0, family, &Attributes::default().text(1, table).text(2, chain));
    }

    /// Adds a rule at the end of a chain.
    pub(super) fn rule(&mut self, family: Family, table: &str, chain: &str, rule: &[Expression]) {
        let attributes = Attributes::default().text(1, table).text(2, chain).nest(4, &Expression::list(rule));
        self.push(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, family, &attributes);
    }

    /// Adds a rule with a comment at the head of a chain.
    pub(super) fn head(&mut self, family: Family, table: &str, chain: &str, rule: &[Expression], comment: &str) {
        let attributes = Attributes::default()
            .text(1, table)
            .text(2, chain)
            .nest(4, &Expression::list(rule))
            .bytes(7, &user_data(comment));
        self.push(NEW_RULE, NLM_F_CREATE, family, &attributes);
    }

    /// Removes one rule by its handle.
    pub(super) fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) {
        let attributes = Attributes::default().text(1, table).text(2, chain).wide(3, handle);
        self.push(DELETE_RULE, 0, family, &attributes);
    }

    /// Adds elements to a set, or, with data, to a map. Those that are there already stay.
    pub(super) fn add(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, NLM_F_CREATE, family, table, set, elements);
    }

    /// Removes elements, each of which must be there.
    pub(super) fn remove(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, family, table, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, family: Family, table: &str, set: &str, elements: &[Element]) {
        // An attribute's length is 16 bits, and an element takes some 50 bytes.
        for chunk in elements.chunks(500) {
            let list = chunk.iter().fold(Attributes::default(), |list, element| {
                let mut one = Attributes::default().nest(1, &Attributes::default().bytes(1, &element.key));
                if !element.data.is_empty() {
                    one = one.nest(2, &Attributes::default().bytes(1, &element.data));
                }
                list.nest(1, &one)
            });
            self.push(kind, flags, family, &Attributes::default().text(1, table).text(2, set).nest(3, &list));
        }
    }

    /// Lets the kernel do it.
    pub(super) fn commit(mut self, socket: &mut Socket) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        let end = Request { kind: BATCH_END, flags: 0, payload: payload(0, SUBSYSTEM >> 8, &Attributes::default()) };
        self.requests.push(end);
        socket.transaction(&self.requests)
    }
}

/// An element of a set; `data` is empty unless the set is a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) data: Vec<u8>,
}

/// A comment as nft and iptables show it: type 0, length, text with NUL.
pub(super) fn user_data(comment: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(comment.len() + 1).expect("comments of ours are short")];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// The message that announces a new generation of the rules.
pub(crate) const SUBSYSTEM_GENERATION: u16 = SUBSYSTEM | 15;
