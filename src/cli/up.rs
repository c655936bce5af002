//! `up`: the project becomes what its files say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{StringValueParser, TypedValueParser as _};
use rcompose_engine::container::store::Container;
use serde::{Deserialize, Serialize};

use super::attached::{self, Attached, OnExit};
use super::build;
use super::context::{Context, timeout};
use super::error::Error;
use super::plan;
use super::pull::{self, Policy};
use super::signals;
use super::urls;
use super::watch::{self, EyesArgs};
use crate::compose::Project;
use crate::compose::model::{Condition, NetworkMode};
use crate::project::apply::Unready;
use crate::project::container::{discarded, unhonoured};
use crate::project::elements;
use crate::project::engine::Engine;
use crate::project::images::Images;
use crate::project::labels::Labelled as _;
use crate::project::models;
use crate::project::network;
use crate::project::plan::Plan;
use crate::project::plan::up::{self, Options, Recreate, Wanted};
use crate::project::provider;
use crate::project::timeline::Recorder;

#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  rcompose up
  rcompose up -d --wait
  rcompose up --build --watch web
  rcompose up -d --scale web=3")]
pub struct UpArgs {
    #[command(flatten)]
    pub converge: ConvergeArgs,
    /// Stops all containers if any container was stopped. Incompatible with -d
    #[arg(long, conflicts_with_all = ["detach", "abort_on_container_failure", "wait"])]
    pub abort_on_container_exit: bool,
    /// Stops all containers if any container exited with failure. Incompatible with -d
    #[arg(long, conflicts_with_all = ["detach", "wait"])]
    pub abort_on_container_failure: bool,
    /// Restrict attaching to the specified services
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["detach", "wait"])]
    pub attach: Vec<String>,
    /// Automatically attach to log output of dependent services
    #[arg(long, conflicts_with = "detach")]
    pub attach_dependencies: bool,
    /// Build images before starting containers
    #[arg(long, conflicts_with = "no_build")]
    pub build: bool,
    /// Detached mode: Run containers in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Return the exit code of the selected service container. Implies --abort-on-container-exit
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["detach", "wait"])]
    pub exit_code_from: Option<String>,
    /// Listen to keys while attached: d (detach), w (watch), o (URLs), q (stop)
    #[arg(long, value_name = "BOOL", env = "COMPOSE_MENU", hide_env = true, action = clap::ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true",
        value_parser = StringValueParser::new().map(|text| super::is_yes(&text)), hide_default_value = true)]
    pub menu: bool,
    /// Do not attach (stream logs) to the specified services
    #[arg(long, value_name = "SERVICE")]
    pub no_attach: Vec<String>,
    /// Produce monochrome output
    #[arg(long)]
    pub no_color: bool,
    /// Don't print prefix in logs
    #[arg(long)]
    pub no_log_prefix: bool,
    /// Pull without printing progress information
    #[arg(long)]
    pub quiet_pull: bool,
    /// Show timestamps
    #[arg(long)]
    pub timestamps: bool,
    /// Maximum duration in seconds to wait for the project to be running|healthy
    #[arg(long, value_name = "SECONDS")]
    pub wait_timeout: Option<u64>,
    /// Don't build an image, even if it's policy
    #[arg(long)]
    pub no_build: bool,
    /// Suppress the build output
    #[arg(long)]
    pub quiet_build: bool,
    /// Watch source code and rebuild/refresh containers when files are updated
    #[arg(short, long, conflicts_with_all = ["detach", "wait"])]
    pub watch: bool,
    #[command(flatten)]
    pub eyes: EyesArgs,
    /// Write what was done when, and why, to this file, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Carry out the plan that `rcompose plan --out` wrote to this file, if it is still the one (-: standard input)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["always_recreate_deps", "force_recreate", "no_deps", "no_recreate", "no_start", "pull", "renew_anon_volumes", "scale", "services", "wait"])]
    pub plan: Option<PathBuf>,
}

