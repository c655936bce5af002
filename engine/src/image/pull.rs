//! Pulls an image: finds its manifest, then fetches, checks, keeps, decompresses and unpacks its layers, all in one
//! pass and several layers at a time.
//!
//! A layer that is here already is not fetched; one that another pull (of this process or another) is fetching is waited
//! for. Memory stays bounded: between the network and the disk there are a few chunks per layer in work.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::{Buf, Bytes};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::builtin::{self, BuiltinError};
use super::config::{ConfigError, Image, ParsedConfig};
use super::digest::Digest;
use super::layer::LayerJob;
use super::manifest::{Descriptor, Document, Manifest, ManifestError, Platform};
use super::reference::Reference;
use super::registry::{Client, DownloadEvent, FetchedManifest, RegistryError};
use super::settings::Endpoint;
use super::store::{CHECKED, PreparedBlob, SOURCE_DIGEST, Store, StoreError};
use super::unpack::Limits;

/// Chunks between the network and the unpacking thread of one layer; a chunk has at most some hundred KiB.
pub(super) const CHUNKS: usize = 16;
/// Layers of one image that are in work or wait for another process at once: each has a thread and two files open.
const LAYERS_AT_ONCE: usize = 32;
/// Bytes between two progress reports of one layer.
const REPORT_EVERY: u64 = 256 * 1024;

/// What pulls of one process have in common.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Speaks with the registries.
    pub client: Arc<Client>,
    /// What machine the image is for; this one's if it is `None`.
    pub platform: Option<Platform>,
    /// What a layer may be at most.
    pub limits: Limits,
    /// When to give up a pull as a whole.
    pub deadline: Option<Duration>,
    /// The engine's own static binary, which the built-in image is made of.
    pub builtin: Option<PathBuf>,
    /// How many layers are worked on at once, of all images together.
    pub jobs: Arc<Semaphore>,
}

impl PullOptions {
    /// Returns the usual options: this machine's platform, and as many layers at once as there are cores, but three.
    pub fn new(client: Arc<Client>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            client,
            platform: None,
            limits: Limits::default(),
            deadline: None,
            builtin: None,
            jobs: Arc::new(Semaphore::new(cores.max(3))),
        }
    }
}

/// Is told how pulls go on. Called from several threads; it should be quick.
pub type Progress = Arc<dyn Fn(PullEvent) + Send + Sync>;

/// Returns a [`Progress`] that is not interested.
pub fn no_progress() -> Progress {
    Arc::new(|_| ())
}

/// One step of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullEvent {
    /// The image as it was asked for.
    pub image: Reference,
    /// The layer that this is about, if it is about one.
    pub layer: Option<Digest>,
    /// What happens.
    pub phase: PullPhase,
    /// Bytes of the layer (compressed) that are done.
    pub current: u64,
    /// Bytes of the layer (compressed).
    pub total: u64,
}

/// What happens in a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullPhase {
    /// The registry is asked for the manifest.
    Resolving,
    /// The manifest is here; `total` is the size of all layers together.
    Resolved {
        /// How many layers there are.
        layers: usize,
    },
    /// The layer waits for its turn.
    Pending,
    /// Another pull fetches the layer.
    Waiting,
    /// The layer comes, and is unpacked as it comes.
    Downloading,
    /// The layer's connection broke; it is taken up again.
    Retrying {
        /// What went wrong.
        message: String,
    },
    /// The layer has come; the rest of it is being unpacked.
    Extracting,
    /// The layer was here already.
    Exists,
    /// The layer is done.
    Complete,
    /// The image is done.
    Done {
        /// Whether anything about the name has changed.
        updated: bool,
        /// The digest that the registry has under the name.
        digest: Digest,
    },
}

