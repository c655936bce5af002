//! Links, addresses and routes: bridges on the host, and the interfaces of containers.
//!
//! A veth pair is born with its far end already inside the container's namespace, which is thirty times cheaper than
//! moving it there, and is never deleted: it goes with the namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoIpVlan, InfoKind, InfoMacVlan,
    InfoPortData, InfoPortKind, InfoVeth, IpVlanMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
    Prop,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;

use super::listing::{self, Link, Used};
use super::netlink::{Refusal, Request, Socket};
use super::sandbox::{Sandbox, request, set_link};

/// Why a link, an address or a route is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot speak to the kernel about links")]
    Open(#[source] std::io::Error),
    #[error("cannot list the host's {what}")]
    List {
        what: &'static str,
        #[source]
        source: Refusal,
    },
    #[error("cannot make bridge {bridge}")]
    Bridge {
        bridge: String,
        #[source]
        source: Refusal,
    },
    /// A link of that name is there and is something else.
    #[error("link {0} exists and is not a bridge")]
    NotBridge(String),
    #[error("cannot give address {address} to link {link}")]
    Address {
        link: String,
        address: IpAddr,
        #[source]
        source: Refusal,
    },
    #[error("cannot delete link {link}")]
    Delete {
        link: String,
        #[source]
        source: Refusal,
    },
    #[error("cannot set {} to {value}", path.display())]
    Sysctl {
        path: PathBuf,
        value: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot make interface {interface} on {parent}")]
    Interface {
        interface: String,
        parent: String,
        #[source]
        source: Refusal,
    },
    #[error("cannot configure interface {interface}: {what}")]
    Configure {
        interface: String,
        what: String,
        #[source]
        source: Refusal,
    },
    #[error("link {0} exists already")]
    NameTaken(String),
    #[error("there is no link {0} on this host")]
    NoLink(String),
}

/// What a container's end of a link is to be.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: Option<u32>,
    pub(crate) ipv4: Option<(Ipv4Addr, u8)>,
    pub(crate) ipv6: Option<(Ipv6Addr, u8)>,
    pub(crate) link_local: Vec<IpAddr>,
    /// Where everything else is reached; `None`: not through this interface.
    pub(crate) gateway4: Option<Ipv4Addr>,
    pub(crate) gateway6: Option<Ipv6Addr>,
}

/// What an interface hangs on.
#[derive(Debug, Clone)]
pub(crate) enum Parent {
    /// One end of a veth pair, the other a port of this bridge.
    Bridge {
        bridge: u32,
        name: String,
        host_end: String,
        /// Whether the port passes nothing on to other such ports.
        isolated: bool,
    },
    Macvlan {
        parent: u32,
        name: String,
        mode: MacVlanMode,
    },
    Ipvlan {
        parent: u32,
        name: String,
        mode: IpVlanMode,
    },
}

impl Parent {
    fn name(&self) -> &str {
        match self {
            Self::Bridge { name, .. } | Self::Macvlan { name, .. } | Self::Ipvlan { name, .. } => name,
        }
    }
}

/// rtnetlink of one network namespace, for one thread.
///
/// Not a library's asynchronous handle: where its request cannot be sent it lists nothing, and says nothing.
#[derive(Debug)]
pub(crate) struct Links {
    socket: Socket,
}

/// `RTM_NEWLINKPROP` of `linux/rtnetlink.h`.
const NEW_LINK_PROPERTY: u16 = 108;

