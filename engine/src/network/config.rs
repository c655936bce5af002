//! What a network was asked to be: the input of `ensure`, kept in `networks/<id>.json`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Everything `ensure` needs to know about a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The name on this host, such as `shop_default`.
    pub name: String,
    /// The project that made it and removes it; `None` for one made by hand.
    pub project: Option<String>,
    pub driver: Driver,
    /// Nothing outside can be reached, not even through DNS.
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    /// Empty: a subnet from the engine's pool.
    pub subnets: Vec<Subnet>,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// How a network carries packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    #[default]
    Bridge,
    Macvlan,
    Ipvlan,
}

/// One address range of a network (Compose Specification, `ipam.config`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Network address and prefix length.
    pub subnet: (IpAddr, u8),
    /// The part of the subnet that addresses are given from.
    pub ip_range: Option<(IpAddr, u8)>,
    pub gateway: Option<IpAddr>,
    /// Addresses that are never given to a container, by name.
    pub aux_addresses: BTreeMap<String, IpAddr>,
}
