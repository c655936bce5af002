//! `system df`: how much of the disk images, containers and volumes take.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use rcompose_engine::build::mounts;
use rcompose_engine::container::config::MountSource;
use rcompose_engine::container::store::Container;
use rcompose_engine::image::{Digest, Image};
use rcompose_engine::volume;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::image::local::{Local, users};
use crate::cli::image::ls;
use crate::cli::ps;
use crate::project::disk;
use crate::project::plan::lifecycle;
use crate::ui::format::{Column, Listing};
use crate::ui::human;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose system df --format '{{.Type}}: {{.Size}}'")]
pub struct DfArgs {
    /// Format output: table, json, a Go template, or table and a template
    #[arg(long, default_value = "table", conflicts_with = "verbose")]
    format: String,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
}

const COLUMNS: [Column; 5] =
    [("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE")];

/// A line of the summary.
struct Total {
    name: &'static str,
    count: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
}

pub fn run(context: &Context, args: &DfArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let containers = local.containers()?;
    let mut sizes = Vec::new();
    for container in &containers {
        sizes.push(disk::used(&local.root.container(&container.config.id).join("upper"))?);
    }
    let volumes = volumes(&local, &containers)?;
    let text = if args.verbose {
        verbose(&local, &containers, &sizes, &volumes)?
    } else {
        let stopped = containers.iter().zip(&sizes).filter(|(container, _)| !lifecycle::is_active(container));
        let totals = [
            images(&local, &containers)?,
            Total {
                name: "Containers",
                count: containers.len(),
                active: containers.iter().filter(|container| lifecycle::is_active(container)).count(),
                bytes: sizes.iter().sum(),
                reclaimable: stopped.map(|(_, size)| size).sum(),
            },
            Total {
                name: "Local Volumes",
                count: volumes.len(),
                active: volumes.iter().filter(|(_, links, _)| *links > 0).count(),
                bytes: volumes.iter().map(|(.., size)| size).sum(),
                reclaimable: volumes.iter().filter(|(_, links, _)| *links == 0).map(|(.., size)| size).sum(),
            },
            build_cache(&local)?,
        ];
        let rows = totals.iter().map(Total::row).collect::<Vec<_>>();
        let default = ["Type", "TotalCount", "Active", "Size", "Reclaimable"];
        Listing { columns: &COLUMNS, default: &default, rows: &rows, whole: false }.render(&args.format)?
    };
    Ok(context.ui.out(&text)?)
}

impl Total {
    fn row(&self) -> Value {
        let reclaimable = match (self.reclaimable * 100).checked_div(self.bytes) {
            Some(percent) => format!("{} ({percent}%)", human::size(self.reclaimable)),
            None => human::size(self.reclaimable),
        };
        json!({
            "Type": self.name,
            "TotalCount": self.count.to_string(),
            "Active": self.active.to_string(),
            "Size": human::size(self.bytes),
            "Reclaimable": reclaimable,
        })
    }
}

/// Returns what images take: their layers, unpacked, and the blobs that these came in.
fn images(local: &Local, containers: &[Container]) -> Result<Total, Error> {
    let usage = local.store.usage()?;
    let ids = local.images.iter().map(|image| image.id).collect::<BTreeSet<_>>();
    let active = |image: &&Image| !users(containers, &image.id).is_empty();
    let (mut layers, mut blobs) = (BTreeMap::new(), BTreeMap::new());
    for image in local.images.iter().filter(active) {
        layers.extend(local.store.layer_sizes(image).into_iter().map(|layer| (layer.diff_id, layer.bytes)));
        blobs.extend(image.layers.iter().map(|layer| (layer.digest, layer.size)));
    }
    let bytes = usage.blob_bytes + usage.layer_bytes;
    let needed = layers.values().sum::<u64>() + blobs.values().sum::<u64>();
    Ok(Total {
        name: "Images",
        count: ids.len(),
        active: local.images.iter().filter(active).map(|image| image.id).collect::<BTreeSet<_>>().len(),
        bytes,
        reclaimable: bytes.saturating_sub(needed),
    })
}

