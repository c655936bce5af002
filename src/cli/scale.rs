//! `scale`: like `up -d` of some services with another number of containers.

use clap::Args;

use super::context::Context;
use super::error::Error;
use super::up::{self, UpArgs};

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Don't start linked services
    #[arg(long)]
    no_deps: bool,
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    services: Vec<String>,
}

pub fn run(context: &Context, args: &ScaleArgs) -> Result<(), Error> {
    let services = args.services.iter().map(|scale| scale.split('=').next().unwrap_or_default().to_owned());
    let args = UpArgs {
        detach: true,
        no_deps: args.no_deps,
        no_recreate: true,
        scale: args.services.clone(),
        services: services.collect(),
        ..UpArgs::default()
    };
    up::run(context, &args)
}
