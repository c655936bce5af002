//! `push`: the images that services are built as go to their registries.

use std::sync::Arc;

use clap::Args;
use rcompose_engine::image::Store;
use tokio::task::JoinSet;

use super::context::Context;
use super::error::{Error, INTERRUPTED};
use super::signals;
use crate::compose::Project;
use crate::project::pull::Sources;
use crate::project::{images, pull, push};
use crate::ui::progress::{Event, Progress, State};

#[derive(Debug, Default, Args)]
#[command(after_help = "Example: rcompose push web")]
pub struct PushArgs {
    /// Push what it can and ignores images with push failures
    #[arg(long)]
    ignore_push_failures: bool,
    /// Also push images of services declared as dependencies
    #[arg(long)]
    include_deps: bool,
    /// Push without printing progress information
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &PushArgs) -> Result<(), Error> {
    let project = context.project(&args.services)?;
    let store = Arc::new(Store::open(context.root()?.data())?);
    let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Pushing") };
    let pushed = context.block_on(all(context, args, &project, &store, &progress));
    progress.finish();
    pushed
}

/// Pushes what of a project's images is built, as far as that is possible.
pub async fn images(context: &Context, project: &Project, progress: &Progress) -> Result<(), Error> {
    if !project.services.values().any(|service| service.image.is_some() && service.build.is_some()) {
        return Ok(());
    }
    let store = Arc::new(Store::open(context.root()?.data())?);
    let args = PushArgs { ignore_push_failures: true, ..PushArgs::default() };
    all(context, &args, project, &store, progress).await
}

async fn all(
    context: &Context,
    args: &PushArgs,
    project: &Project,
    store: &Arc<Store>,
    progress: &Progress,
) -> Result<(), Error> {
    let options = pull::pull_options(&Sources::of_host())?;
    let named = |name: &String| args.services.is_empty() || args.include_deps || args.services.contains(name);
    let mut pushes = JoinSet::new();
    for (name, service) in project.services.iter().filter(|(name, _)| named(name)) {
        // What is not built here came from a registry.
        let (Some(image), Some(build)) = (&service.image, &service.build) else {
            progress.event(&Event { text: "Skipped", ..Event::new(name, State::Done, "") });
            continue;
        };
        for reference in std::iter::once(image).chain(&build.tags) {
            let reference = images::reference(name, reference)?;
            let (store, options, progress, name) = (Arc::clone(store), options.clone(), progress.clone(), name.clone());
            pushes.spawn(async move { push::push(&store, &reference, &options, &progress, &name).await });
        }
    }
    let interrupt = signals::interrupt()?;
    loop {
        tokio::select! {
            ended = pushes.join_next() => match ended {
                None => return Ok(()),
                Some(ended) => match ended? {
                    Ok(_) => {}
                    Err(error) if args.ignore_push_failures => context.ui.warn(&error.to_string()),
                    // Dropping the others ends them.
                    Err(error) => return Err(error.into()),
                },
            },
            () = interrupt.cancelled() => return Err(Error::Exit(INTERRUPTED)),
        }
    }
}
