//! `kill`: a signal to PID 1 of the containers.

use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::error::Error;
use crate::project::plan::lifecycle;

#[derive(Debug, Args)]
pub struct KillArgs {
    /// SIGNAL to send to the container
    #[arg(short, long, default_value = "SIGKILL")]
    signal: String,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &KillArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = engine.containers()?;
    let plan = lifecycle::kill(&scope.select_all(&containers, &args.services)?, &args.signal);
    if plan.steps.node_count() == 0 {
        context.ui.say("no container to kill");
        return Ok(());
    }
    context.block_on(context.apply(&engine, plan, "Killing", true))
}
