//! `pause`: the processes of containers stand still.

use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::error::Error;
use crate::project::plan::lifecycle;

#[derive(Debug, Args)]
pub struct PauseArgs {
    services: Vec<String>,
}

pub fn run(context: &Context, args: &PauseArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = context.own(&scope, &engine)?;
    let plan = lifecycle::pause(&scope.select_active(&containers, &args.services)?);
    context.block_on(context.apply(&engine, plan, "Pausing", true))
}
