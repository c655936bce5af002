//! Why a container is not what its service says any more.

use rcompose_engine::container::config::{FileContent, Mount, MountSource, NamespaceMode, NetworkMode};
use rcompose_engine::container::memory::digest;
use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use rcompose_engine::protocol::ProvidedFile;

use super::super::Cause;
use super::super::change::{Change, changes};
use super::resources::is_of;
use super::{Planner, Recreate};
use crate::compose::key::KeyPath;
use crate::compose::model::{self, MountKind, Service};
use crate::project::container::References as _;
use crate::project::labels::{self, Labelled as _};

impl Planner<'_> {
    /// Returns why a container has to be replaced, if it has to.
    pub(super) fn divergence(&self, service: &Service, files: &[ProvidedFile], container: &Container) -> Option<Cause> {
        let named = self.options.services.is_empty() || self.options.services.contains(&service.name);
        match if named { self.options.recreate } else { self.options.recreate_dependencies } {
            Recreate::Never => return None,
            Recreate::Force => return Some(Cause::Asked),
            Recreate::Diverged => {}
        }
        if container.label(labels::CONFIG_HASH) != Some(&service.config_hash) {
            return Some(Cause::ConfigChanged(service_changes(service, container)));
        }
        let (old, new) = (&container.config.image_id, &self.wanted.images[&service.name].id);
        if old != new {
            return Some(Cause::ImageChanged { old: old.clone(), new: new.clone() });
        }
        for (name, was) in joined(service, container) {
            if self.service(name).map(|referred| referred.id).as_ref() != was {
                return Some(Cause::Joined(name.to_owned()));
            }
        }
        if let NetworkMode::Networks(endpoints) = &container.config.network {
            for key in service.networks.keys() {
                let Some(network) = self.wanted.project.networks.get(key) else { continue };
                if endpoints.iter().all(|endpoint| endpoint.network != network.name) {
                    return Some(Cause::NotConnected(network.name.clone()));
                }
            }
        }
        for mount in service.volumes.iter().filter(|mount| mount.kind == MountKind::Volume && !mount.source.is_empty())
        {
            let Some(volume) = self.wanted.project.volumes.get(&mount.source) else { continue };
            if !container.config.mounts.iter().any(|mount| is_of(mount, &volume.name)) {
                return Some(Cause::VolumeChanged(volume.name.clone()));
            }
        }
        for file in files {
            let digest = digest(&container.config.id, file.content.as_bytes());
            let content = FileContent::Provided { digest };
            let same = |mount: &Mount| {
                mount.target == file.target
                    && matches!(&mount.source, MountSource::File { content: was, .. } if *was == content)
            };
            if !container.config.mounts.iter().any(same) {
                return Some(Cause::FileChanged(file.target.clone()));
            }
        }
        None
    }
}

/// Returns what is another in a service's definition than in the one that a container was made from. Nothing where that is
/// not known any more.
fn service_changes(service: &Service, container: &Container) -> Vec<Change> {
    let [old, new] = [&container.config.definition, &service.definition].map(|text| serde_json::from_str(text));
    match (old, new) {
        (Ok(old), Ok(new)) => changes(&KeyPath::of(&["services", &service.name]), &old, &new),
        _ => Vec::new(),
    }
}

/// Returns the services whose namespaces a service shares, each with the container whose namespace it was.
fn joined<'a>(service: &'a Service, container: &'a Container) -> Vec<(&'a str, Option<&'a Id>)> {
    let config = &container.config;
    let mode = |mode: &'a NamespaceMode| if let NamespaceMode::Container(id) = mode { Some(id) } else { None };
    let network = if let NetworkMode::Container(id) = &config.network { Some(id) } else { None };
    let shared = [
        (named_service(service.pid.as_ref()), mode(&config.pid)),
        (named_service(service.ipc.as_ref()), mode(&config.ipc)),
        (network_service(service), network),
    ];
    shared.into_iter().filter_map(|(name, was)| Some((name?, was))).collect()
}

/// Returns the services from whose containers a service takes a namespace or volumes.
pub(super) fn shared_with(service: &Service) -> Vec<&str> {
    let volumes = service.volumes_from.iter().filter(|from| !from.starts_with("container:"));
    let volumes = volumes.map(|from| from.split_once(':').map_or(from.as_str(), |(name, _)| name));
    let spaces = [named_service(service.pid.as_ref()), named_service(service.ipc.as_ref()), network_service(service)];
    spaces.into_iter().flatten().chain(volumes).collect()
}

pub(super) fn named_service(mode: Option<&String>) -> Option<&str> {
    mode.and_then(|mode| mode.strip_prefix("service:"))
}

pub(super) fn network_service(service: &Service) -> Option<&str> {
    match &service.network_mode {
        Some(model::NetworkMode::Service(name)) => Some(name),
        _ => None,
    }
}
