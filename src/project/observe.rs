//! What there is of a project, as the disk tells: no supervisor is needed to look.

use std::collections::BTreeMap;

use rcompose_engine::container::store::Container;
use rcompose_engine::network::config::NetworkConfig;

use super::labels::{Labelled as _, Labels};

/// The containers of a project, and the networks and volumes of the host.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Of this project, one-off ones included.
    pub containers: Vec<Container>,
    /// All of the host, by name.
    pub networks: BTreeMap<String, NetworkConfig>,
    /// All of the host, by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Containers of other projects that a service refers to, by the name or id that it uses.
    pub others: BTreeMap<String, Container>,
}

/// A volume that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    pub project: Option<String>,
    pub labels: Labels,
}

impl Observed {
    /// Returns the containers of a service that belong to it for good.
    pub fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| !container.is_oneoff() && container.service() == service)
    }
}
