//! Docker's document about a container (`docker inspect`).

use std::collections::BTreeMap;
use std::path::Path;

use rcompose_engine::container::config::{
    ContainerConfig, FileContent, LogConfig, Mount, MountSource, NamespaceMode, NetworkMode, PublishedPort,
    RestartPolicy,
};
use rcompose_engine::container::log;
use rcompose_engine::container::state::{ContainerState, EndpointState, Status};
use rcompose_engine::container::store::Container;
use rcompose_engine::root::Root;
use rcompose_engine::shim::config::ShimConfig;
use serde_json::{Map, Value, json};

use super::describe::{self, texts};

/// What Docker says of a time that has not come.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Returns everything that is known about a container. `image` is the configuration of its image, as far as that is there.
pub fn document(
    root: &Root,
    container: &Container,
    shim: &ShimConfig,
    apparmor_profile: Option<&str>,
    image: &Value,
) -> Value {
    let Container { config, state } = container;
    let bundle = root.container(&config.id);
    let path = |name: &str| bundle.join(name).display().to_string();
    let mut words = config.entrypoint.iter().chain(&config.command).flatten().cloned();
    let program = words.next().unwrap_or_default();
    json!({
        "Id": config.id.as_str(),
        "Created": config.created.to_string(),
        "Path": program,
        "Args": words.collect::<Vec<_>>(),
        "State": self::state(state),
        "Image": config.image_id,
        "ResolvConfPath": path("resolv.conf"),
        "HostnamePath": path("hostname"),
        "HostsPath": path("hosts"),
        "LogPath": match config.log {
            LogConfig::None => String::new(),
            LogConfig::JsonFile(_) => log::path(&bundle, &config.id).display().to_string(),
        },
        "Name": format!("/{}", config.name),
        "RestartCount": state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": apparmor_profile.unwrap_or_default(),
        "ExecIDs": null,
        "HostConfig": host_config(config),
        "GraphDriver": {
            "Data": {
                "ID": config.id.as_str(),
                "LowerDir": shim.rootfs.layers.iter().map(|layer| layer.display().to_string()).collect::<Vec<_>>().join(":"),
                "UpperDir": shim.rootfs.upper.display().to_string(),
                "WorkDir": shim.rootfs.work.display().to_string(),
            },
            "Name": "overlay2",
        },
        "Mounts": config.mounts.iter().filter_map(|mount| self::mount(root, mount)).collect::<Vec<_>>(),
        "Config": configuration(config, image),
        "NetworkSettings": network_settings(config, state),
    })
}

