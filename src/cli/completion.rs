//! `completion`: a script that teaches a shell our commands and flags.

use clap::Args;
use clap_complete::Shell;

use super::context::Context;
use super::error::Error;

#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(context: &Context, mut command: clap::Command, args: &CompletionArgs) -> Result<(), Error> {
    let name = if context.compatible { "docker-compose" } else { "rcompose" };
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    Ok(context.ui.out(&String::from_utf8_lossy(&script))?)
}
