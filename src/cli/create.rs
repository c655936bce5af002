//! `create`: like `up`, but nothing is started.

use clap::Args;

use super::context::Context;
use super::error::Error;
use super::pull::Policy;
use super::up::{self, ConvergeArgs, UpArgs};

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Build images before starting containers
    #[arg(long, conflicts_with = "no_build")]
    build: bool,
    /// Recreate containers even if their configuration and image haven't changed
    #[arg(long, conflicts_with = "no_recreate")]
    force_recreate: bool,
    /// Don't build an image, even if it's policy
    #[arg(long)]
    no_build: bool,
    /// If containers already exist, don't recreate them
    #[arg(long)]
    no_recreate: bool,
    /// Pull image before running
    #[arg(long, value_enum)]
    pull: Option<Policy>,
    /// Pull without printing progress information
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers for services not defined in the compose file
    #[arg(long)]
    remove_orphans: bool,
    /// Scale SERVICE to NUM instances. Overrides the scale setting in the compose file if present
    #[arg(long, value_name = "SERVICE=NUM")]
    scale: Vec<String>,
    /// Assume "yes" as answer to all prompts and run non-interactively
    #[arg(short, long)]
    yes: bool,
    services: Vec<String>,
}

pub fn run(context: &Context, args: &CreateArgs) -> Result<(), Error> {
    let converge = ConvergeArgs {
        no_start: true,
        force_recreate: args.force_recreate,
        no_recreate: args.no_recreate,
        pull: args.pull,
        remove_orphans: args.remove_orphans,
        scale: args.scale.clone(),
        yes: args.yes,
        services: args.services.clone(),
        ..ConvergeArgs::default()
    };
    let args = UpArgs {
        converge,
        build: args.build,
        no_build: args.no_build,
        quiet_pull: args.quiet_pull,
        ..UpArgs::default()
    };
    up::run(context, &args)
}
