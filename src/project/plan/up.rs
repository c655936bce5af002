//! `up`, `create` and `scale`: from what there is to what the project wants.

mod divergence;
mod members;
mod pre_start;
mod resources;
mod rolling;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use petgraph::graph::NodeIndex;
use rcompose_engine::container::config::ContainerConfig;
use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use rcompose_engine::protocol::ProvidedFile;

use super::update::Replacement;
use super::{Action, Cause, Named, New, Plan, Until, Volume, Wait, lifecycle};
use crate::compose::model::{Condition, MountKind, Project, Service};
use crate::project::container::{Blueprint, InvalidAttribute, References, Referred};
use crate::project::graph;
use crate::project::hooks::Hooks;
use crate::project::image::Image;
use crate::project::labels::{self, Labelled as _, ProjectLabels};
use crate::project::network;
use crate::project::observe::Observed;
use crate::project::oneoff::OneOff;

pub use resources::redefined;

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
    /// Also networks and volumes that no service uses are made.
    pub all_resources: bool,
    /// Only make containers, start none.
    pub no_start: bool,
    /// The services whose containers are started; `None`: all.
    pub started: Option<BTreeSet<String>>,
    /// Wait until all that are started run or are healthy.
    pub wait: bool,
    /// How long a container that is replaced or removed has to stop.
    pub timeout: Option<Duration>,
    /// Volumes that are removed with their data, and made again, because they are to be others.
    pub replaced_volumes: BTreeSet<String>,
    /// The services whose containers are run again although they did what they are for.
    pub again: BTreeSet<String>,
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
    /// The steps that remove what replacements that were cut short have left.
    superseded: Vec<NodeIndex>,
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
    /// Whether it ended by itself, as a container does that has done what it is for.
    finished: bool,
    hooks: Hooks,
    /// When it was made; `None`: by this plan.
    since: Option<jiff::Timestamp>,
    /// The container whose place it takes while its service goes on, and why.
    replaces: Option<(Cause, Replacement)>,
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
                self.start(&self.wanted.project.services[name], made)?;
            }
            if self.options.wait {
                for name in order.iter().copied() {
                    if self.wanted.project.services[name].replicas() > 0 && self.is_started(name) {
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
        // What made the service's own containers ready has made this one ready too.
        let since = self.observed.of_service(&service.name).map(|own| own.config.created).min();
        let member = Member { since, ..Member::of(0, &new) };
        let made = self.plan.add(Action::Create(Box::new(new)), Cause::Asked, &after);
        self.services.insert(service.name.clone(), Settled { members: vec![member], ..Settled::default() });
        self.pre_start(service, &[0], &[made])?;
        Ok(())
    }

    fn orphans(&mut self) {
        let project = self.wanted.project;
        let known = |name: &str| project.services.contains_key(name) || project.disabled_services.contains_key(name);
        let orphan = |container: &&Container| {
            if container.is_oneoff() && !container.is_hook() {
                !lifecycle::is_active(container)
            } else {
                !known(container.service())
            }
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

    /// Stops and removes a container, and returns the last step of that.
    fn remove(&mut self, container: &Container, cause: Cause) -> NodeIndex {
        let named = Named::from(container);
        let stop = lifecycle::stop_step(container, self.options.timeout);
        let stop = lifecycle::is_active(container).then(|| self.plan.add(stop, cause.clone(), &[]));
        self.plan.add(Action::Remove { container: named, volumes: false, force: true }, cause, stop.as_slice())
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

    /// Returns whether containers of a service are started where they do not run.
    fn is_started(&self, service: &str) -> bool {
        self.options.started.as_ref().is_none_or(|started| started.contains(service))
    }

    fn start(&mut self, service: &Service, made: NodeIndex) -> Result<(), UpError> {
        let mut after = vec![made];
        after.extend(self.dependencies(service));
        let (again, started) = (self.options.again.contains(&service.name), self.is_started(&service.name));
        let Some(settled) = self.services.get_mut(&service.name) else { return Ok(()) };
        let (files, superseded) = (settled.files.clone(), settled.superseded.clone());
        let replacements = settled.members.iter_mut().filter_map(|member| member.replaces.take()).collect::<Vec<_>>();
        let replaced = replacements.iter().map(|(_, replacement)| replacement.number).collect::<Vec<_>>();
        let idle = settled.members.iter().filter(|member| {
            started && !member.running && (again || !member.finished) && !replaced.contains(&member.number)
        });
        let idle =
            idle.map(|member| (member.number, member.named.clone(), member.made, member.hooks.post_start.clone()));
        let idle = idle.collect::<Vec<_>>();
        let mut numbers = idle.iter().map(|(number, ..)| *number).chain(replaced.iter().copied()).collect::<Vec<_>>();
        numbers.sort_unstable();
        let ready = self.pre_start(service, &numbers, &after)?;
        let mut starts = Vec::new();
        for (number, container, made, post_start) in idle {
            let cause = if made.is_some() { Cause::Missing } else { Cause::NotRunning };
            let files = if made.is_none() { files.clone() } else { Vec::new() };
            let step = self.plan.add(Action::Start { container, files, post_start }, cause, &ready[&number]);
            if let Some(made) = made {
                self.plan.steps.update_edge(made, step, ());
            }
            starts.push(step);
        }
        if !replacements.is_empty() {
            let ready = replaced.iter().flat_map(|number| ready[number].iter().copied());
            let after = ready.chain(superseded).collect::<Vec<_>>();
            starts.push(self.update(service, replacements, &after)?);
        }
        if starts.is_empty() {
            // Who depends on it also depends on what it waits for.
            starts = after;
        }
        if let Some(settled) = self.services.get_mut(&service.name) {
            settled.starts = starts;
        }
        Ok(())
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

fn referred(config: &ContainerConfig) -> Referred {
    Referred { id: config.id.clone(), mounts: config.mounts.clone() }
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::config::NetworkMode;
    use rcompose_engine::container::state::Status;

    use super::super::testing::{container, edges, steps};
    use super::*;
    use crate::compose::model::{self, Dependency, Network, ServiceNetwork};
    use crate::project::observe;

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
        let steps = steps(&plan);
        assert!(steps.contains(&"remove 0123456789ab_shop-db-1 (Superseded)".to_owned()), "{steps:?}");
        assert!(
            steps.iter().any(|step| step.starts_with("recreate shop-db-1")),
            "the old one has the place: {steps:?}"
        );
    }

    #[test]
    fn an_update_is_one_step_that_comes_after_what_the_service_waits_for() {
        let update_config = model::UpdateConfig { order: Some("start-first".into()), ..model::UpdateConfig::default() };
        let deploy = model::Deploy { update_config: Some(update_config), ..model::Deploy::default() };
        let web = Service {
            config_hash: "another".into(),
            scale: Some(2),
            deploy: Some(deploy),
            ..service("web", &[("db", Condition::Healthy, false)])
        };
        let containers =
            || vec![there("shop-db-1", "db", 1), there("shop-web-1", "web", 1), there("shop-web-2", "web", 2)];
        let plan = planned(vec![service("db", &[]), web.clone()], containers(), &Options::default()).unwrap();
        assert!(edges(&plan).contains(&"wait for db → update 2 of web".to_owned()), "{:?}", edges(&plan));
        assert!(plan.updates() && plan.warnings.is_empty());
        let options = Options { no_start: true, ..Options::default() };
        let plan = planned(vec![service("db", &[]), web.clone()], containers(), &options).unwrap();
        assert!(!plan.updates(), "`create` starts nothing");
        let fixed = ServiceNetwork { ipv4_address: Some("10.1.0.9".into()), ..ServiceNetwork::default() };
        let web = Service { networks: [("default".to_owned(), Some(fixed))].into(), ..web };
        let plan = planned(vec![service("db", &[]), web], containers(), &Options::default()).unwrap();
        assert!(plan.warnings[0].contains("both would have the same address"), "{:?}", plan.warnings);
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
