//! One run of a container: from the shim's creation, or its adoption, to the end of PID 1.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::attach::{self, Attached};
use super::create::{self, start_failure};
use super::project::{Project, caused, memory_failure, other};
use super::shims::Connection;
use crate::container::cgroup;
use crate::container::config::{ContainerConfig, Endpoint, NetworkMode};
use crate::container::signal;
use crate::container::state::{BoundPort, ContainerState, EndpointState, ProcessStart};
use crate::container::{memory, store};
use crate::error::chain;
use crate::protocol::Failure;
use crate::root::{make_directory, make_directory_of_many};
use crate::shim;
use crate::shim::protocol::{ExecNews, Exit, FromShim, Spawn, Task, ToShim};
use crate::sys::{pidfd, readiness};
use crate::volume;

/// What Docker says of a process whose end nobody saw.
const UNKNOWN: i32 = 137;

/// A container whose PID 1 runs.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) pid: i32,
    /// `None` if it has ended already.
    pub(super) process: Option<ProcessStart>,
    /// When this run began, as far as this supervisor knows.
    pub(super) started: Instant,
    pub(super) stop_signal: i32,
    pub(super) endpoints: Vec<EndpointState>,
    pub(super) ports: Vec<BoundPort>,
    spawn: Spawn,
    project: std::sync::Arc<Project>,
    shim: Connection,
    pidfd: AsyncFd<OwnedFd>,
    /// The container's network namespace, and with a terminal its master: what a new shim needs besides the pidfd.
    handed: Vec<OwnedFd>,
    network: Option<Attached>,
    /// Whether PID 1 is no child of a shim any more, so that its status comes to this process.
    orphaned: bool,
    /// Whether no shim could take it over: nobody writes its log, and its end alone is seen.
    unattended: bool,
}

/// What a shim tells of a container that runs.
pub(super) enum News {
    Ended(Exit),
    Exec(ExecNews),
}

/// Who is there when a container starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Audience {
    None,
    /// Somebody who attaches at once, with a terminal of this size.
    Attends {
        size: Option<(u16, u16)>,
    },
}

/// What a shim says first.
struct Started {
    pid: i32,
    fds: Vec<OwnedFd>,
}

/// A PID 1 whose end will be noticed.
struct Watched {
    pid: i32,
    process: Option<ProcessStart>,
    pidfd: AsyncFd<OwnedFd>,
    handed: Vec<OwnedFd>,
}

impl Run {
    /// Starts a container that has been created; with `beside`, without what is to lead to it ([`Self::take_over`]).
    pub(super) async fn start(
        project: &std::sync::Arc<Project>,
        config: &ContainerConfig,
        beside: bool,
        audience: Audience,
    ) -> Result<Self, Failure> {
        let bundle = project.root.container(&config.id);
        let run = project.root.container_run(&config.id);
        memory::prepare(&project.root, config).map_err(|error| memory_failure(config, &error))?;
        attach_volumes(project, config).await?;
        let made = make_directory_of_many(&project.root.containers_run()).and_then(|()| make_directory(&run));
        made.map_err(|error| other(format!("cannot make {}: {error}", run.display())))?;
        // What the run before this one left: its end must not be taken for the end of this one.
        match std::fs::remove_file(bundle.join("exit.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(other(format!("cannot remove the last exit status of {}: {error}", config.name)));
            }
            _ => {}
        }
        make_ready(project, config).await?;
        let task = match audience {
            Audience::None => Task::Create,
            Audience::Attends { size } => Task::CreateAttended { size },
        };
        let spawn = Spawn { id: config.id.clone(), bundle, run, task };
        // The shim makes namespaces and mounts while the network is made.
        let mut shim = spawn_shim(project, &spawn, &[])?;
        let network = match attach::attach(project, config, beside).await {
            Ok(network) => network,
            Err(failure) => {
                // Its end of the socket closes, at which it takes everything back.
                drop(shim);
                clean_up(project, config, None).await;
                return Err(failure);
            }
        };
        match begin(&mut shim, config, network.as_ref()).await {
            Ok(started) => match watch(config, started) {
                Ok(watched) => Ok(Self::new(project, config, spawn, shim, watched, network)),
                Err((pid, failure)) => {
                    abandon(shim, pid).await;
                    clean_up(project, config, network).await;
                    Err(failure)
                }
            },
            Err((pid, failure)) => {
                if let Some(pid) = pid {
                    abandon(shim, pid).await;
                } else {
                    drop(shim);
                    // A shim that dies after it has started PID 1 takes nothing back.
                    kill_all(project, config).await;
                }
                clean_up(project, config, network).await;
                Err(failure)
            }
        }
    }

