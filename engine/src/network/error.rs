//! Why something about networks failed.

use std::io;
use std::net::SocketAddr;

use super::pool::Cidr;
use super::{FilterError, LeaseError, LinkError, PortError, SandboxError, SettingsError, StoreError};

/// Why something about networks failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("there is no network {0}")]
    Unknown(String),
    #[error("network {network} is in use by {}", holders.join(", "))]
    InUse { network: String, holders: Vec<String> },
    #[error("the container is not connected to network {network}")]
    NotConnected { network: String },
    #[error("subnet {}/{} of network {network} overlaps with {with}", subnet.0, subnet.1)]
    SubnetTaken { network: String, subnet: Cidr, with: String },
    #[error("`{}/{}` of network {network} is not the address of a subnet", subnet.0, subnet.1)]
    InvalidSubnet { network: String, subnet: Cidr },
    #[error("no subnet of the address pools is free for network {network} ({taken} ranges are in use)")]
    PoolExhausted { network: String, taken: usize },
    #[error("network {0} needs the option `parent`: the host's link that it is to share")]
    NoParent(String),
    #[error("`{mode}` is no mode of the driver of network {network}")]
    UnknownMode { network: String, mode: String },
    #[error("interface {interface} of network {network} has the name of another one of the container")]
    InterfaceTaken { network: String, interface: String },
    #[error("`{value}` is no value of the option {option} of network {network}")]
    InvalidOption { network: String, option: String, value: String },
    #[error("`{setting}` is no setting of an interface of network {network}, such as net.ipv4.conf.IFNAME.rp_filter=2")]
    InvalidSetting { network: String, setting: String },
    #[error("cannot connect container {container} to network {network}")]
    Attach {
        container: String,
        network: String,
        #[source]
        source: Box<LinkError>,
    },
    #[error("cannot start the thread for networks")]
    Thread(#[source] io::Error),
    /// Its thread panicked.
    #[error("the thread for networks has ended")]
    Gone,
    #[error("cannot start the resolver of container {container}")]
    Resolver {
        container: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot relay port {port} of container {container}")]
    Relay {
        container: String,
        port: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch for changes of {what}")]
    Watch {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
