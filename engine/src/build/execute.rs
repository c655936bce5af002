//! The execution of a graph: every step as soon as what it needs is there, each once, from the cache where it can be.
//!
//! File systems are stacks of layers of the image store. A step whose key is known takes its layer from there; any other
//! makes one. Two builds of this process that come to the same step share it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, Shared, join_all};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::{BuildError, StepError};
use super::event::{Event, Phase, Progress};
use super::graph::{ImageSource, Operation, Vertex, VertexId};
use super::ignore::Patterns;
use super::request::{Files, Request};
use super::run::Machine;
use super::seen::Seen;
use super::step::{Finds, Work, blocking};
use super::tree::Tree;
use super::uplink::{Uplink, UplinkError};
use super::{repository, web};
use crate::container::rootfs;
use crate::host::Host;
use crate::id::Id;
use crate::image::{CacheError, Client, Digest, Image, Lease, Step, StepKey, Store};
use crate::root::{Root, make_directory};
use crate::shim::sealed::sealed_exe;

/// What a step has made: a file system.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Layers, bottom first.
    Layers(Arc<Vec<Digest>>),
    /// A build context that is a directory of the host.
    Context { directory: PathBuf, ignore: Arc<Patterns>, seen: Arc<Seen> },
    /// A directory of this build's own.
    Directory(Arc<Temporary>),
}

impl State {
    /// Opens it to be read.
    pub(super) fn tree(&self, shop: &Shop) -> Result<Tree, StepError> {
        let open = |path: &Path| {
            let opened = File::open(path).map(OwnedFd::from);
            opened.map_err(|source| StepError::Io { action: "open", path: path.to_owned(), source })
        };
        match self {
            Self::Layers(layers) if layers.is_empty() => Ok(Tree::plain(open(&shop.temporary()?.0)?)),
            Self::Layers(layers) => Ok(Tree::plain(rootfs::image(&shop.store.stack(layers))?)),
            Self::Context { directory, ignore, seen } => {
                Ok(Tree::context(open(directory)?, Arc::clone(ignore), Arc::clone(seen)))
            }
            Self::Directory(directory) => Ok(Tree::plain(open(&directory.0)?)),
        }
    }
}

/// What is known of a step that is done.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) state: State,
    /// The layer that it made, if it makes one.
    pub(crate) step: Option<Step>,
    /// The key of that.
    pub(crate) key: Option<StepKey>,
}

/// A directory that goes away when nobody needs it any more.
#[derive(Debug)]
pub(crate) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = crate::image::remove::remove_path(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a temporary directory");
        }
    }
}

type Solving = Shared<BoxFuture<'static, Result<Done, Arc<BuildError>>>>;
type Making = Shared<BoxFuture<'static, Result<Step, Arc<BuildError>>>>;

/// Builds images. Cheap to clone; all clones share what they do.
#[derive(Debug, Clone)]
pub struct Builder(Arc<Shop>);

/// What the builds of this process have in common.
pub(crate) struct Shop {
    pub(crate) store: Arc<Store>,
    pub(super) machine: Machine,
    /// Asks web servers.
    pub(super) client: Arc<Client>,
    pub(super) uplink: Uplink,
    pub(super) progress: Progress,
    /// How many steps are worked on at once.
    pub(super) permits: Semaphore,
    /// Images that steps may name, by the digest of their manifest.
    images: Mutex<HashMap<Digest, Image>>,
    seen: Mutex<HashMap<PathBuf, Arc<Seen>>>,
    making: Mutex<HashMap<StepKey, Making>>,
    /// Shared by all who build; who has it alone may clear what others have left.
    _lock: File,
}

impl std::fmt::Debug for Shop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shop").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Shop {
    /// Returns an image that was offered.
    pub(crate) fn image(&self, digest: &Digest) -> Option<Image> {
        lock(&self.images).get(digest).cloned()
    }

    /// Returns all images that were offered.
    pub(super) fn images(&self) -> Vec<Image> {
        lock(&self.images).values().cloned().collect()
    }

    /// Makes a directory of this process's own.
    pub(super) fn temporary(&self) -> Result<Temporary, StepError> {
        let directory = self.unmade();
        let failed = |source| StepError::Io { action: "create", path: directory.0.clone(), source };
        make_directory(&directory.0).map_err(failed)?;
        Ok(directory)
    }

    /// Returns where such a directory may be made, or moved to.
    pub(super) fn unmade(&self) -> Temporary {
        Temporary(self.machine.root.data().join("build/tmp").join(Id::random().short()))
    }
}

