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

#[cfg(test)]
mod tests {
    use oci_spec::image::ImageConfiguration;
    use proptest::prelude::*;

    use super::*;
    use crate::container::cgroup::Write;
    use crate::container::config::{
        ContainerConfig, Mount, MountSource, NamespaceMode, NetworkMode, Resources, Ulimit,
    };
    use crate::container::spec::{Inputs, generate};
    use crate::container::user::ResolvedUser;
    use crate::host::{Cgroups, Host};
    use crate::oci::convert::convert;

    fn words(pattern: &'static str, most: usize) -> impl Strategy<Value = Vec<String>> {
        prop::collection::btree_set(pattern, 0..most).prop_map(|words| words.into_iter().collect())
    }

    fn resources() -> impl Strategy<Value = Resources> {
        let limit = || prop::option::of(1_u64..1 << 40);
        (limit(), limit(), prop::option::of(1_i64..9_999), prop::option::of(10_u16..1000), limit(), limit()).prop_map(
            |(memory, memory_reservation, pids, weight, cpu_shares, nano_cpus)| {
                let mut resources =
                    Resources { memory, memory_reservation, nano_cpus, cpu_shares, pids, ..Resources::default() };
                resources.blkio.weight = weight;
                resources
            },
        )
    }

    fn mount() -> impl Strategy<Value = Mount> {
        let bind = (prop::sample::select(vec!["rprivate", "rslave", "rshared"]), any::<bool>()).prop_map(
            |(propagation, recursive)| MountSource::Bind {
                source: "/".into(),
                create_host_path: false,
                propagation: Some(propagation.to_owned()),
                recursive,
            },
        );
        let tmpfs = (prop::option::of(1_u64..1 << 40), prop::option::of(0_u32..0o7777))
            .prop_map(|(size, mode)| MountSource::Tmpfs { size, mode, options: vec!["noexec".into()] });
        let source = prop_oneof![bind, tmpfs];
        ("/m[a-z]{1,6}", any::<bool>(), source).prop_map(|(target, read_only, source)| Mount {
            target,
            read_only,
            source,
        })
    }

    fn process() -> impl Strategy<Value = ContainerConfig> {
        let strings = (words("[ -~]{1,12}", 4), words("[A-Z][A-Z0-9_]{0,8}", 4), "/[a-z/]{0,9}", "[a-z][a-z0-9]{0,9}");
        let capabilities = || words("CHOWN|KILL|NET_RAW|SETUID|AUDIT_WRITE", 3);
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        let numbers = (prop::option::of(-1000_i32..1000), prop::option::of(0_i64..9_999));
        (strings, capabilities(), capabilities(), flags, numbers).prop_map(|(strings, add, drop, flags, numbers)| {
            let (args, names, directory, hostname) = strings;
            let config = ContainerConfig::new("shop-web-1".into(), "shop".into(), "busybox".into(), String::new());
            let limit = |value| Ulimit { name: "nofile".into(), soft: value, hard: value };
            ContainerConfig {
                entrypoint: Some(vec!["/bin/program".into()]),
                command: Some(args),
                environment: names.into_iter().map(|name| (name, Some("value = 1".into()))).collect(),
                working_dir: Some(directory),
                hostname: Some(hostname),
                cap_add: add,
                cap_drop: drop,
                read_only: flags.0,
                privileged: flags.1,
                tty: flags.2,
                security_opt: if flags.3 { vec!["no-new-privileges".into()] } else { Vec::new() },
                oom_score_adj: numbers.0,
                ulimits: numbers.1.map(limit).into_iter().collect(),
                network: NetworkMode::None,
                ..config
            }
        })
    }

    fn container() -> impl Strategy<Value = ContainerConfig> {
        let mounts = prop::collection::btree_map("[a-z]{1,4}", mount(), 0..4);
        let namespace = || prop_oneof![Just(NamespaceMode::Private), Just(NamespaceMode::Host)];
        let annotations = prop::collection::btree_map("[a-z.]{1,8}", "[ -~]{0,8}", 0..3);
        (process(), resources(), mounts, namespace(), namespace(), annotations).prop_map(
            |(config, resources, mounts, pid, ipc, annotations)| {
                let place =
                    |(name, mount): (String, Mount)| Mount { target: format!("{}/{name}", mount.target), ..mount };
                let mounts = mounts.into_iter().map(place).collect();
                ContainerConfig { annotations, pid, ipc, resources, mounts, ..config }
            },
        )
    }

    /// What is limited, apart from devices: every runtime adds rules for those that all containers have.
    fn limits(writes: &[Write]) -> Vec<&Write> {
        writes.iter().filter(|write| write.controller != "devices").collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What the engine made for itself another runtime understands as the same, and so does the front door.
        #[test]
        fn a_container_is_the_same_by_its_portable_configuration(config in container()) {
            let folder = tempfile::tempdir().unwrap();
            let bundle = folder.path().canonicalize().unwrap();
            std::fs::create_dir(bundle.join("rootfs")).unwrap();
            // The weight of input and output needs a kernel that weighs it.
            std::fs::write(bundle.join("blkio.weight"), "").unwrap();
            let host = Host { root: true, cgroups: Cgroups::V1(vec![("blkio".into(), bundle.clone())]) };
            let user = ResolvedUser { uid: 7, gid: 8, additional_gids: vec![9], home: "/home".into() };
            let inputs = Inputs {
                config: &config,
                image: &ImageConfiguration::default(),
                user: &user,
                host: &host,
                root: &Root::below(&bundle),
                layers: &[bundle.join("layer")],
                volatile: false,
                etc: &["hosts", "hostname", "resolv.conf"],
                pid_of: &|_| None,
                layers_of: &|_| None,
                supervisor_command: &[],
            };
            let (spec, shim) = generate(&inputs).unwrap();
            let made = portable(spec.clone(), &shim, "rootfs".as_ref()).unwrap();
            let read: Spec = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();
            prop_assert_eq!(&read, &made);
            // Nothing but the filter, the place of the root and the cgroup are said in other words.
            prop_assert_eq!(made.process(), spec.process());
            prop_assert_eq!(made.mounts(), spec.mounts());
            prop_assert_eq!(made.linux().as_ref().unwrap().seccomp().is_some(), !config.privileged);

            let (taken, record, warnings) = convert("x", &bundle, read, &host).unwrap();
            prop_assert_eq!(warnings, Vec::<String>::new());
            prop_assert_eq!(taken.process(), made.process());
            prop_assert_eq!(taken.mounts(), made.mounts());
            prop_assert_eq!(taken.hostname(), spec.hostname());
            prop_assert_eq!(taken.annotations(), spec.annotations());
            prop_assert_eq!(&record.namespaces, &shim.namespaces);
            prop_assert_eq!(limits(&record.cgroup.writes), limits(&shim.cgroup.writes));
            // Taken once more it is what it was.
            let (again, _, _) = convert("x", &bundle, taken.clone(), &host).unwrap();
            prop_assert_eq!((again.process(), again.mounts()), (taken.process(), taken.mounts()));
        }
    }
}
