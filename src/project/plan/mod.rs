//! What has to be done, in which order, and why: a graph of steps that [`super::apply`] carries out.
//!
//! Planning is pure: it looks at what is wanted and what is there, and does nothing.

pub mod autostart;
pub mod change;
pub mod document;
pub mod down;
pub mod lifecycle;
pub mod start;
pub mod up;
pub mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use petgraph::graph::{DiGraph, NodeIndex};
use rcompose_engine::container::config::ContainerConfig;
use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use rcompose_engine::network::config::NetworkConfig;
use rcompose_engine::protocol::ProvidedFile;

use change::Change;
use update::Update;

use super::container::AnonymousVolume;
use super::hooks::Hooks;
use super::labels::{HOOK, Labels, ONEOFF};
use crate::compose::model::Hook;

/// Steps, and an edge from each to those that come after it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub steps: DiGraph<Step, ()>,
    /// What the user should know before anything is done.
    pub warnings: Vec<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub action: Action,
    pub cause: Cause,
}

/// A container by the two names it goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: Id,
    pub name: String,
}

impl From<&Container> for Named {
    fn from(container: &Container) -> Self {
        Self { id: container.config.id.clone(), name: container.config.name.clone() }
    }
}

impl From<&ContainerConfig> for Named {
    fn from(config: &ContainerConfig) -> Self {
        Self { id: config.id.clone(), name: config.name.clone() }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    CreateNetwork(Box<NetworkConfig>),
    RemoveNetwork {
        name: String,
        /// Whether it stays without an error where somebody uses it.
        unless_used: bool,
    },
    CreateVolume(Volume),
    RemoveVolume {
        name: String,
        /// Nobody knows it by its name, so that there is nothing to say about it.
        anonymous: bool,
    },
    Rename {
        container: Named,
        name: String,
    },
    RemoveImage {
        reference: String,
    },
    Create(Box<New>),
    /// Makes a container in another one's place, which is stopped and removed.
    Recreate {
        old: Named,
        running: bool,
        new: Box<New>,
        timeout: Option<Duration>,
        /// What runs in the old one before it is stopped.
        pre_stop: Vec<Hook>,
    },
    /// Replaces containers while their service goes on.
    Update(Box<Update>),
    Start {
        container: Named,
        /// Its configs and secrets, which may have been lost since it was made.
        files: Vec<ProvidedFile>,
        /// What runs in it then; it counts as started when that is over.
        post_start: Vec<Hook>,
    },
    Stop {
        container: Named,
        timeout: Option<Duration>,
        /// What runs in it before; where that fails, it is not stopped.
        pre_stop: Vec<Hook>,
    },
    Restart {
        container: Named,
        timeout: Option<Duration>,
        hooks: Hooks,
    },
    Kill {
        container: Named,
        signal: String,
    },
    Pause(Named),
    Unpause(Named),
    Remove {
        container: Named,
        /// Also the volumes that were made for it alone.
        volumes: bool,
        /// Also while it runs.
        force: bool,
    },
    /// The container is as it should be.
    Keep {
        container: Named,
        running: bool,
    },
    Wait(Wait),
    /// Nothing itself: what comes after it comes after all before it.
    Barrier,
}

impl Action {
    /// Returns whether it makes containers of images.
    pub fn makes_containers(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Recreate { .. } | Self::Update(_))
    }
}

/// A container to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct New {
    pub config: ContainerConfig,
    /// The volumes that are made for it and nobody else.
    pub volumes: Vec<AnonymousVolume>,
    /// The configs and secrets that it does not find on the host.
    pub files: Vec<ProvidedFile>,
}

impl New {
    /// Returns whether it is made besides the containers of the project.
    pub fn is_one_off(&self) -> bool {
        self.config.labels.get(ONEOFF).is_some_and(|value| value == "True") && !self.config.labels.contains_key(HOOK)
    }
}

/// A named volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: Labels,
}

/// A service to be waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub service: String,
    pub containers: Vec<Named>,
    pub until: Until,
    /// Whether it is an error if it does not come to that.
    pub required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// The health check passed.
    Healthy,
    /// The health check passed; where there is none, the container runs.
    RunningOrHealthy,
    /// The containers ended with status 0.
    Completed,
    /// The same of those that make ready what the service needs (`pre_start`).
    Prepared,
}

/// Why a step is there.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// It is in the project and was not there.
    Missing,
    /// It is there as it should be.
    UpToDate,
    /// It does not run.
    NotRunning,
    /// The service's definition is another one; how, where it is known.
    ConfigChanged(Vec<Change>),
    /// The image's name leads to another image.
    ImageChanged { old: String, new: String },
    /// The network's definition is another one.
    NetworkChanged { name: String, changes: Vec<Change> },
    /// It is not connected to this network.
    NotConnected(String),
    /// The volume is not the one that is mounted.
    VolumeChanged(String),
    /// The volume's definition is another one.
    VolumeRedefined(String),
    /// The config or secret at this place has another content.
    FileChanged(String),
    /// It shares something with a container of this service, which is replaced.
    Joined(String),
    /// A service that it is to be restarted with.
    RestartedWith(String),
    /// A service depends on it.
    NeededBy(String),
    /// The service says that it runs before its containers start (`pre_start`).
    PreStart(String),
    /// It has another name than its service gives it, as after a replacement that was cut short.
    Misnamed,
    /// Another one has its place, as after a replacement that was cut short.
    Superseded,
    /// There are more containers than the service has.
    ScaledDown,
    /// No service of the project has it.
    Orphan,
    /// The user asked for it.
    Asked,
}

