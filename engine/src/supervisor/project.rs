//! Everything a supervisor has: its containers, its networks, and what they need of it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Display;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::container::{Container, name_failure};
use super::create;
use super::events::Events;
use super::run::Run;
use crate::container::cgroup;
use crate::container::config::{ContainerConfig, NetworkMode};
use crate::container::memory::{self, MemoryError};
use crate::container::state::{BoundPort, Status};
use crate::container::store;
use crate::error::chain;
use crate::host::Host;
use crate::id::Id;
use crate::image::Store;
use crate::network::config::NetworkConfig;
use crate::network::{NetworkError, Networks};
use crate::protocol::{EventKind, Failure, FailureKind, ProvidedFile, Reply};
use crate::root::Root;
use crate::shim::launcher::{Launcher, LauncherError};
use crate::shim::protocol::Spawn;
use crate::sys::process;
use crate::volume;

/// Exit statuses that may wait to be asked for.
const STATUSES: usize = 1024;
/// Network namespaces that are made ahead of the containers that will want them.
const PREPARED: usize = 16;

/// How long something may be written before it is made durable.
const BEHIND: Duration = Duration::from_secs(1);

/// A project under supervision. One per process.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) name: String,
    pub(super) root: Root,
    pub(super) host: Host,
    pub(super) events: Events,
    pub(super) tasks: TaskTracker,
    /// What is still to be done before the process may end: removed networks of which the kernel still has something, and
    /// whoever is to be told.
    pub(super) ending: TaskTracker,
    /// Cancelled when the project is free for another supervisor.
    pub(super) left: CancellationToken,
    pub(super) launcher: Launcher,
    pub(super) networks: Networks,
    pub(super) images: Store,
    /// Whether something could not be removed, which is tried again at the end.
    untidy: AtomicBool,
    /// Told when the supervisor may have nothing left to do.
    pub(super) idle: Notify,
    registry: Mutex<Registry>,
    /// Containers of which something was written that is to be durable, and who is told of it.
    written: Mutex<BTreeSet<Id>>,
    writing: Notify,
    /// Exit codes of children that were reaped, oldest first.
    statuses: Mutex<VecDeque<(i32, i32)>>,
}

#[derive(Debug, Default)]
struct Registry {
    containers: HashMap<Id, Container>,
    statuses: HashMap<Id, Status>,
    connections: usize,
    /// Requests under way that change something: whoever made them may be gone before they are carried out.
    requests: usize,
    retired: bool,
    /// Whether containers were started for those who are connected.
    started: bool,
    /// Where the project is that those who are connected make containers of, and how often that was said.
    claim: Option<(String, usize)>,
}

impl Registry {
    fn busy(&self) -> bool {
        let busy = |status: &Status| status.is_running() || matches!(status, Status::Restarting | Status::Removing);
        self.requests > 0 || self.statuses.values().any(busy)
    }
}

/// Something that is being done for somebody, who may be gone before it is over.
#[derive(Debug)]
pub(super) struct Work(Arc<Project>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.registry().requests -= 1;
        self.0.settle();
    }
}

/// Says of a step that failed no more than it says itself.
pub(super) fn other(error: impl Display) -> Failure {
    Failure { kind: FailureKind::Other, message: error.to_string(), hint: None }
}

/// Likewise, with everything that caused it.
pub(super) fn caused(error: impl std::error::Error) -> Failure {
    other(chain(&error))
}

/// Says why a container cannot have its configs and secrets.
pub(super) fn memory_failure(config: &ContainerConfig, error: &MemoryError) -> Failure {
    other(format!("cannot start container {}: {}", config.name, chain(error)))
}

