//! Resolves host names without the C library.
//!
//! A static binary must not call `getaddrinfo`: it would load the host's NSS plugins into a program that was built
//! against another C library. So this reads `/etc/hosts` and `/etc/resolv.conf` itself and asks the name servers for A
//! and AAAA records, by UDP and, for long answers, by TCP (RFC 1035). It blocks; async callers use a thread.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// What the resolver's manual page allows at most.
const MAX_NAMESERVERS: usize = 3;
/// Longest hosts file or configuration that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Where names are looked up.
#[derive(Debug, Clone)]
pub struct Resolver {
    hosts: PathBuf,
    configuration: PathBuf,
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It cannot be a host name.
    #[error("invalid host name {0:?}")]
    Name(String),
    /// The name servers say that it has none.
    #[error("no such host {0}")]
    NotFound(String),
    /// No name server gave an answer.
    #[error("cannot resolve {name}: {source}")]
    NoAnswer {
        /// The name.
        name: String,
        /// What the last name server did.
        #[source]
        source: io::Error,
    },
}

/// What `/etc/resolv.conf` says (resolv.conf(5)).
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

impl Resolver {
    /// Uses these two files.
    pub fn new(hosts: PathBuf, configuration: PathBuf) -> Self {
        Self { hosts, configuration }
    }

    /// Returns the addresses of a name or of an address in digits; never an empty list.
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        check_name(name)?;
        let wanted = name.trim_end_matches('.').to_ascii_lowercase();
        let found = addresses_in_hosts(&read_bounded(&self.hosts), &wanted);
        if !found.is_empty() {
            return Ok(found);
        }
        // RFC 6761, section 6.3.
        if wanted == "localhost" || wanted.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let configuration = Configuration::parse(&read_bounded(&self.configuration));
        let absolute = name.ends_with('.');
        let dots = wanted.matches('.').count();
        let mut candidates: Vec<String> = Vec::new();
        if !absolute {
            candidates = configuration.search.iter().map(|suffix| format!("{wanted}.{suffix}")).collect();
        }
        if absolute || dots >= configuration.ndots {
            candidates.insert(0, wanted.clone());
        } else {
            candidates.push(wanted.clone());
        }
        let mut failure = None;
        for candidate in candidates {
            match configuration.query(&candidate) {
                Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(match failure {
            Some(source) => ResolveError::NoAnswer { name: name.to_owned(), source },
            None => ResolveError::NotFound(name.to_owned()),
        })
    }
}

fn read_bounded(path: &Path) -> String {
    // A host without the file is one with an empty file.
    let mut content = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut content);
    }
    String::from_utf8_lossy(&content).into_owned()
}

fn check_name(name: &str) -> Result<(), ResolveError> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let valid = !bare.is_empty()
        && bare.len() <= 253
        && bare.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    if valid { Ok(()) } else { Err(ResolveError::Name(name.chars().take(80).collect())) }
}

