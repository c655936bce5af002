//! Local volumes: a directory each, `volumes/<name>/_data`, with what it was asked to be in `volume.json` beside it.

pub mod copy_up;
pub(crate) mod mount;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::store;
use crate::host;
use crate::id::Id;
use crate::root::Root;

/// Everything `ensure` needs to know about a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// The name on this host, such as `shop_data`.
    pub name: String,
    /// The project that made it and may remove it.
    pub project: Option<String>,
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// A volume as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    #[serde(flatten)]
    pub config: VolumeConfig,
    pub created: jiff::Timestamp,
}

/// A step in making or removing a volume that failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("cannot {verb} {}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Record(#[from] store::StoreError),
    #[error("volume name `{0}` is not valid: two or more of [a-zA-Z0-9_.-], the first a letter or digit")]
    InvalidName(String),
    #[error("volume driver `{driver}` of volume {volume} is not known")]
    UnknownDriver { volume: String, driver: String },
    #[error("volume {volume}: {reason}")]
    Option { volume: String, reason: String },
    #[error("cannot mount {device} on volume {volume}: {source}")]
    Mount { volume: String, device: String, source: io::Error },
    #[error("volume {volume} is in use by container {container}")]
    InUse { volume: String, container: String },
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    move |source| VolumeError::Io { verb, path: path.to_owned(), source }
}

/// Makes a volume unless one of this name is there; returns whether it was made.
///
/// The directory is built aside and renamed in, so two callers at once make it once, and a crash leaves no half of it.
pub fn ensure(root: &Root, config: &VolumeConfig) -> Result<bool, VolumeError> {
    check_name(&config.name)?;
    if config.driver != "local" {
        return Err(VolumeError::UnknownDriver { volume: config.name.clone(), driver: config.driver.clone() });
    }
    mount::check(&config.name, &config.driver_opts)?;
    let directory = root.volume(&config.name);
    if directory.exists() {
        return Ok(false);
    }
    let volumes = root.volumes();
    make(&volumes, 0o711)?;
    let aside = aside(root)?;
    let made = (|| {
        make(&aside, 0o711)?;
        let data = aside.join("_data");
        make(&data, 0o755)?;
        // Whatever the umask: containers run as any user.
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).map_err(failed("change", &data))?;
        let volume = Volume { config: config.clone(), created: jiff::Timestamp::now() };
        let record = serde_json::to_vec(&volume).expect("our own types have string keys only and always serialise");
        // What a volume holds is worth the wait for the disk: it must not be there without its record.
        let path = aside.join("volume.json");
        let written = fs::File::create_new(&path).and_then(|mut file| {
            file.write_all(&record)?;
            file.sync_all()
        });
        written.map_err(failed("write", &path))?;
        match fs::rename(&aside, &directory) {
            Ok(()) => Ok(true),
            // Another caller was first: a directory that is not empty is never replaced (rename(2)).
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => Err(failed("make", &directory)(error)),
        }
    })();
    if !matches!(made, Ok(true)) {
        // Only the half that was made aside; the answer is already known.
        let _ = fs::remove_dir_all(&aside);
    }
    made
}

/// Returns the volume of this name.
pub fn load(root: &Root, name: &str) -> Result<Option<Volume>, VolumeError> {
    Ok(store::read(&root.volume(name).join("volume.json"))?)
}

/// Returns the volumes of a project, or all, sorted by name.
pub fn list(root: &Root, project: Option<&str>) -> Result<Vec<Volume>, VolumeError> {
    let directory = root.volumes();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", &directory)(error)),
    };
    let mut volumes = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read", &directory))?.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        // One that goes while the directory is read is not there.
        if let Some(volume) = load(root, name)?
            && (project.is_none() || volume.config.project.as_deref() == project)
        {
            volumes.push(volume);
        }
    }
    volumes.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    Ok(volumes)
}

