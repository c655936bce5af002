//! `stop`: the containers end and stay.

use std::sync::Arc;

use clap::Args;

use super::context::{Context, timeout};
use super::error::Error;
use crate::project::plan::lifecycle;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose stop -t 30 web")]
pub struct StopArgs {
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout: Option<i64>,
    pub services: Vec<String>,
}

pub fn run(context: &Context, args: &StopArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = context.own(&scope, &engine)?;
    let chosen = scope.select_active(&containers, &args.services)?;
    let plan = lifecycle::stop(&chosen, timeout(args.timeout));
    context.block_on(context.apply(&engine, plan, "Stopping", true))
}
