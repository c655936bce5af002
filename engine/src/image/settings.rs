//! The registries file: mirrors, certificates and proxies, per registry.
//!
//! ```json
//! {
//!   "registries": {
//!     "docker.io": { "mirrors": ["127.0.0.1:5000", "https://mirror.internal/hub"], "mirrors_only": false },
//!     "registry.internal": { "ca": "/etc/ssl/internal.pem" },
//!     "old.internal:5000": { "insecure": true }
//!   },
//!   "proxy": { "http": "http://proxy:3128", "https": "http://proxy:3128", "no_proxy": "localhost,.internal" }
//! }
//! ```
//!
//! A registry is named as in image references, with its port if it has one. Mirrors are tried in order before the
//! registry itself; one without a scheme is asked by the rules for a registry of that name. Plain HTTP is spoken only
//! with registries on this machine and with those marked `insecure` (for them TLS without verification is tried first).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;
use serde::Deserialize;

use super::reference::DEFAULT_REGISTRY;
use super::url::{Scheme, Url};

/// Where the images of `docker.io` really are.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// How registries are to be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// Settings by registry, named as in references.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Proxies for all registries.
    pub proxy: ProxySettings,
}

/// Settings of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Registries to ask first: `host[:port]`, or a URL with or without a path.
    pub mirrors: Vec<String>,
    /// Never ask the registry itself.
    pub mirrors_only: bool,
    /// Accept any certificate, and plain HTTP.
    pub insecure: bool,
    /// A PEM file with certificates of authorities to believe beside the system's.
    pub ca: Option<PathBuf>,
}

/// Proxies, as the usual environment variables have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxySettings {
    /// For registries with plain HTTP.
    pub http: Option<String>,
    /// For registries with HTTPS.
    pub https: Option<String>,
    /// Hosts that are reached directly: names, domains (`.internal`), addresses, `*`; separated by commas.
    pub no_proxy: String,
}

/// Why the registries file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("cannot read the registries file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not of the documented form.
    #[error("the registries file {} is invalid: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// A proxy is none that can be spoken to.
    #[error("the proxy {address:?} cannot be used: http://[user:password@]host:port is expected")]
    Proxy {
        /// The proxy, without its password.
        address: String,
    },
    /// An address in it is none.
    #[error("the registries file has an invalid address {address:?}")]
    Address {
        /// The offending text.
        address: String,
    },
}

/// One place to ask for the images of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Scheme, host, port and, for mirrors, the path before `/v2/`.
    pub(crate) base: Url,
    /// The name that credentials are kept under.
    pub(crate) registry: String,
    /// The certificate is not verified.
    pub(crate) insecure: bool,
    /// It is asked for what another registry has.
    pub(crate) is_mirror: bool,
    /// It is the one before it, without TLS: only to be asked when that cannot be reached.
    pub(crate) is_fallback: bool,
}

impl RegistrySettings {
    /// Reads the file. That it does not exist is an error; see [`RegistrySettings::from_file_if_there`].
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let content = fs::read(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        let settings: Self = serde_json::from_slice(&content)
            .map_err(|source| SettingsError::Parse { path: path.to_owned(), source })?;
        settings.check()?;
        Ok(settings)
    }

