//! Which services take part: profiles, and the services named on the command line.

use std::collections::BTreeSet;

use super::model::{MountKind, Project, Service};

/// A service was named that the project does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such service: {0}")]
pub struct SelectError(pub String);

impl Service {
    /// Whether one of the profiles activates the service; one without profiles is always active.
    pub fn has_profile<S: AsRef<str>>(&self, profiles: &[S]) -> bool {
        self.profiles.is_empty()
            || profiles.iter().any(|active| {
                active.as_ref() == "*" || self.profiles.iter().any(|own| own == active.as_ref())
            })
    }
}

impl Project {
    /// Activates these profiles, and no others.
    pub fn set_profiles(&mut self, profiles: Vec<String>) {
        let all = std::mem::take(&mut self.services)
            .into_iter()
            .chain(std::mem::take(&mut self.disabled_services));
        (self.services, self.disabled_services) =
            all.partition(|(_, service)| service.has_profile(&profiles));
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

        let mut selected = BTreeSet::new();
        let mut open: Vec<(String, bool)> = names
            .iter()
            .map(|name| (name.as_ref().to_owned(), true))
            .collect();
        while let Some((name, required)) = open.pop() {
            match self.services.get(&name) {
                Some(service) => {
                    if selected.insert(name) {
                        open.extend(
                            service
                                .depends_on
                                .iter()
                                .map(|(name, dependency)| (name.clone(), dependency.required)),
                        );
                    }
                }
                None if required => return Err(SelectError(name)),
                None => {}
            }
        }

        let (mut chosen, others): (
            std::collections::BTreeMap<_, _>,
            std::collections::BTreeMap<_, _>,
        ) = std::mem::take(&mut self.services)
            .into_iter()
            .partition(|(name, _)| selected.contains(name));
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
            services.values().any(|service| {
                service
                    .volumes
                    .iter()
                    .any(|mount| mount.kind == kind && mount.source == key)
            })
        };
        self.networks.retain(|key, _| {
            services
                .values()
                .any(|service| service.networks.contains_key(key))
        });
        self.volumes
            .retain(|key, _| mounted(MountKind::Volume, key));
        self.configs.retain(|key, _| {
            services
                .values()
                .any(|service| service.configs.iter().any(|config| config.source == *key))
        });
        self.secrets.retain(|key, _| {
            services.values().any(|service| {
                let build = service.build.iter().flat_map(|build| &build.secrets);
                service
                    .secrets
                    .iter()
                    .chain(build)
                    .any(|secret| secret.source == *key)
            })
        });
        self.models.retain(|key, _| {
            services
                .values()
                .any(|service| service.models.contains_key(key))
        });
        self
    }

    /// The hash of a service's definition, as `config --hash` prints it and containers carry it in a label.
    pub fn config_hash<'a>(&self, service: &'a Service) -> &'a str {
        &service.config_hash
    }
}
