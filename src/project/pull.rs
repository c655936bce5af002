//! Gets the images that services need from their registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcompose_engine::container::store::layers;
use rcompose_engine::image::{
    Client, ClientOptions, Hold, Platform, PlatformError, PullError, PullEvent, PullOptions, PullPhase,
    RegistrySettings, SettingsError, Store, StoreError, no_progress, prepare, pull,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::image::Image;
use super::images::{self, Images, ImagesError, Missing};
use super::platform;
use crate::compose::model::{Project, PullPolicy, Service};
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
    #[error("service \"{service}\": platform: image {reference} is there for {other} only, not for {wanted}")]
    OtherPlatform { service: String, reference: String, other: String, wanted: String },
    #[error(
        "service \"{service}\": image {reference} is for {platform}, whose programs this machine cannot execute: no \
         handler of binfmt_misc is registered for them (packages such as qemu-user-static register some)"
    )]
    Foreign { service: String, reference: String, platform: String },
    #[error("service \"{service}\": image {reference} is not there, and it may not be pulled")]
    Never { service: String, reference: String },
    #[error("service \"{service}\": image {reference} is not there, and it may not be built")]
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

impl Sources {
    /// Returns where they are on this host, after this process's environment.
    pub fn of_host() -> Self {
        Self {
            settings: variable("RCOMPOSE_REGISTRIES").unwrap_or_else(|| PathBuf::from("/etc/rcompose/registries.json")),
            docker_config: docker_config().filter(|path| path.is_file()),
        }
    }

    /// Returns a client for registries.
    pub fn client(&self) -> Result<Client, SettingsError> {
        let mut settings = RegistrySettings::from_file_if_there(&self.settings)?;
        settings.proxy.fill_from(|name| std::env::var(name).ok())?;
        Ok(Client::new(ClientOptions {
            settings: Arc::new(settings),
            docker_config: self.docker_config.clone(),
            ..ClientOptions::default()
        }))
    }
}

/// Returns Docker's configuration file, whether it is there or not.
pub fn docker_config() -> Option<PathBuf> {
    let directory = variable("DOCKER_CONFIG").or_else(|| variable("HOME").map(|home| home.join(".docker")));
    directory.map(|directory| directory.join("config.json"))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
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
    let mut due = due(&store, project, &mut found, options.policy.as_ref(), true)?;
    if due.is_empty() {
        executable(&found)?;
        return Ok(Images { hold: Some(held), ..found });
    }
    for _ in 0..ATTEMPTS {
        // A pull that fills the disk collects garbage, which waits for everything that holds images.
        drop(held);
        fetch(engine, &store, project, due, options, progress).await?;
        held = hold(&store, options).await?;
        found = images::look_up(&store, project, false)?;
        if found.missing.is_empty() {
            executable(&found)?;
            return Ok(Images { hold: Some(held), ..found });
        }
        for Missing { service, reference, other } in &found.missing {
            if let Some(other) = other.as_ref().map(ToString::to_string) {
                let wanted = project.services[service].platform.clone().unwrap_or_default();
                let (service, reference) = (service.clone(), reference.clone());
                return Err(FetchError::OtherPlatform { service, reference, other, wanted });
            }
        }
        // Somebody has removed it between the two.
        let wanted = |Missing { service, reference, .. }| Wanted { service, reference, force: false };
        due = found.missing.iter().cloned().map(wanted).collect();
    }
    let Missing { service, reference, .. } = found.missing.swap_remove(0);
    Err(FetchError::Gone { service, reference })
}

/// Returns the images of a project as they are, with stand-ins for those that are not there, and what [`ensure`] would
/// fetch.
pub fn foresee(
    engine: &Engine,
    project: &Project,
    policy: Option<&PullPolicy>,
) -> Result<(Images, Vec<Wanted>), FetchError> {
    let store = Store::open(engine.root.data())?;
    let mut found = images::look_up(&store, project, false)?;
    let missing = found.missing.clone();
    let due = due(&store, project, &mut found, policy, false)?;
    for Missing { service, reference, .. } in missing {
        let unknown = Image { reference: reference.clone(), ..Image::default() };
        if images::further(&project.services[&service]).contains(reference.as_str()) {
            found.mounted.insert(reference.clone(), unknown.clone());
        }
        found.services.entry(service).or_insert(unknown);
    }
    Ok((found, due))
}

