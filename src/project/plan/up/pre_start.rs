//! `pre_start`: containers that run, one after the other, before those of their service start.
//!
//! They are kept after their end: that is how a later plan knows that they have done what they are for. They run again when
//! the service's containers were made anew, which every change of the hook leads to, and when they had failed.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;
use rcompose_engine::container::store::Container;

use super::super::{Action, Cause, Named, New, Until, Wait, lifecycle};
use super::{Member, Planner, UpError};
use crate::compose::model::{PreStart, Service};
use crate::project::container::{Blueprint, References, Referred};
use crate::project::labels::{self, HOOK, Labelled as _};
use crate::project::oneoff::OneOff;

impl Planner<'_> {
    /// Plans what runs before these containers of a service start, after all of `after`. Returns the steps that each of them
    /// starts after.
    pub(super) fn pre_start(
        &mut self,
        service: &Service,
        starting: &[u32],
        after: &[NodeIndex],
    ) -> Result<BTreeMap<u32, Vec<NodeIndex>>, UpError> {
        let mut ready = starting.iter().map(|number| (*number, after.to_vec())).collect::<BTreeMap<_, _>>();
        if starting.is_empty() {
            return Ok(ready);
        }
        let settled = &self.services[&service.name];
        let oldest =
            settled.members.iter().map(|member| member.since).min_by_key(|since| since.unwrap_or(jiff::Timestamp::MAX));
        // More containers beside those that are there need nothing that was not made ready for those.
        let since = if settled.replaced { None } else { oldest.flatten() };
        let each = settled.members.iter().map(|member| (member.number, member.since)).collect::<BTreeMap<_, _>>();
        let mut kept = Vec::new();
        for (index, hook) in service.pre_start.iter().enumerate() {
            let places = if hook.per_replica { starting.iter().copied().map(Some).collect() } else { vec![None] };
            for place in places {
                let name = self.hook_name(service, index, place);
                kept.push(name.clone());
                let since = place.map_or(since, |number| each[&number]);
                if since.is_some_and(|since| self.was_run(service, &name, since)) {
                    continue;
                }
                let before = match place {
                    Some(number) => ready[&number].clone(),
                    None => ready.values().flatten().copied().collect(),
                };
                let done = self.run_before(service, hook, name, place.unwrap_or(starting[0]), &before)?;
                match place {
                    Some(number) => drop(ready.insert(number, vec![done])),
                    None => ready.values_mut().for_each(|steps| *steps = vec![done]),
                }
            }
        }
        self.forget_hooks(service, &kept);
        Ok(ready)
    }

    fn hook_name(&self, service: &Service, index: usize, replica: Option<u32>) -> String {
        let (project, service) = (&self.wanted.project.name, &service.name);
        match replica {
            Some(number) => format!("{project}-{service}-{number}-pre_start-{}", index + 1),
            None => format!("{project}-{service}-pre_start-{}", index + 1),
        }
    }

    /// Returns whether the hook with this name has done what it is for since then, for the service as it is.
    fn was_run(&self, service: &Service, name: &str, since: jiff::Timestamp) -> bool {
        self.observed.containers.iter().any(|container| {
            container.config.name == name
                && container.is_hook()
                && container.label(labels::CONFIG_HASH) == Some(&service.config_hash)
                && lifecycle::is_finished(container)
                && container.config.created >= since
        })
    }

    /// Plans one run of a hook, and returns its last step.
    fn run_before(
        &mut self,
        service: &Service,
        hook: &PreStart,
        name: String,
        replica: u32,
        after: &[NodeIndex],
    ) -> Result<NodeIndex, UpError> {
        let cause = Cause::PreStart(service.name.clone());
        let mut before = after.to_vec();
        let observed = self.observed;
        if let Some(old) = observed.containers.iter().find(|container| container.config.name == name) {
            before = vec![self.remove_hook(old, cause.clone(), after)];
        }
        let as_service = of_hook(service, hook);
        let one_off = OneOff { service: service.name.clone(), name: Some(name), ..OneOff::default() };
        let blueprint = Blueprint { one_off: Some(&one_off), ..self.blueprint(&as_service) };
        let blueprint = match hook.image.as_ref().and_then(|image| self.wanted.mounted_images.get(image)) {
            Some(image) => Blueprint { image, ..blueprint },
            None => blueprint,
        };
        let referred = self.services[&service.name].members.iter().find(|member| member.number == replica);
        let references = Replica { planner: self, service: &service.name, referred };
        let mut wanted = blueprint.container(0, &references, &BTreeMap::new())?;
        wanted.config.labels.insert(HOOK.to_owned(), "pre_start".to_owned());
        let files = blueprint.provided()?;
        let container = Named::from(&wanted.config);
        let new = New { config: wanted.config, volumes: wanted.volumes, files };
        let made = self.plan.add(Action::Create(Box::new(new)), cause.clone(), &before);
        let action = Action::Start { container: container.clone(), files: Vec::new(), post_start: Vec::new() };
        let started = self.plan.add(action, cause.clone(), &[made]);
        let wait =
            Wait { service: service.name.clone(), containers: vec![container], until: Until::Prepared, required: true };
        Ok(self.plan.add(Action::Wait(wait), cause, &[started]))
    }

    /// Removes what is left of hooks that the service does not have any more.
    fn forget_hooks(&mut self, service: &Service, kept: &[String]) {
        let stale = |container: &&Container| {
            container.is_hook() && container.service() == service.name && !kept.contains(&container.config.name)
        };
        // Those for other containers of the service than the ones that start are still theirs.
        let replicas = service.pre_start.iter().any(|hook| hook.per_replica);
        let observed = self.observed;
        for container in observed.containers.iter().filter(stale).filter(|_| !replicas) {
            self.remove_hook(container, Cause::PreStart(service.name.clone()), &[]);
        }
    }

    fn remove_hook(&mut self, container: &Container, cause: Cause, after: &[NodeIndex]) -> NodeIndex {
        let action = Action::Remove { container: container.into(), volumes: true, force: true };
        self.plan.add(action, cause, after)
    }
}