    /// Reads the file, or returns the defaults if there is none.
    pub fn from_file_if_there(path: &Path) -> Result<Self, SettingsError> {
        match Self::from_file(path) {
            Err(SettingsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            result => result,
        }
    }

    fn check(&self) -> Result<(), SettingsError> {
        for registry in self.registries.keys() {
            self.endpoints(registry)?;
        }
        for proxy in [&self.proxy.http, &self.proxy.https].into_iter().flatten() {
            Proxy::parse(proxy)?;
        }
        Ok(())
    }

    /// Returns the places to ask for images of a registry, in order.
    pub(crate) fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, SettingsError> {
        let mut endpoints = Vec::new();
        let config = self.registries.get(registry);
        for mirror in config.map(|config| config.mirrors.as_slice()).unwrap_or_default() {
            self.add_endpoints(&mut endpoints, mirror, true)?;
        }
        if !config.is_some_and(|config| config.mirrors_only) {
            let mut own = Vec::new();
            let host = if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
            self.add_endpoints(&mut own, host, false)?;
            for endpoint in &mut own {
                registry.clone_into(&mut endpoint.registry);
            }
            endpoints.append(&mut own);
        }
        Ok(endpoints)
    }

    fn add_endpoints(
        &self,
        endpoints: &mut Vec<Endpoint>,
        address: &str,
        is_mirror: bool,
    ) -> Result<(), SettingsError> {
        let has_scheme = address.contains("://");
        let mut base = parse_address(address, Scheme::Https)?;
        let registry = if has_scheme || base.path != "/" { base.authority() } else { address.to_owned() };
        let config = self.registries.get(&registry);
        let insecure = config.is_some_and(|config| config.insecure);
        let has_ca = config.is_some_and(|config| config.ca.is_some());
        let mut add = |base: Url, is_fallback: bool| {
            endpoints.push(Endpoint { base, registry: registry.clone(), insecure, is_mirror, is_fallback });
        };
        let mut is_fallback = false;
        if !has_scheme {
            if is_loopback(&base.host) && !has_ca && !insecure {
                base = parse_address(address, Scheme::Http)?;
            } else if insecure {
                add(base, false);
                base = parse_address(address, Scheme::Http)?;
                is_fallback = true;
            }
        }
        add(base, is_fallback);
        Ok(())
    }

    /// Returns the certificates to believe for a host, and whether to verify at all.
    pub(crate) fn tls(&self, url: &Url) -> (Option<&Path>, bool) {
        let config = self.registries.get(&url.authority()).or_else(|| {
            // The default port may be written out or not.
            self.registries.get(&format!("{}:{}", url.host, url.port))
        });
        config.map_or((None, false), |config| (config.ca.as_deref(), config.insecure))
    }

    /// Returns the proxy to use for a URL.
    pub(crate) fn proxy(&self, url: &Url) -> Option<Proxy> {
        let proxy = match url.scheme {
            Scheme::Http => self.proxy.http.as_deref(),
            Scheme::Https => self.proxy.https.as_deref(),
        };
        let proxy = proxy.filter(|proxy| !proxy.is_empty())?;
        if is_loopback(&url.host) || self.proxy.excludes(&url.host) {
            return None;
        }
        Proxy::parse(proxy).ok()
    }
}

/// A proxy, spoken to over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Where it is.
    pub(crate) url: Url,
    /// What it wants to be convinced by (`Proxy-Authorization`).
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Reads `[http://][user[:password]@]host[:port]`; user and password may have percent escapes.
    fn parse(text: &str) -> Result<Self, SettingsError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let authority = rest.split('/').next().unwrap_or(rest);
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        // Without its password.
        let invalid = || SettingsError::Proxy { address: format!("{scheme}://{host}") };
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(invalid());
        }
        let url = Url::parse(&format!("http://{host}")).ok_or_else(invalid)?;
        let authorization = match user {
            None => None,
            Some(user) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                let decoded = unescape(name).zip(unescape(password)).ok_or_else(invalid)?;
                let mut value = super::authorize::basic(&decoded.0, &decoded.1);
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { url, authorization })
    }
}

