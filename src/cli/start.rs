//! `start`: containers that are there start again.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rcompose_engine::container::store::Container;

use super::context::Context;
use super::error::Error;
use super::up;
use crate::project::plan::Until;
use crate::project::plan::start::{self, Options};

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
    let options = Options { wait: args.wait.then_some(Until::RunningOrHealthy) };
    let plan = start::start(&containers, &chosen, &options)?;
    let limit = args.wait_timeout.map(Duration::from_secs);
    let takes_part = |container: &Container| chosen.iter().any(|other| other.config.id == container.config.id);
    context.block_on(up::within(limit, &engine, takes_part, context.apply(&engine, plan, "Running", false)))
}
