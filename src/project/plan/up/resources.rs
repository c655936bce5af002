//! The networks and volumes of a project, and the containers that have to leave them for that.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::NodeIndex;
use rcompose_engine::container::config::{Mount, MountSource, NetworkMode};
use rcompose_engine::container::store::Container;
use rcompose_engine::network::config::NetworkConfig;

use super::super::change::{Change, changes};
use super::super::{Action, Cause, Volume};
use super::{Planner, Recreate, UpError};
use crate::compose::key::KeyPath;
use crate::compose::model::{self, MountKind, Project};
use crate::project::labels;
use crate::project::network;
use crate::project::observe;

impl Planner<'_> {
    pub(super) fn networks(&mut self) -> Result<(), UpError> {
        let project = self.wanted.project;
        let used = project.services.values().flat_map(|service| service.networks.keys()).collect::<BTreeSet<_>>();
        let wanted = |key: &String| self.options.all_resources || used.contains(key);
        for (key, network) in project.networks.iter().filter(|(key, _)| wanted(key)) {
            let there = self.observed.networks.get(&network.name);
            if network.external {
                if there.is_none() {
                    return Err(UpError::ExternalNetwork(network.name.clone()));
                }
                continue;
            }
            let config = network::config(Some(&project.name), network, self.wanted.labels.network(key, network))?;
            let Some(there) = there else {
                let step = self.plan.add(Action::CreateNetwork(Box::new(config)), Cause::Missing, &[]);
                self.resources.push(step);
                continue;
            };
            if there.project.as_deref() != Some(&project.name) {
                self.plan.warnings.push(format!(
                    "a network with name {} exists but was not created for project \"{}\".\n\
                     Set `external: true` to use an existing network",
                    network.name, project.name
                ));
                continue;
            }
            let hash = there.labels.get(labels::CONFIG_HASH);
            if hash.is_some_and(|hash| *hash != network.config_hash) && self.options.recreate != Recreate::Never {
                let changes = network_changes(key, there, &config);
                let cause = Cause::NetworkChanged { name: network.name.clone(), changes };
                let gone = self.leave(|container| connected_to(container, &network.name), &cause);
                let removal = Action::RemoveNetwork { name: network.name.clone(), unless_used: false };
                let removed = self.plan.add(removal, cause.clone(), &gone);
                let step = self.plan.add(Action::CreateNetwork(Box::new(config)), cause, &[removed]);
                self.resources.push(step);
            }
        }
        Ok(())
    }

    /// Removes every container of the project that uses something, and returns the last steps of that.
    pub(super) fn leave(&mut self, uses: impl Fn(&Container) -> bool, cause: &Cause) -> Vec<NodeIndex> {
        let observed = self.observed;
        let mut gone = Vec::new();
        for container in observed.containers.iter().filter(|container| uses(container)) {
            let id = &container.config.id;
            let removed = match self.left.get(id) {
                Some(removed) => *removed,
                None => self.remove(container, cause.clone()),
            };
            self.left.insert(id.clone(), removed);
            gone.push(removed);
        }
        gone
    }

    pub(super) fn volumes(&mut self) -> Result<(), UpError> {
        let project = self.wanted.project;
        let mounts = project.services.values().flat_map(|service| &service.volumes);
        let used = mounts
            .filter(|mount| mount.kind == MountKind::Volume)
            .map(|mount| mount.source.as_str())
            .collect::<BTreeSet<_>>();
        let wanted = |key: &String| self.options.all_resources || used.contains(key.as_str());
        for (key, volume) in project.volumes.iter().filter(|(key, _)| wanted(key)) {
            let name = &volume.name;
            let Some(there) = self.observed.volumes.get(name) else {
                if volume.external {
                    return Err(UpError::ExternalVolume(name.clone()));
                }
                let new = self.volume(key, volume);
                let step = self.plan.add(Action::CreateVolume(new), Cause::Missing, &[]);
                self.resources.push(step);
                continue;
            };
            if volume.external {
                continue;
            }
            match there.labels.get(labels::PROJECT) {
                Some(owner) if *owner == project.name => {
                    if !is_another(volume, there) {
                        continue;
                    }
                    if self.options.replaced_volumes.contains(name) {
                        self.replace_volume(key, volume);
                    } else {
                        self.plan.warnings.push(format!(
                            "volume \"{name}\" exists but doesn't match configuration in compose file; it is used as it is \
                             (`rcompose up -y` makes it again, without its data)"
                        ));
                    }
                }
                Some(owner) => self.plan.warnings.push(format!(
                    "volume \"{name}\" already exists but was created for project \"{owner}\" (expected \"{}\"). \
                     Use `external: true` to use an existing volume",
                    project.name
                )),
                None => self.plan.warnings.push(format!(
                    "volume \"{name}\" already exists but was not created by Docker Compose. \
                     Use `external: true` to use an existing volume"
                )),
            }
        }
        Ok(())
    }

    pub(super) fn volume(&self, key: &str, volume: &model::Volume) -> Volume {
        Volume {
            name: volume.name.clone(),
            driver: volume.driver.clone().unwrap_or_else(|| "local".to_owned()),
            driver_opts: volume.driver_opts.clone(),
            labels: self.wanted.labels.volume(key, volume),
        }
    }

    /// Makes a volume again, without its data.
    pub(super) fn replace_volume(&mut self, key: &str, volume: &model::Volume) {
        let cause = Cause::VolumeRedefined(volume.name.clone());
        let mounts = |container: &Container| container.config.mounts.iter().any(|mount| is_of(mount, &volume.name));
        let gone = self.leave(mounts, &cause);
        let action = Action::RemoveVolume { name: volume.name.clone(), anonymous: false };
        let removed = self.plan.add(action, cause.clone(), &gone);
        let new = self.volume(key, volume);
        let step = self.plan.add(Action::CreateVolume(new), cause, &[removed]);
        self.resources.push(step);
    }
}

