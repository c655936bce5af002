//! The networks of this host, and who is on them.

use std::collections::BTreeSet;

use rcompose_engine::container::config::NetworkMode;
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::network::config::Network;
use rcompose_engine::network::{self, Networks, Options};
use rcompose_engine::root::Root;

use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::compose::suggest;

/// The networks of this host.
#[derive(Debug)]
pub struct Local {
    pub root: Root,
    /// By name.
    pub networks: Vec<Network>,
}

/// Returns the names of the networks that these containers are on.
pub fn networks_of(containers: Vec<Container>) -> BTreeSet<String> {
    let networks = containers.into_iter().flat_map(|container| match container.config.network {
        NetworkMode::Networks(endpoints) => endpoints.into_iter().map(|endpoint| endpoint.network).collect(),
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => Vec::new(),
    });
    networks.collect()
}

impl Local {
    pub fn open(context: &Context) -> Result<Self, Error> {
        let root = context.root()?;
        let mut networks = network::list(&root)?;
        networks.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        Ok(Self { root, networks })
    }

    /// Returns the network that a name or the beginning of an id means.
    pub fn find(&self, name: &str) -> Result<&Network, Error> {
        if let Some(network) = self.networks.iter().find(|network| network.config.name == name) {
            return Ok(network);
        }
        let mut matching = self.networks.iter().filter(|network| network.id.as_str().starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(network), None) if !name.is_empty() => Ok(network),
            (Some(_), Some(_)) => Err(Error::new(format!("several networks have an id that begins with {name}"))),
            _ => {
                let names = self.networks.iter().map(|network| network.config.name.as_str());
                let hint = match suggest::closest(name, names) {
                    Some(like) => format!("did you mean {like}?"),
                    None => "rcompose network ls lists what is here".to_owned(),
                };
                Err(Error::with_hint(format!("network {name} not found"), hint))
            }
        }
    }

    /// Returns the names of the networks that containers are on, whether or not they run.
    pub fn used(&self) -> Result<BTreeSet<String>, Error> {
        Ok(networks_of(store::list(&self.root, None)?))
    }

    /// Returns what can make and remove networks. Whoever is on them is looked after by the supervisors of their
    /// projects, which hear of it.
    pub async fn engine(&self) -> Result<Networks, Error> {
        Ok(Networks::open(&self.root, Options::default()).await?)
    }
}
