//! `system prune`: what nothing needs goes, over all projects.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use rcompose_engine::container::config::MountSource;
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::network;
use rcompose_engine::network::config::Network;
use rcompose_engine::root::Root;
use rcompose_engine::volume;

use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::filter::Filters;
use crate::cli::image::local::Local;
use crate::cli::image::prune as images;
use crate::cli::network::local::networks_of;
use crate::project::disk;
use crate::project::engine::Engine;
use crate::project::labels::ANONYMOUS;
use crate::project::plan::{Action, Cause, Named, Plan, lifecycle};
use crate::ui::human;
use crate::ui::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose system prune -f --filter until=24h --filter label!=keep")]
pub struct PruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values: label, label!, until
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

pub fn run(context: &Context, args: &PruneArgs) -> Result<(), Error> {
    let filters = Filters::parse(&args.filter, &["label", "label!", "until"])?;
    let now = jiff::Timestamp::now();
    let until = filters.until(now)?;
    if args.volumes && until.is_some() {
        return Err(Error::new("The \"until\" filter is not supported with \"--volumes\""));
    }
    let root = context.root()?;
    if !args.force && !context.ui.confirm_removal(&warning(args)) {
        return Ok(());
    }
    let mut text = String::new();
    let mut bytes = 0;

    let (containers, networks) = chosen(&root, &filters, until)?;
    let mut projects = BTreeMap::<String, (Vec<Container>, Vec<Network>)>::new();
    for container in containers {
        bytes += disk::used(&root.container(&container.config.id).join("upper"))?;
        projects.entry(container.config.project.clone()).or_default().0.push(container);
    }
    for network in networks {
        let project = network.config.project.clone().unwrap_or_default();
        projects.entry(project).or_default().1.push(network);
    }
    for (project, (containers, networks)) in &projects {
        context.block_on(remove(context, &root, project, containers, networks))?;
    }
    let left = store::list(&root, None)?;
    let containers = projects.values().flat_map(|(containers, _)| containers);
    let gone = containers.filter(|container| left.iter().all(|other| other.config.id != container.config.id));
    list(&mut text, "Containers", gone.map(|container| container.config.id.to_string()));
    let networks = projects.values().flat_map(|(_, networks)| networks);
    // One whose bridge the kernel still deletes is not among them any more.
    let there = network::list(&root)?;
    let gone = networks.filter(|network| there.iter().all(|other| other.id != network.id));
    list(&mut text, "Networks", gone.map(|network| network.config.name.clone()));

    if args.volumes {
        let mut gone = Vec::new();
        for volume in volume::list(&root, None)? {
            let name = volume.config.name;
            let mounts =
                |container: &Container| {
                    container.config.mounts.iter().any(
                        |mount| matches!(&mount.source, MountSource::Volume { name: mounted, .. } if *mounted == name),
                    )
                };
            let anonymous = volume.config.labels.contains_key(ANONYMOUS);
            if !anonymous || !filters.labels(&volume.config.labels) || left.iter().any(mounts) {
                continue;
            }
            let size = disk::used(&root.volume(&name).join("_data"))?;
            if volume::remove(&root, &name)? {
                bytes += size;
                gone.push(name);
            }
        }
        list(&mut text, "Volumes", gone.into_iter());
    }
    let pruned = images::prune(&Local::open(context)?, args.all, &filters, now)?;
    text.push_str(&pruned.text());
    bytes += pruned.bytes;
    context.ui.out(&format!("{text}Total reclaimed space: {}\n", human::size(bytes)))?;
    Ok(())
}

/// Returns what will go, in Docker's words.
fn warning(args: &PruneArgs) -> String {
    let mut lines = vec!["all stopped containers", "all networks not used by at least one container"];
    if args.volumes {
        lines.push("all anonymous volumes not used by at least one container");
    }
    lines.push(if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    });
    let mut text = "WARNING! This will remove:\n".to_owned();
    for line in lines {
        text.push_str("  - ");
        text.push_str(line);
        text.push('\n');
    }
    if !args.filter.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        for filter in &args.filter {
            text.push_str("  - ");
            text.push_str(filter);
            text.push('\n');
        }
    }
    text
}

/// Returns the containers that do not run and the networks that only they, or nobody, are on.
fn chosen(
    root: &Root,
    filters: &Filters<'_>,
    until: Option<jiff::Timestamp>,
) -> Result<(Vec<Container>, Vec<Network>), Error> {
    let old = |created: jiff::Timestamp| until.is_none_or(|until| created < until);
    let (stopped, others): (Vec<_>, Vec<_>) = store::list(root, None)?.into_iter().partition(|container| {
        !lifecycle::is_active(container) && old(container.config.created) && filters.labels(&container.config.labels)
    });
    let used = networks_of(others);
    let mut networks = network::list(root)?;
    networks.retain(|network| {
        // One that no project made belongs to somebody who will want it again.
        network.config.project.is_some()
            && !used.contains(&network.config.name)
            && old(network.created)
            && filters.labels(&network.config.labels)
    });
    networks.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    Ok((stopped, networks))
}

/// Removes containers and networks of one project. What somebody starts meanwhile stays.
async fn remove(
    context: &Context,
    root: &Root,
    project: &str,
    containers: &[Container],
    networks: &[Network],
) -> Result<(), Error> {
    let engine = Arc::new(Engine::new(root.clone(), project.to_owned()));
    let mut plan = Plan::default();
    let mut removed = Vec::new();
    for container in containers {
        let action = Action::Remove { container: Named::from(container), volumes: false, force: false };
        removed.push(plan.add(action, Cause::Asked, &[]));
    }
    for network in networks {
        plan.add(
            Action::RemoveNetwork { name: network.config.name.clone(), unless_used: true },
            Cause::Asked,
            &removed,
        );
    }
    context.apply_on(&engine, plan, &Progress::quiet(), true).await?;
    if engine.containers()?.is_empty()
        && let Some(engine) = Arc::into_inner(engine)
    {
        engine.shutdown().await?;
    }
    Ok(())
}

fn list(text: &mut String, what: &str, items: impl Iterator<Item = String>) {
    let items = items.collect::<Vec<_>>();
    if !items.is_empty() {
        *text = format!("{text}Deleted {what}:\n{}\n\n", items.join("\n"));
    }
}
