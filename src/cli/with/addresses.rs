//! Where a stack's ports are published, as variables.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use rcompose_engine::container::state::BoundPort;
use rcompose_engine::container::store::Container;

use crate::project::labels::Labelled as _;

/// Returns the variables for the published ports of these containers; of a service with several, for those of its first one.
pub(super) fn variables(containers: &[Container]) -> BTreeMap<String, String> {
    let mut first = BTreeMap::<&str, &Container>::new();
    for container in containers.iter().filter(|container| !container.is_oneoff()) {
        let known = first.entry(container.service()).or_insert(container);
        if container.number() < known.number() {
            *known = container;
        }
    }
    let mut variables = BTreeMap::new();
    for (service, container) in first {
        let mut ports = container.state.ports.iter().filter(|port| port.host_ip.is_ipv4()).collect::<Vec<_>>();
        ports.sort_by_key(|port| port.container_port);
        let name = name(service);
        for (n, port) in ports.into_iter().enumerate() {
            let (host, number) = place(port);
            let address = format!("{host}:{number}");
            if n == 0 {
                variables.insert(format!("{name}_HOST"), host.to_string());
                variables.insert(format!("{name}_PORT"), number.to_string());
                variables.insert(format!("{name}_ADDRESS"), address.clone());
            }
            variables.insert(format!("{name}_PORT_{}", port.container_port), number.to_string());
            variables.insert(format!("{name}_ADDRESS_{}", port.container_port), address);
        }
    }
    variables
}

fn place(port: &BoundPort) -> (IpAddr, u16) {
    let host = if port.host_ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { port.host_ip };
    (host, port.host_port)
}

/// Returns a service's name as a shell takes it in the name of a variable.
fn name(service: &str) -> String {
    service.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::config::{ContainerConfig, Protocol};
    use rcompose_engine::container::state::{ContainerState, Status};

    use super::*;
    use crate::project::labels::{NUMBER, SERVICE};

    fn container(service: &str, number: &str, ports: &[(u16, u16)]) -> Container {
        let mut config = ContainerConfig::new(format!("p-{service}-{number}"), "p".into(), "x".into(), "y".into());
        config.labels = [(SERVICE.to_owned(), service.to_owned()), (NUMBER.to_owned(), number.to_owned())].into();
        let mut state = ContainerState::new(Status::Running);
        let bound = |(container_port, host_port): &(u16, u16)| BoundPort {
            container_port: *container_port,
            host_ip: Ipv4Addr::UNSPECIFIED.into(),
            host_port: *host_port,
            protocol: Protocol::Tcp,
        };
        state.ports = ports.iter().map(bound).collect();
        Container { config, state }
    }

    #[test]
    fn each_port_has_variables_and_the_lowest_has_short_ones() {
        let all = [
            container("my-web", "2", &[(80, 3)]),
            container("my-web", "1", &[(443, 2), (80, 1)]),
            container("db", "1", &[]),
        ];
        let variables = variables(&all);
        let said = variables.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!(
            said,
            [
                "MY_WEB_ADDRESS=127.0.0.1:1",
                "MY_WEB_ADDRESS_443=127.0.0.1:2",
                "MY_WEB_ADDRESS_80=127.0.0.1:1",
                "MY_WEB_HOST=127.0.0.1",
                "MY_WEB_PORT=1",
                "MY_WEB_PORT_443=2",
                "MY_WEB_PORT_80=1",
            ]
        );
    }
}