/// A graph that was executed.
#[derive(Debug)]
pub struct Solved {
    pub(crate) done: Vec<Option<Done>>,
    /// Keeps the layers from being removed.
    pub(crate) _lease: Lease,
}

impl Solved {
    /// Returns what is known of a step.
    pub(super) fn done(&self, at: VertexId) -> Option<&Done> {
        self.done.get(at.0)?.as_ref()
    }

    /// Returns what a step has made.
    pub(super) fn state(&self, at: VertexId) -> Option<&State> {
        self.done(at).map(|done| &done.state)
    }
}

impl Builder {
    /// Makes ready to build. What builds that were killed have left is removed.
    pub fn open(root: &Root, store: Arc<Store>, client: Arc<Client>, progress: Progress) -> Result<Self, BuildError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Io { action, path, source }
        };
        let build = root.data().join("build");
        make_directory(&build).map_err(io("create", &build))?;
        let path = build.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("open", &path))?;
        if lock.try_lock().is_ok() {
            clear(&build, &store).map_err(io("clear", &build))?;
            lock.unlock().map_err(io("unlock", &path))?;
        }
        lock.lock_shared().map_err(io("lock", &path))?;
        let program = sealed_exe().map_err(io("open", Path::new("/proc/self/exe")))?;
        let machine = Machine { root: root.clone(), host: Host::detect()?, program: Arc::new(program) };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self(Arc::new(Shop {
            store,
            machine,
            client,
            uplink: Uplink::new(root),
            progress,
            permits: Semaphore::new(cores.max(4)),
            images: Mutex::default(),
            seen: Mutex::default(),
            making: Mutex::default(),
            _lock: lock,
        })))
    }

    /// Makes an image known that steps may name.
    pub fn offer(&self, image: Image) {
        lock(&self.0.images).insert(image.digest, image);
    }

    /// Executes a graph.
    pub async fn solve(&self, request: Arc<Request>) -> Result<Solved, BuildError> {
        let shop = Arc::clone(&self.0);
        let store = Arc::clone(&shop.store);
        // It may have to wait for garbage collection.
        let lease = tokio::task::spawn_blocking(move || store.lease()).await.map_err(|_| BuildError::Interrupted)??;
        let mut solving: Vec<Solving> = Vec::new();
        // A step that fails ends those that run beside it.
        let stop = request.interrupt.child_token();
        for (number, vertex) in request.graph.vertices.iter().enumerate() {
            let inputs: Vec<(VertexId, Solving)> =
                vertex.operation.inputs().into_iter().map(|input| (input, solving[input.0].clone())).collect();
            let (shop, request) = (Arc::clone(&shop), Arc::clone(&request));
            let task = Task { shop, request, stop: stop.clone(), id: VertexId(number) };
            let stop = stop.clone();
            let solved = async move {
                let solved = task.solve(inputs).await;
                if solved.is_err() {
                    stop.cancel();
                }
                solved
            };
            solving.push(solved.boxed().shared());
        }
        let mut done = Vec::new();
        let mut failure: Option<Arc<BuildError>> = None;
        // A command that runs hears of the end itself, and its step ends with it.
        for ended in join_all(solving.iter().cloned()).await {
            match ended {
                Ok(ended) => done.push(Some(ended)),
                // That others were ended by it is no failure.
                Err(error) if failure.as_ref().is_none_or(|failure| failure.is_interruption()) => failure = Some(error),
                Err(_) => {}
            }
        }
        match failure {
            Some(_) if request.interrupt.is_cancelled() => return Err(BuildError::Interrupted),
            Some(error) => return Err(BuildError::Shared(error)),
            None => {}
        }
        for seen in lock(&shop.seen).values() {
            if let Err(error) = seen.keep() {
                tracing::warn!(%error, "cannot keep what is known of a build context");
            }
        }
        Ok(Solved { done, _lease: lease })
    }

    /// Removes what only this process's builds needed.
    pub async fn close(self) -> Result<(), UplinkError> {
        self.0.uplink.close().await
    }

    pub(crate) fn shop(&self) -> &Shop {
        &self.0
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what killed builds left: drafts of layers, places that were mounted on, directories.
fn clear(build: &Path, store: &Store) -> io::Result<()> {
    for (directory, ours) in [(build.join("tmp"), ""), (store.drafts(""), "build-")] {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(ours) {
                crate::image::remove::remove_path(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// One vertex of one build.
pub(super) struct Task {
    pub(super) shop: Arc<Shop>,
    pub(super) request: Arc<Request>,
    /// Ends the steps of this graph.
    pub(super) stop: CancellationToken,
    id: VertexId,
}

impl Task {
    pub(super) fn vertex(&self) -> &Vertex {
        self.request.graph.vertex(self.id)
    }

    pub(super) fn event(&self, phase: Phase) {
        (self.shop.progress)(Event {
            build: Arc::clone(&self.request.name),
            graph: self.request.number,
            vertex: self.id.0,
            name: self.vertex().name.as_str().into(),
            phase,
        });
    }

    /// Returns what a step ends with: one that was told to has not failed.
    pub(super) fn ended(&self, error: StepError) -> StepError {
        if self.stop.is_cancelled() { StepError::Interrupted } else { error }
    }

    pub(super) fn failed(&self, source: StepError, output: Vec<String>) -> BuildError {
        if matches!(source, StepError::Interrupted) {
            return BuildError::Interrupted;
        }
        BuildError::Step {
            name: self.vertex().name.clone(),
            at: self.vertex().at,
            output,
            before: None,
            source: Box::new(source),
        }
    }

    async fn solve(self, inputs: Vec<(VertexId, Solving)>) -> Result<Done, Arc<BuildError>> {
        let mut states = BTreeMap::new();
        for (id, ended) in futures_util::future::try_join_all(
            inputs.into_iter().map(|(id, input)| async move { input.await.map(|done| (id, done.state)) }),
        )
        .await?
        {
            states.insert(id, ended);
        }
        if self.stop.is_cancelled() {
            return Err(Arc::new(BuildError::Interrupted));
        }
        let request = Arc::clone(&self.request);
        match &request.graph.vertex(self.id).operation {
            Operation::Run(_) | Operation::Copy(_) | Operation::MakeDirectory(_) => self.layer(states).await,
            operation => {
                let begun = Instant::now();
                self.event(Phase::Started);
                let state = tokio::select! {
                    state = self.source(operation) => state,
                    () = self.stop.cancelled() => Err(StepError::Interrupted),
                };
                match state {
                    Ok(state) => {
                        self.event(Phase::Done(begun.elapsed()));
                        Ok(Done { state, step: None, key: None })
                    }
                    Err(error) => {
                        self.event(Phase::ended(begun, &error));
                        Err(self.failed(error, Vec::new()).into())
                    }
                }
            }
        }
    }

    /// Has what stands at the beginning of a graph.
    async fn source(&self, operation: &Operation) -> Result<State, StepError> {
        let shop = &self.shop;
        match operation {
            Operation::Image(ImageSource { reference, digest, .. }) => {
                let image = shop.image(digest);
                let there = image.filter(|image| image.diff_ids.iter().all(|id| shop.store.has_layer(id)));
                let image = there.ok_or_else(|| StepError::NoImage(reference.clone()))?;
                Ok(State::Layers(Arc::new(image.diff_ids)))
            }
            Operation::Scratch => Ok(State::Layers(Arc::default())),
            Operation::Context(context) => {
                let no_context = || StepError::NoContext(context.name.clone());
                let directory = match self.request.contexts.get(&context.name).ok_or_else(no_context)? {
                    Files::Directory(directory) => directory.clone(),
                    Files::Fetched(fetched) => return Ok(State::Directory(Arc::clone(&fetched.0))),
                };
                let ignore = Patterns::new(&context.ignore)
                    .map_err(|_| StepError::Pattern { pattern: context.ignore.join("\n") })?;
                let known = shop.machine.root.data().join("build/contexts");
                let seen = Arc::clone(
                    lock(&shop.seen)
                        .entry(directory.clone())
                        .or_insert_with(|| Arc::new(Seen::open(&known, &directory))),
                );
                Ok(State::Context { directory, ignore: Arc::new(ignore), seen })
            }
            Operation::Inline(inline) => {
                let directory = shop.temporary()?;
                let path = directory.0.join(inline.name.trim_start_matches('/'));
                fs::write(&path, &inline.contents)
                    .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(inline.mode)))
                    .map_err(|source| StepError::Io { action: "write", path, source })?;
                Ok(State::Directory(Arc::new(directory)))
            }
            Operation::Http(http) => {
                let file = web::fetch(shop, http, |received| self.event(Phase::Received(received, None))).await?;
                let (shop, name) = (Arc::clone(shop), http.name.clone());
                let placed = blocking(move || web::place(&shop, file, &name)).await?;
                Ok(State::Directory(Arc::new(placed)))
            }
            Operation::Git(git) => {
                let keys = repository::keys(&self.request.keyring, &git.remote)?;
                Ok(State::Directory(Arc::new(repository::fetch(shop, git, keys).await?)))
            }
            Operation::Run(_) | Operation::Copy(_) | Operation::MakeDirectory(_) => Err(StepError::Worker),
        }
    }

    /// Has the layer that a step makes.
    async fn layer(self, states: BTreeMap<VertexId, State>) -> Result<Done, Arc<BuildError>> {
        let task = Arc::new(self);
        let below = task.below(&states).map_err(|error| task.failed(error, Vec::new()))?;
        let begun = Instant::now();
        let work = Work { task: Arc::clone(&task), below: Arc::clone(&below), states: Arc::new(states) };
        let work = Arc::new(work);
        let (key, found) = {
            let work = Arc::clone(&work);
            blocking(move || work.key()).await.map_err(|error| {
                let error = task.ended(error);
                task.event(Phase::Started);
                task.event(Phase::ended(begun, &error));
                task.failed(error, Vec::new())
            })?
        };
        let known = if task.vertex().no_cache {
            None
        } else {
            let own = task.shop.store.step(&key).map_err(|error| task.failed(error.into(), Vec::new()))?;
            match own {
                Some(step) => Some(step),
                None => task.imported(&key).await,
            }
        };
        let step = if let Some(step) = known {
            task.event(Phase::Cached);
            step
        } else {
            task.made(&work, key, &found, begun).await?
        };
        let mut layers = Vec::clone(&below);
        layers.push(step.layer);
        Ok(Done { state: State::Layers(Arc::new(layers)), step: Some(step), key: Some(key) })
    }

    /// Has the layer of a step from a cache that the build was given. One that cannot be had is as good as none.
    async fn imported(&self, key: &StepKey) -> Option<Step> {
        let store = &self.shop.store;
        for cache in &self.request.caches {
            let Some(layer) = cache.get(key) else { continue };
            let step = Step {
                layer: layer.diff_id,
                size: 0,
                created: layer.created,
                name: self.vertex().name.clone(),
                used: None,
            };
            let fetched = match cache.fetch(store, layer).await {
                Ok(()) => {
                    let size = store.layer_size(&layer.diff_id).map_or(0, |unpacked| unpacked.bytes);
                    let step = Step { size, ..step };
                    store.remember_step(key, &step).map(|()| step).map_err(CacheError::from)
                }
                Err(error) => Err(error),
            };
            match fetched {
                Ok(step) => return Some(step),
                Err(error) => {
                    self.event(Phase::Started);
                    self.event(Phase::Remark(vec![format!("cannot be taken from the cache: {error}")]));
                }
            }
        }
        None
    }

    /// Makes a layer, or waits for another build of this process that makes the same.
    async fn made(
        &self,
        work: &Arc<Work>,
        key: StepKey,
        found: &Arc<Finds>,
        begun: Instant,
    ) -> Result<Step, Arc<BuildError>> {
        loop {
            let (making, ours) = {
                let mut all = lock(&self.shop.making);
                let ours = !all.contains_key(&key);
                let make = || Arc::clone(work).make(key, Arc::clone(found), begun).boxed().shared();
                (all.entry(key).or_insert_with(make).clone(), ours)
            };
            match making.clone().await {
                // The other build has failed elsewhere, and does not need it any more.
                Err(error) if !ours && error.is_interruption() && !self.stop.is_cancelled() => {
                    let mut all = lock(&self.shop.making);
                    if all.get(&key).is_some_and(|there| there.ptr_eq(&making)) {
                        all.remove(&key);
                    }
                }
                made => {
                    if made.is_ok() && !ours {
                        self.event(Phase::Cached);
                    }
                    return made;
                }
            }
        }
    }

    /// Returns the layers of the file system that a step changes.
    fn below(&self, states: &BTreeMap<VertexId, State>) -> Result<Arc<Vec<Digest>>, StepError> {
        let on = match &self.vertex().operation {
            Operation::Run(run) => run.on,
            Operation::Copy(copy) => copy.on,
            Operation::MakeDirectory(make) => make.on,
            _ => return Err(StepError::Worker),
        };
        match states.get(&on) {
            Some(State::Layers(layers)) => Ok(Arc::clone(layers)),
            _ => Err(StepError::Worker),
        }
    }
}

/// How long a step took, as BuildKit writes it.
pub fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}
