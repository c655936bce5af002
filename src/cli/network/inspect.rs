//! `network inspect`: everything that is known about networks, as Docker's documents have it.

use clap::Args;
use rcompose_engine::network;
use rcompose_engine::network::config::{Network, Subnet};
use serde_json::{Map, Value, json};

use super::local::Local;
use super::ls::has_ipv6;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::project::inspect::mac_address;
use crate::template::Template;
use crate::ui::format::documents;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' shop_default")]
pub struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Verbose output for diagnostics (there is no more to say)
    #[arg(short, long)]
    verbose: bool,
    /// Names or ids of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub fn run(context: &Context, args: &InspectArgs) -> Result<(), Error> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let local = Local::open(context)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &args.networks {
        match local.find(name).and_then(|network| document(&local, network)) {
            Ok(document) => found.push(document),
            Err(Error::Failed(messages)) => failures.extend(messages),
            Err(error) => return Err(error),
        }
    }
    // What was found is shown even where something else was not.
    context.ui.out(&documents(&found, template.as_ref(), args.format.is_some())?)?;
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures)) }
}

/// Returns Docker's document about a network.
fn document(local: &Local, network: &Network) -> Result<Value, Error> {
    let config = &network.config;
    let endpoints = network::endpoints(&local.root, &network.id)?;
    let with_prefix = |address: Option<String>, prefix: Option<u8>| match (address, prefix) {
        (Some(address), Some(prefix)) => format!("{address}/{prefix}"),
        _ => String::new(),
    };
    let prefix = |ipv4| network.subnet(ipv4).map(|subnet| subnet.subnet.1);
    let containers = endpoints.active().map(|(id, lease)| {
        let endpoint = json!({
            "Name": lease.name,
            // One network has one endpoint of a container.
            "EndpointID": id.to_string(),
            "MacAddress": mac_address(lease.mac_address),
            "IPv4Address": with_prefix(lease.ipv4.map(|address| address.to_string()), prefix(true)),
            "IPv6Address": with_prefix(lease.ipv6.map(|address| address.to_string()), prefix(false)),
        });
        (id.to_string(), endpoint)
    });
    Ok(json!({
        "Name": config.name,
        "Id": network.id.to_string(),
        "Created": network.created.to_string(),
        "Scope": "local",
        "Driver": config.driver.as_str(),
        "EnableIPv4": config.enable_ipv4,
        "EnableIPv6": has_ipv6(network),
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": network.subnets.iter().map(pool).collect::<Vec<_>>(),
        },
        "Internal": config.internal,
        "Attachable": config.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers.collect::<Map<_, _>>(),
        "Options": config.driver_opts,
        "Labels": config.labels,
    }))
}

fn pool(subnet: &Subnet) -> Value {
    let mut pool = Map::new();
    let range = |(address, prefix): (std::net::IpAddr, u8)| Value::from(format!("{address}/{prefix}"));
    pool.insert("Subnet".into(), range(subnet.subnet));
    pool.extend(subnet.ip_range.map(|part| ("IPRange".into(), range(part))));
    pool.extend(subnet.gateway.map(|gateway| ("Gateway".into(), gateway.to_string().into())));
    if !subnet.aux_addresses.is_empty() {
        pool.insert("AuxiliaryAddresses".into(), json!(subnet.aux_addresses));
    }
    pool.into()
}
