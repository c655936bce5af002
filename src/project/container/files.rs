//! `configs` and `secrets` → files that the container has in memory, or files of the host.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rcompose_engine::container::config::{FileContent, Mount, MountSource};
use rcompose_engine::container::memory::digest;
use rcompose_engine::id::Id;
use rcompose_engine::protocol::ProvidedFile;

use super::{Blueprint, InvalidAttribute};
use crate::compose::model::FileMount;

/// Who may read a file of which nothing else is said.
const MODE: u32 = 0o444;

/// A config or secret of a service.
struct Entry<'a> {
    /// `configs` or `secrets`.
    attribute: &'static str,
    mount: &'a FileMount,
    target: String,
    content: Content<'a>,
}

enum Content<'a> {
    Host(&'a str),
    Provided(&'a str),
}

impl Blueprint<'_> {
    /// Returns the mounts of the container's configs and secrets.
    pub(super) fn files(&self, id: &Id) -> Result<Vec<Mount>, InvalidAttribute> {
        self.entries()?.into_iter().map(|entry| self.file(id, entry)).collect()
    }

    /// Returns the contents that the service's containers do not find on the host.
    pub fn provided(&self) -> Result<Vec<ProvidedFile>, InvalidAttribute> {
        let provided = |entry: Entry<'_>| match entry.content {
            Content::Provided(content) => Some(ProvidedFile { target: entry.target, content: content.to_owned() }),
            Content::Host(_) => None,
        };
        Ok(self.entries()?.into_iter().filter_map(provided).collect())
    }

    fn entries(&self) -> Result<Vec<Entry<'_>>, InvalidAttribute> {
        let mut entries = Vec::new();
        for mount in &self.service.configs {
            let Some(config) = self.project.configs.get(&mount.source) else { continue };
            let attribute = "configs";
            let given = (config.file.as_deref(), config.content.as_deref(), config.environment.as_deref());
            let content = self.content(attribute, &mount.source, config.external, given)?;
            let target = match mount.target.as_deref() {
                None => format!("/{}", mount.source),
                Some(target) if target.starts_with('/') => target.to_owned(),
                Some(target) => format!("/{target}"),
            };
            entries.push(Entry { attribute, mount, target, content });
        }
        for mount in &self.service.secrets {
            let Some(secret) = self.project.secrets.get(&mount.source) else { continue };
            let attribute = "secrets";
            let given = (secret.file.as_deref(), secret.content.as_deref(), secret.environment.as_deref());
            let content = self.content(attribute, &mount.source, secret.external, given)?;
            entries.push(Entry { attribute, mount, target: secret_target(mount), content });
        }
        Ok(entries)
    }

    fn content<'b>(
        &self,
        attribute: &'static str,
        source: &str,
        external: bool,
        (file, content, environment): (Option<&'b str>, Option<&'b str>, Option<&'b str>),
    ) -> Result<Content<'b>, InvalidAttribute> {
        match (file, content, environment) {
            _ if external => {
                Err(self.invalid(attribute, format!("{source} is external, and there is no store that it could be in")))
            }
            (Some(file), _, _) => Ok(Content::Host(file)),
            (None, Some(content), _) => Ok(Content::Provided(content)),
            (None, None, Some(variable)) => Err(self.invalid(
                attribute,
                format!("environment variable \"{variable}\" required by \"{source}\" is not set"),
            )),
            (None, None, None) => Err(self.invalid(attribute, format!("{source} has no content"))),
        }
    }

    fn file(&self, id: &Id, entry: Entry<'_>) -> Result<Mount, InvalidAttribute> {
        let Entry { attribute, mount, target, content } = entry;
        let source = match content {
            // As it is on the host, and changing with it.
            Content::Host(file) if !has_owner_or_mode(mount) || Path::new(file).is_dir() => MountSource::Bind {
                source: PathBuf::from(file),
                create_host_path: false,
                propagation: None,
                recursive: true,
            },
            content => MountSource::File {
                content: match content {
                    Content::Host(file) => FileContent::Host(PathBuf::from(file)),
                    Content::Provided(content) => FileContent::Provided { digest: digest(id, content.as_bytes()) },
                },
                uid: self.number(attribute, "uid", mount.uid.as_deref())?,
                gid: self.number(attribute, "gid", mount.gid.as_deref())?,
                mode: mount.mode.unwrap_or(MODE) & 0o7777,
            },
        };
        Ok(Mount { target, read_only: true, source })
    }

    fn number(&self, attribute: &'static str, what: impl Display, text: Option<&str>) -> Result<u32, InvalidAttribute> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(0) };
        text.parse().map_err(|_| self.invalid(attribute, format!("{what}: `{text}` is not a number")))
    }
}