/// Resolves percent escapes (RFC 3986, section 2.1).
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first == b'%' {
            let digits = std::str::from_utf8(others.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &others[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

impl ProxySettings {
    /// Takes what the file does not say from the usual variables of the environment, in capitals or not.
    pub fn fill_from(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), SettingsError> {
        let either = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
            value.filter(|value| !value.is_empty())
        };
        for (field, name) in [(&mut self.http, "HTTP_PROXY"), (&mut self.https, "HTTPS_PROXY")] {
            if field.is_none() {
                *field = either(name);
                if let Some(proxy) = field {
                    Proxy::parse(proxy)?;
                }
            }
        }
        if self.no_proxy.is_empty() {
            self.no_proxy = either("NO_PROXY").unwrap_or_default();
        }
        Ok(())
    }

    fn excludes(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>().ok();
        self.no_proxy.split([',', ' ']).filter(|rule| !rule.is_empty()).any(|rule| {
            if let (Some((network, bits)), Some(address)) = (rule.split_once('/'), address) {
                return is_within(address, network, bits);
            }
            let rule =
                rule.split_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(rule, |(host, _)| host);
            let domain = rule.trim_start_matches("*.").trim_start_matches('.');
            rule == "*"
                || host.eq_ignore_ascii_case(domain)
                || host.len().checked_sub(domain.len() + 1).is_some_and(|at| {
                    host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(&format!(".{domain}"))
                })
        })
    }
}

/// Tells whether an address is of a network, such as `10.0.0.0/8`.
fn is_within(address: IpAddr, network: &str, bits: &str) -> bool {
    let bits = bits.parse::<u32>().ok();
    match (address, network.parse(), bits) {
        (IpAddr::V4(address), Ok(IpAddr::V4(network)), Some(bits @ 0..=32)) => {
            (u32::from(address) ^ u32::from(network)).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(network)), Some(bits @ 0..=128)) => {
            (u128::from(address) ^ u128::from(network)).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn parse_address(address: &str, default: Scheme) -> Result<Url, SettingsError> {
    let invalid = || SettingsError::Address { address: address.to_owned() };
    let text = if address.contains("://") { address.to_owned() } else { format!("{}://{address}", default.as_str()) };
    Url::parse(&text).ok_or_else(invalid)
}

/// Tells whether a host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> RegistrySettings {
        let settings: RegistrySettings = serde_json::from_str(json).unwrap();
        settings.check().unwrap();
        settings
    }

    fn check(settings: &RegistrySettings, registry: &str, expected: &[&str]) {
        let endpoints = settings.endpoints(registry).unwrap();
        let found: Vec<String> =
            endpoints.iter().map(|e| format!("{}{}", e.base, if e.insecure { " insecure" } else { "" })).collect();
        assert_eq!(found, expected, "{registry}");
    }

    #[test]
    fn defaults_follow_the_host() {
        let none = RegistrySettings::default();
        check(&none, "docker.io", &["https://registry-1.docker.io/"]);
        check(&none, "ghcr.io", &["https://ghcr.io/"]);
        check(&none, "localhost:5000", &["http://localhost:5000/"]);
        check(&none, "127.5.0.1", &["http://127.5.0.1/"]);
        check(&none, "[::1]:5000", &["http://[::1]:5000/"]);
        check(&none, "10.0.0.1:5000", &["https://10.0.0.1:5000/"]);
    }

    #[test]
    fn mirrors_come_first() {
        let settings = settings(
            r#"{"registries": {
                "docker.io": {"mirrors": ["127.0.0.1:5000", "https://m.test/hub", "old.test"]},
                "only.test": {"mirrors": ["http://m.test"], "mirrors_only": true},
                "old.test": {"insecure": true},
                "localhost:5443": {"ca": "/ca.pem"}
            }}"#,
        );
        check(
            &settings,
            "docker.io",
            &[
                "http://127.0.0.1:5000/",
                "https://m.test/hub/",
                "https://old.test/ insecure",
                "http://old.test/ insecure",
                "https://registry-1.docker.io/",
            ],
        );
        check(&settings, "only.test", &["http://m.test/"]);
        check(&settings, "localhost:5443", &["https://localhost:5443/"]);
        assert_eq!(settings.endpoints("docker.io").unwrap().pop().unwrap().registry, "docker.io");
        let url = Url::parse("https://localhost:5443/v2/").unwrap();
        assert_eq!(settings.tls(&url).0, Some(Path::new("/ca.pem")));
    }

    #[test]
    fn mistakes_are_errors() {
        for json in [r#"{"registry": {}}"#, r#"{"registries": {"a": {"mirror": []}}}"#] {
            assert!(serde_json::from_str::<RegistrySettings>(json).is_err(), "{json}");
        }
        for json in [r#"{"registries": {"a": {"mirrors": ["ftp://x"]}}}"#, r#"{"proxy": {"http": "http://"}}"#] {
            assert!(serde_json::from_str::<RegistrySettings>(json).unwrap().check().is_err(), "{json}");
        }
    }

    #[test]
    fn proxies_spare_what_they_are_told() {
        let settings = settings(
            r#"{"proxy": {"https": "proxy.test:3128", "no_proxy": "a.test, .b.test,10.0.0.1:443,10.9.0.0/16,fd00::/8"}}"#,
        );
        let proxied = |url: &str| settings.proxy(&Url::parse(url).unwrap()).is_some();
        assert!(proxied("https://c.test/"));
        assert!(proxied("https://xa.test/"));
        assert!(!proxied("http://c.test/"));
        assert!(proxied("https://10.10.0.1/"));
        assert!(!proxied("https://10.9.255.1/") && !proxied("https://[fd12::1]/"));
        for url in
            ["https://a.test/", "https://x.b.test/", "https://10.0.0.1/", "https://127.0.0.1:5000/", "https://[::1]/"]
        {
            assert!(!proxied(url), "{url}");
        }
    }

    #[test]
    fn proxies_come_from_the_environment_where_the_file_says_nothing() {
        let variables = |name: &str| match name {
            "https_proxy" => Some("http://me:p%40ss@proxy.test:3128/".to_owned()),
            "HTTP_PROXY" => Some("other.test:80".to_owned()),
            "NO_PROXY" => Some("a.test".to_owned()),
            _ => None,
        };
        let mut settings = settings(r#"{"proxy": {"http": "proxy.test:8080"}}"#);
        settings.proxy.fill_from(variables).unwrap();
        let proxy = |url: &str| settings.proxy(&Url::parse(url).unwrap());
        assert_eq!(proxy("http://b.test/").unwrap().url.authority(), "proxy.test:8080");
        assert_eq!(proxy("https://a.test/"), None);
        let https = proxy("https://b.test/").unwrap();
        assert_eq!(https.url.authority(), "proxy.test:3128");
        assert_eq!(https.authorization.unwrap(), super::super::authorize::basic("me", "p@ss"));
        for bad in ["socks5://proxy.test", "https://proxy.test", "http://", "http://u:%zz@proxy.test"] {
            let error = ProxySettings::default().fill_from(|_| Some(bad.to_owned())).unwrap_err().to_string();
            assert!(error.contains("cannot be used"), "{error}");
        }
    }
}
