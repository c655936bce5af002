//! The network of commands: one of this process's builds, made when the first command needs it, with a way out and the
//! engine's resolver.

use std::net::IpAddr;

use tokio::sync::OnceCell;

use super::run::PROJECT;
use crate::container::config::Endpoint;
use crate::container::state::EndpointState;
use crate::id::Id;
use crate::network::config::NetworkConfig;
use crate::network::{Member, NetworkError, Networks, Options, Sandbox};
use crate::root::Root;

/// How the names of networks of builds begin; no project has such a name.
const PREFIX: &str = ".build-";

/// Why a command has no network.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect the command to a network")]
pub struct UplinkError(#[from] NetworkError);

/// The network of this process's builds.
#[derive(Debug)]
pub(super) struct Uplink {
    root: Root,
    name: String,
    networks: OnceCell<Networks>,
}

impl Uplink {
    pub(super) fn new(root: &Root) -> Self {
        Self { root: root.clone(), name: format!("{PREFIX}{}", std::process::id()), networks: OnceCell::new() }
    }

    async fn networks(&self) -> Result<&Networks, NetworkError> {
        self.networks
            .get_or_try_init(|| async {
                let networks = Networks::open(&self.root, Options::default()).await?;
                // What a build that was killed has left. One that builds still has its network in use, or is about to.
                for left in networks.list().await? {
                    let builder = left.config.name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
                    if builder.is_some_and(|pid| pid == std::process::id() || !is_alive(pid)) {
                        match networks.remove(&left.config.name).await {
                            // Another one that builds was faster.
                            Ok(_) | Err(NetworkError::Unknown(_) | NetworkError::InUse { .. }) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                let config = NetworkConfig {
                    name: self.name.clone(),
                    project: Some(PROJECT.to_owned()),
                    enable_ipv4: true,
                    ..NetworkConfig::default()
                };
                networks.ensure(&config).await?;
                Ok(networks)
            })
            .await
    }

    /// Makes a network namespace that is on the network. Returns it with its addresses and that of the host.
    pub(super) async fn join(&self, id: &Id) -> Result<(Sandbox, Vec<EndpointState>, Option<IpAddr>), UplinkError> {
        let networks = self.networks().await?;
        let sandbox = networks.sandbox().await?;
        let member = Member { id: id.clone(), name: id.short().to_owned(), project: PROJECT.to_owned(), visible: true };
        let endpoint = Endpoint { network: self.name.clone(), ..Endpoint::default() };
        let joined = networks.join(&sandbox, &member, &[endpoint], &[], &[]).await?;
        let gateway = networks.host_gateway(&joined.endpoints).await?;
        Ok((sandbox, joined.endpoints, gateway))
    }

    /// Says that a command has ended.
    pub(super) async fn leave(&self, id: &Id) -> Result<(), UplinkError> {
        match self.networks.get() {
            Some(networks) => Ok(networks.forget(id).await?),
            None => Ok(()),
        }
    }

    /// Removes the network.
    pub(super) async fn close(&self) -> Result<(), UplinkError> {
        match self.networks.get() {
            Some(networks) => Ok(networks.remove(&self.name).await?.finished().await?),
            None => Ok(()),
        }
    }
}

/// Returns whether there is a process with this number.
fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}
