//! A container's network while it runs: its namespace, its place on networks, and the files that tell it of them.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::project::{Project, caused, other};
use crate::container::config::{ContainerConfig, NetworkMode};
use crate::container::state::{BoundPort, ContainerState, EndpointState};
use crate::container::store;
use crate::error::chain;
use crate::id::Id;
use crate::network::{Member, NetworkError, PortError, files};
use crate::protocol::{EventKind, Failure, FailureKind};

/// The network of a running container.
#[derive(Debug)]
pub(super) struct Attached {
    netns: OwnedFd,
    /// Whether the namespace and what is in it are this container's own.
    own: bool,
    endpoints: Vec<EndpointState>,
    ports: Vec<BoundPort>,
    /// What the shim keeps, by name.
    keep: Vec<(String, OwnedFd)>,
}

impl Attached {
    /// Returns what became of the endpoints and ports that were asked for.
    pub(super) fn state(&self) -> (Vec<EndpointState>, Vec<BoundPort>) {
        (self.endpoints.clone(), self.ports.clone())
    }

    pub(super) fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// Returns what the shim is to keep.
    pub(super) fn kept(&self) -> (Vec<String>, Vec<BorrowedFd<'_>>) {
        self.keep.iter().map(|(name, fd)| (name.clone(), fd.as_fd())).unzip()
    }
}

fn member(project: &Project, config: &ContainerConfig) -> Member {
    Member { id: config.id.clone(), name: config.name.clone(), project: project.name.clone() }
}

/// Makes a container's network; `None` where it has the host's. Nothing is left of it when it fails.
pub(super) async fn attach(project: &Project, config: &ContainerConfig) -> Result<Option<Attached>, Failure> {
    let attached = match &config.network {
        NetworkMode::Host => None,
        NetworkMode::Container(id) => Some(share(project, config, id)?),
        NetworkMode::None => {
            let sandbox = project.networks.sandbox().await.map_err(caused)?;
            let keep = owned(sandbox.descriptors().map_err(caused)?);
            Some(Attached {
                netns: sandbox.netns().try_clone().map_err(caused)?,
                own: true,
                endpoints: Vec::new(),
                ports: Vec::new(),
                keep,
            })
        }
        NetworkMode::Networks(endpoints) => {
            let sandbox = project.networks.sandbox().await.map_err(caused)?;
            let netns = sandbox.netns().try_clone().map_err(caused)?;
            let member = member(project, config);
            let joined = project.networks.join(&sandbox, &member, endpoints, &config.ports, &config.dns).await;
            let joined = joined.map_err(|error| failure(config, &error))?;
            for endpoint in &joined.endpoints {
                let network = (&endpoint.network_id, endpoint.network.as_str());
                project.events.network(network.0, network.1, EventKind::NetworkConnect, Some(&config.id));
            }
            Some(Attached { netns, own: true, endpoints: joined.endpoints, ports: joined.ports, keep: joined.keep })
        }
    };
    if let Err(failure) = write_files(project, config, attached.as_ref()).await {
        if let Some(attached) = attached {
            detach(project, config, attached).await;
        }
        return Err(failure);
    }
    Ok(attached)
}

/// Takes back the network of a container that runs, from what its shim kept (nothing, if the shim died as well).
pub(super) async fn adopt(
    project: &Project,
    config: &ContainerConfig,
    state: &ContainerState,
    netns: Option<&OwnedFd>,
    mut keep: Vec<(String, OwnedFd)>,
) -> Result<Option<Attached>, Failure> {
    if config.network == NetworkMode::Host {
        return Ok(None);
    }
    let Some(netns) = netns else {
        return Err(other(format!("the network namespace of container {} is lost", config.name)));
    };
    let netns = netns.try_clone().map_err(caused)?;
    let own = !matches!(config.network, NetworkMode::Container(_));
    if own && keep.iter().all(|(name, _)| name != "netns") {
        keep.push(("netns".to_owned(), netns.try_clone().map_err(caused)?));
    }
    if matches!(config.network, NetworkMode::Networks(_)) {
        let mut kept = Vec::new();
        for (name, fd) in &keep {
            kept.push((name.clone(), fd.try_clone().map_err(caused)?));
        }
        let member = member(project, config);
        let adopted = project.networks.adopt(&member, &state.endpoints, &state.ports, &config.dns, kept).await;
        adopted.map_err(|error| failure(config, &error))?;
    }
    Ok(Some(Attached { netns, own, endpoints: state.endpoints.clone(), ports: state.ports.clone(), keep }))
}

/// Takes a container that has ended from its networks.
pub(super) async fn detach(project: &Project, config: &ContainerConfig, attached: Attached) {
    if attached.own {
        leave(project, config, &attached.endpoints).await;
    }
}

