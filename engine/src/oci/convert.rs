//! From the configuration of a bundle to what the engine's own creation code takes. What it cannot keep is an error that
//! names the property.

use std::collections::HashSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxCapabilities, LinuxNamespaceType, LinuxResources, Mount, Process, Spec,
};

use super::OciError;
use super::state::Record;
use crate::container::cgroup::devices::{self, Rule};
use crate::container::cgroup::limits;
use crate::container::mounts::options::{self, Options};
use crate::container::{apparmor, capabilities, seccomp, sysctl};
use crate::host::Host;
use crate::shim::config::{Mappings, Namespace, Namespaces, Network, Seccomp, Time};

/// Reads the configuration of a bundle as one of this host: paths become absolute, and what cannot be kept is refused.
/// What is passed over, because it makes no difference, is told in words.
pub(super) fn convert(
    id: &str,
    bundle: &Path,
    mut spec: Spec,
    host: &Host,
) -> Result<(Spec, Record, Vec<String>), OciError> {
    let mut warnings = Vec::new();
    check_version(spec.version())?;
    for (name, present) in [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        refuse_if(present, name, "it is for another platform")?;
    }
    let root = spec.root_mut().as_mut().ok_or_else(|| OciError::property("root", "it is missing"))?;
    let path = bundle.join(root.path());
    let path =
        path.canonicalize().map_err(|error| OciError::property("root.path", format!("{}: {error}", path.display())))?;
    refuse_if(!path.is_dir(), "root.path", "it is not a directory")?;
    refuse_if(path == Path::new("/"), "root.path", "it is the host's root")?;
    root.set_path(path);

    let mut linux = spec.linux().clone().unwrap_or_default();
    let (namespaces, network) = namespaces(&linux)?;
    check_names(&spec, &namespaces)?;
    let process = spec.process_mut().as_mut().ok_or_else(|| OciError::property("process", "it is missing"))?;
    check_process(process, "process")?;
    if let Some(sets) = process.capabilities() {
        let (sets, missing) = possible(sets);
        warnings.extend(missing.into_iter().map(|name| format!("capability {name} is not available here")));
        process.set_capabilities(Some(sets));
    }
    for (index, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        check_mount(bundle, mount, &format!("mounts[{index}]"))?;
    }
    if let Some(hooks) = spec.hooks() {
        check_hooks(hooks)?;
    }
    check_linux(&linux, &namespaces, &network)?;
    let mut resources = linux.resources().clone().unwrap_or_default();
    resources.set_devices(Some(device_rules(&resources)?.iter().map(Rule::to_oci).collect()));
    // Another state directory may have a container of this name.
    let own = Path::new("rcompose/oci").join(format!("{id}-{}", crate::id::Id::random().short()));
    let group = linux.cgroups_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let group = group.map_or(own, |path| limits::beneath(path));
    refuse_if(group.as_os_str().is_empty(), "linux.cgroupsPath", "it is the root of the hierarchy")?;
    let cgroup = limits::plan(group, &resources, host)
        .map_err(|error| OciError::property("linux.resources", error.to_string()))?;
    linux.set_resources(Some(resources));
    let filtered = linux.seccomp().is_some();
    spec.set_linux(Some(linux));
    let record = Record {
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        created: jiff::Timestamp::now(),
        annotations: spec.annotations().clone(),
        cgroup,
        namespaces,
        network,
        seccomp: if filtered { Seccomp::Profile } else { Seccomp::Unconfined },
    };
    Ok((spec, record, warnings))
}

fn refuse_if(bad: bool, property: &str, reason: &str) -> Result<(), OciError> {
    if bad { Err(OciError::property(property, reason)) } else { Ok(()) }
}

fn check_version(version: &str) -> Result<(), OciError> {
    let mut parts = version.split(['.', '-', '+']);
    let numbers = [parts.next(), parts.next(), parts.next()].map(|part| part.and_then(|part| part.parse::<u32>().ok()));
    let known = matches!(numbers, [Some(1), Some(_), Some(_)]);
    refuse_if(!known, "ociVersion", &format!("`{version}` is not version 1 of the specification"))
}

