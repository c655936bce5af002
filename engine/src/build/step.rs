//! One step that makes a layer: its key, and what is done where that is not known.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::SemaphorePermit;

use super::cache_mount::{self, CacheMount};
use super::copy::{self, Attributes, Destination, Source};
use super::error::{Before, BuildError, StepError};
use super::event::Phase;
use super::execute::{Shop, State, Task, lock};
use super::forward::Forward;
use super::graph::{Copy, MakeDirectory, Mount, MountKind, Operation, Run, RunNetwork, VertexId};
use super::ignore::Patterns;
use super::key;
use super::large;
use super::layer::{Draft, Layer};
use super::mode::ModeChange;
use super::request::Secret;
use super::run::{Container, ContainerNetwork, RunError, RunMount, RunSource};
use super::tree::{Match, Tree};
use crate::container::{memory, user};
use crate::id::Id;
use crate::image::{Digest, Step, StepKey};
use crate::network::files;
use crate::sys::socket;

/// How many lines of a command's output are repeated where it fails.
const TAIL: usize = 12;

/// A step that makes a layer, with what it needs.
pub(super) struct Work {
    pub(super) task: Arc<Task>,
    pub(super) below: Arc<Vec<Digest>>,
    pub(super) states: Arc<BTreeMap<VertexId, State>>,
}

/// The network of a command, and the files that tell it of that.
struct Connection {
    network: ContainerNetwork,
    hostname: String,
    hosts: String,
    resolv_conf: String,
}

/// What the sources of a copy were found to be: the tree, and what there is in it.
pub(super) type Finds = Vec<(Tree, Vec<Match>)>;

impl Work {
    fn shop(&self) -> &Shop {
        &self.task.shop
    }

    fn operation(&self) -> &Operation {
        &self.task.vertex().operation
    }

    /// Returns the directories of the layers below, topmost first.
    fn stack(&self) -> Vec<PathBuf> {
        self.shop().store.stack(&self.below)
    }

    fn tree(&self, id: VertexId) -> Result<Tree, StepError> {
        Ok(self.states.get(&id).ok_or(StepError::Worker)?.tree(self.shop())?.until(&self.task.stop))
    }

    /// Begins a layer on top of these directories.
    fn draft(&self, below: &[PathBuf]) -> Result<Draft, StepError> {
        Ok(Draft::new(&self.shop().store, below)?.until(&self.task.stop))
    }

    /// Returns the step's key, and what was found on the way to it.
    pub(super) fn key(&self) -> Result<(StepKey, Arc<Finds>), StepError> {
        let around = self.task.request.surroundings();
        match self.operation() {
            Operation::Run(run) => {
                let contents: Vec<_> =
                    run.mounts.iter().map(|mount| self.shown(mount)).collect::<Result<_, StepError>>()?;
                Ok((key::run(run, &self.below, &contents, &around), Arc::default()))
            }
            Operation::Copy(copy) => {
                let finds = self.find(copy)?;
                let mut sources = Vec::new();
                for (tree, found) in &finds {
                    let mut digests = Vec::new();
                    for found in found {
                        let name =
                            if copy.parents || !found.is_directory() { found.asked.as_path() } else { Path::new("") };
                        digests.push((name.to_string_lossy().into_owned(), tree.digest(found)?));
                    }
                    sources.push(digests);
                }
                Ok((key::copy(copy, &self.below, &sources, &around), Arc::new(finds)))
            }
            Operation::MakeDirectory(make) => Ok((key::make_directory(make, &self.below, &around), Arc::default())),
            _ => Err(StepError::Worker),
        }
    }

    /// Returns the digest of what a mount shows of the build.
    fn shown(&self, mount: &Mount) -> Result<Option<Digest>, StepError> {
        let (from, source) = match &mount.kind {
            MountKind::Bind { from, source, .. } | MountKind::Cache { from: Some(from), source, .. } => (*from, source),
            _ => return Ok(None),
        };
        // The whole of a file system is what its layers are.
        if let Some(State::Layers(layers)) = self.states.get(&from) {
            let digests: Vec<String> = layers.iter().map(ToString::to_string).collect();
            return Ok(Some(Digest::of(digests.join(" ").as_bytes())));
        }
        let tree = self.tree(from)?;
        let found = tree.find(source, true)?;
        found.first().map(|found| tree.digest(found)).transpose().map_err(StepError::from)
    }

