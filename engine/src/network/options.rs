//! `driver_opts` of networks and endpoints: what they mean here, and which of them mean nothing.
//!
//! The names are Docker's.

use std::net::{IpAddr, Ipv4Addr};

use super::NetworkError;
use super::config::{Driver, Network, NetworkConfig};
use crate::container::config::Endpoint;

const MTU: &str = "com.docker.network.driver.mtu";
const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
const IFNAME: &str = "com.docker.network.endpoint.ifname";

/// The names that links have at most, in bytes (`IFNAMSIZ`).
const NAME: usize = 15;

impl NetworkConfig {
    fn option(&self, name: &str) -> Option<&str> {
        self.driver_opts.get(name).map(String::as_str)
    }

    fn switch(&self, name: &str, default: bool) -> bool {
        self.option(name).and_then(switch).unwrap_or(default)
    }

    /// Refuses values that mean nothing.
    pub(crate) fn check_options(&self) -> Result<(), NetworkError> {
        for (option, value) in &self.driver_opts {
            let good = match option.as_str() {
                MTU => value.parse::<u32>().is_ok_and(|mtu| mtu >= 68),
                ICC | MASQUERADE | INHIBIT_IPV4 => switch(value).is_some(),
                HOST_BINDING => value.parse::<Ipv4Addr>().is_ok(),
                // There must be room for a number.
                IFACE_PREFIX => is_link_name(value) && value.len() < NAME - 1,
                BRIDGE_NAME => is_link_name(value),
                _ => true,
            };
            if !good {
                let (network, option, value) = (self.name.clone(), option.clone(), value.clone());
                return Err(NetworkError::InvalidOption { network, option, value });
            }
        }
        Ok(())
    }

    /// Returns the options that have no effect.
    pub fn unhonoured(&self) -> Vec<&str> {
        let known: &[&str] = match self.driver {
            Driver::Bridge => &[MTU, IFACE_PREFIX, BRIDGE_NAME, ICC, MASQUERADE, HOST_BINDING, INHIBIT_IPV4],
            Driver::Macvlan => &[MTU, IFACE_PREFIX, "parent", "macvlan_mode"],
            Driver::Ipvlan => &[MTU, IFACE_PREFIX, "parent", "ipvlan_mode"],
        };
        // What says no more than what is so anyway needs no effect.
        let usual = |name: &str, value: &str| match name {
            "com.docker.network.bridge.gateway_mode_ipv4" | "com.docker.network.bridge.gateway_mode_ipv6" => {
                value == "nat"
            }
            "com.docker.network.bridge.default_bridge" => switch(value) == Some(false),
            "ipvlan_flag" => value == "bridge",
            _ => false,
        };
        let without_effect =
            |(name, value): &(&String, &String)| !known.contains(&name.as_str()) && !usual(name, value);
        self.driver_opts.iter().filter(without_effect).map(|(name, _)| name.as_str()).collect()
    }
}

impl Network {
    /// Returns the maximum transmission unit that was asked for.
    pub fn mtu(&self) -> Option<u32> {
        self.config.option(MTU)?.parse().ok()
    }

    /// Returns whether containers speak to the world with the host's address.
    pub fn masquerade(&self) -> bool {
        !self.config.internal && self.config.switch(MASQUERADE, true)
    }

    /// Returns whether containers of the network may speak to each other.
    pub fn connects_containers(&self) -> bool {
        self.config.switch(ICC, true)
    }

    /// Returns whether the bridge has no IPv4 address: somebody else is the gateway.
    pub fn inhibits_ipv4(&self) -> bool {
        self.config.switch(INHIBIT_IPV4, false)
    }

    /// Returns the further name that the bridge has.
    pub fn bridge_alias(&self) -> Option<&str> {
        self.config.option(BRIDGE_NAME)
    }

    /// Returns where ports are bound that name no address.
    pub fn host_binding(&self) -> Option<IpAddr> {
        self.config.option(HOST_BINDING)?.parse().ok().map(IpAddr::V4)
    }

    /// Returns how the names of containers' interfaces begin.
    pub fn interface_prefix(&self) -> &str {
        self.config.option(IFACE_PREFIX).unwrap_or("eth")
    }
}

