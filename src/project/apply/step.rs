//! One step of a plan: asks the engine, and says so in Docker Compose's words.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rcompose_engine::container::store::layers;
use rcompose_engine::image;
use rcompose_engine::protocol::{FailureKind, ProvidedFile, Stopped};
use rcompose_engine::supervisor::client::{Client, ClientError};
use rcompose_engine::volume::{self, VolumeConfig, VolumeError};

use tokio_util::sync::CancellationToken;

use super::super::container::AnonymousVolume;
use super::super::engine::Engine;
use super::super::plan::{Action, Named, New, Volume};
use super::hook::{self, Audience, HookError, POST_START, PRE_STOP};
use super::outcome::Unready;
use super::update::{self, Then};
use super::wait;
use crate::compose::model::Hook;
use crate::ui::progress::Progress;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{}", engine(verb, what, source))]
    Engine {
        verb: &'static str,
        /// Such as `container shop-web-1`.
        what: String,
        #[source]
        source: ClientError,
    },
    #[error("cannot {verb} volume {name}")]
    Volume {
        verb: &'static str,
        name: String,
        #[source]
        source: VolumeError,
    },
    #[error("cannot remove image {reference}")]
    Image {
        reference: String,
        #[source]
        source: Box<image::StoreError>,
    },
    #[error("cannot read the state of container {name}")]
    State {
        name: String,
        #[source]
        source: rcompose_engine::container::store::StoreError,
    },
    #[error("cannot tell which layers are in use")]
    Layers(#[source] rcompose_engine::container::store::StoreError),
    /// What was waited for cannot come any more.
    #[error(transparent)]
    Waited(#[from] Unready),
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Somebody wanted no more of it.
    #[error("interrupted")]
    Interrupted,
    #[error("the update of service \"{service}\" failed {then}")]
    Update {
        service: String,
        then: Then,
        #[source]
        source: Box<StepError>,
    },
}

/// Returns what could not be done. Where the supervisor says that itself, its words are enough.
fn engine(verb: &str, what: &str, source: &ClientError) -> String {
    let name = what.rsplit(' ').next().unwrap_or(what);
    match source {
        ClientError::Failed(failure) if failure.message.contains(name) => failure.message.clone(),
        _ => format!("cannot {verb} {what}"),
    }
}

impl StepError {
    /// Returns what can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Hook(HookError::Failed { hook: PRE_STOP, .. }) => {
                Some("`rcompose kill` ends a container without its hooks".to_owned())
            }
            Self::Waited(unready) => Some(unready.hint()),
            _ => None,
        }
    }

    pub(super) fn container(verb: &'static str, container: &Named) -> impl FnOnce(ClientError) -> Self {
        let what = format!("container {}", container.name);
        move |source| Self::Engine { verb, what, source }
    }

    fn network(verb: &'static str, name: &str) -> impl FnOnce(ClientError) -> Self {
        let what = format!("network {name}");
        move |source| Self::Engine { verb, what, source }
    }

    fn volume(verb: &'static str, name: &str) -> impl FnOnce(VolumeError) -> Self {
        let name = name.to_owned();
        move |source| Self::Volume { verb, name, source }
    }
}

/// Returns what progress calls a container.
pub(super) fn title(container: &Named) -> String {
    format!("Container {}", container.name)
}

/// What is said of what goes.
const REMOVED: [&str; 2] = ["Removing", "Removed"];
/// Why something is not removed, in Docker Compose's words.
const NOTHING: &str = "No resource found to remove";
const IN_USE: &str = "Resource is still in use";

