//! Service → the engine's container (Compose Specification, `services`).
//!
//! Every attribute is either carried over or named in a warning ([`unhonoured`]); none is dropped in silence.

#[cfg(test)]
mod attributes;
mod devices;
mod files;
mod logging;
mod mounts;
mod network;
mod resources;
mod security;
mod unhonoured;

use std::collections::BTreeMap;

use rcompose_engine::container::config::{
    ContainerConfig, HealthTest, Healthcheck, LogConfig, NamespaceMode, RestartPolicy, Ulimit,
};
use rcompose_engine::id::Id;

pub use mounts::AnonymousVolume;
pub use resources::discarded;
pub use unhonoured::unhonoured;

use super::image::Image;
use super::labels::{Labels, ProjectLabels};
use super::names;
use super::oneoff::OneOff;
use crate::compose::model::{self, Project, Restart, Service};

/// An attribute with a value that no container can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service \"{service}\": {attribute}: {reason}")]
pub struct InvalidAttribute {
    pub service: String,
    /// Such as `ports`.
    pub attribute: &'static str,
    /// What is wrong, the value included.
    pub reason: String,
}

/// Everything that decides what a service's containers are.
#[derive(Debug, Clone, Copy)]
pub struct Blueprint<'a> {
    pub project: &'a Project,
    pub labels: &'a ProjectLabels,
    pub service: &'a Service,
    pub image: &'a Image,
    /// Images of `volumes` of type `image`, by reference.
    pub mounted_images: &'a BTreeMap<String, Image>,
    /// A container besides those that the service has.
    pub one_off: Option<&'a OneOff>,
}

/// The containers that a service refers to: by service (its first one), or by name or id.
pub trait References {
    fn service(&self, name: &str) -> Option<Referred>;
    fn container(&self, name: &str) -> Option<Referred>;
}

/// A container that another one takes something from.
#[derive(Debug, Clone)]
pub struct Referred {
    pub id: Id,
    pub mounts: Vec<rcompose_engine::container::config::Mount>,
}

/// A container to be made, and the volumes to be made for it alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub config: ContainerConfig,
    pub volumes: Vec<AnonymousVolume>,
}

