//! The images that a project's services need.

use std::collections::{BTreeMap, BTreeSet};

use rcompose_engine::image::{Hold, Image as Stored, Platform, Reference, ReferenceError, Store, StoreError};

use super::image::Image;
use super::names;
use crate::compose::model::{MountKind, Project, Service};

/// The images of a project that are in the store, and those that are not.
#[derive(Debug, Default)]
pub struct Images {
    /// By service.
    pub services: BTreeMap<String, Image>,
    /// Those that are mounted or run before a service, by reference.
    pub mounted: BTreeMap<String, Image>,
    pub missing: Vec<Missing>,
    /// Keeps them from being removed until containers refer to them.
    pub hold: Option<Hold>,
}

/// An image that a service needs and that is not in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub service: String,
    pub reference: String,
    /// The platform of the image that is there instead.
    pub other: Option<Platform>,
}

/// Why it could not be seen which images there are.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    #[error("service \"{service}\": invalid image name \"{reference}\"")]
    Reference {
        service: String,
        reference: String,
        #[source]
        source: ReferenceError,
    },
    #[error("cannot look up image {reference}")]
    Store {
        reference: String,
        #[source]
        source: Box<StoreError>,
    },
    #[error("service \"{0}\" has neither an image nor a build context specified")]
    Neither(String),
}

/// Returns whether an image is made of this program itself, and has to be looked at whenever the program may be new.
pub fn is_builtin(reference: &str) -> bool {
    reference.starts_with("rcompose.local/")
}

/// Looks up every image that the project's services need. With `fresh`, one made of this program counts as missing.
pub fn look_up(store: &Store, project: &Project, fresh: bool) -> Result<Images, ImagesError> {
    let mut images = Images::default();
    for service in project.services.values().filter(|service| service.provider.is_none()) {
        if service.image.is_none() && service.build.is_none() {
            return Err(ImagesError::Neither(service.name.clone()));
        }
        let reference = names::image(project, service);
        match stored(store, &service.name, &reference)? {
            Some(stored) if !is_of(&stored, service) && !is_builtin(&reference) => {
                let other = Some(stored.platform);
                images.missing.push(Missing { service: service.name.clone(), reference, other });
            }
            Some(stored) if !(fresh && is_builtin(&reference)) => {
                images.services.insert(service.name.clone(), facts(&reference, &stored));
            }
            _ => images.missing.push(Missing { service: service.name.clone(), reference, other: None }),
        }
        for reference in further(service) {
            if let Some(stored) = stored(store, &service.name, reference)? {
                images.mounted.insert(reference.to_owned(), facts(reference, &stored));
            } else {
                let (service, reference) = (service.name.clone(), reference.to_owned());
                images.missing.push(Missing { service, reference, other: None });
            }
        }
    }
    Ok(images)
}

/// Returns the images that a service needs besides its own: those that it mounts, and those of its hooks.
pub fn further(service: &Service) -> BTreeSet<&str> {
    let mounts = service.volumes.iter().filter(|mount| mount.kind == MountKind::Image);
    let hooks = service.pre_start.iter().filter_map(|hook| hook.image.as_deref());
    mounts.map(|mount| mount.source.as_str()).chain(hooks).collect()
}

/// Reads an image's name.
pub fn reference(service: &str, reference: &str) -> Result<Reference, ImagesError> {
    reference.parse().map_err(|source| ImagesError::Reference {
        service: service.to_owned(),
        reference: reference.to_owned(),
        source,
    })
}

/// Returns whether an image is for the platform that a service asks for. What is no platform is found out by the pull.
fn is_of(stored: &Stored, service: &Service) -> bool {
    let Some(platform) = service.platform.as_deref().filter(|platform| !platform.is_empty()) else { return true };
    let same = |platform: Platform| {
        (&platform.os, &platform.architecture) == (&stored.platform.os, &stored.platform.architecture)
    };
    platform.parse().is_ok_and(same)
}

fn stored(store: &Store, service: &str, name: &str) -> Result<Option<Stored>, ImagesError> {
    let failed = |source| ImagesError::Store { reference: name.to_owned(), source: Box::new(source) };
    // An image may also be given by its id.
    if let Some(id) = name.strip_prefix("sha256:") {
        return store.find(id).map_err(failed);
    }
    store.get(&reference(service, name)?).map_err(failed)
}

fn facts(reference: &str, stored: &Stored) -> Image {
    let config = stored.config.config().as_ref();
    Image {
        reference: reference.to_owned(),
        id: stored.id.to_string(),
        entrypoint: config.and_then(|config| config.entrypoint().clone()).unwrap_or_default(),
        command: config.and_then(|config| config.cmd().clone()).unwrap_or_default(),
        volumes: config.and_then(|config| config.volumes().clone()).unwrap_or_default(),
        expose: config.and_then(|config| config.exposed_ports().clone()).unwrap_or_default(),
        environment: config.and_then(|config| config.env().clone()).unwrap_or_default(),
        user: config.and_then(|config| config.user().clone()).unwrap_or_default(),
        healthcheck: stored
            .docker
            .healthcheck
            .as_ref()
            .is_some_and(|check| check.test.iter().flatten().next().is_some_and(|kind| kind != "NONE")),
        platform: Some(stored.platform.clone()),
    }
}
