//! What becomes of every attribute that a service can have: a table that has to name each of the schema's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rcompose_engine::container::config::{Mount, MountSource};
use rcompose_engine::id::Id;

use super::tests::image;
use super::{Blueprint, References, Referred, unhonoured};
use crate::compose::schema::attributes_of_services;
use crate::compose::{self, Disk, LoadOptions};
use crate::project::labels::ProjectLabels;

/// What becomes of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The container is another one with it.
    Container,
    /// Something else than the container: what, and which case shows it.
    Elsewhere(&'static str),
    /// `up` and `run` say that it has no effect.
    Warning,
    /// Nothing is made with it.
    Error,
}
use Fate::{Container, Elsewhere, Error, Warning};

/// Attributes with an example of each. Where an example is empty, something further down in the table has it.
const TABLE: &[(&str, Fate, &str)] = &[
    ("annotations", Container, "annotations: {a: b}"),
    ("attach", Elsewhere("up: whose output is shown; tests/attached.rs"), "attach: false"),
    ("blkio_config.device_read_bps.path", Container, "blkio_config: {device_read_bps: [{path: /dev/null, rate: 1m}]}"),
    ("blkio_config.device_read_bps.rate", Container, "blkio_config: {device_read_bps: [{path: /dev/null, rate: 1m}]}"),
    ("blkio_config.device_read_iops.path", Container, "blkio_config: {device_read_iops: [{path: /dev/null, rate: 9}]}"),
    ("blkio_config.device_read_iops.rate", Container, "blkio_config: {device_read_iops: [{path: /dev/null, rate: 9}]}"),
    ("blkio_config.device_write_bps.path", Container, "blkio_config: {device_write_bps: [{path: /dev/null, rate: 9}]}"),
    ("blkio_config.device_write_bps.rate", Container, "blkio_config: {device_write_bps: [{path: /dev/null, rate: 9}]}"),
    (
        "blkio_config.device_write_iops.path",
        Container,
        "blkio_config: {device_write_iops: [{path: /dev/null, rate: 9}]}",
    ),
    (
        "blkio_config.device_write_iops.rate",
        Container,
        "blkio_config: {device_write_iops: [{path: /dev/null, rate: 9}]}",
    ),
    ("blkio_config.weight", Container, "blkio_config: {weight: 300}"),
    ("blkio_config.weight_device.path", Container, "blkio_config: {weight_device: [{path: /dev/null, weight: 90}]}"),
    ("blkio_config.weight_device.weight", Container, "blkio_config: {weight_device: [{path: /dev/null, weight: 90}]}"),
    ("cap_add", Container, "cap_add: [NET_ADMIN]"),
    ("cap_drop", Container, "cap_drop: [CHOWN]"),
    ("cgroup", Container, "cgroup: host"),
    ("cgroup_parent", Container, "cgroup_parent: /x"),
    ("command", Container, "command: [ls]"),
    ("configs", Container, "configs: [c]"),
    ("configs.gid", Container, "configs: [{source: c, gid: '7'}]"),
    ("configs.mode", Container, "configs: [{source: c, mode: 0400}]"),
    ("configs.source", Container, "configs: [{source: c}]"),
    ("configs.target", Container, "configs: [{source: c, target: /t}]"),
    ("configs.uid", Container, "configs: [{source: c, uid: '7'}]"),
    ("container_name", Container, "container_name: own"),
    ("cpu_count", Warning, "cpu_count: 2"),
    ("cpu_percent", Warning, "cpu_percent: 2"),
    ("cpu_period", Container, "cpu_period: 50000"),
    ("cpu_quota", Container, "cpu_quota: 20000"),
    ("cpu_rt_period", Container, "cpu_rt_period: 50000"),
    ("cpu_rt_runtime", Container, "cpu_rt_runtime: 50000"),
    ("cpu_shares", Container, "cpu_shares: 7"),
    ("cpus", Container, "cpus: 0.5"),
    ("cpuset", Container, "cpuset: '0'"),
    ("credential_spec.config", Warning, "credential_spec: {config: c}"),
    ("credential_spec.file", Warning, "credential_spec: {file: f}"),
    ("credential_spec.registry", Warning, "credential_spec: {registry: f}"),
    ("depends_on", Elsewhere("the plan: order; cases depends-on-*"), "depends_on: [other]"),
    (
        "depends_on.condition",
        Elsewhere("the plan: order; cases depends-on-*"),
        "depends_on: {other: {condition: service_healthy}}",
    ),
    (
        "depends_on.required",
        Elsewhere("the plan; loader"),
        "depends_on: {other: {condition: service_started, required: false}}",
    ),
    (
        "depends_on.restart",
        Elsewhere("restart of what it depends on"),
        "depends_on: {other: {condition: service_started, restart: true}}",
    ),
    ("deploy.endpoint_mode", Warning, "deploy: {endpoint_mode: dnsrr}"),
    (
        "deploy.labels",
        Elsewhere("of the service in a cluster; the same without one under Docker Compose"),
        "deploy: {labels: {a: b}}",
    ),
    ("deploy.mode", Warning, "deploy: {mode: global}"),
    ("deploy.placement.constraints", Warning, "deploy: {placement: {constraints: [x]}}"),
    ("deploy.placement.max_replicas_per_node", Warning, "deploy: {placement: {max_replicas_per_node: 3}}"),
    ("deploy.placement.preferences.spread", Warning, "deploy: {placement: {preferences: [{spread: x}]}}"),
    ("deploy.replicas", Elsewhere("the plan: how many; case scale"), "deploy: {replicas: 3}"),
    ("deploy.resources.limits.cpus", Container, "deploy: {resources: {limits: {cpus: '0.5'}}}"),
    ("deploy.resources.limits.memory", Container, "deploy: {resources: {limits: {memory: 10m}}}"),
    ("deploy.resources.limits.pids", Container, "deploy: {resources: {limits: {pids: 7}}}"),
    ("deploy.resources.reservations.cpus", Warning, "deploy: {resources: {reservations: {cpus: '0.5'}}}"),
    (
        "deploy.resources.reservations.devices.capabilities",
        Container,
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
    ),
    (
        "deploy.resources.reservations.devices.count",
        Container,
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 2}]}}}",
    ),
    (
        "deploy.resources.reservations.devices.device_ids",
        Container,
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: ['1']}]}}}",
    ),
    (
        "deploy.resources.reservations.devices.driver",
        Container,
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], driver: nvidia}]}}}",
    ),
    (
        "deploy.resources.reservations.devices.options",
        Warning,
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], options: {a: b}}]}}}",
    ),
    (
        "deploy.resources.reservations.generic_resources.discrete_resource_spec.kind",
        Warning,
        "deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: x, value: 1}}]}}}",
    ),
    (
        "deploy.resources.reservations.generic_resources.discrete_resource_spec.value",
        Warning,
        "deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: x, value: 1}}]}}}",
    ),
    ("deploy.resources.reservations.memory", Container, "deploy: {resources: {reservations: {memory: 10m}}}"),
    ("deploy.restart_policy.condition", Container, "deploy: {restart_policy: {condition: any}}"),
    ("deploy.restart_policy.delay", Warning, "deploy: {restart_policy: {condition: any, delay: 5s}}"),
    (
        "deploy.restart_policy.max_attempts",
        Container,
        "deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}",
    ),
    ("deploy.restart_policy.window", Warning, "deploy: {restart_policy: {condition: any, window: 5s}}"),
    (
        "deploy.rollback_config.*",
        Elsewhere("the plan: how what was replaced comes back; compose-tests/tests/update.rs"),
        "deploy: {rollback_config: {parallelism: 2}}",
    ),
    (
        "deploy.update_config.*",
        Elsewhere("the plan: how containers are replaced; compose-tests/tests/update.rs"),
        "deploy: {update_config: {order: start-first}}",
    ),
    (
        "develop.watch.*",
        Elsewhere("the command `watch`; compose-tests/tests/watch.rs"),
        "develop: {watch: [{path: ., action: restart}]}",
    ),
    ("deploy", Elsewhere("nothing, which is allowed"), "deploy: "),
    ("develop", Elsewhere("nothing, which is allowed"), "develop: "),
    ("build.*", Elsewhere("how the image is built; cases build*"), "build: ."),
    ("build", Elsewhere("how the image is built; cases build*"), "build: ."),
    ("device_cgroup_rules", Container, "device_cgroup_rules: ['c 1:3 r']"),
    ("devices", Container, "devices: ['/dev/null:/dev/x']"),
    ("devices.permissions", Container, "devices: [{source: /dev/null, target: /dev/x, permissions: r}]"),
    ("devices.source", Container, "devices: [{source: /dev/null, target: /dev/null}]"),
    ("devices.target", Container, "devices: [{source: /dev/null, target: /dev/x}]"),
    ("dns", Container, "dns: 1.1.1.1"),
    ("dns_opt", Container, "dns_opt: ['ndots:1']"),
    ("dns_search", Container, "dns_search: x"),
    ("domainname", Container, "domainname: x.org"),
    ("entrypoint", Container, "entrypoint: [ls]"),
    ("env_file", Container, "env_file: e.env"),
    ("env_file.format", Container, "env_file: [{path: e.env, format: raw}]"),
    ("env_file.path", Container, "env_file: [{path: e.env}]"),
    (
        "env_file.required",
        Elsewhere("the loader: whether a missing one is a fault"),
        "env_file: [{path: none, required: false}]",
    ),
    ("environment", Container, "environment: {A: b}"),
    ("expose", Container, "expose: [7]"),
    ("extends", Container, "extends: other"),
    ("extends.file", Container, "extends: {file: more.yaml, service: base}"),
    ("extends.service", Container, "extends: {service: other}"),
    ("external_links", Container, "external_links: [x]"),
    ("extra_hosts", Container, "extra_hosts: ['a:1.2.3.4']"),
    ("gpus", Container, "gpus: all"),
    ("gpus.capabilities", Container, "gpus: [{capabilities: [gpu]}]"),
    ("gpus.count", Container, "gpus: [{count: 2}]"),
    ("gpus.device_ids", Container, "gpus: [{device_ids: ['1']}]"),
    ("gpus.driver", Container, "gpus: [{driver: nvidia, count: 2}]"),
    ("gpus.options", Warning, "gpus: [{options: {a: b}}]"),
    ("group_add", Container, "group_add: [7]"),
    ("healthcheck.disable", Container, "healthcheck: {disable: true}"),
    ("healthcheck.interval", Container, "healthcheck: {test: x, interval: 1s}"),
    ("healthcheck.retries", Container, "healthcheck: {test: x, retries: 3}"),
    ("healthcheck.start_interval", Container, "healthcheck: {test: x, start_period: 3s, start_interval: 1s}"),
    ("healthcheck.start_period", Container, "healthcheck: {test: x, start_period: 1s}"),
    ("healthcheck.test", Container, "healthcheck: {test: x}"),
    ("healthcheck.timeout", Container, "healthcheck: {test: x, timeout: 1s}"),
    ("hostname", Container, "hostname: x"),
    ("image", Elsewhere("which image is pulled and taken; case image-names"), "image: alpine"),
    ("init", Container, "init: true"),
    ("ipc", Container, "ipc: host"),
    ("isolation", Warning, "isolation: hyperv"),
    ("label_file", Container, "label_file: e.env"),
    ("labels", Container, "labels: {a: b}"),
    ("links", Container, "links: ['other:x']"),
    ("logging.driver", Container, "logging: {driver: syslog}"),
    ("logging.options", Container, "logging: {options: {max-size: 1m}}"),
    ("mac_address", Container, "mac_address: 02:00:00:00:00:01"),
    ("mem_limit", Container, "mem_limit: 10m"),
    ("mem_reservation", Container, "mem_reservation: 10m"),
    ("mem_swappiness", Container, "mem_swappiness: 10"),
    ("memswap_limit", Container, "memswap_limit: 10m"),
    ("models", Elsewhere("variables of the container; case models"), "models: [m]"),
    ("models.endpoint_var", Elsewhere("variables of the container; case models"), "models: {m: {endpoint_var: E}}"),
    ("models.model_var", Elsewhere("variables of the container; case models"), "models: {m: {model_var: E}}"),
    ("network_mode", Container, "network_mode: host"),
    ("networks", Container, "networks: [n]"),
    ("networks.aliases", Container, "networks: {n: {aliases: [x]}}"),
    ("networks.driver_opts", Container, "networks: {n: {driver_opts: {com.docker.network.endpoint.ifname: x}}}"),
    ("networks.gw_priority", Container, "networks: {n: {gw_priority: 7}}"),
    ("networks.interface_name", Container, "networks: {n: {interface_name: x}}"),
    ("networks.ipv4_address", Container, "networks: {n: {ipv4_address: 10.1.0.7}}"),
    ("networks.ipv6_address", Container, "networks: {n: {ipv6_address: 'fd00::7'}}"),
    ("networks.link_local_ips", Container, "networks: {n: {link_local_ips: [169.254.1.1]}}"),
    ("networks.mac_address", Container, "networks: {n: {mac_address: 02:00:00:00:00:01}}"),
    ("networks.priority", Container, "networks: {n: {priority: 1}, o: {priority: 9}}"),
    ("oom_kill_disable", Container, "oom_kill_disable: true"),
    ("oom_score_adj", Container, "oom_score_adj: 7"),
    ("pid", Container, "pid: host"),
    ("pids_limit", Container, "pids_limit: 7"),
    (
        "platform",
        Elsewhere("which image is pulled, and whether it runs here; case pull-policies"),
        "platform: linux/arm64",
    ),
    ("ports", Container, "ports: ['80:80']"),
    ("ports.app_protocol", Elsewhere("said for readers of the file only"), "ports: [{target: 80, app_protocol: http}]"),
    ("ports.host_ip", Container, "ports: [{target: 80, host_ip: 127.0.0.1}]"),
    ("ports.mode", Elsewhere("without a cluster both modes are the same"), "ports: [{target: 80, mode: host}]"),
    ("ports.name", Elsewhere("said for readers of the file only"), "ports: [{target: 80, name: x}]"),
    ("ports.protocol", Container, "ports: [{target: 80, protocol: udp}]"),
    ("ports.published", Container, "ports: [{target: 80, published: '7'}]"),
    ("ports.target", Container, "ports: [{target: 80}]"),
    ("post_start.*", Elsewhere("when it starts; case hooks"), "post_start: [{command: ls}]"),
    ("pre_start.*", Elsewhere("the plan: containers of their own; case pre-start"), "pre_start: [{command: ls}]"),
    ("pre_stop.*", Elsewhere("when it is stopped; case hooks"), "pre_stop: [{command: ls}]"),
    ("privileged", Container, "privileged: true"),
    ("profiles", Elsewhere("the loader: whether it is there at all; case profiles"), "profiles: [x]"),
    ("provider.options", Elsewhere("the provider; case provider"), "provider: {type: x, options: {a: b}}"),
    ("provider.type", Elsewhere("the provider; case provider"), "provider: {type: x}"),
    ("pull_policy", Elsewhere("when the image is pulled; case pull-policies"), "pull_policy: never"),
    ("pull_refresh_after", Warning, "pull_refresh_after: 1h"),
    ("read_only", Container, "read_only: true"),
    ("restart", Container, "restart: always"),
    ("runtime", Container, "runtime: nvidia"),
    ("scale", Elsewhere("the plan: how many; case scale"), "scale: 3"),
    ("secrets", Container, "secrets: [s]"),
    ("secrets.gid", Container, "secrets: [{source: s, gid: '7'}]"),
    ("secrets.mode", Container, "secrets: [{source: s, mode: 0400}]"),
    ("secrets.source", Container, "secrets: [{source: s}]"),
    ("secrets.target", Container, "secrets: [{source: s, target: /t}]"),
    ("secrets.uid", Container, "secrets: [{source: s, uid: '7'}]"),
    ("security_opt", Container, "security_opt: ['seccomp:unconfined']"),
    ("shm_size", Container, "shm_size: 1m"),
    ("stdin_open", Container, "stdin_open: true"),
    ("stop_grace_period", Container, "stop_grace_period: 3s"),
    ("stop_signal", Container, "stop_signal: SIGINT"),
    ("storage_opt", Error, "storage_opt: {size: 1G}"),
    ("sysctls", Container, "sysctls: {net.core.somaxconn: 7}"),
    ("tmpfs", Container, "tmpfs: /t"),
    ("tty", Container, "tty: true"),
    ("ulimits", Container, "ulimits: {nofile: 7}"),
    ("ulimits.hard", Container, "ulimits: {nofile: {soft: 7, hard: 8}}"),
    ("ulimits.soft", Container, "ulimits: {nofile: {soft: 7, hard: 8}}"),
    ("use_api_socket", Warning, "use_api_socket: true"),
    ("user", Container, "user: x"),
    ("userns_mode", Container, "userns_mode: host"),
    ("uts", Container, "uts: host"),
    ("volumes", Container, "volumes: ['v:/v']"),
    (
        "volumes.bind.create_host_path",
        Container,
        "volumes: [{type: bind, source: ., target: /b, bind: {create_host_path: false}}]",
    ),
    (
        "volumes.bind.propagation",
        Container,
        "volumes: [{type: bind, source: ., target: /b, bind: {propagation: rshared}}]",
    ),
    (
        "volumes.bind.recursive",
        Container,
        "volumes: [{type: bind, source: ., target: /b, bind: {recursive: disabled}}]",
    ),
    ("volumes.bind.selinux", Container, "volumes: [{type: bind, source: ., target: /b, bind: {selinux: z}}]"),
    ("volumes.consistency", Container, "volumes: [{type: bind, source: ., target: /b, consistency: cached}]"),
    ("volumes.image.subpath", Container, "volumes: [{type: image, source: alpine, target: /i, image: {subpath: etc}}]"),
    ("volumes.read_only", Container, "volumes: [{type: volume, source: v, target: /v, read_only: true}]"),
    ("volumes.source", Container, "volumes: [{type: volume, source: v, target: /v}]"),
    ("volumes.target", Container, "volumes: [{type: volume, source: v, target: /v}]"),
    ("volumes.tmpfs.mode", Container, "volumes: [{type: tmpfs, target: /t, tmpfs: {mode: 0700}}]"),
    ("volumes.tmpfs.size", Container, "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m}}]"),
    ("volumes.type", Container, "volumes: [{type: tmpfs, target: /t}]"),
    ("volumes.volume.labels", Container, "volumes: [{type: volume, target: /v, volume: {labels: {a: b}}}]"),
    ("volumes.volume.nocopy", Container, "volumes: [{type: volume, source: v, target: /v, volume: {nocopy: true}}]"),
    ("volumes.volume.subpath", Container, "volumes: [{type: volume, source: v, target: /v, volume: {subpath: s}}]"),
    ("volumes_from", Container, "volumes_from: [other]"),
    ("working_dir", Container, "working_dir: /x"),
];