/// Likewise, where nothing but the container's last state is known.
pub(super) async fn leave(project: &Project, config: &ContainerConfig, endpoints: &[EndpointState]) {
    if !matches!(config.network, NetworkMode::Networks(_)) {
        return;
    }
    if let Err(error) = project.networks.leave(&config.id).await {
        tracing::warn!(container = %config.name, error = &error as &dyn std::error::Error, "cannot leave its networks");
    }
    for endpoint in endpoints {
        let network = (&endpoint.network_id, endpoint.network.as_str());
        project.events.network(network.0, network.1, EventKind::NetworkDisconnect, Some(&config.id));
    }
}

/// Joins the namespace of another container, which must run.
fn share(project: &Project, config: &ContainerConfig, id: &Id) -> Result<Attached, Failure> {
    let unusable = |why: &str| Failure {
        kind: FailureKind::Conflict,
        message: format!("container {} cannot share the network of container {}: {why}", config.name, id.short()),
        hint: Some("start the other container first".to_owned()),
    };
    let Some(holder) = store::load(&project.root, id)? else { return Err(unusable("there is none")) };
    let Some(pid) = holder.state.pid.filter(|_| holder.state.status.is_running()) else {
        return Err(unusable("it is not running"));
    };
    let netns = fs::File::open(format!("/proc/{pid}/ns/net")).map_err(|error| unusable(&error.to_string()))?;
    Ok(Attached { netns: netns.into(), own: false, endpoints: Vec::new(), ports: Vec::new(), keep: Vec::new() })
}

fn owned(descriptors: Vec<(&'static str, OwnedFd)>) -> Vec<(String, OwnedFd)> {
    descriptors.into_iter().map(|(name, fd)| (name.to_owned(), fd)).collect()
}

/// Fills in `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, which are bound into the container by then perhaps:
/// they are written in place.
async fn write_files(project: &Project, config: &ContainerConfig, attached: Option<&Attached>) -> Result<(), Failure> {
    let bundle = project.root.container(&config.id);
    if let NetworkMode::Container(id) = &config.network {
        let holder = project.root.container(id);
        for name in ["hostname", "hosts", "resolv.conf"] {
            let content = fs::read(holder.join(name)).map_err(caused)?;
            write(&bundle.join(name), &content)?;
        }
        return Ok(());
    }
    let host = files::ResolvConf::of_host();
    let (search, options) = (&config.dns_search, &config.dns_opt);
    let endpoints = attached.map(|attached| attached.endpoints.as_slice()).unwrap_or_default();
    let resolv = match &config.network {
        NetworkMode::Networks(_) => files::resolv_conf(&host, search, options),
        _ => files::resolv_conf_of_host(&host, &config.dns, search, options),
    };
    let hostname = hostname(config);
    let gateway: Option<IpAddr> = project.networks.host_gateway(endpoints).await.map_err(caused)?;
    let hosts = if config.network == NetworkMode::Host {
        host_hosts(&config.extra_hosts)?
    } else {
        files::hosts(&hostname, config.domainname.as_deref(), endpoints, &config.extra_hosts, gateway)
            .map_err(caused)?
    };
    write(&bundle.join("hostname"), format!("{hostname}\n").as_bytes())?;
    write(&bundle.join("hosts"), hosts.as_bytes())?;
    write(&bundle.join("resolv.conf"), resolv.as_bytes())
}

/// Returns what a container calls itself.
fn hostname(config: &ContainerConfig) -> String {
    match (&config.hostname, &config.network) {
        (Some(name), _) => name.clone(),
        (None, NetworkMode::Host) => {
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        (None, _) => config.id.short().to_owned(),
    }
}

/// A container on the host's network sees the host's names, and its own extra ones.
fn host_hosts(extra: &[(String, String)]) -> Result<String, Failure> {
    let mut hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for (name, address) in extra {
        let address = if address == "host-gateway" { "127.0.0.1" } else { address };
        let parsed: IpAddr = address
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| other(format!("`{address}` of extra host {name} is not an address")))?;
        let _ = writeln!(hosts, "{parsed}\t{name}");
    }
    Ok(hosts)
}

fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    fs::write(path, content).map_err(|error| other(format!("cannot write {}: {error}", path.display())))
}

/// Says what is wrong with a container's network, and what to do about it.
fn failure(config: &ContainerConfig, error: &NetworkError) -> Failure {
    let kind = match error {
        NetworkError::Port(PortError::InUse { .. } | PortError::RangeInUse { .. }) => FailureKind::PortInUse,
        _ => FailureKind::Other,
    };
    let message = format!("cannot start container {}: {}", config.name, chain(error));
    Failure { kind, message, hint: None }
}