/// What the plan of `up` depends on, besides the project and what is there.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvergeArgs {
    /// Recreate dependent containers. Incompatible with --no-recreate
    #[arg(long, conflicts_with = "no_recreate")]
    pub always_recreate_deps: bool,
    /// Recreate containers even if their configuration and image haven't changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub force_recreate: bool,
    /// Don't start linked services
    #[arg(long)]
    pub no_deps: bool,
    /// If containers already exist, don't recreate them. Incompatible with --force-recreate
    #[arg(long)]
    pub no_recreate: bool,
    /// Don't start the services after creating them
    #[arg(long)]
    pub no_start: bool,
    /// Pull image before running
    #[arg(long, value_enum)]
    pub pull: Option<Policy>,
    /// Remove containers for services not defined in the compose file
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true)]
    pub remove_orphans: bool,
    /// Recreate anonymous volumes instead of retrieving data from the previous containers
    #[arg(short = 'V', long)]
    pub renew_anon_volumes: bool,
    /// Scale SERVICE to NUM instances. Overrides the scale setting in the compose file if present
    #[arg(long, value_name = "SERVICE=NUM")]
    pub scale: Vec<String>,
    /// Use this timeout in seconds for container shutdown when attached or when containers are already running
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout: Option<i64>,
    /// Wait for services to be running|healthy. Implies detached mode
    #[arg(long)]
    pub wait: bool,
    /// Assume "yes" as answer to all prompts and run non-interactively
    #[arg(short, long)]
    pub yes: bool,
    pub services: Vec<String>,
}

impl UpArgs {
    /// Returns what an exit of a container leads to.
    pub fn on_exit(&self) -> OnExit {
        match (&self.exit_code_from, self.abort_on_container_exit, self.abort_on_container_failure) {
            (_, _, true) => OnExit::StopOnFailure,
            (Some(_), _, _) | (_, true, _) => OnExit::Stop,
            _ => OnExit::GoOn,
        }
    }
}

pub fn run(context: &Context, args: &UpArgs) -> Result<(), Error> {
    let kept = args.plan.as_deref().map(plan::read).transpose()?;
    let args = &match &kept {
        Some(kept) => UpArgs { converge: kept.options.clone(), ..args.clone() },
        None => args.clone(),
    };
    let asked = &args.converge;
    let loaded = context.load(&asked.services)?;
    let idle = elements::unhonoured(&loaded.resolved);
    let mut project = chosen(loaded.project, asked)?;
    let engine = Arc::new(context.engine(&project.name)?);
    context.refuse_elsewhere(&project, &engine.containers()?)?;
    if !context.global.dry_run {
        engine.begin();
    }
    context.ui.diagnostics(&idle);
    let of_services = project.services.values();
    let of_services = of_services.flat_map(|service| [unhonoured(&project, service), discarded(service)].concat());
    let of_networks = project.networks.values().filter(|network| !network.external).flat_map(network::unhonoured);
    for sentence in of_services.chain(of_networks) {
        context.ui.warn(&sentence);
    }
    let watched = if args.watch { Some(watch::files(context, &project, args)?) } else { None };
    let limit = args.wait_timeout.map(Duration::from_secs);
    let recorder = Recorder::default();
    context.block_on(async {
        provide(context, &mut project, &engine, context.global.dry_run).await?;
        let project = project;
        let mut images = if context.global.dry_run {
            pull::pretend(context, &engine, &project, asked.pull)?
        } else {
            let begun = jiff::Timestamp::now();
            if !args.no_build {
                build::provide(context, &engine, &project, args.build, args.quiet_build).await?;
            }
            let images = pull::ensure(context, &engine, &project, asked.pull, args.quiet_pull).await?;
            recorder.fetched(begun);
            images
        };
        let hold = images.hold.take();
        let mut options = options(context, asked);
        if kept.is_none() {
            options.again = again(args, &project);
        }
        options.replaced_volumes = redefined(&project, &engine)?;
        options
            .replaced_volumes
            .retain(|volume| asked.yes || (!context.global.dry_run && may_replace(context, volume)));
        let detached = args.detach || asked.wait || asked.no_start || context.global.dry_run;
        if detached || kept.is_some() {
            let whole = plan(context, &engine, &project, &images, &options)?;
            if let Some(kept) = &kept {
                plan::compare(kept, &plan::describe(&project, &engine, &whole, &[], &|_| None)?)?;
            }
            if detached {
                claim(context, &project, &engine, &whole).await?;
                let changes = !context.global.dry_run && !whole.is_empty();
                let applied = context.apply_with(&engine, whole, "Running", hold, Some(recorder.clone()));
                let takes_part = |container: &Container| project.services.contains_key(container.service());
                let done = within(limit, &engine, takes_part, applied).await;
                if changes || args.trace.is_some() {
                    remember(args, &engine, &recorder)?;
                }
                done?;
                return if context.global.dry_run { Ok(()) } else { urls::announce(context, &engine, &project) };
            }
        }
        let attached = Attached { services: attached::services(args, &project)?, watched };
        let whole = plan(context, &engine, &project, &images, &options)?;
        let made = if whole.updates() {
            // What is replaced while its service goes on starts where that is done.
            whole
        } else {
            plan(context, &engine, &project, &images, &Options { no_start: true, ..options.clone() })?
        };
        claim(context, &project, &engine, &made).await?;
        context.apply_with(&engine, made, "Running", hold, Some(recorder.clone())).await?;
        // Everything is as it should be now, and what is left to do is to start it.
        let rest = Options {
            recreate: Recreate::Never,
            recreate_dependencies: Recreate::Never,
            ignore_orphans: true,
            ..options
        };
        let mut rest = plan(context, &engine, &project, &images, &rest)?;
        rest.warnings.clear();
        attached::run(context, args, (&engine, &project), attached, rest, &recorder).await
    })
}

