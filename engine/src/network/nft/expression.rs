//! The nf_tables expressions that our rules are made of (`linux/netfilter/nf_tables.h`), encoded for nfnetlink.

use netlink_packet_core::NLA_F_NESTED;

/// The first of sixteen 4-byte registers.
pub(super) const R0: u32 = 8;
/// Registers 4 to 7: where the second of two interface names goes.
pub(super) const R4: u32 = 12;
pub(super) const R5: u32 = 13;
pub(super) const R1: u32 = 9;
pub(super) const R2: u32 = 10;

pub(super) const DROP: i32 = 0;
pub(super) const ACCEPT: i32 = 1;
pub(super) const JUMP: i32 = -3;
pub(super) const GOTO: i32 = -4;

/// `IPS_DST_NAT`: the destination of the connection was rewritten.
pub(super) const STATUS_DNAT: u32 = 1 << 5;
pub(super) const STATE_ESTABLISHED_RELATED: u32 = 2 | 4;
pub(super) const STATE_NEW: u32 = 8;

/// A growing list of netlink attributes.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("no attribute of ours comes near 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A string with its terminating NUL.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number in network byte order, as all of nf_tables is.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn wide(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// One expression: its name and its attributes.
#[derive(Debug, Clone)]
pub(super) struct Expression(&'static str, Attributes);

impl Expression {
    /// Encodes a rule's list of expressions.
    pub(super) fn list(expressions: &[Self]) -> Attributes {
        expressions.iter().fold(Attributes::default(), |list, Self(name, data)| {
            list.nest(1, &Attributes::default().text(1, name).nest(2, &data.clone()))
        })
    }
}

/// A verdict as data of an immediate or of a map's element.
pub(super) fn verdict_data(code: i32, chain: Option<&str>) -> Attributes {
    let verdict = Attributes::default().bytes(1, &code.to_be_bytes());
    let verdict = match chain {
        Some(chain) => verdict.text(2, chain),
        None => verdict,
    };
    Attributes::default().nest(2, &verdict)
}

pub(super) fn verdict(code: i32) -> Expression {
    Expression("immediate", Attributes::default().number(1, 0).nest(2, &verdict_data(code, None)))
}

pub(super) fn jump(chain: &str) -> Expression {
    Expression("immediate", Attributes::default().number(1, 0).nest(2, &verdict_data(JUMP, Some(chain))))
}

/// Puts bytes into a register.
pub(super) fn immediate(register: u32, value: &[u8]) -> Expression {
    let data = Attributes::default().bytes(1, value);
    Expression("immediate", Attributes::default().number(1, register).nest(2, &data))
}

/// A fact about a packet (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    IifName = 6,
    OifName = 7,
    NfProto = 15,
    L4Proto = 16,
}

pub(super) fn meta(key: Meta, register: u32) -> Expression {
    Expression("meta", Attributes::default().number(1, register).number(2, key as u32))
}

/// Where a payload offset counts from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    Network = 1,
    Transport = 2,
}

pub(super) fn payload(base: Base, offset: u32, length: u32, register: u32) -> Expression {
    let data = Attributes::default().number(1, register).number(2, base as u32).number(3, offset).number(4, length);
    Expression("payload", data)
}

/// Writes a register into the packet and corrects the Internet checksum at `checksum`.
pub(super) fn rewrite(base: Base, offset: u32, length: u32, register: u32, checksum: u32) -> Expression {
    let data = Attributes::default()
        .number(2, base as u32)
        .number(3, offset)
        .number(4, length)
        .number(5, register)
        .number(6, 1)
        .number(7, checksum);
    Expression("payload", data)
}

fn compare(operation: u32, register: u32, value: &[u8]) -> Expression {
    let data = Attributes::default().bytes(1, value);
    Expression("cmp", Attributes::default().number(1, register).number(2, operation).nest(3, &data))
}

pub(super) fn equal(register: u32, value: &[u8]) -> Expression {
    compare(0, register, value)
}

pub(super) fn unequal(register: u32, value: &[u8]) -> Expression {
    compare(1, register, value)
}

/// Keeps the bits of `mask`; both have the register's byte order.
pub(super) fn mask(register: u32, mask: &[u8]) -> Expression {
    let zero = vec![0; mask.len()];
    let length = u32::try_from(mask.len()).expect("a mask fits a register");
    let data = Attributes::default()
        .number(1, register)
        .number(2, register)
        .number(3, length)
        .nest(4, &Attributes::default().bytes(1, mask))
        .nest(5, &Attributes::default().bytes(1, &zero));
    Expression("bitwise", data)
}

/// Continues if the key at `register` is in the set.
pub(super) fn contained(set: &str, register: u32) -> Expression {
    Expression("lookup", Attributes::default().text(1, set).number(2, register))
}

/// Continues if the key at `register` is not in the set.
pub(super) fn absent(set: &str, register: u32) -> Expression {
    Expression("lookup", Attributes::default().text(1, set).number(2, register).number(5, 1))
}

/// Puts what the map has for the key at `register` into `target`; the rule ends where it has nothing.
pub(super) fn mapped(map: &str, register: u32, target: u32) -> Expression {
    Expression("lookup", Attributes::default().text(1, map).number(2, register).number(3, target))
}

/// Loads connection tracking's state bits (key 0) or status bits (key 2), in host byte order.
pub(super) fn conntrack(key: u32, register: u32) -> Expression {
    Expression("ct", Attributes::default().number(1, register).number(2, key))
}

/// Loads the type of the destination address (`RTN_LOCAL`, …), in host byte order.
pub(super) fn destination_type(register: u32) -> Expression {
    Expression("fib", Attributes::default().number(1, register).number(2, 3).number(3, 1 << 1))
}

/// Rewrites the destination to the address and port in the two registers.
pub(super) fn dnat(family: u32, address: u32, port: u32) -> Expression {
    // NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED follow from the registers.
    Expression("nat", Attributes::default().number(1, 1).number(2, family).number(3, address).number(5, port))
}

pub(super) fn masquerade() -> Expression {
    Expression("masq", Attributes::default())
}

/// An interface name as the kernel compares it: padded with NULs to 16 bytes.
pub(super) fn interface(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    let bytes = name.as_bytes();
    let length = bytes.len().min(15);
    padded[..length].copy_from_slice(&bytes[..length]);
    padded
}
