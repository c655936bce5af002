//! `up`, `create` and `scale`: from what there is to what the project wants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use petgraph::graph::NodeIndex;
use rcompose_engine::container::config::{
    ContainerConfig, FileContent, Mount, MountSource, NamespaceMode, NetworkMode,
};
use rcompose_engine::container::memory::digest;
use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use rcompose_engine::network::config::NetworkConfig;
use rcompose_engine::protocol::ProvidedFile;

use super::change::{Change, changes};
use super::{Action, Cause, Named, New, Plan, Until, Volume, Wait, lifecycle};
use crate::compose::key::KeyPath;
use crate::compose::model::{self, Condition, MountKind, Project, Service};
use crate::project::container::{Blueprint, InvalidAttribute, References, Referred};
use crate::project::graph;
use crate::project::image::Image;
use crate::project::labels::{self, Labelled as _, ProjectLabels};
use crate::project::names;
use crate::project::network;
use crate::project::observe::{self, Observed};
use crate::project::oneoff::OneOff;

/// Which containers are replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recreate {
    /// Those that are not what the project says now.
    #[default]
    Diverged,
    Force,
    Never,
}

/// How to go from one to the other.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The services that were named; none: all.
    pub services: Vec<String>,
    pub recreate: Recreate,
    /// For services that were not named but are depended on.
    pub recreate_dependencies: Recreate,
    pub renew_anonymous_volumes: bool,
    pub remove_orphans: bool,
    pub ignore_orphans: bool,
    /// Only make containers, start none.
    pub no_start: bool,
    /// Wait until all run or are healthy.
    pub wait: bool,
    /// How long a container that is replaced or removed has to stop.
    pub timeout: Option<Duration>,
    /// Volumes that are removed with their data, and made again, because they are to be others.
    pub replaced_volumes: BTreeSet<String>,
    /// A container besides those of the project: instead of its service, which everything else is there for.
    pub one_off: Option<OneOff>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub project: &'a Project,
    pub labels: &'a ProjectLabels,
    /// By service.
    pub images: &'a BTreeMap<String, Image>,
    /// Images that are mounted, by reference.
    pub mounted_images: &'a BTreeMap<String, Image>,
}

/// Why there is no way from what there is to what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error(transparent)]
    Container(#[from] InvalidAttribute),
    #[error(transparent)]
    Network(#[from] network::InvalidNetwork),
    #[error(transparent)]
    Order(#[from] graph::Cycle),
    #[error("network {0} declared as external, but could not be found")]
    ExternalNetwork(String),
    #[error("external volume \"{0}\" not found")]
    ExternalVolume(String),
    #[error(
        "the \"{service}\" service is using the custom container name \"{name}\", and each container needs a name of its own: \
         remove the name to scale the service"
    )]
    NamedScale { service: String, name: String },
}

/// Returns the plan that makes `observed` what is `wanted`.
pub fn up(wanted: Wanted<'_>, observed: &Observed, options: &Options) -> Result<Plan, UpError> {
    let planner = Planner {
        wanted,
        observed,
        options,
        plan: Plan::default(),
        resources: Vec::new(),
        created: Vec::new(),
        left: BTreeMap::new(),
        services: BTreeMap::new(),
        waits: BTreeMap::new(),
    };
    planner.run()
}

struct Planner<'a> {
    wanted: Wanted<'a>,
    observed: &'a Observed,
    options: &'a Options,
    plan: Plan,
    /// The steps that make networks and volumes.
    resources: Vec<NodeIndex>,
    /// The steps that make containers.
    created: Vec<NodeIndex>,
    /// The containers that are removed because of a network or volume that is made again, with the last steps of that.
    left: BTreeMap<Id, NodeIndex>,
    services: BTreeMap<String, Settled>,
    waits: BTreeMap<(String, Until, bool), NodeIndex>,
}

/// What becomes of a service.
#[derive(Default)]
struct Settled {
    members: Vec<Member>,
    /// Whether one of its containers is replaced.
    replaced: bool,
    /// The steps that stop containers which are replaced.
    replacing: Vec<NodeIndex>,
    starts: Vec<NodeIndex>,
    /// The configs and secrets that its containers do not find on the host.
    files: Vec<ProvidedFile>,
}

/// A container that the service has in the end.
struct Member {
    number: u32,
    named: Named,
    referred: Referred,
    /// The step that makes it, where it is not there.
    made: Option<NodeIndex>,
    running: bool,
}