    fn find(&self, copy: &Copy) -> Result<Finds, StepError> {
        let exclude =
            Patterns::new(&copy.exclude).map_err(|_| StepError::Pattern { pattern: copy.exclude.join("\n") })?;
        let mut finds = Vec::new();
        for source in &copy.sources {
            let tree = self.tree(source.from)?;
            let mut found = tree.find(&source.path, source.literal)?;
            if !copy.exclude.is_empty() {
                for found in &mut found {
                    copy::exclude(found, &exclude);
                }
                found.retain(|found| !found.found.is_empty());
            }
            if let Some(remark) = tree.is_context().then(|| large::remark(&found)).flatten() {
                self.task.event(Phase::Started);
                self.task.event(Phase::Remark(remark));
            }
            finds.push((tree, found));
        }
        Ok(finds)
    }

    /// Makes the layer and notes it.
    pub(super) async fn make(
        self: Arc<Self>,
        key: StepKey,
        finds: Arc<Finds>,
        begun: Instant,
    ) -> Result<Step, Arc<BuildError>> {
        let output = Arc::new(Mutex::new(VecDeque::new()));
        let task = &self.task;
        let made = self.make_layer(finds, &output).await.map_err(|error| task.ended(error));
        let noted = made.and_then(|layer| {
            let step = Step {
                layer: layer.id,
                size: layer.size,
                created: jiff::Timestamp::now(),
                name: task.vertex().name.clone(),
                used: None,
            };
            self.shop().store.remember_step(&key, &step)?;
            Ok(step)
        });
        match noted {
            Ok(step) => {
                task.event(Phase::Done(begun.elapsed()));
                Ok(step)
            }
            Err(error) => {
                let output =
                    lock(&output).iter().map(|line: &Vec<u8>| String::from_utf8_lossy(line).into_owned()).collect();
                task.event(Phase::ended(begun, &error));
                Err(Arc::new(task.failed(error, output).with_state(self.before())))
            }
        }
    }

    /// Returns what there was before a command.
    fn before(&self) -> Option<Box<Before>> {
        match self.operation() {
            Operation::Run(run) => Some(Box::new(Before { layers: Vec::clone(&self.below), run: run.clone() })),
            _ => None,
        }
    }