impl Project {
    pub(super) fn new(
        name: String,
        root: Root,
        host: Host,
        launcher: Launcher,
        networks: Networks,
        images: Store,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            root,
            host,
            events: Events::new(),
            tasks: TaskTracker::new(),
            ending: TaskTracker::new(),
            left: CancellationToken::new(),
            untidy: AtomicBool::new(false),
            launcher,
            networks,
            images,
            idle: Notify::new(),
            registry: Mutex::default(),
            written: Mutex::default(),
            writing: Notify::new(),
            statuses: Mutex::default(),
        })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no holder of this lock panics")
    }

    /// Takes over every container of the project that is on disk.
    pub(super) async fn adopt_all(self: &Arc<Self>) -> Result<(), Failure> {
        store::sweep(&self.root, &self.name).map_err(caused)?;
        volume::sweep(&self.root).map_err(caused)?;
        let mut containers = store::list_as_written(&self.root, &self.name).map_err(caused)?;
        one_for_each_port(&mut containers);
        for container in containers {
            self.adopt(container).await?;
        }
        Ok(())
    }

    /// Leads what leads to one container to another, both of which run.
    pub(super) async fn take_over(&self, id: &Id, from: &Id) -> Result<(), Failure> {
        let (taker, giver) = (self.container(id)?, self.container(from)?);
        taker.take_over(giver.config().await?).await?;
        giver.give_way().await
    }

    /// Waits until nobody is connected to a container any more, at most this long.
    pub(super) async fn drain(&self, id: &Id, limit: Duration) -> Result<(), Failure> {
        match tokio::time::timeout(limit, self.networks.drained(id)).await {
            Ok(drained) => drained.map_err(caused),
            Err(_elapsed) => Ok(()),
        }
    }

    async fn adopt(self: &Arc<Self>, mut container: store::Container) -> Result<(), Failure> {
        let mut run = None;
        if container.state.status.is_running() {
            run = Run::adopt(self, &container.config, &container.state).await?;
            if run.is_none() {
                // It ended while nobody looked: what it left on the host goes, and what became of it is on disk.
                super::run::forget(self, &container.config, &container.state).await;
                container.state = store::seen(&self.root, &container.config.id, container.state).map_err(caused)?;
                store::save(&self.root, &container.config.id, &container.state).map_err(caused)?;
            }
        } else {
            Run::end_unnoted(self, &container.config, &container.state).await;
        }
        self.supervise(container, run);
        Ok(())
    }

    fn supervise(self: &Arc<Self>, container: store::Container, run: Option<Run>) {
        let (id, status) = (container.config.id.clone(), container.state.status);
        if let NetworkMode::Networks(endpoints) = &container.config.network {
            // A name of the project is nobody else's business, whether or not the container that has it runs.
            let aliases = endpoints.iter().flat_map(|endpoint| endpoint.aliases.iter().cloned());
            self.networks.reserve_names(aliases.chain([container.config.name.clone()]));
        }
        let handle = Container::supervise(Arc::clone(self), container, run);
        let mut registry = self.registry();
        registry.statuses.insert(id.clone(), status);
        registry.containers.insert(id, handle);
    }

    /// Returns the handle of a container.
    pub(super) fn container(&self, id: &Id) -> Result<Container, Failure> {
        self.registry().containers.get(id).cloned().ok_or_else(|| Failure {
            kind: FailureKind::NoSuchContainer,
            message: format!("no container {} in project {}", id.short(), self.name),
            hint: None,
        })
    }

    pub(super) async fn create(self: &Arc<Self>, config: ContainerConfig) -> Result<(), Failure> {
        // Asked again after the supervisor before this one was killed.
        if self.registry().containers.contains_key(&config.id) {
            return Ok(());
        }
        self.expect_start(&config);
        let project = Arc::clone(self);
        let made =
            tokio::task::spawn_blocking(move || create::create(&project.root, &project.host, &project.images, config));
        let container = made.await.map_err(caused)??;
        let config = container.config.clone();
        self.supervise(container, None);
        self.wrote(&config.id);
        self.events.container(&config, EventKind::Create, []);
        Ok(())
    }

    /// Keeps the content of a container's file.
    pub(super) async fn provide(&self, id: Id, file: ProvidedFile) -> Result<(), Failure> {
        let root = self.root.clone();
        let kept = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            let container = store::load(&root, &id).map_err(caused)?.ok_or_else(|| Failure {
                kind: FailureKind::NoSuchContainer,
                message: format!("no container {}", id.short()),
                hint: None,
            })?;
            memory::provide(&root, &container.config, &file.target, file.content.as_bytes())
                .map_err(|error| memory_failure(&container.config, &error))
        });
        kept.await.map_err(caused)?
    }

    fn wrote(&self, id: &Id) {
        self.written.lock().expect("no holder of this lock panics").insert(id.clone());
        self.writing.notify_one();
    }

    /// Makes durable what is written about containers, as long as the supervisor lives. It is a moment behind, so that
    /// nobody waits for the disk and much that is written at once is forced to it at once.
    pub(super) async fn keep_durable(self: Arc<Self>) {
        loop {
            self.writing.notified().await;
            tokio::time::sleep(BEHIND).await;
            let written = std::mem::take(&mut *self.written.lock().expect("no holder of this lock panics"));
            let root = self.root.clone();
            let synced = tokio::task::spawn_blocking(move || written.iter().try_for_each(|id| store::sync(&root, id)));
            if let Err(error) = synced.await.map_err(caused).and_then(|synced| synced.map_err(caused)) {
                tracing::warn!(%error, "cannot force containers to the disk");
            }
        }
    }

    /// Has ready what a container that is being created will want when it is started, which is as a rule at once.
    fn expect_start(&self, config: &ContainerConfig) {
        if matches!(config.network, NetworkMode::Networks(_) | NetworkMode::None) {
            self.networks.prepare((self.networks.prepared() + 1).min(PREPARED));
        }
    }

    pub(super) async fn ensure_network(&self, config: NetworkConfig) -> Result<Reply, Failure> {
        let name = config.name.clone();
        let (network, created) = self.networks.ensure(&config).await.map_err(caused)?;
        if created {
            self.events.network(&network.id, &name, EventKind::NetworkCreate, None);
        }
        Ok(Reply::Network { id: network.id, created })
    }

    pub(super) async fn remove_network(self: &Arc<Self>, name: &str) -> Result<(), Failure> {
        let gone =
            || Failure { kind: FailureKind::NoSuchNetwork, message: format!("network {name} not found"), hint: None };
        let network = self.networks.get(name).await.map_err(caused)?.ok_or_else(gone)?;
        let removal = self.networks.remove(name).await.map_err(|error| match error {
            // Another project's supervisor, or another command, was faster.
            NetworkError::Unknown(_) => gone(),
            NetworkError::InUse { .. } => {
                Failure { kind: FailureKind::Conflict, message: error.to_string(), hint: None }
            }
            error => {
                // It may be off the list by now, and then no command comes back for it.
                self.untidy();
                caused(error)
            }
        })?;
        let (project, name) = (Arc::clone(self), name.to_owned());
        self.events.network(&network.id, &name, EventKind::NetworkDestroy, None);
        // The kernel takes its time with a bridge, and nobody needs to wait but who wants to see nothing left.
        self.ending.spawn(async move {
            if let Err(error) = removal.finished().await {
                tracing::warn!(network = %name, error = &error as &dyn std::error::Error, "cannot remove all of it");
                // Once more, since nobody may come back for it.
                if let Err(error) = project.networks.recover().await {
                    tracing::error!(network = %name, error = &error as &dyn std::error::Error, "it is left");
                }
            }
        });
        Ok(())
    }

    /// Something of what was removed is left.
    pub(super) fn untidy(&self) {
        self.untidy.store(true, Ordering::Relaxed);
    }

    /// Tries once more to remove what could not be removed, since nobody comes back for it. For the end, when no container
    /// runs, while the project's lock is held.
    pub(super) async fn tidy(&self) {
        let groups = cgroup::Plan::everywhere(cgroup::of_project(&self.name), &self.host.cgroups);
        // Whether a group still had members cannot be told from other reasons for which it stayed.
        if !self.untidy.swap(false, Ordering::Relaxed) && !groups.exist() {
            return;
        }
        let (root, name) = (self.root.clone(), self.name.clone());
        let swept = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            let groups = groups.remove().map_err(caused);
            let links = store::sweep(&root, &name).map_err(caused);
            groups.and(links).and(volume::sweep(&root).map_err(caused))
        });
        let swept = swept.await.map_err(caused).flatten();
        let networks = self.networks.recover().await.map_err(caused);
        if let Err(error) = swept.and(networks) {
            tracing::error!(%error, "something of the project is left");
        }
    }

    /// Waits until nothing of the networks is left that were removed, and everybody was told who waits for the end.
    pub(super) async fn settled(&self) {
        self.ending.close();
        self.ending.wait().await;
    }

    /// Notes what a container is now.
    pub(super) fn note(&self, id: &Id, status: Status) {
        let before = self.registry().statuses.insert(id.clone(), status);
        if before != Some(status) {
            self.wrote(id);
        }
    }

    /// A container is gone.
    pub(super) fn forget(&self, id: &Id) {
        let mut registry = self.registry();
        registry.containers.remove(id);
        registry.statuses.remove(id);
    }

    /// Keeps the supervisor until this is dropped: something is being done.
    pub(super) fn work(self: &Arc<Self>) -> Work {
        self.registry().requests += 1;
        Work(Arc::clone(self))
    }

    /// Notes where a project is; returns the place that was noted first.
    pub(super) fn claim(&self, place: &str) -> String {
        let mut registry = self.registry();
        let (standing, claims) = registry.claim.get_or_insert_with(|| (place.to_owned(), 0));
        *claims += usize::from(standing == place);
        standing.clone()
    }

    /// Takes back so many claims of the place that counts.
    pub(super) fn disclaim(&self, count: usize) {
        let mut registry = self.registry();
        if let Some((_, claims)) = &mut registry.claim {
            *claims -= count;
        }
        registry.claim = registry.claim.take().filter(|(_, claims)| *claims > 0);
    }

    /// Counts a connection; `false` where the supervisor has retired.
    pub(super) fn connected(&self) -> bool {
        let mut registry = self.registry();
        registry.connections += 1;
        !registry.retired
    }

    pub(super) fn disconnected(&self) {
        let is_over = {
            let mut registry = self.registry();
            registry.connections -= 1;
            registry.connections == 0 && std::mem::take(&mut registry.started)
        };
        if is_over {
            // Starting containers took more than looking after them does.
            process::trim_heap();
        }
        self.settle();
    }

    /// Asks for a shim.
    pub(super) fn launch(&self, spawn: &Spawn, fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, LauncherError> {
        self.registry().started = true;
        self.launcher.spawn(spawn, fds)
    }

    /// Wakes the supervisor's main task if nothing is left to do.
    pub(super) fn settle(&self) {
        let registry = self.registry();
        if registry.connections == 0 && !registry.busy() {
            self.idle.notify_one();
        }
    }

    /// Retires if there is nothing to do for anybody, as when the main task was woken.
    pub(super) fn retire_if_idle(&self) -> bool {
        let mut registry = self.registry();
        registry.retired |= registry.connections == 0 && !registry.busy();
        registry.retired
    }

    /// Retires although somebody is connected, and wakes the main task, which then leaves the project.
    pub(super) fn retire(&self) -> Result<(), Failure> {
        {
            let mut registry = self.registry();
            if registry.busy() {
                return Err(Failure {
                    kind: FailureKind::Conflict,
                    message: format!("containers of project {} are running", self.name),
                    hint: None,
                });
            }
            registry.retired = true;
        }
        self.idle.notify_one();
        Ok(())
    }

    /// Collects the exit statuses of children that have ended: shims, and containers whose shim died.
    pub(super) fn reap(&self) {
        use nix::errno::Errno;
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        let mut statuses = self.statuses.lock().expect("no holder of this lock panics");
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if statuses.len() == STATUSES {
                statuses.pop_front();
            }
            statuses.push_back((pid.as_raw(), code));
        }
    }

    /// Returns the exit code of a child that was reaped; it is told once.
    pub(super) fn status_of(&self, pid: i32) -> Option<i32> {
        let mut statuses = self.statuses.lock().expect("no holder of this lock panics");
        let index = statuses.iter().rposition(|(reaped, _)| *reaped == pid)?;
        statuses.remove(index).map(|(_, code)| code)
    }
}

/// Leaves a port that two containers say they have to the one that was started last: a supervisor was killed while that one
/// took over from the other.
fn one_for_each_port(containers: &mut [store::Container]) {
    containers.sort_by_key(|container| std::cmp::Reverse(container.state.started_at));
    let mut taken = Vec::new();
    for container in containers {
        let own = |port: &BoundPort| (port.protocol, port.host_ip, port.host_port);
        container.state.ports.retain(|port| !taken.contains(&own(port)));
        taken.extend(container.state.ports.iter().map(own));
    }
}

impl From<store::StoreError> for Failure {
    fn from(error: store::StoreError) -> Self {
        name_failure(error)
    }
}
