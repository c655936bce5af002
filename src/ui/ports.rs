//! Ports as `ps` shows them.

use std::net::IpAddr;

/// A port of a container, published or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub container: u16,
    /// Where it is published.
    pub host: Option<(IpAddr, u16)>,
    /// Such as `tcp`.
    pub protocol: String,
}

/// Ports in a row that are shown as one range.
struct Group {
    address: Option<IpAddr>,
    protocol: String,
    first: u16,
    last: u16,
}

/// Returns the ports in Docker's form, such as `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp`.
pub fn display(ports: &[Port]) -> String {
    let mut ports = ports.to_vec();
    ports.sort();
    ports.dedup();
    let mut ended = Vec::new();
    let mut groups = Vec::<Group>::new();
    let mut mapped = Vec::new();
    for Port { container, host, protocol } in ports {
        let address = match host {
            Some((address, port)) if port != container => {
                mapped.push(format!("{}->{container}/{protocol}", join(address, &port.to_string())));
                continue;
            }
            Some((address, _)) => Some(address),
            None => None,
        };
        let known = groups.iter_mut().find(|group| group.address == address && group.protocol == protocol);
        match known {
            Some(group) if container == group.last.saturating_add(1) => group.last = container,
            Some(group) => {
                ended.push(group.text());
                (group.first, group.last) = (container, container);
            }
            None => groups.push(Group { address, protocol, first: container, last: container }),
        }
    }
    ended.extend(groups.iter().map(Group::text));
    ended.extend(mapped);
    ended.join(", ")
}

impl Group {
    fn text(&self) -> String {
        let range =
            if self.first == self.last { self.first.to_string() } else { format!("{}-{}", self.first, self.last) };
        match self.address {
            Some(address) => format!("{}->{range}/{}", join(address, &range), self.protocol),
            None => format!("{range}/{}", self.protocol),
        }
    }
}

/// Returns address and port, with an IPv6 address in brackets.
pub fn join(address: IpAddr, port: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(container: u16, host: Option<(&str, u16)>) -> Port {
        let host = host.map(|(address, port)| (address.parse().unwrap(), port));
        Port { container, host, protocol: "tcp".into() }
    }

    #[test]
    fn published_ports_show_where() {
        let ports = [port(80, Some(("::", 8080))), port(80, Some(("0.0.0.0", 8080))), port(443, None)];
        assert_eq!(display(&ports), "443/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
    }

    #[test]
    fn ports_in_a_row_are_a_range() {
        let same = |n| port(n, Some(("127.0.0.1", n)));
        assert_eq!(
            display(&[same(80), same(81), same(82), same(90)]),
            "127.0.0.1:80-82->80-82/tcp, 127.0.0.1:90->90/tcp"
        );
        assert_eq!(display(&[port(53, None), port(54, None)]), "53-54/tcp");
        assert_eq!(display(&[]), "");
    }
}