fn state(state: &ContainerState) -> Value {
    let time = |time: Option<jiff::Timestamp>| time.map_or(NEVER.to_owned(), |time| time.to_string());
    let mut document = json!({
        "Status": state.status.as_str(),
        "Running": state.status.is_running(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid.unwrap_or(0),
        "ExitCode": state.exit_code,
        "Error": state.error.clone().unwrap_or_default(),
        "StartedAt": time(state.started_at),
        "FinishedAt": time(state.finished_at),
    });
    if let (Some(health), Some(object)) = (&state.health, document.as_object_mut()) {
        let results = health.log.iter().map(|result| {
            json!({
                "Start": result.start.to_string(),
                "End": result.end.to_string(),
                "ExitCode": result.exit_code,
                "Output": result.output,
            })
        });
        let health = json!({
            "Status": health.status.as_str(),
            "FailingStreak": health.failing_streak,
            "Log": results.collect::<Vec<_>>(),
        });
        object.insert("Health".to_owned(), health);
    }
    document
}

/// Returns a list, or null where it is empty, as Go has it.
fn list<T: serde::Serialize>(items: &[T]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}

fn host_config(config: &ContainerConfig) -> Value {
    let resources = &config.resources;
    let (log, options) = match &config.log {
        LogConfig::None => ("none", json!({})),
        LogConfig::JsonFile(file) => match &file.asked {
            Some((driver, options)) => (driver.as_str(), json!(options)),
            None => ("json-file", json!({})),
        },
    };
    let (policy, maximum) = match config.restart {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::OnFailure { maximum } => ("on-failure", maximum),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
    };
    let capabilities = |names: &[String]| {
        let name = |name: &String| match name.to_ascii_uppercase() {
            name if name == "ALL" || name.starts_with("CAP_") => name,
            name => format!("CAP_{name}"),
        };
        list(&names.iter().map(name).collect::<Vec<_>>())
    };
    let hosts = config.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect::<Vec<_>>();
    let ulimits =
        config.ulimits.iter().map(|limit| json!({"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard}));
    let devices = config.devices.iter().map(|device| {
        json!({
            "PathOnHost": device.source, "PathInContainer": device.target, "CgroupPermissions": device.permissions,
        })
    });
    let rates = |rates: &[(std::path::PathBuf, u64)]| {
        list(&rates.iter().map(|(path, rate)| json!({"Path": path, "Rate": rate})).collect::<Vec<_>>())
    };
    let weights = resources.blkio.weight_device.iter().map(|(path, weight)| json!({"Path": path, "Weight": weight}));
    let mut document = json!({
        "Binds": list(&config.mounts.iter().filter_map(bind).collect::<Vec<_>>()),
        "ContainerIDFile": "",
        "LogConfig": {"Type": log, "Config": options},
        "NetworkMode": match &config.network {
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Host => "host".to_owned(),
            NetworkMode::Container(id) => format!("container:{id}"),
            NetworkMode::Networks(endpoints) => {
                endpoints.first().map_or_else(|| "none".to_owned(), |endpoint| endpoint.network.clone())
            }
        },
        "PortBindings": wanted_ports(&config.ports),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": maximum},
        "AutoRemove": config.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [0, 0],
        "CapAdd": capabilities(&config.cap_add),
        "CapDrop": capabilities(&config.cap_drop),
        "CgroupnsMode": if config.cgroup == NamespaceMode::Host { "host" } else { "private" },
        "Dns": list(&config.dns),
        "DnsOptions": list(&config.dns_opt),
        "DnsSearch": list(&config.dns_search),
        "ExtraHosts": list(&hosts),
        "GroupAdd": list(&config.group_add),
        "IpcMode": match namespace(&config.ipc) {
            mode if mode.is_empty() => "private".to_owned(),
            mode => mode,
        },
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": config.oom_score_adj.unwrap_or(0),
        "PidMode": namespace(&config.pid),
        "Privileged": config.privileged,
        "PublishAllPorts": false,
        "ReadonlyRootfs": config.read_only,
        "SecurityOpt": list(&config.security_opt),
        "Tmpfs": tmpfs(&config.mounts),
        "UTSMode": namespace(&config.uts),
        "UsernsMode": namespace(&config.userns),
    });
    let limits = json!({
        "ShmSize": config.shm_size.unwrap_or(64 << 20),
        "Sysctls": texts(&config.sysctls),
        "Runtime": "rcompose",
        "Isolation": "",
        "CpuShares": resources.cpu_shares.unwrap_or(0),
        "Memory": resources.memory.unwrap_or(0),
        "NanoCpus": resources.nano_cpus.unwrap_or(0),
        "CgroupParent": config.cgroup_parent.clone().unwrap_or_default(),
        "BlkioWeight": resources.blkio.weight.unwrap_or(0),
        "BlkioWeightDevice": list(&weights.collect::<Vec<_>>()),
        "BlkioDeviceReadBps": rates(&resources.blkio.read_bps),
        "BlkioDeviceWriteBps": rates(&resources.blkio.write_bps),
        "BlkioDeviceReadIOps": rates(&resources.blkio.read_iops),
        "BlkioDeviceWriteIOps": rates(&resources.blkio.write_iops),
        "CpuPeriod": resources.cpu_period.unwrap_or(0),
        "CpuQuota": resources.cpu_quota.unwrap_or(0),
        "CpuRealtimePeriod": resources.cpu_rt_period.unwrap_or(0),
        "CpuRealtimeRuntime": resources.cpu_rt_runtime.unwrap_or(0),
        "CpusetCpus": resources.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.clone().unwrap_or_default(),
        "Devices": list(&devices.collect::<Vec<_>>()),
        "DeviceCgroupRules": list(&config.device_cgroup_rules),
        "DeviceRequests": null,
        "MemoryReservation": resources.memory_reservation.unwrap_or(0),
        "MemorySwap": resources.memory_swap.unwrap_or(0),
        "MemorySwappiness": resources.memory_swappiness,
        "OomKillDisable": config.oom_kill_disable,
        "PidsLimit": resources.pids,
        "Ulimits": list(&ulimits.collect::<Vec<_>>()),
        "Init": config.init,
    });
    if let (Some(document), Value::Object(limits)) = (document.as_object_mut(), limits) {
        document.extend(limits);
        if !config.annotations.is_empty() {
            document.insert("Annotations".to_owned(), texts(&config.annotations));
        }
    }
    document
}

fn namespace(mode: &NamespaceMode) -> String {
    match mode {
        NamespaceMode::Private => String::new(),
        NamespaceMode::Shareable => "shareable".to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(id) => format!("container:{id}"),
    }
}

fn bind(mount: &Mount) -> Option<String> {
    let source = match &mount.source {
        MountSource::Volume { name, anonymous: false, .. } => name.clone(),
        MountSource::Bind { source, .. } => source.display().to_string(),
        _ => return None,
    };
    Some(format!("{source}:{}:{}", mount.target, if mount.read_only { "ro" } else { "rw" }))
}

fn tmpfs(mounts: &[Mount]) -> Value {
    let mounts = mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Tmpfs { size, mode, options } => {
            let own = [size.map(|size| format!("size={size}")), mode.map(|mode| format!("mode={mode:o}"))];
            let options = own.into_iter().flatten().chain(options.iter().cloned()).collect::<Vec<_>>();
            Some((mount.target.clone(), options.join(",").into()))
        }
        _ => None,
    });
    let mounts = mounts.collect::<Map<_, _>>();
    if mounts.is_empty() { Value::Null } else { Value::Object(mounts) }
}

fn mount(root: &Root, mount: &Mount) -> Option<Value> {
    let writable = !mount.read_only;
    let mode = if writable { "rw" } else { "ro" };
    let source = |path: &Path| path.display().to_string();
    Some(match &mount.source {
        MountSource::Volume { name, .. } => json!({
            "Type": "volume", "Name": name, "Source": source(&root.volume(name).join("_data")),
            "Destination": mount.target, "Driver": "local", "Mode": mode, "RW": writable, "Propagation": "",
        }),
        MountSource::Bind { source: path, propagation, .. } => json!({
            "Type": "bind", "Source": source(path), "Destination": mount.target, "Mode": mode, "RW": writable,
            "Propagation": propagation.clone().unwrap_or_else(|| "rprivate".to_owned()),
        }),
        MountSource::Image { image_id, .. } => json!({
            "Type": "image", "Name": image_id, "Source": "", "Destination": mount.target, "Mode": mode, "RW": writable,
            "Propagation": "",
        }),
        MountSource::File { content, .. } => json!({
            "Type": "bind",
            "Source": match content {
                FileContent::Host(path) => path.display().to_string(),
                // It is nowhere but in memory.
                FileContent::Provided { .. } => String::new(),
            },
            "Destination": mount.target, "Mode": mode, "RW": writable, "Propagation": "rprivate",
        }),
        // These are in `HostConfig.Tmpfs`, as Docker has it.
        MountSource::Tmpfs { .. } => return None,
    })
}

fn configuration(config: &ContainerConfig, image: &Value) -> Value {
    let described = json!(describe::configuration(config, image));
    let field = |name: &str| described.get(name).cloned().unwrap_or(Value::Null);
    let text = |name: &str| field(name).as_str().unwrap_or_default().to_owned();
    let mut document = json!({
        "Hostname": config.hostname.clone().unwrap_or_else(|| config.id.short().to_owned()),
        "Domainname": config.domainname.clone().unwrap_or_default(),
        "User": text("User"),
        "AttachStdin": config.stdin_once,
        "AttachStdout": true,
        "AttachStderr": true,
        "ExposedPorts": field("ExposedPorts"),
        "Tty": config.tty,
        "OpenStdin": config.stdin_open,
        "StdinOnce": config.stdin_once,
        "Env": field("Env"),
        "Cmd": field("Cmd"),
        "Healthcheck": field("Healthcheck"),
        "Image": config.image,
        "Volumes": field("Volumes"),
        "WorkingDir": text("WorkingDir"),
        "Entrypoint": field("Entrypoint"),
        "OnBuild": field("OnBuild"),
        "Labels": field("Labels"),
        "StopSignal": text("StopSignal"),
        "StopTimeout": config.stop_grace_period.map(|period| period.as_secs()),
    });
    // What Go leaves out where it is empty.
    if let Some(object) = document.as_object_mut() {
        for name in ["Healthcheck", "ExposedPorts", "StopSignal", "StopTimeout"] {
            if object.get(name).is_some_and(|value| value.is_null() || value == "") {
                object.remove(name);
            }
        }
    }
    document
}

fn wanted_ports(ports: &[PublishedPort]) -> Value {
    let mut bindings = BTreeMap::<String, Vec<Value>>::new();
    for port in ports {
        let host = match port.host_port {
            None => String::new(),
            Some((low, high)) if low == high => low.to_string(),
            Some((low, high)) => format!("{low}-{high}"),
        };
        let address = port.host_ip.map(|address| address.to_string()).unwrap_or_default();
        let key = format!("{}/{}", port.container_port, port.protocol.as_str());
        bindings.entry(key).or_default().push(json!({"HostIp": address, "HostPort": host}));
    }
    json!(bindings)
}

fn network_settings(config: &ContainerConfig, state: &ContainerState) -> Value {
    let mut ports = BTreeMap::<String, Option<Vec<Value>>>::new();
    if state.status.is_running() {
        for port in &config.expose {
            ports.insert(port.clone(), None);
        }
        for port in &state.ports {
            let key = format!("{}/{}", port.container_port, port.protocol.as_str());
            let binding = json!({"HostIp": port.host_ip.to_string(), "HostPort": port.host_port.to_string()});
            ports.entry(key).or_default().get_or_insert_default().push(binding);
        }
    }
    let endpoints = match &config.network {
        NetworkMode::Networks(endpoints) => endpoints.as_slice(),
        _ => &[],
    };
    let networks = endpoints.iter().map(|endpoint| {
        let there = state.endpoints.iter().find(|there| there.network == endpoint.network);
        let mut aliases = vec![config.name.clone()];
        aliases.extend(endpoint.aliases.iter().cloned());
        (endpoint.network.clone(), network(there, &aliases, endpoint.gw_priority, config))
    });
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": state.pid.map(|pid| format!("/proc/{pid}/ns/net")).unwrap_or_default(),
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": networks.collect::<Map<_, _>>(),
    })
}

