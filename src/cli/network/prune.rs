//! `network prune`: networks that no container is on go.

use clap::Args;

use super::local::Local;
use super::rm;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::filter::Filters;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose network prune -f --filter until=24h")]
pub struct PruneArgs {
    /// Provide filter values: label, label!, until
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: &PruneArgs) -> Result<(), Error> {
    let filters = Filters::parse(&args.filter, &["label", "label!", "until"])?;
    let until = filters.until(jiff::Timestamp::now())?;
    let which = "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !context.ui.confirm_removal(which) {
        return Ok(());
    }
    let local = Local::open(context)?;
    let used = local.used()?;
    let chosen = local.networks.iter().filter(|network| {
        !used.contains(&network.config.name)
            && until.is_none_or(|until| network.created < until)
            && filters.labels(&network.config.labels)
    });
    let mut text = String::new();
    context.block_on(async {
        let engine = local.engine().await?;
        for network in chosen {
            // A container that was started on it meanwhile keeps it.
            if rm::remove(&engine, &network.config.name).await.is_ok() {
                text.push_str(&network.config.name);
                text.push('\n');
            }
        }
        Ok(())
    })?;
    if !text.is_empty() {
        context.ui.out(&format!("Deleted Networks:\n{text}\n"))?;
    }
    Ok(())
}