/// Why an image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A registry did not do what it was asked for.
    #[error("cannot pull {image}: {source}")]
    Registry {
        /// The image.
        image: String,
        /// What went wrong.
        #[source]
        source: Box<RegistryError>,
    },
    /// No registry has the image.
    #[error("manifest for {image} not found: {source}")]
    NotFound {
        /// The image.
        image: String,
        /// What the registry said.
        #[source]
        source: Box<RegistryError>,
    },
    /// The registry does not show the image to us, or does not have it.
    #[error("pull access denied for {image}, repository does not exist or may require 'rcompose login': {source}")]
    Denied {
        /// The image.
        image: String,
        /// What the registry said.
        #[source]
        source: Box<RegistryError>,
    },
    /// The image is none that can be used here.
    #[error("cannot pull {image}: {source}")]
    Manifest {
        /// The image.
        image: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The image's configuration is not usable.
    #[error("cannot pull {image}: {source}")]
    Config {
        /// The image.
        image: String,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// The disk is full.
    #[error("cannot pull {image}: no space left for it: {source}")]
    DiskFull {
        /// The image.
        image: String,
        /// What was being written.
        #[source]
        source: Box<StoreError>,
    },
    /// The store cannot take it: what came is wrong, or the disk is.
    #[error("cannot pull {image}: {source}")]
    Store {
        /// The image.
        image: String,
        /// What went wrong.
        #[source]
        source: Box<StoreError>,
    },
    /// The built-in image cannot be made.
    #[error("cannot make {image}: {source}")]
    Builtin {
        /// The image.
        image: String,
        /// What went wrong.
        #[source]
        source: Box<BuiltinError>,
    },
    /// It took too long.
    #[error("cannot pull {image}: not done within {} s", limit.as_secs())]
    Deadline {
        /// The image.
        image: String,
        /// What was allowed.
        limit: Duration,
    },
    /// A thread of ours died.
    #[error("cannot pull {image}: a worker stopped unexpectedly")]
    Worker {
        /// The image.
        image: String,
    },
}

impl PullError {
    /// Tells whether the registry was asked and does not have, or does not show, the image.
    pub fn is_unknown_image(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Denied { .. })
    }

    fn registry(image: &Reference, source: RegistryError) -> Self {
        let image = image.familiar();
        let source = Box::new(source);
        match *source {
            RegistryError::NotFound { .. } => Self::NotFound { image, source },
            RegistryError::Denied { .. } => Self::Denied { image, source },
            _ => Self::Registry { image, source },
        }
    }

    pub(super) fn store(image: &Reference, source: StoreError) -> Self {
        let image = image.familiar();
        let source = Box::new(source);
        if source.is_disk_full() { Self::DiskFull { image, source } } else { Self::Store { image, source } }
    }
}

/// Pulls an image, so that it is in the store under the reference, with all layers unpacked.
///
/// Dropping the future gives the pull up; what is half done is removed, but for downloads that a later pull goes on with.
pub async fn pull(
    store: &Arc<Store>,
    reference: &Reference,
    options: &PullOptions,
    progress: &Progress,
) -> Result<Image, PullError> {
    let work = async {
        if builtin::is_builtin(reference) {
            return make_builtin(store, reference, options).await;
        }
        Pulling { store, reference, options, progress }.run().await
    };
    match options.deadline {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(PullError::Deadline { image: reference.familiar(), limit })),
    }
}

/// Asks the registry which image it has under a reference for the options' platform. Returns the reference by the digest of its
/// manifest.
pub async fn resolve(reference: &Reference, options: &PullOptions) -> Result<Reference, PullError> {
    let failed = |error| PullError::registry(reference, error);
    let found = options.client.manifest(reference).await.map_err(failed)?;
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let digest = match &found.document {
        Document::Manifest(_) => found.digest,
        Document::Index(index) => {
            let chosen = index.choose(&platform);
            chosen.map_err(|source| PullError::Manifest { image: reference.familiar(), source })?.digest
        }
    };
    Ok(format!("{}@{digest}", reference.name()).parse().expect("made of a valid name and a digest"))
}

/// Returns an image that is in the store, after unpacking those of its layers that are not, from their blobs.
///
/// That happens to images that another tool copied into the store, and after a power cut.
pub async fn prepare(
    store: &Arc<Store>,
    reference: &Reference,
    options: &PullOptions,
    progress: &Progress,
) -> Result<Option<Image>, PullError> {
    let failed = |error| PullError::store(reference, error);
    if builtin::is_builtin(reference) && options.builtin.is_some() {
        return make_builtin(store, reference, options).await.map(Some);
    }
    if let Some(image) = store.get(reference).map_err(failed)? {
        return Ok(Some(image));
    }
    let pull = Pulling { store, reference, options, progress };
    let _lease = pull.lease().await?;
    let Some(image) = store.load_by_name(reference).map_err(failed)? else {
        return Ok(None);
    };
    let missing: Vec<usize> = (0..image.diff_ids.len()).filter(|at| !store.has_layer(&image.diff_ids[*at])).collect();
    if missing.iter().any(|at| !store.has_blob(&image.layers[*at].digest)) {
        return Ok(None);
    }
    pull.fetch_layers(None, &image.layers, &image.diff_ids).await?;
    store.get(reference).map_err(failed)
}