    async fn make_layer(
        self: &Arc<Self>,
        finds: Arc<Finds>,
        output: &Arc<Mutex<VecDeque<Vec<u8>>>>,
    ) -> Result<Layer, StepError> {
        // Whoever waits for a cache mount has no permit, and whoever has one goes on.
        let held = match self.operation() {
            Operation::Run(run) => self.cache_mounts(run).await?,
            _ => Vec::new(),
        };
        let _permit = self.permit().await?;
        self.task.event(Phase::Started);
        let epoch = self.task.request.epoch;
        if let Operation::Run(run) = self.operation() {
            return self.run(run, held, Arc::clone(output)).await;
        }
        let work = Arc::clone(self);
        blocking(move || {
            let stack = work.stack();
            let link = matches!(work.operation(), Operation::Copy(Copy { link: true, .. }));
            // A layer of its own is made without a look at what is below it.
            let below = if link { &[][..] } else { &stack[..] };
            let draft = work.draft(below)?;
            {
                let root = draft.open(below)?;
                match work.operation() {
                    Operation::Copy(copy) => copy_to(copy, &finds, &root, &stack)?,
                    Operation::MakeDirectory(make) => make_directory_in(make, &root, &stack)?,
                    _ => return Err(StepError::Worker),
                }
            }
            Ok(draft.finish(&work.shop().store, epoch)?)
        })
        .await
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, StepError> {
        tokio::select! {
            permit = self.task.shop.permits.acquire() => permit.map_err(|_| StepError::Worker),
            () = self.task.stop.cancelled() => Err(StepError::Interrupted),
        }
    }

    async fn cache_mounts(self: &Arc<Self>, run: &Run) -> Result<Vec<CacheMount>, StepError> {
        if !run.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Cache { .. })) {
            return Ok(Vec::new());
        }
        let work = Arc::clone(self);
        let held = blocking(move || {
            let Operation::Run(run) = work.operation() else { return Err(StepError::Worker) };
            let directory = super::prune::mounts(&work.shop().machine.root);
            // In one order, so that two steps do not wait for one another.
            let mut wanted: Vec<(&String, &Mount)> = run
                .mounts
                .iter()
                .filter_map(|mount| match &mount.kind {
                    MountKind::Cache { id, .. } => Some((id, mount)),
                    _ => None,
                })
                .collect();
            wanted.sort_by_key(|(id, _)| *id);
            let mut held: Vec<CacheMount> = Vec::new();
            for (_, mount) in wanted {
                let MountKind::Cache { id, sharing, from, source, mode, uid, gid, .. } = &mount.kind else { continue };
                // One command may have one cache at two places.
                if let Some(same) = held.iter().find(|held| held.id == *id).map(|held| held.at(&mount.target)) {
                    held.push(same);
                    continue;
                }
                let initial = from.map(|from| work.tree(from)).transpose()?;
                let wish = cache_mount::Wish { id, sharing: *sharing, mode: *mode, uid: *uid, gid: *gid };
                held.push(cache_mount::hold(
                    &directory,
                    &wish,
                    &mount.target,
                    initial.as_ref().map(|tree| (tree, source.as_str())),
                )?);
            }
            Ok(held)
        });
        tokio::select! {
            held = held => held,
            () = self.task.stop.cancelled() => Err(StepError::Interrupted),
        }
    }

    async fn run(
        self: &Arc<Self>,
        run: &Run,
        held: Vec<CacheMount>,
        tail: Arc<Mutex<VecDeque<Vec<u8>>>>,
    ) -> Result<Layer, StepError> {
        let request = &self.task.request;
        if run.insecure && !request.insecure {
            return Err(StepError::Entitlement("security.insecure"));
        }
        if run.network == RunNetwork::Host && !request.host_network {
            return Err(StepError::Entitlement("network.host"));
        }
        let id = Id::random();
        let wanted = if run.network == RunNetwork::Default { request.network } else { run.network };
        let connection = self.connect(wanted, &id).await?;
        let joined = matches!(connection.network, ContainerNetwork::Sandbox(_));
        let (control, theirs) = socket::pair().map_err(|errno| StepError::Run(RunError::Start(errno.into())))?;
        let control = Arc::new(control);
        let work = Arc::clone(self);
        let name = id.clone();
        let ours = Arc::clone(&control);
        let mut ended = std::pin::pin!(blocking(move || {
            let Operation::Run(run) = work.operation() else { return Err(StepError::Worker) };
            let stack = work.stack();
            let container = work.container(run, name, &held, &stack, connection)?;
            let draft = work.draft(&stack)?;
            let task = Arc::clone(&work.task);
            let mut output = |line: &[u8]| {
                let mut tail = lock(&tail);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line.to_vec());
                drop(tail);
                task.event(Phase::Output(line.to_vec()));
            };
            work.shop().machine.run(container, &stack, &draft, (ours, theirs), &mut output)?;
            drop(held);
            Ok(draft.finish(&work.shop().store, work.task.request.epoch)?)
        }));
        let ended = tokio::select! {
            ended = &mut ended => ended,
            () = self.task.stop.cancelled() => {
                // The container ends with the connection, and all that is its own with it.
                socket::hang_up(&*control);
                drop(ended.await);
                Err(StepError::Interrupted)
            }
        };
        if joined {
            self.shop().uplink.leave(&id).await?;
        }
        ended
    }

    /// Has the network of a command.
    async fn connect(&self, wanted: RunNetwork, id: &Id) -> Result<Connection, StepError> {
        let request = &self.task.request;
        let host = files::ResolvConf::of_host();
        let hostname = request.surroundings().hostname;
        let (network, states, gateway) = match wanted {
            RunNetwork::Default => {
                let (sandbox, states, gateway) = self.shop().uplink.join(id).await?;
                (ContainerNetwork::Sandbox(sandbox), states, gateway)
            }
            RunNetwork::None => (ContainerNetwork::None, Vec::new(), None),
            RunNetwork::Host => (ContainerNetwork::Host, Vec::new(), None),
        };
        let hosts = files::hosts(&hostname, None, &states, &request.hosts, gateway)?;
        let resolv_conf = match wanted {
            RunNetwork::Default => files::resolv_conf(&host, &[], &[]),
            RunNetwork::None | RunNetwork::Host => files::resolv_conf_of_host(&host, &[], &[], &[]),
        };
        Ok(Connection { network, hostname, hosts, resolv_conf })
    }

    fn container(
        &self,
        run: &Run,
        id: Id,
        held: &[CacheMount],
        stack: &[PathBuf],
        connection: Connection,
    ) -> Result<Container, StepError> {
        let request = &self.task.request;
        let mut environment = run.environment.clone();
        environment.extend(run.uncached.iter().map(|(name, value)| format!("{name}={value}")));
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            let (source, variable) = self.mount(mount, held)?;
            environment.extend(variable);
            if let Some(source) = source {
                mounts.push(RunMount { target: mount.target.clone(), source });
            }
        }
        Ok(Container {
            id,
            arguments: run.arguments.clone(),
            environment,
            user: user::resolve_in_layers(stack, &run.user, &[])?,
            directory: run.directory.clone(),
            hostname: connection.hostname,
            insecure: run.insecure,
            devices: run.devices.clone(),
            mounts,
            shm_size: request.shm_size,
            memory: request.memory,
            ulimits: request.ulimits.clone(),
            cgroup_parent: request.cgroup_parent.clone(),
            network: connection.network,
            hosts: connection.hosts,
            resolv_conf: connection.resolv_conf,
        })
    }

    /// Returns what is mounted, and a variable that is set besides or instead.
    fn mount(&self, mount: &Mount, held: &[CacheMount]) -> Result<(Option<RunSource>, Option<String>), StepError> {
        let request = &self.task.request;
        let source = match &mount.kind {
            MountKind::Bind { from, source, writable } => self.bind(*from, source, *writable)?,
            MountKind::Cache { read_only, .. } => {
                let held = held.iter().find(|held| held.target == mount.target).ok_or(StepError::Worker)?;
                let directory = held.directory.clone();
                RunSource::Directory { directory, path: PathBuf::new(), read_only: *read_only }
            }
            MountKind::Tmpfs { size } => RunSource::Tmpfs { size: *size },
            MountKind::Secret { id, variable, required, mode, uid, gid } => {
                let content = match request.keyring.secrets.get(id) {
                    Some(Secret::Value(value)) => value.clone(),
                    Some(Secret::File(path)) => {
                        memory::read(path).map_err(|source| StepError::Secret { id: id.clone(), source })?
                    }
                    None if *required => return Err(StepError::NoSecret(id.clone())),
                    None => return Ok((None, None)),
                };
                let variable = match variable {
                    Some(name) => {
                        let text = String::from_utf8(content.clone());
                        Some(format!("{name}={}", text.map_err(|_| StepError::BinarySecret(id.clone()))?))
                    }
                    None => None,
                };
                let file = !mount.target.is_empty();
                return Ok((
                    file.then_some(RunSource::Secret { content, uid: *uid, gid: *gid, mode: *mode }),
                    variable,
                ));
            }
            MountKind::Ssh { id, required, mode, uid, gid } => match request.keyring.ssh.get(id) {
                Some(agent) => {
                    let variable = format!("SSH_AUTH_SOCK={}", mount.target);
                    let forward = Forward::listen(self.shop().temporary()?, agent.clone(), (*uid, *gid, *mode))
                        .map_err(|source| StepError::Agent { id: id.clone(), source })?;
                    return Ok((Some(RunSource::Agent(forward)), Some(variable)));
                }
                None if *required => return Err(StepError::NoAgent(id.clone())),
                None => return Ok((None, None)),
            },
        };
        Ok((Some(source), None))
    }

    fn bind(&self, from: VertexId, source: &str, writable: bool) -> Result<RunSource, StepError> {
        let store = &self.shop().store;
        let (layers, path) = match self.states.get(&from) {
            Some(State::Layers(layers)) => (store.stack(layers), PathBuf::from(source)),
            _ => self.shown_copy(from, source)?,
        };
        if writable {
            let draft = self.draft(&layers)?;
            return Ok(RunSource::Discarded { layers, path, draft });
        }
        Ok(RunSource::Layers { layers, path })
    }

    /// Copies what is to be shown of a context: a hostile one has no device in it then, and what is left out of it is not
    /// there. Returns the layer of the copy, and the path in that.
    fn shown_copy(&self, from: VertexId, source: &str) -> Result<(Vec<PathBuf>, PathBuf), StepError> {
        let store = &self.shop().store;
        let tree = self.tree(from)?;
        let found = tree.find(source, true)?;
        let draft = self.draft(&[])?;
        let mut shown = PathBuf::new();
        {
            let root = draft.open(&[])?;
            for found in &found {
                let (path, within) = if found.is_directory() {
                    (format!("/{}", found.base.display()), found.base.clone())
                } else {
                    ("/".to_owned(), PathBuf::from(found.asked.file_name().unwrap_or_default()))
                };
                let destination = Destination { root: root.as_fd(), path: &path, attributes: &Attributes::default() };
                destination.copy(&Source { tree: &tree, found, unpack: false }, false)?;
                shown = within;
            }
        }
        let layer = draft.finish(store, self.task.request.epoch)?;
        Ok((store.stack(&[layer.id]), shown))
    }
}

