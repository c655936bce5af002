//! `networks`, `network_mode`, `ports`, `expose`, `extra_hosts` → the container's network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use rcompose_engine::container::config::{Endpoint, NetworkMode, Protocol, PublishedPort};

use super::{Blueprint, InvalidAttribute, References};
use crate::compose::model::{self, HostPorts, ServiceNetwork};
use crate::project::names;

impl Blueprint<'_> {
    pub(super) fn network(&self, references: &dyn References) -> Result<NetworkMode, InvalidAttribute> {
        let missing = |name: &str| {
            self.invalid("network_mode", format!("cannot share the network of {name}: its container is missing"))
        };
        Ok(match &self.service.network_mode {
            Some(model::NetworkMode::None) => NetworkMode::None,
            Some(model::NetworkMode::Host) => NetworkMode::Host,
            Some(model::NetworkMode::Service(name)) => {
                NetworkMode::Container(references.service(name).ok_or_else(|| missing(name))?.id)
            }
            Some(model::NetworkMode::Container(name)) => {
                NetworkMode::Container(references.container(name).ok_or_else(|| missing(name))?.id)
            }
            Some(model::NetworkMode::Other(network)) => {
                NetworkMode::Networks(vec![self.endpoint(network.clone(), &ServiceNetwork::default())?])
            }
            Some(model::NetworkMode::Bridge) => {
                return Err(self.invalid(
                    "network_mode",
                    "there is no default bridge here; leave the attribute out and the service joins the project's network",
                ));
            }
            None => {
                let join = |key: &str| {
                    let network = self.project.networks.get(key);
                    let name = network.map_or_else(|| key.to_owned(), |network| network.name.clone());
                    let joined = self.service.networks.get(key).and_then(Option::as_ref);
                    self.endpoint(name, joined.unwrap_or(&ServiceNetwork::default()))
                };
                let mut endpoints =
                    self.service.networks_by_priority().into_iter().map(join).collect::<Result<Vec<_>, _>>()?;
                if let (Some(first), Some(text)) = (endpoints.first_mut(), &self.service.mac_address)
                    && first.mac_address.is_none()
                {
                    first.mac_address = Some(self.mac_address("mac_address", text)?);
                }
                if endpoints.is_empty() { NetworkMode::None } else { NetworkMode::Networks(endpoints) }
            }
        })
    }

    fn endpoint(&self, network: String, joined: &ServiceNetwork) -> Result<Endpoint, InvalidAttribute> {
        let mut aliases = Vec::new();
        // One that is not to be taken for a container of the service has none.
        if self.one_off.is_none_or(|one_off| one_off.use_aliases) {
            for alias in std::iter::once(&self.service.name).chain(&joined.aliases) {
                if !aliases.contains(alias) {
                    aliases.push(alias.clone());
                }
            }
        }
        Ok(Endpoint {
            network,
            aliases,
            links: self.links(),
            ipv4_address: self.parsed("ipv4_address", joined.ipv4_address.as_deref())?,
            ipv6_address: self.parsed("ipv6_address", joined.ipv6_address.as_deref())?,
            link_local_ips: self.addresses("link_local_ips", &joined.link_local_ips)?,
            mac_address: match &joined.mac_address {
                Some(text) => Some(self.mac_address("mac_address", text)?),
                None => None,
            },
            interface_name: joined.interface_name.clone(),
            gw_priority: self.fits("gw_priority", joined.gw_priority)?,
            driver_opts: joined.driver_opts.clone(),
        })
    }

    /// Returns the names that the service's containers alone have for others, and what each stands for: `links` for the
    /// containers of a service, all or one of them, `external_links` for a container of any project.
    fn links(&self) -> BTreeMap<String, Vec<String>> {
        let mut links = BTreeMap::<String, Vec<String>>::new();
        let mut add = |alias: String, name: String| {
            let names = links.entry(alias).or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        };
        for link in &self.service.links {
            let (service, alias) = link.split_once(':').unwrap_or((link, link));
            add(alias.to_owned(), service.to_owned());
            if let Some(linked) = self.project.services.get(service) {
                for number in 1..=linked.replicas() {
                    add(format!("{service}-{number}"), names::container(self.project, linked, number));
                }
            }
        }
        for link in &self.service.external_links {
            let (container, alias) = link.split_once(':').unwrap_or((link, link));
            add(alias.to_owned(), container.to_owned());
        }
        links
    }

    pub(super) fn ports(&self) -> Result<Vec<PublishedPort>, InvalidAttribute> {
        self.service.ports.iter().map(|port| self.port(port)).collect()
    }

    fn port(&self, port: &model::Port) -> Result<PublishedPort, InvalidAttribute> {
        Ok(PublishedPort {
            host_ip: self.parsed("ports", port.host_ip.as_deref().map(|ip| ip.trim_matches(['[', ']'])))?,
            host_port: match &port.published {
                HostPorts::Ephemeral => None,
                HostPorts::Range(low, high) => Some((*low, *high)),
                HostPorts::Other(text) => return Err(self.invalid("ports", format!("`{text}` is not a port"))),
            },
            container_port: u16::try_from(port.target)
                .ok()
                .filter(|target| *target > 0)
                .ok_or_else(|| self.invalid("ports", format!("`{}` is not a port", port.target)))?,
            protocol: match port.protocol.to_ascii_lowercase().as_str() {
                "" | "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                "sctp" => Protocol::Sctp,
                other => return Err(self.invalid("ports", format!("`{other}` is not a protocol: tcp, udp or sctp"))),
            },
        })
    }

    /// Returns every port that the service or its image declares, each with its protocol.
    pub(super) fn expose(&self) -> Vec<String> {
        let mut ports = Vec::new();
        for port in self.service.expose.iter().chain(&self.image.expose) {
            let port = if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    pub(super) fn extra_hosts(&self) -> Result<Vec<(String, String)>, InvalidAttribute> {
        let host = |text: &String| {
            let (name, address) = text
                .split_once('=')
                .or_else(|| text.split_once(':'))
                .ok_or_else(|| self.invalid("extra_hosts", format!("`{text}` is not HOST=ADDRESS")))?;
            Ok((name.to_owned(), address.trim_matches(['[', ']']).to_owned()))
        };
        self.service.extra_hosts.iter().map(host).collect()
    }

    pub(super) fn addresses(&self, attribute: &'static str, texts: &[String]) -> Result<Vec<IpAddr>, InvalidAttribute> {
        texts
            .iter()
            .map(|text| self.parsed(attribute, Some(text)).map(|address| address.expect("it was given")))
            .collect()
    }

    fn parsed<T: FromStr>(&self, attribute: &'static str, text: Option<&str>) -> Result<Option<T>, InvalidAttribute> {
        match text {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| self.invalid(attribute, format!("`{text}` is not such an address")))
            }
        }
    }

    fn mac_address(&self, attribute: &'static str, text: &str) -> Result<[u8; 6], InvalidAttribute> {
        mac_address(text).ok_or_else(|| self.invalid(attribute, format!("`{text}` is not a MAC address")))
    }
}

