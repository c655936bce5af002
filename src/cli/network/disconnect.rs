//! `network disconnect`: one network less for a container, whether or not it runs.

use clap::Args;
use rcompose_engine::container::config::NetworkMode;

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::inspect;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose network disconnect shared shop-db-1")]
pub struct DisconnectArgs {
    /// Force the container to disconnect from a network (no container needs it)
    #[arg(short, long)]
    force: bool,
    network: String,
    container: String,
}

pub fn run(context: &Context, args: &DisconnectArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let network = &local.find(&args.network)?.config.name;
    let container = inspect::find(&local.root, &args.container)?;
    if let NetworkMode::Networks(endpoints) = &container.config.network
        && endpoints.iter().all(|endpoint| endpoint.network != *network)
    {
        let name = &container.config.name;
        return Err(Error::new(format!("container {name} is not connected to network {network}")));
    }
    let engine = context.engine(&container.config.project)?;
    context.block_on(async { Ok(engine.client().await?.disconnect_network(&container.config.id, network).await?) })
}
