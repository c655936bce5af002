//! `network`: the networks of this host, whatever project they are for.

pub mod connect;
pub mod create;
pub mod disconnect;
pub mod inspect;
pub mod local;
pub mod ls;
pub mod prune;
pub mod rm;

use clap::{Args, Subcommand};

use super::context::Context;
use super::error::Error;

#[derive(Debug, Args)]
pub struct NetworkArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connect a container to a network
    Connect(connect::ConnectArgs),
    /// Create a network
    Create(create::CreateArgs),
    /// Disconnect a container from a network
    Disconnect(disconnect::DisconnectArgs),
    /// Display detailed information on one or more networks
    Inspect(inspect::InspectArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Remove all unused networks
    Prune(prune::PruneArgs),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
}

pub fn run(context: &Context, args: &NetworkArgs) -> Result<(), Error> {
    match &args.command {
        Command::Connect(args) => connect::run(context, args),
        Command::Create(args) => create::run(context, args),
        Command::Disconnect(args) => disconnect::run(context, args),
        Command::Inspect(args) => inspect::run(context, args),
        Command::Ls(args) => ls::run(context, args),
        Command::Prune(args) => prune::run(context, args),
        Command::Rm(args) => rm::run(context, args),
    }
}

/// Reads `KEY=VALUE`; without a value it is empty.
fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}