pub(super) async fn make_builtin(
    store: &Arc<Store>,
    reference: &Reference,
    options: &PullOptions,
) -> Result<Image, PullError> {
    let failed = |source| PullError::Builtin { image: reference.familiar(), source: Box::new(source) };
    let binary = options.builtin.clone().ok_or_else(|| failed(BuiltinError::NoBinary))?;
    let (store, name) = (Arc::clone(store), reference.clone());
    tokio::task::spawn_blocking(move || builtin::ensure(&store, &name, &binary))
        .await
        .map_err(|_| PullError::Worker { image: reference.familiar() })?
        .map_err(failed)
}

/// One image being pulled.
pub(super) struct Pulling<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) reference: &'a Reference,
    pub(super) options: &'a PullOptions,
    pub(super) progress: &'a Progress,
}

impl Pulling<'_> {
    async fn run(&self) -> Result<Image, PullError> {
        let reference = self.reference;
        let registry_failed = |error| PullError::registry(reference, error);
        let store_failed = |error| PullError::store(reference, error);
        let client = &self.options.client;
        self.report(None, PullPhase::Resolving, 0, 0);
        let found = client.manifest(reference).await.map_err(registry_failed)?;
        let source_digest = found.digest;
        let platform = self.options.platform.clone().unwrap_or_else(Platform::host);
        let (manifest, fetched) = self.choose(found, &platform).await?;
        let total = manifest.layers.iter().map(|layer| layer.size).sum();
        self.report(None, PullPhase::Resolved { layers: manifest.layers.len() }, 0, total);

        let _lease = self.lease().await?;
        let (parsed, documents) = self.contents(&manifest, &fetched).await?;

        let mut entry = Descriptor::new(&fetched.media_type, fetched.digest, fetched.bytes.len() as u64);
        entry.platform = Some(parsed.platform);
        entry = entry.with_annotation(CHECKED, jiff::Timestamp::now().to_string());
        if source_digest != fetched.digest {
            entry = entry.with_annotation(SOURCE_DIGEST, source_digest.to_string());
        }
        let (store, name) = (Arc::clone(self.store), reference.clone());
        let (image, updated) = tokio::task::spawn_blocking(move || {
            // So that what is entered can be found.
            let _hold = store.hold()?;
            documents.into_iter().try_for_each(PreparedBlob::publish)?;
            let before = store.get(&name)?.map(|image| image.digest);
            // A reference by digest alone, or by both, is entered by its digest: the tag was not asked about.
            let name = match name.digest() {
                Some(digest) => format!("{}@{digest}", name.name()).parse().expect("made of a valid reference"),
                None => name,
            };
            store.set_entry(&name, entry)?;
            let image = store.get(&name)?.ok_or_else(|| StoreError::NoSuchImage(name.familiar()))?;
            let updated = before != Some(image.digest);
            Ok((image, updated))
        })
        .await
        .map_err(|_| PullError::Worker { image: reference.familiar() })?
        .map_err(store_failed)?;
        self.report(None, PullPhase::Done { updated, digest: source_digest }, total, total);
        Ok(Image { reference: reference.clone(), ..image })
    }

    /// Fetches again what is missing of an image that the store has, whose reference is by its manifest's digest.
    pub(super) async fn fetch_exactly(&self) -> Result<(), PullError> {
        let reference = self.reference;
        self.report(None, PullPhase::Resolving, 0, 0);
        let found =
            self.options.client.manifest(reference).await.map_err(|error| PullError::registry(reference, error))?;
        let Document::Manifest(manifest) = &found.document else {
            let source = ManifestError::Unsupported { found: "an index in place of a manifest".to_owned() };
            return Err(PullError::Manifest { image: reference.familiar(), source });
        };
        let total = manifest.layers.iter().map(|layer| layer.size).sum();
        self.report(None, PullPhase::Resolved { layers: manifest.layers.len() }, 0, total);
        let (_, documents) = self.contents(manifest, &found).await?;
        let digest = found.digest;
        let store = Arc::clone(self.store);
        let stored = on_thread("image-store", move || {
            documents.into_iter().try_for_each(PreparedBlob::publish)?;
            store.sync_blobs()
        });
        let stored = stored.await.map_err(|_| PullError::Worker { image: reference.familiar() })?;
        stored.map_err(|error| PullError::store(reference, error))?;
        self.report(None, PullPhase::Done { updated: false, digest }, total, total);
        Ok(())
    }

    /// Makes sure that all layers are here, and returns the configuration, and it and the manifest as blobs to be stored.
    async fn contents(
        &self,
        manifest: &Manifest,
        fetched: &FetchedManifest,
    ) -> Result<(ParsedConfig, [PreparedBlob; 2]), PullError> {
        let reference = self.reference;
        let endpoint = &fetched.endpoint;
        let config = match self.store.read_blob(&manifest.config.digest, manifest.config.size) {
            Ok(config) => config,
            Err(StoreError::MissingBlob { .. }) => {
                let fetched = self.options.client.small_blob(endpoint, reference, &manifest.config).await;
                fetched.map_err(|error| PullError::registry(reference, error))?
            }
            Err(error) => return Err(PullError::store(reference, error)),
        };
        let parsed = ParsedConfig::parse(&config, manifest.layers.len())
            .map_err(|source| PullError::Config { image: reference.familiar(), source })?;
        // The disk has them by the time the layers are here.
        let (store, bytes) = (Arc::clone(self.store), fetched.bytes.clone());
        let prepared = on_thread("image-store", move || -> Result<_, StoreError> {
            Ok([store.prepare_blob(&config)?, store.prepare_blob(&bytes)?])
        });
        let fetched = self.fetch_layers(Some(endpoint), &manifest.layers, &parsed.diff_ids).await;
        // Also after a failure: who is told of it finds nothing half made.
        let prepared = prepared.await.map_err(|_| PullError::Worker { image: reference.familiar() })?;
        fetched?;
        Ok((parsed, prepared.map_err(|error| PullError::store(reference, error))?))
    }

    /// Follows an index to the manifest for a platform.
    async fn choose(
        &self,
        found: FetchedManifest,
        platform: &Platform,
    ) -> Result<(Manifest, FetchedManifest), PullError> {
        let reference = self.reference;
        let bad = |source| PullError::Manifest { image: reference.familiar(), source };
        let fetched = match &found.document {
            Document::Manifest(_) => found,
            Document::Index(index) => {
                let entry = index.choose(platform).map_err(bad)?;
                self.options
                    .client
                    .manifest_by_digest(&found.endpoint, reference, entry)
                    .await
                    .map_err(|error| PullError::registry(reference, error))?
            }
        };
        match &fetched.document {
            Document::Manifest(manifest) => Ok((manifest.clone(), fetched)),
            // Indexes within indexes could go on for ever.
            Document::Index(_) => Err(bad(ManifestError::Unsupported { found: "an index within an index".to_owned() })),
        }
    }

    /// Makes sure that layers are in the store and unpacked; without an endpoint, from what is there.
    pub(super) async fn fetch_layers(
        &self,
        endpoint: Option<&Endpoint>,
        layers: &[Descriptor],
        diff_ids: &[Digest],
    ) -> Result<(), PullError> {
        let mut tasks = JoinSet::new();
        // Every worker holds a sender; when the last one is gone, so are the threads and what they had half done.
        let (working, mut finished) = mpsc::channel::<()>(1);
        let failed = Arc::new(AtomicBool::new(false));
        let mut started = std::collections::HashSet::new();
        let slots = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
        for (descriptor, diff_id) in layers.iter().zip(diff_ids) {
            // Images have the same (mostly empty) layer several times.
            if !started.insert((descriptor.digest, *diff_id)) {
                continue;
            }
            let job = LayerJob { descriptor: descriptor.clone(), diff_id: *diff_id, limits: self.options.limits };
            if self.store.has_layer(diff_id) && self.store.has_blob(&descriptor.digest) {
                self.report(Some(descriptor.digest), PullPhase::Exists, descriptor.size, descriptor.size);
                continue;
            }
            self.report(Some(descriptor.digest), PullPhase::Pending, 0, descriptor.size);
            let task = LayerTask {
                store: Arc::clone(self.store),
                reference: self.reference.clone(),
                options: self.options.clone(),
                progress: Arc::clone(self.progress),
                endpoint: endpoint.cloned(),
                job,
                failed: Arc::clone(&failed),
            };
            let (slots, working) = (Arc::clone(&slots), working.clone());
            tasks.spawn(async move {
                let _slot = slots.acquire_owned().await.expect("the semaphore is never closed");
                fetch_layer(task, working).await
            });
        }
        let mut failure = None;
        while let Some(result) = tasks.join_next().await {
            let result = match result {
                Ok(result) => result,
                Err(error) if error.is_cancelled() => Ok(()),
                Err(_) => Err(PullError::Worker { image: self.reference.familiar() }),
            };
            if let Err(error) = result
                && failure.is_none()
            {
                failure = Some(error);
                failed.store(true, Ordering::Relaxed);
                tasks.abort_all();
            }
        }
        drop(working);
        while finished.recv().await.is_some() {}
        failure.map_or(Ok(()), Err)
    }

    pub(super) async fn lease(&self) -> Result<super::store::Lease, PullError> {
        let store = Arc::clone(self.store);
        // Garbage collection may be at work.
        on_thread("image-lease", move || store.lease())
            .await
            .map_err(|_| PullError::Worker { image: self.reference.familiar() })?
            .map_err(|error| PullError::store(self.reference, error))
    }

    fn report(&self, layer: Option<Digest>, phase: PullPhase, current: u64, total: u64) {
        (self.progress)(PullEvent { image: self.reference.clone(), layer, phase, current, total });
    }
}

