//! Where what a project publishes is reached from this host.

use std::net::IpAddr;

use rcompose_engine::container::config::Protocol;
use rcompose_engine::container::store::Container;

use super::labels::Labelled as _;
use super::names;
use crate::compose::Project;
use crate::ui::ports;

/// Ports of programs that do not speak HTTP: nobody opens them in a browser.
const OTHERS: [(u16, &str); 14] = [
    (21, "ftp"),
    (22, "ssh"),
    (25, "smtp"),
    (53, "dns"),
    (1433, "sqlserver"),
    (1521, "oracle"),
    (1883, "mqtt"),
    (3306, "mysql"),
    (5432, "postgresql"),
    (5672, "amqp"),
    (6379, "redis"),
    (9042, "cassandra"),
    (11211, "memcached"),
    (27017, "mongodb"),
];

/// Returns the addresses of the published TCP ports of running containers, by the containers' short names.
pub fn urls(project: &Project, containers: &[Container]) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for container in containers.iter().filter(|container| container.state.status.is_running()) {
        let declared = project.services.get(container.service()).map(|service| service.ports.as_slice());
        let scheme = |target: u16| {
            let own = declared.unwrap_or_default().iter().find(|port| port.target == u32::from(target));
            scheme(target, own.and_then(|port| port.app_protocol.as_deref()))
        };
        let published = container.state.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let mut urls = Vec::new();
        for port in published {
            let url = format!("{}://{}", scheme(port.container_port), host(port.host_ip, port.host_port));
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if !urls.is_empty() {
            all.push((names::short(&project.name, &container.config.name).to_owned(), urls));
        }
    }
    all.sort();
    all
}

/// Returns what is spoken at a port of a container: what the file says (`app_protocol`), or else what is usual.
fn scheme(target: u16, declared: Option<&str>) -> &str {
    match (declared, target) {
        (Some(declared), _) => declared,
        (None, 443 | 8443) => "https",
        (None, target) => OTHERS.iter().find(|(port, _)| *port == target).map_or("http", |(_, scheme)| scheme),
    }
}

/// Returns an address as a browser takes it. What is published on every address is so on this one.
fn host(address: IpAddr, port: u16) -> String {
    if address.is_unspecified() { format!("localhost:{port}") } else { ports::join(address, &port.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_knows_best_what_is_spoken() {
        assert_eq!(scheme(80, None), "http");
        assert_eq!(scheme(8443, None), "https");
        assert_eq!(scheme(5432, None), "postgresql");
        assert_eq!(scheme(5432, Some("https")), "https");
    }

    #[test]
    fn addresses_are_those_of_a_browser() {
        assert_eq!(host("0.0.0.0".parse().unwrap(), 8080), "localhost:8080");
        assert_eq!(host("::".parse().unwrap(), 8080), "localhost:8080");
        assert_eq!(host("127.3.2.1".parse().unwrap(), 80), "127.3.2.1:80");
        assert_eq!(host("::1".parse().unwrap(), 80), "[::1]:80");
    }
}