fn addresses_in_hosts(hosts: &str, wanted: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|word| word.eq_ignore_ascii_case(wanted)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

impl Configuration {
    fn parse(text: &str) -> Self {
        let mut configuration = Self {
            nameservers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone ("fe80::1%eth0") is beyond what an IpAddr holds; such servers are passed over.
                    if let Some(Ok(address)) = words.next().map(str::parse)
                        && configuration.nameservers.len() < MAX_NAMESERVERS
                    {
                        configuration.nameservers.push(address);
                    }
                }
                Some("search" | "domain") => {
                    configuration.search = words
                        .map(|word| word.trim_end_matches('.').to_owned())
                        .filter(|word| !word.is_empty())
                        .collect();
                }
                Some("options") => {
                    for option in words {
                        let Some((name, Ok(value))) = option.split_once(':').map(|(name, v)| (name, v.parse::<u32>()))
                        else {
                            continue;
                        };
                        match name {
                            "ndots" => configuration.ndots = value.min(15) as usize,
                            "timeout" => configuration.timeout = Duration::from_secs(value.clamp(1, 30).into()),
                            "attempts" => configuration.attempts = value.clamp(1, 5),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if configuration.nameservers.is_empty() {
            configuration.nameservers.push(Ipv4Addr::LOCALHOST.into());
        }
        configuration
    }

    /// Asks the name servers in turn. An empty list means that the name has no address.
    fn query(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut failure = io::Error::other("there is no name server");
        for _ in 0..self.attempts {
            for server in &self.nameservers {
                match query_server(SocketAddr::new(*server, 53), name, self.timeout) {
                    Ok(addresses) => return Ok(addresses),
                    Err(error) => {
                        failure = io::Error::new(error.kind(), format!("name server {server}: {error}"));
                    }
                }
            }
        }
        Err(failure)
    }
}

/// Asks one name server for both kinds of address at once.
fn query_server(server: SocketAddr, name: &str, timeout: Duration) -> io::Result<Vec<IpAddr>> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    // Connected, so that only the server's datagrams arrive, and its "port unreachable" as well.
    socket.connect(server)?;
    let mut random = [0; 4];
    crate::sys::random(&mut random);
    let first = u16::from_be_bytes([random[0], random[1]]);
    let second = match u16::from_be_bytes([random[2], random[3]]) {
        id if id == first => id.wrapping_add(1),
        id => id,
    };
    let mut outstanding = vec![(first, TYPE_A), (second, TYPE_AAAA)];
    for (id, kind) in &outstanding {
        socket.send(&encode(*id, name, *kind))?;
    }
    let deadline = Instant::now() + timeout;
    let mut addresses = Vec::new();
    let mut failure = None;
    let mut buffer = [0; 4096];
    while !outstanding.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            failure = Some(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let message = &buffer[..length];
        let Some(position) = outstanding.iter().position(|(id, kind)| is_answer_to(message, &encode(*id, name, *kind)))
        else {
            // A stray or forged datagram.
            continue;
        };
        let (id, kind) = outstanding.swap_remove(position);
        let answer = if message[2] & 0x02 == 0 {
            decode(message, kind)
        } else {
            // Truncated.
            query_tcp(server, &encode(id, name, kind), kind, left)
        };
        match answer {
            Ok(mut found) => addresses.append(&mut found),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        // One kind is enough to connect.
        Some(error) if addresses.is_empty() => Err(error),
        _ => {
            // IPv4 first: where both are there but only one works, it is that one.
            addresses.sort_by_key(IpAddr::is_ipv6);
            addresses.dedup();
            Ok(addresses)
        }
    }
}

fn query_tcp(server: SocketAddr, query: &[u8], kind: u16, timeout: Duration) -> io::Result<Vec<IpAddr>> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let length = u16::try_from(query.len()).expect("a query is short");
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    if !is_answer_to(&message, query) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"));
    }
    decode(&message, kind)
}

/// Encodes a question; the name has been checked.
fn encode(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(name.len() + 18);
    message.extend_from_slice(&id.to_be_bytes());
    // Recursion desired; one question.
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message
}

/// Tells whether a message answers a query: the same id, and the same question.
fn is_answer_to(message: &[u8], query: &[u8]) -> bool {
    message.len() >= query.len()
        && message[..2] == query[..2]
        && message[2] & 0x80 != 0
        && message[4..6] == [0, 1]
        && message[12..query.len()].eq_ignore_ascii_case(&query[12..])
}

/// Reads the addresses of an answer. A name that does not exist, or has none of this kind, gives none.
fn decode(message: &[u8], kind: u16) -> io::Result<Vec<IpAddr>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a malformed answer");
    match message.get(3).ok_or_else(malformed)? & 0x0f {
        0 => {}
        3 => return Ok(Vec::new()),
        2 => return Err(io::Error::other("it reports a server failure")),
        5 => return Err(io::Error::other("it refuses")),
        code => return Err(io::Error::other(format!("it reports error {code}"))),
    }
    let short = |at: usize| -> io::Result<u16> {
        let bytes = message.get(at..at + 2).ok_or_else(malformed)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let answers = short(6)?;
    let mut at = skip_name(message, 12).ok_or_else(malformed)? + 4;
    let mut addresses = Vec::new();
    for _ in 0..answers {
        at = skip_name(message, at).ok_or_else(malformed)?;
        let (record, class, length) = (short(at)?, short(at + 2)?, usize::from(short(at + 8)?));
        let data = message.get(at + 10..at + 10 + length).ok_or_else(malformed)?;
        if record == kind && class == CLASS_IN {
            // Whoever follows aliases for us puts the addresses at their end into the same answer.
            if let Ok(octets) = <[u8; 4]>::try_from(data) {
                addresses.push(Ipv4Addr::from(octets).into());
            } else if let Ok(octets) = <[u8; 16]>::try_from(data) {
                addresses.push(Ipv6Addr::from(octets).into());
            }
        }
        at += 10 + length;
    }
    Ok(addresses)
}

/// Returns the position behind a name, which may end in a pointer.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_hosts_need_no_server() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n10.1.2.3\tDB db.internal # comment other\nfe80::1 db\nbad line\n")
            .unwrap();
        let resolver = Resolver::new(hosts, directory.path().join("none"));
        let check = |name: &str, expected: &[&str]| {
            let found: Vec<String> = resolver.resolve(name).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name}");
        };
        check("192.0.2.7", &["192.0.2.7"]);
        check("[::1]", &["::1"]);
        check("db", &["10.1.2.3", "fe80::1"]);
        check("db.internal.", &["10.1.2.3"]);
        check("localhost", &["127.0.0.1"]);
        check("x.localhost", &["127.0.0.1", "::1"]);
        for name in ["", ".", "a..b", "a b", "a/b", &"x".repeat(64)] {
            assert!(matches!(resolver.resolve(name), Err(ResolveError::Name(_))), "{name}");
        }
    }

    #[test]
    fn the_configuration_is_read_as_the_manual_says() {
        let text = "# c\nnameserver 127.0.0.11\nnameserver ::1\nsearch a.test b.test.\noptions ndots:0 timeout:2 attempts:9 edns0\n";
        let configuration = Configuration::parse(text);
        assert_eq!(configuration.nameservers, ["127.0.0.11".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert_eq!(configuration.search, ["a.test", "b.test"]);
        assert_eq!((configuration.ndots, configuration.timeout.as_secs(), configuration.attempts), (0, 2, 5));
    }

    #[test]
    fn a_server_is_asked_and_strays_are_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            for _ in 0..2 {
                let mut buffer = [0; 512];
                let (length, peer) = server.recv_from(&mut buffer).unwrap();
                let query = buffer[..length].to_vec();
                let mut forged = query.clone();
                forged[0] ^= 0xff;
                forged[2] |= 0x80;
                server.send_to(&forged, peer).unwrap();
                let mut answer = query.clone();
                answer[2] |= 0x80;
                let is_a = query[length - 3] == 1;
                if is_a {
                    answer[7] = 2;
                    // An alias, then an address.
                    answer.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
                    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 9]);
                }
                server.send_to(&answer, peer).unwrap();
            }
        });
        let found = query_server(address, "web.test", Duration::from_secs(5)).unwrap();
        assert_eq!(found, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        thread.join().unwrap();
    }

    #[test]
    fn malformed_answers_are_errors_and_not_panics() {
        let mut message = encode(7, "a.test", TYPE_A);
        message[2] |= 0x80;
        message[7] = 1;
        for tail in [&[][..], &[0xc0], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0xff, 0xff], &[0x40, 1]] {
            let message = [&message[..], tail].concat();
            assert!(decode(&message, TYPE_A).is_err(), "{tail:?}");
        }
        for length in 0..message.len() {
            let _ = decode(&message[..length], TYPE_A);
            let _ = is_answer_to(&message[..length], &message);
        }
    }
}
