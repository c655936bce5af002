//! `/etc/hosts` and `/etc/resolv.conf` of containers, and what is read out of the host's.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::sandbox::RESOLVER;
use crate::container::state::EndpointState;

/// The address in `extra_hosts` that stands for the host as the container reaches it.
pub const HOST_GATEWAY: &str = "host-gateway";

/// A `resolv.conf(5)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a file. What is not understood is left out, as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A link-local server may carry a zone, which a container's namespace would not know.
                    conf.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                // The last one counts.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }

    /// Reads the host's file; an absent one is empty.
    pub fn of_host() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    /// Returns how long a query may take: `options timeout:`, 5 seconds unless told, at most 30 (`resolv.conf(5)`).
    pub fn timeout(&self) -> Duration {
        let seconds = self.options.iter().rev().find_map(|option| option.strip_prefix("timeout:")?.parse().ok());
        Duration::from_secs(seconds.unwrap_or(5).clamp(1, 30))
    }

    /// Returns the file's text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// Returns the `/etc/resolv.conf` of a container on networks: our resolver, and the host's search domains and options
/// unless the container has its own.
///
/// `ndots:0` makes the C library ask for a name as it is before it appends search domains, as in Docker: a service's
/// name has no dot.
pub fn resolv_conf(host: &ResolvConf, search: &[String], options: &[String]) -> String {
    // A single dot is how Docker spells "none".
    let own: Vec<String> = search.iter().filter(|domain| *domain != ".").cloned().collect();
    let mut conf = ResolvConf {
        nameservers: vec![IpAddr::V4(RESOLVER)],
        search: if search.is_empty() { host.search.clone() } else { own },
        options: if options.is_empty() { host.options.clone() } else { options.to_vec() },
    };
    if !conf.options.iter().any(|option| option.starts_with("ndots:")) {
        conf.options.push("ndots:0".into());
    }
    conf.render()
}

/// Returns the `/etc/resolv.conf` of a container without networks of ours (`network_mode: host` or `none`).
pub fn resolv_conf_of_host(host: &ResolvConf, dns: &[IpAddr], search: &[String], options: &[String]) -> String {
    let own = |ours: &[String], theirs: &[String]| if ours.is_empty() { theirs.to_vec() } else { ours.to_vec() };
    let nameservers = if dns.is_empty() { host.nameservers.clone() } else { dns.to_vec() };
    ResolvConf { nameservers, search: own(search, &host.search), options: own(options, &host.options) }.render()
}

/// An entry of `extra_hosts` whose address is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` of extra host {name} is not an address")]
pub struct InvalidHost {
    pub name: String,
    pub address: String,
}

/// Returns the `/etc/hosts` of a container: loopback names, `extra_hosts`, and its own name with its addresses.
///
/// `gateway` is what `host-gateway` stands for.
pub fn hosts(
    hostname: &str,
    domainname: Option<&str>,
    endpoints: &[EndpointState],
    extra: &[(String, String)],
    gateway: Option<IpAddr>,
) -> Result<String, InvalidHost> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        let invalid = || InvalidHost { name: name.clone(), address: address.clone() };
        let address = match address.as_str() {
            HOST_GATEWAY => gateway.ok_or_else(invalid)?,
            address => address.trim_matches(['[', ']']).parse().map_err(|_| invalid())?,
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
    let full = domainname.filter(|domain| !domain.is_empty()).map(|domain| format!("{hostname}.{domain} {hostname}"));
    let names = full.as_deref().unwrap_or(hostname);
    for endpoint in endpoints {
        let v4 = endpoint.ipv4.map(|(address, _)| IpAddr::V4(address));
        let v6 = endpoint.ipv6.map(|(address, _)| IpAddr::V6(address));
        for address in v4.into_iter().chain(v6) {
            let _ = writeln!(text, "{address}\t{names}");
        }
    }
    // Without a network the own name must resolve all the same; Debian's convention.
    if endpoints.is_empty() {
        let _ = writeln!(text, "127.0.1.1\t{names}");
    }
    Ok(text)
}

/// Where the host's resolvers are written down.
pub(crate) fn host_path() -> &'static Path {
    Path::new("/etc/resolv.conf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_takes_search_and_options_from_the_host() {
        let host = ResolvConf::parse(
            "# made by hand\nnameserver 192.168.1.1 ; router\nnameserver fe80::1%eth0\nsearch corp.example lan\n\
             options edns0 timeout:2\nbogus line\n",
        );
        assert_eq!(host.nameservers, ["192.168.1.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(host.timeout(), Duration::from_secs(2));
        assert_eq!(
            resolv_conf(&host, &[], &[]),
            "nameserver 127.0.0.11\nsearch corp.example lan\noptions edns0 timeout:2 ndots:0\n"
        );
        assert_eq!(resolv_conf(&host, &[".".into()], &["ndots:2".into()]), "nameserver 127.0.0.11\noptions ndots:2\n");
        assert_eq!(
            resolv_conf_of_host(&host, &["9.9.9.9".parse().unwrap()], &[], &[]),
            "nameserver 9.9.9.9\nsearch corp.example lan\noptions edns0 timeout:2\n"
        );
    }

    #[test]
    fn hosts_name_the_container_and_extra_hosts() {
        let extra = [
            ("host.docker.internal".to_owned(), "host-gateway".to_owned()),
            ("six".to_owned(), "[fd00::9]".to_owned()),
        ];
        let text = hosts("web", Some("example.org"), &[], &extra, Some("172.24.1.1".parse().unwrap())).unwrap();
        assert!(
            text.ends_with("172.24.1.1\thost.docker.internal\nfd00::9\tsix\n127.0.1.1\tweb.example.org web\n"),
            "{text}"
        );
        let bad = [("x".to_owned(), "300.1.1.1".to_owned())];
        assert_eq!(
            hosts("web", None, &[], &bad, None).unwrap_err().to_string(),
            "`300.1.1.1` of extra host x is not an address"
        );
    }
}
