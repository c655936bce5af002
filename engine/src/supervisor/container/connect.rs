//! A container is connected to a network or disconnected from one, whether or not it runs.

use super::{Actor, conflict};
use crate::container::config::{ContainerConfig, Endpoint, NetworkMode};
use crate::container::store;
use crate::id::Id;
use crate::protocol::{EventKind, Failure, FailureKind};
use crate::supervisor::project::caused;

impl Actor {
    pub(super) async fn connect(&mut self, endpoint: Endpoint) -> Result<(), Failure> {
        let connected = self.endpoints()?;
        // Asked again after the supervisor before this one was killed.
        if connected.contains(&endpoint) {
            return Ok(());
        }
        let name = endpoint.network.clone();
        if connected.iter().any(|known| known.network == name) {
            return Err(conflict(&self.config, &format!("is connected to network {name} already")));
        }
        let network = self.network(&name).await?;
        if let Some(run) = &mut self.run {
            run.connect(&self.config, &connected, &endpoint).await?;
        }
        self.project.networks.reserve_names(endpoint.aliases.iter().cloned());
        self.settle([connected, vec![endpoint]].concat(), (&network, &name), EventKind::NetworkConnect)
    }

    pub(super) async fn disconnect(&mut self, name: &str) -> Result<(), Failure> {
        let mut left = self.endpoints()?;
        let before = left.len();
        left.retain(|endpoint| endpoint.network != name);
        // Asked again after the supervisor before this one was killed.
        if left.len() == before {
            return Ok(());
        }
        let network = self.network(name).await?;
        if let Some(run) = &mut self.run {
            run.disconnect(&self.config, &left, name).await?;
        }
        self.settle(left, (&network, name), EventKind::NetworkDisconnect)
    }

    /// Returns where the container is connected, or why that cannot be changed.
    fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let why = match &self.config.network {
            NetworkMode::Networks(endpoints) => return Ok(endpoints.clone()),
            NetworkMode::None => "has no network, and stays so (network_mode: none)",
            NetworkMode::Host => "is on the host's network, and stays there (network_mode: host)",
            NetworkMode::Container(_) => "shares the network of another container, and cannot be connected itself",
        };
        Err(conflict(&self.config, why))
    }

    async fn network(&self, name: &str) -> Result<Id, Failure> {
        let network = self.project.networks.get(name).await.map_err(caused)?;
        network.map(|network| network.id).ok_or_else(|| Failure {
            kind: FailureKind::NoSuchNetwork,
            message: format!("network {name} not found"),
            hint: None,
        })
    }

    /// Writes down where the container is connected now.
    fn settle(
        &mut self,
        endpoints: Vec<Endpoint>,
        (network, name): (&Id, &str),
        event: EventKind,
    ) -> Result<(), Failure> {
        let config = ContainerConfig { network: NetworkMode::Networks(endpoints), ..self.config.clone() };
        store::configure(&self.project.root, &config)?;
        self.config = config;
        if let Some(run) = &self.run {
            self.state.endpoints.clone_from(&run.endpoints);
            self.state.ports.clone_from(&run.ports);
            self.project.events.network(network, name, event, Some(&self.config.id));
        }
        self.save();
        Ok(())
    }
}
