//! The engine as one project sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as StdMutex};

use rcompose_engine::container::state::ContainerState;
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::id::Id;
use rcompose_engine::network;
use rcompose_engine::network::config::NetworkConfig;
use rcompose_engine::protocol::{Condition, EventKind, FailureKind};
use rcompose_engine::root::Root;
use rcompose_engine::supervisor::client::{Client, ClientError};
use rcompose_engine::supervisor::spawn::Starting;
use rcompose_engine::volume::{self, VolumeError};
use tokio::sync::Mutex;

use super::labels;
use super::observe::{Observed, Volume};

/// How many supervisors may die under one that waits: more than that is no accident.
const ATTEMPTS: u32 = 20;

/// What is on disk, and, from the first need on, a connection to the project's supervisor.
#[derive(Debug)]
pub struct Engine {
    pub root: Root,
    pub project: String,
    client: Mutex<Option<Arc<Client>>>,
    /// A supervisor that was started before it is needed.
    starting: StdMutex<Option<Starting>>,
}

/// What is there could not be seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Containers(#[from] store::StoreError),
    #[error(transparent)]
    Volumes(#[from] VolumeError),
    #[error(transparent)]
    Networks(#[from] network::StoreError),
}

impl Engine {
    pub fn new(root: Root, project: String) -> Self {
        Self { root, project, client: Mutex::new(None), starting: StdMutex::default() }
    }

    /// Starts the project's supervisor where none runs, for a command that is about to need it and has other things to do
    /// until then.
    pub fn begin(&self) {
        let is_there = self.root.project_run(&self.project).join("supervisor.sock").exists();
        // What fails here fails again, and is told, where the supervisor is needed.
        if !is_there && let Ok(starting) = Starting::begin(&self.root, &self.project) {
            *self.starting.lock().expect("no holder of this lock panics") = Some(starting);
        }
    }

    /// Returns the connection to the project's supervisor, which is started where none runs.
    pub async fn client(&self) -> Result<Arc<Client>, ClientError> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(Arc::clone(client));
        }
        let starting = self.starting.lock().expect("no holder of this lock panics").take();
        let connected = Arc::new(Client::connect_or_start(&self.root, &self.project, starting).await?);
        *client = Some(Arc::clone(&connected));
        Ok(connected)
    }

    /// Gives up a connection whose supervisor has died; the next use makes another one.
    pub async fn give_up(&self, ended: &Arc<Client>) {
        let mut client = self.client.lock().await;
        if client.as_ref().is_some_and(|client| Arc::ptr_eq(client, ended)) {
            *client = None;
        }
    }

    /// Lets those who listen to events know what this command does to a container without the supervisor. Without a
    /// supervisor nobody listens.
    pub async fn report<'a>(&self, id: &Id, kind: EventKind, attributes: impl IntoIterator<Item = (&'a str, String)>) {
        let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let client = match self.client.lock().await.as_ref() {
            Some(client) => Some(Arc::clone(client)),
            None => Client::connect(&self.root, &self.project).await.ok().flatten().map(Arc::new),
        };
        if let Some(client) = client {
            // What is done does not depend on who hears of it.
            let _ = client.report(id, kind, attributes).await;
        }
    }

    /// Waits until a container is what is wanted of it, or can no longer become it. A supervisor that dies meanwhile is
    /// followed by the next one, which knows the same.
    pub async fn wait(&self, id: &Id, condition: Condition) -> Result<ContainerState, ClientError> {
        let mut attempts = 0;
        loop {
            let client = self.client().await?;
            match client.wait(id, condition).await {
                Err(ClientError::Ended) if attempts < ATTEMPTS => {
                    attempts += 1;
                    self.give_up(&client).await;
                }
                result => return result,
            }
        }
    }

    /// Asks the supervisor to end, if one runs, now that nothing is left for it to look after.
    pub async fn shutdown(self) -> Result<(), ClientError> {
        let client = match self.client.into_inner().and_then(Arc::into_inner) {
            Some(client) => Some(client),
            None => Client::connect(&self.root, &self.project).await?,
        };
        match client {
            Some(client) => match client.shutdown().await {
                // Somebody has begun something new meanwhile, which is to go on.
                Err(ClientError::Failed(failure)) if failure.kind == FailureKind::Conflict => Ok(()),
                result => result,
            },
            None => Ok(()),
        }
    }

    /// Returns the project's containers, by name.
    pub fn containers(&self) -> Result<Vec<Container>, ObserveError> {
        Ok(store::list(&self.root, Some(&self.project))?)
    }

    /// Returns everything that a plan looks at; `others` are the names or ids of containers of other projects.
    pub fn observe(&self, others: &BTreeSet<String>) -> Result<Observed, ObserveError> {
        Ok(Observed {
            containers: self.containers()?,
            networks: self.networks()?,
            volumes: self.volumes()?,
            others: self.others(others)?,
        })
    }

    /// Returns the volumes of the host, by name.
    pub fn volumes(&self) -> Result<BTreeMap<String, Volume>, ObserveError> {
        let volumes = volume::list(&self.root, None)?.into_iter().map(|volume| volume.config);
        let volumes = volumes.map(|config| (config.name, Volume { project: config.project, labels: config.labels }));
        Ok(volumes.collect())
    }

    /// Returns the networks of the host, by name.
    pub fn networks(&self) -> Result<BTreeMap<String, NetworkConfig>, ObserveError> {
        let networks = network::list(&self.root)?.into_iter().map(|network| network.config);
        Ok(networks.map(|config| (config.name.clone(), config)).collect())
    }

    /// Returns the names of the networks that the project made.
    pub fn own_networks(&self) -> Result<Vec<String>, ObserveError> {
        let own =
            |(name, config): (String, NetworkConfig)| (config.project.as_ref() == Some(&self.project)).then_some(name);
        Ok(self.networks()?.into_iter().filter_map(own).collect())
    }

    /// Returns the names of the volumes that the project's containers got without asking for one by name.
    pub fn anonymous_volumes(&self) -> Result<Vec<String>, ObserveError> {
        let volumes = volume::list(&self.root, Some(&self.project))?.into_iter().map(|volume| volume.config);
        let anonymous = volumes.filter(|config| config.labels.contains_key(labels::ANONYMOUS));
        Ok(anonymous.map(|config| config.name).collect())
    }

    /// Returns the names of the named volumes that the project made.
    pub fn own_volumes(&self) -> Result<Vec<String>, ObserveError> {
        let volumes = volume::list(&self.root, Some(&self.project))?.into_iter().map(|volume| volume.config);
        let own = volumes.filter(|config| config.labels.get(labels::PROJECT) == Some(&self.project));
        Ok(own.map(|config| config.name).collect())
    }

    fn others(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, Container>, ObserveError> {
        let mut others = BTreeMap::new();
        for name in names {
            let found = match Id::try_from(name.clone()) {
                Ok(id) => store::load(&self.root, &id)?,
                Err(_) => store::find(&self.root, name)?,
            };
            others.extend(found.map(|container| (name.clone(), container)));
        }
        Ok(others)
    }
}