    /// Takes over a container that was started under an earlier supervisor.
    ///
    /// `Ok(None)`: it has ended meanwhile and nobody watches it any more.
    pub(super) async fn adopt(
        project: &std::sync::Arc<Project>,
        config: &ContainerConfig,
        state: &ContainerState,
    ) -> Result<Option<Self>, Failure> {
        let bundle = project.root.container(&config.id);
        let run = project.root.container_run(&config.id);
        let mut spawn = Spawn { id: config.id.clone(), bundle, run, task: Task::Create };
        let from_shim = match Connection::connect(&spawn.run) {
            Ok(mut shim) => match adopt(&mut shim).await {
                Ok((started, kept)) => Some((shim, started, kept)),
                // It ended while it was asked, having written what there is to know.
                Err(_) => None,
            },
            Err(_) => None,
        };
        let (shim, started, kept, orphaned) = if let Some((shim, started, kept)) = from_shim {
            (shim, started, kept, false)
        } else {
            // The shim is gone as well. A process that lives is found by its number and start time.
            let (Some(pid), Some(since)) = (state.pid, &state.pid_started) else { return Ok(None) };
            let Ok(process) = pidfd::open(nix::unistd::Pid::from_raw(pid)) else { return Ok(None) };
            if process_start(pid)?.as_ref() != Some(since) {
                return Ok(None);
            }
            let netns = std::fs::File::open(format!("/proc/{pid}/ns/net"))
                .map_err(|error| other(format!("cannot open the network namespace of {}: {error}", config.name)))?;
            let fds = vec![process, OwnedFd::from(netns)];
            spawn.task = Task::Adopt { pid };
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let shim = spawn_shim(project, &spawn, &borrowed)?;
            (shim, Started { pid, fds }, Vec::new(), true)
        };
        let network = attach::adopt(project, config, state, started.fds.get(1), kept).await?;
        let watched = watch(config, started).map_err(|(_, failure)| failure)?;
        let mut run = Self::new(project, config, spawn, shim, watched, network);
        run.orphaned = orphaned;
        if orphaned {
            run.keep().await?;
        }
        Ok(Some(run))
    }

    /// Ends what runs of a container that nobody noted as running: a supervisor was killed, or had nobody left to work for,
    /// while it started the container.
    pub(super) async fn end_unnoted(project: &Project, config: &ContainerConfig, state: &ContainerState) {
        let Ok(mut shim) = Connection::connect(&project.root.container_run(&config.id)) else { return };
        // One that ends meanwhile has nothing left to be taken back but what is taken back here.
        if let Ok((started, _)) = adopt(&mut shim).await {
            tracing::warn!(container = %config.name, "ended, since its start was never noted");
            abandon(shim, started.pid).await;
        }
        forget(project, config, state).await;
    }

    fn new(
        project: &std::sync::Arc<Project>,
        config: &ContainerConfig,
        spawn: Spawn,
        shim: Connection,
        Watched { pid, process, pidfd, handed }: Watched,
        network: Option<Attached>,
    ) -> Self {
        // It was looked at when the container was made.
        let stop_signal = config.stop_signal.as_deref().and_then(signal::parse);
        let (endpoints, ports) = network.as_ref().map(Attached::state).unwrap_or_default();
        Self {
            pid,
            process,
            started: Instant::now(),
            stop_signal: stop_signal.unwrap_or(nix::sys::signal::Signal::SIGTERM as i32),
            endpoints,
            ports,
            spawn,
            project: std::sync::Arc::clone(project),
            shim,
            pidfd,
            handed,
            network,
            orphaned: false,
            unattended: false,
        }
    }

    /// Connects the container to one network more than `connected`.
    pub(super) async fn connect(
        &mut self,
        config: &ContainerConfig,
        connected: &[Endpoint],
        endpoint: &Endpoint,
    ) -> Result<(), Failure> {
        if let Some(network) = &mut self.network {
            network.connect(&self.project, config, connected, endpoint).await?;
        }
        self.moved().await
    }