impl Plan {
    /// Adds a step that comes after these.
    pub fn add(&mut self, action: Action, cause: Cause, after: &[NodeIndex]) -> NodeIndex {
        let step = self.steps.add_node(Step { action, cause });
        for earlier in after {
            self.steps.update_edge(*earlier, step, ());
        }
        step
    }

    /// Returns the steps, each behind all that it comes after, and else as they were planned.
    pub fn order(&self) -> Vec<NodeIndex> {
        let earlier = |step| self.steps.neighbors_directed(step, petgraph::Incoming).count();
        let mut missing = self.steps.node_indices().map(earlier).collect::<Vec<_>>();
        let mut ready = self.steps.node_indices().filter(|step| missing[step.index()] == 0).collect::<BTreeSet<_>>();
        let mut order = Vec::with_capacity(missing.len());
        while let Some(step) = ready.pop_first() {
            order.push(step);
            for later in self.steps.neighbors(step) {
                missing[later.index()] -= 1;
                if missing[later.index()] == 0 {
                    ready.insert(later);
                }
            }
        }
        order
    }

    /// Returns the container that is made besides those of the project.
    pub fn one_off(&self) -> Option<&ContainerConfig> {
        self.steps.node_weights().find_map(|step| match &step.action {
            Action::Create(new) if new.is_one_off() => Some(&new.config),
            _ => None,
        })
    }

    /// Returns whether containers are made.
    pub fn makes_containers(&self) -> bool {
        self.steps.node_weights().any(|step| step.action.makes_containers())
    }

    /// Returns whether containers are replaced while their service goes on.
    pub fn updates(&self) -> bool {
        self.steps.node_weights().any(|step| matches!(step.action, Action::Update(_)))
    }

    /// Returns whether nothing but looking has to be done.
    pub fn is_empty(&self) -> bool {
        let changes_nothing =
            |action: &Action| matches!(action, Action::Keep { .. } | Action::Wait(_) | Action::Barrier);
        self.steps.node_weights().all(|step| changes_nothing(&step.action))
    }
}

#[cfg(test)]
mod testing {
    use rcompose_engine::container::config::NetworkMode;
    use rcompose_engine::container::state::{ContainerState, Status};

    use super::*;
    use crate::project::labels;

    /// Returns a container as `up` would have made it for a service whose hash is `hash of <service>`.
    pub(super) fn container(name: &str, service: &str, number: u32, depends_on: &str, status: Status) -> Container {
        let labels = [
            (labels::PROJECT, "shop"),
            (labels::SERVICE, service),
            (labels::NUMBER, &number.to_string()),
            (labels::CONFIG_HASH, &format!("hash of {service}")),
            (labels::ONEOFF, "False"),
            (labels::DEPENDS_ON, depends_on),
        ];
        let endpoint = rcompose_engine::container::config::Endpoint {
            network: "shop_default".into(),
            aliases: vec![service.into()],
            ..rcompose_engine::container::config::Endpoint::default()
        };
        let config = ContainerConfig {
            created: jiff::Timestamp::UNIX_EPOCH,
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            network: NetworkMode::Networks(vec![endpoint]),
            ..ContainerConfig::new(name.into(), "shop".into(), "busybox".into(), "sha256:1".into())
        };
        Container { config, state: ContainerState::new(status) }
    }

    fn describe(action: &Action) -> String {
        match action {
            Action::CreateNetwork(config) => format!("create network {}", config.name),
            Action::RemoveNetwork { name, .. } => format!("remove network {name}"),
            Action::CreateVolume(volume) => format!("create volume {}", volume.name),
            Action::RemoveVolume { name, .. } => format!("remove volume {name}"),
            Action::Rename { container, name } => format!("rename {} to {name}", container.name),
            Action::RemoveImage { reference } => format!("remove image {reference}"),
            Action::Create(new) => format!("create {}", new.config.name),
            Action::Recreate { new, .. } => format!("recreate {}", new.config.name),
            Action::Update(update) => format!("update {} of {}", update.replacements.len(), update.service),
            Action::Start { container, .. } => format!("start {}", container.name),
            Action::Stop { container, .. } => format!("stop {}", container.name),
            Action::Restart { container, .. } => format!("restart {}", container.name),
            Action::Kill { container, .. } => format!("kill {}", container.name),
            Action::Pause(container) => format!("pause {}", container.name),
            Action::Unpause(container) => format!("unpause {}", container.name),
            Action::Remove { container, .. } => format!("remove {}", container.name),
            Action::Keep { container, .. } => format!("keep {}", container.name),
            Action::Wait(wait) => format!("wait for {}", wait.service),
            Action::Barrier => "barrier".to_owned(),
        }
    }

    pub(super) fn steps(plan: &Plan) -> Vec<String> {
        plan.steps.node_weights().map(|step| format!("{} ({:?})", describe(&step.action), step.cause)).collect()
    }

    pub(super) fn edges(plan: &Plan) -> Vec<String> {
        let edge = |edge: petgraph::graph::EdgeIndex| {
            let (from, to) = plan.steps.edge_endpoints(edge).unwrap();
            format!("{} → {}", describe(&plan.steps[from].action), describe(&plan.steps[to].action))
        };
        plan.steps.edge_indices().map(edge).collect()
    }
}
