//! `port`: where a container's port is published.

use clap::Args;
use rcompose_engine::container::config::Protocol;

use super::context::Context;
use super::error::Error;
use crate::ui::ports;

#[derive(Debug, Args)]
pub struct PortArgs {
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    protocol: String,
    service: String,
    private_port: u16,
}

pub fn run(context: &Context, args: &PortArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = engine.containers()?;
    let container = scope.one(&containers, &args.service, args.index)?;
    let protocol = match args.protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(Error::new(format!("`{other}` is not a protocol: tcp, udp or sctp"))),
    };
    let bound =
        container.state.ports.iter().find(|port| port.container_port == args.private_port && port.protocol == protocol);
    match bound {
        Some(port) => Ok(context.ui.out(&format!("{}\n", ports::join(port.host_ip, &port.host_port.to_string())))?),
        None => Err(Error::with_hint(
            format!("no port {}/{} for container {}", args.private_port, protocol.as_str(), container.config.name),
            format!("rcompose ps {} shows what is published", args.service),
        )),
    }
}
