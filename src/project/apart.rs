//! Copies of a project that run beside it, unmodified: nothing of a copy has a name or an address that another one has.

use std::net::Ipv4Addr;

use sha2::{Digest as _, Sha256};

use crate::compose::Project;
use crate::compose::model::HostPorts;

/// Where the ports of a copy are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// On free ports of the host's own address.
    Free,
    /// Where the files say, but on this address.
    At(Ipv4Addr),
}

/// Returns the address of its own that an instance of a project has: always the same one, and none that others use.
pub fn address(project: &str) -> Ipv4Addr {
    let digest = Sha256::digest(project.as_bytes());
    // Not the half where 127.0.0.1 is, and no address that ends like that of a network or of all its hosts.
    Ipv4Addr::new(127, 128 | digest[0], digest[1], 1 + digest[2] % 254)
}

/// Takes from a project what only one project of a host can have: names of containers, networks and volumes, and ports. What is
/// external stays what it is.
pub fn set_apart(project: &mut Project, ports: Ports) {
    for service in project.services.values_mut() {
        if let Some(name) = service.container_name.take() {
            // Others of the project may know it by that.
            for network in service.networks.values_mut() {
                network.get_or_insert_default().aliases.push(name.clone());
            }
        }
        for port in &mut service.ports {
            match ports {
                Ports::Free => {
                    port.host_ip = Some(Ipv4Addr::LOCALHOST.to_string());
                    port.published = HostPorts::Ephemeral;
                }
                Ports::At(address) => port.host_ip = Some(address.to_string()),
            }
        }
    }
    let name = |key: &String| format!("{}_{key}", project.name);
    for (key, network) in project.networks.iter_mut().filter(|(_, network)| !network.external) {
        network.name = name(key);
    }
    for (key, volume) in project.volumes.iter_mut().filter(|(_, volume)| !volume.external) {
        volume.name = name(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::Service;
    use crate::compose::model::{Network, Port, Volume};

    fn project() -> Project {
        let port = Port { target: 80, published: HostPorts::Range(8080, 8080), ..Port::default() };
        let web = Service {
            name: "web".into(),
            container_name: Some("front".into()),
            networks: [("default".to_owned(), None)].into(),
            ports: vec![port],
            ..Service::default()
        };
        Project {
            name: "shop-two".into(),
            services: [("web".to_owned(), web)].into(),
            networks: [("default".to_owned(), Network { name: "fixed".into(), ..Network::default() })].into(),
            volumes: [("data".to_owned(), Volume { name: "kept".into(), external: true, ..Volume::default() })].into(),
            ..Project::default()
        }
    }

    #[test]
    fn a_copy_has_nothing_that_only_one_can_have() {
        let mut copy = project();
        set_apart(&mut copy, Ports::Free);
        let web = &copy.services["web"];
        assert_eq!((&web.container_name, &web.ports[0].published), (&None, &HostPorts::Ephemeral));
        assert_eq!(web.networks["default"].as_ref().unwrap().aliases, ["front"]);
        assert_eq!(
            (copy.networks["default"].name.as_str(), copy.volumes["data"].name.as_str()),
            ("shop-two_default", "kept")
        );
    }

    #[test]
    fn an_instance_keeps_its_ports_on_an_address_of_its_own() {
        let (mut copy, own) = (project(), address("shop-two"));
        set_apart(&mut copy, Ports::At(own));
        let port = &copy.services["web"].ports[0];
        assert_eq!((port.host_ip.clone(), &port.published), (Some(own.to_string()), &HostPorts::Range(8080, 8080)));
        assert!(own.is_loopback() && own.octets()[1] >= 128 && own != address("shop-three"));
    }
}
