//! `unpause`: the processes of paused containers go on.

use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::error::Error;
use crate::project::plan::lifecycle;

#[derive(Debug, Args)]
pub struct UnpauseArgs {
    services: Vec<String>,
}

pub fn run(context: &Context, args: &UnpauseArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = context.own(&scope, &engine)?;
    let plan = lifecycle::unpause(&scope.select_active(&containers, &args.services)?);
    context.block_on(context.apply(&engine, plan, "Unpausing", true))
}