/// Removes a volume and its content; returns whether there was one. Refused while a container mounts it.
pub fn remove(root: &Root, name: &str) -> Result<bool, VolumeError> {
    use crate::container::config::MountSource;
    check_name(name)?;
    for container in store::list(root, None)? {
        let mounts = |mount: &crate::container::config::Mount| matches!(&mount.source, MountSource::Volume { name: volume, .. } if volume == name);
        if container.config.mounts.iter().any(mounts) {
            let container = container.config.name;
            return Err(VolumeError::InUse { volume: name.to_owned(), container });
        }
    }
    let directory = root.volume(name);
    mount::unmount(&directory.join("_data"))?;
    let aside = aside(root)?;
    match fs::rename(&directory, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("remove", &directory)(error)),
    }
    // Somebody may have written into it meanwhile.
    fs::remove_dir_all(&aside).or_else(|_| fs::remove_dir_all(&aside)).map_err(failed("remove", &aside))?;
    Ok(true)
}

/// Returns a name for a volume that is being made or removed, which tells in which boot and by which process.
fn aside(root: &Root) -> Result<PathBuf, VolumeError> {
    Ok(root.volumes().join(format!(".{}.{}.{}", boot()?, std::process::id(), Id::random())))
}

fn boot() -> Result<String, VolumeError> {
    host::boot_id().map_err(failed("read", Path::new(host::BOOT_ID)))
}

/// Takes away what a reset, or a process that is gone, left of volumes that were being made or removed.
pub(crate) fn sweep(root: &Root) -> Result<(), VolumeError> {
    let volumes = root.volumes();
    let entries = match fs::read_dir(&volumes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("read", &volumes))?,
    };
    let own = format!(".{}.", boot()?);
    for entry in entries {
        let entry = entry.map_err(failed("read", &volumes))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let maker = name.strip_prefix(&own).and_then(|rest| rest.split('.').next());
        let at_work = maker.is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if name.starts_with('.') && !at_work {
            match fs::remove_dir_all(entry.path()) {
                // Another supervisor does the same.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &entry.path())(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), VolumeError> {
    let good = name.len() >= 2
        && name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if good { Ok(()) } else { Err(VolumeError::InvalidName(name.to_owned())) }
}

fn make(path: &Path, mode: u32) -> Result<(), VolumeError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> VolumeConfig {
        VolumeConfig {
            name: name.to_owned(),
            project: Some("shop".to_owned()),
            driver: "local".to_owned(),
            driver_opts: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_volume_is_made_once_and_removed_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        assert!(ensure(&root, &config("shop_data")).unwrap());
        fs::write(root.volume("shop_data").join("_data/file"), "kept").unwrap();
        assert!(!ensure(&root, &config("shop_data")).unwrap());
        assert_eq!(fs::read_to_string(root.volume("shop_data").join("_data/file")).unwrap(), "kept");
        assert_eq!(list(&root, Some("shop")).unwrap().len(), 1);
        assert_eq!(list(&root, Some("other")).unwrap().len(), 0);
        assert!(remove(&root, "shop_data").unwrap());
        assert!(!remove(&root, "shop_data").unwrap());
        assert_eq!(fs::read_dir(root.volumes()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_reset_left_is_swept_away() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        ensure(&root, &config("shop_data")).unwrap();
        fs::create_dir_all(root.volumes().join(".of-an-earlier-boot.1/_data")).unwrap();
        let current = aside(&root).unwrap();
        fs::create_dir(&current).unwrap();
        sweep(&root).unwrap();
        assert!(current.exists() && load(&root, "shop_data").unwrap().is_some());
        assert_eq!(fs::read_dir(root.volumes()).unwrap().count(), 2);
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        for name in ["..", "../x", "a/b", ".x", "x", ""] {
            assert!(matches!(ensure(&root, &config(name)), Err(VolumeError::InvalidName(_))), "{name}");
            assert!(matches!(remove(&root, name), Err(VolumeError::InvalidName(_))), "{name}");
        }
    }
}
