//! `network ls`: the networks of this host.

use std::collections::BTreeSet;

use clap::Args;
use rcompose_engine::network::config::{Driver, Network};
use serde_json::{Value, json};

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::filter::Filters;
use crate::ui::format::{Column, Listing};
use crate::ui::lines;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose network ls --filter driver=bridge --format '{{.Name}}'")]
pub struct LsArgs {
    /// Provide filter values: dangling, driver, id, label, name, scope, type
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format output: table, json, a Go template, or table and a template
    #[arg(long, default_value = "table")]
    format: String,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    quiet: bool,
}

/// The fields of a row.
const COLUMNS: [Column; 9] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

pub fn run(context: &Context, args: &LsArgs) -> Result<(), Error> {
    let known = ["dangling", "driver", "id", "label", "name", "scope", "type"];
    let filters = Filters::parse(&args.filter, &known)?;
    let dangling = filters.flag("dangling")?;
    let local = Local::open(context)?;
    let used = if dangling.is_some() { local.used()? } else { BTreeSet::new() };
    let fits = |network: &&Network| {
        let one = |key: &str, fits: &dyn Fn(&str) -> bool| !filters.has(key) || filters.all(key).any(fits);
        filters.labels(&network.config.labels)
            && one("driver", &|driver| driver == network.config.driver.as_str())
            && one("id", &|id| network.id.as_str().starts_with(id))
            && one("name", &|name| network.config.name.contains(name))
            && one("scope", &|scope| scope == "local")
            && one("type", &|kind| kind == "custom")
            && dangling.is_none_or(|dangling| dangling != used.contains(&network.config.name))
    };
    let rows = local.networks.iter().filter(fits).map(|network| row(network, args.no_trunc)).collect::<Vec<_>>();
    let text = if args.quiet {
        lines(rows.iter().filter_map(|row| row["ID"].as_str()))
    } else {
        Listing { columns: &COLUMNS, default: &["ID", "Name", "Driver", "Scope"], rows: &rows, whole: args.no_trunc }
            .render(&args.format)?
    };
    Ok(context.ui.out(&text)?)
}

fn row(network: &Network, whole: bool) -> Value {
    let config = &network.config;
    let labels = config.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    json!({
        "ID": if whole { network.id.as_str() } else { network.id.short() },
        "Name": config.name,
        "Driver": config.driver.as_str(),
        "Scope": "local",
        "IPv4": config.enable_ipv4.to_string(),
        "IPv6": has_ipv6(network).to_string(),
        "Internal": config.internal.to_string(),
        "Labels": labels.join(","),
        "CreatedAt": network.created.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC").to_string(),
    })
}

/// Tells whether containers of a network have IPv6 addresses.
pub fn has_ipv6(network: &Network) -> bool {
    network.config.enable_ipv6 || (network.config.driver != Driver::Bridge && network.subnet(false).is_some())
}