impl Planner<'_> {
    fn run(mut self) -> Result<Plan, UpError> {
        let order = graph::order(self.wanted.project)?;
        self.orphans();
        self.networks()?;
        self.volumes()?;
        // The one-off container comes last, and its service is left as it is.
        let lasting = |name: &&String| self.options.one_off.as_ref().is_none_or(|one_off| one_off.service != **name);
        let order = order.iter().filter(lasting).collect::<Vec<_>>();
        for name in order.iter().copied() {
            let service = &self.wanted.project.services[name];
            let settled = self.containers(service)?;
            self.services.insert(name.clone(), settled);
        }
        if !self.options.no_start {
            // Nothing starts before everything is made, so that what cannot be made costs nothing that runs.
            let after = if self.created.is_empty() { &self.resources } else { &self.created };
            let made = self.plan.add(Action::Barrier, Cause::Asked, &after.clone());
            for name in order.iter().copied() {
                self.start(&self.wanted.project.services[name], made);
            }
            if self.options.wait {
                for name in order.iter().copied() {
                    if self.wanted.project.services[name].replicas() > 0 {
                        self.wait(name, Until::RunningOrHealthy, true, Cause::Asked);
                    }
                }
            }
        }
        if let Some(one_off) = &self.options.one_off {
            self.one_off(one_off)?;
        }
        Ok(self.plan)
    }

    /// Plans the container that is made besides those of the project, once everything that it depends on is ready.
    fn one_off(&mut self, one_off: &OneOff) -> Result<(), UpError> {
        let service = &self.wanted.project.services[&one_off.service];
        let mut after = self.after(service);
        after.extend(self.dependencies(service));
        for mount in service.volumes.iter().filter(|mount| mount.kind == MountKind::Volume && !mount.source.is_empty())
        {
            // One that only the command line names is made as it is named.
            if !self.wanted.project.volumes.contains_key(&mount.source)
                && !self.observed.volumes.contains_key(&mount.source)
            {
                let (name, driver) = (mount.source.clone(), "local".to_owned());
                let new = Volume { name, driver, driver_opts: BTreeMap::new(), labels: labels::Labels::new() };
                after.push(self.plan.add(Action::CreateVolume(new), Cause::Missing, &[]));
            }
        }
        let blueprint = Blueprint { one_off: Some(one_off), ..self.blueprint(service) };
        let wanted = blueprint.container(0, &*self, &BTreeMap::new())?;
        let new = New { config: wanted.config, volumes: wanted.volumes, files: blueprint.provided()? };
        self.plan.add(Action::Create(Box::new(new)), Cause::Asked, &after);
        Ok(())
    }

    fn orphans(&mut self) {
        let project = self.wanted.project;
        let known = |name: &str| project.services.contains_key(name) || project.disabled_services.contains_key(name);
        let orphan = |container: &&Container| {
            if container.is_oneoff() { !lifecycle::is_active(container) } else { !known(container.service()) }
        };
        let orphans = self.observed.containers.iter().filter(orphan).collect::<Vec<_>>();
        if self.options.remove_orphans {
            for container in orphans {
                self.remove(container, Cause::Orphan);
            }
        } else if !orphans.is_empty() && !self.options.ignore_orphans {
            let names = orphans.iter().map(|orphan| orphan.config.name.as_str()).collect::<Vec<_>>().join(" ");
            self.plan.warnings.push(format!(
                "Found orphan containers ([{names}]) for this project. If you removed or renamed this service in your \
                 compose file, you can run this command with the --remove-orphans flag to clean it up."
            ));
        }
    }

    fn networks(&mut self) -> Result<(), UpError> {
        let project = self.wanted.project;
        let used = project.services.values().flat_map(|service| service.networks.keys()).collect::<BTreeSet<_>>();
        for (key, network) in project.networks.iter().filter(|(key, _)| used.contains(key)) {
            let there = self.observed.networks.get(&network.name);
            if network.external {
                if there.is_none() {
                    return Err(UpError::ExternalNetwork(network.name.clone()));
                }
                continue;
            }
            let config = network::config(Some(&project.name), network, self.wanted.labels.network(key, network))?;
            let Some(there) = there else {
                let step = self.plan.add(Action::CreateNetwork(Box::new(config)), Cause::Missing, &[]);
                self.resources.push(step);
                continue;
            };
            if there.project.as_deref() != Some(&project.name) {
                self.plan.warnings.push(format!(
                    "a network with name {} exists but was not created for project \"{}\".\n\
                     Set `external: true` to use an existing network",
                    network.name, project.name
                ));
                continue;
            }
            let hash = there.labels.get(labels::CONFIG_HASH);
            if hash.is_some_and(|hash| *hash != network.config_hash) && self.options.recreate != Recreate::Never {
                let changes = network_changes(key, there, &config);
                let cause = Cause::NetworkChanged { name: network.name.clone(), changes };
                let gone = self.leave(|container| connected_to(container, &network.name), &cause);
                let removed = self.plan.add(Action::RemoveNetwork { name: network.name.clone() }, cause.clone(), &gone);
                let step = self.plan.add(Action::CreateNetwork(Box::new(config)), cause, &[removed]);
                self.resources.push(step);
            }
        }
        Ok(())
    }

    /// Removes every container of the project that uses something, and returns the last steps of that.
    fn leave(&mut self, uses: impl Fn(&Container) -> bool, cause: &Cause) -> Vec<NodeIndex> {
        let observed = self.observed;
        let mut gone = Vec::new();
        for container in observed.containers.iter().filter(|container| uses(container)) {
            let id = &container.config.id;
            let removed = match self.left.get(id) {
                Some(removed) => *removed,
                None => self.remove(container, cause.clone()),
            };
            self.left.insert(id.clone(), removed);
            gone.push(removed);
        }
        gone
    }

    fn volumes(&mut self) -> Result<(), UpError> {
        let project = self.wanted.project;
        let mounts = project.services.values().flat_map(|service| &service.volumes);
        let used = mounts
            .filter(|mount| mount.kind == MountKind::Volume)
            .map(|mount| mount.source.as_str())
            .collect::<BTreeSet<_>>();
        for (key, volume) in project.volumes.iter().filter(|(key, _)| used.contains(key.as_str())) {
            let name = &volume.name;
            let Some(there) = self.observed.volumes.get(name) else {
                if volume.external {
                    return Err(UpError::ExternalVolume(name.clone()));
                }
                let new = self.volume(key, volume);
                let step = self.plan.add(Action::CreateVolume(new), Cause::Missing, &[]);
                self.resources.push(step);
                continue;
            };
            if volume.external {
                continue;
            }
            match there.labels.get(labels::PROJECT) {
                Some(owner) if *owner == project.name => {
                    if !is_another(volume, there) {
                        continue;
                    }
                    if self.options.replaced_volumes.contains(name) {
                        self.replace_volume(key, volume);
                    } else {
                        self.plan.warnings.push(format!(
                            "volume \"{name}\" exists but doesn't match configuration in compose file; it is used as it is \
                             (`rcompose up -y` makes it again, without its data)"
                        ));
                    }
                }
                Some(owner) => self.plan.warnings.push(format!(
                    "volume \"{name}\" already exists but was created for project \"{owner}\" (expected \"{}\"). \
                     Use `external: true` to use an existing volume",
                    project.name
                )),
                None => self.plan.warnings.push(format!(
                    "volume \"{name}\" already exists but was not created by Docker Compose. \
                     Use `external: true` to use an existing volume"
                )),
            }
        }
        Ok(())
    }

    fn volume(&self, key: &str, volume: &model::Volume) -> Volume {
        Volume {
            name: volume.name.clone(),
            driver: volume.driver.clone().unwrap_or_else(|| "local".to_owned()),
            driver_opts: volume.driver_opts.clone(),
            labels: self.wanted.labels.volume(key, volume),
        }
    }

    /// Makes a volume again, without its data.
    fn replace_volume(&mut self, key: &str, volume: &model::Volume) {
        let cause = Cause::VolumeRedefined(volume.name.clone());
        let mounts = |container: &Container| container.config.mounts.iter().any(|mount| is_of(mount, &volume.name));
        let gone = self.leave(mounts, &cause);
        let action = Action::RemoveVolume { name: volume.name.clone(), anonymous: false };
        let removed = self.plan.add(action, cause.clone(), &gone);
        let new = self.volume(key, volume);
        let step = self.plan.add(Action::CreateVolume(new), cause, &[removed]);
        self.resources.push(step);
    }

    /// Stops and removes a container, and returns the last step of that.
    fn remove(&mut self, container: &Container, cause: Cause) -> NodeIndex {
        let named = Named::from(container);
        let timeout = self.options.timeout;
        let stop = lifecycle::is_active(container)
            .then(|| self.plan.add(Action::Stop { container: named.clone(), timeout }, cause.clone(), &[]));
        self.plan.add(Action::Remove { container: named, volumes: false, force: true }, cause, stop.as_slice())
    }

    /// Plans the containers of a service; everything that it depends on is planned already.
    fn containers(&mut self, service: &Service) -> Result<Settled, UpError> {
        let scale = service.replicas();
        if let (Some(name), 2..) = (&service.container_name, scale) {
            return Err(UpError::NamedScale { service: service.name.clone(), name: name.clone() });
        }
        let observed = self.observed;
        let files = self.blueprint(service).provided()?;
        let gone = |container: &&Container| self.left.contains_key(&container.config.id);
        let (left, there): (Vec<_>, Vec<_>) = observed.of_service(&service.name).partition(gone);
        // The newest numbers of what is out of date go first when there are too many.
        let mut there = there
            .into_iter()
            .map(|container| (self.divergence(service, &files, container), container))
            .collect::<Vec<_>>();
        there.sort_by_key(|(cause, container)| (cause.is_some(), container.number()));
        let mut settled = Settled { files, ..Settled::default() };
        for (n, (cause, container)) in there.into_iter().enumerate() {
            if n >= usize::try_from(scale).unwrap_or(usize::MAX) {
                self.remove(container, Cause::ScaledDown);
                continue;
            }
            if let Some(cause) = cause {
                let member = self.recreate(service, container, cause)?;
                settled.replaced = true;
                settled.replacing.extend(member.made);
                settled.members.push(member);
            } else {
                let running = lifecycle::is_active(container);
                let (named, cause) = (Named::from(container), Cause::UpToDate);
                let name = names::container(&self.wanted.project.name, service, container.number());
                if self.observed.containers.iter().all(|other| other.config.name != name) {
                    self.plan.add(Action::Rename { container: named.clone(), name }, Cause::Misnamed, &[]);
                }
                self.plan.add(Action::Keep { container: named.clone(), running }, cause, &[]);
                settled.members.push(Member {
                    number: container.number(),
                    referred: Referred { id: named.id.clone(), mounts: container.config.mounts.clone() },
                    named,
                    made: None,
                    running,
                });
            }
        }
        settled.replaced |= !left.is_empty();
        let mut number = 0;
        while settled.members.len() < usize::try_from(scale).unwrap_or(usize::MAX) {
            number += 1;
            if settled.members.iter().any(|member| member.number == number) {
                continue;
            }
            let before = left.iter().find(|container| container.number() == number).copied();
            let member = self.create(service, number, before)?;
            settled.members.push(member);
        }
        settled.members.sort_by_key(|member| member.number);
        self.created.extend(settled.members.iter().filter_map(|member| member.made));
        self.stop_with(service, &mut settled);
        Ok(settled)
    }

    /// Stops the containers that are to be restarted with a dependency which is replaced.
    fn stop_with(&mut self, service: &Service, settled: &mut Settled) {
        let restarting = service.depends_on.iter().filter(|(_, dependency)| dependency.restart);
        let replaced = restarting
            .filter_map(|(name, _)| self.services.get(name).filter(|settled| settled.replaced).map(|s| (name, s)))
            .map(|(name, settled)| (name.clone(), settled.replacing.clone()))
            .collect::<Vec<_>>();
        let Some((name, _)) = replaced.first().cloned() else { return };
        for member in settled.members.iter_mut().filter(|member| member.running) {
            let action = Action::Stop { container: member.named.clone(), timeout: self.options.timeout };
            let stop = self.plan.add(action, Cause::RestartedWith(name.clone()), &[]);
            for replacing in replaced.iter().flat_map(|(_, steps)| steps) {
                self.plan.steps.update_edge(stop, *replacing, ());
            }
            member.running = false;
            member.made = Some(stop);
        }
    }

    fn blueprint<'b>(&'b self, service: &'b Service) -> Blueprint<'b> {
        Blueprint {
            project: self.wanted.project,
            labels: self.wanted.labels,
            service,
            image: &self.wanted.images[&service.name],
            mounted_images: self.wanted.mounted_images,
            one_off: None,
        }
    }

    fn create(&mut self, service: &Service, number: u32, before: Option<&Container>) -> Result<Member, UpError> {
        let wanted = self.blueprint(service).container(number, &*self, &self.inherited(before))?;
        let (named, referred) = (Named::from(&wanted.config), referred(&wanted.config));
        let after = self.after(service);
        let files = self.blueprint(service).provided()?;
        let new = New { config: wanted.config, volumes: wanted.volumes, files };
        let removed = before.and_then(|before| self.left.get(&before.config.id));
        let cause = removed.map_or(Cause::Missing, |removed| self.plan.steps[*removed].cause.clone());
        let made = self.plan.add(Action::Create(Box::new(new)), cause, &after);
        Ok(Member { number, named, referred, made: Some(made), running: false })
    }

    fn recreate(&mut self, service: &Service, old: &Container, cause: Cause) -> Result<Member, UpError> {
        let number = old.number();
        let mut wanted = self.blueprint(service).container(number, &*self, &self.inherited(Some(old)))?;
        let replaced = service.container_name.clone().unwrap_or_else(|| format!("{}-{number}", service.name));
        wanted.config.labels.insert(labels::REPLACE.to_owned(), replaced);
        let (named, referred) = (Named::from(&wanted.config), referred(&wanted.config));
        let after = self.after(service);
        let files = self.blueprint(service).provided()?;
        let action = Action::Recreate {
            old: old.into(),
            running: lifecycle::is_active(old),
            new: Box::new(New { config: wanted.config, volumes: wanted.volumes, files }),
            timeout: self.options.timeout,
        };
        let made = self.plan.add(action, cause, &after);
        Ok(Member { number, named, referred, made: Some(made), running: false })
    }

    /// Returns what must be there before a container of this service is made: networks, volumes, and the containers
    /// whose namespaces or volumes it takes.
    fn after(&self, service: &Service) -> Vec<NodeIndex> {
        let mut after = self.resources.clone();
        for name in shared_with(service) {
            let settled = self.services.get(name);
            after.extend(settled.into_iter().flat_map(|settled| &settled.members).filter_map(|member| member.made));
        }
        after
    }

    /// Returns the anonymous volumes that the successor of a container takes over, by target.
    fn inherited(&self, old: Option<&Container>) -> BTreeMap<String, String> {
        if self.options.renew_anonymous_volumes {
            return BTreeMap::new();
        }
        let mounts = old.into_iter().flat_map(|old| &old.config.mounts);
        let anonymous = mounts.filter_map(|mount| match &mount.source {
            MountSource::Volume { name, anonymous: true, .. } => Some((mount.target.clone(), name.clone())),
            _ => None,
        });
        anonymous.collect()
    }

    /// Returns why a container has to be replaced, if it has to.
    fn divergence(&self, service: &Service, files: &[ProvidedFile], container: &Container) -> Option<Cause> {
        let named = self.options.services.is_empty() || self.options.services.contains(&service.name);
        match if named { self.options.recreate } else { self.options.recreate_dependencies } {
            Recreate::Never => return None,
            Recreate::Force => return Some(Cause::Asked),
            Recreate::Diverged => {}
        }
        if container.label(labels::CONFIG_HASH) != Some(&service.config_hash) {
            return Some(Cause::ConfigChanged(service_changes(service, container)));
        }
        let (old, new) = (&container.config.image_id, &self.wanted.images[&service.name].id);
        if old != new {
            return Some(Cause::ImageChanged { old: old.clone(), new: new.clone() });
        }
        for (name, was) in joined(service, container) {
            if self.service(name).map(|referred| referred.id).as_ref() != was {
                return Some(Cause::Joined(name.to_owned()));
            }
        }
        if let NetworkMode::Networks(endpoints) = &container.config.network {
            for key in service.networks.keys() {
                let Some(network) = self.wanted.project.networks.get(key) else { continue };
                if endpoints.iter().all(|endpoint| endpoint.network != network.name) {
                    return Some(Cause::NotConnected(network.name.clone()));
                }
            }
        }
        for mount in service.volumes.iter().filter(|mount| mount.kind == MountKind::Volume && !mount.source.is_empty())
        {
            let Some(volume) = self.wanted.project.volumes.get(&mount.source) else { continue };
            if !container.config.mounts.iter().any(|mount| is_of(mount, &volume.name)) {
                return Some(Cause::VolumeChanged(volume.name.clone()));
            }
        }
        for file in files {
            let digest = digest(&container.config.id, file.content.as_bytes());
            let content = FileContent::Provided { digest };
            let same = |mount: &Mount| {
                mount.target == file.target
                    && matches!(&mount.source, MountSource::File { content: was, .. } if *was == content)
            };
            if !container.config.mounts.iter().any(same) {
                return Some(Cause::FileChanged(file.target.clone()));
            }
        }
        None
    }

    fn start(&mut self, service: &Service, made: NodeIndex) {
        let mut after = vec![made];
        after.extend(self.dependencies(service));
        let settled = &self.services[&service.name];
        let files = settled.files.clone();
        let idle = settled.members.iter().filter(|member| !member.running);
        let idle = idle.map(|member| (member.named.clone(), member.made)).collect::<Vec<_>>();
        let mut starts = Vec::new();
        for (named, made) in idle {
            let cause = if made.is_some() { Cause::Missing } else { Cause::NotRunning };
            let step = self.plan.add(
                Action::Start { container: named, files: if made.is_none() { files.clone() } else { Vec::new() } },
                cause,
                &after,
            );
            if let Some(made) = made {
                self.plan.steps.update_edge(made, step, ());
            }
            starts.push(step);
        }
        if starts.is_empty() {
            // Who depends on it also depends on what it waits for.
            starts = after;
        }
        if let Some(settled) = self.services.get_mut(&service.name) {
            settled.starts = starts;
        }
    }

    /// Returns the last steps of everything that a service waits for before it starts.
    fn dependencies(&mut self, service: &Service) -> Vec<NodeIndex> {
        let mut after = Vec::new();
        for (name, dependency) in &service.depends_on {
            if !self.services.contains_key(name) {
                continue;
            }
            let until = match dependency.condition {
                Condition::Started => {
                    after.extend(&self.services[name].starts);
                    continue;
                }
                Condition::Healthy => Until::Healthy,
                Condition::CompletedSuccessfully => Until::Completed,
            };
            if self.wanted.project.services[name].replicas() > 0 {
                after.push(self.wait(name, until, dependency.required, Cause::NeededBy(service.name.clone())));
            }
        }
        after
    }

    fn wait(&mut self, service: &str, until: Until, required: bool, cause: Cause) -> NodeIndex {
        let key = (service.to_owned(), until, required);
        if let Some(step) = self.waits.get(&key) {
            return *step;
        }
        let settled = &self.services[service];
        let containers = settled.members.iter().map(|member| member.named.clone()).collect();
        let after = settled.starts.clone();
        let wait = Wait { service: service.to_owned(), containers, until, required };
        let step = self.plan.add(Action::Wait(wait), cause, &after);
        self.waits.insert(key, step);
        step
    }
}