    /// Disconnects the container from a network; `left` are the others.
    pub(super) async fn disconnect(
        &mut self,
        config: &ContainerConfig,
        left: &[Endpoint],
        name: &str,
    ) -> Result<(), Failure> {
        if let Some(network) = &mut self.network {
            network.disconnect(&self.project, config, left, name).await?;
        }
        self.moved().await
    }

    /// Leads to the container what leads to `from`, which runs as well.
    pub(super) async fn take_over(&mut self, config: &ContainerConfig, from: &ContainerConfig) -> Result<(), Failure> {
        if let Some(network) = &mut self.network {
            network.take_over(&self.project, config, from).await?;
        }
        self.moved().await
    }

    /// Notes what is left to the container after another has taken over from it.
    pub(super) fn give_way(&mut self, config: &ContainerConfig) {
        if let Some(network) = &mut self.network {
            network.give_way(&self.project, config);
            (self.endpoints, self.ports) = network.state();
        }
    }

    async fn moved(&mut self) -> Result<(), Failure> {
        (self.endpoints, self.ports) = self.network.as_ref().map(Attached::state).unwrap_or_default();
        self.keep().await
    }

    /// Sends PID 1 a signal.
    pub(super) fn signal(&self, signal: i32) -> nix::Result<()> {
        pidfd::send_signal(self.pidfd.get_ref().as_fd(), signal)
    }

    /// Waits for the next that there is to tell, the last of which is the end of PID 1. Cancel-safe.
    pub(super) async fn news(&mut self) -> News {
        loop {
            if self.unattended {
                drop(self.pidfd.readable().await);
                let exit = Exit { code: UNKNOWN, oom_killed: false, finished_at: jiff::Timestamp::now() };
                return News::Ended(self.known(exit));
            }
            let message = if self.orphaned {
                tokio::select! {
                    message = self.shim.receive() => message,
                    ready = self.pidfd.readable() => {
                        drop(ready);
                        // This process is its parent, or nobody is; either way the shim only learns of the end by
                        // the status being collected.
                        self.orphaned = false;
                        self.project.reap();
                        continue;
                    }
                }
            } else {
                self.shim.receive().await
            };
            match message {
                Ok(Some((FromShim::Exited(exit), _))) => {
                    // A shim that is gone by now needs no leave to go.
                    let _ = self.shim.send(&ToShim::Release, &[]).await;
                    return News::Ended(self.known(exit));
                }
                Ok(Some((FromShim::Exec(exec), _))) => return News::Exec(exec),
                Ok(Some((FromShim::Failed(failure), _))) => self.leave_unattended(&failure),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    if let Some(exit) = self.shim_died().await {
                        return News::Ended(exit);
                    }
                }
            }
        }
    }

    /// The shim is gone: the container gets another, which also writes what an ended container has left to say.
    async fn shim_died(&mut self) -> Option<Exit> {
        if let Ok(Some(exit)) = store::read_if_written::<Exit>(&self.spawn.bundle.join(shim::EXIT)) {
            return Some(self.known(exit));
        }
        self.spawn.task = Task::Adopt { pid: self.pid };
        let mut fds = vec![self.pidfd.get_ref().as_fd()];
        fds.extend(self.handed.iter().map(AsFd::as_fd));
        match spawn_shim(&self.project, &self.spawn, &fds) {
            Ok(shim) => {
                self.shim = shim;
                self.orphaned = true;
                if let Err(failure) = self.keep().await {
                    tracing::warn!(id = self.spawn.id.short(), error = %failure, "the new shim is gone again");
                }
                None
            }
            Err(failure) => {
                self.leave_unattended(&failure);
                None
            }
        }
    }

    /// Goes on without a shim, once another could not take the container over: one more would not either.
    fn leave_unattended(&mut self, reason: &dyn std::fmt::Display) {
        tracing::error!(id = self.spawn.id.short(), error = %reason, "no shim attends to the container any more");
        self.unattended = true;
        if matches!(self.spawn.bundle.try_exists(), Ok(false)) {
            // Somebody has removed all that is known about it by hand: no command could ever find it again.
            tracing::error!(id = self.spawn.id.short(), "killed, since its bundle is gone");
            let _ = self.signal(nix::sys::signal::Signal::SIGKILL as i32);
        }
    }

    /// Corrects an exit by what this process knows as the parent of PID 1, which it is where the shim had died.
    fn known(&self, mut exit: Exit) -> Exit {
        self.project.reap();
        exit.code = self.project.status_of(self.pid).unwrap_or(exit.code);
        exit
    }

    /// Gives the shim what must outlive this supervisor.
    async fn keep(&self) -> Result<(), Failure> {
        match &self.network {
            Some(network) => keep(&self.shim, network).await,
            None => Ok(()),
        }
    }

    /// Ends a run that cannot be kept, and takes back what it has on the host.
    pub(super) async fn give_up(self, config: &ContainerConfig) {
        let Self { project, network, shim, pid, .. } = self;
        abandon(shim, pid).await;
        clean_up(&project, config, network).await;
    }

    /// Takes back what a run that has ended leaves on the host.
    pub(super) async fn clean_up(self, config: &ContainerConfig) {
        let Self { project, network, shim, .. } = self;
        drop(shim);
        clean_up(&project, config, network).await;
    }
}

