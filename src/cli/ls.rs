//! `ls`: the projects of this host.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use rcompose_engine::container::state::Status;
use rcompose_engine::container::store::{self, Container};

use super::context::Context;
use super::error::Error;
use crate::project::labels::{CONFIG_FILES, Labelled as _, PROJECT};
use crate::project::plan::lifecycle;
use crate::ui::{lines, table};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose ls --all --filter name=shop")]
pub struct LsArgs {
    /// Show all stopped compose projects
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided, such as name=shop
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display project names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub fn run(context: &Context, args: &LsArgs) -> Result<(), Error> {
    let mut names = Vec::new();
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("name", name)) => names.push(name),
            _ => return Err(Error::new(format!("unknown filter `{filter}`: only name=… is known"))),
        }
    }
    let mut containers = store::list(&context.root()?, None)?;
    containers.retain(|container| args.all || lifecycle::is_active(container));
    let mut projects = BTreeMap::<&str, Vec<&Container>>::new();
    for container in &containers {
        projects.entry(container.label(PROJECT).unwrap_or(&container.config.project)).or_default().push(container);
    }
    projects.retain(|name, _| names.is_empty() || names.iter().any(|wanted| name.contains(wanted)));
    let rows = projects.iter().map(|(name, containers)| {
        let files = containers.iter().find_map(|container| container.label(CONFIG_FILES)).unwrap_or("N/A");
        vec![(*name).to_owned(), statuses(containers.iter().map(|container| container.state.status)), files.to_owned()]
    });
    let rows = rows.collect::<Vec<_>>();
    let text = match (args.quiet, args.format) {
        (true, _) => lines(rows.iter().map(|row| &row[0])),
        (false, Format::Table) => {
            table::fitted(table::COMPOSE, &["NAME", "STATUS", "CONFIG FILES"], &rows, args.no_trunc)
        }
        (false, Format::Json) => {
            let objects =
                rows.iter().map(|row| serde_json::json!({ "Name": row[0], "Status": row[1], "ConfigFiles": row[2] }));
            format!("{}\n", serde_json::Value::Array(objects.collect()))
        }
    };
    Ok(context.ui.out(&text)?)
}

/// Returns how many containers are in which state, such as `exited(1), running(2)`.
fn statuses(all: impl Iterator<Item = Status>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for status in all {
        *counts.entry(status.as_str()).or_default() += 1;
    }
    counts.iter().map(|(status, count)| format!("{status}({count})")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted() {
        let all = [Status::Running, Status::Exited, Status::Running];
        assert_eq!(statuses(all.into_iter()), "exited(1), running(2)");
    }
}
