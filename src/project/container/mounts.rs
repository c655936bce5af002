//! `volumes`, `tmpfs`, `volumes_from` and the image's own volumes → mounts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rcompose_engine::container::config::{Mount, MountSource};
use rcompose_engine::id::Id;

use super::super::labels::Labels;
use super::{Blueprint, InvalidAttribute, References, resources};
use crate::compose::model::{self, MountKind};
use crate::compose::units;

/// A volume that is made for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnonymousVolume {
    pub name: String,
    pub labels: Labels,
}

/// The mounts so far, and what has to be made for them.
struct Collected<'a> {
    inherited: &'a BTreeMap<String, String>,
    mounts: Vec<Mount>,
    volumes: Vec<AnonymousVolume>,
}

impl Collected<'_> {
    fn add(&mut self, mount: Mount) {
        self.mounts.push(mount);
    }

    fn has(&self, target: &str) -> bool {
        self.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target.trim_end_matches('/'))
    }

    /// Adds a volume that nobody named: the one of the container that is replaced, or else a new one.
    fn add_anonymous(&mut self, target: &str, read_only: bool, options: &model::MountVolume) {
        let name = if let Some(name) = self.inherited.get(target) {
            name.clone()
        } else {
            let name = Id::random().to_string();
            let mut labels = options.labels.clone();
            labels.insert(super::super::labels::ANONYMOUS.to_owned(), String::new());
            self.volumes.push(AnonymousVolume { name: name.clone(), labels });
            name
        };
        let source =
            MountSource::Volume { name, anonymous: true, no_copy: options.nocopy, subpath: options.subpath.clone() };
        self.add(Mount { target: target.to_owned(), read_only, source });
    }
}

