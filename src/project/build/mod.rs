//! Images that are built: from a context and a Dockerfile to steps, and from those to an image of the store.

mod agent;
pub mod bake;
mod cache;
mod context;
mod csv;
mod deliver;
pub mod output;
pub mod recipe;
pub mod service;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rcompose_engine::build::check::Warning;
use rcompose_engine::build::dispatch::{Asked, Dispatched, Options, Plan, dispatch};
use rcompose_engine::build::dockerfile::{Dockerfile, Fault};
use rcompose_engine::build::graph::{Base, Graph, ImageRequest, ImageSource, Operation, Span, VertexId};
use rcompose_engine::build::{Aside, BuildError, Builder, Progress, Request, Solved, StepError, UplinkError};
use rcompose_engine::error::chain;
use rcompose_engine::image::{
    CacheSource, Descriptor, Digest, Image, ImportedCache, LayoutError, Platform, PlatformError,
    Progress as PullProgress, PullError, PullOptions, PullPhase, PushError, PushProgress, Reference, ReferenceError,
    Store, StoreError, prepare, pull, push_as, resolve,
};
use rcompose_engine::root::Root;
use tokio_util::sync::CancellationToken;

use self::cache::{CachePlace, CacheTarget};
pub use self::context::ignored_of;
use self::context::{Gathered, Kept};
pub use self::deliver::Delivered;
use self::deliver::{DeliverError, deliver};
use self::recipe::{Recipe, SOURCE_DATE_EPOCH, Sbom};
use super::platform::runs;

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum FailedBuild {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is longer than {limit} MiB", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("unable to prepare context: path {:?} not found", .0)]
    NoContext(PathBuf),
    #[error("failed to get build context {name}: {} is no directory", path.display())]
    NoNamedContext { name: String, path: PathBuf },
    #[error(
        "failed to find target {target} for context {name}: targets are those of bake files; build it, and name its image"
    )]
    NoTarget { name: String, target: String },
    #[error("failed to read dockerfile: open {}: no such file or directory", .0)]
    NoDockerfile(String),
    #[error("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")]
    Ambiguous,
    #[error("{0}: a build context must be an archive")]
    NoArchive(String),
    #[error("{0}: a Dockerfile must be a text, and this is an archive")]
    NoText(String),
    #[error("failed to read the build context {context}")]
    Context {
        context: String,
        #[source]
        source: Box<StepError>,
    },
    #[error("interrupted")]
    Interrupted,
    #[error("{source}")]
    Dockerfile {
        #[source]
        source: Box<Fault>,
        /// What it is called, and its text.
        file: Box<(String, String)>,
    },
    #[error("named context {name:?}: {source}")]
    NamedContext {
        name: String,
        #[source]
        source: Box<Fault>,
    },
    #[error("invalid reference format: {reference:?}")]
    Reference {
        reference: String,
        #[source]
        source: ReferenceError,
    },
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("{reference}: failed to resolve source metadata")]
    Pull {
        reference: String,
        #[source]
        source: Box<PullError>,
    },
    #[error("{source}")]
    Base {
        #[source]
        source: Box<FailedBuild>,
        /// Where in the Dockerfile the image is asked for.
        asked: Asked,
        /// What the Dockerfile is called, and its text.
        file: Box<(String, String)>,
    },
    #[error("cannot read the configuration of image {reference}")]
    Configuration {
        reference: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("SOURCE_DATE_EPOCH is {0:?}, and not a number of seconds")]
    Epoch(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{source}")]
    Build {
        #[source]
        source: Box<BuildError>,
        /// What the Dockerfile is called, and its text.
        file: Box<(String, String)>,
    },
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    #[error("{0}")]
    Generator(#[source] Box<StepError>),
    #[error("cannot write the cache")]
    Cache(#[from] PushError),
    #[error(
        "{step}: this machine cannot execute programs for {platform}: no handler of binfmt_misc is registered for them \
         (packages such as qemu-user-static register some)"
    )]
    Foreign { step: String, platform: Platform },
}

/// What became of a recipe.
#[derive(Debug)]
pub struct Outcome {
    pub delivered: Delivered,
    pub warnings: Vec<Warning>,
    /// What it asked for and did not get.
    pub notices: Vec<String>,
    /// What the Dockerfile is called, and its text.
    pub file: (String, String),
}

/// The steps for one platform, executed.
struct Executed {
    build: (Arc<Request>, Arc<Solved>),
    warnings: Vec<Warning>,
    notices: Vec<String>,
    file: (String, String),
}

