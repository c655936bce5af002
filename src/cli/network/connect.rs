//! `network connect`: one more network for a container, whether or not it runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use rcompose_engine::container::config::{Endpoint, NetworkMode};
use rcompose_engine::network::options;

use super::local::Local;
use super::pair;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::inspect;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose network connect --alias db shared shop-db-1")]
pub struct ConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Driver options for the network
    #[arg(long, value_name = "NAME=VALUE")]
    driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    gw_priority: i32,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// Add link to another container
    #[arg(long, value_name = "CONTAINER[:ALIAS]")]
    link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<IpAddr>,
    network: String,
    container: String,
}

pub fn run(context: &Context, args: &ConnectArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let network = local.find(&args.network)?.config.name.clone();
    let container = inspect::find(&local.root, &args.container)?;
    if let NetworkMode::Networks(endpoints) = &container.config.network
        && endpoints.iter().any(|endpoint| endpoint.network == network)
    {
        let name = &container.config.name;
        return Err(Error::new(format!("endpoint with name {name} already exists in network {network}")));
    }
    let driver_opts: BTreeMap<String, String> = args.driver_opt.iter().map(|text| pair(text)).collect();
    for option in options::unhonoured(driver_opts.keys()) {
        context.ui.warn(&format!("network {network}: the option {option} of an endpoint has no effect"));
    }
    let mut links = BTreeMap::<String, Vec<String>>::new();
    for link in &args.link {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        links.entry(alias.to_owned()).or_default().push(name.to_owned());
    }
    let endpoint = Endpoint {
        network,
        aliases: args.alias.clone(),
        links,
        ipv4_address: args.ip,
        ipv6_address: args.ip6,
        link_local_ips: args.link_local_ip.clone(),
        gw_priority: args.gw_priority,
        driver_opts,
        ..Endpoint::default()
    };
    let engine = context.engine(&container.config.project)?;
    context.block_on(async { Ok(engine.client().await?.connect_network(&container.config.id, endpoint).await?) })
}
