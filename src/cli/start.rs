//! `start`: containers that are there start again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rcompose_engine::container::store::Container;

use super::context::Context;
use super::error::Error;
use super::{pull, up};
use crate::compose::Project;
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::plan::Plan;
use crate::project::plan::Until;
use crate::project::plan::start::{self, Options};
use crate::project::plan::up::{Options as UpOptions, Recreate};

#[derive(Debug, Args)]
pub struct StartArgs {
    /// Wait for services to be running|healthy. Implies detached mode
    #[arg(long)]
    wait: bool,
    /// Maximum duration in seconds to wait for the project to be running|healthy
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &StartArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = context.own(&scope, &engine)?;
    let chosen = scope.select(&containers, &args.services)?;
    let plan = match &scope.project {
        Some(project) if chosen.iter().any(|container| is_prepared(project, container)) => {
            prepared(context, &engine, project.clone(), &containers, &chosen, args.wait)?
        }
        _ => start::start(&containers, &chosen, &Options { wait: args.wait.then_some(Until::RunningOrHealthy) })?,
    };
    let limit = args.wait_timeout.map(Duration::from_secs);
    let takes_part = |container: &Container| chosen.iter().any(|other| other.config.id == container.config.id);
    context.block_on(up::within(limit, &engine, takes_part, context.apply(&engine, plan, "Running", false)))
}

/// Returns whether something runs before a container starts (`pre_start`).
fn is_prepared(project: &Project, container: &Container) -> bool {
    project.services.get(container.service()).is_some_and(|service| !service.pre_start.is_empty())
}

/// Returns the plan that starts the chosen containers after what their services say runs before: that of `up` for what is
/// there, of which nothing is made anew.
fn prepared(
    context: &Context,
    engine: &Engine,
    mut project: Project,
    containers: &[Container],
    chosen: &[&Container],
    wait: bool,
) -> Result<Plan, Error> {
    let mut there = BTreeMap::<&str, i64>::new();
    for container in containers.iter().filter(|container| !container.is_oneoff()) {
        *there.entry(container.service()).or_default() += 1;
    }
    up::only(&mut project, &there.keys().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    for service in project.services.values_mut() {
        service.scale = there.get(service.name.as_str()).copied();
    }
    let services = chosen.iter().map(|container| container.service().to_owned()).collect::<BTreeSet<_>>();
    let options = UpOptions {
        recreate: Recreate::Never,
        recreate_dependencies: Recreate::Never,
        ignore_orphans: true,
        started: Some(services.clone()),
        wait,
        again: services,
        ..UpOptions::default()
    };
    context.block_on(async {
        up::provide(context, &mut project, engine, true).await?;
        let images = if context.global.dry_run {
            pull::pretend(context, engine, &project, None)?
        } else {
            pull::ensure(context, engine, &project, None, false).await?
        };
        up::plan(context, engine, &project, &images, &options)
    })
}
