//! The few kinds of URL that registries use: `http` and `https` with a host, a port and a path.

use std::fmt;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An absolute URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    /// A name, an IPv4 address, or an IPv6 address in brackets; lower case.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query; starts with a slash.
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // What stands before an @ would be sent as credentials by some clients and as a host by others.
        if authority.contains('@') {
            return None;
        }
        let port_at = match authority.rfind(']') {
            Some(bracket) => authority[bracket..].find(':').map(|colon| bracket + colon),
            None => authority.find(':'),
        };
        let (host, port) = match port_at {
            Some(at) => (&authority[..at], authority[at + 1..].parse().ok()?),
            None => (authority, scheme.default_port()),
        };
        let is_host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        if !is_host {
            return None;
        }
        let path = path.split('#').next().unwrap_or_default();
        if path.bytes().any(|b| b <= b' ' || b >= 0x7f) {
            return None;
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { scheme, host: host.to_ascii_lowercase(), port, path })
    }

    /// Returns the URL of a path below this one.
    pub(crate) fn join(&self, path: &str) -> Self {
        let base = self.path.trim_end_matches('/');
        Self { path: format!("{base}/{path}"), ..self.clone() }
    }

    /// Returns the URL that a `Location` header means.
    pub(crate) fn follow(&self, location: &str) -> Option<Self> {
        if location.contains("://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme.as_str()));
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let directory = self.path.split('?').next()?.rsplit_once('/')?.0;
            format!("{directory}/{location}")
        };
        Self::parse(&format!("{}://{}{path}", self.scheme.as_str(), self.authority()))
    }

    /// Adds a parameter to the query.
    pub(crate) fn with_query(mut self, key: &str, value: &str) -> Self {
        use fmt::Write as _;
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(key);
        self.path.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/:,".contains(&byte) {
                self.path.push(char::from(byte));
            } else {
                write!(self.path, "%{byte:02X}").expect("writing to a string cannot fail");
            }
        }
        self
    }

    /// Returns `host`, or `host:port` where the port is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Tells whether both are of one scheme, host and port.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }

    /// Returns the URL up to the query, which may hold secrets.
    pub(crate) fn without_query(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", self.scheme.as_str(), self.authority())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.path.ends_with('/') || self.path.contains('?') { "" } else { "/" };
        write!(formatter, "{}://{}{}{slash}", self.scheme.as_str(), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_parse_or_are_refused() {
        let url = Url::parse("HTTPS://Host.Test:8443/a/b?c=d#e").unwrap();
        assert_eq!(
            (url.scheme, url.host.as_str(), url.port, url.path.as_str()),
            (Scheme::Https, "host.test", 8443, "/a/b?c=d")
        );
        assert_eq!(Url::parse("http://[::1]:5000").unwrap().authority(), "[::1]:5000");
        for text in [
            "",
            "host",
            "ftp://h/",
            "http://",
            "http://u:p@h/",
            "http://h:x/",
            "http://h:99999/",
            "http://[::g]/",
            "http://h/a b",
            "http://h/\n",
            "http://ho st/",
        ] {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }

    #[test]
    fn redirects_are_followed_as_rfc_3986_says() {
        let base = Url::parse("https://h.test/v2/a/blobs/x?y=z").unwrap();
        let follow = |location: &str| base.follow(location).unwrap().to_string();
        assert_eq!(follow("/b?c=d"), "https://h.test/b?c=d");
        assert_eq!(follow("z"), "https://h.test/v2/a/blobs/z/");
        assert_eq!(follow("//cdn.test/z?q"), "https://cdn.test/z?q");
        assert_eq!(follow("http://o.test:81/?q"), "http://o.test:81/?q");
        assert_eq!(base.follow("file:///etc/passwd"), None);
        assert_eq!(Url::parse("https://h/t").unwrap().with_query("scope", "a b&c").path, "/t?scope=a%20b%26c");
    }
}
