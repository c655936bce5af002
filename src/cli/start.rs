//! `start`: containers that are there start again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rcompose_engine::container::store::Container;

use super::context::{Context, Scope};
use super::error::Error;
use super::{pull, up};
use crate::compose::{Project, Service};
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
    let there = |name: &String| containers.iter().any(|own| own.service() == name && !own.is_oneoff());
    let wanted =
        |name: &String| scope.project.as_ref().and_then(|project| project.services.get(name)).map(Service::replicas);
    if let Some(name) = args.services.iter().find(|name| !there(name) && wanted(name).is_some_and(|number| number > 0))
    {
        return Err(Error::with_hint(
            format!("service \"{name}\" has no container to start"),
            format!("rcompose up -d {name}"),
        ));
    }
    if args.services.is_empty() && containers.iter().all(Container::is_oneoff) {
        let message = format!("no container found for project \"{}\"", scope.name);
        return Err(Error::with_hint(message, "rcompose up -d"));
    }
    let chosen = scope.select_active(&containers, &with_dependencies(&scope, &args.services))?;
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

/// Returns these services and all that they depend on.
fn with_dependencies(scope: &Scope, services: &[String]) -> Vec<String> {
    let mut all = services.to_vec();
    let mut next = 0;
    while let Some(name) = all.get(next) {
        let service = scope.project.as_ref().and_then(|project| project.services.get(name));
        let new = service.into_iter().flat_map(|service| service.depends_on.keys());
        let new = new.filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>();
        all.extend(new);
        next += 1;
    }
    all
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
