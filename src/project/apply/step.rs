//! One step of a plan: asks the engine, and says so in Docker Compose's words.

use std::collections::BTreeMap;
use std::time::Duration;

use rcompose_engine::container::store::layers;
use rcompose_engine::image;
use rcompose_engine::protocol::{FailureKind, ProvidedFile};
use rcompose_engine::supervisor::client::{Client, ClientError};
use rcompose_engine::volume::{self, VolumeConfig, VolumeError};

use super::super::container::AnonymousVolume;
use super::super::engine::Engine;
use super::super::plan::{Action, Named, New, Volume};
use super::wait;
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
    #[error("{0}")]
    Waited(String),
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

/// Carries out one step.
pub(super) async fn run(engine: &Engine, progress: &Progress, action: Action) -> Result<(), StepError> {
    match action {
        Action::CreateNetwork(config) => {
            let name = config.name.clone();
            let work = async {
                let client = engine.client().await.map_err(StepError::network("create", &name))?;
                client.ensure_network(*config).await.map_err(StepError::network("create", &name)).map(drop)
            };
            said(progress, &format!("Network {name}"), ["Creating", "Created"], work).await
        }
        Action::RemoveNetwork { name } => remove_network(engine, progress, &name).await,
        Action::CreateVolume(volume) => {
            let id = format!("Volume {}", volume.name);
            said(progress, &id, ["Creating", "Created"], async { create_volume(engine, &volume) }).await
        }
        Action::RemoveVolume { name, anonymous: false } => remove_volume(engine, progress, name).await,
        Action::RemoveVolume { name, anonymous: true } => remove_volume(engine, &Progress::quiet(), name).await,
        Action::Rename { container, name } => {
            let client = engine.client().await.map_err(StepError::container("rename", &container))?;
            client.rename(&container.id, &name).await.map_err(StepError::container("rename", &container))
        }
        Action::RemoveImage { reference } => remove_image(engine, progress, &reference),
        Action::Create(new) => {
            let title = title(&Named::from(&new.config));
            // Whoever asks for a one-off container sees it soon enough.
            let quiet = new.is_one_off().then(Progress::quiet);
            said(quiet.as_ref().unwrap_or(progress), &title, ["Creating", "Created"], create(engine, *new)).await
        }
        Action::Recreate { old, running, new, timeout } => {
            let work = Box::pin(recreate(engine, &old, running, *new, timeout));
            said(progress, &title(&old), ["Recreate", "Recreated"], work).await
        }
        Action::Start { container, files } => {
            let work = async {
                let client = engine.client().await.map_err(StepError::container("start", &container))?;
                provide(&client, &container, files).await?;
                client.start(&container.id).await.map_err(StepError::container("start", &container))
            };
            said(progress, &title(&container), ["Starting", "Started"], work).await
        }
        Action::Stop { container, timeout } => {
            let work = async { stop(engine, &container, timeout).await };
            said(progress, &title(&container), ["Stopping", "Stopped"], work).await
        }
        Action::Restart { container, timeout } => {
            let work = async {
                let client = engine.client().await.map_err(StepError::container("restart", &container))?;
                client.restart(&container.id, timeout).await.map_err(StepError::container("restart", &container))
            };
            said(progress, &title(&container), ["Restarting", "Started"], work).await
        }
        Action::Kill { container, signal } => {
            let work = async {
                let client = engine.client().await.map_err(StepError::container("kill", &container))?;
                client.kill(&container.id, &signal).await.map_err(StepError::container("kill", &container))
            };
            said(progress, &title(&container), ["Killing", "Killed"], work).await
        }
        Action::Pause(container) => {
            let work = async {
                let client = engine.client().await.map_err(StepError::container("pause", &container))?;
                client.pause(&container.id).await.map_err(StepError::container("pause", &container))
            };
            said(progress, &title(&container), ["Pausing", "Paused"], work).await
        }
        Action::Unpause(container) => {
            let work = async {
                let client = engine.client().await.map_err(StepError::container("unpause", &container))?;
                client.unpause(&container.id).await.map_err(StepError::container("unpause", &container))
            };
            said(progress, &title(&container), ["Unpausing", "Unpaused"], work).await
        }
        Action::Remove { container, volumes, force } => {
            let work = async { remove(engine, &container, force, volumes).await };
            said(progress, &title(&container), ["Removing", "Removed"], work).await
        }
        Action::Keep { container, running } => {
            if running {
                progress.done(&title(&container), "Running");
            }
            Ok(())
        }
        Action::Wait(wanted) => wait::wait(engine, progress, &wanted).await,
        Action::Barrier => Ok(()),
    }
}

