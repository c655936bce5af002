//! A network of the project → the engine's network (Compose Specification, `networks`).

use std::net::IpAddr;

use rcompose_engine::network::config::{Driver, NetworkConfig, Subnet};

use super::labels::Labels;
use crate::compose::model::{IpamPool, Network};

/// A network that cannot be made as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network {name}: {attribute}: {reason}")]
pub struct InvalidNetwork {
    pub name: String,
    pub attribute: &'static str,
    /// What is wrong, the value included.
    pub reason: String,
}

/// Returns what the engine is asked for; without a project, for a network made by hand.
pub fn config(project: Option<&str>, network: &Network, labels: Labels) -> Result<NetworkConfig, InvalidNetwork> {
    let invalid = |attribute, reason| InvalidNetwork { name: network.name.clone(), attribute, reason };
    let driver = match network.driver.as_deref().unwrap_or_default() {
        "" | "default" | "bridge" => Driver::Bridge,
        "macvlan" => Driver::Macvlan,
        "ipvlan" => Driver::Ipvlan,
        other => return Err(invalid("driver", format!("`{other}` is not a driver: bridge, macvlan or ipvlan"))),
    };
    let subnets = network.ipam.config.iter().filter_map(|pool| subnet(pool).transpose());
    Ok(NetworkConfig {
        name: network.name.clone(),
        project: project.map(str::to_owned),
        driver,
        internal: network.internal,
        attachable: network.attachable,
        enable_ipv4: network.enable_ipv4.unwrap_or(true),
        enable_ipv6: network.enable_ipv6.unwrap_or(false),
        subnets: subnets.collect::<Result<_, _>>().map_err(|reason| invalid("ipam.config", reason))?,
        driver_opts: network.driver_opts.clone(),
        labels,
    })
}

/// Returns a sentence for each option of a network that has no effect.
pub fn unhonoured(network: &Network) -> Vec<String> {
    // One that cannot be made says so itself.
    let options = config(None, network, Labels::new()).map(|config| {
        config.unhonoured().into_iter().map(|option| format!("driver_opts.{option}")).collect::<Vec<_>>()
    });
    let options = options.unwrap_or_default().into_iter();
    options.map(|what| format!("network \"{}\": {what} has no effect", network.name)).collect()
}

/// Returns the pool's address range, or none where the engine chooses it.
fn subnet(pool: &IpamPool) -> Result<Option<Subnet>, String> {
    let Some(text) = &pool.subnet else {
        return match (&pool.gateway, &pool.ip_range) {
            (None, None) => Ok(None),
            _ => Err("gateway and ip_range need a subnet".to_owned()),
        };
    };
    let address = |text: &String| text.parse::<IpAddr>().map_err(|_| format!("`{text}` is not an address"));
    let subnet = Subnet {
        subnet: range(text)?,
        ip_range: pool.ip_range.as_deref().map(range).transpose()?,
        gateway: pool.gateway.as_ref().map(address).transpose()?,
        aux_addresses: pool
            .aux_addresses
            .iter()
            .map(|(name, text)| Ok((name.clone(), address(text)?)))
            .collect::<Result<_, String>>()?,
    };
    Ok(Some(subnet))
}

/// Reads an address range such as `172.28.0.0/16`.
pub fn range(text: &str) -> Result<(IpAddr, u8), String> {
    let parse = || {
        let (address, length) = text.split_once('/')?;
        let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
        (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
    };
    parse().ok_or_else(|| format!("`{text}` is not an address range such as 172.28.0.0/16"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::model::Ipam;

    fn with_pool(pool: IpamPool) -> Result<NetworkConfig, InvalidNetwork> {
        let network = Network {
            name: "p_back".into(),
            ipam: Ipam { config: vec![pool], ..Ipam::default() },
            ..Network::default()
        };
        config(Some("p"), &network, Labels::new())
    }

    #[test]
    fn a_pool_becomes_a_subnet() {
        let pool = IpamPool {
            subnet: Some("172.28.0.0/16".into()),
            gateway: Some("172.28.5.254".into()),
            ..IpamPool::default()
        };
        let made = with_pool(pool).unwrap();
        assert_eq!(made.subnets[0].subnet, ("172.28.0.0".parse().unwrap(), 16));
        assert_eq!(made.subnets[0].gateway, Some("172.28.5.254".parse().unwrap()));
        assert!(with_pool(IpamPool::default()).unwrap().subnets.is_empty());
    }

    #[test]
    fn nonsense_is_named() {
        let pool = |subnet: &str| IpamPool { subnet: Some(subnet.into()), ..IpamPool::default() };
        for text in ["172.28.0.0", "172.28.0.0/33", "somewhere/16", "::/129"] {
            let error = with_pool(pool(text)).unwrap_err().to_string();
            assert!(error.starts_with("network p_back: ipam.config: `") && error.contains(text), "{error}");
        }
        let network = Network { driver: Some("overlay".into()), ..Network::default() };
        assert!(config(Some("p"), &network, Labels::new()).is_err());
    }
}