/// The rest of the project.
const REST: &str = "  other: {image: busybox, labels: {from: other}, tty: true}
networks: {n: {ipam: {config: [{subnet: 10.1.0.0/16}]}}, o: , default: }
volumes: {v: }
configs: {c: {content: text}}
secrets: {s: {environment: PATH}}
models: {m: {model: x}}
";

/// The container of each other service has a mount.
struct Others;

impl References for Others {
    fn service(&self, _: &str) -> Option<Referred> {
        let source = MountSource::Tmpfs { size: None, mode: None, options: Vec::new() };
        let mount = Mount { target: "/borrowed".to_owned(), read_only: false, source };
        Some(Referred { id: "1".repeat(64).parse().unwrap(), mounts: vec![mount] })
    }

    fn container(&self, _: &str) -> Option<Referred> {
        None
    }
}

/// Returns the container of a service as text, and what is warned of; an error is one of the loader or of the blueprint.
fn made(folder: &std::path::Path, attribute: &str) -> Result<(String, Vec<String>), String> {
    let image_line =
        if attribute.starts_with("image:") || attribute.starts_with("provider:") { "" } else { "image: busybox" };
    let text = format!("name: shop\nservices:\n  db:\n    {image_line}\n    {attribute}\n{REST}");
    fs::write(folder.join("compose.yaml"), text).unwrap();
    let options = LoadOptions {
        working_dir: folder.to_owned(),
        environment: BTreeMap::from([("PATH".to_owned(), "x".to_owned())]),
        profiles: vec!["x".to_owned()],
        ..LoadOptions::default()
    };
    let loaded = compose::load(&options, &Disk).map_err(|faults| format!("{faults:?}"))?;
    let project = loaded.project;
    let labels = ProjectLabels { name: "shop".into(), ..ProjectLabels::default() };
    let service = &project.services["db"];
    let mounted_images = BTreeMap::from([("alpine".to_owned(), image())]);
    let blueprint = Blueprint {
        project: &project,
        labels: &labels,
        service,
        image: &image(),
        mounted_images: &mounted_images,
        one_off: None,
    };
    let wanted = blueprint.container(1, &Others, &BTreeMap::new()).map_err(|error| error.to_string())?;
    let mut config = wanted.config;
    let own = config.id.to_string();
    config.id = "0".repeat(64).parse::<Id>().unwrap();
    config.created = jiff::Timestamp::UNIX_EPOCH;
    config.labels.retain(|name, _| !name.starts_with("com.docker.compose."));
    // What is known by the container's id is another one each time.
    let text = format!("{config:?} {:?}", wanted.volumes).replace(&own, "ID");
    let names = wanted.volumes.iter().map(|volume| volume.name.clone());
    let text = names.fold(text, |text, name| text.replace(&name, "VOLUME"));
    let of_loader = loaded.warnings.into_iter().map(|warning| warning.message);
    Ok((text, unhonoured(&project, service).into_iter().chain(of_loader).collect()))
}

