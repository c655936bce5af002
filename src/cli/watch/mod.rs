//! `watch`: what changes in the files of a project is brought into its containers.

mod session;
mod work;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::build;
use super::context::Context;
use super::error::{Error, INTERRUPTED};
use super::follow::Voice;
use super::signals;
use super::up::{self, ConvergeArgs, UpArgs};
use crate::compose::Project;
use crate::compose::model::WatchAction;
use crate::project::build::service::{Overrides, rounds};
use crate::ui::logs::{Printer, Style};
use crate::watch::rules::{RuleError, Rules};
use crate::watch::source::{self, Source};

pub use session::Session;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose watch --no-up web")]
pub struct WatchArgs {
    /// Do not build & start services before watching
    #[arg(long)]
    no_up: bool,
    /// Remove images that a rebuild has replaced
    #[arg(
        long,
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    prune: bool,
    /// Hide build output
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    eyes: EyesArgs,
    services: Vec<String>,
}

/// How files are watched.
#[derive(Debug, Clone, Default, Args)]
pub struct EyesArgs {
    /// Look at watched files every so many seconds, where the kernel cannot tell what changes (network file systems)
    #[arg(long, value_name = "SECONDS", env = "RCOMPOSE_WATCH_POLL", hide_env = true, value_parser = seconds)]
    pub poll: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0);
    number
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .ok_or_else(|| "a number of seconds such as 1 or 0.5".to_owned())
}

/// What is done beside watching.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Show nothing of builds.
    pub quiet: bool,
    /// Remove images that were replaced.
    pub prune: bool,
}

pub fn run(context: &Context, args: &WatchArgs) -> Result<(), Error> {
    let project = context.project(&args.services)?;
    let engine = Arc::new(context.engine(&project.name)?);
    let (rules, source) = begin(context, &project, &args.eyes)?;
    if !args.no_up {
        bring_up(context, args, &project)?;
    }
    let printer = Printer::new(Style { colours: false, prefix: false, timestamps: false });
    let voice = Voice::new(printer, context.global.dry_run);
    let options = Options { quiet: args.quiet, prune: args.prune };
    context.block_on(async {
        let stop = signals::interrupt()?;
        let session = Session::new(context, &engine, &project, options, voice, rules, source);
        session.run(stop).await?;
        Err(Error::Exit(INTERRUPTED))
    })
}

/// Begins to watch: what changes while the project is brought up is done after that.
fn begin(context: &Context, project: &Project, eyes: &EyesArgs) -> Result<(Arc<Rules>, Source), Error> {
    let rules = Arc::new(Rules::of(project)?);
    for warning in &rules.warnings {
        context.ui.warn(warning);
    }
    if rules.rules.is_empty() {
        return Err(RuleError::Nothing.into());
    }
    let source = source::start(Arc::clone(&rules), eyes.poll)
        .map_err(|error| Error::new(format!("cannot begin to watch: {error}")))?;
    Ok((rules, source))
}

/// Refuses rules that cannot be carried out where nothing is built.
fn refuse_rebuilds(project: &Project) -> Result<(), Error> {
    let rebuilds = |service: &&crate::compose::Service| {
        let rules = service.develop.iter().flat_map(|develop| &develop.watch);
        rules.into_iter().any(|rule| rule.action == WatchAction::Rebuild)
    };
    match project.services.values().find(rebuilds) {
        None => Ok(()),
        Some(service) => {
            Err(Error::new(format!("--no-build is incompatible with watch action rebuild in service {}", service.name)))
        }
    }
}

/// Builds what is watched, and starts everything.
fn bring_up(context: &Context, args: &WatchArgs, project: &Project) -> Result<(), Error> {
    let built = |service: &&crate::compose::Service| service.build.is_some() && service.develop.is_some();
    let built = project.services.values().filter(built).map(|service| service.name.clone()).collect::<BTreeSet<_>>();
    if !built.is_empty() && !context.global.dry_run {
        let rounds = rounds(project, &built, &Overrides::default())?;
        let root = context.root()?;
        let progress = context.ui.progress("Building");
        context.block_on(async {
            let built = build::build(context.ui, &root, rounds, &progress, args.quiet).await;
            progress.finish();
            built.map(drop)
        })?;
    }
    let converge = ConvergeArgs { services: args.services.clone(), ..ConvergeArgs::default() };
    up::run(context, &UpArgs { converge, detach: true, quiet_build: args.quiet, ..UpArgs::default() })
}

/// Begins to watch beside attached `up`, unless its flags forbid what would follow.
pub fn files(context: &Context, project: &Project, args: &UpArgs) -> Result<(Arc<Rules>, Source), Error> {
    if args.no_build {
        refuse_rebuilds(project)?;
    }
    begin(context, project, &args.eyes)
}