/// Waits for the shim to start PID 1, giving it the network when that is asked for. Where it fails with PID 1 started
/// already, says which one it is.
async fn begin(
    shim: &mut Connection,
    config: &ContainerConfig,
    network: Option<&Attached>,
) -> Result<Started, (Option<i32>, Failure)> {
    let failed = |failure: Failure| {
        other(format!("cannot start container {}: cannot talk to its shim: {}", config.name, failure.message))
    };
    if let Some(network) = network
        && config.network != NetworkMode::Host
        && let Err(error) = shim.send(&ToShim::Network, &[network.netns()]).await
        // A shim that is gone has said why, which is what comes next.
        && !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
    {
        return Err((None, failed(caused(error))));
    }
    loop {
        match shim.receive().await.map_err(|error| (None, failed(caused(error))))? {
            Some((FromShim::Started { pid }, fds)) => {
                if let Some(network) = network {
                    keep(shim, network).await.map_err(|failure| (Some(pid), failed(failure)))?;
                }
                return Ok(Started { pid, fds });
            }
            Some((FromShim::Failed(failure), _)) => return Err((None, start_failure(config, &failure))),
            Some(_) => {}
            None => {
                let killed = format!("the shim of {} was killed while it made the container", config.name);
                return Err((None, other(killed)));
            }
        }
    }
}

/// Watches a PID 1; where that cannot be done, says which one it is.
fn watch(config: &ContainerConfig, Started { pid, mut fds }: Started) -> Result<Watched, (i32, Failure)> {
    if fds.is_empty() {
        return Err((pid, other(format!("the shim of {} did not hand over its descriptors", config.name))));
    }
    let process = process_start(pid).map_err(|failure| (pid, failure))?;
    let unwatched = |error| (pid, other(format!("cannot watch the first process of {}: {error}", config.name)));
    let pidfd = readiness::watch_reading(fds.remove(0)).map_err(unwatched)?;
    Ok(Watched { pid, process, pidfd, handed: fds })
}

/// Without it nobody could tell later that the container runs.
fn process_start(pid: i32) -> Result<Option<ProcessStart>, Failure> {
    ProcessStart::of(pid).map_err(|error| other(format!("cannot tell when process {pid} was started: {error}")))
}

/// Ends a container that was started and cannot be kept.
async fn abandon(mut shim: Connection, pid: i32) {
    // Nobody but the shim reaps it, so the number is still its own.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    while let Ok(Some((message, _))) = shim.receive().await {
        if matches!(message, FromShim::Exited(_)) {
            let _ = shim.send(&ToShim::Release, &[]).await;
            return;
        }
    }
}

async fn keep(shim: &Connection, network: &Attached) -> Result<(), Failure> {
    let (names, fds) = network.kept();
    if names.is_empty() {
        return Ok(());
    }
    let kept = shim.send(&ToShim::Keep { names }, &fds).await;
    kept.map_err(|error| other(format!("cannot leave its network with the shim: {error}")))
}

/// Asks a running shim for what it holds.
async fn adopt(shim: &mut Connection) -> io::Result<(Started, Vec<(String, OwnedFd)>)> {
    shim.send(&ToShim::Adopt, &[]).await?;
    let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut started = None;
    loop {
        match shim.receive().await?.ok_or_else(gone)? {
            (FromShim::Started { pid }, fds) => started = Some(Started { pid, fds }),
            (FromShim::Kept { names }, fds) => {
                let started = started.ok_or_else(gone)?;
                return Ok((started, names.into_iter().zip(fds).collect()));
            }
            _ => {}
        }
    }
}

