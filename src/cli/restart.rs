//! `restart`: the containers end and start again, as they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;
use rcompose_engine::container::store::Container;

use super::context::{Context, timeout};
use super::error::Error;
use crate::project::labels::Labelled as _;
use crate::project::plan::lifecycle;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose restart web
  rcompose restart --no-deps db")]
pub struct RestartArgs {
    /// Don't restart dependent services
    #[arg(long)]
    no_deps: bool,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &RestartArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = context.own(&scope, &engine)?;
    let mut chosen = scope.select_active(&containers, &args.services)?;
    if !args.no_deps {
        with_dependents(&containers, &mut chosen);
    }
    let plan = lifecycle::restart(&chosen, timeout(args.timeout));
    context.block_on(context.apply(&engine, plan, "Restarting", false))
}

/// Adds the running containers that are to be restarted with one of those chosen (`depends_on`, `restart: true`).
pub(super) fn with_dependents<'a>(containers: &'a [Container], chosen: &mut Vec<&'a Container>) {
    let services = chosen.iter().map(|container| container.service().to_owned()).collect::<BTreeSet<_>>();
    let follows = |container: &&Container| {
        !container.is_oneoff()
            && lifecycle::is_active(container)
            && !services.contains(container.service())
            && container.dependencies().iter().any(|depends| depends.restart && services.contains(depends.service))
    };
    chosen.extend(containers.iter().filter(follows));
}
