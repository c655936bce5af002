//! `build`: the images of services are built.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use clap::Args;
use rcompose_engine::build::dispatch::Asked;
use rcompose_engine::build::{BuildError, Event};
use rcompose_engine::error::chain;
use rcompose_engine::image::{Reference, Store};
use rcompose_engine::root::Root;

use super::context::Context;
use super::debug::{Halted, with_shell};
use super::error::{Error, INTERRUPTED, Message};
use super::ignored::Ignored;
use super::signals;
use crate::compose::Project;
use crate::compose::model::PullPolicy;
use crate::compose::units::parse_bytes;
use crate::project::build::bake::bake;
use crate::project::build::recipe::Recipe;
use crate::project::build::service::{Overrides, Round, rounds};
use crate::project::build::{FailedBuild, Outcome, Workshop};
use crate::project::engine::Engine;
use crate::project::images::Missing;
use crate::project::pull::{self, FetchError, Options, Sources, Wanted, pull_options};
use crate::project::{images, push};
use crate::ui::Ui;
use crate::ui::build::{BuildProgress, excerpt, repeated};
use crate::ui::progress::{Event as Line, Form, Progress, State};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose build --pull web")]
pub struct BuildArgs {
    /// Set build-time variables for services
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    build_arg: Vec<String>,
    /// Set builder to use: there is one, "default"
    #[arg(long, value_parser = builder, value_name = "NAME")]
    builder: Option<String>,
    /// Check build configuration
    #[arg(long)]
    check: bool,
    /// Open a shell in the state before the command that fails
    #[arg(long, conflicts_with = "check")]
    debug: bool,
    /// Set memory limit for the commands of the build
    #[arg(short, long, value_name = "BYTES", value_parser = memory)]
    memory: Option<u64>,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Print equivalent bake file
    #[arg(long)]
    print: bool,
    /// Set type of progress output, in place of what stands before the command
    #[arg(long, value_enum, hide = true)]
    progress: Option<Form>,
    /// Add a provenance attestation
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    provenance: Option<String>,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pull: bool,
    /// Push service images
    #[arg(long, conflicts_with = "check")]
    push: bool,
    /// Suppress the build output
    #[arg(short, long)]
    quiet: bool,
    /// Add a SBOM attestation
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<String>,
    /// Set SSH authentications used when building service images. (use 'default' for using your default SSH Agent)
    #[arg(long, value_name = "ID[=SOCKET]")]
    ssh: Vec<String>,
    /// Also build dependencies (transitively)
    #[arg(long)]
    with_dependencies: bool,
    #[command(flatten)]
    ignored: Ignored,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &BuildArgs) -> Result<(), Error> {
    let context = &context.with_form(args.progress);
    args.ignored.remarks().for_each(|remark| context.ui.warn(&remark));
    with_shell(context, args.debug, |halted| run_with(context, args, halted))
}

fn run_with(context: &Context, args: &BuildArgs, halted: Option<&Halted>) -> Result<(), Error> {
    let project = context.project(&args.services)?;
    let asked = |name: &String| args.services.is_empty() || args.with_dependencies || args.services.contains(name);
    let buildable = |name: &String| project.services[name].build.is_some();
    let chosen: BTreeSet<String> =
        project.services.keys().filter(|name| asked(name) && buildable(name)).cloned().collect();
    if chosen.is_empty() {
        context.ui.warn("No services to build");
        return Ok(());
    }
    let overrides = Overrides {
        arguments: arguments(&args.build_arg),
        no_cache: args.no_cache,
        pull: args.pull,
        push: args.push,
        all_platforms: true,
        memory: args.memory,
        halted: halted.cloned(),
        provenance: args.provenance.clone(),
        sbom: args.sbom.clone(),
        ssh: args.ssh.clone(),
    };
    if args.print {
        return Ok(context.ui.out(&format!("{:#}\n", bake(&project, &chosen, &overrides)))?);
    }
    let rounds = rounds(&project, &chosen, &overrides)?;
    let root = context.root()?;
    context.block_on(async {
        if args.check {
            return check(context, &root, rounds).await;
        }
        let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Building") };
        let built = build(context.ui, &root, rounds, &progress, false).await;
        progress.finish();
        built?;
        if args.push { push_all(&root, &project, &chosen, &progress).await } else { Ok(()) }
    })
}

/// Reads `--builder`. There is one.
pub fn builder(name: &str) -> Result<String, String> {
    if name == "default" { Ok(name.to_owned()) } else { Err(format!("no builder {name:?} found")) }
}

/// Reads a number of bytes.
pub fn memory(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text).ok().and_then(|bytes| u64::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("invalid size: {text:?}"))
}

