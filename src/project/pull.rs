//! Gets the images that services need from their registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rcompose_engine::container::store::layers;
use rcompose_engine::image::{
    Client, ClientOptions, Hold, Platform, PlatformError, PullError, PullEvent, PullOptions, PullPhase,
    RegistrySettings, SettingsError, Store, StoreError, prepare, pull,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::images::{self, Images, ImagesError, Missing};
use crate::compose::model::{Project, PullPolicy};
use crate::ui::progress::{Event, Progress, State};

/// How often images are fetched that others remove at once.
const ATTEMPTS: u32 = 5;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Images(#[from] ImagesError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("service \"{service}\": platform: {source}")]
    Platform {
        service: String,
        #[source]
        source: PlatformError,
    },
    #[error("service \"{service}\": image {reference} is not there, and it may not be pulled")]
    Never { service: String, reference: String },
    #[error("service \"{service}\": image {reference} would have to be built, which is not possible yet")]
    Build { service: String, reference: String },
    #[error("service \"{service}\": image {reference} was removed meanwhile")]
    Gone { service: String, reference: String },
    #[error(transparent)]
    Containers(#[from] rcompose_engine::container::store::StoreError),
    #[error("cannot tell where this program is")]
    Binary(#[source] std::io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error("a pull stopped unexpectedly")]
    Stopped(#[source] tokio::task::JoinError),
}

/// Where and how images are fetched.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that says how registries are to be reached.
    pub settings: PathBuf,
    /// Docker's configuration file, for credentials.
    pub docker_config: Option<PathBuf>,
}

/// Which images are fetched.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub sources: Sources,
    /// For all services; `None`: what each says.
    pub policy: Option<PullPolicy>,
    pub interrupt: CancellationToken,
}

/// Returns every image of the project, after fetching those that are missing or due.
pub async fn ensure(
    engine: &Engine,
    project: &Project,
    options: &Options,
    progress: &Progress,
) -> Result<Images, FetchError> {
    let store = Arc::new(Store::open(engine.root.data())?);
    // Before they are looked up, so that none goes in between.
    let mut held = hold(&store, options).await?;
    let mut found = images::look_up(&store, project, true)?;
    let mut due = Vec::new();
    for missing in std::mem::take(&mut found.missing) {
        let service = &project.services[&missing.service];
        let policy = options.policy.clone().or_else(|| service.pull_policy.clone()).unwrap_or_default();
        let Missing { service: name, reference } = missing;
        // The image that is this program itself is made and not pulled.
        if !images::is_builtin(&reference) {
            if policy == PullPolicy::Never {
                return Err(FetchError::Never { service: name, reference });
            }
            let built = service.build.is_some() && (service.image.is_none() || policy == PullPolicy::Build);
            if built {
                return Err(FetchError::Build { service: name, reference });
            }
        }
        due.push(Wanted { service: name, reference, force: false });
    }
    for (name, service) in &project.services {
        let policy = options.policy.clone().or_else(|| service.pull_policy.clone()).unwrap_or_default();
        let Some(image) = found.services.get(name) else { continue };
        // Asking is cheap where nothing has changed, so that there is no need to know when it was asked last.
        let refresh = matches!(policy, PullPolicy::Always | PullPolicy::Refresh(_));
        if refresh && service.image.is_some() {
            due.push(Wanted { service: name.clone(), reference: image.reference.clone(), force: true });
        }
    }
    if due.is_empty() {
        return Ok(Images { hold: Some(held), ..found });
    }
    for _ in 0..ATTEMPTS {
        // A pull that fills the disk collects garbage, which waits for everything that holds images.
        drop(held);
        fetch(engine, &store, project, due, options, progress).await?;
        held = hold(&store, options).await?;
        found = images::look_up(&store, project, false)?;
        if found.missing.is_empty() {
            return Ok(Images { hold: Some(held), ..found });
        }
        // Somebody has removed it between the two.
        let wanted = |Missing { service, reference }| Wanted { service, reference, force: false };
        due = found.missing.iter().cloned().map(wanted).collect();
    }
    let Missing { service, reference } = found.missing.swap_remove(0);
    Err(FetchError::Gone { service, reference })
}

/// Keeps images from being removed. Waits for garbage collection that is at work.
async fn hold(store: &Arc<Store>, options: &Options) -> Result<Hold, FetchError> {
    let store = Arc::clone(store);
    tokio::select! {
        hold = tokio::task::spawn_blocking(move || store.hold()) => Ok(hold.map_err(FetchError::Stopped)??),
        () = options.interrupt.cancelled() => Err(FetchError::Interrupted),
    }
}

/// An image to be fetched.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub service: String,
    pub reference: String,
    /// Ask the registry even if the image is there.
    pub force: bool,
}

/// Fetches images, all at once and each of them once.
pub async fn fetch(
    engine: &Engine,
    store: &Arc<Store>,
    project: &Project,
    wanted: Vec<Wanted>,
    options: &Options,
    progress: &Progress,
) -> Result<(), FetchError> {
    let settings = RegistrySettings::from_file_if_there(&options.sources.settings)?;
    let client = Client::new(ClientOptions {
        settings: Arc::new(settings),
        docker_config: options.sources.docker_config.clone(),
        ..ClientOptions::default()
    });
    let mut pull_options = PullOptions::new(Arc::new(client));
    pull_options.builtin = Some(std::env::current_exe().map_err(FetchError::Binary)?);
    let mut services = BTreeMap::<String, Vec<Wanted>>::new();
    for wanted in wanted {
        services.entry(wanted.reference.clone()).or_default().push(wanted);
    }
    let mut pulls = JoinSet::new();
    for (reference, wanted) in services {
        let parsed = images::reference(&wanted[0].service, &reference)?;
        let mut pull_options = pull_options.clone();
        if let Some(platform) = &project.services[&wanted[0].service].platform {
            let parsed = platform.parse::<Platform>();
            let failed = |source| FetchError::Platform { service: wanted[0].service.clone(), source };
            pull_options.platform = Some(parsed.map_err(failed)?);
        }
        let (store, progress) = (Arc::clone(store), progress.clone());
        pulls.spawn(async move {
            let names = wanted.iter().map(|wanted| wanted.service.clone()).collect::<Vec<_>>();
            let force = wanted.iter().any(|wanted| wanted.force);
            let quiet = images::is_builtin(&reference);
            if !quiet {
                said(&progress, &names, "Pulling", State::Working);
            }
            let (shown, first) = (progress.clone(), names[0].clone());
            let listener: rcompose_engine::image::Progress = Arc::new(move |event| {
                if !quiet {
                    layer(&shown, &first, &event);
                }
            });
            let there = if force { None } else { prepare(&store, &parsed, &pull_options, &listener).await? };
            if there.is_none() {
                let pulled = pull(&store, &parsed, &pull_options, &listener).await;
                if pulled.is_err() {
                    said(&progress, &names, "Error", State::Error);
                }
                pulled?;
            }
            if !quiet {
                said(&progress, &names, "Pulled", State::Done);
            }
            Ok::<(), FetchError>(())
        });
    }
    // The first failure ends the others, whose downloads a later pull goes on with.
    loop {
        tokio::select! {
            ended = pulls.join_next() => match ended {
                None => return Ok(()),
                Some(ended) => match ended.map_err(FetchError::Stopped)? {
                    Ok(()) => {}
                    Err(error) => {
                        pulls.shutdown().await;
                        if matches!(error, FetchError::Pull(PullError::DiskFull { .. })) {
                            // What was fetched in vain must not keep the disk full.
                            free(engine, store).await?;
                        }
                        return Err(error);
                    }
                },
            },
            () = options.interrupt.cancelled() => return Err(FetchError::Interrupted),
        }
    }
}

/// Frees what neither an image nor a container of the store needs. Waits for pulls of other processes.
async fn free(engine: &Engine, store: &Arc<Store>) -> Result<(), FetchError> {
    let (store, root) = (Arc::clone(store), engine.root.clone());
    let collected = tokio::task::spawn_blocking(move || store.gc(|| layers(&root).map_err(FetchError::from)));
    collected.await.map_err(FetchError::Stopped)?.map(drop)
}

/// Says something of all services that share an image.
fn said(progress: &Progress, services: &[String], text: &str, state: State) {
    for service in services {
        progress.event(&Event { text, ..Event::new(service, state, "") });
    }
}

/// Shows a step of one layer, in Docker's words.
fn layer(progress: &Progress, service: &str, event: &PullEvent) {
    let Some(digest) = &event.layer else { return };
    let (status, state) = match &event.phase {
        PullPhase::Pending => ("Pulling fs layer", State::Working),
        PullPhase::Waiting => ("Waiting", State::Working),
        PullPhase::Downloading => ("Downloading", State::Working),
        PullPhase::Retrying { .. } => ("Retrying", State::Working),
        PullPhase::Extracting => ("Extracting", State::Working),
        PullPhase::Exists => ("Already exists", State::Done),
        PullPhase::Complete => ("Pull complete", State::Done),
        PullPhase::Resolving | PullPhase::Resolved { .. } | PullPhase::Done { .. } => return,
    };
    let amount = (event.phase == PullPhase::Downloading).then_some((event.current, Some(event.total)));
    progress.event(&Event { parent: Some(service), amount, ..Event::new(&digest.short(), state, status) });
}