/// Returns what is another in a network.
pub(super) fn network_changes(key: &str, old: &NetworkConfig, new: &NetworkConfig) -> Vec<Change> {
    let definition = |config: &NetworkConfig| {
        serde_json::json!({
            "driver": config.driver,
            "driver_opts": config.driver_opts,
            "internal": config.internal,
            "attachable": config.attachable,
            "enable_ipv4": config.enable_ipv4,
            "enable_ipv6": config.enable_ipv6,
            "ipam": {"config": config.subnets},
            "labels": config.labels.iter().filter(|(key, _)| !key.starts_with("com.docker.compose.")).collect::<BTreeMap<_, _>>(),
        })
    };
    changes(&KeyPath::of(&["networks", key]), &definition(old), &definition(new))
}

/// Returns whether a mount is that of a volume.
pub(super) fn is_of(mount: &Mount, volume: &str) -> bool {
    matches!(&mount.source, MountSource::Volume { name, .. } if name == volume)
}

/// Returns whether a volume of the project is not what the files say any more.
pub(super) fn is_another(volume: &model::Volume, there: &observe::Volume) -> bool {
    there.labels.get(labels::CONFIG_HASH).is_some_and(|hash| *hash != volume.config_hash)
}

/// Returns the volumes of the project that are not what its files say any more, by name.
pub fn redefined(project: &Project, there: &BTreeMap<String, observe::Volume>) -> BTreeSet<String> {
    let redefined = project.volumes.values().filter(|volume| {
        !volume.external
            && there.get(&volume.name).is_some_and(|there| {
                there.labels.get(labels::PROJECT) == Some(&project.name) && is_another(volume, there)
            })
    });
    redefined.map(|volume| volume.name.clone()).collect()
}

pub(super) fn connected_to(container: &Container, network: &str) -> bool {
    match &container.config.network {
        NetworkMode::Networks(endpoints) => endpoints.iter().any(|endpoint| endpoint.network == network),
        _ => false,
    }
}
