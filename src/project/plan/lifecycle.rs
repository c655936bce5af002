//! `stop`, `start`, `restart`, `kill` and `rm` of containers that are there.

use std::collections::BTreeMap;
use std::time::Duration;

use petgraph::algo::is_cyclic_directed;
use petgraph::graph::NodeIndex;
use rcompose_engine::container::config::RestartPolicy;
use rcompose_engine::container::state::Status;
use rcompose_engine::container::store::Container;

use super::{Action, Cause, Named, Plan};
use crate::project::hooks::Hooks;
use crate::project::labels::{Depends, Labelled as _};

/// Returns the plan that stops these containers, dependents before what they depend on.
pub fn stop(containers: &[&Container], timeout: Option<Duration>) -> Plan {
    let running = containers.iter().copied().filter(|container| is_active(container)).collect::<Vec<_>>();
    let mut plan = Plan::default();
    let steps =
        running.iter().map(|container| plan.add(stop_step(container, timeout), Cause::Asked, &[])).collect::<Vec<_>>();
    order(&mut plan, &running, &steps, &steps, Direction::DependentsFirst);
    plan
}

/// Returns the plan that restarts these containers, what others depend on before its dependents.
pub fn restart(containers: &[&Container], timeout: Option<Duration>) -> Plan {
    let mut plan = Plan::default();
    let steps = containers
        .iter()
        .map(|container| {
            let hooks = Hooks::of(&container.config);
            plan.add(Action::Restart { container: (*container).into(), timeout, hooks }, Cause::Asked, &[])
        })
        .collect::<Vec<_>>();
    order(&mut plan, containers, &steps, &steps, Direction::DependenciesFirst);
    plan
}

/// Returns the plan that starts these containers, what others depend on before its dependents, and waits for nothing.
pub fn start(containers: &[&Container]) -> Plan {
    let mut plan = Plan::default();
    let steps =
        containers.iter().map(|container| plan.add(start_step(container), Cause::Asked, &[])).collect::<Vec<_>>();
    order(&mut plan, containers, &steps, &steps, Direction::DependenciesFirst);
    plan
}

/// Returns the step that starts a container as it was made.
pub(super) fn start_step(container: &Container) -> Action {
    let post_start = Hooks::of(&container.config).post_start;
    Action::Start { container: container.into(), files: Vec::new(), post_start }
}

/// Returns the step that stops a container.
pub(super) fn stop_step(container: &Container, timeout: Option<Duration>) -> Action {
    Action::Stop { container: container.into(), timeout, pre_stop: Hooks::of(&container.config).pre_stop }
}

/// Returns the plan that sends a signal to those of these containers that run.
pub fn kill(containers: &[&Container], signal: &str) -> Plan {
    let mut plan = Plan::default();
    for container in containers.iter().filter(|container| container.state.status.is_running()) {
        let action = Action::Kill { container: Named::from(*container), signal: signal.to_owned() };
        plan.add(action, Cause::Asked, &[]);
    }
    plan
}

/// Returns the plan that pauses those of these containers that run.
pub fn pause(containers: &[&Container]) -> Plan {
    each_running(containers, Action::Pause)
}

/// Returns the plan that lets those of these containers go on that are paused, or are to be.
pub fn unpause(containers: &[&Container]) -> Plan {
    each_running(containers, Action::Unpause)
}

fn each_running(containers: &[&Container], action: impl Fn(Named) -> Action) -> Plan {
    let mut plan = Plan::default();
    for container in containers.iter().filter(|container| container.state.status.is_running()) {
        plan.add(action(Named::from(*container)), Cause::Asked, &[]);
    }
    plan
}

/// Returns the plan that removes these containers.
pub fn remove(containers: &[&Container], volumes: bool) -> Plan {
    let mut plan = Plan::default();
    for container in containers {
        let action = Action::Remove { container: Named::from(*container), volumes, force: false };
        plan.add(action, Cause::Asked, &[]);
    }
    plan
}

/// Returns whether a container has a process or is about to get one.
pub fn is_active(container: &Container) -> bool {
    container.state.status.is_running() || container.state.status == Status::Restarting
}

/// Returns whether a container did what it is for: it ended by itself, without a fault, and nothing would start it again.
pub fn is_finished(container: &Container) -> bool {
    let state = &container.state;
    state.status == Status::Exited
        && state.exit_code == 0
        && !state.stopped
        && matches!(container.config.restart, RestartPolicy::No | RestartPolicy::OnFailure { .. })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    DependentsFirst,
    DependenciesFirst,
}

/// Orders steps by what the containers' labels say of dependencies; `first` and `last` are the first and the last step
/// for each container.
///
/// Labels that contradict each other, as after an edit of the compose file in between, order nothing.
pub(super) fn order(
    plan: &mut Plan,
    containers: &[&Container],
    first: &[NodeIndex],
    last: &[NodeIndex],
    direction: Direction,
) {
    let mut services = BTreeMap::<&str, Vec<usize>>::new();
    for (n, container) in containers.iter().enumerate() {
        services.entry(container.service()).or_default().push(n);
    }
    let before = plan.steps.clone();
    for (dependent, container) in containers.iter().enumerate() {
        for Depends { service, .. } in container.dependencies() {
            for &dependency in services.get(service).into_iter().flatten() {
                let (earlier, later) = match direction {
                    Direction::DependentsFirst => (last[dependent], first[dependency]),
                    Direction::DependenciesFirst => (last[dependency], first[dependent]),
                };
                plan.steps.update_edge(earlier, later, ());
            }
        }
    }
    if is_cyclic_directed(&plan.steps) {
        plan.steps = before;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{container, edges};
    use super::*;

    #[test]
    fn dependents_stop_first_and_restart_last() {
        let db = container("shop-db-1", "db", 1, "", Status::Running);
        let web = container("shop-web-1", "web", 1, "db:service_healthy:false", Status::Running);
        let idle = container("shop-job-1", "job", 1, "db:service_started:false", Status::Exited);
        assert_eq!(edges(&stop(&[&db, &web, &idle], None)), ["stop shop-web-1 → stop shop-db-1"]);
        assert_eq!(edges(&restart(&[&db, &web], None)), ["restart shop-db-1 → restart shop-web-1"]);
    }

    #[test]
    fn contradictions_order_nothing() {
        let a = container("p-a-1", "a", 1, "b:service_started:false", Status::Running);
        let b = container("p-b-1", "b", 1, "a:service_started:false", Status::Running);
        let plan = stop(&[&a, &b], None);
        assert_eq!(plan.steps.node_count(), 2);
        assert!(edges(&plan).is_empty());
    }

    #[test]
    fn only_what_runs_is_killed() {
        let up = container("p-a-1", "a", 1, "", Status::Running);
        let down = container("p-a-2", "a", 2, "", Status::Exited);
        assert_eq!(kill(&[&up, &down], "SIGHUP").steps.node_count(), 1);
    }
}