impl Blueprint<'_> {
    pub(super) fn mounts(
        &self,
        id: &Id,
        references: &dyn References,
        inherited: &BTreeMap<String, String>,
    ) -> Result<(Vec<Mount>, Vec<AnonymousVolume>), InvalidAttribute> {
        let mut collected = Collected { inherited, mounts: Vec::new(), volumes: Vec::new() };
        for mount in &self.service.volumes {
            self.volume(mount, &mut collected)?;
        }
        for text in &self.service.tmpfs {
            collected.add(self.tmpfs(text)?);
        }
        collected.mounts.extend(self.files(id)?);
        for from in &self.service.volumes_from {
            let mounts = self.volumes_from(from, references)?;
            collected.mounts.extend(mounts);
        }
        for target in &self.image.volumes {
            if !collected.has(target) {
                collected.add_anonymous(target, false, &model::MountVolume::default());
            }
        }
        Ok((collected.mounts, collected.volumes))
    }

    fn volume(&self, mount: &model::Mount, collected: &mut Collected<'_>) -> Result<(), InvalidAttribute> {
        let source = match mount.kind {
            MountKind::Bind => {
                let bind = mount
                    .bind
                    .clone()
                    .unwrap_or_else(|| model::MountBind { create_host_path: true, ..model::MountBind::default() });
                MountSource::Bind {
                    source: PathBuf::from(&mount.source),
                    create_host_path: bind.create_host_path,
                    propagation: bind.propagation.filter(|propagation| !propagation.is_empty()),
                    recursive: bind.recursive.as_deref() != Some("disabled"),
                }
            }
            MountKind::Volume | MountKind::Cluster => {
                let options = mount.volume.clone().unwrap_or_default();
                if mount.source.is_empty() {
                    collected.add_anonymous(&mount.target, mount.read_only, &options);
                    return Ok(());
                }
                let named = self.project.volumes.get(&mount.source);
                MountSource::Volume {
                    name: named.map_or_else(|| mount.source.clone(), |volume| volume.name.clone()),
                    anonymous: false,
                    no_copy: options.nocopy,
                    subpath: options.subpath,
                }
            }
            MountKind::Tmpfs => {
                let options = mount.tmpfs.clone().unwrap_or_default();
                MountSource::Tmpfs {
                    size: resources::positive(options.size),
                    mode: (options.mode != 0).then_some(options.mode),
                    options: Vec::new(),
                }
            }
            MountKind::Image => {
                let image = self
                    .mounted_images
                    .get(&mount.source)
                    .ok_or_else(|| self.invalid("volumes", format!("image {} is not there", mount.source)))?;
                MountSource::Image {
                    image_id: image.id.clone(),
                    subpath: mount.image.as_ref().and_then(|image| image.subpath.clone()),
                }
            }
            MountKind::Npipe => {
                return Err(self.invalid("volumes", format!("{}: Linux has no named pipes of Windows", mount.target)));
            }
        };
        collected.add(Mount { target: mount.target.clone(), read_only: mount.read_only, source });
        Ok(())
    }

    /// Reads `path` or `path:option,…` (`tmpfs(5)`).
    fn tmpfs(&self, text: &str) -> Result<Mount, InvalidAttribute> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let (mut size, mut mode, mut read_only, mut others) = (None, None, false, Vec::new());
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let invalid = || self.invalid("tmpfs", format!("{target}: `{option}` is not valid"));
            match option.split_once('=') {
                Some(("size", value)) if !value.ends_with('%') => {
                    let bytes = units::parse_bytes(value).map_err(|_| invalid())?;
                    size = resources::positive(bytes);
                }
                Some(("mode", value)) => mode = Some(u32::from_str_radix(value, 8).map_err(|_| invalid())?),
                None if option == "ro" => read_only = true,
                None if option == "rw" => {}
                _ => others.push(option.to_owned()),
            }
        }
        let source = MountSource::Tmpfs { size, mode, options: others };
        Ok(Mount { target: target.to_owned(), read_only, source })
    }

    /// Reads `service[:ro]` or `container:name[:ro]`.
    fn volumes_from(&self, text: &str, references: &dyn References) -> Result<Vec<Mount>, InvalidAttribute> {
        let (rest, read_only) = match text.rsplit_once(':') {
            Some((rest, "ro")) => (rest, true),
            Some((rest, "rw")) => (rest, false),
            _ => (text, false),
        };
        let referred = match rest.strip_prefix("container:") {
            Some(container) => references.container(container),
            None => references.service(rest),
        };
        let referred =
            referred.ok_or_else(|| self.invalid("volumes_from", format!("the container of {rest} is missing")))?;
        let shared = |mount: Mount| {
            // The volume goes with the container that it was made for, and not with this one.
            let source = match mount.source {
                MountSource::Volume { name, no_copy, subpath, .. } => {
                    MountSource::Volume { name, anonymous: false, no_copy, subpath }
                }
                source => source,
            };
            Mount { target: mount.target, read_only: read_only || mount.read_only, source }
        };
        // Configs and secrets are those of the service that names them.
        let mounts = referred.mounts.into_iter().filter(|mount| !matches!(mount.source, MountSource::File { .. }));
        Ok(mounts.map(shared).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::made;
    use super::*;
    use crate::compose::Service;

    const DATA: &str = "/var/lib/postgresql/data";

    fn volume(source: &str, target: &str) -> model::Mount {
        model::Mount { source: source.into(), target: target.into(), ..model::Mount::default() }
    }

    #[test]
    fn the_images_volume_is_anonymous_unless_something_is_mounted_there() {
        let made_with = |volumes| made(Service { volumes, ..Service::default() }).unwrap();
        let own = made_with(Vec::new());
        assert_eq!(own.volumes.len(), 1);
        assert_eq!(own.config.mounts[0].target, DATA);
        assert!(matches!(&own.config.mounts[0].source, MountSource::Volume { name, anonymous: true, .. }
            if *name == own.volumes[0].name));
        let named = made_with(vec![volume("data", "/var/lib/postgresql/data/")]);
        assert!(named.volumes.is_empty());
        assert_eq!(named.config.mounts.len(), 1);
    }

    #[test]
    fn tmpfs_options_are_read() {
        let mounts = |text: &str| {
            made(Service { tmpfs: vec![text.to_owned()], ..Service::default() }).map(|made| made.config.mounts)
        };
        let mount = mounts("/tmp:size=64m,mode=1777,uid=70,ro").unwrap().swap_remove(0);
        assert_eq!((mount.target.as_str(), mount.read_only), ("/tmp", true));
        let options = vec!["uid=70".to_owned()];
        assert_eq!(mount.source, MountSource::Tmpfs { size: Some(64 << 20), mode: Some(0o1777), options });
        assert!(mounts("/tmp:size=big").is_err());
    }
}
