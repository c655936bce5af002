//! `attach`: this terminal becomes that of a container that runs.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use clap::Args;
use rcompose_engine::container::state::Status;

use super::context::Context;
use super::error::Error;
use super::streams::{self, Attachment, Outcome};
use crate::ui::attach::{DETACH_KEYS, Keys};

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Override the key sequence for detaching from a container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS, hide_default_value = true)]
    detach_keys: String,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    sig_proxy: bool,
    service: String,
}

pub fn run(context: &Context, args: &AttachArgs) -> Result<(), Error> {
    let keys = Keys::parse(&args.detach_keys).map_err(|error| Error::new(format!("invalid detach keys: {error}")))?;
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = engine.containers()?;
    let container = scope.running(&containers, &args.service, args.index)?;
    let config = &container.config;
    if container.state.status == Status::Paused {
        return Err(Error::with_hint(
            "you cannot attach to a paused container, unpause it first",
            format!("rcompose unpause {}", args.service),
        ));
    }
    let stdin = !args.no_stdin && config.stdin_open;
    if stdin && config.tty && !io::stdin().is_terminal() {
        return Err(Error::with_hint("the input device is not a TTY", "attach from a terminal, or with --no-stdin"));
    }
    context.block_on(async {
        let attachment = Attachment {
            id: &config.id,
            name: &config.name,
            tty: config.tty,
            stdin,
            // With a terminal the keys themselves reach it.
            proxy: args.sig_proxy && !config.tty,
            keys,
            auto_remove: config.auto_remove,
            joins: true,
        };
        let outcome = streams::attend(&engine, attachment).await?;
        if let Outcome::Detached = outcome {
            // An error for Docker Compose as well, but not for `run`.
            return Err(Error::new("read escape sequence"));
        }
        streams::exit(context, &config.name, &outcome)
    })
}
