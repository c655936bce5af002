//! Which services take part: profiles, and the services named on the command line.

use std::collections::BTreeSet;

use super::model::{MountKind, Project, Service};
use super::{Diagnostic, Faults, Map, Node, Value, suggest};

/// A service was named that the project does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such service: {0}")]
pub struct SelectError(pub String);

impl Service {
    /// Whether one of the profiles activates the service; one without profiles is always active.
    pub fn has_profile<S: AsRef<str>>(&self, profiles: &[S]) -> bool {
        self.profiles.is_empty()
            || profiles
                .iter()
                .any(|active| active.as_ref() == "*" || self.profiles.iter().any(|own| own == active.as_ref()))
    }
}

impl Project {
    /// Activates these profiles, and no others.
    pub fn set_profiles(&mut self, profiles: Vec<String>) {
        let all = std::mem::take(&mut self.services).into_iter().chain(std::mem::take(&mut self.disabled_services));
        (self.services, self.disabled_services) = all.partition(|(_, service)| service.has_profile(&profiles));
        self.profiles = profiles;
    }

    /// The project with only these services and what they depend on; the profiles of the named services become
    /// active for it. All active services where no name is given.
    pub fn with_services<S: AsRef<str>>(mut self, names: &[S]) -> Result<Self, SelectError> {
        if names.is_empty() {
            return Ok(self);
        }
        let mut profiles = self.profiles.clone();
        for name in names {
            if let Some(service) = self.disabled_services.get(name.as_ref()) {
                profiles.extend(service.profiles.iter().cloned());
            }
        }
        self.set_profiles(profiles);

        let selected = closure(names, |name| {
            let service = self.services.get(name)?;
            Some(service.depends_on.iter().map(|(name, dependency)| (name.clone(), dependency.required)).collect())
        })?;

        let (mut chosen, others): (std::collections::BTreeMap<_, _>, std::collections::BTreeMap<_, _>) =
            std::mem::take(&mut self.services).into_iter().partition(|(name, _)| selected.contains(name));
        for service in chosen.values_mut() {
            service.depends_on.retain(|name, _| selected.contains(name));
        }
        self.services = chosen;
        self.disabled_services.extend(others);
        Ok(self)
    }

    /// The project without networks, volumes, configs, secrets and models that no active service uses.
    #[must_use]
    pub fn without_unused_resources(mut self) -> Self {
        let services = &self.services;
        let mounted = |kind: MountKind, key: &str| {
            services
                .values()
                .any(|service| service.volumes.iter().any(|mount| mount.kind == kind && mount.source == key))
        };
        self.networks.retain(|key, _| services.values().any(|service| service.networks.contains_key(key)));
        self.volumes.retain(|key, _| mounted(MountKind::Volume, key));
        self.configs.retain(|key, _| {
            services.values().any(|service| service.configs.iter().any(|config| config.source == *key))
        });
        self.secrets.retain(|key, _| {
            services.values().any(|service| {
                let build = service.build.iter().flat_map(|build| &build.secrets);
                service.secrets.iter().chain(build).any(|secret| secret.source == *key)
            })
        });
        self.models.retain(|key, _| services.values().any(|service| service.models.contains_key(key)));
        self
    }

    /// The hash of a service's definition, as `config --hash` prints it and containers carry it in a label.
    pub fn config_hash<'a>(&self, service: &'a Service) -> &'a str {
        &service.config_hash
    }
}

/// The named services and everything they depend on. `dependencies` gives the dependencies of an active service, and whether each
/// is required; None: there is no such active service.
fn closure<S: AsRef<str>>(
    names: &[S],
    dependencies: impl Fn(&str) -> Option<Vec<(String, bool)>>,
) -> Result<BTreeSet<String>, SelectError> {
    let mut selected = BTreeSet::new();
    let mut open: Vec<(String, bool)> = names.iter().map(|name| (name.as_ref().to_owned(), true)).collect();
    while let Some((name, required)) = open.pop() {
        match dependencies(&name) {
            Some(further) if selected.insert(name.clone()) => open.extend(further),
            None if required => return Err(SelectError(name)),
            _ => {}
        }
    }
    Ok(selected)
}

/// The selection of services in a tree: the active ones stay in it.
pub(super) struct Selection {
    /// The services that are not active.
    pub(super) disabled: Map,
    /// The active profiles.
    pub(super) profiles: Vec<String>,
}

