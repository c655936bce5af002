//! Mounts.

use std::path::Path;

use super::{Findings, Subject, service};
use crate::compose::key::{Key, KeyPath};
use crate::compose::model::{Mount, MountKind};

/// Finds mounts of a socket behind which nobody is, or worse, a Docker that has nothing to do with this project.
pub(super) fn sockets(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (path, mount) in binds(subject) {
        if mount.source.ends_with("/docker.sock") {
            findings.add(
                &path,
                "Docker's socket is mounted: who has it is root on this host, and it does not know the containers of rcompose",
                "take the mount away",
            );
        }
    }
}

/// Finds mounts of files that are not there, in whose place a directory is made.
pub(super) fn missing(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (path, mount) in binds(subject) {
        let source = Path::new(&mount.source);
        let makes = mount.bind.as_ref().is_none_or(|bind| bind.create_host_path);
        // A name with a suffix is a file's, also inside.
        let file =
            source.extension().is_some_and(|suffix| suffix != "sock") && Path::new(&mount.target).extension().is_some();
        if makes && file && !source.exists() {
            findings.add(
                &path,
                format!("{} is not there: `up` makes a directory of that name, and mounts it", source.display()),
                "make the file, or write the mount with `bind: {create_host_path: false}` to have `up` refuse it",
            );
        }
    }
}

fn binds<'s>(subject: &Subject<'s>) -> impl Iterator<Item = (KeyPath, &'s Mount)> + use<'s> {
    subject.project.services.iter().flat_map(|(name, definition)| {
        let path = service(name, &["volumes"]);
        let binds = definition.volumes.iter().enumerate().filter(|(_, mount)| mount.kind == MountKind::Bind);
        binds.map(move |(index, mount)| (path.join(Key::Index(index)), mount))
    })
}