impl References for Planner<'_> {
    fn service(&self, name: &str) -> Option<Referred> {
        if let Some(settled) = self.services.get(name) {
            return settled.members.first().map(|member| member.referred.clone());
        }
        // It is not part of this plan, as with `--no-deps`.
        self.observed.of_service(name).min_by_key(|container| container.number()).map(|there| referred(&there.config))
    }

    fn container(&self, name: &str) -> Option<Referred> {
        self.observed.others.get(name).map(|there| referred(&there.config))
    }
}

/// Returns what is another in a service's definition than in the one that a container was made from. Nothing where that is
/// not known any more.
fn service_changes(service: &Service, container: &Container) -> Vec<Change> {
    let [old, new] = [&container.config.definition, &service.definition].map(|text| serde_json::from_str(text));
    match (old, new) {
        (Ok(old), Ok(new)) => changes(&KeyPath::of(&["services", &service.name]), &old, &new),
        _ => Vec::new(),
    }
}

/// Returns what is another in a network.
fn network_changes(key: &str, old: &NetworkConfig, new: &NetworkConfig) -> Vec<Change> {
    let definition = |config: &NetworkConfig| {
        serde_json::json!({
            "driver": config.driver,
            "driver_opts": config.driver_opts,
            "internal": config.internal,
            "attachable": config.attachable,
            "enable_ipv4": config.enable_ipv4,
            "enable_ipv6": config.enable_ipv6,
            "ipam": {"config": config.subnets},
            "labels": config.labels.iter().filter(|(key, _)| !key.starts_with("com.docker.compose.")).collect::<BTreeMap<_, _>>(),
        })
    };
    changes(&KeyPath::of(&["networks", key]), &definition(old), &definition(new))
}

