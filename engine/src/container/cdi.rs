//! Devices by name: the Container Device Interface, by which a vendor says what a container needs to use a device.
//!
//! A specification is a JSON or YAML file in `/etc/cdi` or `/run/cdi` (the later directory wins); a device is named
//! `vendor.com/class=name`. What it asks for becomes part of the OCI configuration.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks};
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
    #[error("CDI device {name} has a hook `{hook}`, which is not a point of a container's life")]
    Hook { name: String, hook: String },
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
    hooks: Vec<NamedHook>,
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

/// A program of the host that is to be run at a point of a container's life.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NamedHook {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    /// Seconds.
    timeout: Option<i64>,
}

impl NamedHook {
    fn add_to(&self, hooks: &mut Hooks) -> bool {
        let mut hook = Hook::default();
        hook.set_path(self.path.clone()).set_timeout(self.timeout);
        hook.set_args(Some(self.args.clone()).filter(|args| !args.is_empty()));
        hook.set_env(Some(self.env.clone()).filter(|env| !env.is_empty()));
        let push = |list: &Option<Vec<Hook>>| Some(list.iter().flatten().cloned().chain([hook.clone()]).collect());
        match self.hook_name.as_str() {
            "prestart" => hooks.set_prestart(push(hooks.prestart())),
            "createRuntime" => hooks.set_create_runtime(push(hooks.create_runtime())),
            "createContainer" => hooks.set_create_container(push(hooks.create_container())),
            "startContainer" => hooks.set_start_container(push(hooks.start_container())),
            "poststart" => hooks.set_poststart(push(hooks.poststart())),
            "poststop" => hooks.set_poststop(push(hooks.poststop())),
            _ => return false,
        };
        true
    }
}

impl Edits {
    fn add(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.mounts.extend_from_slice(&other.mounts);
        self.hooks.extend_from_slice(&other.hooks);
        self.additional_gids.extend_from_slice(&other.additional_gids);
    }

    /// Returns the hooks in the form of an OCI configuration, where there are any. Their names are known.
    pub fn hooks(&self) -> Option<Hooks> {
        let mut hooks = Hooks::default();
        self.hooks.iter().filter(|hook| hook.add_to(&mut hooks)).count().gt(&0).then_some(hooks)
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
        let mut hooks = found.common.hooks.iter().chain(&found.own.hooks);
        if let Some(unknown) = hooks.find(|hook| !hook.add_to(&mut Hooks::default())) {
            return Err(CdiError::Hook { name: name.clone(), hook: unknown.hook_name.clone() });
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
      hooks: [{hookName: createContainer, path: /usr/bin/hook, args: [hook], env: [A=1], timeout: 5}]
  - name: strange
    containerEdits:
      hooks: [{hookName: sometime, path: /usr/bin/hook}]
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
        let strange = resolve(&[directory.path()], &["example.com/gpu=strange".to_owned()]).unwrap_err().to_string();
        assert!(strange.contains("sometime"), "{strange}");
    }

    #[test]
    fn hooks_become_those_of_the_configuration() {
        let directory = directory();
        let edits = resolve(&[directory.path()], &["example.com/gpu=hooked".to_owned()]).unwrap();
        let hooks = serde_json::to_value(edits.hooks().unwrap()).unwrap();
        let hook = serde_json::json!({"path": "/usr/bin/hook", "args": ["hook"], "env": ["A=1"], "timeout": 5});
        assert_eq!(hooks, serde_json::json!({"createContainer": [hook]}));
        let plain = resolve(&[directory.path()], &["example.com/gpu=0".to_owned()]).unwrap();
        assert_eq!(plain.hooks(), None);
    }

    #[test]
    fn names_are_no_paths() {
        assert!(is_name("nvidia.com/gpu=all"));
        assert!(!is_name("/dev/sda"));
        assert!(!is_name("/dev/a=b"));
        assert!(!is_name("gpu"));
    }
}
