//! What a network was asked to be: the input of `ensure`, kept in `networks/<id>.json`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::Id;

/// How the names of our bridges and virtual Ethernet devices begin.
pub const BRIDGE_PREFIX: &str = "rc";

/// Everything `ensure` needs to know about a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl Driver {
    /// Returns the name that Docker has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
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

/// A network that exists: what it was asked to be and what it got. The content of `networks/<id>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: Id,
    pub created: jiff::Timestamp,
    pub config: NetworkConfig,
    /// The subnets with their gateways, whether asked for or chosen. Empty subnets of `config` are filled in here.
    pub subnets: Vec<Subnet>,
}

impl Network {
    /// Returns the name of the network's bridge.
    pub fn bridge(&self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.id.short())
    }

    /// Returns the first subnet of a family.
    pub fn subnet(&self, ipv4: bool) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.subnet.0.is_ipv4() == ipv4)
    }
}