fn referred(config: &ContainerConfig) -> Referred {
    Referred { id: config.id.clone(), mounts: config.mounts.clone() }
}

/// Returns the services whose namespaces a service shares, each with the container whose namespace it was.
fn joined<'a>(service: &'a Service, container: &'a Container) -> Vec<(&'a str, Option<&'a Id>)> {
    let config = &container.config;
    let mode = |mode: &'a NamespaceMode| if let NamespaceMode::Container(id) = mode { Some(id) } else { None };
    let network = if let NetworkMode::Container(id) = &config.network { Some(id) } else { None };
    let shared = [
        (named_service(service.pid.as_ref()), mode(&config.pid)),
        (named_service(service.ipc.as_ref()), mode(&config.ipc)),
        (network_service(service), network),
    ];
    shared.into_iter().filter_map(|(name, was)| Some((name?, was))).collect()
}

/// Returns the services from whose containers a service takes a namespace or volumes.
fn shared_with(service: &Service) -> Vec<&str> {
    let volumes = service.volumes_from.iter().filter(|from| !from.starts_with("container:"));
    let volumes = volumes.map(|from| from.split_once(':').map_or(from.as_str(), |(name, _)| name));
    let spaces = [named_service(service.pid.as_ref()), named_service(service.ipc.as_ref()), network_service(service)];
    spaces.into_iter().flatten().chain(volumes).collect()
}

