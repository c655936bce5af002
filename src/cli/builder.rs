//! `builder`: what builds keep for the next ones.

use clap::{Args, Subcommand};
use rcompose_engine::build::{PruneOptions, prune};
use rcompose_engine::image::Store;

use super::context::Context;
use super::error::Error;
use super::filter::Filters;
use crate::ui::human;

#[derive(Debug, Args)]
pub struct BuilderArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove build cache
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose builder prune -a --filter until=24h")]
struct PruneArgs {
    /// Remove all unused build cache, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=24h")
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: &BuilderArgs) -> Result<(), Error> {
    let Command::Prune(args) = &args.command;
    let filters = Filters::parse(&args.filter, &["until"])?;
    let until = filters.until(jiff::Timestamp::now())?;
    let root = context.root()?;
    let what = if args.all { "all build cache" } else { "all dangling build cache" };
    if !args.force && !context.ui.confirm_removal(&format!("WARNING! This will remove {what}.")) {
        return Ok(());
    }
    let store = Store::open(root.data())?;
    let mut pruned = prune(&root, &store, PruneOptions { all: args.all, until })?;
    pruned.steps.sort_by_key(|(_, step)| step.created);
    let mut text = String::new();
    if !pruned.steps.is_empty() {
        text.push_str("Deleted build cache objects:\n");
        for (key, _) in &pruned.steps {
            text.push_str(&key.hex());
            text.push('\n');
        }
        text.push('\n');
    }
    Ok(context.ui.out(&format!("{text}Total reclaimed space: {}\n", human::size(pruned.bytes)))?)
}
