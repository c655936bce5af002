//! `pull`: the images of services come from their registries.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use rcompose_engine::image::Store;

use super::context::Context;
use super::error::{Error, INTERRUPTED};
use super::signals;
use crate::compose::Project;
use crate::compose::model::PullPolicy;
use crate::project::engine::Engine;
use crate::project::images::{self, Images};
use crate::project::names;
use crate::project::pull::{self, FetchError, Options, Sources, Wanted};
use crate::ui::progress::Progress;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// Ignore images that can be built
    #[arg(long)]
    ignore_buildable: bool,
    /// Pull what it can and ignores images with pull failures
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Also pull services declared as dependencies
    #[arg(long)]
    include_deps: bool,
    /// Apply pull policy
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Pull without printing progress information
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

/// Which images are asked for, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    Always,
    Missing,
    Never,
    Build,
}

impl From<Policy> for PullPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Always => Self::Always,
            Policy::Missing => Self::Missing,
            Policy::Never => Self::Never,
            Policy::Build => Self::Build,
        }
    }
}

pub fn run(context: &Context, args: &PullArgs) -> Result<(), Error> {
    let project = context.project(&args.services)?;
    let engine = context.engine(&project.name)?;
    let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Pulling") };
    let fetched = context.block_on(fetch(context, args, &project, &engine, &progress));
    progress.finish();
    fetched
}

async fn fetch(
    context: &Context,
    args: &PullArgs,
    project: &Project,
    engine: &Engine,
    progress: &Progress,
) -> Result<(), Error> {
    let store = Arc::new(Store::open(engine.root.data())?);
    let named = |name: &String| args.services.is_empty() || args.include_deps || args.services.contains(name);
    let mut wanted = Vec::new();
    for (name, service) in project.services.iter().filter(|(name, _)| named(name)) {
        let policy = args.policy.map(PullPolicy::from).or_else(|| service.pull_policy.clone());
        if service.image.is_none()
            || (args.ignore_buildable && service.build.is_some())
            || matches!(policy, Some(PullPolicy::Never | PullPolicy::Build))
        {
            continue;
        }
        let force = args.policy != Some(Policy::Missing) && policy != Some(PullPolicy::Missing);
        let mounted = images::mounted(service).into_iter().map(str::to_owned);
        for reference in std::iter::once(names::image(&project.name, service)).chain(mounted) {
            wanted.push(Wanted { service: name.clone(), reference, force });
        }
    }
    let options = Options { sources: Sources::of_host(), policy: None, interrupt: signals::interrupt()? };
    if !args.ignore_pull_failures {
        return pull::fetch(engine, &store, project, wanted, &options, progress).await.map_err(failed);
    }
    for wanted in wanted {
        match pull::fetch(engine, &store, project, vec![wanted], &options, progress).await.map_err(failed) {
            Err(Error::Failed(messages)) => messages.iter().for_each(|message| context.ui.warn(&message.text)),
            other => other?,
        }
    }
    Ok(())
}

/// Returns the images that a project's services need, after fetching what is missing.
pub async fn ensure(
    context: &Context,
    engine: &Engine,
    project: &Project,
    policy: Option<Policy>,
    quiet: bool,
) -> Result<Images, Error> {
    let options =
        Options { sources: Sources::of_host(), policy: policy.map(PullPolicy::from), interrupt: signals::interrupt()? };
    let progress = if quiet { Progress::quiet() } else { context.ui.progress("Running") };
    let images = pull::ensure(engine, project, &options, &progress).await;
    progress.finish();
    images.map_err(failed)
}

fn failed(error: FetchError) -> Error {
    match error {
        FetchError::Interrupted => Error::Exit(INTERRUPTED),
        error => error.into(),
    }
}