impl Links {
    /// Opens rtnetlink in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, LinkError> {
        Ok(Self { socket: Socket::route().map_err(LinkError::Open)? })
    }

    /// Lists every link of the host.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, LinkError> {
        listing::links(&mut self.socket).map_err(|source| LinkError::List { what: "links", source })
    }

    /// Returns the link of this name.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>, LinkError> {
        match self.socket.get(&by_name(libc::RTM_GETLINK, name)) {
            Ok(replies) => Ok(replies.iter().find_map(|reply| Link::parse(&reply.payload))),
            Err(error) if error.errno == Errno::ENODEV => Ok(None),
            Err(source) => Err(LinkError::List { what: "links", source }),
        }
    }

    /// Lists the address ranges that the host reaches by a route of any table or has an address in, but for default
    /// routes.
    pub(crate) fn used(&mut self) -> Result<Vec<Used>, LinkError> {
        let mut used =
            listing::routes(&mut self.socket).map_err(|source| LinkError::List { what: "routes", source })?;
        let addresses = listing::addresses(&mut self.socket);
        used.extend(addresses.map_err(|source| LinkError::List { what: "addresses", source })?);
        Ok(used)
    }

    /// Makes a bridge, or takes the one of this name that is there, and brings it up. Returns it and whether it is new.
    pub(crate) fn bridge(&mut self, name: &str, mac: [u8; 6], mtu: Option<u32>) -> Result<(Link, bool), LinkError> {
        if let Some(link) = self.find(name)? {
            if !link.is_bridge() {
                return Err(LinkError::NotBridge(name.to_owned()));
            }
            let failed = |source| LinkError::Bridge { bridge: name.to_owned(), source };
            self.socket.execute(&[set_link(&up(link.index))]).map_err(failed)?;
            return Ok((link, false));
        }
        let mut message = up(0);
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        // A bridge without an address of its own takes that of its lowest port, and changes it as ports come and go.
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let made = self.socket.execute(&[request(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)]);
        let new = match made {
            Ok(()) => true,
            // Somebody else made it just now.
            Err(error) if error.errno == Errno::EEXIST => false,
            Err(source) => return Err(LinkError::Bridge { bridge: name.to_owned(), source }),
        };
        let link = self.find(name)?.ok_or_else(|| LinkError::NoLink(name.to_owned()))?;
        Ok((link, new))
    }

    /// Gives a link of the host a further name, unless it has it.
    pub(crate) fn add_name(&mut self, link: &Link, name: &str) -> Result<(), LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]));
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND;
        match self.socket.execute(&[request(NEW_LINK_PROPERTY, flags, &message)]) {
            Err(error) if error.errno == Errno::EEXIST => match self.find(name)? {
                Some(other) if other.index != link.index => Err(LinkError::NameTaken(name.to_owned())),
                _ => Ok(()),
            },
            other => other.map_err(|source| LinkError::Bridge { bridge: name.to_owned(), source }),
        }
    }

    /// Has a port of a bridge pass on nothing to other such ports (`isolated` of `bridge(8)`).
    pub(crate) fn isolate(&mut self, port: &str) -> Result<(), LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(port.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
        ]));
        // `RTM_SETLINK` does not look at what the master's kind has to say of a port.
        self.socket.execute(&[request(libc::RTM_NEWLINK, 0, &message)]).map_err(|source| LinkError::Configure {
            interface: port.to_owned(),
            what: "keep it apart from other containers".into(),
            source,
        })
    }

    /// Gives a link of the host an address, unless it has it.
    pub(crate) fn add_address(&mut self, link: &Link, address: IpAddr, prefix: u8) -> Result<(), LinkError> {
        match self.socket.execute(&[new_address(link.index, address, prefix)]) {
            Err(error) if error.errno == Errno::EEXIST => Ok(()),
            other => other.map_err(|source| LinkError::Address { link: link.name.clone(), address, source }),
        }
    }

    /// Makes a link a port of a bridge; one that is gone is left alone.
    pub(crate) fn enslave(&mut self, name: &str, bridge: &Link) -> Result<(), LinkError> {
        let Some(link) = self.find(name)? else { return Ok(()) };
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::Controller(bridge.index));
        match self.socket.execute(&[set_link(&message)]) {
            Err(error) if error.errno == Errno::ENODEV => Ok(()),
            other => other.map_err(|source| LinkError::Bridge { bridge: bridge.name.clone(), source }),
        }
    }

    /// Deletes a link; one that is gone already is fine.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), LinkError> {
        delete(&mut self.socket, name).map_err(|source| LinkError::Delete { link: name.to_owned(), source })
    }

    /// Makes an interface in a sandbox and configures it. Whatever fails, nothing of it is left.
    pub(crate) fn attach(
        &mut self,
        sandbox: &Sandbox,
        parent: &Parent,
        interface: &Interface,
    ) -> Result<(), LinkError> {
        let message = birth(sandbox.netns(), parent, interface);
        let add = request(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message);
        self.socket.execute(&[add]).map_err(|source| LinkError::Interface {
            interface: interface.name.clone(),
            parent: parent.name().to_owned(),
            source,
        })?;
        let configured = sandbox.configure(|socket| {
            let index = index_of(socket, &interface.name)?;
            let (requests, whats): (Vec<Request>, Vec<String>) = setup(index, interface).into_iter().unzip();
            socket.execute(&requests).map_err(|source| LinkError::Configure {
                interface: interface.name.clone(),
                what: whats.get(source.index).cloned().unwrap_or_default(),
                source,
            })
        });
        if let (Ok(()), Parent::Bridge { host_end, isolated, .. }) = (&configured, parent) {
            if *isolated {
                self.isolate(host_end)?;
            }
            // The bridge lets frames through when the kernel's own worker gets to telling it that the far end is up. A
            // query of the link's state makes that happen now (since Linux 6.8); else the first packet of a container
            // in a hurry is lost, and TCP repeats it only after a second.
            self.socket.get(&by_name(libc::RTM_GETLINK, host_end)).map_err(|source| LinkError::Configure {
                interface: host_end.clone(),
                what: "wait until it carries frames".into(),
                source,
            })?;
        }
        if configured.is_err() {
            // The first error is the one to tell; the namespace takes with it what cannot be deleted.
            let _ = detach(sandbox, &interface.name);
        }
        configured
    }
}

