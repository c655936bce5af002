//! `rm`: stopped containers go.

use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::error::Error;
use crate::project::plan::lifecycle;

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Don't ask to confirm removal
    #[arg(short, long)]
    force: bool,
    /// Stop the containers, if required, before removing
    #[arg(short, long)]
    stop: bool,
    /// Remove any anonymous volumes attached to containers
    #[arg(short, long)]
    volumes: bool,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &RmArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    if args.stop {
        let containers = context.own(&scope, &engine)?;
        let plan = lifecycle::stop(&scope.select_active(&containers, &args.services)?, None);
        context.block_on(context.apply(&engine, plan, "Stopping", true))?;
    }
    let containers = context.own(&scope, &engine)?;
    let mut stopped = scope.select_active(&containers, &args.services)?;
    // Those that were only said to be stopped as well.
    let pretended = args.stop && context.global.dry_run;
    stopped.retain(|container| pretended || !lifecycle::is_active(container));
    if stopped.is_empty() {
        context.ui.say("No stopped containers");
        return Ok(());
    }
    let names = stopped.iter().map(|container| container.config.name.as_str()).collect::<Vec<_>>().join(", ");
    if args.force {
        context.ui.out(&format!("Going to remove {names}\n"))?;
    } else if !context.ui.confirm(&format!("? Going to remove {names}")) {
        return Ok(());
    }
    let plan = lifecycle::remove(&stopped, args.volumes);
    context.block_on(context.apply(&engine, plan, "Removing", true))
}