/// Returns whether a config or secret is to have another owner or mode than its file on the host.
pub(super) fn has_owner_or_mode(mount: &FileMount) -> bool {
    mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some()
}

/// Returns where a secret is found: below `/run/secrets` unless it says a whole path.
fn secret_target(secret: &FileMount) -> String {
    let name = secret.target.as_deref().unwrap_or(&secret.source);
    if name.starts_with('/') { name.to_owned() } else { format!("/run/secrets/{name}") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_in;
    use super::*;
    use crate::compose::model::{Config, Project, Secret, Service};

    fn secret(target: Option<&str>) -> FileMount {
        FileMount { source: "key".into(), target: target.map(str::to_owned), ..FileMount::default() }
    }

    fn mounted(secret: Secret, mount: FileMount) -> Result<MountSource, InvalidAttribute> {
        let project = Project { secrets: [("key".to_owned(), secret)].into(), ..Project::default() };
        let service = Service { secrets: vec![mount], ..Service::default() };
        made_in(project, service).map(|made| made.config.mounts.into_iter().next().unwrap().source)
    }

    #[test]
    fn secrets_stand_below_run_secrets() {
        assert_eq!(secret_target(&secret(None)), "/run/secrets/key");
        assert_eq!(secret_target(&secret(Some("other"))), "/run/secrets/other");
        assert_eq!(secret_target(&secret(Some("/etc/key"))), "/etc/key");
    }

    #[test]
    fn a_file_without_an_owner_is_the_hosts() {
        let file = Secret { file: Some("/etc/hostname".into()), ..Secret::default() };
        assert!(matches!(mounted(file.clone(), secret(None)), Ok(MountSource::Bind { .. })));
        let owned = mounted(file, FileMount { uid: Some("70".into()), ..secret(None) }).unwrap();
        let content = FileContent::Host("/etc/hostname".into());
        assert_eq!(owned, MountSource::File { content, uid: 70, gid: 0, mode: 0o444 });
    }

    #[test]
    fn a_content_is_on_record_only_as_a_digest() {
        let given = Secret { environment: Some("KEY".into()), content: Some("hunter2".into()), ..Secret::default() };
        let made = mounted(given, secret(None)).unwrap();
        assert!(!format!("{made:?}").contains("hunter2"));
        assert!(matches!(made, MountSource::File { content: FileContent::Provided { .. }, .. }));
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let unset = Secret { environment: Some("KEY".into()), ..Secret::default() };
        let error = mounted(unset, secret(None)).unwrap_err().to_string();
        assert!(error.contains("environment variable \"KEY\" required by \"key\" is not set"), "{error}");
        let external = Secret { external: true, ..Secret::default() };
        assert!(mounted(external, secret(None)).is_err());
        let named = FileMount { uid: Some("postgres".into()), ..secret(None) };
        let given = Secret { content: Some(String::new()), ..Secret::default() };
        assert!(mounted(given, named).is_err());
    }

    #[test]
    fn a_config_stands_at_the_root() {
        let config = Config { content: Some("x".into()), ..Config::default() };
        let project = Project { configs: [("app.toml".to_owned(), config)].into(), ..Project::default() };
        let configs = vec![FileMount { source: "app.toml".into(), ..FileMount::default() }];
        let made = made_in(project, Service { configs, ..Service::default() }).unwrap();
        assert_eq!(made.config.mounts[0].target, "/app.toml");
    }
}