struct LayerTask {
    store: Arc<Store>,
    reference: Reference,
    options: PullOptions,
    progress: Progress,
    endpoint: Option<Endpoint>,
    job: LayerJob,
    /// Another layer of the image failed.
    failed: Arc<AtomicBool>,
}

impl LayerTask {
    fn report(&self, phase: PullPhase, current: u64) {
        (self.progress)(PullEvent {
            image: self.reference.clone(),
            layer: Some(self.job.descriptor.digest),
            phase,
            current,
            total: self.job.descriptor.size,
        });
    }

    fn worker(&self) -> PullError {
        PullError::Worker { image: self.reference.familiar() }
    }
}

/// `working` is held by whatever makes files, for as long as it does.
async fn fetch_layer(task: LayerTask, working: mpsc::Sender<()>) -> Result<(), PullError> {
    let task = Arc::new(task);
    let mut is_resumed = false;
    match try_fetch_layer(&task, working.clone(), &mut is_resumed).await {
        // The machine may have gone down while the first part was written: what was thought to be there is not.
        Err(PullError::Store { source, .. }) if is_resumed => {
            task.report(PullPhase::Retrying { message: source.to_string() }, 0);
            try_fetch_layer(&task, working, &mut is_resumed).await
        }
        result => result,
    }
}