#[test]
fn every_attribute_of_the_schema_is_in_the_table() {
    let named = |path: &str| {
        TABLE.iter().any(|(known, _, _)| match known.strip_suffix(".*") {
            Some(start) => path.strip_prefix(start).is_some_and(|rest| rest.starts_with('.')),
            None => *known == path,
        })
    };
    let missing: Vec<String> = attributes_of_services().into_iter().filter(|path| !named(path)).collect();
    assert!(missing.is_empty(), "say what becomes of {missing:#?}");
    let known: BTreeSet<&str> = TABLE.iter().map(|(path, _, _)| *path).collect();
    assert_eq!(known.len(), TABLE.len(), "an attribute is there twice");
}

#[test]
fn every_attribute_has_a_black_box_test() {
    let listed = include_str!("../../../compose-tests/attributes");
    let listed = listed.lines().filter(|line| !line.starts_with('#'));
    let listed = listed.filter_map(|line| line.split_once(' ')).map(|(path, rest)| (path, rest.split(' ').next()));
    let state = |fate: &Fate| match fate {
        Container | Elsewhere(_) => "works",
        Warning => "warned",
        Error => "refused",
    };
    let known: BTreeMap<&str, Option<&str>> = TABLE.iter().map(|(path, fate, _)| (*path, Some(state(fate)))).collect();
    assert_eq!(listed.collect::<BTreeMap<_, _>>(), known);
}

#[test]
fn every_attribute_does_what_the_table_says() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("e.env"), "A='b'\n").unwrap();
    fs::write(folder.path().join("more.yaml"), "services: {base: {image: busybox, tty: true}}\n").unwrap();
    let (plain, silent) = made(folder.path(), "").unwrap();
    assert!(silent.is_empty());
    let mut wrong = Vec::new();
    for (path, fate, example) in TABLE {
        let seen = match made(folder.path(), example) {
            Err(_) => Error,
            Ok((_, warnings)) if !warnings.is_empty() => Warning,
            Ok((text, _)) if text != plain => Container,
            Ok(_) => Elsewhere(""),
        };
        // An example may have more in it than what is meant.
        let right = matches!((fate, seen), (Elsewhere(_), Elsewhere(_) | Container)) || *fate == seen;
        if !right {
            wrong.push(format!("{path}: {fate:?}, but {seen:?}: {:?}", made(folder.path(), example).err()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