/// What several builds have in common.
#[derive(Debug, Clone)]
pub struct Workshop {
    store: Arc<Store>,
    builder: Builder,
    pull: PullOptions,
    interrupt: CancellationToken,
    kept: Kept,
}

impl Workshop {
    /// Makes ready to build.
    pub fn open(
        root: &Root,
        pull: PullOptions,
        progress: Progress,
        interrupt: CancellationToken,
    ) -> Result<Self, FailedBuild> {
        let store = Arc::new(Store::open(root.data())?);
        let builder = Builder::open(root, Arc::clone(&store), Arc::clone(&pull.client), progress);
        let no_file = || Box::new((String::new(), String::new()));
        let builder = builder.map_err(|source| FailedBuild::Build { source: Box::new(source), file: no_file() })?;
        Ok(Self { store, builder, pull, interrupt, kept: Kept::default() })
    }

    /// Removes what only these builds needed.
    pub async fn close(self) -> Result<(), FailedBuild> {
        Ok(self.builder.close().await?)
    }

    /// Reads a recipe's Dockerfile and makes steps of it. Nothing is executed, but images that it is built on are fetched.
    pub async fn plan(&self, recipe: &Recipe, platform: &Platform) -> Result<(Plan, (String, String)), FailedBuild> {
        let gathered = self.gather(recipe).await?;
        let (name, bytes) = &gathered.dockerfile;
        let text = String::from_utf8_lossy(bytes).into_owned();
        let file = || Box::new((name.clone(), text.clone()));
        let failed = |source| FailedBuild::Dockerfile { source: Box::new(source), file: file() };
        let dockerfile = Dockerfile::parse(bytes).map_err(failed)?;
        let options = Self::options(recipe, platform, &gathered);
        let mut bases: BTreeMap<ImageRequest, Base> = BTreeMap::new();
        loop {
            match dispatch(&dockerfile, &options, &bases).map_err(|refused| failed(refused.fault))? {
                Dispatched::Graph(plan) => return Ok((*plan, (name.clone(), text))),
                Dispatched::Needs(requests) => {
                    let wanted = requests.into_iter().map(|(request, asked)| async {
                        let found = self.base(recipe, request).await;
                        found.map_err(|source| FailedBuild::Base { source: Box::new(source), asked, file: file() })
                    });
                    bases.extend(futures_util::future::try_join_all(wanted).await?);
                }
            }
        }
    }

    /// Builds what a recipe says, for all its platforms at once, and gives it away.
    pub async fn build(&self, recipe: &Recipe) -> Result<Outcome, FailedBuild> {
        let started = Timestamp::now();
        let platforms = recipe.platforms()?;
        let one = |(number, platform)| self.solve(recipe, number, platform);
        let all = futures_util::future::try_join_all(platforms.iter().enumerate().map(one)).await?;
        let mut builds = Vec::new();
        let (mut warnings, mut notices, mut file) = (Vec::new(), recipe.notices.clone(), None);
        for solved in all {
            builds.push(solved.build);
            // The same Dockerfile, so mostly the same warnings.
            warnings.extend(solved.warnings);
            notices.extend(solved.notices);
            file = Some(solved.file);
        }
        warnings.sort();
        warnings.dedup();
        let (workshop, for_delivery, kept) = (self.clone(), recipe.clone(), builds.clone());
        let delivered = tokio::task::spawn_blocking(move || {
            deliver(&workshop.builder, &workshop.store, &for_delivery, started, &builds)
        });
        let delivered = delivered.await.unwrap_or(Err(DeliverError::Worker))?;
        for (target, cache) in &delivered.caches {
            self.push_cache(target, cache, &mut notices).await?;
        }
        // Until now nothing else kept what was made for it.
        drop(kept);
        Ok(Outcome { delivered, warnings, notices, file: file.unwrap_or_default() })
    }

    async fn push_cache(
        &self,
        target: &CacheTarget,
        cache: &Descriptor,
        notices: &mut Vec<String>,
    ) -> Result<(), FailedBuild> {
        let CachePlace::Registry(name) = &target.place else { return Ok(()) };
        let quiet: PushProgress = Arc::new(|_| ());
        match push_as(&self.store, cache, name, &self.pull, &quiet).await {
            Err(error) if target.ignore_error => notices.push(chain(&error)),
            result => result?,
        }
        Ok(())
    }