impl Blueprint<'_> {
    /// Returns the service's container number `number`.
    ///
    /// `inherited` are the anonymous volumes of the container it replaces, by target.
    pub fn container(
        &self,
        number: u32,
        references: &dyn References,
        inherited: &BTreeMap<String, String>,
    ) -> Result<Wanted, InvalidAttribute> {
        let service = self.service;
        let id = Id::random();
        if !service.storage_opt.is_empty() {
            let reason =
                "the size of a container's own layer cannot be limited here, as with Docker on most file systems";
            return Err(self.invalid("storage_opt", reason));
        }
        if let Some(fault) = resources::blkio_fault(service) {
            return Err(self.invalid("blkio_config", fault));
        }
        let (mounts, volumes) = self.mounts(&id, references, inherited)?;
        let namespace = |attribute, text: &Option<String>| self.namespace(attribute, text.as_deref(), references);
        let mut config = ContainerConfig {
            id,
            name: match self.one_off {
                Some(one_off) => one_off.name(self.project, service),
                None => names::container(self.project, service, number),
            },
            project: self.project.name.clone(),
            image: self.image.reference.clone(),
            image_id: self.image.id.clone(),
            created: jiff::Timestamp::now(),
            definition: service.definition.clone(),
            labels: self.container_labels(number),
            annotations: service.annotations.clone(),
            entrypoint: Some(service.entrypoint.clone().unwrap_or_else(|| self.image.entrypoint.clone())),
            command: Some(self.command()),
            environment: service.environment.clone(),
            working_dir: service.working_dir.clone(),
            user: service.user.clone(),
            group_add: service.group_add.clone(),
            tty: service.tty,
            stdin_open: service.stdin_open,
            stdin_once: self.one_off.is_some_and(|one_off| one_off.attached),
            auto_remove: self.one_off.is_some_and(|one_off| one_off.auto_remove),
            init: service.init.unwrap_or(false),
            stop_signal: service.stop_signal.clone(),
            stop_grace_period: service.stop_grace_period,
            hostname: service.hostname.clone(),
            domainname: service.domainname.clone(),
            privileged: service.privileged,
            read_only: service.read_only,
            cap_add: service.cap_add.clone(),
            cap_drop: service.cap_drop.clone(),
            security_opt: self.security_opt()?,
            sysctls: service.sysctls.clone(),
            ulimits: self.ulimits(),
            devices: self.devices(),
            device_cgroup_rules: service.device_cgroup_rules.clone(),
            cdi_devices: self.cdi_devices()?,
            pid: namespace("pid", &service.pid)?,
            ipc: namespace("ipc", &service.ipc)?,
            uts: namespace("uts", &service.uts)?,
            cgroup: namespace("cgroup", &service.cgroup)?,
            userns: namespace("userns_mode", &service.userns_mode)?,
            cgroup_parent: service.cgroup_parent.clone(),
            resources: resources::resources(service),
            shm_size: resources::positive(service.shm_size),
            oom_score_adj: match service.oom_score_adj {
                0 => None,
                score => Some(self.fits("oom_score_adj", score)?),
            },
            oom_kill_disable: service.oom_kill_disable,
            mounts,
            network: self.network(references)?,
            ports: self.ports()?,
            expose: self.expose(),
            extra_hosts: self.extra_hosts()?,
            dns: self.addresses("dns", &service.dns)?,
            dns_search: service.dns_search.clone(),
            dns_opt: service.dns_opt.clone(),
            healthcheck: service.healthcheck.as_ref().map(healthcheck),
            restart: self.restart()?,
            log: LogConfig::default(),
        };
        config.log = logging::log(service.logging.as_ref(), &config, &self.image.environment)
            .map_err(|reason| self.invalid("logging", reason))?;
        Ok(Wanted { config, volumes })
    }

    fn container_labels(&self, number: u32) -> Labels {
        match self.one_off {
            Some(one_off) => self.labels.one_off(self.service, &one_off.slug, &self.image.id),
            None => self.labels.container(self.service, number, &self.image.id),
        }
    }

    /// Returns the command: the image's counts only beside the image's entrypoint.
    fn command(&self) -> Vec<String> {
        match (&self.service.command, &self.service.entrypoint) {
            (Some(command), _) => command.clone(),
            (None, Some(_)) => Vec::new(),
            (None, None) => self.image.command.clone(),
        }
    }

    fn ulimits(&self) -> Vec<Ulimit> {
        let ulimit = |(name, limit): (&String, &model::Ulimit)| Ulimit {
            name: name.clone(),
            soft: limit.soft,
            hard: limit.hard,
        };
        self.service.ulimits.iter().map(ulimit).collect()
    }

    fn namespace(
        &self,
        attribute: &'static str,
        mode: Option<&str>,
        references: &dyn References,
    ) -> Result<NamespaceMode, InvalidAttribute> {
        let missing = || self.invalid(attribute, "the container whose namespace it shares is missing");
        let joined = |referred: Option<Referred>| {
            referred.map(|referred| NamespaceMode::Container(referred.id)).ok_or_else(missing)
        };
        match mode.unwrap_or_default() {
            "" | "private" | "none" => Ok(NamespaceMode::Private),
            "shareable" => Ok(NamespaceMode::Shareable),
            "host" => Ok(NamespaceMode::Host),
            mode => match mode.split_once(':') {
                Some(("service", name)) => joined(references.service(name)),
                Some(("container", name)) => joined(references.container(name)),
                _ => Err(self.invalid(attribute, format!("`{mode}` is not a mode of this namespace"))),
            },
        }
    }

    fn restart(&self) -> Result<RestartPolicy, InvalidAttribute> {
        Ok(match self.service.restart_policy() {
            Restart::No => RestartPolicy::No,
            Restart::Always => RestartPolicy::Always,
            Restart::OnFailure(maximum) => RestartPolicy::OnFailure { maximum: maximum.unwrap_or(0) },
            Restart::UnlessStopped => RestartPolicy::UnlessStopped,
            Restart::Other(policy) => {
                return Err(self.invalid(
                    "restart",
                    format!("`{policy}` is not a restart policy: no, always, on-failure[:N] or unless-stopped"),
                ));
            }
        })
    }

    fn fits<T: TryFrom<i64>>(&self, attribute: &'static str, value: i64) -> Result<T, InvalidAttribute> {
        T::try_from(value).map_err(|_| self.invalid(attribute, format!("{value} is out of range")))
    }

    fn invalid(&self, attribute: &'static str, reason: impl Into<String>) -> InvalidAttribute {
        InvalidAttribute { service: self.service.name.clone(), attribute, reason: reason.into() }
    }
}

