//! `man`: the manual pages of all commands, from the same definitions as their help.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};

use super::error::Error;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The directory that the pages are written to
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub fn run(command: Command, args: &ManArgs) -> Result<(), Error> {
    let written = fs::create_dir_all(&args.directory).and_then(|()| clap_mangen::generate_to(command, &args.directory));
    written.map_err(|error| Error::new(format!("cannot write manual pages to {}: {error}", args.directory.display())))
}
