//! A plan as it is shown and kept: what is done to what and why, what that costs, and in which order.

use petgraph::Direction;
use rcompose_engine::container::config::{Mount, MountSource};
use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::update::Order;
use super::{Action, Cause, Named, New, Plan, Step, Until};
use crate::compose::Place;
use crate::compose::key::KeyPath;
use crate::project::labels::{self, Labelled as _};
use crate::project::observe::Observed;
use crate::ui::human;

/// The version of this form.
pub const VERSION: u32 = 1;

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`]; another one is not understood.
    pub version: u32,
    pub project: String,
    pub steps: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// From 0, in an order in which all could be done one after the other.
    pub id: usize,
    pub action: Verb,
    /// What that is done to.
    pub kind: Kind,
    /// The name of that.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The hash of the definition of what is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    pub cause: Why,
    /// What is lost for ever, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loses: Vec<String>,
    /// Whether something that runs does not meanwhile.
    #[serde(default)]
    pub interrupts: bool,
    /// How containers are replaced while their service goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Rolling>,
    /// What has to be over before.
    pub after: Vec<usize>,
}

/// The containers that are replaced while their service goes on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolling {
    pub containers: Vec<String>,
    /// Whether a new one starts before the old one stops.
    pub start_first: bool,
    pub at_a_time: usize,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    Pull,
    Create,
    Replace,
    /// Containers of a service are replaced while it goes on.
    Update,
    Remove,
    Rename,
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Unpause,
    Keep,
    WaitUntilHealthy,
    WaitUntilRunning,
    WaitUntilCompleted,
    /// Nothing: what comes after it comes after all before it.
    Join,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Container,
    Network,
    Volume,
    Image,
    Service,
    Step,
}

impl Kind {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Service => "service",
            Self::Step => "step",
        }
    }
}

/// Why something is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// For programs: a word that stays as it is.
    pub reason: String,
    /// For people.
    pub text: String,
    /// What in the files says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Changed>,
}

/// One attribute that has another value now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Such as `services.web.ports[0].published`.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// An image that is fetched before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub service: String,
    pub reference: String,
    /// It is there, and its registry is asked for a newer one.
    pub again: bool,
}

/// What a plan is described with.
#[expect(missing_debug_implementations, reason = "closures have none")]
pub struct Facts<'a> {
    pub observed: &'a Observed,
    /// Where an attribute stands.
    pub place: &'a dyn Fn(&KeyPath) -> Option<Place>,
    /// How many bytes a container has written in its own layer.
    pub written: &'a dyn Fn(&Id) -> u64,
}

impl Document {
    /// Describes a plan, and what is fetched before it.
    pub fn of(plan: &Plan, project: &str, fetched: &[Fetched], facts: &Facts<'_>) -> Self {
        let mut steps = fetched.iter().enumerate().map(|(id, fetched)| pull(id, fetched, facts)).collect::<Vec<_>>();
        let order = plan.order();
        let mut ids = vec![0; plan.steps.node_count()];
        for (n, step) in order.iter().enumerate() {
            ids[step.index()] = fetched.len() + n;
        }
        let pulls = (0..fetched.len()).collect::<Vec<_>>();
        for step in order {
            let earlier = plan.steps.neighbors_directed(step, Direction::Incoming).map(|earlier| ids[earlier.index()]);
            // Images are fetched before anything else.
            let mut after = earlier.chain(pulls.iter().copied()).collect::<Vec<_>>();
            after.sort_unstable();
            steps.push(Entry { after, ..entry(ids[step.index()], &plan.steps[step], facts) });
        }
        Self { version: VERSION, project: project.to_owned(), steps, warnings: plan.warnings.clone() }
    }

    /// Returns the steps that change something.
    pub fn changes(&self) -> impl Iterator<Item = &Entry> {
        self.steps.iter().filter(|step| step.action.changes())
    }

    /// Returns the first step in which another plan does something else, as it is in both. Where the files say so does
    /// not count, nor what has to be fetched, nor what would be lost.
    pub fn difference<'a>(&'a self, other: &'a Self) -> Option<(Option<&'a Entry>, Option<&'a Entry>)> {
        let done = |document: &'a Self| document.steps.iter().filter(|step| step.action != Verb::Pull);
        let (mut own, mut others) = (done(self), done(other));
        loop {
            match (own.next(), others.next()) {
                (None, None) => return None,
                (Some(a), Some(b)) if a.does_as(b) => {}
                pair => return Some(pair),
            }
        }
    }
}

impl Verb {
    /// Returns whether anything is different afterwards.
    pub fn changes(self) -> bool {
        !matches!(
            self,
            Self::Keep | Self::WaitUntilHealthy | Self::WaitUntilRunning | Self::WaitUntilCompleted | Self::Join
        )
    }
}

impl Entry {
    fn does_as(&self, other: &Self) -> bool {
        let done = |entry: &Self| (entry.action, entry.kind, entry.name.clone(), entry.hash.clone());
        done(self) == done(other) && self.cause.reason == other.cause.reason
    }
}

fn pull(id: usize, fetched: &Fetched, facts: &Facts<'_>) -> Entry {
    let path = KeyPath::of(&["services", &fetched.service, "image"]);
    let (reason, text) = if fetched.again {
        ("policy", "its registry is asked whether there is a newer one")
    } else {
        ("missing", "it is not there yet")
    };
    Entry {
        id,
        action: Verb::Pull,
        kind: Kind::Image,
        name: fetched.reference.clone(),
        service: Some(fetched.service.clone()),
        hash: None,
        cause: Why {
            reason: reason.to_owned(),
            text: text.to_owned(),
            place: (facts.place)(&path),
            changes: Vec::new(),
        },
        loses: Vec::new(),
        interrupts: false,
        rolling: None,
        after: Vec::new(),
    }
}

fn entry(id: usize, step: &Step, facts: &Facts<'_>) -> Entry {
    let mut loses = Vec::new();
    let mut interrupts = false;
    let lost_with = |id: &Id| match (facts.written)(id) {
        0 => None,
        bytes => Some(format!("{} that it wrote outside of its volumes", human::size(bytes))),
    };
    let (action, kind, name) = match &step.action {
        Action::CreateNetwork(config) => (Verb::Create, Kind::Network, &config.name),
        Action::RemoveNetwork { name, .. } => (Verb::Remove, Kind::Network, name),
        Action::CreateVolume(volume) => (Verb::Create, Kind::Volume, &volume.name),
        Action::RemoveVolume { name, .. } => {
            loses.push("all that is in it".to_owned());
            (Verb::Remove, Kind::Volume, name)
        }
        Action::RemoveImage { reference } => (Verb::Remove, Kind::Image, reference),
        Action::Rename { container, .. } => (Verb::Rename, Kind::Container, &container.name),
        Action::Create(new) => (Verb::Create, Kind::Container, &new.config.name),
        Action::Recreate { old, running, new, .. } => {
            loses.extend(lost_with(&old.id));
            loses.extend(renewed(facts.observed, old, new));
            interrupts = *running;
            (Verb::Replace, Kind::Container, &new.config.name)
        }
        Action::Update(update) => {
            for replacement in &update.replacements {
                let old = &replacement.old.container;
                let lost = lost_with(&old.id).into_iter().chain(renewed(facts.observed, old, &replacement.new));
                loses.extend(lost.map(|lost| format!("of {}, {lost}", old.name)));
            }
            interrupts = update.policy.order == Order::StopFirst;
            (Verb::Update, Kind::Service, &update.service)
        }
        Action::Start { container, .. } => (Verb::Start, Kind::Container, &container.name),
        Action::Stop { container, .. } => {
            interrupts = true;
            (Verb::Stop, Kind::Container, &container.name)
        }
        Action::Restart { container, .. } => {
            interrupts = true;
            (Verb::Restart, Kind::Container, &container.name)
        }
        Action::Kill { container, .. } => (Verb::Kill, Kind::Container, &container.name),
        Action::Pause(container) => (Verb::Pause, Kind::Container, &container.name),
        Action::Unpause(container) => (Verb::Unpause, Kind::Container, &container.name),
        Action::Remove { container, .. } => {
            loses.extend(lost_with(&container.id));
            (Verb::Remove, Kind::Container, &container.name)
        }
        Action::Keep { container, .. } => (Verb::Keep, Kind::Container, &container.name),
        Action::Wait(wait) => {
            let verb = match wait.until {
                Until::Healthy => Verb::WaitUntilHealthy,
                Until::RunningOrHealthy => Verb::WaitUntilRunning,
                Until::Completed | Until::Prepared => Verb::WaitUntilCompleted,
            };
            (verb, Kind::Service, &wait.service)
        }
        Action::Barrier => (Verb::Join, Kind::Step, &String::new()),
    };
    let service = service(&step.action, facts.observed);
    Entry {
        id,
        action,
        kind,
        name: name.clone(),
        hash: made(&step.action).and_then(|labels| labels.get(labels::CONFIG_HASH).cloned()),
        cause: why(step, service.as_deref(), facts),
        service,
        loses,
        interrupts,
        rolling: rolling(&step.action),
        after: Vec::new(),
    }
}

fn rolling(action: &Action) -> Option<Rolling> {
    let Action::Update(update) = action else { return None };
    let containers = update.replacements.iter().map(|replacement| replacement.old.container.name.clone());
    Some(Rolling {
        containers: containers.collect(),
        start_first: update.policy.order == Order::StartFirst,
        at_a_time: update.policy.at_a_time(update.replacements.len()),
    })
}

/// Returns the labels of what a step makes.
fn made(action: &Action) -> Option<&labels::Labels> {
    match action {
        Action::CreateNetwork(config) => Some(&config.labels),
        Action::CreateVolume(volume) => Some(&volume.labels),
        Action::Create(new) | Action::Recreate { new, .. } => Some(&new.config.labels),
        Action::Update(update) => update.replacements.first().map(|replacement| &replacement.new.config.labels),
        _ => None,
    }
}

/// Returns the service that a step is about.
fn service(action: &Action, observed: &Observed) -> Option<String> {
    let of = |id: &Id| {
        let container = observed.containers.iter().find(|container| container.config.id == *id);
        container.map(|container| container.service().to_owned())
    };
    match action {
        Action::Create(_) | Action::Recreate { .. } => made(action)?.get(labels::SERVICE).cloned(),
        Action::Rename { container, .. }
        | Action::Start { container, .. }
        | Action::Stop { container, .. }
        | Action::Restart { container, .. }
        | Action::Kill { container, .. }
        | Action::Pause(container)
        | Action::Unpause(container)
        | Action::Remove { container, .. }
        | Action::Keep { container, .. } => of(&container.id),
        Action::Wait(wait) => Some(wait.service.clone()),
        Action::Update(update) => Some(update.service.clone()),
        _ => None,
    }
}

/// Returns the volumes without a name that a container leaves behind, whose successor gets new ones.
fn renewed(observed: &Observed, old: &Named, new: &New) -> Vec<String> {
    let anonymous = |mounts: &[Mount]| -> Vec<(String, String)> {
        let named = mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume { name, anonymous: true, .. } => Some((mount.target.clone(), name.clone())),
            _ => None,
        });
        named.collect()
    };
    let old: Option<&Container> = observed.containers.iter().find(|container| container.config.id == old.id);
    let kept = anonymous(&new.config.mounts);
    let lost = old.map(|old| anonymous(&old.config.mounts)).unwrap_or_default().into_iter();
    lost.filter(|volume| !kept.contains(volume))
        .map(|(target, _)| {
            format!("what is in its volume without a name at {target}, which stays behind until `down -v`")
        })
        .collect()
}

fn why(step: &Step, service: Option<&str>, facts: &Facts<'_>) -> Why {
    let of_service = |rest: &[&str]| {
        let mut names = vec!["services", service?];
        names.extend(rest);
        Some(KeyPath::of(&names))
    };
    let labelled =
        |labels: &labels::Labels, section: &str, label: &str| labels.get(label).map(|key| KeyPath::of(&[section, key]));
    let mut changes = &Vec::new();
    let (reason, text, path) = match &step.cause {
        Cause::Missing => {
            let path = match &step.action {
                Action::CreateNetwork(config) => labelled(&config.labels, "networks", labels::NETWORK),
                Action::CreateVolume(volume) => labelled(&volume.labels, "volumes", labels::VOLUME),
                _ => of_service(&[]),
            };
            let started = matches!(step.action, Action::Start { .. });
            ("missing", if started { "it is new" } else { "it is not there yet" }.to_owned(), path)
        }
        Cause::UpToDate => ("up-to-date", "it is as the project says".to_owned(), None),
        Cause::NotRunning => ("not-running", "it does not run".to_owned(), of_service(&[])),
        Cause::ConfigChanged(found) => {
            changes = found;
            let path = if found.is_empty() { of_service(&[]) } else { None };
            ("config-changed", "its definition is another one".to_owned(), path)
        }
        Cause::ImageChanged { old, new } => {
            let text = if new.is_empty() {
                "its image is not there and is pulled first".to_owned()
            } else {
                format!("its image is another one: {} → {}", short(old), short(new))
            };
            ("image-changed", text, of_service(&["image"]))
        }
        Cause::NetworkChanged { name, changes: found } => {
            changes = found;
            ("network-changed", format!("network {name} has another definition"), None)
        }
        Cause::NotConnected(network) => {
            ("network-changed", format!("it is not connected to network {network}"), of_service(&["networks"]))
        }
        Cause::VolumeChanged(volume) => {
            ("volume-changed", format!("volume {volume} is not mounted in it"), of_service(&["volumes"]))
        }
        Cause::VolumeRedefined(volume) => {
            let path = match &step.action {
                Action::CreateVolume(volume) => labelled(&volume.labels, "volumes", labels::VOLUME),
                _ => None,
            };
            ("volume-changed", format!("volume {volume} has another definition"), path)
        }
        Cause::FileChanged(target) => {
            ("file-changed", format!("the content of its config or secret {target} is another one"), of_service(&[]))
        }
        Cause::Joined(other) => {
            ("joined", format!("it shares something with {other}, which is replaced"), of_service(&[]))
        }
        Cause::RestartedWith(other) => (
            "restarted-with",
            format!("{other} is replaced, with which it is to be restarted"),
            of_service(&["depends_on", other, "restart"]),
        ),
        Cause::NeededBy(user) => {
            let path = service.map(|service| KeyPath::of(&["services", user, "depends_on", service]));
            ("needed", format!("{user} depends on it"), path)
        }
        Cause::PreStart(user) => ("pre-start", format!("it runs before {user} starts"), of_service(&["pre_start"])),
        Cause::Superseded => ("superseded", "a replacement was cut short before".to_owned(), None),
        Cause::Misnamed => ("misnamed", "a replacement was cut short before".to_owned(), None),
        Cause::ScaledDown => ("scaled-down", "its service has fewer containers now".to_owned(), of_service(&["scale"])),
        Cause::Orphan => ("orphan", "no service of the project has it".to_owned(), None),
        Cause::Asked => ("asked", "it was asked for".to_owned(), None),
    };
    let changes = changes.iter().map(|change| Changed {
        path: change.path.to_string(),
        old: change.old.clone(),
        new: change.new.clone(),
        place: (facts.place)(&change.path),
    });
    Why {
        reason: reason.to_owned(),
        text,
        place: path.and_then(|path| (facts.place)(&path)),
        changes: changes.collect(),
    }
}

/// Returns the first twelve digits of a digest.
fn short(digest: &str) -> &str {
    let digits = digest.rsplit(':').next().unwrap_or(digest);
    digits.get(..12).unwrap_or(digits)
}
