//! `down`: everything of the project goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use rcompose_engine::container::store::Container;

use super::context::{Context, Scope, timeout};
use super::error::Error;
use super::signals;
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::plan::Plan;
use crate::project::plan::down::{self, Options, Resources};
use crate::project::provider;

#[derive(Debug, Args)]
pub struct DownArgs {
    /// Remove containers for services not defined in the compose file
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true)]
    remove_orphans: bool,
    /// Remove images used by services. "local" removes only images that don't have a custom tag
    #[arg(long, value_enum)]
    rmi: Option<Images>,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Remove named volumes declared in the "volumes" section and anonymous volumes attached to containers
    #[arg(short, long)]
    volumes: bool,
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
        Self { remove_orphans: true, rmi: None, timeout, volumes: true, services: Vec::new() }
    }
}

pub fn run(context: &Context, args: &DownArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let plan = plan(args, &scope, &engine, &context.own(&scope, &engine)?)?;
    if plan.is_empty() && args.services.is_empty() {
        context.ui.warn(&format!("No resource found to remove for project \"{}\".", scope.name));
    }
    context.block_on(async {
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
    let orphan = |container: &&Container| {
        scope.project.as_ref().is_some_and(|project| {
            let service = container.service();
            !project.services.contains_key(service) && !project.disabled_services.contains_key(service)
        })
    };
    let chosen: Vec<_> = if args.services.is_empty() {
        containers.iter().filter(|container| args.remove_orphans || !orphan(container)).collect()
    } else {
        let all = scope.select_all(containers, &args.services)?;
        all.into_iter().filter(|container| !container.is_oneoff() || container.is_hook()).collect()
    };
    // As long as a container stays, so does what it may need.
    let everything = args.services.is_empty();
    let resources = Resources {
        networks: if everything || chosen.len() == containers.len() { engine.own_networks()? } else { Vec::new() },
        volumes: if everything && args.volumes { engine.own_volumes()? } else { Vec::new() },
        anonymous_volumes: if everything && args.volumes { engine.anonymous_volumes()? } else { Vec::new() },
        images: images(args.rmi, scope, &chosen),
    };
    Ok(down::down(&chosen, &resources, &Options { timeout: timeout(args.timeout), volumes: args.volumes }))
}

/// Returns the images that go: all that are used, or those that only a build of this project can have made.
fn images(which: Option<Images>, scope: &Scope, containers: &[&Container]) -> BTreeSet<String> {
    let built = |container: &&&Container| {
        let project = scope.project.as_ref();
        let service = project.and_then(|project| project.services.get(container.service()));
        service.is_some_and(|service| service.image.is_none())
    };
    match which {
        None => BTreeSet::new(),
        Some(Images::All) => containers.iter().map(|container| container.config.image.clone()).collect(),
        Some(Images::Local) => {
            containers.iter().filter(built).map(|container| container.config.image.clone()).collect()
        }
    }
}
