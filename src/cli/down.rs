//! `down`: everything of the project goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use rcompose_engine::container::config::NetworkMode;
use rcompose_engine::container::store::Container;
use rcompose_engine::network;

use super::context::{Context, Scope, timeout};
use super::error::Error;
use super::signals;
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::plan::Plan;
use crate::project::plan::down::{self, Options, Resources};
use crate::project::provider;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose down
  rcompose down --volumes --rmi local")]
pub struct DownArgs {
    /// Remove containers for services not defined in the compose file
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true)]
    remove_orphans: bool,
    /// Remove images used by services. "local" removes only images that were built here
    #[arg(long, value_enum)]
    rmi: Option<Images>,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Remove named volumes declared in the "volumes" section and anonymous volumes attached to containers
    #[arg(short, long)]
    volumes: bool,
    /// Also those of inactive profiles
    #[arg(skip)]
    every_service: bool,
    services: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Images {
    Local,
    All,
}

impl DownArgs {
    /// Returns what leaves nothing at all.
    pub fn everything(timeout: Option<i64>) -> Self {
        Self { remove_orphans: true, rmi: None, timeout, volumes: true, every_service: true, services: Vec::new() }
    }
}

pub fn run(context: &Context, args: &DownArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let plan = plan(args, &scope, &engine, &context.own(&scope, &engine)?)?;
    // A project with files has networks, of which it is said nothing when they are not there.
    if plan.is_empty() && args.services.is_empty() && scope.project.is_none() {
        context.ui.warn(&format!("No resource found to remove for project \"{}\".", scope.name));
    }
    let interrupted = !context.global.dry_run && network::is_interrupted(&engine.root, &scope.name)?;
    context.block_on(async {
        if interrupted {
            // Its supervisor was killed after an earlier `down`. The first thing that the next one does is to finish that.
            engine.client().await?;
        }
        context.apply(&engine, plan, "Running", true).await?;
        if let (Some(project), true) = (&scope.project, args.services.is_empty()) {
            let progress = context.ui.progress("Running");
            if context.global.dry_run {
                provider::pretend(project, provider::Request::Down, &progress);
            } else {
                provider::down(project, &progress, &signals::interrupt()?).await?;
            }
            progress.finish();
        }
        if !context.global.dry_run
            && engine.containers()?.is_empty()
            && let Some(engine) = Arc::into_inner(engine)
        {
            engine.shutdown().await?;
        }
        Ok(())
    })
}

fn plan(args: &DownArgs, scope: &Scope, engine: &Engine, containers: &[Container]) -> Result<Plan, Error> {
    let goes = |container: &&Container| {
        args.every_service || scope.is_active(container) || (args.remove_orphans && scope.is_orphan(container))
    };
    let chosen: Vec<_> = if args.services.is_empty() {
        containers.iter().filter(goes).collect()
    } else {
        let all = scope.select_all(containers, &args.services)?;
        all.into_iter().filter(|container| !container.is_oneoff() || container.is_hook()).collect()
    };
    let everything = args.services.is_empty();
    let mut networks = engine.own_networks()?;
    if chosen.len() < containers.len() {
        // What only others have is theirs, and what is in use stays in any case.
        let declared = |name: &str| {
            let mut all = scope.project.iter().flat_map(|project| project.networks.values());
            everything && all.any(|network| network.name == name)
        };
        let connected = |name: &str| chosen.iter().any(|container| self::networks(container).any(|own| own == name));
        networks.retain(|name| declared(name) || connected(name));
    }
    let resources = Resources {
        networks,
        volumes: if everything && args.volumes { engine.own_volumes()? } else { Vec::new() },
        anonymous_volumes: if everything && args.volumes { engine.anonymous_volumes()? } else { Vec::new() },
        images: images(args.rmi, scope, &chosen),
    };
    Ok(down::down(&chosen, &resources, &Options { timeout: timeout(args.timeout), volumes: args.volumes }))
}

/// Returns the names of the networks that a container is on.
fn networks(container: &Container) -> impl Iterator<Item = &str> {
    let endpoints = match &container.config.network {
        NetworkMode::Networks(endpoints) => endpoints.as_slice(),
        _ => &[],
    };
    endpoints.iter().map(|endpoint| endpoint.network.as_str())
}

/// Returns the images that go: all that are used, or those that only a build of this project can have made.
fn images(which: Option<Images>, scope: &Scope, containers: &[&Container]) -> BTreeSet<String> {
    let built = |container: &&&Container| {
        let project = scope.project.as_ref();
        let service = project.and_then(|project| project.services.get(container.service()));
        service.is_some_and(|service| service.build.is_some())
    };
    match which {
        None => BTreeSet::new(),
        Some(Images::All) => containers.iter().map(|container| container.config.image.clone()).collect(),
        Some(Images::Local) => {
            containers.iter().filter(built).map(|container| container.config.image.clone()).collect()
        }
    }
}