/// Has the container's bundle and layers as they must be now, which takes time after a reboot or power cut and else none.
async fn make_ready(project: &std::sync::Arc<Project>, config: &ContainerConfig) -> Result<(), Failure> {
    let (project, config) = (std::sync::Arc::clone(project), config.clone());
    tokio::task::spawn_blocking(move || {
        create::refresh(&project.root, &project.host, &project.images, &config)?;
        create::restore_layers(&project.root, &project.images, &config.id)
    })
    .await
    .map_err(caused)?
}

fn spawn_shim(project: &Project, spawn: &Spawn, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<Connection, Failure> {
    let failed = |why: String| other(format!("cannot start a shim for container {}: {why}", spawn.id.short()));
    let socket = project.launch(spawn, fds).map_err(|error| failed(chain(&error)))?;
    Connection::new(socket).map_err(|error| failed(format!("cannot watch its socket: {error}")))
}

/// Mounts what the container's volumes are made of, which may take its time over a network.
async fn attach_volumes(project: &Project, config: &ContainerConfig) -> Result<(), Failure> {
    let (root, attached) = (project.root.clone(), config.clone());
    let attached = tokio::task::spawn_blocking(move || volume::mount::attach(&root, &attached));
    let attached = attached.await.map_err(caused)?;
    attached.map_err(|error| other(format!("cannot start container {}: {}", config.name, chain(&error))))
}

async fn release_volumes(project: &Project, config: &ContainerConfig) {
    let (root, released) = (project.root.clone(), config.clone());
    let released = tokio::task::spawn_blocking(move || volume::mount::release(&root, &released));
    if let Err(error) = released.await.map_err(caused).and_then(|released| released.map_err(caused)) {
        tracing::warn!(container = %config.name, %error, "cannot unmount its volumes");
        project.untidy();
    }
}

async fn clean_up(project: &Project, config: &ContainerConfig, network: Option<Attached>) {
    if let Some(network) = network {
        attach::detach(project, config, network).await;
    }
    release_volumes(project, config).await;
    remove_cgroups(project, config).await;
    remove_run_directory(project, config);
}

fn remove_run_directory(project: &Project, config: &ContainerConfig) {
    let run = project.root.container_run(&config.id);
    match std::fs::remove_dir_all(&run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(container = %config.name, %error, "cannot remove {}", run.display());
            project.untidy();
        }
        _ => {}
    }
}

/// Takes back what a container leaves on the host that ended while nobody looked.
pub(super) async fn forget(project: &Project, config: &ContainerConfig, state: &ContainerState) {
    attach::leave(project, config, &state.endpoints).await;
    release_volumes(project, config).await;
    remove_cgroups(project, config).await;
    remove_run_directory(project, config);
}

/// Returns where a container's cgroups are.
pub(super) fn cgroup(project: &Project, config: &ContainerConfig) -> Result<cgroup::Plan, Failure> {
    let path = project.root.container(&config.id).join(shim::config::FILE);
    let shim = store::read::<shim::config::ShimConfig>(&path)?;
    shim.map(|shim| shim.cgroup).ok_or_else(|| other(format!("{} is missing", path.display())))
}

/// Kills what a shim has started and can tell nobody of.
async fn kill_all(project: &Project, config: &ContainerConfig) {
    let killed = match cgroup(project, config) {
        Ok(cgroup) => tokio::task::spawn_blocking(move || cgroup.kill_all()).await.map_err(caused),
        Err(failure) => Err(failure),
    };
    if let Err(error) = killed {
        tracing::warn!(container = %config.name, %error, "cannot kill what its shim left");
        project.untidy();
    }
}

/// Removes a container's cgroups, which its last process may have left only just now.
async fn remove_cgroups(project: &Project, config: &ContainerConfig) {
    let path = project.root.container(&config.id).join(shim::config::FILE);
    let removed = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
        let shim = store::read_if_written::<shim::config::ShimConfig>(&path)?;
        shim.ok_or_else(|| other(format!("{} is missing", path.display())))?.cgroup.remove().map_err(caused)
    });
    if let Err(error) = removed.await.map_err(caused).flatten() {
        tracing::warn!(container = %config.name, %error, "cannot remove its cgroups");
        project.untidy();
    }
}
