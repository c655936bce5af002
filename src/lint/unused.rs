//! What is declared and not used.

use std::collections::BTreeSet;

use super::{Findings, Subject};
use crate::compose::key::KeyPath;
use crate::compose::model::MountKind;

/// Finds networks, volumes, configs and secrets that no service uses, also none that its profile leaves out.
pub(super) fn find(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let project = subject.project;
    let services = || project.services.values().chain(project.disabled_services.values());
    let builds = || services().filter_map(|service| service.build.as_ref());
    let networks: BTreeSet<&str> = services().flat_map(|service| service.networks.keys()).map(String::as_str).collect();
    let volumes: BTreeSet<&str> = services()
        .flat_map(|service| &service.volumes)
        .filter(|mount| mount.kind == MountKind::Volume)
        .map(|mount| mount.source.as_str())
        .collect();
    let configs: BTreeSet<&str> =
        services().flat_map(|service| &service.configs).map(|mount| mount.source.as_str()).collect();
    let secrets = services().flat_map(|service| &service.secrets).chain(builds().flat_map(|build| &build.secrets));
    let secrets: BTreeSet<&str> = secrets.map(|mount| mount.source.as_str()).collect();
    let declared = [
        ("networks", "network", project.networks.keys().collect::<Vec<_>>(), networks),
        ("volumes", "volume", project.volumes.keys().collect(), volumes),
        ("configs", "config", project.configs.keys().collect(), configs),
        ("secrets", "secret", project.secrets.keys().collect(), secrets),
    ];
    for (section, what, names, used) in declared {
        // The default network belongs to whoever names no other.
        for name in names.into_iter().filter(|name| !used.contains(name.as_str()) && *name != "default") {
            findings.add(
                &KeyPath::of(&[section, name]),
                format!("no service uses the {what} {name}"),
                "take it away, or name it where it is needed",
            );
        }
    }
}
