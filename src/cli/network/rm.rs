//! `network rm`: networks that nobody is on any more.

use clap::Args;
use rcompose_engine::network::{NetworkError, Networks};

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::ui::lines;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose network rm front back")]
pub struct RmArgs {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    force: bool,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn run(context: &Context, args: &RmArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    let mut chosen = Vec::new();
    for name in &args.networks {
        match local.find(name) {
            Ok(network) => chosen.push((name, network.config.name.as_str())),
            Err(Error::Failed(_)) if args.force => {}
            Err(Error::Failed(messages)) => failures.extend(messages),
            Err(error) => return Err(error),
        }
    }
    context.block_on(async {
        let engine = local.engine().await?;
        for (asked, name) in chosen {
            match remove(&engine, name).await {
                Ok(()) => removed.push(asked.clone()),
                Err(Error::Failed(messages)) => failures.extend(messages),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    context.ui.out(&lines(removed))?;
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures)) }
}

/// Removes a network and waits until nothing is left of it. One that somebody else removes meanwhile is fine.
pub async fn remove(engine: &Networks, name: &str) -> Result<(), Error> {
    match engine.remove(name).await {
        Ok(removal) => Ok(removal.finished().await?),
        Err(NetworkError::Unknown(_)) => Ok(()),
        Err(error @ NetworkError::InUse { .. }) => {
            let hint = "stop these containers, or disconnect them: rcompose network disconnect";
            Err(Error::with_hint(format!("error while removing network: {error}"), hint))
        }
        Err(error) => Err(error.into()),
    }
}