async fn try_fetch_layer(
    task: &Arc<LayerTask>,
    working: mpsc::Sender<()>,
    is_resumed: &mut bool,
) -> Result<(), PullError> {
    let size = task.job.descriptor.size;
    // The lock before the permit: who waits for another process must not keep others from working.
    let locks = {
        let (waiting, held) = (Arc::clone(task), std::cell::Cell::new(Some(working.clone())));
        on_thread("image-lock", move || {
            let locked = waiting.store.lock_layer(&waiting.job, || {
                // A pull that fails does not wait for another process.
                held.take();
                waiting.report(PullPhase::Waiting, 0);
            });
            (locked, held)
        })
        .await
        .map_err(|_| task.worker())?
        .0
        .map_err(|error| PullError::store(&task.reference, error))?
    };
    if task.store.has_layer(&task.job.diff_id) && task.store.has_blob(&task.job.descriptor.digest) {
        task.report(PullPhase::Exists, size);
        return Ok(());
    }
    let permit = Arc::clone(&task.options.jobs).acquire_owned().await.expect("the semaphore is never closed");
    task.report(PullPhase::Downloading, 0);
    if task.store.has_blob(&task.job.descriptor.digest) {
        let unpacking = Arc::clone(task);
        let unpacked = on_thread("image-unpack", move || {
            let _held = (locks, working);
            let path = unpacking.store.blob_path(&unpacking.job.descriptor.digest);
            let file = File::open(&path).map_err(|source| StoreError::Io { action: "open", path, source })?;
            let received = unpacking.store.receive_layer(&unpacking.job, file, None, || false)?;
            drop(permit);
            unpacking.store.commit_layer(&unpacking.job, received)
        })
        .await
        .map_err(|_| task.worker())?;
        return finish(task, unpacked);
    }
    let Some(endpoint) = &task.endpoint else {
        let error = StoreError::MissingBlob { digest: task.job.descriptor.digest };
        return Err(PullError::store(&task.reference, error));
    };
    let (blob, resumed) = match task.store.partial_blob(&task.job.descriptor.digest) {
        Ok((blob, length)) if length <= size => (blob, length),
        // Longer than it can be: from something else. It is written over from the start.
        Ok((blob, _)) => {
            blob.file()
                .set_len(0)
                .map_err(|source| StoreError::Read { layer: task.job.descriptor.digest, source })
                .map_err(|error| PullError::store(&task.reference, error))?;
            (blob, 0)
        }
        Err(error) => return Err(PullError::store(&task.reference, error)),
    };
    *is_resumed = resumed > 0;
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let unpacking = {
        let task = Arc::clone(task);
        on_thread("image-unpack", move || {
            let _held = (locks, working);
            let mut source = ChannelReader::new(receiver);
            let abandoned = std::cell::Cell::new(false);
            let watched = Watched { source: &mut source, abandoned: &abandoned };
            // What a download that was given up has fetched is good for the next one; after a failure, nothing is kept.
            let received = task.store.receive_layer(&task.job, watched, Some((blob, resumed)), || {
                abandoned.get() && !task.failed.load(Ordering::Relaxed)
            })?;
            // Who waits for the disk leaves the processor to the next layer.
            drop(permit);
            task.store.commit_layer(&task.job, received)
        })
    };
    let reported = AtomicU64::new(0);
    let report = |event: DownloadEvent| match event {
        DownloadEvent::Progress(current) => {
            if current == size {
                task.report(PullPhase::Extracting, current);
            } else if current >= reported.load(Ordering::Relaxed) + REPORT_EVERY {
                reported.store(current, Ordering::Relaxed);
                task.report(PullPhase::Downloading, current);
            }
        }
        DownloadEvent::Retry { message } => {
            task.report(PullPhase::Retrying { message }, reported.load(Ordering::Relaxed));
        }
    };
    let client = &task.options.client;
    let download = client.blob(endpoint, &task.reference, &task.job.descriptor, resumed, sender.clone(), &report);
    let downloaded = download.await;
    // The end is said, so that it cannot be mistaken for a download that was given up.
    drop(sender.send(if downloaded.is_ok() { Ok(Bytes::new()) } else { Err(()) }).await);
    let unpacked = unpacking.await.map_err(|_| task.worker())?;
    match downloaded {
        // The receiver went away, so it has something to say.
        Err(RegistryError::Abandoned) | Ok(()) => finish(task, unpacked),
        Err(error) => Err(PullError::registry(&task.reference, error)),
    }
}