/// Returns what an endpoint's interface is to be called.
pub fn interface_name(endpoint: &Endpoint) -> Option<&str> {
    let option = || endpoint.driver_opts.get(IFNAME);
    endpoint.interface_name.as_ref().or_else(option).map(String::as_str)
}

/// Returns the settings that an endpoint asks for, as paths below `/proc/sys` and values; `IFNAME` in a name stands for
/// the interface.
///
/// # Errors
/// What is no setting of a network interface is returned.
pub fn sysctls(endpoint: &Endpoint, interface: &str) -> Result<Vec<(String, String)>, String> {
    let text = endpoint.driver_opts.get(SYSCTLS).map(String::as_str).unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|setting| !setting.is_empty())
        .map(|setting| sysctl(setting, interface))
        .collect()
}

fn sysctl(setting: &str, interface: &str) -> Result<(String, String), String> {
    let parts = setting.split_once('=').map(|(name, value)| (name.trim().split('.').collect::<Vec<_>>(), value.trim()));
    match parts {
        // Of the interface itself and nothing else, as Docker has it; a name of ours never has a dot or a slash.
        Some((name, value))
            if matches!(
                name.as_slice(),
                ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", last]
                    if last.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            ) =>
        {
            Ok((format!("{}/{}/{}/{interface}/{}", name[0], name[1], name[2], name[4]), value.to_owned()))
        }
        _ => Err(setting.to_owned()),
    }
}

/// Returns the options of an endpoint that have no effect.
pub fn unhonoured<'a>(driver_opts: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    driver_opts.into_iter().map(String::as_str).filter(|name| ![SYSCTLS, IFNAME].contains(name)).collect()
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

fn is_link_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(driver: Driver, options: &[(&str, &str)]) -> NetworkConfig {
        let driver_opts = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        NetworkConfig { name: "n".into(), driver, driver_opts, ..NetworkConfig::default() }
    }

    #[test]
    fn an_option_has_an_effect_or_is_named() {
        let gateway_mode = "com.docker.network.bridge.gateway_mode_ipv4";
        assert!(with(Driver::Bridge, &[(MTU, "1400"), (ICC, "false"), (gateway_mode, "nat")]).unhonoured().is_empty());
        assert_eq!(
            with(Driver::Bridge, &[(gateway_mode, "routed"), ("parent", "x")]).unhonoured(),
            [gateway_mode, "parent"]
        );
        assert_eq!(with(Driver::Macvlan, &[(ICC, "false"), ("parent", "x")]).unhonoured(), [ICC]);
        assert_eq!(unhonoured(&[SYSCTLS.to_owned(), "x".to_owned()]), ["x"]);
    }

    #[test]
    fn a_value_without_a_meaning_is_refused() {
        for (option, value) in [
            (MTU, "big"),
            (MTU, "10"),
            (ICC, "perhaps"),
            (HOST_BINDING, "::1"),
            (BRIDGE_NAME, "a/b"),
            (BRIDGE_NAME, ""),
            (IFACE_PREFIX, "fourteenletters"),
        ] {
            let error = with(Driver::Bridge, &[(option, value)]).check_options().unwrap_err().to_string();
            assert_eq!(error, format!("`{value}` is no value of the option {option} of network n"));
        }
    }

    #[test]
    fn settings_are_of_the_interface_alone() {
        let asked = |text: &str| {
            let driver_opts = [(SYSCTLS.to_owned(), text.to_owned())].into();
            sysctls(&Endpoint { driver_opts, ..Endpoint::default() }, "eth0")
        };
        assert_eq!(
            asked("net.ipv4.conf.IFNAME.log_martians=1, net.ipv6.neigh.IFNAME.retrans_time_ms=5").unwrap(),
            [
                ("net/ipv4/conf/eth0/log_martians".to_owned(), "1".to_owned()),
                ("net/ipv6/neigh/eth0/retrans_time_ms".to_owned(), "5".to_owned())
            ]
        );
        for wrong in ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.IFNAME.a/b=1", "x"] {
            assert_eq!(asked(wrong).unwrap_err(), wrong);
        }
        assert_eq!(asked("").unwrap(), []);
    }
}