/// Returns what an action is about, and what is said of that while it is under way and once it is done, as far as Docker
/// Compose says something.
fn words(action: &Action) -> Option<(String, [&'static str; 2])> {
    Some(match action {
        Action::CreateNetwork(config) => (format!("Network {}", config.name), ["Creating", "Created"]),
        Action::RemoveNetwork { name, .. } => (format!("Network {name}"), REMOVED),
        Action::CreateVolume(volume) => (format!("Volume {}", volume.name), ["Creating", "Created"]),
        Action::RemoveVolume { name, anonymous: false } => (format!("Volume {name}"), REMOVED),
        Action::RemoveImage { reference } => {
            let whole = reference.parse::<image::Reference>().map(|reference| reference.familiar());
            (format!("Image {}", whole.as_ref().unwrap_or(reference)), REMOVED)
        }
        // Whoever asks for a one-off container sees it soon enough.
        Action::Create(new) if new.is_one_off() => return None,
        Action::Create(new) => (title(&Named::from(&new.config)), ["Creating", "Created"]),
        Action::Recreate { old, .. } => (title(old), ["Recreate", "Recreated"]),
        Action::Start { container, .. } => (title(container), ["Starting", "Started"]),
        Action::Stop { container, .. } => (title(container), ["Stopping", "Stopped"]),
        Action::Restart { container, .. } => (title(container), ["Restarting", "Started"]),
        Action::Kill { container, .. } => (title(container), ["Killing", "Killed"]),
        Action::Pause(container) => (title(container), ["", "Paused"]),
        Action::Unpause(container) => (title(container), ["", "Unpaused"]),
        Action::Remove { container, .. } => (title(container), REMOVED),
        Action::RemoveVolume { anonymous: true, .. }
        | Action::Rename { .. }
        // It speaks for itself, of each container.
        | Action::Update(_)
        | Action::Keep { .. }
        | Action::Wait(_)
        | Action::Barrier => return None,
    })
}

fn begin(progress: &Progress, id: &str, working: &'static str) {
    if !working.is_empty() {
        progress.working(id, working);
    }
}

/// Says what would be said of a step, and does nothing.
pub(super) fn pretend(progress: &Progress, action: &Action) {
    match action {
        Action::Keep { container, running: true } => progress.done(&title(container), "Running"),
        Action::Wait(wanted) => wait::pretend(progress, wanted),
        Action::Update(update) => {
            for replacement in &update.replacements {
                let id = title(&replacement.old.container);
                for [working, done] in [["Recreate", "Recreated"], ["Starting", "Started"]] {
                    progress.working(&id, working);
                    progress.done(&id, done);
                }
            }
        }
        action => {
            if let Some((id, [working, done])) = words(action) {
                begin(progress, &id, working);
                progress.done(&id, done);
            }
        }
    }
}

/// How a step ended that did not fail.
enum Outcome {
    Done,
    /// It was done in a way that deserves a word.
    Remarked(String),
    /// There was nothing to do, or nothing that could be done, for this reason.
    Left(Cow<'static, str>),
}

/// Carries out one step.
pub(super) async fn run(
    engine: &Arc<Engine>,
    progress: &Progress,
    action: Action,
    (audience, interrupt): (&Audience, &CancellationToken),
) -> Result<(), StepError> {
    let words = words(&action);
    if let Some((id, [working, _])) = &words {
        begin(progress, id, working);
    }
    let result = work(engine, progress, action, (audience, interrupt)).await;
    if let Some((id, [_, done])) = &words {
        match &result {
            Ok(Outcome::Done) => progress.done(id, done),
            Ok(Outcome::Remarked(how)) => progress.done(id, &format!("{done} ({how})")),
            Ok(Outcome::Left(why)) => progress.warning(id, why),
            Err(_) => progress.error(id, "Error"),
        }
    }
    result.map(drop)
}

async fn work(
    engine: &Arc<Engine>,
    progress: &Progress,
    action: Action,
    (audience, interrupt): (&Audience, &CancellationToken),
) -> Result<Outcome, StepError> {
    match action {
        Action::RemoveNetwork { name, unless_used } => return remove_network(engine, &name, unless_used).await,
        Action::RemoveVolume { name, .. } => return remove_volume(engine, name).await,
        Action::RemoveImage { reference } => return remove_image(engine, &reference),
        Action::CreateNetwork(config) => {
            let name = config.name.clone();
            let client = engine.client().await.map_err(StepError::network("create", &name))?;
            client.ensure_network(*config).await.map_err(StepError::network("create", &name))?;
        }
        Action::CreateVolume(volume) => create_volume(engine, &volume)?,
        Action::Rename { container, name } => rename(engine, &container, &name).await?,
        Action::Update(update) => Box::pin(update::run(engine, progress, *update, audience, interrupt)).await?,
        Action::Create(new) => create(engine, *new).await?,
        Action::Recreate { old, running, new, timeout, pre_stop } => {
            Box::pin(recreate(engine, &old, running, *new, timeout, (pre_stop, audience))).await?;
        }
        Action::Start { container, files, post_start } => {
            let client = engine.client().await.map_err(StepError::container("start", &container))?;
            provide(&client, &container, files).await?;
            client.start(&container.id).await.map_err(StepError::container("start", &container))?;
            hook::run(engine, &container, (POST_START, post_start), audience).await?;
        }
        Action::Stop { container, timeout, pre_stop } => {
            hook::run(engine, &container, (PRE_STOP, pre_stop), audience).await?;
            let how = stop(engine, &container, timeout).await?;
            return Ok(remark(&how).map_or(Outcome::Done, Outcome::Remarked));
        }
        Action::Restart { container, timeout, hooks } => {
            hook::run(engine, &container, (PRE_STOP, hooks.pre_stop), audience).await?;
            let client = engine.client().await.map_err(StepError::container("restart", &container))?;
            client.restart(&container.id, timeout).await.map_err(StepError::container("restart", &container))?;
            hook::run(engine, &container, (POST_START, hooks.post_start), audience).await?;
        }
        Action::Kill { container, signal } => {
            let client = engine.client().await.map_err(StepError::container("kill", &container))?;
            client.kill(&container.id, &signal).await.map_err(StepError::container("kill", &container))?;
        }
        Action::Pause(container) => {
            let client = engine.client().await.map_err(StepError::container("pause", &container))?;
            client.pause(&container.id).await.map_err(StepError::container("pause", &container))?;
        }
        Action::Unpause(container) => {
            let client = engine.client().await.map_err(StepError::container("unpause", &container))?;
            client.unpause(&container.id).await.map_err(StepError::container("unpause", &container))?;
        }
        Action::Remove { container, volumes, force } => remove(engine, &container, force, volumes).await?,
        Action::Keep { container, running } => {
            if running {
                progress.done(&title(&container), "Running");
            }
        }
        Action::Wait(wanted) => wait::wait(engine, progress, &wanted).await?,
        Action::Barrier => {}
    }
    Ok(Outcome::Done)
}

pub(super) async fn create(engine: &Engine, new: New) -> Result<(), StepError> {
    let made = anonymous_volumes(engine, &new.volumes);
    let container = Named::from(&new.config);
    let created = match made {
        Ok(()) => match engine.client().await {
            Ok(client) => match client.create(new.config).await {
                Ok(()) => provide(&client, &container, new.files).await,
                Err(error) => Err(StepError::container("create", &container)(error)),
            },
            Err(error) => Err(StepError::container("create", &container)(error)),
        },
        Err(error) => Err(error),
    };
    if created.is_err() {
        for volume in &new.volumes {
            // What matters is why there is no container; a volume that is left is removed by `down -v`.
            let _ = volume::remove(&engine.root, &volume.name);
        }
    }
    created
}

async fn provide(client: &Client, container: &Named, files: Vec<ProvidedFile>) -> Result<(), StepError> {
    for file in files {
        client.provide(&container.id, file).await.map_err(StepError::container("provide the files of", container))?;
    }
    Ok(())
}

fn anonymous_volumes(engine: &Engine, volumes: &[AnonymousVolume]) -> Result<(), StepError> {
    for wanted in volumes {
        let volume = Volume {
            name: wanted.name.clone(),
            driver: "local".to_owned(),
            driver_opts: BTreeMap::new(),
            labels: wanted.labels.clone(),
        };
        create_volume(engine, &volume)?;
    }
    Ok(())
}

fn create_volume(engine: &Engine, volume: &Volume) -> Result<(), StepError> {
    let config = VolumeConfig {
        name: volume.name.clone(),
        project: Some(engine.project.clone()),
        driver: volume.driver.clone(),
        driver_opts: volume.driver_opts.clone(),
        labels: volume.labels.clone(),
    };
    volume::ensure(&engine.root, &config).map(drop).map_err(StepError::volume("create", &volume.name))
}

/// Makes the new container under another name first, so that nothing is lost if it cannot be made.
async fn recreate(
    engine: &Engine,
    old: &Named,
    running: bool,
    mut new: New,
    timeout: Option<Duration>,
    (pre_stop, audience): (Vec<Hook>, &Audience),
) -> Result<(), StepError> {
    let meanwhile = meanwhile(old, &new.config.name);
    let name = std::mem::replace(&mut new.config.name, meanwhile);
    let successor = Named::from(&new.config);
    create(engine, new).await?;
    let replaced = async {
        if running {
            hook::run(engine, old, (PRE_STOP, pre_stop), audience).await?;
            stop(engine, old, timeout).await?;
        }
        remove(engine, old, true, false).await
    };
    if let Err(error) = replaced.await {
        // The old one is still there, and there must not be two.
        let _ = remove(engine, &successor, true, false).await;
        return Err(error);
    }
    rename(engine, &successor, &name).await
}

/// Returns what a container is called as long as the one whose name it is to have is there, as Docker Compose has it.
pub(super) fn meanwhile(old: &Named, name: &str) -> String {
    format!("{}_{name}", old.id.short())
}

pub(super) async fn rename(engine: &Engine, container: &Named, name: &str) -> Result<(), StepError> {
    let client = engine.client().await.map_err(StepError::container("rename", container))?;
    client.rename(&container.id, name).await.map_err(StepError::container("rename", container))
}

pub(super) async fn stop(engine: &Engine, container: &Named, timeout: Option<Duration>) -> Result<Stopped, StepError> {
    let client = engine.client().await.map_err(StepError::container("stop", container))?;
    match client.stop(&container.id, timeout).await {
        Ok(how) => Ok(how),
        // What somebody else removed meanwhile does not run.
        Err(error) if is(&error, FailureKind::NoSuchContainer) => Ok(Stopped::NotRunning),
        Err(error) => Err(StepError::container("stop", container)(error)),
    }
}

/// Returns what is to be said of the way a container was stopped.
fn remark(how: &Stopped) -> Option<String> {
    match how {
        Stopped::NotRunning | Stopped::Signal => None,
        Stopped::Killed => Some("killed: it did not end within its grace period".to_owned()),
        Stopped::Unreachable { signal } => {
            Some(format!("killed at once: its PID 1 does not handle {signal}, so it could never end by it"))
        }
    }
}

pub(super) async fn remove(engine: &Engine, container: &Named, force: bool, volumes: bool) -> Result<(), StepError> {
    let client = engine.client().await.map_err(StepError::container("remove", container))?;
    match client.remove(&container.id, force, volumes).await {
        Err(error) if !is(&error, FailureKind::NoSuchContainer) => {
            Err(StepError::container("remove", container)(error))
        }
        _ => Ok(()),
    }
}

async fn remove_network(engine: &Engine, name: &str, unless_used: bool) -> Result<Outcome, StepError> {
    let removed = match engine.client().await {
        Ok(client) => client.remove_network(name).await,
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if is(&error, FailureKind::NoSuchNetwork) => Ok(Outcome::Left(NOTHING.into())),
        Err(ClientError::Failed(failure)) if unless_used && failure.kind == FailureKind::Conflict => {
            Ok(Outcome::Left(format!("{IN_USE} ({})", failure.message).into()))
        }
        Err(error) => Err(StepError::network("remove", name)(error)),
    }
}

async fn remove_volume(engine: &Engine, name: String) -> Result<Outcome, StepError> {
    let (root, victim) = (engine.root.clone(), name.clone());
    // It may have a million files in it.
    let removed = tokio::task::spawn_blocking(move || volume::remove(&root, &victim)).await;
    match removed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(true) => Ok(Outcome::Done),
        Ok(false) => Ok(Outcome::Left(NOTHING.into())),
        Err(VolumeError::InUse { .. }) => Ok(Outcome::Left(IN_USE.into())),
        Err(error) => Err(StepError::volume("remove", &name)(error)),
    }
}

/// Why an image was not removed.
enum RemoveError {
    Store(image::StoreError),
    Containers(rcompose_engine::container::store::StoreError),
}

impl From<image::StoreError> for RemoveError {
    fn from(error: image::StoreError) -> Self {
        Self::Store(error)
    }
}

fn remove_image(engine: &Engine, reference: &str) -> Result<Outcome, StepError> {
    let Ok(parsed) = reference.parse::<image::Reference>() else { return Ok(Outcome::Left(NOTHING.into())) };
    let removed = image::Store::open(engine.root.data()).map_err(RemoveError::Store).and_then(|images| {
        let removed = images.remove(&parsed)?;
        images.gc(|| layers(&engine.root).map_err(RemoveError::Containers))?;
        Ok(removed)
    });
    match removed {
        Ok(true) => Ok(Outcome::Done),
        Ok(false) => Ok(Outcome::Left(NOTHING.into())),
        Err(RemoveError::Store(source)) => {
            Err(StepError::Image { reference: reference.to_owned(), source: Box::new(source) })
        }
        Err(RemoveError::Containers(source)) => Err(StepError::Layers(source)),
    }
}

/// Returns whether the supervisor refused a request for this reason.
fn is(error: &ClientError, kind: FailureKind) -> bool {
    matches!(error, ClientError::Failed(failure) if failure.kind == kind)
}
