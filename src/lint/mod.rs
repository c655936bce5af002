//! `rcompose lint`: what a project may do, and mostly should not.
//!
//! Each check looks at the loaded project and says what it found and where. What is meant as it is can be left alone, by the
//! names of the checks: for the project by `x-lint: {ignore: […]}` at the top, for a service by the same in the service.

mod build;
mod environment;
mod health;
mod image;
mod mounts;
mod numbers;
mod ports;
mod process;
pub mod sensitive;
mod unused;

use std::collections::BTreeMap;

use crate::compose::key::{Key, KeyPath};
use crate::compose::node::Node;
use crate::compose::{Diagnostic, Loaded, Project, Resolved};
use crate::project::image::Image;

/// One thing that is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// What it is called where it is to be left alone, and in JSON.
    pub name: &'static str,
    /// What it finds.
    pub about: &'static str,
    look: fn(&Subject<'_>, &mut Findings<'_>),
}

/// All checks.
pub const CHECKS: [Check; 16] = [
    Check {
        name: "published-database",
        about: "a database that everybody who reaches this host can reach",
        look: ports::databases,
    },
    Check { name: "duplicate-port", about: "two services that publish one port", look: ports::duplicates },
    Check { name: "ignored-port", about: "published ports of a service that has no network", look: ports::ignored },
    Check {
        name: "healthy-without-check",
        about: "`service_healthy` of a service without a health check",
        look: health::without_check,
    },
    Check {
        name: "started-with-check",
        about: "a dependency with a health check that is not waited for",
        look: health::not_waited_for,
    },
    Check {
        name: "localhost-of-sibling",
        about: "`localhost` in a URL with the port of another service",
        look: environment::localhost,
    },
    Check {
        name: "secret-in-environment",
        about: "passwords and keys that stand in the file as variables",
        look: environment::secrets,
    },
    Check { name: "latest-image", about: "images without a version", look: image::latest },
    Check { name: "root-user", about: "services that run as root", look: image::root },
    Check {
        name: "shell-as-pid-1",
        about: "shells as PID 1, which pass no SIGTERM on to what they run",
        look: process::shells,
    },
    Check {
        name: "no-dockerignore",
        about: "build contexts with what no image needs, and no `.dockerignore`",
        look: build::contexts,
    },
    Check { name: "unquoted-port", about: "ports that YAML may read as a number", look: numbers::ports },
    Check { name: "unquoted-number", about: "numbers that YAML changes", look: numbers::values },
    Check { name: "docker-socket", about: "mounts of Docker's socket", look: mounts::sockets },
    Check { name: "missing-file", about: "mounted files that are not there", look: mounts::missing },
    Check { name: "unused", about: "networks, volumes, configs and secrets that no service uses", look: unused::find },
];

/// What is looked at.
struct Subject<'s> {
    project: &'s Project,
    resolved: &'s Resolved,
    /// Those of the services' images that are known here, by service.
    images: &'s BTreeMap<String, Image>,
}

/// What was found.
struct Findings<'s> {
    resolved: &'s Resolved,
    check: &'static str,
    found: Vec<Diagnostic>,
}

impl Findings<'_> {
    /// Adds what is at `path`, unless the check is to leave it alone.
    fn add(&mut self, path: &KeyPath, message: impl Into<String>, help: impl Into<String>) {
        let of_service = match &path.0[..] {
            [Key::Name(top), Key::Name(service), ..] if top == "services" => {
                self.resolved.tree.0.get(top).and_then(|all| all.get(service))
            }
            _ => None,
        };
        if [Some(&self.resolved.tree.0), of_service]
            .into_iter()
            .flatten()
            .any(|node| ignored(node).any(|name| name == self.check))
        {
            return;
        }
        let diagnostic = Diagnostic::warning(self.check, message)
            .at_path(path.to_string())
            .label(&self.resolved.sources, self.resolved.span(path), "")
            .help(help);
        self.found.push(diagnostic);
    }
}

/// Returns the names of the checks that are to leave a node alone.
fn ignored(node: &Node) -> impl Iterator<Item = &str> {
    let listed = node.get("x-lint").and_then(|lint| lint.get("ignore")).and_then(Node::as_list);
    listed.into_iter().flatten().filter_map(Node::as_str)
}

/// Returns what was found in a project, in the order of the files. `images` are those of its services that are known here.
pub fn lint(loaded: &Loaded, images: &BTreeMap<String, Image>) -> Vec<Diagnostic> {
    let (project, resolved) = (&loaded.project, &loaded.resolved);
    let subject = Subject { project, resolved, images };
    let mut findings = Findings { resolved, check: "unknown-check", found: Vec::new() };
    names(&mut findings);
    for check in CHECKS {
        findings.check = check.name;
        (check.look)(&subject, &mut findings);
    }
    let mut found = findings.found;
    found.sort_by_cached_key(|diagnostic| {
        diagnostic.position().map(|(file, line, column)| (file.to_owned(), line, column))
    });
    found
}

/// Finds names of checks that are none.
fn names(findings: &mut Findings<'_>) {
    let root = &findings.resolved.tree.0;
    let services = root.get("services").and_then(Node::as_map).into_iter().flatten();
    let services = services.map(|(name, node)| (service(name, &["x-lint", "ignore"]), node));
    for (path, node) in std::iter::once((KeyPath::of(&["x-lint", "ignore"]), root)).chain(services) {
        for (index, name) in
            ignored(node).enumerate().filter(|(_, name)| CHECKS.iter().all(|check| check.name != *name))
        {
            let names = CHECKS.map(|check| check.name).join(", ");
            findings.add(
                &path.join(Key::Index(index)),
                format!("there is no check {name:?}"),
                format!("the checks are {names}"),
            );
        }
    }
}

/// Returns the path of what is in a service.
fn service(name: &str, rest: &[&str]) -> KeyPath {
    KeyPath(["services", name].iter().chain(rest).map(|name| Key::from(*name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_check_and_no_other() {
        let text = include_str!("../../docs/lint.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(rows.collect::<Vec<_>>(), CHECKS.map(|check| check.name));
    }
}
