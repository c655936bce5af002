//! The resolver that containers find at 127.0.0.11: names of their own networks from our tables, the rest from outside.
//!
//! Each sandbox has a server of its own on its own sockets, because what may be answered depends on who asks.

mod datagram;
mod forward;
mod server;
pub(crate) mod table;

pub(crate) use self::forward::{Forwarder, Upstream};
pub(crate) use self::server::Resolver;