/// The container that a hook runs for, besides what the plan knows.
struct Replica<'a> {
    planner: &'a Planner<'a>,
    service: &'a str,
    referred: Option<&'a Member>,
}

impl References for Replica<'_> {
    fn service(&self, name: &str) -> Option<Referred> {
        match self.referred {
            Some(member) if name == self.service => Some(member.referred.clone()),
            _ => self.planner.service(name),
        }
    }

    fn container(&self, name: &str) -> Option<Referred> {
        self.planner.container(name)
    }
}

/// Returns the service that a hook's container would be of: its own, with what the hook says, and the volumes of the container
/// that it runs for.
fn of_hook(service: &Service, hook: &PreStart) -> Service {
    let mut made = Service {
        container_name: None,
        scale: Some(1),
        restart: None,
        healthcheck: None,
        ports: Vec::new(),
        expose: Vec::new(),
        volumes: Vec::new(),
        tmpfs: Vec::new(),
        volumes_from: vec![service.name.clone()],
        command: hook.command.clone().or_else(|| service.command.clone()),
        user: hook.user.clone().or_else(|| service.user.clone()),
        working_dir: hook.working_dir.clone().or_else(|| service.working_dir.clone()),
        privileged: hook.privileged || service.privileged,
        ..service.clone()
    };
    if let Some(deploy) = &mut made.deploy {
        deploy.restart_policy = None;
    }
    if hook.image.is_some() {
        made.entrypoint = None;
        made.command.clone_from(&hook.command);
    }
    for network in made.networks.values_mut().flatten() {
        network.ipv4_address = None;
        network.ipv6_address = None;
        network.mac_address = None;
    }
    made.mac_address = None;
    made.environment.extend(hook.environment.clone());
    made
}
