//! A container's network while it runs: its namespace, its place on networks, and the files that tell it of them.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::project::{Project, caused, other};
use crate::container::config::{ContainerConfig, Endpoint, NetworkMode};
use crate::container::state::{BoundPort, ContainerState, EndpointState};
use crate::container::store;
use crate::error::chain;
use crate::id::Id;
use crate::network::{Joined, Member, NetworkError, PortError, Sandbox, files, is_port, port_name};
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

    /// Connects a running container to one network more than `connected`.
    pub(super) async fn connect(
        &mut self,
        project: &Project,
        config: &ContainerConfig,
        connected: &[Endpoint],
        endpoint: &Endpoint,
    ) -> Result<(), Failure> {
        let joined = project.networks.connect(&member(project, config, true), connected, endpoint, &config.ports).await;
        self.take(project, config, joined.map_err(|error| failure("connect", config, &error))?).await
    }

    /// Disconnects a running container from a network; `left` are the others.
    pub(super) async fn disconnect(
        &mut self,
        project: &Project,
        config: &ContainerConfig,
        left: &[Endpoint],
        name: &str,
    ) -> Result<(), Failure> {
        let joined = project.networks.disconnect(&member(project, config, true), left, name, &config.ports).await;
        self.take(project, config, joined.map_err(|error| failure("disconnect", config, &error))?).await
    }

    /// Leads to a running container what leads to `from`, which runs as well: published ports and names.
    pub(super) async fn take_over(
        &mut self,
        project: &Project,
        config: &ContainerConfig,
        from: &ContainerConfig,
    ) -> Result<(), Failure> {
        let (taker, giver) = (member(project, config, true), member(project, from, false));
        let joined = project.networks.take_over(&taker, &giver, &config.ports).await;
        let joined = joined.map_err(|error| failure("lead everything to", config, &error))?;
        self.endpoints = joined.endpoints;
        self.ports = joined.ports;
        self.keep.extend(joined.keep);
        Ok(())
    }

    /// Notes what is left to a running container after another has taken over from it.
    pub(super) fn give_way(&mut self, project: &Project, config: &ContainerConfig) {
        self.ports = project.networks.ports(&config.id);
        let left: Vec<String> = self.ports.iter().map(port_name).collect();
        self.keep.retain(|(name, _)| !is_port(name) || left.contains(name));
    }

    /// Notes what a running container has now, and tells it its own addresses.
    async fn take(&mut self, project: &Project, config: &ContainerConfig, joined: Joined) -> Result<(), Failure> {
        self.endpoints = joined.endpoints;
        self.ports = joined.ports;
        self.keep.extend(joined.keep);
        write_hosts(project, config, &self.endpoints).await
    }
}

fn member(project: &Project, config: &ContainerConfig, visible: bool) -> Member {
    Member { id: config.id.clone(), name: config.name.clone(), project: project.name.clone(), visible }
}

