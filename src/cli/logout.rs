//! `logout`: the credentials for a registry are forgotten.

use clap::Args;
use rcompose_engine::image::erase_credentials;

use super::context::Context;
use super::error::Error;
use super::login::{config_file, registry};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose logout registry.internal:5000")]
pub struct LogoutArgs {
    /// The registry; docker.io if it is left out
    server: Option<String>,
}

pub fn run(context: &Context, args: &LogoutArgs) -> Result<(), Error> {
    let registry = registry(args.server.as_deref());
    let known = erase_credentials(&config_file()?, &registry)?;
    Ok(context.ui.out(&if known {
        format!("Removing login credentials for {registry}\n")
    } else {
        format!("Not logged in to {registry}\n")
    })?)
}