/// Returns what builds keep for the next ones. Layers that images have, too, are counted with those.
fn build_cache(local: &Local) -> Result<Total, Error> {
    let steps = local.store.steps()?;
    let kept = local.images.iter().flat_map(|image| &image.diff_ids).collect::<BTreeSet<_>>();
    let bytes = local.store.usage()?.cache_bytes + disk::used(&mounts(&local.root))?;
    let active = steps.iter().filter(|(_, step)| kept.contains(&step.layer)).count();
    Ok(Total { name: "Build Cache", count: steps.len(), active, bytes, reclaimable: bytes })
}

/// Returns volumes, by how many containers they are mounted, and what they take.
fn volumes(local: &Local, containers: &[Container]) -> Result<Vec<(String, usize, u64)>, Error> {
    let mut volumes = Vec::new();
    for volume in volume::list(&local.root, None)? {
        let name = volume.config.name;
        let mounts = |container: &&Container| {
            container
                .config
                .mounts
                .iter()
                .any(|mount| matches!(&mount.source, MountSource::Volume { name: mounted, .. } if *mounted == name))
        };
        let links = containers.iter().filter(mounts).count();
        let size = disk::used(&local.root.volume(&name).join("_data"))?;
        volumes.push((name, links, size));
    }
    Ok(volumes)
}

fn verbose(
    local: &Local,
    containers: &[Container],
    sizes: &[u64],
    volumes: &[(String, usize, u64)],
) -> Result<String, Error> {
    let now = jiff::Timestamp::now();
    let mut holders = BTreeMap::<Digest, BTreeSet<Digest>>::new();
    for image in &local.images {
        for layer in &image.diff_ids {
            holders.entry(*layer).or_default().insert(image.id);
        }
    }
    let mut images = local.images.iter().collect::<Vec<_>>();
    images.sort_by_key(|image| image.reference.familiar());
    let rows = images.iter().map(|image| {
        let layers = local.store.layer_sizes(image);
        let shared: u64 =
            layers.iter().filter(|layer| holders[&layer.diff_id].len() > 1).map(|layer| layer.bytes).sum();
        let sizes = [human::size(shared), human::size(image.size.saturating_sub(shared))];
        ls::row(image, now, false, sizes, &users(containers, &image.id).len().to_string())
    });
    let rows = rows.collect::<Vec<_>>();
    let default = ["Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"];
    let images = Listing { columns: &ls::COLUMNS, default: &default, rows: &rows, whole: false }.render("table")?;

    let columns = [
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ];
    let rows = containers.iter().zip(sizes).map(|(container, size)| {
        let mounts = container.config.mounts.iter();
        let local = mounts.filter(|mount| matches!(mount.source, MountSource::Volume { .. })).count();
        json!({
            "ID": container.config.id.short(),
            "Image": container.config.image,
            "Command": ps::command(container, false),
            "LocalVolumes": local.to_string(),
            "Size": human::size(*size),
            "RunningFor": format!("{} ago", human::since(container.config.created, now)),
            "Status": ps::status(&container.state, now),
            "Names": container.config.name,
        })
    });
    let rows = rows.collect::<Vec<_>>();
    let default = columns.map(|(field, _)| field);
    let containers = Listing { columns: &columns, default: &default, rows: &rows, whole: false }.render("table")?;

    let columns = [("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];
    let rows = volumes
        .iter()
        .map(|(name, links, size)| json!({"Name": name, "Links": links.to_string(), "Size": human::size(*size)}));
    let rows = rows.collect::<Vec<_>>();
    let volumes = Listing { columns: &columns, default: &["Name", "Links", "Size"], rows: &rows, whole: false }
        .render("table")?;
    Ok(format!(
        "Images space usage:\n\n{images}\nContainers space usage:\n\n{containers}\nLocal Volumes space usage:\n\n{volumes}"
    ))
}
