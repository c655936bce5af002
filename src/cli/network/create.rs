//! `network create`: a network that belongs to no project.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::Args;
use rcompose_engine::network::config::NetworkConfig;

use super::local::Local;
use super::pair;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::compose::model::{Ipam, IpamPool, Network};
use crate::project::labels::Labels;
use crate::project::network;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose network create --subnet 10.9.0.0/24 --internal back")]
pub struct CreateArgs {
    /// Enable manual container attachment (every network allows it)
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// Driver to manage the Network: bridge, macvlan or ipvlan
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long)]
    gateway: Vec<IpAddr>,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "RANGE")]
    ip_range: Vec<String>,
    /// IP Address Management Driver; there is one
    #[arg(long, default_value = "default", value_parser = ["default"])]
    ipam_driver: String,
    /// Enable or disable IPv4 address assignment
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    ipv4: bool,
    /// Enable or disable IPv6 address assignment
    #[arg(long, default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    #[arg(value_name = "NETWORK")]
    name: String,
}

pub fn run(context: &Context, args: &CreateArgs) -> Result<(), Error> {
    let name = &args.name;
    let mut characters = name.chars();
    let good = characters.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !good {
        let hint = "a name has letters, digits and _.-, and begins with a letter or digit";
        return Err(Error::with_hint(format!("invalid network name {name:?}"), hint));
    }
    let config = config(args)?;
    for option in config.unhonoured() {
        context.ui.warn(&format!("network {name}: the option {option} has no effect"));
    }
    let local = Local::open(context)?;
    let (network, created) = context.block_on(async { Ok(local.engine().await?.ensure(&config).await?) })?;
    if !created {
        let hint = format!("rcompose network inspect {name}");
        return Err(Error::with_hint(format!("network with name {name} already exists"), hint));
    }
    Ok(context.ui.out(&format!("{}\n", network.id))?)
}

fn config(args: &CreateArgs) -> Result<NetworkConfig, Error> {
    let network = Network {
        name: args.name.clone(),
        driver: Some(args.driver.clone()),
        driver_opts: args.opt.iter().map(|text| pair(text)).collect(),
        ipam: Ipam { config: pools(args)?, ..Ipam::default() },
        internal: args.internal,
        attachable: args.attachable,
        enable_ipv4: Some(args.ipv4),
        enable_ipv6: Some(args.ipv6),
        ..Network::default()
    };
    let labels = args.label.iter().map(|text| pair(text)).collect::<Labels>();
    Ok(network::config(None, &network, labels)?)
}

/// Returns the subnets, each with what else was said of it.
fn pools(args: &CreateArgs) -> Result<Vec<IpamPool>, Error> {
    let mut pools = args
        .subnet
        .iter()
        .map(|subnet| IpamPool { subnet: Some(subnet.clone()), ..IpamPool::default() })
        .collect::<Vec<_>>();
    let owner = |what: &str, address: &str| -> Result<usize, Error> {
        let within =
            pools.iter().position(|pool| pool.subnet.as_deref().is_some_and(|subnet| contains(subnet, address)));
        within.ok_or_else(|| Error::new(format!("no matching subnet for {what} {address}")))
    };
    let mut said = Vec::new();
    for range in &args.ip_range {
        said.push((owner("range", range)?, IpamPool { ip_range: Some(range.clone()), ..IpamPool::default() }));
    }
    for gateway in &args.gateway {
        let gateway = gateway.to_string();
        said.push((owner("gateway", &gateway)?, IpamPool { gateway: Some(gateway), ..IpamPool::default() }));
    }
    for text in &args.aux_address {
        let (name, address) = pair(text);
        let owner = owner("aux-address", &address)?;
        said.push((owner, IpamPool { aux_addresses: BTreeMap::from([(name, address)]), ..IpamPool::default() }));
    }
    for (index, more) in said {
        let pool = &mut pools[index];
        pool.ip_range = more.ip_range.or(pool.ip_range.take());
        pool.gateway = more.gateway.or(pool.gateway.take());
        pool.aux_addresses.extend(more.aux_addresses);
    }
    Ok(pools)
}

/// Tells whether an address or range begins within a subnet; what is none is found out later.
fn contains(subnet: &str, address: &str) -> bool {
    let address = address.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
    network::range(subnet)
        .is_ok_and(|subnet| address.is_some_and(|address| rcompose_engine::network::pool::contains(subnet, address)))
}
