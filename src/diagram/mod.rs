//! `rcompose graph`: a project as a drawing.
//!
//! A [`Diagram`] says what there is and how it hangs together; `dot`, `mermaid` and `svg` write it down.

mod dot;
mod mermaid;
mod svg;

use std::collections::{BTreeMap, BTreeSet};

use crate::compose::Project;
use crate::compose::model::{Condition, MountKind, Port, Service};

pub use self::dot::dot;
pub use self::mermaid::mermaid;
pub use self::svg::svg;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Ports of the host.
    Ports,
    Service,
    Network,
    Volume,
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was not looked.
    Unknown,
    /// All of its containers run, and none is unhealthy.
    Up,
    /// Some run, or one of them is starting or unhealthy.
    Partly,
    /// None runs.
    Down,
}

/// One thing of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// What is written in it.
    pub lines: Vec<String>,
    pub state: State,
}

/// How one thing hangs on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Indices of the nodes.
    pub from: usize,
    pub to: usize,
    pub label: String,
    /// A dependency or a way in, rather than that something belongs to something.
    pub directed: bool,
}

/// A project as nodes and edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagram {
    pub title: String,
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
}

/// The state of a service, and what is said about it.
pub type Live = BTreeMap<String, (State, String)>;

impl Diagram {
    /// Returns what a project is made of; with `live`, also how its services are.
    pub fn of(project: &Project, live: Option<&Live>) -> Self {
        let mut diagram = Self { title: project.name.clone(), nodes: Vec::new(), edges: Vec::new() };
        let mut services = BTreeMap::new();
        for (name, service) in &project.services {
            let (state, said) =
                live.and_then(|live| live.get(name)).cloned().unwrap_or((State::Unknown, String::new()));
            let replicas = match service.replicas() {
                1 => String::new(),
                count => format!(" × {count}"),
            };
            let image = service.image.clone().unwrap_or_else(|| "(built)".to_owned());
            let lines =
                [format!("{name}{replicas}"), image, said].into_iter().filter(|line| !line.is_empty()).collect();
            services.insert(name.as_str(), diagram.node(Kind::Service, lines, state));
        }
        for (name, service) in &project.services {
            let own = services[name.as_str()];
            diagram.dependencies(service, own, &services);
            if !service.ports.is_empty() {
                let ports = diagram.node(Kind::Ports, service.ports.iter().map(published).collect(), State::Unknown);
                diagram.edge(ports, own, String::new(), true);
            }
        }
        diagram.networks(project, &services);
        diagram.volumes(project, &services);
        diagram
    }

    fn node(&mut self, kind: Kind, lines: Vec<String>, state: State) -> usize {
        self.nodes.push(Node { kind, lines, state });
        self.nodes.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, label: String, directed: bool) {
        self.edges.push(Edge { from, to, label, directed });
    }

    fn dependencies(&mut self, service: &Service, own: usize, services: &BTreeMap<&str, usize>) {
        for (dependency, how) in &service.depends_on {
            let Some(to) = services.get(dependency.as_str()) else { continue };
            let condition = match how.condition {
                Condition::Started => "started",
                Condition::Healthy => "healthy",
                Condition::CompletedSuccessfully => "completed",
            };
            let restart = if how.restart { ", restart" } else { "" };
            let required = if how.required { "" } else { ", optional" };
            self.edge(own, *to, format!("{condition}{restart}{required}"), true);
        }
    }

    fn networks(&mut self, project: &Project, services: &BTreeMap<&str, usize>) {
        for (key, network) in &project.networks {
            let members = project.services.values().filter(|service| service.networks.contains_key(key));
            let members =
                members.filter_map(|service| services.get(service.name.as_str())).copied().collect::<Vec<_>>();
            if members.is_empty() {
                continue;
            }
            let internal = if network.internal { " (internal)" } else { "" };
            let node = self.node(Kind::Network, vec![format!("network {key}{internal}")], State::Unknown);
            for member in members {
                self.edge(member, node, String::new(), false);
            }
        }
    }