fn healthcheck(check: &model::Healthcheck) -> Healthcheck {
    Healthcheck {
        test: match check.check() {
            None => HealthTest::Inherit,
            Some(model::HealthTest::None) => HealthTest::None,
            Some(model::HealthTest::Command(command)) => HealthTest::Command(command),
            Some(model::HealthTest::Shell(line)) => HealthTest::Shell(line),
        },
        interval: check.interval,
        timeout: check.timeout,
        retries: check.retries.map(|retries| u32::try_from(retries).unwrap_or(u32::MAX)),
        start_period: check.start_period,
        start_interval: check.start_interval,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// No container to refer to.
    pub(in crate::project) struct Nobody;

    impl References for Nobody {
        fn service(&self, _: &str) -> Option<Referred> {
            None
        }

        fn container(&self, _: &str) -> Option<Referred> {
            None
        }
    }

    pub(in crate::project) fn image() -> Image {
        Image {
            reference: "postgres:16".into(),
            id: "sha256:1".into(),
            entrypoint: vec!["docker-entrypoint.sh".into()],
            command: vec!["postgres".into()],
            volumes: vec!["/var/lib/postgresql/data".into()],
            expose: vec!["5432/tcp".into()],
            environment: vec!["PGDATA=/var/lib/postgresql/data".into()],
            ..Image::default()
        }
    }

    /// Returns what becomes of this service.
    pub(in crate::project) fn made(service: Service) -> Result<Wanted, InvalidAttribute> {
        made_in(Project::default(), service)
    }

    /// Returns what becomes of this service of a project with this besides it.
    pub(in crate::project) fn made_in(project: Project, service: Service) -> Result<Wanted, InvalidAttribute> {
        let service = Service { name: "db".into(), ..service };
        let project = Project { name: "shop".into(), ..project };
        let labels = ProjectLabels { name: "shop".into(), ..ProjectLabels::default() };
        let blueprint = Blueprint {
            project: &project,
            labels: &labels,
            service: &service,
            image: &image(),
            mounted_images: &BTreeMap::new(),
            one_off: None,
        };
        blueprint.container(1, &Nobody, &BTreeMap::new())
    }

    #[test]
    fn the_images_command_counts_beside_its_own_entrypoint_only() {
        let command = |service| {
            let config = made(service).unwrap().config;
            (config.entrypoint.unwrap().join(" "), config.command.unwrap().join(" "))
        };
        assert_eq!(command(Service::default()), ("docker-entrypoint.sh".into(), "postgres".into()));
        let own = Service { command: Some(vec!["ls".into()]), ..Service::default() };
        assert_eq!(command(own), ("docker-entrypoint.sh".into(), "ls".into()));
        let own = Service { entrypoint: Some(vec!["sh".into()]), ..Service::default() };
        assert_eq!(command(own), ("sh".into(), String::new()));
    }

    #[test]
    fn an_unknown_restart_policy_is_an_error_that_names_the_service() {
        let service = Service { restart: Some(Restart::Other("sometimes".into())), ..Service::default() };
        let error = made(service).unwrap_err().to_string();
        assert!(error.starts_with("service \"db\": restart: `sometimes`"), "{error}");
    }

    #[test]
    fn a_namespace_of_a_missing_container_is_an_error() {
        let service = |pid: &str| Service { pid: Some(pid.to_owned()), ..Service::default() };
        assert_eq!(made(service("host")).unwrap().config.pid, NamespaceMode::Host);
        assert!(made(service("service:web")).is_err());
        assert!(made(service("everybody")).is_err());
    }

    #[test]
    fn a_health_check_without_a_test_leaves_it_to_the_image() {
        let check = model::Healthcheck { retries: Some(7), ..model::Healthcheck::default() };
        let check = made(Service { healthcheck: Some(check), ..Service::default() }).unwrap().config.healthcheck;
        assert_eq!(check.map(|check| (check.test, check.retries)), Some((HealthTest::Inherit, Some(7))));
    }
}