fn finish(task: &LayerTask, unpacked: Result<(), StoreError>) -> Result<(), PullError> {
    match unpacked {
        Ok(()) => {
            task.report(PullPhase::Complete, task.job.descriptor.size);
            Ok(())
        }
        Err(error) => Err(PullError::store(&task.reference, error)),
    }
}

/// Runs something that blocks on a thread of its own, which the runtime does not wait for when it ends.
pub(crate) fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever asked may have given up.
        drop(sender.send(work()));
    });
    if let Err(error) = spawned {
        // The receiver hears that the sender is gone.
        tracing::error!(%error, "cannot start a thread");
    }
    receiver
}

/// Reads what comes through a channel. An empty chunk is the end.
pub(super) struct ChannelReader {
    receiver: mpsc::Receiver<Result<Bytes, ()>>,
    current: Bytes,
    ended: bool,
    abandoned: bool,
}

impl ChannelReader {
    pub(super) fn new(receiver: mpsc::Receiver<Result<Bytes, ()>>) -> Self {
        Self { receiver, current: Bytes::new(), ended: false, abandoned: false }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.ended = chunk.is_empty();
                    self.current = chunk;
                }
                Some(Err(())) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download failed")),
                None => {
                    self.abandoned = true;
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download was given up"));
                }
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Lets the caller see, after the reader was moved, that it ended because nobody sends any more.
struct Watched<'a> {
    source: &'a mut ChannelReader,
    abandoned: &'a std::cell::Cell<bool>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.source.read(buffer);
        self.abandoned.set(self.source.abandoned);
        result
    }
}