    /// Finds the caches that a recipe names. One that cannot be used is none.
    async fn caches(&self, recipe: &Recipe, platform: &Platform) -> (Vec<Arc<ImportedCache>>, Vec<String>) {
        let options = PullOptions { platform: Some(platform.clone()), ..self.pull.clone() };
        let all = recipe.cache_from.iter().map(|source| ImportedCache::find(source, &options));
        let (mut caches, mut notices) = (Vec::new(), Vec::new());
        for (source, found) in recipe.cache_from.iter().zip(futures_util::future::join_all(all).await) {
            let place = match source {
                CacheSource::Registry(name) => name.familiar(),
                CacheSource::Directory { path, .. } => path.display().to_string(),
            };
            match found {
                Ok(cache) => caches.push(Arc::new(cache)),
                Err(error) => notices.push(format!("the cache {place} cannot be used: {}", chain(&error))),
            }
        }
        (caches, notices)
    }

    /// Executes the steps for one platform.
    async fn solve(&self, recipe: &Recipe, number: usize, platform: &Platform) -> Result<Executed, FailedBuild> {
        let (mut plan, file) = self.plan(recipe, platform).await?;
        let scan = self.scan(recipe, &mut plan.graph).await?;
        if let Some((step, platform)) = foreign(&plan.graph) {
            return Err(FailedBuild::Foreign { step, platform });
        }
        let (caches, notices) = self.caches(recipe, platform).await;
        let request = Arc::new(Request {
            name: recipe.name.as_str().into(),
            number,
            graph: plan.graph,
            scan,
            contexts: self.gather(recipe).await?.files,
            keyring: recipe.keyring(),
            network: recipe.network,
            hosts: recipe.hosts.clone(),
            hostname: recipe.arguments.get("BUILDKIT_SANDBOX_HOSTNAME").cloned(),
            shm_size: recipe.shm_size,
            memory: recipe.memory,
            ulimits: recipe.ulimits.clone(),
            cgroup_parent: recipe.cgroup_parent.clone(),
            epoch: epoch(recipe)?,
            insecure: recipe.insecure,
            host_network: recipe.host_network,
            caches,
            interrupt: self.interrupt.clone(),
        });
        let failed = |source| FailedBuild::Build { source: Box::new(source), file: Box::new(file.clone()) };
        let solved = self.builder.solve(Arc::clone(&request)).await;
        if let (Err(error), Some(halted)) = (&solved, &recipe.halted)
            && let BuildError::Step { before: Some(before), .. } = error.root()
        {
            // That of another platform may have been there before.
            let _ = halted.set(self.builder.halted(before).map_err(failed)?);
        }
        let solved = solved.map_err(failed)?;
        Ok(Executed { build: (request, Arc::new(solved)), warnings: plan.warnings, notices, file })
    }

    /// Adds the step in which a generator says what is in the image, if the recipe names one.
    async fn scan(&self, recipe: &Recipe, graph: &mut Graph) -> Result<Option<VertexId>, FailedBuild> {
        let Sbom::Generator(image, settings) = &recipe.sbom else { return Ok(None) };
        let request = ImageRequest { reference: image.clone(), platform: Platform::host().to_string() };
        let (_, generator) = self.base(recipe, request).await?;
        let scan = graph.scan_with(&generator, settings);
        scan.map(Some).map_err(|source| FailedBuild::Generator(Box::new(source)))
    }

    fn options(recipe: &Recipe, platform: &Platform, gathered: &Gathered) -> Options {
        Options {
            target: recipe.target.clone(),
            arguments: recipe.arguments.clone(),
            platform: platform.clone(),
            several_platforms: recipe.is_for_several(),
            contexts: gathered.named.clone(),
            ignore: gathered.ignore.clone(),
            context_ignore: gathered.context_ignore.clone(),
            labels: recipe.labels.clone(),
            no_cache: recipe.no_cache,
            no_cache_filter: recipe.no_cache_filter.clone(),
            all_stages: recipe.all_stages,
            sbom: recipe.sbom != Sbom::None,
            ..Options::default()
        }
    }

    /// Has an image that something is built on, and says so.
    async fn base(&self, recipe: &Recipe, request: ImageRequest) -> Result<(ImageRequest, Base), FailedBuild> {
        let name =
            request.reference.parse().map_or_else(|_| request.reference.clone(), |name: Reference| name.to_string());
        let aside = Arc::new(self.builder.aside(&recipe.name, &format!("[internal] load metadata for {name}")));
        let found = self.find_base(recipe, request, &listener(&aside)).await;
        aside.end(found.as_ref().err().map(|error| chain(error)));
        found
    }