/// Says that something is under way, and then that it is done or that it failed.
async fn said(
    progress: &Progress,
    id: &str,
    [working, done]: [&str; 2],
    work: impl Future<Output = Result<(), StepError>>,
) -> Result<(), StepError> {
    progress.working(id, working);
    let result = work.await;
    match &result {
        Ok(()) => progress.done(id, done),
        Err(_) => progress.error(id, "Error"),
    }
    result
}

async fn create(engine: &Engine, new: New) -> Result<(), StepError> {
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
) -> Result<(), StepError> {
    let meanwhile = format!("{}_{}", old.id.short(), new.config.name);
    let name = std::mem::replace(&mut new.config.name, meanwhile);
    let successor = Named::from(&new.config);
    create(engine, new).await?;
    let replaced = async {
        if running {
            stop(engine, old, timeout).await?;
        }
        remove(engine, old, true, false).await
    };
    if let Err(error) = replaced.await {
        // The old one is still there, and there must not be two.
        let _ = remove(engine, &successor, true, false).await;
        return Err(error);
    }
    let client = engine.client().await.map_err(StepError::container("rename", &successor))?;
    client.rename(&successor.id, &name).await.map_err(StepError::container("rename", &successor))
}

async fn stop(engine: &Engine, container: &Named, timeout: Option<Duration>) -> Result<(), StepError> {
    let client = engine.client().await.map_err(StepError::container("stop", container))?;
    match client.stop(&container.id, timeout).await {
        Err(error) if !is(&error, FailureKind::NoSuchContainer) => Err(StepError::container("stop", container)(error)),
        // What somebody else removed meanwhile does not run.
        _ => Ok(()),
    }
}

async fn remove(engine: &Engine, container: &Named, force: bool, volumes: bool) -> Result<(), StepError> {
    let client = engine.client().await.map_err(StepError::container("remove", container))?;
    match client.remove(&container.id, force, volumes).await {
        Err(error) if !is(&error, FailureKind::NoSuchContainer) => {
            Err(StepError::container("remove", container)(error))
        }
        _ => Ok(()),
    }
}

async fn remove_network(engine: &Engine, progress: &Progress, name: &str) -> Result<(), StepError> {
    let id = format!("Network {name}");
    progress.working(&id, "Removing");
    let removed = match engine.client().await {
        Ok(client) => client.remove_network(name).await,
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => progress.done(&id, "Removed"),
        Err(error) if is(&error, FailureKind::NoSuchNetwork) => progress.warning(&id, "No resource found to remove"),
        Err(error) if is(&error, FailureKind::Conflict) => progress.warning(&id, "Resource is still in use"),
        Err(error) => {
            progress.error(&id, "Error");
            return Err(StepError::network("remove", name)(error));
        }
    }
    Ok(())
}

async fn remove_volume(engine: &Engine, progress: &Progress, name: String) -> Result<(), StepError> {
    let id = format!("Volume {name}");
    progress.working(&id, "Removing");
    let (root, victim) = (engine.root.clone(), name.clone());
    // It may have a million files in it.
    let removed = tokio::task::spawn_blocking(move || volume::remove(&root, &victim)).await;
    match removed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(true) => progress.done(&id, "Removed"),
        Ok(false) => progress.warning(&id, "No resource found to remove"),
        Err(VolumeError::InUse { .. }) => progress.warning(&id, "Resource is still in use"),
        Err(error) => {
            progress.error(&id, "Error");
            return Err(StepError::volume("remove", &name)(error));
        }
    }
    Ok(())
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

fn remove_image(engine: &Engine, progress: &Progress, reference: &str) -> Result<(), StepError> {
    let id = format!("Image {reference}");
    let Ok(parsed) = reference.parse::<image::Reference>() else { return Ok(()) };
    progress.working(&id, "Removing");
    let removed = image::Store::open(engine.root.data()).map_err(RemoveError::Store).and_then(|images| {
        let removed = images.remove(&parsed)?;
        images.gc(|| layers(&engine.root).map_err(RemoveError::Containers))?;
        Ok(removed)
    });
    match removed {
        Ok(true) => progress.done(&id, "Removed"),
        Ok(false) => progress.warning(&id, "No resource found to remove"),
        Err(error) => {
            progress.error(&id, "Error");
            return Err(match error {
                RemoveError::Store(source) => {
                    StepError::Image { reference: reference.to_owned(), source: Box::new(source) }
                }
                RemoveError::Containers(source) => StepError::Layers(source),
            });
        }
    }
    Ok(())
}

/// Returns whether the supervisor refused a request for this reason.
fn is(error: &ClientError, kind: FailureKind) -> bool {
    matches!(error, ClientError::Failed(failure) if failure.kind == kind)
}