/// Returns a hardware address as people write it.
pub fn mac_address(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn network(there: Option<&EndpointState>, aliases: &[String], priority: i32, config: &ContainerConfig) -> Value {
    let mac = there.map(|there| mac_address(there.mac_address));
    let address = |address: Option<String>| address.unwrap_or_default();
    let ipv4 = there.and_then(|there| there.ipv4);
    let ipv6 = there.and_then(|there| there.ipv6);
    let mut names = aliases.to_vec();
    names.push(config.id.short().to_owned());
    json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": aliases,
        "MacAddress": address(mac),
        "DriverOpts": null,
        "GwPriority": priority,
        "NetworkID": there.map(|there| there.network_id.to_string()).unwrap_or_default(),
        "EndpointID": "",
        "Gateway": address(there.and_then(|there| there.ipv4_gateway).map(|gateway| gateway.to_string())),
        "IPAddress": address(ipv4.map(|(address, _)| address.to_string())),
        "IPPrefixLen": ipv4.map_or(0, |(_, length)| length),
        "IPv6Gateway": address(there.and_then(|there| there.ipv6_gateway).map(|gateway| gateway.to_string())),
        "GlobalIPv6Address": address(ipv6.map(|(address, _)| address.to_string())),
        "GlobalIPv6PrefixLen": ipv6.map_or(0, |(_, length)| length),
        "DNSNames": names,
    })
}
