//! `system`: what this host keeps, over all projects.

pub mod df;
pub mod prune;

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::Error;

#[derive(Debug, Args)]
pub struct SystemArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show disk usage
    Df(df::DfArgs),
    /// Remove unused data
    Prune(prune::PruneArgs),
}

pub fn run(context: &Context, args: &SystemArgs) -> Result<(), Error> {
    match &args.command {
        Command::Df(args) => df::run(context, args),
        Command::Prune(args) => prune::run(context, args),
    }
}