fn named_service(mode: Option<&String>) -> Option<&str> {
    mode.and_then(|mode| mode.strip_prefix("service:"))
}

fn network_service(service: &Service) -> Option<&str> {
    match &service.network_mode {
        Some(model::NetworkMode::Service(name)) => Some(name),
        _ => None,
    }
}

/// Returns whether a mount is that of a volume.
fn is_of(mount: &Mount, volume: &str) -> bool {
    matches!(&mount.source, MountSource::Volume { name, .. } if name == volume)
}

/// Returns whether a volume of the project is not what the files say any more.
fn is_another(volume: &model::Volume, there: &observe::Volume) -> bool {
    there.labels.get(labels::CONFIG_HASH).is_some_and(|hash| *hash != volume.config_hash)
}

/// Returns the volumes of the project that are not what its files say any more, by name.
pub fn redefined(project: &Project, there: &BTreeMap<String, observe::Volume>) -> BTreeSet<String> {
    let redefined = project.volumes.values().filter(|volume| {
        !volume.external
            && there.get(&volume.name).is_some_and(|there| {
                there.labels.get(labels::PROJECT) == Some(&project.name) && is_another(volume, there)
            })
    });
    redefined.map(|volume| volume.name.clone()).collect()
}

fn connected_to(container: &Container, network: &str) -> bool {
    match &container.config.network {
        NetworkMode::Networks(endpoints) => endpoints.iter().any(|endpoint| endpoint.network == network),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::state::Status;

    use super::super::testing::{container, edges, steps};
    use super::*;
    use crate::compose::model::{Dependency, Network, ServiceNetwork};

    fn service(name: &str, dependencies: &[(&str, Condition, bool)]) -> Service {
        let dependency = |(name, condition, restart): &(&str, Condition, bool)| {
            ((*name).to_owned(), Dependency { condition: *condition, restart: *restart, required: true })
        };
        Service {
            name: name.into(),
            config_hash: format!("hash of {name}"),
            depends_on: dependencies.iter().map(dependency).collect(),
            networks: [("default".to_owned(), None::<ServiceNetwork>)].into(),
            ..Service::default()
        }
    }

    fn project(services: Vec<Service>) -> Project {
        let network = Network { name: "shop_default".into(), config_hash: "net".into(), ..Network::default() };
        Project {
            name: "shop".into(),
            services: services.into_iter().map(|service| (service.name.clone(), service)).collect(),
            networks: [("default".to_owned(), network)].into(),
            ..Project::default()
        }
    }

    /// Returns the plan for these services where everything in `containers` is there, and their network.
    fn planned(services: Vec<Service>, containers: Vec<Container>, options: &Options) -> Result<Plan, UpError> {
        let project = project(services);
        let labels = ProjectLabels { name: "shop".into(), ..ProjectLabels::default() };
        let image = Image { reference: "busybox".into(), id: "sha256:1".into(), ..Image::default() };
        let images = project.services.keys().map(|name| (name.clone(), image.clone())).collect();
        let network = network::config(
            Some("shop"),
            &project.networks["default"],
            labels.network("default", &project.networks["default"]),
        );
        let networks = [("shop_default".to_owned(), network.unwrap())];
        let observed = observe::Observed {
            networks: if containers.is_empty() { BTreeMap::new() } else { networks.into() },
            containers,
            ..observe::Observed::default()
        };
        let wanted = Wanted { project: &project, labels: &labels, images: &images, mounted_images: &BTreeMap::new() };
        up(wanted, &observed, options)
    }

    fn there(name: &str, service: &str, number: u32) -> Container {
        container(name, service, number, "", Status::Running)
    }

    #[test]
    fn everything_is_made_before_anything_starts() {
        let plan = planned(
            vec![service("db", &[]), service("web", &[("db", Condition::Healthy, false)])],
            Vec::new(),
            &Options::default(),
        );
        assert_eq!(
            edges(&plan.unwrap()),
            [
                "create network shop_default → create shop-db-1",
                "create network shop_default → create shop-web-1",
                "create shop-db-1 → barrier",
                "create shop-web-1 → barrier",
                "barrier → start shop-db-1",
                "create shop-db-1 → start shop-db-1",
                "start shop-db-1 → wait for db",
                "barrier → start shop-web-1",
                "wait for db → start shop-web-1",
                "create shop-web-1 → start shop-web-1",
            ]
        );
    }

    #[test]
    fn what_is_as_it_should_be_is_kept() {
        let plan = planned(vec![service("db", &[])], vec![there("shop-db-1", "db", 1)], &Options::default()).unwrap();
        assert_eq!(steps(&plan), ["keep shop-db-1 (UpToDate)", "barrier (Asked)"]);
        assert!(plan.is_empty());
    }

    #[test]
    fn another_hash_replaces_and_restarts_dependents() {
        let mut db = service("db", &[]);
        db.config_hash = "another".into();
        let plan = planned(
            vec![db, service("web", &[("db", Condition::Started, true)])],
            vec![there("shop-db-1", "db", 1), there("shop-web-1", "web", 1)],
            &Options::default(),
        );
        let plan = plan.unwrap();
        assert_eq!(
            steps(&plan),
            [
                "recreate shop-db-1 (ConfigChanged([]))",
                "keep shop-web-1 (UpToDate)",
                "stop shop-web-1 (RestartedWith(\"db\"))",
                "barrier (Asked)",
                "start shop-db-1 (Missing)",
                "start shop-web-1 (Missing)",
            ]
        );
        assert!(edges(&plan).contains(&"stop shop-web-1 → recreate shop-db-1".to_owned()));
    }

    #[test]
    fn a_replacement_that_was_cut_short_is_brought_to_its_end() {
        let mut meanwhile = there("0123456789ab_shop-db-1", "db", 1);
        let plan = planned(vec![service("db", &[])], vec![meanwhile.clone()], &Options::default()).unwrap();
        assert_eq!(steps(&plan)[0], "rename 0123456789ab_shop-db-1 to shop-db-1 (Misnamed)");
        let mut old = there("shop-db-1", "db", 1);
        old.config.labels.insert(labels::CONFIG_HASH.to_owned(), "old".to_owned());
        meanwhile.state.status = Status::Created;
        let plan = planned(vec![service("db", &[])], vec![meanwhile, old], &Options::default()).unwrap();
        assert!(steps(&plan).contains(&"remove shop-db-1 (ScaledDown)".to_owned()), "{:?}", steps(&plan));
    }

    #[test]
    fn force_is_for_the_named_ones() {
        let options = Options { services: vec!["web".into()], recreate: Recreate::Force, ..Options::default() };
        let containers = vec![there("shop-db-1", "db", 1), there("shop-web-1", "web", 1)];
        let plan = planned(vec![service("db", &[]), service("web", &[])], containers, &options).unwrap();
        assert!(steps(&plan).contains(&"recreate shop-web-1 (Asked)".to_owned()), "{:?}", steps(&plan));
        assert!(steps(&plan).contains(&"keep shop-db-1 (UpToDate)".to_owned()));
    }

    #[test]
    fn scaling_fills_gaps_and_takes_the_last_away() {
        let scaled = |scale| vec![Service { scale: Some(scale), ..service("web", &[]) }];
        let containers = || vec![there("shop-web-1", "web", 1), there("shop-web-3", "web", 3)];
        let made = |scale| {
            let steps = steps(&planned(scaled(scale), containers(), &Options::default()).unwrap());
            steps
                .into_iter()
                .filter(|step| step.starts_with("create") || step.starts_with("remove"))
                .collect::<Vec<_>>()
        };
        assert_eq!(made(4), ["create shop-web-2 (Missing)", "create shop-web-4 (Missing)"]);
        assert_eq!(made(1), ["remove shop-web-3 (ScaledDown)"]);
        assert_eq!(made(0).len(), 2);
        let named = vec![Service { scale: Some(2), container_name: Some("front".into()), ..service("web", &[]) }];
        assert!(matches!(planned(named, Vec::new(), &Options::default()), Err(UpError::NamedScale { .. })));
    }

    #[test]
    fn orphans_are_named_or_removed() {
        let containers = || vec![there("shop-web-1", "web", 1), there("shop-old-1", "old", 1)];
        let plan = planned(vec![service("web", &[])], containers(), &Options::default()).unwrap();
        assert!(plan.warnings[0].starts_with("Found orphan containers ([shop-old-1]) for this project."));
        let options = Options { remove_orphans: true, ..Options::default() };
        let plan = planned(vec![service("web", &[])], containers(), &options).unwrap();
        assert!(steps(&plan).contains(&"remove shop-old-1 (Orphan)".to_owned()));
        assert!(plan.warnings.is_empty());
    }

    #[test]
    fn a_sidecar_follows_the_container_whose_network_it_shares() {
        let sidecar = || Service {
            network_mode: Some(model::NetworkMode::Service("web".into())),
            networks: BTreeMap::new(),
            ..service("sidecar", &[("web", Condition::Started, false)])
        };
        let web = there("shop-web-1", "web", 1);
        let mut beside = there("shop-sidecar-1", "sidecar", 1);
        beside.config.network = NetworkMode::Container(web.config.id.clone());
        let plan =
            planned(vec![service("web", &[]), sidecar()], vec![web.clone(), beside.clone()], &Options::default());
        assert!(plan.unwrap().is_empty());
        let options = Options { services: vec!["web".into()], recreate: Recreate::Force, ..Options::default() };
        let plan = planned(vec![service("web", &[]), sidecar()], vec![web, beside], &options).unwrap();
        assert!(steps(&plan).contains(&"recreate shop-sidecar-1 (Joined(\"web\"))".to_owned()), "{:?}", steps(&plan));
    }

    #[test]
    fn an_external_network_must_be_there() {
        let mut project = project(vec![service("web", &[])]);
        project.networks.get_mut("default").unwrap().external = true;
        let labels = ProjectLabels::default();
        let wanted =
            Wanted { project: &project, labels: &labels, images: &BTreeMap::new(), mounted_images: &BTreeMap::new() };
        let error = up(wanted, &observe::Observed::default(), &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), "network shop_default declared as external, but could not be found");
    }
}