/// Deletes an interface of a sandbox.
pub(crate) fn detach(sandbox: &Sandbox, interface: &str) -> Result<(), LinkError> {
    sandbox.configure(|socket| {
        delete(socket, interface).map_err(|source| LinkError::Configure {
            interface: interface.to_owned(),
            what: "delete it".into(),
            source,
        })
    })
}

fn delete(socket: &mut Socket, name: &str) -> Result<(), Refusal> {
    match socket.execute(&[by_name(libc::RTM_DELLINK, name)]) {
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(()),
        result => result,
    }
}

/// Makes an interface of a sandbox the way to everywhere else, in the place of another.
pub(crate) fn route(sandbox: &Sandbox, interface: &str, gateway: IpAddr) -> Result<(), LinkError> {
    sandbox.configure(|socket| {
        let index = index_of(socket, interface)?;
        socket.execute(&[default_route(index, gateway, NLM_F_REPLACE)]).map_err(|source| LinkError::Configure {
            interface: interface.to_owned(),
            what: format!("lead the default route by {gateway}"),
            source,
        })
    })
}

/// The message that makes a link with the container's end already in its namespace.
fn birth(netns: &OwnedFd, parent: &Parent, interface: &Interface) -> LinkMessage {
    let inside = LinkAttribute::NetNsFd(netns.as_raw_fd());
    let mut message = LinkMessage::default();
    let own = |message: &mut LinkMessage| {
        message.attributes.push(LinkAttribute::IfName(interface.name.clone()));
        message.attributes.extend(interface.mtu.map(LinkAttribute::Mtu));
    };
    match parent {
        Parent::Bridge { bridge, host_end, .. } => {
            let mut peer = LinkMessage::default();
            own(&mut peer);
            peer.attributes.push(LinkAttribute::Address(interface.mac.to_vec()));
            peer.attributes.push(inside);
            message = up(0);
            message.attributes.push(LinkAttribute::IfName(host_end.clone()));
            message.attributes.push(LinkAttribute::Controller(*bridge));
            message.attributes.extend(interface.mtu.map(LinkAttribute::Mtu));
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]));
        }
        Parent::Macvlan { parent, mode, .. } => {
            own(&mut message);
            message.attributes.push(LinkAttribute::Link(*parent));
            message.attributes.push(LinkAttribute::Address(interface.mac.to_vec()));
            message.attributes.push(inside);
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(*mode)])),
            ]));
        }
        // It has the hardware address of its parent.
        Parent::Ipvlan { parent, mode, .. } => {
            own(&mut message);
            message.attributes.push(LinkAttribute::Link(*parent));
            message.attributes.push(inside);
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::IpVlan),
                LinkInfo::Data(InfoData::IpVlan(vec![InfoIpVlan::Mode(*mode)])),
            ]));
        }
    }
    message
}

