//! `scale`: like `up -d` of some services with another number of containers.

use clap::Args;

use super::context::Context;
use super::error::Error;
use super::up::{self, ConvergeArgs, UpArgs};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose scale web=3 worker=0")]
pub struct ScaleArgs {
    /// Don't start linked services
    #[arg(long)]
    no_deps: bool,
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    services: Vec<String>,
}

pub fn run(context: &Context, args: &ScaleArgs) -> Result<(), Error> {
    let services = args.services.iter().map(|scale| scale.split('=').next().unwrap_or_default().to_owned());
    let converge = ConvergeArgs {
        no_deps: args.no_deps,
        no_recreate: true,
        scale: args.services.clone(),
        services: services.collect(),
        ..ConvergeArgs::default()
    };
    up::run(context, &UpArgs { converge, detach: true, ..UpArgs::default() })
}
