//! Questions about the rest of the world: passed on to the host's resolvers.
//!
//! They are asked from the host's namespace, so that a resolver at the host's 127.0.0.53 or behind its VPN answers
//! containers as it answers the host, and the query goes on as the container wrote it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::network::files::ResolvConf;

/// Queries that wait for an answer from outside at once. More than that is a container that asks in a loop while the
/// upstream is down; it is told to try again.
const OUTSTANDING: usize = 1024;
/// How long the next resolver, or the next attempt, is held back while one has not answered.
const STAGGER: Duration = Duration::from_millis(300);
/// How long the only resolver gets before it is asked again.
const AGAIN: Duration = Duration::from_millis(1500);
const HEADER: usize = 12;

/// The resolvers of the host.
#[derive(Debug)]
pub(crate) struct Forwarder {
    path: PathBuf,
    host: Mutex<Option<(SystemTime, Arc<Upstream>)>>,
    outstanding: Arc<Semaphore>,
}

/// Whom to ask, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) servers: Vec<SocketAddr>,
    /// `options timeout:` of `resolv.conf(5)`.
    pub(crate) timeout: Duration,
}

impl Upstream {
    pub(crate) fn new(servers: &[IpAddr], timeout: Duration) -> Self {
        Self { servers: servers.iter().map(|address| SocketAddr::new(*address, 53)).collect(), timeout }
    }
}

impl Forwarder {
    /// Forwards to what `path` (`/etc/resolv.conf`) names at the time of each query.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, host: Mutex::new(None), outstanding: Arc::new(Semaphore::new(OUTSTANDING)) }
    }

    /// Returns the host's resolvers, read again if the file changed.
    fn host(&self) -> Arc<Upstream> {
        let changed = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, upstream)) = host.as_ref()
            && *known == changed
        {
            return Arc::clone(upstream);
        }
        let upstream = Arc::new(read(&self.path));
        *host = Some((changed, Arc::clone(&upstream)));
        upstream
    }

    /// Asks the given resolvers, or the host's where none is given, and returns the answer as it came.
    pub(crate) async fn ask(&self, query: &[u8], own: Option<&Upstream>, tcp: bool) -> Option<Vec<u8>> {
        let _permit = self.outstanding.try_acquire().ok()?;
        let host;
        let upstream = if let Some(own) = own {
            own
        } else {
            host = self.host();
            &host
        };
        race(query, upstream, tcp).await
    }
}

fn read(path: &Path) -> Upstream {
    let conf = ResolvConf::parse(&std::fs::read_to_string(path).unwrap_or_default());
    // The same as the C library does without a file: ask this host.
    let servers = if conf.nameservers.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { conf.nameservers.clone() };
    Upstream::new(&servers, conf.timeout())
}

/// Asks one resolver after another, without waiting long for any; the first good answer counts. Where none is good,
/// the first bad one (a server's failure or refusal) is better than none.
async fn race(query: &[u8], upstream: &Upstream, tcp: bool) -> Option<Vec<u8>> {
    let query: Arc<[u8]> = query.into();
    let deadline = Instant::now() + upstream.timeout;
    let stagger = if upstream.servers.len() > 1 { STAGGER } else { AGAIN };
    let mut order = upstream.servers.iter().chain(&upstream.servers).copied();
    let mut asked: JoinSet<Option<Vec<u8>>> = JoinSet::new();
    let mut bad = None;
    let mut next = Instant::now();
    let mut left = true;
    loop {
        tokio::select! {
            () = sleep_until(next), if left => {
                match order.next() {
                    Some(server) => {
                        let query = Arc::clone(&query);
                        let rest = deadline.saturating_duration_since(Instant::now());
                        asked.spawn(async move { timeout(rest, ask(server, &query, tcp)).await.ok()?.ok() });
                        next = Instant::now() + stagger;
                    }
                    None => left = false,
                }
            }
            Some(answer) = asked.join_next(), if !asked.is_empty() => {
                match answer.ok().flatten() {
                    // Response codes 2 and 5: the server failed, or refuses.
                    Some(answer) if matches!(answer[3] & 15, 2 | 5) => bad = bad.or(Some(answer)),
                    Some(answer) => return Some(answer),
                    None => {}
                }
                // There is no point in holding the next one back any longer.
                next = Instant::now();
            }
            () = sleep_until(deadline) => return bad,
            else => return bad,
        }
        if !left && asked.is_empty() {
            return bad;
        }
    }
}

/// Asks one resolver. Every query has a socket, and so a source port, of its own.
async fn ask(server: SocketAddr, query: &[u8], tcp: bool) -> std::io::Result<Vec<u8>> {
    if tcp {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        return if matches(query, &answer) { Ok(answer) } else { Err(std::io::ErrorKind::InvalidData.into()) };
    }
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if matches(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

/// Returns whether this can be the answer: same id, a response, same question.
fn matches(query: &[u8], answer: &[u8]) -> bool {
    if query.len() < HEADER || answer.len() < HEADER || query[..2] != answer[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    let Some(end) = question_end(query) else { return false };
    // A server that could not read the question may leave it out.
    let (asked, echoed) = (&query[HEADER..end], answer.get(HEADER..end));
    (answer[4..6] == [0, 0] && answer[3] & 15 != 0) || echoed.is_some_and(|echoed| echoed.eq_ignore_ascii_case(asked))
}

/// Where the first question ends: after its labels, type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return (at + 5 <= message.len()).then_some(at + 5);
        }
        // A question of a query has nothing before it that it could point to.
        if length > 63 {
            return None;
        }
        at += 1 + length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(id: u16) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 3, b'o', b'r', b'g', 0, 0, 1, 0, 1]);
        bytes
    }

    fn answer_to(query: &[u8], code: u8) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer[3] |= code;
        answer
    }

    #[test]
    fn a_forged_answer_is_not_an_answer() {
        let query = query(7);
        assert!(matches(&query, &answer_to(&query, 0)));
        assert!(!matches(&query, &query));
        let mut other = answer_to(&query, 0);
        other[1] ^= 1;
        assert!(!matches(&query, &other));
        let mut other = answer_to(&query, 0);
        other[13] = b'b';
        assert!(!matches(&query, &other));
        assert!(!matches(&query, &[]));
    }

    /// A resolver that answers with `code`, or never.
    async fn resolver(code: Option<u8>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(code) = code {
                    socket.send_to(&answer_to(&buffer[..length], code), from).await.unwrap();
                }
            }
        });
        address
    }

    async fn ask_all(codes: &[Option<u8>]) -> Option<u8> {
        let mut servers = Vec::new();
        for code in codes {
            servers.push(resolver(*code).await);
        }
        let upstream = Upstream { servers, timeout: Duration::from_secs(3) };
        race(&query(9), &upstream, false).await.map(|answer| answer[3] & 15)
    }

    #[tokio::test]
    async fn a_resolver_that_is_down_or_fails_does_not_matter_while_another_works() {
        assert_eq!(ask_all(&[None, Some(0)]).await, Some(0));
        assert_eq!(ask_all(&[Some(2), Some(0)]).await, Some(0));
        assert_eq!(ask_all(&[Some(5), Some(3)]).await, Some(3));
        assert_eq!(ask_all(&[Some(2)]).await, Some(2));
        assert_eq!(ask_all(&[None]).await, None);
        assert_eq!(ask_all(&[]).await, None);
    }
}