/// Makes sure that a process can be what it is to be. `path` is its place in the configuration.
pub(super) fn check_process(process: &Process, path: &str) -> Result<(), OciError> {
    let property = |name: &str| format!("{path}.{name}");
    refuse_if(process.args().as_ref().is_none_or(Vec::is_empty), &property("args"), "there is no program")?;
    refuse_if(!process.cwd().is_absolute(), &property("cwd"), "it is not an absolute path")?;
    let mut kinds = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        let again = !kinds.insert(limit.typ().to_string());
        refuse_if(again, &property("rlimits"), &format!("{} is there twice", limit.typ()))?;
    }
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
        let had = apparmor::choose(Some(profile), false);
        let reason = had.as_ref().map_or_else(ToString::to_string, |_| "the kernel does not use AppArmor".to_owned());
        refuse_if(!matches!(had, Ok(Some(_))), &property("apparmorProfile"), &reason)?;
    }
    refuse_if(named(process.selinux_label()), &property("selinuxLabel"), "SELinux labels are not supported")?;
    refuse_if(process.exec_cpu_affinity().is_some(), &property("execCPUAffinity"), "it is not supported")
}

/// Returns what there is of the sets here, and the names of what is not.
fn possible(sets: &LinuxCapabilities) -> (LinuxCapabilities, Vec<String>) {
    let available = capabilities::to_oci(capabilities::available());
    let mut missing = HashSet::new();
    let mut limit = |names: &Option<oci_spec::runtime::Capabilities>| {
        let names = names.as_ref()?;
        missing.extend(names.iter().filter(|name| !available.contains(name)).map(ToString::to_string));
        Some(names.iter().filter(|name| available.contains(name)).copied().collect())
    };
    let mut possible = LinuxCapabilities::default();
    possible.set_bounding(limit(sets.bounding())).set_effective(limit(sets.effective()));
    possible.set_permitted(limit(sets.permitted())).set_inheritable(limit(sets.inheritable()));
    possible.set_ambient(limit(sets.ambient()));
    let mut missing: Vec<String> = missing.into_iter().collect();
    missing.sort();
    (possible, missing)
}

fn namespaces(linux: &Linux) -> Result<(Namespaces, Network), OciError> {
    let mut namespaces = Namespaces {
        pid: Namespace::Host,
        ipc: Namespace::Host,
        uts: Namespace::Host,
        cgroup: Namespace::Host,
        user: None,
        time: Time::Host,
    };
    let mut network = Network::Host;
    let mut seen = HashSet::new();
    for entry in linux.namespaces().iter().flatten() {
        let kind = entry.typ();
        let property = format!("linux.namespaces[{kind}]");
        refuse_if(!seen.insert(kind), &property, "it is there twice")?;
        let path = entry.path().clone().filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = &path {
            refuse_if(!path.is_absolute(), &property, "its path is not absolute")?;
        }
        let namespace = path.clone().map_or(Namespace::New, Namespace::Path);
        match kind {
            LinuxNamespaceType::Mount => refuse_if(path.is_some(), &property, "a mount namespace cannot be joined")?,
            LinuxNamespaceType::User => {
                refuse_if(path.is_some(), &property, "joining a user namespace is not supported")?;
                let ids = |ids: &Option<Vec<_>>| ids.clone().unwrap_or_default();
                namespaces.user = Some(Mappings { uids: ids(linux.uid_mappings()), gids: ids(linux.gid_mappings()) });
            }
            LinuxNamespaceType::Time => {
                namespaces.time = match path {
                    Some(path) => Time::Path(path),
                    None => Time::New(time_offsets(linux)?),
                };
            }
            LinuxNamespaceType::Network => network = path.map_or(Network::New, Network::Path),
            LinuxNamespaceType::Pid => namespaces.pid = namespace,
            LinuxNamespaceType::Ipc => namespaces.ipc = namespace,
            LinuxNamespaceType::Uts => namespaces.uts = namespace,
            LinuxNamespaceType::Cgroup => namespaces.cgroup = namespace,
        }
    }
    refuse_if(!seen.contains(&LinuxNamespaceType::Mount), "linux.namespaces", "a mount namespace is missing")?;
    let is_empty = |list: &Option<Vec<_>>| list.as_ref().is_none_or(Vec::is_empty);
    for (name, list) in [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())] {
        let own = namespaces.user.is_some();
        refuse_if(own && is_empty(list), name, "a user namespace needs them")?;
        refuse_if(!own && !is_empty(list), name, "there is no user namespace of its own")?;
    }
    let offsets = linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty());
    let own_time = matches!(namespaces.time, Time::New(_));
    refuse_if(offsets && !own_time, "linux.timeOffsets", "there is no time namespace of its own")?;
    Ok((namespaces, network))
}