/// A message that brings a link up.
fn up(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// A request about one link: `RTM_GETLINK` or `RTM_DELLINK`.
fn by_name(kind: u16, name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    request(kind, 0, &message)
}

fn index_of(socket: &mut Socket, name: &str) -> Result<u32, LinkError> {
    let configure = |source| LinkError::Configure { interface: name.to_owned(), what: "find it".into(), source };
    let replies = socket.get(&by_name(libc::RTM_GETLINK, name)).map_err(configure)?;
    let link = replies.iter().find_map(|reply| Link::parse(&reply.payload));
    link.map(|link| link.index).ok_or_else(|| configure(Errno::ENODEV.into()))
}

/// The requests that configure a container's interface, each with what it is for.
fn setup(index: u32, interface: &Interface) -> Vec<(Request, String)> {
    let mut requests = Vec::new();
    if interface.ipv6.is_none() && interface.link_local.iter().all(IpAddr::is_ipv4) {
        // Without an IPv6 subnet the interface has no IPv6 at all, not even a link-local address.
        let mut quiet = LinkMessage::default();
        quiet.header.index = index;
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        quiet.attributes.push(LinkAttribute::AfSpecUnspec(vec![none]));
        requests.push((set_link(&quiet), "switch off IPv6".into()));
    }
    requests.push((set_link(&up(index)), "bring it up".into()));
    let own4 = interface.ipv4.map(|(a, p)| (IpAddr::V4(a), p));
    let own6 = interface.ipv6.map(|(a, p)| (IpAddr::V6(a), p));
    let link_local = interface.link_local.iter().map(|a| (*a, if a.is_ipv4() { 16 } else { 64 }));
    for (address, prefix) in own4.into_iter().chain(own6).chain(link_local) {
        requests.push((new_address(index, address, prefix), format!("add address {address}/{prefix}")));
    }
    let gateways = [interface.gateway4.map(IpAddr::V4), interface.gateway6.map(IpAddr::V6)];
    for gateway in gateways.into_iter().flatten() {
        requests.push((default_route(index, gateway, NLM_F_EXCL), format!("add a default route by {gateway}")));
    }
    requests
}

fn new_address(index: u32, address: IpAddr, prefix: u8) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    match address {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            let host_bits = if prefix >= 32 { 0 } else { u32::MAX >> prefix };
            if prefix < 31 {
                let broadcast = Ipv4Addr::from_bits(v4.to_bits() | host_bits);
                message.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // The registry makes addresses unique; duplicate address detection would only make it wait a second.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    message.attributes.push(AddressAttribute::Address(address));
    message.attributes.push(AddressAttribute::Local(address));
    request(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message)
}

fn default_route(index: u32, gateway: IpAddr, flags: u16) -> Request {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if gateway.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let address = match gateway {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    message.attributes.push(RouteAttribute::Gateway(address));
    message.attributes.push(RouteAttribute::Oif(index));
    request(libc::RTM_NEWROUTE, NLM_F_CREATE | flags, &message)
}

/// Writes a setting below `/proc/sys/net`, unless it has the value already: the file may be read-only then.
pub(crate) fn sysctl(path: &str, value: &'static str) -> Result<(), LinkError> {
    let path = PathBuf::from("/proc/sys/net").join(path);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| LinkError::Sysctl { path, value, source })
}
