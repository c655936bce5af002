//! The containers of one service: which stay, which are replaced, and which are made or removed.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;
use rcompose_engine::container::config::MountSource;
use rcompose_engine::container::state::Status;
use rcompose_engine::container::store::Container;

use super::super::update::Replacement;
use super::super::{Action, Cause, Named, New, lifecycle};
use super::divergence::shared_with;
use super::{Member, Planner, Settled, UpError, referred};
use crate::compose::model::Service;
use crate::project::container::Referred;
use crate::project::hooks::Hooks;
use crate::project::labels::{self, Labelled as _};
use crate::project::names;

impl Member {
    /// Returns the member that is to be made.
    pub(super) fn of(number: u32, new: &New) -> Self {
        Self {
            number,
            named: Named::from(&new.config),
            referred: referred(&new.config),
            made: None,
            running: false,
            finished: false,
            hooks: Hooks::of(&new.config),
            since: None,
            replaces: None,
        }
    }
}

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
        let rolls = self.rolls(service);
        // The newest numbers of what is out of date go first when there are too many.
        let mut there = there
            .into_iter()
            .map(|container| (self.divergence(service, &files, container), container))
            .collect::<Vec<_>>();
        let freed = self.one_for_each_number(&mut there);
        there.sort_by_key(|(cause, container)| (cause.is_some(), container.number()));
        let mut settled = Settled { files, ..Settled::default() };
        for (n, (cause, container)) in there.into_iter().enumerate() {
            if n >= usize::try_from(scale).unwrap_or(usize::MAX) {
                self.remove(container, Cause::ScaledDown);
                continue;
            }
            if let Some(cause) = cause {
                let member = if rolls && lifecycle::is_active(container) {
                    self.renew(service, container, cause)?
                } else {
                    let freed = freed.values().copied().collect::<Vec<_>>();
                    self.recreate(service, container, cause, &freed)?
                };
                settled.replaced = true;
                settled.replacing.extend(member.made);
                settled.members.push(member);
            } else {
                let running = lifecycle::is_active(container);
                let (named, cause) = (Named::from(container), Cause::UpToDate);
                let name = names::container(self.wanted.project, service, container.number());
                if container.config.name != name
                    && self
                        .observed
                        .containers
                        .iter()
                        .all(|other| other.config.name != name || freed.contains_key(&name))
                {
                    let removed = freed.get(&name).copied();
                    let rename = Action::Rename { container: named.clone(), name };
                    self.plan.add(rename, Cause::Misnamed, removed.as_slice());
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
                    replaces: None,
                });
            }
        }
        settled.superseded = freed.into_values().collect();
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

    /// Leaves one container for each number, and removes what replacements that were cut short have left besides. Returns the
    /// steps that free their names.
    fn one_for_each_number(&mut self, there: &mut Vec<(Option<Cause>, &Container)>) -> BTreeMap<String, NodeIndex> {
        // First, of those with one number, the one that has the place: not one that was to take it later, and rather
        // what is up to date.
        let active = |number| there.iter().any(|(_, other)| other.number() == number && lifecycle::is_active(other));
        let pending = |container: &Container| {
            let state = &container.state;
            state.beside.is_some() || (state.status == Status::Created && active(container.number()))
        };
        let mut ranked = there.iter().map(|found| (pending(found.1), found.clone())).collect::<Vec<_>>();
        ranked.sort_by_key(|(pending, (cause, container))| (container.number(), *pending, cause.is_some()));
        let mut freed = BTreeMap::new();
        let mut last = None;
        there.clear();
        for (_, (cause, container)) in ranked {
            if last.replace(container.number()) == Some(container.number()) {
                let removed = self.remove(container, Cause::Superseded);
                freed.insert(container.config.name.clone(), removed);
            } else {
                there.push((cause, container));
            }
        }
        freed
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
        let after = self.after(service);
        let files = self.blueprint(service).provided()?;
        let new = New { config: wanted.config, volumes: wanted.volumes, files };
        let member = Member::of(number, &new);
        let removed = before.and_then(|before| self.left.get(&before.config.id));
        let cause = removed.map_or(Cause::Missing, |removed| self.plan.steps[*removed].cause.clone());
        let made = self.plan.add(Action::Create(Box::new(new)), cause, &after);
        Ok(Member { made: Some(made), ..member })
    }

    /// Plans that a container is replaced, after what is superseded has gone.
    pub(super) fn recreate(
        &mut self,
        service: &Service,
        old: &Container,
        cause: Cause,
        superseded: &[NodeIndex],
    ) -> Result<Member, UpError> {
        let new = self.successor(service, old)?;
        let member = Member::of(old.number(), &new);
        let after = [self.after(service).as_slice(), superseded].concat();
        let action = Action::Recreate {
            old: old.into(),
            running: lifecycle::is_active(old),
            new: Box::new(new),
            timeout: self.options.timeout,
            pre_stop: Hooks::of(&old.config).pre_stop,
        };
        let made = self.plan.add(action, cause, &after);
        Ok(Member { made: Some(made), ..member })
    }

    /// Plans that a container is replaced later, while its service goes on ([`Self::update`]).
    fn renew(&mut self, service: &Service, old: &Container, cause: Cause) -> Result<Member, UpError> {
        let number = old.number();
        let new = self.successor(service, old)?;
        let member = Member::of(number, &new);
        Ok(Member { replaces: Some((cause, Replacement { number, old: (&old.config).into(), new })), ..member })
    }

    /// Returns the container that takes another one's place.
    fn successor(&self, service: &Service, old: &Container) -> Result<New, UpError> {
        let number = old.number();
        let mut wanted = self.blueprint(service).container(number, self, &self.inherited(Some(old)))?;
        let replaced = service.container_name.clone().unwrap_or_else(|| format!("{}-{number}", service.name));
        wanted.config.labels.insert(labels::REPLACE.to_owned(), replaced);
        let files = self.blueprint(service).provided()?;
        Ok(New { config: wanted.config, volumes: wanted.volumes, files })
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