/// Reads six bytes such as `02:42:ac:11:00:02`.
fn mac_address(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{made, made_in};
    use super::*;
    use crate::compose::Service;

    fn published(port: model::Port) -> Result<PublishedPort, InvalidAttribute> {
        made(Service { ports: vec![port], ..Service::default() }).map(|mut made| made.config.ports.swap_remove(0))
    }

    #[test]
    fn ports_become_numbers() {
        let port = model::Port { target: 80, published: HostPorts::Range(8080, 8090), ..model::Port::default() };
        let made = published(model::Port { host_ip: Some("[::1]".into()), ..port.clone() }).unwrap();
        assert_eq!((made.host_port, made.container_port, made.protocol), (Some((8080, 8090)), 80, Protocol::Tcp));
        assert_eq!(made.host_ip, Some("::1".parse().unwrap()));
        for wrong in [
            model::Port { target: 70000, ..port.clone() },
            model::Port { target: 0, ..port.clone() },
            model::Port { host_ip: Some("localhost".into()), ..port.clone() },
            model::Port { protocol: "icmp".into(), ..port.clone() },
            model::Port { published: HostPorts::Other("x".into()), ..port },
        ] {
            assert!(published(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_service_answers_to_its_name_first() {
        let joined = ServiceNetwork { aliases: vec!["database".into(), "db".into()], ..ServiceNetwork::default() };
        let made =
            made(Service { networks: [("back".to_owned(), Some(joined))].into(), ..Service::default() }).unwrap();
        let NetworkMode::Networks(endpoints) = made.config.network else { panic!("it has a network") };
        assert_eq!(endpoints[0].network, "back");
        assert_eq!(endpoints[0].aliases, ["db", "database"]);
    }

    #[test]
    fn a_link_is_a_name_that_only_the_service_has() {
        let service = Service {
            networks: [("back".to_owned(), None)].into(),
            links: vec!["cache:memory".into(), "db".into()],
            external_links: vec!["other-db-1:legacy".into(), "plain".into()],
            ..Service::default()
        };
        let cache = Service { name: "cache".into(), ..Service::default() };
        let project = model::Project { services: [("cache".to_owned(), cache)].into(), ..model::Project::default() };
        let NetworkMode::Networks(endpoints) = made_in(project, service).unwrap().config.network else {
            panic!("it has a network")
        };
        let links = endpoints[0].links.iter().map(|(alias, names)| format!("{alias}={}", names.join("+")));
        let expected = ["cache-1=shop-cache-1", "db=db", "legacy=other-db-1", "memory=cache", "plain=plain"];
        assert_eq!(links.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn exposed_ports_are_those_of_the_service_and_the_image() {
        let made = made(Service { expose: vec!["8000".into(), "5432/tcp".into()], ..Service::default() }).unwrap();
        assert_eq!(made.config.expose, ["8000/tcp", "5432/tcp"]);
    }

    #[test]
    fn mac_addresses_have_six_bytes() {
        assert_eq!(mac_address("02:42:ac:11:00:ff"), Some([2, 0x42, 0xac, 0x11, 0, 0xff]));
        for text in ["", "02:42", "02:42:ac:11:00:ff:00", "2:42:ac:11:00:ff", "zz:42:ac:11:00:ff"] {
            assert_eq!(mac_address(text), None, "{text}");
        }
    }
}
