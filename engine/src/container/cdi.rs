//! Devices by name: the Container Device Interface, by which a vendor says what a container needs to use a device.
//!
//! A specification is a JSON or YAML file in `/etc/cdi` or `/run/cdi` (the later directory wins); a device is named
//! `vendor.com/class=name`. What it asks for becomes part of the OCI configuration.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where specifications are, the most important last.
pub const DIRECTORIES: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/run/cdi"];

/// The largest file that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    #[error("`{0}` is not the name of a device: it must be like vendor.com/class=name")]
    Name(String),
    #[error(
        "no CDI device {name} on this host (looked in {directories}){}",
        if known.is_empty() { String::new() } else { format!("; there are: {}", known.join(", ")) }
    )]
    Unknown { name: String, directories: String, known: Vec<String> },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the CDI specification {} is not valid: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    /// A device that would not work without a program that is not run.
    #[error("CDI device {name} needs the program {} to be run for each container, which is not done here", path.display())]
    Hook { name: String, path: PathBuf },
}

/// One file.
#[derive(Debug, Deserialize)]
struct Specification {
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Debug, Deserialize)]
struct Device {
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

/// What a container gets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    /// In the container.
    pub path: PathBuf,
    /// Of the host; the same unless told.
    pub host_path: Option<PathBuf>,
    /// Letters of `rwm`.
    pub permissions: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: String,
    pub options: Vec<String>,
}

/// A program of the host that is to be run when a container is made.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Hook {
    path: PathBuf,
}

impl Edits {
    fn add(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.mounts.extend_from_slice(&other.mounts);
        self.additional_gids.extend_from_slice(&other.additional_gids);
    }
}

/// Returns what the devices of these names ask for, what they have in common once.
pub fn resolve(directories: &[&Path], names: &[String]) -> Result<Edits, CdiError> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let known = load(directories)?;
    let mut kinds = Vec::new();
    for name in names {
        let (kind, _) = split(name).ok_or_else(|| CdiError::Name(name.clone()))?;
        let found = known.get(name).ok_or_else(|| CdiError::Unknown {
            name: name.clone(),
            directories: directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
            known: known.keys().cloned().collect(),
        })?;
        if let Some(hook) = found.common.hooks.iter().chain(&found.own.hooks).next() {
            return Err(CdiError::Hook { name: name.clone(), path: hook.path.clone() });
        }
        if !kinds.contains(&kind) {
            kinds.push(kind);
            edits.add(&found.common);
        }
        edits.add(&found.own);
    }
    Ok(edits)
}

/// Splits `vendor.com/class=name`.
fn split(name: &str) -> Option<(&str, &str)> {
    let (kind, device) = name.split_once('=')?;
    let (vendor, class) = kind.split_once('/')?;
    (!vendor.is_empty() && !class.is_empty() && !device.is_empty()).then_some((kind, device))
}

/// Returns whether a text is meant as the name of a device and not as a path.
pub fn is_name(text: &str) -> bool {
    !text.starts_with('/') && split(text).is_some()
}

struct Known {
    common: Edits,
    own: Edits,
}

fn load(directories: &[&Path]) -> Result<BTreeMap<String, Known>, CdiError> {
    let mut known = BTreeMap::new();
    for directory in directories {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(CdiError::Read { path: (*directory).to_owned(), source }),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        let mut paths = paths.map_err(|source| CdiError::Read { path: (*directory).to_owned(), source })?;
        paths.sort();
        let is_specification = |path: &PathBuf| {
            path.extension().is_some_and(|extension| ["json", "yaml", "yml"].iter().any(|known| extension == *known))
        };
        for path in paths.into_iter().filter(is_specification) {
            let specification = read(&path)?;
            for device in specification.devices {
                let name = format!("{}={}", specification.kind, device.name);
                known.insert(name, Known { common: specification.edits.clone(), own: device.edits });
            }
        }
    }
    Ok(known)
}

fn read(path: &Path) -> Result<Specification, CdiError> {
    use std::io::Read as _;
    let failed = |source| CdiError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    fs::File::open(path).map_err(failed)?.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
    // JSON is YAML.
    serde_yaml::from_str(&text).map_err(|error| CdiError::Invalid { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIFICATION: &str = r#"
cdiVersion: "0.6.0"
kind: example.com/gpu
containerEdits:
  env: [COMMON=1]
devices:
  - name: "0"
    containerEdits:
      env: [FIRST=1]
      deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null, permissions: rw}]
  - name: "1"
    containerEdits:
      mounts: [{hostPath: /lib/gpu, containerPath: /usr/lib/gpu, options: [ro]}]
  - name: hooked
    containerEdits:
      hooks: [{hookName: createContainer, path: /usr/bin/hook, args: [hook]}]
"#;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("example.yaml"), SPECIFICATION).unwrap();
        directory
    }

    #[test]
    fn what_devices_have_in_common_comes_once() {
        let directory = directory();
        let names = ["example.com/gpu=0".to_owned(), "example.com/gpu=1".to_owned()];
        let edits = resolve(&[directory.path()], &names).unwrap();
        assert_eq!(edits.env, ["COMMON=1", "FIRST=1"]);
        assert_eq!(edits.device_nodes[0].host_path.as_deref(), Some(Path::new("/dev/null")));
        assert_eq!(edits.mounts[0].container_path, "/usr/lib/gpu");
    }

    #[test]
    fn an_unknown_device_is_an_error_that_names_the_known_ones() {
        let directory = directory();
        let error = resolve(&[directory.path()], &["example.com/gpu=7".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("example.com/gpu=7") && error.contains("example.com/gpu=0"), "{error}");
        assert!(matches!(resolve(&[directory.path()], &["gpu".to_owned()]), Err(CdiError::Name(_))));
        let hooked = resolve(&[directory.path()], &["example.com/gpu=hooked".to_owned()]).unwrap_err().to_string();
        assert!(hooked.contains("/usr/bin/hook"), "{hooked}");
    }

    #[test]
    fn names_are_no_paths() {
        assert!(is_name("nvidia.com/gpu=all"));
        assert!(!is_name("/dev/sda"));
        assert!(!is_name("/dev/a=b"));
        assert!(!is_name("gpu"));
    }
}
