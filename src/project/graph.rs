//! Which service depends on which.

use std::collections::BTreeMap;

use petgraph::algo::toposort;
use petgraph::graph::DiGraph;

use crate::compose::Project;

/// Services that wait for each other, so that none can be first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dependency cycle detected: service \"{0}\" depends on itself through others")]
pub struct Cycle(pub String);

/// Returns the services, each after everything that it depends on.
pub fn order(project: &Project) -> Result<Vec<String>, Cycle> {
    let mut graph = DiGraph::<&str, ()>::new();
    let nodes = project.services.keys().map(|name| (name.as_str(), graph.add_node(name))).collect::<BTreeMap<_, _>>();
    for (name, service) in &project.services {
        for dependency in service.depends_on.keys().filter_map(|dependency| nodes.get(dependency.as_str())) {
            graph.update_edge(*dependency, nodes[name.as_str()], ());
        }
    }
    match toposort(&graph, None) {
        Ok(order) => Ok(order.into_iter().map(|node| graph[node].to_owned()).collect()),
        Err(cycle) => Err(Cycle(graph[cycle.node_id()].to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::Service;
    use crate::compose::model::{Condition, Dependency};

    fn project(services: &[(&str, &[&str])]) -> Project {
        let dependency = Dependency { condition: Condition::Started, restart: false, required: true };
        let service = |(name, dependencies): &(&str, &[&str])| {
            let depends_on = dependencies.iter().map(|name| ((*name).to_owned(), dependency.clone())).collect();
            ((*name).to_owned(), Service { name: (*name).to_owned(), depends_on, ..Service::default() })
        };
        Project { services: services.iter().map(service).collect(), ..Project::default() }
    }

    #[test]
    fn dependencies_come_first() {
        let order = order(&project(&[("api", &["db", "cache"]), ("cache", &[]), ("db", &[]), ("web", &["api"])]));
        let order = order.unwrap();
        let place = |name: &str| order.iter().position(|known| known == name).unwrap();
        assert!(place("db") < place("api") && place("cache") < place("api") && place("api") < place("web"));
    }

    #[test]
    fn a_cycle_is_an_error() {
        assert!(order(&project(&[("a", &["b"]), ("b", &["a"])])).is_err());
    }
}
