//! `image prune`: images that nothing needs go.

use std::collections::BTreeSet;

use clap::Args;
use rcompose_engine::image::{Digest, Image};

use super::local::{Local, repo_digest, users};
use super::ls;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::filter::Filters;
use crate::ui::human;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image prune -a --filter until=240h")]
pub struct PruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values: dangling, label, label!, until
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: &PruneArgs) -> Result<(), Error> {
    let filters = Filters::parse(&args.filter, &["dangling", "label", "label!", "until"])?;
    let all = args.all || filters.flag("dangling")? == Some(false);
    let now = jiff::Timestamp::now();
    filters.until(now)?;
    let which = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !args.force && !context.ui.confirm_removal(which) {
        return Ok(());
    }
    let pruned = prune(&Local::open(context)?, all, &filters, now)?;
    context.ui.out(&format!("{}Total reclaimed space: {}\n", pruned.text(), human::size(pruned.bytes)))?;
    Ok(())
}

/// What went.
#[derive(Debug, Default)]
pub struct Pruned {
    lines: Vec<String>,
    /// Bytes that are free again.
    pub bytes: u64,
}

impl Pruned {
    /// Returns what went as Docker lists it.
    pub fn text(&self) -> String {
        if self.lines.is_empty() { String::new() } else { format!("Deleted Images:\n{}\n\n", self.lines.join("\n")) }
    }
}

/// Removes those of these images that have lost their names since, and that no container was made of.
pub fn replaced(context: &Context, before: &BTreeSet<Digest>) -> Result<(), Error> {
    let local = Local::open(context)?;
    let containers = local.containers()?;
    let is_left =
        |image: &&Image| image.dangling && before.contains(&image.id) && users(&containers, &image.id).is_empty();
    let left = local.images.iter().filter(is_left).collect::<Vec<_>>();
    for image in &left {
        local.store.remove(&image.reference)?;
    }
    if !left.is_empty() {
        local.collect()?;
    }
    Ok(())
}

/// Removes the images that no container was made of: those without a name or, with `all`, any.
pub fn prune(local: &Local, all: bool, filters: &Filters<'_>, now: jiff::Timestamp) -> Result<Pruned, Error> {
    let containers = local.containers()?;
    let mut chosen = local.images.iter().filter(|image| all || image.dangling).collect::<Vec<&Image>>();
    let until = filters.until(now)?;
    chosen.retain(|image| {
        users(&containers, &image.id).is_empty()
            && filters.labels(&ls::labels(image))
            && until.is_none_or(|until| super::local::created(image).is_none_or(|created| created < until))
    });
    let mut pruned = Pruned::default();
    let mut gone = BTreeSet::<Digest>::new();
    for image in &chosen {
        if !local.store.remove(&image.reference)? {
            // Somebody else was quicker.
            continue;
        }
        if !image.dangling {
            pruned.lines.push(format!("untagged: {}", image.reference.familiar()));
        }
        pruned.lines.extend(repo_digest(image).map(|digest| format!("untagged: {digest}")));
        gone.insert(image.id);
    }
    let left = local.store.list()?;
    gone.retain(|id| left.iter().all(|image| image.id != *id));
    pruned.lines.extend(gone.iter().map(|id| format!("deleted: {id}")));
    // What a broken pull or a removed container has left goes as well.
    pruned.bytes = local.collect()?.bytes;
    Ok(pruned)
}