fn strings(node: Option<&Node>) -> Vec<String> {
    node.and_then(Node::as_list).into_iter().flatten().filter_map(|node| node.as_str().map(ToOwned::to_owned)).collect()
}

fn is_active(service: &Node, profiles: &[String]) -> bool {
    let own = strings(service.get("profiles"));
    own.is_empty() || profiles.iter().any(|active| active == "*" || own.contains(active))
}

impl Selection {
    /// Takes the services out of the tree that no profile asks for.
    pub(super) fn new(root: &mut Node, profiles: Vec<String>) -> Self {
        let mut disabled = Map::new();
        if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
            for (name, service) in std::mem::take(services) {
                if is_active(&service, &profiles) {
                    services.insert(name, service)
                } else {
                    disabled.insert(name, service)
                };
            }
        }
        Self { disabled, profiles }
    }

    /// Leaves only the named services and what they depend on; their profiles become active.
    pub(super) fn select(&mut self, root: &mut Node, names: &[String], faults: &mut Faults) {
        if names.is_empty() {
            return;
        }
        for name in names {
            if let Some(service) = self.disabled.get(name) {
                self.profiles.extend(strings(service.get("profiles")));
            }
        }
        let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return };
        for (name, service) in std::mem::take(&mut self.disabled) {
            if is_active(&service, &self.profiles) {
                services.insert(name, service)
            } else {
                self.disabled.insert(name, service)
            };
        }
        let selected = closure(names, |name| {
            let dependencies = services.get(name)?.get("depends_on").and_then(Node::as_map);
            let required = |node: &Node| node.get("required").and_then(Node::as_bool).unwrap_or(true);
            Some(dependencies.into_iter().flatten().map(|(name, node)| (name.clone(), required(node))).collect())
        });
        let selected = match selected {
            Ok(selected) => selected,
            Err(error) => {
                let mut diagnostic = Diagnostic::error("undefined-service", error.to_string());
                if let Some(known) =
                    suggest::closest(&error.0, services.keys().chain(self.disabled.keys()).map(String::as_str))
                {
                    diagnostic = diagnostic.help(format!("did you mean {known:?}?"));
                }
                faults.push(diagnostic);
                return;
            }
        };
        for (name, mut service) in std::mem::take(services) {
            if !selected.contains(&name) {
                self.disabled.insert(name, service);
                continue;
            }
            if let Some(map) = service.as_map_mut()
                && let Some(Value::Map(dependencies)) = map.get_mut("depends_on").map(|node| &mut node.value)
            {
                dependencies.retain(|name, _| selected.contains(name));
            }
            services.insert(name, service);
        }
    }
}

/// Removes resources that no active service uses.
pub(super) fn drop_unused(root: &mut Node) {
    let mut used: BTreeSet<(&str, String)> = BTreeSet::new();
    for service in root.get("services").and_then(Node::as_map).into_iter().flat_map(Map::values) {
        for section in ["networks", "models"] {
            used.extend(
                service
                    .get(section)
                    .and_then(Node::as_map)
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| (section, key.clone())),
            );
        }
        let sources = |node: Option<&Node>| -> Vec<String> {
            node.and_then(Node::as_list)
                .into_iter()
                .flatten()
                .filter_map(|item| Some(item.get("source")?.as_str()?.to_owned()))
                .collect()
        };
        for mount in service.get("volumes").and_then(Node::as_list).into_iter().flatten() {
            if let (Some("volume"), Some(source)) =
                (mount.get("type").and_then(Node::as_str), mount.get("source").and_then(Node::as_str))
            {
                used.insert(("volumes", source.to_owned()));
            }
        }
        used.extend(sources(service.get("secrets")).into_iter().map(|source| ("secrets", source)));
        used.extend(
            sources(service.get("build").and_then(|build| build.get("secrets")))
                .into_iter()
                .map(|source| ("secrets", source)),
        );
        used.extend(sources(service.get("configs")).into_iter().map(|source| ("configs", source)));
    }
    for section in ["networks", "volumes", "secrets", "configs", "models"] {
        if let Some(map) = root.get_mut(section).and_then(Node::as_map_mut) {
            map.retain(|key, _| used.contains(&(section, key.clone())));
        }
    }
}