/// Reads `--build-arg`. One without a value has that of the environment, or none.
pub fn arguments(given: &[String]) -> BTreeMap<String, String> {
    given
        .iter()
        .filter_map(|argument| match argument.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => Some((argument.clone(), std::env::var(argument).ok()?)),
        })
        .collect()
}

/// Builds the images that services need and that are not there, or all that can be built.
pub async fn provide(
    context: &Context,
    engine: &Engine,
    project: &Project,
    all: bool,
    quiet: bool,
) -> Result<(), Error> {
    let mut chosen = BTreeSet::new();
    let mut fetched = Vec::new();
    if project.services.values().any(|service| service.build.is_some()) {
        let store = Store::open(engine.root.data())?;
        let missing = images::look_up(&store, project, false)?.missing;
        for (name, service) in project.services.iter().filter(|(_, service)| service.build.is_some()) {
            let lacks = missing.iter().find(|missing| missing.service == *name);
            if all || service.pull_policy == Some(PullPolicy::Build) {
                chosen.insert(name.clone());
            } else if let Some(missing) = lacks {
                match service.image {
                    // A registry may have it.
                    Some(_) if service.pull_policy != Some(PullPolicy::Never) => fetched.push(missing.clone()),
                    _ => _ = chosen.insert(name.clone()),
                }
            }
        }
    }
    let options = Options { sources: Sources::of_host(), policy: None, interrupt: signals::interrupt()? };
    let store = Arc::new(Store::open(engine.root.data())?);
    for Missing { service, reference, .. } in fetched {
        let wanted = Wanted { service: service.clone(), reference, force: false };
        match pull::fetch(engine, &store, project, vec![wanted], &options, &Progress::quiet()).await {
            Ok(()) => {}
            Err(FetchError::Interrupted) => return Err(Error::Exit(INTERRUPTED)),
            Err(error) => {
                tracing::debug!(%error, service, "not fetched, so it is built");
                chosen.insert(service);
            }
        }
    }
    if chosen.is_empty() {
        return Ok(());
    }
    let rounds = rounds(project, &chosen, &Overrides::default())?;
    let progress = context.ui.progress("Building");
    let built = build(context.ui, &engine.root, rounds, &progress, quiet).await;
    progress.finish();
    built.map(drop)
}

/// Builds all recipes, those of a round at once; with `quiet`, only what comes of them is told. Returns what became of them, by
/// name.
pub async fn build(
    ui: Ui,
    root: &Root,
    rounds: Vec<Round>,
    progress: &Progress,
    quiet: bool,
) -> Result<BTreeMap<String, Outcome>, Error> {
    let told = if quiet { Progress::quiet() } else { progress.clone() };
    let shown = BuildProgress::new(told, rounds.iter().map(Vec::len).sum::<usize>() > 1);
    let listener = Arc::new(move |event: Event| shown.event(&event));
    let interrupt = signals::interrupt()?;
    let stop = interrupt.child_token();
    let workshop = Workshop::open(root, pull_options(&Sources::of_host())?, listener, stop.clone())
        .map_err(|error| failed(ui, "", &error))?;
    let mut built: BTreeMap<String, Outcome> = BTreeMap::new();
    let failure = OnceLock::new();
    for round in rounds {
        let all = round.iter().map(|recipe| async {
            match one(root, &workshop, recipe, progress).await {
                Ok(outcome) => Some((recipe.name.clone(), outcome)),
                Err(error) => {
                    // It ends the others of its round, whose commands are waited for. That they were stopped is no failure.
                    let _ = failure.set(error);
                    stop.cancel();
                    None
                }
            }
        });
        built.extend(futures_util::future::join_all(all).await.into_iter().flatten());
        if failure.get().is_some() {
            break;
        }
    }
    let closed = workshop.close().await;
    // What is said from here on stands below what was shown.
    progress.finish();
    for outcome in built.values() {
        remark(ui, outcome);
    }
    match failure.into_inner() {
        Some(_) if interrupt.is_cancelled() => return Err(Error::Exit(INTERRUPTED)),
        Some(Failure::Build(_, error)) if error.is_interruption() => return Err(Error::Exit(INTERRUPTED)),
        Some(Failure::Build(name, error)) => return Err(failed(ui, &name, &error)),
        Some(Failure::Push(error)) => return Err(error),
        None => {}
    }
    closed?;
    Ok(built)
}

/// Why a recipe came to nothing.
enum Failure {
    /// It was not built, by its name.
    Build(String, FailedBuild),
    /// What was built was not pushed.
    Push(Error),
}

