//! `images`: what the project's containers were made of.

use clap::{Args, ValueEnum};
use rcompose_engine::container::store::Container;
use rcompose_engine::image::{Image, Reference, Store};

use super::context::Context;
use super::error::Error;
use crate::ui::{human, lines, table};

#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Format the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display IDs
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// One container and its image.
struct Row {
    container: String,
    id: String,
    repository: String,
    tag: String,
    platform: String,
    size: u64,
    created: Option<jiff::Timestamp>,
}

pub fn run(context: &Context, args: &ImagesArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = engine.containers()?;
    let chosen = scope.select(&containers, &args.services)?;
    let store = Store::open(engine.root.data())?;
    let mut rows = Vec::new();
    for container in chosen {
        let image = store.find(&container.config.image_id)?;
        rows.push(row(container, image.as_ref()));
    }
    let text = if args.quiet {
        let mut ids = rows.iter().map(|row| row.id.trim_start_matches("sha256:")).collect::<Vec<_>>();
        ids.dedup();
        lines(&ids)
    } else {
        match args.format {
            Format::Table => {
                let now = jiff::Timestamp::now();
                let rows = rows.into_iter().map(|row| row.cells(now)).collect::<Vec<_>>();
                let header = ["CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED"];
                table::fitted(table::COMPOSE, &header, &rows, args.no_trunc)
            }
            Format::Json => format!("{}\n", serde_json::Value::Array(rows.iter().map(Row::json).collect())),
        }
    };
    Ok(context.ui.out(&text)?)
}

fn row(container: &Container, image: Option<&Image>) -> Row {
    let name = container.config.image.parse::<Reference>().ok();
    let none = || "<none>".to_owned();
    Row {
        container: container.config.name.clone(),
        id: container.config.image_id.clone(),
        repository: name.as_ref().map_or_else(none, Reference::familiar_name),
        tag: name.as_ref().and_then(|name| name.tag().map(str::to_owned)).unwrap_or_else(none),
        platform: image.map(|image| image.platform.to_string()).unwrap_or_default(),
        size: image.map_or(0, |image| image.size),
        created: image.and_then(|image| image.created.as_deref()?.parse().ok()),
    }
}

impl Row {
    fn cells(self, now: jiff::Timestamp) -> Vec<String> {
        let id = self.id.trim_start_matches("sha256:").chars().take(12).collect();
        let created = self.created.map(|then| format!("{} ago", human::since(then, now)));
        let created = created.unwrap_or_else(|| "N/A".to_owned());
        vec![self.container, self.repository, self.tag, self.platform, id, human::size(self.size), created]
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "ID": self.id,
            "ContainerName": self.container,
            "Repository": self.repository,
            "Tag": self.tag,
            "Platform": self.platform,
            "Size": self.size,
            "Created": self.created.map(|created| created.to_string()),
            "LastTagTime": serde_json::Value::Null,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_image_is_shown_as_docker_shows_it() {
        let now = jiff::Timestamp::from_second(10_000_000).unwrap();
        let row = Row {
            container: "shop-db-1".into(),
            id: format!("sha256:{}", "ab".repeat(32)),
            repository: "postgres".into(),
            tag: "16".into(),
            platform: "linux/amd64".into(),
            size: 187_400_000,
            created: now.checked_sub(Duration::from_hours(2)).ok(),
        };
        assert_eq!(row.cells(now)[4..], ["abababababab", "187MB", "2 hours ago"]);
    }
}
