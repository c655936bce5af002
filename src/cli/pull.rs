//! `pull`: the images of services come from their registries.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use rcompose_engine::image::{DEFAULT_TAG, Store};
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::error::{Error, INTERRUPTED};
use super::signals;
use crate::compose::Project;
use crate::compose::model::PullPolicy;
use crate::project::engine::Engine;
use crate::project::images::{self, Images};
use crate::project::names;
use crate::project::pull::{self, FetchError, Options, Sources, Wanted};
use crate::ui::progress::{Event, Progress, State};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose pull --policy daily --ignore-pull-failures")]
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
    /// Apply pull policy: always, missing, never, daily, weekly or every_<duration>
    #[arg(long, value_parser = policy)]
    policy: Option<PullPolicy>,
    /// Pull without printing progress information
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

/// Which images are asked for, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    let (mut wanted, mut buildable) = (Vec::new(), Vec::new());
    for (name, service) in project.services.iter().filter(|(name, _)| named(name)) {
        let skipped = |why| progress.event(&Event { text: "Skipped", ..Event::new(name, State::Done, why) });
        let policy = args.policy.as_ref().or(service.pull_policy.as_ref());
        if service.image.is_none() {
            skipped("No image to be pulled");
            continue;
        }
        if args.ignore_buildable && service.build.is_some() {
            skipped("Image can be built");
            continue;
        }
        if matches!(policy, Some(PullPolicy::Never | PullPolicy::Build)) {
            skipped("");
            continue;
        }
        let mounted = images::further(service).into_iter().map(str::to_owned);
        for reference in std::iter::once(names::image(project, service)).chain(mounted) {
            let force = match policy {
                // `latest` is what somebody else changes; Docker Compose asks for it in any case.
                Some(PullPolicy::Missing) => images::reference(name, &reference)?.tag() == Some(DEFAULT_TAG),
                // Whoever writes it in the file means `up`; whoever types it means now.
                Some(PullPolicy::Refresh(age)) if args.policy.is_some() => {
                    pull::is_older(&store, name, &reference, *age)?
                }
                _ => true,
            };
            if !force && store.get(&images::reference(name, &reference)?)?.is_some() {
                let refresh = matches!(policy, Some(PullPolicy::Refresh(_)));
                skipped(if refresh { "Image is recent enough" } else { "Image is already present locally" });
                continue;
            }
            if service.build.is_some() {
                buildable.push(Wanted { service: name.clone(), reference, force });
            } else {
                wanted.push(Wanted { service: name.clone(), reference, force });
            }
        }
    }
    let options = Options { sources: Sources::of_host(), policy: None, interrupt: signals::interrupt()? };
    let mut failures = Vec::new();
    if args.ignore_pull_failures {
        buildable.append(&mut wanted);
    } else {
        pull::fetch(engine, &store, project, wanted, &options, progress).await.map_err(failed)?;
    }
    // What may fail does so alone.
    let mut must_build = Vec::new();
    for wanted in buildable {
        let service = wanted.service.clone();
        match pull::fetch(engine, &store, project, vec![wanted], &options, progress).await.map_err(failed) {
            Ok(()) => {}
            Err(Error::Failed(messages)) => {
                if args.ignore_pull_failures {
                    for message in &messages {
                        context.ui.warn(&message.text);
                    }
                } else {
                    failures.extend(messages);
                }
                if project.services[&service].build.is_some() {
                    must_build.push(service);
                }
            }
            Err(error) => return Err(error),
        }
    }
    if !must_build.is_empty() {
        let services = must_build.join(" ");
        context.ui.warn(&format!(
            "Some service image(s) must be built from source by running:\n    rcompose build {services}"
        ));
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures)) }
}

/// Reads `--policy`.
fn policy(text: &str) -> Result<PullPolicy, String> {
    match PullPolicy::parse(text) {
        PullPolicy::Missing if !matches!(text, "missing" | "if_not_present") => {
            Err("always, missing, never, build, daily, weekly or every_<duration>".to_owned())
        }
        policy => Ok(policy),
    }
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

/// Says which images [`ensure`] would fetch, and returns what there is.
pub fn pretend(context: &Context, engine: &Engine, project: &Project, policy: Option<Policy>) -> Result<Images, Error> {
    let (images, due) = pull::foresee(engine, project, policy.map(PullPolicy::from).as_ref())?;
    let progress = context.ui.progress("Running");
    for wanted in due.iter().filter(|wanted| !images::is_builtin(&wanted.reference)) {
        progress.event(&Event { text: "Pulling", ..Event::new(&wanted.service, State::Working, "") });
        progress.event(&Event { text: "Pulled", ..Event::new(&wanted.service, State::Done, "") });
    }
    progress.finish();
    Ok(images)
}

fn failed(error: FetchError) -> Error {
    match error {
        FetchError::Interrupted => Error::Exit(INTERRUPTED),
        error => error.into(),
    }
}
