//! `volumes`: the volumes of the project.

use clap::Args;
use rcompose_engine::container::config::MountSource;
use serde_json::{Map, Value};

use super::context::Context;
use super::error::Error;
use crate::project::engine::Engine;
use crate::project::observe::Volume;
use crate::ui::format::{Column, Listing};
use crate::ui::lines;

#[derive(Debug, Args)]
pub struct VolumesArgs {
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

/// The fields of Docker's listing; nothing is known of those of clusters.
const COLUMNS: [Column; 10] = [
    ("Availability", "AVAILABILITY"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

pub fn run(context: &Context, args: &VolumesArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = engine.containers()?;
    let chosen = scope.select(&containers, &args.services)?;
    let mounts = |name: &str| {
        chosen
            .iter()
            .flat_map(|container| &container.config.mounts)
            .any(|mount| matches!(&mount.source, MountSource::Volume { name: volume, .. } if volume == name))
    };
    let mut names = engine.own_volumes()?;
    names.retain(|name| args.services.is_empty() || mounts(name));
    if args.quiet {
        return Ok(context.ui.out(&lines(names))?);
    }
    let known = engine.volumes()?;
    let rows = names.iter().filter_map(|name| Some(row(&engine, name, known.get(name)?))).collect::<Vec<_>>();
    let listing = Listing { columns: &COLUMNS, default: &["Driver", "Name"], rows: &rows, whole: false };
    Ok(context.ui.out(&listing.render(&args.format)?)?)
}

fn row(engine: &Engine, name: &str, volume: &Volume) -> Value {
    let labels = volume.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let mut row: Map<String, Value> = COLUMNS.iter().map(|(field, _)| ((*field).to_owned(), "N/A".into())).collect();
    for (field, value) in [
        ("Driver", "local".to_owned()),
        ("Labels", labels.join(",")),
        ("Mountpoint", engine.root.volume(name).join("_data").display().to_string()),
        ("Name", name.to_owned()),
        ("Scope", "local".to_owned()),
    ] {
        row.insert(field.to_owned(), value.into());
    }
    row.into()
}
