//! `version`.

use clap::{Args, ValueEnum};

use super::context::Context;
use super::error::Error;
use crate::project::labels::COMPOSE_VERSION;

#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Format the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
    /// Shows only the version number
    #[arg(long)]
    short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Pretty,
    Json,
}

/// Prints our version, or, where we answer for Docker Compose, the one whose behaviour this is: scripts compare it.
pub fn run(context: &Context, args: &VersionArgs) -> Result<(), Error> {
    let (name, version) = if context.ui.name.is_dockers() {
        ("Docker Compose version", COMPOSE_VERSION)
    } else {
        ("rcompose version", env!("CARGO_PKG_VERSION"))
    };
    let text = match (args.short, args.format) {
        (true, _) => format!("{version}\n"),
        (false, Format::Json) => format!("{}\n", serde_json::json!({ "version": format!("v{version}") })),
        (false, Format::Pretty) => format!("{name} v{version}\n"),
    };
    Ok(context.ui.out(&text)?)
}