    /// Finds an image that something is built on, and fetches it where it is not there.
    async fn find_base(
        &self,
        recipe: &Recipe,
        request: ImageRequest,
        listener: &PullProgress,
    ) -> Result<(ImageRequest, Base), FailedBuild> {
        let platform: Platform = request.platform.parse()?;
        let layout = request.reference.strip_prefix("oci-layout://");
        let reference: Reference = match layout {
            Some(layout) => self.store.load_layout(layout, &platform)?,
            None => request
                .reference
                .parse()
                .map_err(|source| FailedBuild::Reference { reference: request.reference.clone(), source })?,
        };
        let options = PullOptions { platform: Some(platform.clone()), ..self.pull.clone() };
        let failed = |source| FailedBuild::Pull { reference: request.reference.clone(), source: Box::new(source) };
        // What was built here a moment ago is in no registry.
        let ask = recipe.pull && layout.is_none() && !recipe.built_here.contains(&reference.familiar());
        let there = |reference: Reference| {
            let (options, failed) = (&options, &failed);
            async move { prepare(&self.store, &reference, options, listener).await.map_err(failed) }
        };
        let named = if ask { None } else { there(reference.clone()).await? };
        let named = named.filter(|image| {
            (&image.platform.os, &image.platform.architecture) == (&platform.os, &platform.architecture)
        });
        let image = match named {
            Some(image) => image,
            None if platform == Platform::host() => {
                pull(&self.store, &reference, &options, listener).await.map_err(failed)?
            }
            // The name stays with the image that containers here are made of.
            None => {
                let exact = resolve(&reference, &options).await.map_err(failed)?;
                match there(exact.clone()).await? {
                    Some(image) => image,
                    None => pull(&self.store, &exact, &options, listener).await.map_err(failed)?,
                }
            }
        };
        let base = self.describe(&request.reference, &image)?;
        self.builder.offer(image);
        Ok((request, base))
    }

    fn describe(&self, reference: &str, image: &Image) -> Result<Base, FailedBuild> {
        let mut raw = self.store.raw_config(image)?;
        let author = raw.get("author").and_then(|author| author.as_str()).filter(|author| !author.is_empty());
        let author = author.map(str::to_owned);
        let config = match raw["config"].take() {
            serde_json::Value::Null => rcompose_engine::image::ImportedConfig::default(),
            config => serde_json::from_value(config)
                .map_err(|source| FailedBuild::Configuration { reference: reference.to_owned(), source })?,
        };
        let source =
            ImageSource { reference: reference.to_owned(), digest: image.digest, platform: image.platform.clone() };
        Ok(Base { source, config, author })
    }
}

/// Returns the first command of a graph that this machine cannot execute, and for what machine it is.
fn foreign(graph: &Graph) -> Option<(String, Platform)> {
    let mut platforms: Vec<&Platform> = Vec::new();
    for vertex in &graph.vertices {
        let platform = match &vertex.operation {
            Operation::Image(image) => &image.platform,
            Operation::Run(run) => platforms[run.on.0],
            Operation::Copy(copy) => platforms[copy.on.0],
            Operation::MakeDirectory(make) => platforms[make.on.0],
            _ => &graph.platform,
        };
        if matches!(vertex.operation, Operation::Run(_)) && !runs(platform) {
            return Some((vertex.name.clone(), platform.clone()));
        }
        platforms.push(platform);
    }
    None
}

/// Returns what adds up the layers of a pull.
fn listener(aside: &Arc<Aside>) -> PullProgress {
    let aside = Arc::clone(aside);
    let known: Mutex<(BTreeMap<Digest, u64>, Option<u64>)> = Mutex::default();
    Arc::new(move |event| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match (event.layer, &event.phase) {
            (Some(layer), _) => drop(known.0.insert(layer, event.current)),
            (None, PullPhase::Resolved { .. }) => known.1 = Some(event.total),
            (None, _) => return,
        }
        aside.received(known.0.values().sum(), known.1);
    })
}

fn epoch(recipe: &Recipe) -> Result<Option<u64>, FailedBuild> {
    let given = recipe.arguments.get(SOURCE_DATE_EPOCH).filter(|text| !text.is_empty());
    given.map(|text| text.parse().map_err(|_| FailedBuild::Epoch(text.clone()))).transpose()
}

impl FailedBuild {
    /// Returns whether somebody wanted it to end.
    pub fn is_interruption(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Build { source, .. } => source.is_interruption(),
            Self::Base { source, .. } => source.is_interruption(),
            _ => false,
        }
    }

    /// Returns where in the Dockerfile it went wrong, and what that is called and says.
    pub fn place(&self) -> Option<(Span, &(String, String))> {
        match self {
            Self::Dockerfile { source, file } => Some((source.span?, file)),
            Self::Base { asked, file, .. } => Some((asked.at, file)),
            Self::Build { source, file } => match source.root() {
                BuildError::Step { at, .. } => Some(((*at)?, file)),
                _ => None,
            },
            _ => None,
        }
    }
}