/// Makes sure, where a plan makes containers, that nobody else does so under the project's name from another place.
pub async fn claim(context: &Context, project: &Project, engine: &Engine, plan: &Plan) -> Result<(), Error> {
    if plan.makes_containers() && !context.global.dry_run { context.claim(project, engine).await } else { Ok(()) }
}

/// Keeps what was done when for `blame`, and writes it where it was asked for.
pub fn remember(args: &UpArgs, engine: &Engine, recorder: &Recorder) -> Result<(), Error> {
    let timeline = recorder.timeline(&engine.containers()?);
    // It is for whoever wonders, and nobody has asked yet.
    if let Err(error) = timeline.keep(&engine.root) {
        tracing::warn!(%error, "cannot keep the timeline");
    }
    match &args.trace {
        None => Ok(()),
        Some(path) => std::fs::write(path, timeline.chrome().to_string())
            .map_err(|error| Error::new(format!("cannot write {}: {error}", path.display()))),
    }
}

/// Gives services the variables of what is outside of the files. With `foreseen`, no provider is asked, and what it set before
/// stands for what it would set.
pub async fn provide(context: &Context, project: &mut Project, engine: &Engine, foreseen: bool) -> Result<(), Error> {
    models::provide(project).map_err(|unserved| Error::with_hint(unserved.to_string(), unserved.hint()))?;
    if project.services.values().all(|service| service.provider.is_none()) {
        return Ok(());
    }
    let progress = context.ui.progress("Running");
    if foreseen {
        let containers = engine.containers()?;
        let known = |service: &str| {
            let own = containers.iter().filter(|container| container.service() == service);
            own.flat_map(|own| own.config.environment.clone()).filter_map(|(key, value)| Some((key, value?))).collect()
        };
        if context.global.dry_run {
            provider::pretend(project, provider::Request::Up, &progress);
        }
        provider::foresee(project, &known);
    } else {
        provider::up(project, &progress, &signals::interrupt()?).await?;
    }
    progress.finish();
    Ok(())
}

/// Returns the services that are run again although they have finished: those that were asked for by name, and, where
/// somebody watches, those whose end nobody else waits for.
fn again(args: &UpArgs, project: &Project) -> BTreeSet<String> {
    let asked = args.converge.services.iter().chain(&args.exit_code_from).cloned();
    let watched = !(args.detach || args.converge.wait);
    let awaited = |name: &String| {
        let conditions = project.services.values().filter_map(|service| service.depends_on.get(name));
        conditions.into_iter().any(|dependency| dependency.condition == Condition::CompletedSuccessfully)
    };
    asked.chain(project.services.keys().filter(|name| watched && !awaited(name)).cloned()).collect()
}

/// Returns the volumes that are not what the files say any more, by name.
pub fn redefined(project: &Project, engine: &Engine) -> Result<BTreeSet<String>, Error> {
    if project.volumes.is_empty() {
        return Ok(BTreeSet::new());
    }
    Ok(up::redefined(project, &engine.volumes()?))
}

/// Asks, in Docker Compose's words, whether a volume is to be made again.
fn may_replace(context: &Context, volume: &str) -> bool {
    context.ui.confirm(&format!(
        "Volume {volume:?} exists but doesn't match configuration in compose file. Recreate (data will be lost)?"
    ))
}

