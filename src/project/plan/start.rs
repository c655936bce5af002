//! `start`: containers that are there start, each after what it depends on.

use std::collections::BTreeMap;

use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};
use rcompose_engine::container::store::Container;

use super::lifecycle::{is_active, start_step};
use super::{Action, Cause, Named, Plan, Until, Wait};
use crate::compose::model::Condition;
use crate::project::graph::Cycle;
use crate::project::labels::Labelled as _;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Wait until all that was chosen is this.
    pub wait: Option<Until>,
}

/// Returns the plan that starts the chosen containers; those of `all` that they depend on are waited for.
pub fn start(all: &[Container], chosen: &[&Container], options: &Options) -> Result<Plan, Cycle> {
    let mut services = BTreeMap::<&str, Vec<&Container>>::new();
    for container in all.iter().filter(|container| !container.is_oneoff()) {
        services.entry(container.service()).or_default().push(container);
    }
    let mut plan = Plan::default();
    let mut ready = BTreeMap::<&str, Vec<NodeIndex>>::new();
    let mut waits = BTreeMap::<(&str, Until), NodeIndex>::new();
    for service in order(&services)? {
        let members = &services[service];
        let mut after = Vec::new();
        let starting = members.iter().any(|member| chosen.iter().any(|c| c.config.id == member.config.id));
        // Only what starts waits for anything.
        let dependencies = members.iter().filter(|_| starting).flat_map(|member| member.dependencies());
        for depends in dependencies {
            let Some(there) = services.get(depends.service) else { continue };
            let until = match depends.condition {
                Condition::Started => {
                    after.extend(ready.get(depends.service).into_iter().flatten().copied());
                    continue;
                }
                Condition::Healthy => Until::Healthy,
                Condition::CompletedSuccessfully => Until::Completed,
            };
            let step = *waits.entry((depends.service, until)).or_insert_with(|| {
                let earlier = ready.get(depends.service).cloned().unwrap_or_default();
                let wait = wait(depends.service, there, until);
                plan.add(Action::Wait(wait), Cause::NeededBy(service.to_owned()), &earlier)
            });
            after.push(step);
        }
        let mut starts = Vec::new();
        for container in chosen.iter().filter(|container| container.service() == service && !is_active(container)) {
            starts.push(plan.add(start_step(container), Cause::Asked, &after));
        }
        if let (Some(until), true) = (options.wait, starting) {
            let earlier = if starts.is_empty() { &after } else { &starts };
            plan.add(Action::Wait(wait(service, members, until)), Cause::Asked, &earlier.clone());
        }
        ready.insert(service, if starts.is_empty() { after } else { starts });
    }
    Ok(plan)
}

fn wait(service: &str, containers: &[&Container], until: Until) -> Wait {
    let containers = containers.iter().map(|container| Named::from(*container)).collect();
    Wait { service: service.to_owned(), containers, until, required: true }
}

/// Returns the services, each after everything that the labels of its containers say it depends on.
fn order<'a>(services: &BTreeMap<&'a str, Vec<&'a Container>>) -> Result<Vec<&'a str>, Cycle> {
    let mut graph = DiGraph::<&str, ()>::new();
    let nodes = services.keys().map(|name| (*name, graph.add_node(*name))).collect::<BTreeMap<_, _>>();
    for (name, members) in services {
        for depends in members.iter().flat_map(|member| member.dependencies()) {
            if let Some(dependency) = nodes.get(depends.service) {
                graph.update_edge(*dependency, nodes[name], ());
            }
        }
    }
    match toposort(&graph, None) {
        Ok(order) => Ok(order.into_iter().map(|node| graph[node]).collect()),
        Err(cycle) => Err(Cycle(graph[cycle.node_id()].to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::state::Status;

    use super::super::testing::{container, edges, steps};
    use super::*;

    #[test]
    fn dependencies_start_first_and_are_waited_for() {
        let all = [
            container("shop-db-1", "db", 1, "", Status::Exited),
            container("shop-web-1", "web", 1, "db:service_healthy:false", Status::Exited),
        ];
        let plan = start(&all, &all.iter().collect::<Vec<_>>(), &Options::default()).unwrap();
        assert_eq!(edges(&plan), ["start shop-db-1 → wait for db", "wait for db → start shop-web-1"]);
    }

    #[test]
    fn what_was_not_chosen_is_only_waited_for() {
        let all = [
            container("shop-db-1", "db", 1, "", Status::Running),
            container("shop-web-1", "web", 1, "db:service_healthy:false", Status::Created),
        ];
        let plan = start(&all, &[&all[1]], &Options { wait: Some(Until::RunningOrHealthy) }).unwrap();
        assert_eq!(
            steps(&plan),
            ["wait for db (NeededBy(\"web\"))", "start shop-web-1 (Asked)", "wait for web (Asked)"]
        );
    }
}
