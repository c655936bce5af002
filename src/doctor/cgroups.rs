//! Control groups.

use std::fs;

use rcompose_engine::host::{Cgroups, Host};

use super::Finding;

/// What limits and `stats` are made with.
const WANTED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
const SUBJECT: &str = "cgroups";

pub(super) fn examine() -> Vec<Finding> {
    let host = match Host::detect() {
        Ok(host) => host,
        Err(error) => {
            let cure = "mount -t cgroup2 none /sys/fs/cgroup, or let an init system do it";
            return vec![Finding::bad(SUBJECT, error.to_string(), cure)];
        }
    };
    let (version, there) = match &host.cgroups {
        Cgroups::V1(controllers) => (1, controllers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()),
        Cgroups::V2(mount) => {
            let listed = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
            (2, listed.split_whitespace().map(str::to_owned).collect())
        }
    };
    let missing = WANTED.into_iter().filter(|name| there.iter().all(|other| other != name)).collect::<Vec<_>>();
    let says = format!("version {version} with {}", there.join(", "));
    vec![if missing.is_empty() {
        Finding::good(SUBJECT, says)
    } else {
        Finding::doubtful(
            SUBJECT,
            format!("{says}, without {}: such limits are named and left out", missing.join(", ")),
            "boot with cgroup_enable=memory, or delegate the controllers to where this runs",
        )
    }]
}