/// Returns the images that have to be fetched: those that are missing, and those whose registry is to be asked again.
/// One that would be built is an error where it should be there (`built`).
fn due(
    store: &Store,
    project: &Project,
    found: &mut Images,
    policy: Option<&PullPolicy>,
    built: bool,
) -> Result<Vec<Wanted>, FetchError> {
    let policy_of = |service: &Service| policy.or(service.pull_policy.as_ref()).cloned().unwrap_or_default();
    let mut due = Vec::new();
    for missing in std::mem::take(&mut found.missing) {
        let service = &project.services[&missing.service];
        let policy = policy_of(service);
        let Missing { service: name, reference, other } = missing;
        // The image that is this program itself is made and not pulled.
        if !images::is_builtin(&reference) {
            if policy == PullPolicy::Never {
                return Err(FetchError::Never { service: name, reference });
            }
            if service.build.is_some() && (service.image.is_none() || policy == PullPolicy::Build) {
                if built {
                    return Err(FetchError::Build { service: name, reference });
                }
                continue;
            }
        }
        due.push(Wanted { service: name, reference, force: other.is_some() });
    }
    for (name, service) in &project.services {
        let policy = policy_of(service);
        let Some(image) = found.services.get(name) else { continue };
        let ask = match policy {
            PullPolicy::Always => true,
            PullPolicy::Refresh(age) => is_older(store, name, &image.reference, age)?,
            PullPolicy::Never | PullPolicy::Missing | PullPolicy::Build => false,
        };
        if ask && service.image.is_some() {
            due.push(Wanted { service: name.clone(), reference: image.reference.clone(), force: true });
        }
    }
    Ok(due)
}

/// Refuses images whose programs cannot be executed here.
fn executable(images: &Images) -> Result<(), FetchError> {
    for (service, image) in &images.services {
        if let Some(platform) = image.platform.as_ref().filter(|platform| !platform::runs(platform)) {
            let platform = platform.to_string();
            let (service, reference) = (service.clone(), image.reference.clone());
            return Err(FetchError::Foreign { service, reference, platform });
        }
    }
    Ok(())
}

/// Keeps images from being removed. Waits for garbage collection that is at work.
async fn hold(store: &Arc<Store>, options: &Options) -> Result<Hold, FetchError> {
    let store = Arc::clone(store);
    tokio::select! {
        hold = tokio::task::spawn_blocking(move || store.hold()) => Ok(hold.map_err(FetchError::Stopped)??),
        () = options.interrupt.cancelled() => Err(FetchError::Interrupted),
    }
}

/// Returns whether the registry was asked about an image longer ago than this. One that no registry was ever asked about
/// counts from when it got its name.
pub fn is_older(store: &Store, service: &str, reference: &str, age: Duration) -> Result<bool, FetchError> {
    let image = store.get(&images::reference(service, reference)?)?;
    let asked = image.and_then(|image| image.checked.or(image.tagged));
    let since = asked.map(|asked| Duration::try_from(Timestamp::now().duration_since(asked)).unwrap_or_default());
    Ok(since.is_none_or(|since| since >= age))
}

/// An image to be fetched.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub service: String,
    pub reference: String,
    /// Ask the registry even if the image is there.
    pub force: bool,
}

/// Returns how images are fetched from here: registries' settings, this user's credentials, this host's proxies.
pub fn pull_options(sources: &Sources) -> Result<PullOptions, FetchError> {
    let mut options = PullOptions::new(Arc::new(sources.client()?));
    options.builtin = Some(std::env::current_exe().map_err(FetchError::Binary)?);
    Ok(options)
}

/// Returns what shows the layers of a pull, below `id`.
pub fn listener(progress: &Progress, id: &str) -> rcompose_engine::image::Progress {
    let (shown, parent) = (progress.clone(), id.to_owned());
    Arc::new(move |event| layer(&shown, &parent, &event))
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
    let pull_options = pull_options(&options.sources)?;
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
            let listener = if quiet { no_progress() } else { listener(&progress, &names[0]) };
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
    let comes = !matches!(event.phase, PullPhase::Exists | PullPhase::Waiting);
    let amount = comes.then_some((event.current, Some(event.total)));
    progress.event(&Event { parent: Some(service), amount, ..Event::new(&digest.short(), state, status) });
}