fn time_offsets(linux: &Linux) -> Result<Vec<String>, OciError> {
    let mut lines = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let known = matches!(clock.as_str(), "monotonic" | "boottime");
        refuse_if(!known, "linux.timeOffsets", &format!("there is no clock `{clock}`"))?;
        lines.push(format!("{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)));
    }
    lines.sort();
    Ok(lines)
}

fn check_names(spec: &Spec, namespaces: &Namespaces) -> Result<(), OciError> {
    for (property, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let set = name.as_ref().is_some_and(|name| !name.is_empty());
        refuse_if(set && namespaces.uts == Namespace::Host, property, "there is no UTS namespace of its own")?;
    }
    Ok(())
}

/// Makes a mount's paths absolute, and makes sure that its options are known.
fn check_mount(bundle: &Path, mount: &mut Mount, property: &str) -> Result<(), OciError> {
    let named = |name: &str| format!("{property}.{name}");
    // Relative ones were allowed once.
    let destination = Path::new("/").join(mount.destination());
    refuse_if(destination == Path::new("/"), &named("destination"), "it is the root")?;
    mount.set_destination(destination);
    let mapped = |ids: &Option<Vec<_>>| ids.as_ref().is_some_and(|ids| !ids.is_empty());
    refuse_if(mapped(mount.uid_mappings()), &named("uidMappings"), "idmapped mounts are not supported")?;
    refuse_if(mapped(mount.gid_mappings()), &named("gidMappings"), "idmapped mounts are not supported")?;
    let list = mount.options().clone().unwrap_or_default();
    for option in ["remount", "idmap", "ridmap"] {
        refuse_if(
            list.iter().any(|known| known == option),
            &named("options"),
            &format!("`{option}` is not supported"),
        )?;
    }
    let parsed = Options::parse(&list);
    if parsed.bind || mount.typ().as_deref() == Some("bind") {
        if let Some((name, _)) = parsed.data.first() {
            return Err(OciError::property(named("options"), format!("a bind mount has no option `{name}`")));
        }
        let source = mount.source().clone().filter(|source| !source.as_os_str().is_empty());
        let source = source.ok_or_else(|| OciError::property(named("source"), "it is missing"))?;
        mount.set_source(Some(bundle.join(source)));
    } else {
        let missing = mount.typ().as_ref().is_none_or(String::is_empty);
        refuse_if(missing, &named("type"), "it is missing")?;
    }
    Ok(())
}

fn check_hooks(hooks: &Hooks) -> Result<(), OciError> {
    let lists: [(&str, &Option<Vec<Hook>>); 6] = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (name, list) in lists {
        for hook in list.iter().flatten() {
            let property = format!("hooks.{name}");
            refuse_if(!hook.path().is_absolute(), &property, "the path of a hook is not absolute")?;
            refuse_if(hook.timeout().is_some_and(|timeout| timeout <= 0), &property, "a timeout is not positive")?;
        }
    }
    Ok(())
}

fn check_linux(linux: &Linux, namespaces: &Namespaces, network: &Network) -> Result<(), OciError> {
    refuse_if(linux.intel_rdt().is_some(), "linux.intelRdt", "it is not supported")?;
    refuse_if(linux.memory_policy().is_some(), "linux.memoryPolicy", "it is not supported")?;
    let devices = linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty());
    refuse_if(devices, "linux.netDevices", "moving network devices is not supported")?;
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    refuse_if(label, "linux.mountLabel", "SELinux labels are not supported")?;
    if let Some(personality) = linux.personality() {
        let flags = personality.flags().as_ref().is_some_and(|flags| !flags.is_empty());
        refuse_if(flags, "linux.personality.flags", "there are none")?;
    }
    if let Some(name) = linux.rootfs_propagation().as_ref().filter(|name| !name.is_empty()) {
        let unknown = options::propagation(name).is_none();
        refuse_if(unknown, "linux.rootfsPropagation", &format!("there is no propagation `{name}`"))?;
    }
    for (name, value) in linux.sysctl().iter().flatten() {
        let domain = matches!(name.as_str(), "kernel.domainname" | "kernel/domainname");
        if domain && namespaces.uts != Namespace::Host && !value.contains(['\n', '\0']) {
            continue;
        }
        sysctl::check(name, value, namespaces.ipc != Namespace::Host, *network != Network::Host)
            .map_err(|error| OciError::property("linux.sysctl", error.to_string()))?;
    }
    if let Some(profile) = linux.seccomp() {
        seccomp::compile_profile(profile)
            .and_then(|_| seccomp::flags(profile))
            .map_err(|error| OciError::property("linux.seccomp", error.to_string()))?;
    }
    for device in linux.devices().iter().flatten() {
        let absolute = device.path().is_absolute() && device.path() != Path::new("/");
        refuse_if(!absolute, "linux.devices", &format!("{} is not an absolute path", device.path().display()))?;
    }
    Ok(())
}

