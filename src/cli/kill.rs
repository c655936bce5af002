//! `kill`: a signal to PID 1 of the containers.

use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::error::Error;
use crate::project::plan::lifecycle;

#[derive(Debug, Args)]
pub struct KillArgs {
    /// Also kill containers for services not defined in the Compose file
    #[arg(long)]
    remove_orphans: bool,
    /// SIGNAL to send to the container
    #[arg(short, long, default_value = "SIGKILL")]
    signal: String,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &KillArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = context.own(&scope, &engine)?;
    let mut chosen = scope.select_all(&containers, &args.services)?;
    // Docker Compose's flag has this name, and does this.
    chosen.retain(|container| args.remove_orphans || !scope.is_orphan(container));
    let plan = lifecycle::kill(&chosen, &args.signal);
    if plan.steps.node_count() == 0 {
        context.ui.say("no container to kill");
        return Ok(());
    }
    context.block_on(context.apply(&engine, plan, "Killing", true))
}
