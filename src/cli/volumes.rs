//! `volumes`: the volumes of the project.

use clap::{Args, ValueEnum};
use rcompose_engine::container::config::MountSource;

use super::context::Context;
use super::error::Error;
use crate::ui::{lines, table};

#[derive(Debug, Args)]
pub struct VolumesArgs {
    /// Format the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

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
    let text = match (args.quiet, args.format) {
        (true, _) => lines(names),
        (false, Format::Json) => lines(names.iter().map(|name| serde_json::json!({ "Driver": "local", "Name": name }))),
        (false, Format::Table) => {
            let rows = names.iter().map(|name| vec!["local".to_owned(), name.clone()]).collect::<Vec<_>>();
            table::render(table::DOCKER, &["DRIVER", "VOLUME NAME"], &rows)
        }
    };
    Ok(context.ui.out(&text)?)
}
