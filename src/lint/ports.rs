//! Published ports.

use super::{Findings, Subject, service};
use crate::compose::key::{Key, KeyPath};
use crate::compose::model::{HostPorts, NetworkMode, Port};

/// Ports of what is hardly ever meant for the neighbours.
const DATABASES: [(u32, &str); 14] = [
    (1433, "SQL Server"),
    (1521, "Oracle"),
    (2379, "etcd"),
    (3306, "MySQL"),
    (5432, "PostgreSQL"),
    (5984, "CouchDB"),
    (6379, "Redis"),
    (7687, "Neo4j"),
    (8086, "InfluxDB"),
    (9042, "Cassandra"),
    (9200, "Elasticsearch"),
    (11211, "memcached"),
    (26257, "CockroachDB"),
    (27017, "MongoDB"),
];

/// Finds databases that are published on all addresses.
pub(super) fn databases(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (path, port) in ports(subject) {
        let Some((_, database)) = DATABASES.iter().find(|(number, _)| *number == port.target) else { continue };
        if is_everywhere(port) && port.protocol != "udp" {
            findings.add(
                &path,
                format!("{database} (port {}) is published on every address of this host", port.target),
                format!(
                    "publish it as \"127.0.0.1:{}:{}\", or not at all: services reach it by name",
                    host(port),
                    port.target
                ),
            );
        }
    }
}

/// Finds ports that two services want.
pub(super) fn duplicates(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let mut known: Vec<(KeyPath, &Port, u16)> = Vec::new();
    for (path, port) in ports(subject) {
        // The first free one of several is taken.
        let HostPorts::Range(low, high) = port.published else { continue };
        if low != high {
            continue;
        }
        let taken = known.iter().find(|(_, other, number)| {
            *number == low
                && other.protocol == port.protocol
                && (other.host_ip == port.host_ip || is_everywhere(other) || is_everywhere(port))
        });
        if let Some((other, ..)) = taken {
            let message = format!("{low}/{} is published by {other} as well", port.protocol);
            findings.add(
                &path,
                message,
                "only one of them can have it; publish another port, or \"0\" for any free one",
            );
        }
        known.push((path, port, low));
    }
}

/// Finds ports of services whose network is not their own.
pub(super) fn ignored(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for (name, definition) in &subject.project.services {
        let reason = match &definition.network_mode {
            Some(NetworkMode::Host) => "it is on the host's network, where its ports are open anyway",
            Some(NetworkMode::None) => "it has no network",
            _ => continue,
        };
        if !definition.ports.is_empty() {
            findings.add(
                &service(name, &["ports"]),
                format!("the ports of {name} are not published: {reason}"),
                "take `ports` away, or `network_mode`",
            );
        }
    }
}

/// Returns all published ports, and where they stand.
fn ports<'s>(subject: &Subject<'s>) -> impl Iterator<Item = (KeyPath, &'s Port)> + use<'s> {
    let services =
        subject.project.services.iter().filter(|(_, definition)| definition.network_mode != Some(NetworkMode::Host));
    services.flat_map(|(name, definition)| {
        let path = service(name, &["ports"]);
        definition.ports.iter().enumerate().map(move |(index, port)| (path.join(Key::Index(index)), port))
    })
}

/// Returns whether a port is published on all addresses of the host.
fn is_everywhere(port: &Port) -> bool {
    port.host_ip.as_deref().is_none_or(|address| matches!(address, "" | "0.0.0.0" | "::" | "[::]"))
}

/// Returns the host's port as it is written; the container's where any will do.
fn host(port: &Port) -> String {
    match &port.published {
        HostPorts::Ephemeral => port.target.to_string(),
        published => published.to_string(),
    }
}