/// Says what there is to say of what was built.
fn remark(ui: Ui, outcome: &Outcome) {
    for warning in &outcome.warnings {
        let line = warning.span.start.line;
        ui.warn(&format!("{} ({}:{line}): {}", warning.rule.name(), outcome.file.0, warning.message));
    }
    for notice in &outcome.notices {
        ui.warn(notice);
    }
}

async fn one(root: &Root, workshop: &Workshop, recipe: &Recipe, progress: &Progress) -> Result<Outcome, Failure> {
    let built = workshop.build(recipe).await;
    let outcome = built.map_err(|error| Failure::Build(recipe.name.clone(), error))?;
    if let Some(tag) = recipe.tags.first() {
        let name = tag.familiar();
        let name = name.strip_suffix(":latest").unwrap_or(&name);
        progress.event(&Line { text: "Built", ..Line::new(name, State::Done, "") });
    }
    let shown = outcome.delivered.push.first().map(Reference::familiar).unwrap_or_default();
    push_names(root, &outcome.delivered.push, &shown, progress).await.map_err(Failure::Push)?;
    Ok(outcome)
}

/// Says what went wrong as BuildKit says it: the last lines of the step's output, the lines of the Dockerfile, the reason.
pub fn failed(ui: Ui, name: &str, error: &FailedBuild) -> Error {
    let mut reason = chain(error);
    let mut hint = None;
    if let FailedBuild::Build { source, .. } = error
        && let BuildError::Step { name: step, output, before, source, .. } = source.root()
    {
        ui.say(&repeated(step, output));
        reason = chain(source);
        // Only a command has a state before it.
        hint = before.as_ref().map(|_| match name {
            "" => "rcompose image build --debug … opens a shell where it failed".to_owned(),
            name => format!("rcompose build --debug {name} opens a shell where it failed"),
        });
    }
    if let FailedBuild::Base { asked: Asked { meant: Some(stage), .. }, .. } = error {
        hint = Some(format!("did you mean the stage {stage}?"));
    }
    if let Some((span, (file, text))) = error.place() {
        ui.say(&excerpt(file, text, span));
    }
    let target = if name.is_empty() { String::new() } else { format!("target {name}: ") };
    Error::Failed(vec![Message { text: format!("{target}failed to solve: {reason}"), hint }])
}

/// Says what the checks have to say.
pub async fn check(context: &Context, root: &Root, rounds: Vec<Round>) -> Result<(), Error> {
    let options = pull_options(&Sources::of_host())?;
    let workshop = Workshop::open(root, options, Arc::new(|_| ()), signals::interrupt()?)
        .map_err(|error| failed(context.ui, "", &error))?;
    let mut text = String::new();
    let mut found = 0;
    for mut recipe in rounds.into_iter().flatten() {
        recipe.all_stages = recipe.target.is_none();
        let platform = recipe.platforms().map_err(|error| Error::new(error.to_string()))?.swap_remove(0);
        let planned = workshop.plan(&recipe, &platform).await;
        let (plan, (file, dockerfile)) = planned.map_err(|error| failed(context.ui, &recipe.name, &error))?;
        found += plan.warnings.len();
        for warning in &plan.warnings {
            let _ = writeln!(text, "WARNING: {}", warning.rule.name());
            let _ = writeln!(text, "{}\n{}\n", warning.message, excerpt(&file, &dockerfile, warning.span));
        }
    }
    workshop.close().await?;
    if found == 0 {
        text.push_str("Check complete, no warnings found.\n");
    } else {
        let _ = writeln!(
            text,
            "Check complete, {found} warning{} found!",
            if found == 1 { " has been" } else { "s have been" }
        );
    }
    context.ui.out(&text)?;
    if found == 0 { Ok(()) } else { Err(Error::Exit(1)) }
}

async fn push_all(root: &Root, project: &Project, chosen: &BTreeSet<String>, progress: &Progress) -> Result<(), Error> {
    for name in chosen {
        let service = &project.services[name];
        let (Some(image), Some(build)) = (&service.image, &service.build) else { continue };
        let names = std::iter::once(image).chain(&build.tags).map(|reference| images::reference(name, reference));
        push_names(root, &names.collect::<Result<Vec<_>, _>>()?, name, progress).await?;
    }
    Ok(())
}

/// Sends images of the store to the registries of their names.
async fn push_names(root: &Root, names: &[Reference], shown: &str, progress: &Progress) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let store = Arc::new(Store::open(root.data())?);
    let options = pull_options(&Sources::of_host())?;
    for name in names {
        push::push(&store, name, &options, progress, shown).await?;
    }
    Ok(())
}