/// Gives up after this long, and then says what is not ready of the containers that take part.
pub async fn within(
    limit: Option<Duration>,
    engine: &Engine,
    takes_part: impl Fn(&Container) -> bool,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let Some(limit) = limit else { return work.await };
    if let Ok(done) = tokio::time::timeout(limit, work).await {
        return done;
    }
    let containers = engine.containers()?;
    let waited = containers.iter().filter(|container| !container.is_oneoff() && takes_part(container));
    let unready = Unready::among(&engine.root, &engine.project, waited);
    let lines = std::iter::once(format!("application not healthy after {}s", limit.as_secs()))
        .chain(unready.iter().map(ToString::to_string));
    let text = lines.collect::<Vec<_>>().join("\n");
    Err(unready.first().map_or_else(|| Error::new(&text), |unready| Error::with_hint(&text, unready.hint())))
}

/// Returns the project with the services that take part, at the scale that was asked for.
pub fn chosen(mut project: Project, args: &ConvergeArgs) -> Result<Project, Error> {
    if args.no_deps && !args.services.is_empty() {
        only(&mut project, &args.services);
    }
    for scale in &args.scale {
        let parsed = scale.split_once('=').and_then(|(name, number)| Some((name, number.parse::<u32>().ok()?)));
        let Some((name, number)) = parsed else {
            return Err(Error::new(format!("invalid --scale option \"{scale}\": should be SERVICE=NUM")));
        };
        let Some(service) = project.services.get_mut(name) else {
            return Err(Error::no_such_service(name, project.services.keys().map(String::as_str)));
        };
        service.scale = Some(i64::from(number));
    }
    if project.services.is_empty() {
        let hint = "rcompose config --profiles lists the profiles that --profile takes";
        return Err(Error::with_hint("no service selected", hint));
    }
    Ok(project)
}

/// Leaves only these services, without what they depend on.
pub fn only(project: &mut Project, services: &[String]) {
    let (chosen, others) =
        std::mem::take(&mut project.services).into_iter().partition(|(name, _)| services.contains(name));
    project.services = chosen;
    project.disabled_services.extend(others);
}

pub fn options(context: &Context, args: &ConvergeArgs) -> Options {
    let recreate = match (args.no_recreate, args.force_recreate || args.renew_anon_volumes) {
        (true, _) => Recreate::Never,
        (false, true) => Recreate::Force,
        (false, false) => Recreate::Diverged,
    };
    let recreate_dependencies = match (args.no_recreate, args.always_recreate_deps) {
        (true, _) => Recreate::Never,
        (false, true) => Recreate::Force,
        (false, false) => Recreate::Diverged,
    };
    Options {
        services: args.services.clone(),
        recreate,
        recreate_dependencies,
        renew_anonymous_volumes: args.renew_anon_volumes,
        remove_orphans: args.remove_orphans,
        ignore_orphans: context.is_set("COMPOSE_IGNORE_ORPHANS"),
        all_resources: context.global.all_resources,
        no_start: args.no_start,
        started: None,
        wait: args.wait,
        timeout: timeout(args.timeout),
        replaced_volumes: BTreeSet::new(),
        again: args.services.iter().cloned().collect(),
        one_off: None,
    }
}

/// Returns the plan that makes what is there what the project wants.
pub fn plan(
    context: &Context,
    engine: &Engine,
    project: &Project,
    images: &Images,
    options: &Options,
) -> Result<Plan, Error> {
    let labels = context.labels(project);
    let wanted = Wanted { project, labels: &labels, images: &images.services, mounted_images: &images.mounted };
    let observed = engine.observe(&others(project))?;
    Ok(up::up(wanted, &observed, options)?)
}

/// Returns the containers, by name or id, that services refer to besides those of the project.
fn others(project: &Project) -> BTreeSet<String> {
    let mut others = BTreeSet::new();
    for service in project.services.values() {
        let modes =
            [&service.pid, &service.ipc].into_iter().flatten().filter_map(|mode| mode.strip_prefix("container:"));
        others.extend(modes.map(str::to_owned));
        if let Some(NetworkMode::Container(name)) = &service.network_mode {
            others.insert(name.clone());
        }
        let volumes = service.volumes_from.iter().filter_map(|from| from.strip_prefix("container:"));
        others.extend(volumes.map(|from| from.split(':').next().unwrap_or(from).to_owned()));
    }
    others
}
