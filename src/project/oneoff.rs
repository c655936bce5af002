//! A container that `run` makes besides those of a service, and what its command line changes of the service.

use std::collections::BTreeMap;
use std::path::Path;

use crate::compose::model::{HostPorts, Mount, MountBind, MountKind, MountVolume, Port};
use crate::compose::short;
use crate::compose::{Project, Service};
use crate::project::names;

/// A container that is none of those that its service has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OneOff {
    pub service: String,
    /// What tells it from others of its kind: 64 hexadecimal digits.
    pub slug: String,
    /// The name that was asked for.
    pub name: Option<String>,
    /// Whether the names of the service lead to it too.
    pub use_aliases: bool,
    /// Whether it goes as soon as it has ended.
    pub auto_remove: bool,
    /// Whether its standard input is that of the command, and ends with it.
    pub attached: bool,
}

impl OneOff {
    /// Returns what it is called.
    pub fn name(&self, project: &Project, service: &Service) -> String {
        let (slug, between) = (&self.slug[..self.slug.len().min(12)], names::separator(project));
        let name = || format!("{}{between}{}{between}run{between}{slug}", project.name, service.name);
        self.name.clone().unwrap_or_else(name)
    }
}

/// What a command line changes of a service.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Empty: the service's.
    pub command: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub environment: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// In the short form; relative paths are the working directory's.
    pub volumes: Vec<String>,
    /// In the short form, instead of the service's ports; `None`: the service's.
    pub publish: Option<Vec<String>>,
    pub tty: bool,
    pub interactive: bool,
}

impl Overrides {
    /// Changes the service. The error says what cannot be read.
    pub fn apply(self, service: &mut Service, working_dir: &Path) -> Result<(), String> {
        service.tty = self.tty;
        service.stdin_open = self.interactive;
        service.container_name = None;
        service.scale = Some(1);
        service.restart = None;
        if let Some(deploy) = &mut service.deploy {
            deploy.restart_policy = None;
        }
        if let Some(entrypoint) = self.entrypoint {
            service.entrypoint = Some(entrypoint);
            service.command = Some(Vec::new());
        }
        if !self.command.is_empty() {
            service.command = Some(self.command);
        }
        service.user = self.user.or(service.user.take());
        service.working_dir = self.working_dir.or(service.working_dir.take());
        service.environment.extend(self.environment.into_iter().map(|(name, value)| (name, Some(value))));
        service.labels.extend(self.labels);
        service.cap_drop.retain(|capability| !self.cap_add.contains(capability));
        service.cap_add.extend(self.cap_add);
        service.cap_add.retain(|capability| !self.cap_drop.contains(capability));
        service.cap_drop.extend(self.cap_drop);
        for volume in &self.volumes {
            service.volumes.push(mount(volume, working_dir)?);
        }
        if let Some(publish) = self.publish {
            let ports = publish.iter().map(|text| ports(text)).collect::<Result<Vec<_>, _>>()?;
            service.ports = ports.into_iter().flatten().collect();
        }
        Ok(())
    }
}

fn mount(text: &str, working_dir: &Path) -> Result<Mount, String> {
    let short = short::volume(text)?;
    let (kind, source) = if short.bind {
        (MountKind::Bind, working_dir.join(&short.source).display().to_string())
    } else {
        (MountKind::Volume, short.source)
    };
    let bind = MountBind {
        selinux: short.selinux,
        propagation: short.propagation,
        create_host_path: true,
        ..MountBind::default()
    };
    Ok(Mount {
        kind,
        source,
        target: short.target,
        read_only: short.read_only,
        bind: short.bind.then_some(bind),
        volume: Some(MountVolume { nocopy: short.nocopy, ..MountVolume::default() }),
        ..Mount::default()
    })
}

fn ports(text: &str) -> Result<Vec<Port>, String> {
    let port = |port: short::ShortPort| Port {
        host_ip: Some(port.host_ip).filter(|address| !address.is_empty()),
        published: HostPorts::parse(&port.published),
        target: port.target.into(),
        protocol: port.protocol,
        ..Port::default()
    };
    Ok(short::ports(text)?.into_iter().map(port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::model::Restart;

    fn overridden(service: Service, overrides: Overrides) -> Service {
        let mut service = service;
        overrides.apply(&mut service, Path::new("/project")).unwrap();
        service
    }

    #[test]
    fn a_new_entrypoint_takes_the_command_along() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let service =
            || Service { command: Some(words("serve fast")), restart: Some(Restart::Always), ..Service::default() };
        let made = overridden(service(), Overrides::default());
        assert_eq!((made.command, made.restart), (Some(words("serve fast")), None));
        let made = overridden(service(), Overrides { entrypoint: Some(words("sh -c")), ..Overrides::default() });
        assert_eq!((made.entrypoint, made.command), (Some(words("sh -c")), Some(Vec::new())));
        let overrides = Overrides { entrypoint: Some(words("sh -c")), command: words("ls"), ..Overrides::default() };
        assert_eq!(overridden(service(), overrides).command, Some(words("ls")));
    }

    #[test]
    fn a_capability_is_either_added_or_dropped() {
        let service = || Service { cap_add: vec!["A".into()], cap_drop: vec!["B".into()], ..Service::default() };
        let overrides =
            Overrides { cap_add: vec!["B".into()], cap_drop: vec!["A".into(), "C".into()], ..Overrides::default() };
        let made = overridden(service(), overrides);
        assert_eq!((made.cap_add, made.cap_drop), (vec!["B".to_owned()], vec!["A".to_owned(), "C".to_owned()]));
    }

    #[test]
    fn short_forms_are_read() {
        let overrides = Overrides {
            volumes: vec!["./a:/b:ro".into(), "data:/c".into(), "/d".into()],
            publish: Some(vec!["127.0.0.1:8080:80".into()]),
            ..Overrides::default()
        };
        let made = overridden(Service::default(), overrides);
        let mounts = made.volumes.iter().map(|mount| (mount.source.as_str(), mount.target.as_str(), mount.read_only));
        assert_eq!(
            mounts.collect::<Vec<_>>(),
            [("/project/./a", "/b", true), ("data", "/c", false), ("", "/d", false)]
        );
        assert_eq!(made.ports[0].published, HostPorts::Range(8080, 8080));
        let wrong = Overrides { publish: Some(vec!["nonsense".into()]), ..Overrides::default() };
        assert!(wrong.apply(&mut Service::default(), Path::new("/")).is_err());
    }

    #[test]
    fn its_name_has_the_slug() {
        let one_off = OneOff { slug: "0123456789abcdef".into(), ..OneOff::default() };
        let service = Service { name: "web".into(), ..Service::default() };
        let shop = Project { name: "shop".into(), ..Project::default() };
        assert_eq!(one_off.name(&shop, &service), "shop-web-run-0123456789ab");
        let named = OneOff { name: Some("mine".into()), ..one_off };
        assert_eq!(named.name(&shop, &service), "mine");
    }
}