/// Returns the rules for devices: those of the configuration, over none at all, and what every container may use.
fn device_rules(resources: &LinuxResources) -> Result<Vec<Rule>, OciError> {
    let mut rules = vec![devices::nothing()];
    for rule in resources.devices().iter().flatten() {
        // A rule without letters is about no use.
        if rule.access().as_ref().is_none_or(String::is_empty) {
            continue;
        }
        let rule =
            Rule::from_oci(rule).ok_or_else(|| OciError::property("linux.resources.devices", "a rule is not valid"))?;
        if rule.is_universal() {
            rules.clear();
        }
        rules.push(rule);
    }
    let everything = rules.first().is_some_and(|rule| rule.allow) && rules.iter().all(|rule| rule.allow);
    if everything {
        rules.truncate(1);
    } else {
        rules.extend(devices::defaults());
    }
    Ok(rules)
}

/// Returns a configuration to begin with: a shell in a container of its own.
pub fn default_spec() -> Spec {
    let mut spec = Spec::default();
    spec.set_version(super::VERSION.into());
    spec.set_hostname(Some("rcompose".into()));
    if let Some(root) = spec.root_mut() {
        root.set_path(PathBuf::from("rootfs")).set_readonly(Some(true));
    }
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(true));
    }
    spec
}

/// Returns whether a path leads to a socket.
pub(super) fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Cgroups;
    use serde_json::{Value, json};

    fn convert_json(change: impl Fn(&mut Value)) -> Result<(Spec, Record, Vec<String>), OciError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("rootfs")).unwrap();
        let mut value = serde_json::to_value(default_spec()).unwrap();
        change(&mut value);
        let host = Host { root: true, cgroups: Cgroups::V2("/sys/fs/cgroup".into()) };
        let bundle = directory.path().canonicalize().unwrap();
        convert("x", &bundle, serde_json::from_value(value).unwrap(), &host)
    }

    #[test]
    fn the_configuration_to_begin_with_is_taken() {
        let (spec, record, _) = convert_json(|_| {}).unwrap();
        assert!(spec.root().as_ref().unwrap().path().is_absolute());
        assert_eq!(record.namespaces.pid, Namespace::New);
        assert_eq!(record.network, Network::New);
        assert!(record.cgroup.path.to_string_lossy().starts_with("rcompose/oci/x-"));
        // Read again it is the same: nothing is lost, and nothing added twice.
        let linux = spec.linux().clone().unwrap();
        let rules = device_rules(linux.resources().as_ref().unwrap()).unwrap();
        assert_eq!(rules.first(), Some(&devices::nothing()));
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        type Change = Box<dyn Fn(&mut Value)>;
        let cases: Vec<(&str, Change)> = vec![
            ("ociVersion", Box::new(|spec| spec["ociVersion"] = json!("2.0.0"))),
            ("windows", Box::new(|spec| spec["windows"] = json!({"layerFolders": []}))),
            ("root.path", Box::new(|spec| spec["root"]["path"] = json!("missing"))),
            ("process.args", Box::new(|spec| spec["process"]["args"] = json!([]))),
            ("process.cwd", Box::new(|spec| spec["process"]["cwd"] = json!("tmp"))),
            ("process.apparmorProfile", Box::new(|spec| spec["process"]["apparmorProfile"] = json!("x"))),
            ("process.selinuxLabel", Box::new(|spec| spec["process"]["selinuxLabel"] = json!("x"))),
            ("process.execCPUAffinity", Box::new(|spec| spec["process"]["execCPUAffinity"] = json!({"initial": "0"}))),
            (
                "process.rlimits",
                Box::new(|spec| {
                    let limit = json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1});
                    spec["process"]["rlimits"] = json!([limit, limit]);
                }),
            ),
            ("hostname", Box::new(|spec| spec["linux"]["namespaces"] = json!([{"type": "mount"}]))),
            ("linux.namespaces", Box::new(|spec| spec["linux"]["namespaces"] = json!([{"type": "uts"}]))),
            (
                "linux.namespaces[pid]",
                Box::new(|spec| spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid"}])),
            ),
            (
                "linux.uidMappings",
                Box::new(|spec| {
                    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
                }),
            ),
            (
                "linux.gidMappings",
                Box::new(|spec| {
                    spec["linux"]["gidMappings"] = json!([{"hostID": 1, "containerID": 0, "size": 1}]);
                }),
            ),
            ("linux.timeOffsets", Box::new(|spec| spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}}))),
            ("linux.intelRdt", Box::new(|spec| spec["linux"]["intelRdt"] = json!({"closID": "x"}))),
            ("linux.mountLabel", Box::new(|spec| spec["linux"]["mountLabel"] = json!("x"))),
            ("linux.rootfsPropagation", Box::new(|spec| spec["linux"]["rootfsPropagation"] = json!("sideways"))),
            ("linux.sysctl", Box::new(|spec| spec["linux"]["sysctl"] = json!({"vm.swappiness": "1"}))),
            (
                "linux.seccomp",
                Box::new(|spec| {
                    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"});
                }),
            ),
            ("linux.resources", Box::new(|spec| spec["linux"]["resources"] = json!({"network": {"classID": 1}}))),
            ("hooks.prestart", Box::new(|spec| spec["hooks"] = json!({"prestart": [{"path": "true"}]}))),
            (
                "hooks.poststop",
                Box::new(|spec| spec["hooks"] = json!({"poststop": [{"path": "/bin/true", "timeout": 0}]})),
            ),
            ("mounts[0].options", Box::new(|spec| spec["mounts"][0]["options"] = json!(["idmap"]))),
            (
                "mounts[0].source",
                Box::new(|spec| spec["mounts"][0] = json!({"destination": "/a", "options": ["bind"]})),
            ),
            (
                "mounts[0].options",
                Box::new(|spec| {
                    spec["mounts"][0] = json!({"destination": "/a", "source": "b", "options": ["bind", "strange"]});
                }),
            ),
        ];
        for (property, change) in cases {
            let error = convert_json(change).map(|_| property).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{property}: ")), "{property}: {error}");
        }
    }
}