    fn volumes(&mut self, project: &Project, services: &BTreeMap<&str, usize>) {
        let used = |service: &Service, key: &str| {
            let of = service.volumes.iter().filter(|mount| mount.kind == MountKind::Volume && mount.source == key);
            of.map(|mount| format!("{}{}", mount.target, if mount.read_only { " (ro)" } else { "" }))
                .collect::<BTreeSet<_>>()
        };
        for key in project.volumes.keys() {
            let users = project.services.values().map(|service| (service, used(service, key)));
            let users = users.filter(|(_, targets)| !targets.is_empty()).collect::<Vec<_>>();
            if users.is_empty() {
                continue;
            }
            let node = self.node(Kind::Volume, vec![format!("volume {key}")], State::Unknown);
            for (service, targets) in users {
                let Some(own) = services.get(service.name.as_str()) else { continue };
                self.edge(*own, node, targets.into_iter().collect::<Vec<_>>().join(", "), false);
            }
        }
    }
}

/// Returns a published port as `docker ps` writes it.
fn published(port: &Port) -> String {
    let address = port.host_ip.as_deref().map_or_else(String::new, |address| format!("{address}:"));
    let host = match port.published.to_string() {
        number if number.is_empty() => "any".to_owned(),
        number => number,
    };
    format!("{address}{host} → {}/{}", port.target, port.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node and an edge of each kind, with what has a meaning in the languages.
    fn diagram() -> Diagram {
        let node = |kind, lines: &[&str], state| Node {
            kind,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            state,
        };
        Diagram {
            title: "shop".to_owned(),
            nodes: vec![
                node(Kind::Service, &["web × 2", "nginx\"<b>&"], State::Up),
                node(Kind::Service, &["db"], State::Down),
                node(Kind::Ports, &["8080 → 80/tcp"], State::Unknown),
                node(Kind::Network, &["network default"], State::Unknown),
                node(Kind::Volume, &["volume data"], State::Unknown),
            ],
            edges: vec![
                Edge { from: 0, to: 1, label: "healthy, restart".to_owned(), directed: true },
                Edge { from: 2, to: 0, label: String::new(), directed: true },
                Edge { from: 0, to: 3, label: String::new(), directed: false },
                Edge { from: 1, to: 4, label: "/data (ro)".to_owned(), directed: false },
            ],
        }
    }

    #[test]
    fn nothing_of_a_name_is_read_as_the_language() {
        let dot = dot(&diagram());
        assert!(dot.contains(r#"label="web × 2\nnginx\"<b>&""#), "{dot}");
        let mermaid = mermaid(&diagram());
        assert!(mermaid.contains("nginx#quot;#lt;b#gt;#amp;"), "{mermaid}");
        let svg = svg(&diagram());
        assert!(svg.contains("&lt;b&gt;&amp;") && !svg.contains("<b>"), "{svg}");
    }

    #[test]
    fn all_edges_are_there() {
        let dot = dot(&diagram());
        for edge in [
            r#"n0 -> n1 [label="healthy, restart"];"#,
            "n2 -> n0;",
            "n0 -> n3 [dir=none style=dashed];",
            r#"n1 -> n4 [dir=none style=dashed label="/data (ro)"];"#,
        ] {
            assert!(dot.contains(edge), "{edge} in {dot}");
        }
        let mermaid = mermaid(&diagram());
        for edge in ["n0 -->|\"healthy, restart\"| n1", "n2 --> n0", "n0 -.- n3", "n1 -.-|\"/data (ro)\"| n4"] {
            assert!(mermaid.contains(edge), "{edge} in {mermaid}");
        }
    }

    #[test]
    fn services_in_a_circle_can_be_drawn() {
        let mut diagram = diagram();
        diagram.edges.push(Edge { from: 1, to: 0, label: String::new(), directed: true });
        diagram.edges.push(Edge { from: 1, to: 1, label: String::new(), directed: true });
        assert!(svg(&diagram).ends_with("</svg>"));
    }
}
