//! What this runtime can do, as the specification has it ("Features Structure").

use serde_json::{Value, json};

use crate::container::capabilities;
use crate::container::seccomp::{ACTIONS, ARCHITECTURES, FLAGS};

/// The oldest version of the specification that is understood.
const OLDEST: &str = "1.0.0";

const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// Options of mounts that are not the filesystem's own.
const MOUNT_OPTIONS: [&str; 32] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "relatime",
    "ro",
    "rprivate",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "tmpcopyup",
    "unbindable",
];

/// Returns the features structure.
pub fn features() -> Value {
    let names = capabilities::to_oci(capabilities::available());
    let mut capabilities: Vec<String> =
        names.iter().filter_map(|name| Some(serde_json::to_value(name).ok()?.as_str()?.to_owned())).collect();
    capabilities.sort();
    let flags = FLAGS.map(|(flag, _)| flag);
    json!({
        "ociVersionMin": OLDEST,
        "ociVersionMax": super::VERSION,
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ACTIONS,
                "operators": OPERATORS,
                "archs": ARCHITECTURES,
                "knownFlags": flags,
                "supportedFlags": flags,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
            "netDevices": {"enabled": false},
        },
        "annotations": {
            "io.github.rcompose.version": env!("CARGO_PKG_VERSION"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::mounts::options::Options;
    use oci_spec::runtime::Features;

    #[test]
    fn the_structure_is_that_of_the_specification() {
        let features: Features = serde_json::from_value(features()).unwrap();
        assert_eq!(features.oci_version_max(), crate::oci::VERSION);
        assert!(features.linux().as_ref().unwrap().seccomp().is_some());
    }

    #[test]
    fn every_option_is_known() {
        for option in MOUNT_OPTIONS {
            assert!(Options::parse([&option.to_owned()]).data.is_empty(), "{option}");
        }
    }
}