/// Makes a container's network; `None` where it has the host's. Nothing is left of it when it fails.
///
/// With `beside` it is to take another container's place later ([`Attached::take_over`]).
pub(super) async fn attach(
    project: &Project,
    config: &ContainerConfig,
    beside: bool,
) -> Result<Option<Attached>, Failure> {
    let attached = match &config.network {
        NetworkMode::Host => None,
        NetworkMode::Container(id) => Some(share(project, config, id)?),
        NetworkMode::None => {
            let sandbox = sandbox(project, config).await?;
            let keep = sandbox.descriptors().map_err(|error| uncopied(config, &error))?;
            let keep = keep.into_iter().map(|(name, fd)| (name.to_owned(), fd)).collect();
            Some(Attached {
                netns: copy(config, sandbox.netns())?,
                own: true,
                endpoints: Vec::new(),
                ports: Vec::new(),
                keep,
            })
        }
        NetworkMode::Networks(endpoints) => {
            let sandbox = sandbox(project, config).await?;
            let netns = copy(config, sandbox.netns())?;
            let member = member(project, config, !beside);
            let ports = if beside { &[][..] } else { &config.ports };
            let joined = project.networks.join(&sandbox, &member, endpoints, ports, &config.dns).await;
            let joined = joined.map_err(|error| failure("start", config, &error))?;
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
    let netns = copy(config, netns)?;
    let own = !matches!(config.network, NetworkMode::Container(_));
    if own && keep.iter().all(|(name, _)| name != "netns") {
        keep.push(("netns".to_owned(), copy(config, &netns)?));
    }
    if matches!(config.network, NetworkMode::Networks(_)) {
        let mut kept = Vec::new();
        for (name, fd) in &keep {
            kept.push((name.clone(), copy(config, fd)?));
        }
        let member = member(project, config, state.beside.is_none());
        let adopted = project.networks.adopt(&member, &state.endpoints, &state.ports, &config.dns, kept).await;
        adopted.map_err(|error| failure("take over", config, &error))?;
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

/// Makes the namespace of a container, or takes up that of its last run if another container shares it still.
async fn sandbox(project: &Project, config: &ContainerConfig) -> Result<Sandbox, Failure> {
    match shared(project, config)? {
        Some(netns) => project.networks.reuse(netns).await.map_err(caused),
        None => project.networks.sandbox().await.map_err(caused),
    }
}

/// Returns the namespace of a container that others which run are in.
fn shared(project: &Project, config: &ContainerConfig) -> Result<Option<OwnedFd>, Failure> {
    let sharers = project.root.container_sharers(&config.id);
    let entries = match fs::read_dir(&sharers) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(other(format!("cannot read {}: {error}", sharers.display()))),
    };
    let mut found = None;
    for entry in entries {
        let entry = entry.map_err(|error| other(format!("cannot read {}: {error}", sharers.display())))?;
        let id = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
        let sharer = id.map(|id| store::load(&project.root, &id)).transpose()?.flatten();
        let running = sharer.filter(|sharer| sharer.state.status.is_running());
        match running.and_then(|sharer| sharer.state.pid) {
            Some(pid) => {
                let shared = fs::File::open(format!("/proc/{pid}/ns/net"));
                let unusable = |error| other(format!("cannot open the network namespace of process {pid}: {error}"));
                found = Some(shared.map_err(unusable)?.into());
            }
            None => fs::remove_file(entry.path())
                .map_err(|error| other(format!("cannot remove {}: {error}", entry.path().display())))?,
        }
    }
    Ok(found)
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
    // Its next run finds us by this, and takes up the namespace that we are in.
    let sharers = project.root.container_sharers(id);
    let noted = fs::create_dir_all(&sharers).and_then(|()| fs::write(sharers.join(config.id.as_str()), ""));
    noted.map_err(|error| other(format!("cannot write {}: {error}", sharers.display())))?;
    Ok(Attached { netns: netns.into(), own: false, endpoints: Vec::new(), ports: Vec::new(), keep: Vec::new() })
}

fn copy(config: &ContainerConfig, fd: &OwnedFd) -> Result<OwnedFd, Failure> {
    fd.try_clone().map_err(|error| uncopied(config, &error))
}

fn uncopied(config: &ContainerConfig, error: &io::Error) -> Failure {
    other(format!("cannot keep the network namespace of {} open: {error}", config.name))
}

/// Fills in `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, which are bound into the container by then perhaps:
/// they are written in place.
async fn write_files(project: &Project, config: &ContainerConfig, attached: Option<&Attached>) -> Result<(), Failure> {
    let bundle = project.root.container(&config.id);
    if let NetworkMode::Container(id) = &config.network {
        let holder = project.root.container(id);
        for name in ["hostname", "hosts", "resolv.conf"] {
            let content = fs::read(holder.join(name));
            let content =
                content.map_err(|error| other(format!("cannot read {}: {error}", holder.join(name).display())))?;
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
    write(&bundle.join("hostname"), format!("{}\n", hostname(config)).as_bytes())?;
    write_hosts(project, config, endpoints).await?;
    write(&bundle.join("resolv.conf"), resolv.as_bytes())
}

async fn write_hosts(project: &Project, config: &ContainerConfig, endpoints: &[EndpointState]) -> Result<(), Failure> {
    let gateway: Option<IpAddr> = project.networks.host_gateway(endpoints).await.map_err(caused)?;
    let hosts = if config.network == NetworkMode::Host {
        host_hosts(&config.extra_hosts)?
    } else {
        let (hostname, domainname) = (hostname(config), config.domainname.as_deref());
        files::hosts(&hostname, domainname, endpoints, &config.extra_hosts, gateway).map_err(caused)?
    };
    write(&project.root.container(&config.id).join("hosts"), hosts.as_bytes())
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

/// Writes a file that is bound into the container, and so has to stay the same one.
///
/// It is shortened last and only where it was longer: what is written to a file that was emptied before, ext4 sends to the
/// disk at once.
fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let put = || {
        let mut file = fs::File::options().write(true).create(true).truncate(false).open(path)?;
        file.write_all(content)?;
        let length = content.len() as u64;
        if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
    };
    put().map_err(|error| other(format!("cannot write {}: {error}", path.display())))
}

/// Says what is wrong with a container's network, and what to do about it.
fn failure(verb: &str, config: &ContainerConfig, error: &NetworkError) -> Failure {
    let kind = match error {
        NetworkError::Port(PortError::InUse { .. } | PortError::RangeInUse { .. }) => FailureKind::PortInUse,
        _ => FailureKind::Other,
    };
    let message = format!("cannot {verb} container {}: {}", config.name, chain(error));
    Failure { kind, message, hint: None }
}