fn copy_to(copy: &Copy, finds: &Finds, root: &OwnedFd, stack: &[PathBuf]) -> Result<(), StepError> {
    let owner = copy.owner.as_deref().filter(|owner| !owner.is_empty());
    let owner = owner.map(|owner| user::resolve_in_layers(stack, owner, &[])).transpose()?;
    let mode = match &copy.mode {
        Some(mode) => Some(ModeChange::parse(mode).ok_or_else(|| StepError::Mode(mode.clone()))?),
        None => None,
    };
    let attributes = Attributes { owner: owner.map(|user| (user.uid, user.gid)), mode };
    let several = finds.iter().map(|(_, found)| found.len()).sum::<usize>() > 1;
    for (source, (tree, found)) in copy.sources.iter().zip(finds) {
        for found in found {
            let mut path = copy.destination.clone();
            if copy.parents {
                path = with_parents(&path, &source.path, found);
            }
            let destination = Destination { root: root.as_fd(), path: &path, attributes: &attributes };
            destination.copy(&Source { tree, found, unpack: source.unpack }, several || copy.parents)?;
        }
    }
    Ok(())
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StepError::Worker))
}

/// Returns the directory that a source with its parents is copied to. What stands before a `/./` is left out.
fn with_parents(destination: &str, source: &str, found: &Match) -> String {
    let pivot = source
        .split("/./")
        .next()
        .filter(|before| before.len() < source.len())
        .map_or(0, |before| before.split('/').filter(|part| !part.is_empty()).count());
    let kept: PathBuf = found.asked.components().skip(pivot).collect();
    let directory = if found.is_directory() { kept.as_path() } else { kept.parent().unwrap_or(Path::new("")) };
    format!("{}/{}/", destination.trim_end_matches('/'), directory.display())
}

fn make_directory_in(make: &MakeDirectory, root: &OwnedFd, stack: &[PathBuf]) -> Result<(), StepError> {
    let owner = user::resolve_in_layers(stack, &make.owner, &[])?;
    let attributes = Attributes { owner: Some((owner.uid, owner.gid)), mode: None };
    Destination { root: root.as_fd(), path: &make.path, attributes: &attributes }.directory(Path::new(&make.path))?;
    Ok(())
}
