//! The containers of one service: which stay, which are replaced, and which are made or removed.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;
use rcompose_engine::container::config::MountSource;
use rcompose_engine::container::store::Container;

use super::super::{Action, Cause, Named, New, lifecycle};
use super::divergence::shared_with;
use super::{Member, Planner, Settled, UpError, referred};
use crate::compose::model::Service;
use crate::project::container::Referred;
use crate::project::hooks::Hooks;
use crate::project::labels::{self, Labelled as _};
use crate::project::names;

impl Planner<'_> {
    /// Plans the containers of a service; everything that it depends on is planned already.
    pub(super) fn containers(&mut self, service: &Service) -> Result<Settled, UpError> {
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
                    finished: lifecycle::is_finished(container),
                    hooks: Hooks::of(&container.config),
                    since: Some(container.config.created),
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
    pub(super) fn stop_with(&mut self, service: &Service, settled: &mut Settled) {
        let restarting = service.depends_on.iter().filter(|(_, dependency)| dependency.restart);
        let replaced = restarting
            .filter_map(|(name, _)| self.services.get(name).filter(|settled| settled.replaced).map(|s| (name, s)))
            .map(|(name, settled)| (name.clone(), settled.replacing.clone()))
            .collect::<Vec<_>>();
        let Some((name, _)) = replaced.first().cloned() else { return };
        for member in settled.members.iter_mut().filter(|member| member.running) {
            let pre_stop = member.hooks.pre_stop.clone();
            let action = Action::Stop { container: member.named.clone(), timeout: self.options.timeout, pre_stop };
            let stop = self.plan.add(action, Cause::RestartedWith(name.clone()), &[]);
            for replacing in replaced.iter().flat_map(|(_, steps)| steps) {
                self.plan.steps.update_edge(stop, *replacing, ());
            }
            member.running = false;
            member.made = Some(stop);
        }
    }

    pub(super) fn create(
        &mut self,
        service: &Service,
        number: u32,
        before: Option<&Container>,
    ) -> Result<Member, UpError> {
        let wanted = self.blueprint(service).container(number, &*self, &self.inherited(before))?;
        let (named, referred) = (Named::from(&wanted.config), referred(&wanted.config));
        let hooks = Hooks::of(&wanted.config);
        let after = self.after(service);
        let files = self.blueprint(service).provided()?;
        let new = New { config: wanted.config, volumes: wanted.volumes, files };
        let removed = before.and_then(|before| self.left.get(&before.config.id));
        let cause = removed.map_or(Cause::Missing, |removed| self.plan.steps[*removed].cause.clone());
        let made = self.plan.add(Action::Create(Box::new(new)), cause, &after);
        Ok(Member { number, named, referred, made: Some(made), running: false, finished: false, hooks, since: None })
    }

    pub(super) fn recreate(&mut self, service: &Service, old: &Container, cause: Cause) -> Result<Member, UpError> {
        let number = old.number();
        let mut wanted = self.blueprint(service).container(number, &*self, &self.inherited(Some(old)))?;
        let replaced = service.container_name.clone().unwrap_or_else(|| format!("{}-{number}", service.name));
        wanted.config.labels.insert(labels::REPLACE.to_owned(), replaced);
        let (named, referred) = (Named::from(&wanted.config), referred(&wanted.config));
        let hooks = Hooks::of(&wanted.config);
        let after = self.after(service);
        let files = self.blueprint(service).provided()?;
        let action = Action::Recreate {
            old: old.into(),
            running: lifecycle::is_active(old),
            new: Box::new(New { config: wanted.config, volumes: wanted.volumes, files }),
            timeout: self.options.timeout,
            pre_stop: Hooks::of(&old.config).pre_stop,
        };
        let made = self.plan.add(action, cause, &after);
        Ok(Member { number, named, referred, made: Some(made), running: false, finished: false, hooks, since: None })
    }

    /// Returns what must be there before a container of this service is made: networks, volumes, and the containers
    /// whose namespaces or volumes it takes.
    pub(super) fn after(&self, service: &Service) -> Vec<NodeIndex> {
        let mut after = self.resources.clone();
        for name in shared_with(service) {
            let settled = self.services.get(name);
            after.extend(settled.into_iter().flat_map(|settled| &settled.members).filter_map(|member| member.made));
        }
        after
    }

    /// Returns the anonymous volumes that the successor of a container takes over, by target.
    pub(super) fn inherited(&self, old: Option<&Container>) -> BTreeMap<String, String> {
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
}
