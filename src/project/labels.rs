//! The labels of Docker Compose, by which its tools (and ours) find what belongs together.

use std::collections::BTreeMap;

use rcompose_engine::container::store::Container;

use crate::compose::model::{Condition, Dependency, Network, Service, Volume};

pub const PROJECT: &str = "com.docker.compose.project";
pub const SERVICE: &str = "com.docker.compose.service";
pub const NUMBER: &str = "com.docker.compose.container-number";
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
pub const IMAGE: &str = "com.docker.compose.image";
pub const ONEOFF: &str = "com.docker.compose.oneoff";
pub const SLUG: &str = "com.docker.compose.slug";
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub const VERSION: &str = "com.docker.compose.version";
pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
pub const ENVIRONMENT_FILE: &str = "com.docker.compose.project.environment_file";
/// Which hook a container is there for, such as `pre_start`.
pub const HOOK: &str = "com.docker.compose.hook";
pub const REPLACE: &str = "com.docker.compose.replace";
pub const NETWORK: &str = "com.docker.compose.network";
pub const VOLUME: &str = "com.docker.compose.volume";
/// What Docker gives every volume that nobody named.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The Docker Compose whose behaviour this is.
pub const COMPOSE_VERSION: &str = "2.40.3";

pub type Labels = BTreeMap<String, String>;

/// What the containers of a project have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectLabels {
    pub name: String,
    pub working_dir: String,
    pub config_files: Vec<String>,
    pub environment_files: Vec<String>,
}

impl ProjectLabels {
    /// Returns the labels of a service's container: the service's own, and ours, which nobody may override.
    pub fn container(&self, service: &Service, number: u32, image_id: &str) -> Labels {
        let mut labels = service.labels.clone();
        let mut set = |key: &str, value: String| drop(labels.insert(key.to_owned(), value));
        set(PROJECT, self.name.clone());
        set(SERVICE, service.name.clone());
        set(NUMBER, number.to_string());
        set(CONFIG_HASH, service.config_hash.clone());
        set(IMAGE, image_id.to_owned());
        set(ONEOFF, "False".to_owned());
        set(DEPENDS_ON, depends_on(&service.depends_on));
        set(VERSION, COMPOSE_VERSION.to_owned());
        set(WORKING_DIR, self.working_dir.clone());
        set(CONFIG_FILES, self.config_files.join(","));
        if !self.environment_files.is_empty() {
            set(ENVIRONMENT_FILE, self.environment_files.join(","));
        }
        labels
    }

    /// Returns the labels of a container that is made besides those of its service.
    pub fn one_off(&self, service: &Service, slug: &str, image_id: &str) -> Labels {
        let mut labels = self.container(service, 0, image_id);
        labels.remove(NUMBER);
        labels.insert(ONEOFF.to_owned(), "True".to_owned());
        labels.insert(SLUG.to_owned(), slug.to_owned());
        labels
    }

    pub fn network(&self, key: &str, network: &Network) -> Labels {
        self.resource(&network.labels, NETWORK, key, &network.config_hash)
    }

    pub fn volume(&self, key: &str, volume: &Volume) -> Labels {
        self.resource(&volume.labels, VOLUME, key, &volume.config_hash)
    }

    fn resource(&self, own: &Labels, kind: &str, key: &str, hash: &str) -> Labels {
        let mut labels = own.clone();
        for (name, value) in
            [(PROJECT, self.name.as_str()), (kind, key), (VERSION, COMPOSE_VERSION), (CONFIG_HASH, hash)]
        {
            labels.insert(name.to_owned(), value.to_owned());
        }
        labels
    }
}

fn depends_on(dependencies: &BTreeMap<String, Dependency>) -> String {
    let text = |(name, dependency): (&String, &Dependency)| {
        let condition = match dependency.condition {
            Condition::Started => "service_started",
            Condition::Healthy => "service_healthy",
            Condition::CompletedSuccessfully => "service_completed_successfully",
        };
        format!("{name}:{condition}:{}", dependency.restart)
    };
    dependencies.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A container that a compose project made, as its labels tell.
pub trait Labelled {
    fn label(&self, name: &str) -> Option<&str>;

    /// Returns the service it belongs to.
    fn service(&self) -> &str {
        self.label(SERVICE).unwrap_or_default()
    }

    /// Returns its number within the service, from 1.
    fn number(&self) -> u32 {
        self.label(NUMBER).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Returns whether `run` made it.
    fn is_oneoff(&self) -> bool {
        self.label(ONEOFF) == Some("True")
    }

    /// Returns whether it is there for a hook of a service.
    fn is_hook(&self) -> bool {
        self.label(HOOK).is_some()
    }

    /// Returns the services it depends on.
    fn dependencies(&self) -> Vec<Depends<'_>> {
        let entry = |entry| {
            let mut parts = str::split(entry, ':');
            let service = parts.next().filter(|name| !name.is_empty())?;
            let condition = match parts.next() {
                Some("service_healthy") => Condition::Healthy,
                Some("service_completed_successfully") => Condition::CompletedSuccessfully,
                _ => Condition::Started,
            };
            Some(Depends { service, condition, restart: parts.next() == Some("true") })
        };
        self.label(DEPENDS_ON).unwrap_or_default().split(',').filter_map(entry).collect()
    }
}

/// One dependency of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depends<'a> {
    pub service: &'a str,
    pub condition: Condition,
    /// Whether it is restarted with the dependency.
    pub restart: bool,
}

impl Labelled for Container {
    fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Only(Labels);

    impl Labelled for Only {
        fn label(&self, name: &str) -> Option<&str> {
            self.0.get(name).map(String::as_str)
        }
    }

    fn project() -> ProjectLabels {
        ProjectLabels {
            name: "shop".into(),
            working_dir: "/srv/shop".into(),
            config_files: vec!["/srv/shop/compose.yaml".into(), "/srv/shop/compose.override.yaml".into()],
            environment_files: Vec::new(),
        }
    }

    #[test]
    fn a_container_is_found_by_what_it_was_labelled_with() {
        let dependency = Dependency { condition: Condition::Healthy, restart: true, required: true };
        let service = Service {
            name: "web".into(),
            config_hash: "abc".into(),
            depends_on: [("db".to_owned(), dependency)].into(),
            labels: [("tier".to_owned(), "front".to_owned()), (PROJECT.to_owned(), "mine".to_owned())].into(),
            ..Service::default()
        };
        let labels = Only(project().container(&service, 2, "sha256:1"));
        assert_eq!((labels.service(), labels.number(), labels.is_oneoff()), ("web", 2, false));
        assert_eq!(labels.dependencies(), [Depends { service: "db", condition: Condition::Healthy, restart: true }]);
        assert_eq!(labels.label(DEPENDS_ON), Some("db:service_healthy:true"));
        assert_eq!(labels.label(PROJECT), Some("shop"));
        assert_eq!(labels.label("tier"), Some("front"));
        assert_eq!(labels.label(CONFIG_FILES), Some("/srv/shop/compose.yaml,/srv/shop/compose.override.yaml"));
        assert_eq!(labels.label(ENVIRONMENT_FILE), None);
    }

    #[test]
    fn a_container_without_labels_depends_on_nothing() {
        let labels = Only(Labels::new());
        assert_eq!((labels.service(), labels.number()), ("", 0));
        assert!(labels.dependencies().is_empty());
        assert!(Only([(DEPENDS_ON.to_owned(), String::new())].into()).dependencies().is_empty());
    }
}
