//! From a container of the engine's own to a configuration that any OCI runtime runs.
//!
//! `config.json` of a container is that but for what is the engine's own way of saying it: the default filter, parts of
//! volumes, views of images, and the root, which is an overlay.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::OciError;
use crate::container::{capabilities, seccomp};
use crate::id::Id;
use crate::root::Root;
use crate::shim;
use crate::shim::config::{MountExtra, Seccomp, ShimConfig};

/// Returns the configuration of a container for other runtimes, with the root at `rootfs`.
pub fn of_container(root: &Root, id: &Id, rootfs: &Path) -> Result<Spec, OciError> {
    let bundle = root.container(id);
    let (spec, config) = (shim::init::read_spec(&bundle)?, shim::read_config(&bundle)?);
    portable(spec, &config, rootfs)
}

fn portable(mut spec: Spec, config: &ShimConfig, rootfs: &Path) -> Result<Spec, OciError> {
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs.to_owned());
    }
    let process = spec.process().as_ref();
    let bounding = process.and_then(|process| process.capabilities().as_ref().and_then(|sets| sets.bounding().clone()));
    if let Some(linux) = spec.linux_mut() {
        if config.seccomp == Seccomp::Default {
            linux.set_seccomp(Some(seccomp::default_profile(capabilities::from_oci(bounding.as_ref()))));
        }
        // The container itself is in there, and a runtime knows a place of its own.
        linux.set_cgroups_path(None);
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let Some(extra) = config.mounts.get(&*mount.destination().to_string_lossy()) else { continue };
        let MountExtra { subpath, layers, namespace, .. } = extra;
        if let Some(pid) = namespace.as_ref().and_then(|path| path.parent()?.parent()) {
            let source = mount.source().clone().unwrap_or_default();
            mount.set_source(Some(pid.join("root").join(source.strip_prefix("/").unwrap_or(&source))));
        }
        match (&layers[..], subpath) {
            ([] | [_], None) => {}
            ([] | [_], Some(subpath)) => {
                let source = mount.source().clone().unwrap_or_default();
                mount.set_source(Some(source.join(subpath)));
            }
            (_, Some(_)) => {
                let property = format!("mount at {}", mount.destination().display());
                return Err(OciError::property(property, "a part of an image of several layers cannot be said"));
            }
            (layers, None) => {
                let layers: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
                mount.set_typ(Some("overlay".into())).set_source(Some("overlay".into()));
                mount.set_options(Some(vec![format!("lowerdir={}", layers.join(":")), "ro".into()]));
            }
        }
    }
    Ok(spec)
}
