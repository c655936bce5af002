//! The program of the built-in image `rcompose.local/whoami`: a small HTTP service that tells who and where it is.
//!
//! | path | answer |
//! |---|---|
//! | `/` | host name, addresses, the caller's address and the request, as text |
//! | `/api` | the same as JSON |
//! | `/health` | `ok` |
//! | `/peer/NAME[:PORT]` | what another service says about itself at `/`, asked by name (port 80) |
//!
//! It runs as PID 1 of a container made from scratch, so it needs no file but itself, looks names up without the C
//! library's plugins, and ends at once on SIGTERM (which PID 1 would never see if it did not wait for it).

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rcompose_engine::resolve::Resolver;

/// The port that the service listens on, unless this variable says otherwise.
const PORT_VARIABLE: &str = "WHOAMI_PORT";
const DEFAULT_PORT: u16 = 80;
/// Longest head of a request, in bytes.
const MAX_HEAD: u64 = 32 * 1024;
/// Longest answer of a peer that is passed on, in bytes.
const MAX_PEER: u64 = 64 * 1024;
/// Most connections at once: each has a thread.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may be silent, and a peer may take.
const PATIENCE: Duration = Duration::from_secs(30);
const PEER_PATIENCE: Duration = Duration::from_secs(5);
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);
/// A thread needs little: a request's head and an answer are on the heap.
const STACK: usize = 128 * 1024;

/// Runs the service, or with `--health` asks a running one. `args` are those behind the program's name. Returns the
/// exit code.
pub fn run(args: &[String]) -> i32 {
    let port = match std::env::var(PORT_VARIABLE) {
        Ok(text) => match text.trim().parse() {
            Ok(port) => port,
            Err(_) => return complain(&format!("{PORT_VARIABLE} is {text:?}, which is no port number")),
        },
        Err(_) => DEFAULT_PORT,
    };
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => match serve(port) {
            Ok(()) => 0,
            Err(error) => complain(&format!("cannot listen on port {port}: {error}")),
        },
        ["--health"] => match ask_health(port) {
            Ok(()) => 0,
            Err(error) => complain(&format!("not healthy: {error}")),
        },
        _ => complain("usage: whoami [--health]"),
    }
}

fn complain(message: &str) -> i32 {
    // There is nobody to tell when stderr is gone.
    let _ = writeln!(io::stderr(), "whoami: {message}");
    1
}

/// Serves until SIGTERM or SIGINT comes.
fn serve(port: u16) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Before there is a thread that would take them: threads inherit what is blocked.
    signals.thread_block()?;
    let listener = listen(port)?;
    let _ = writeln!(io::stdout(), "listening on port {}", listener.local_addr()?.port());
    std::thread::Builder::new().name("accept".to_owned()).stack_size(STACK).spawn(move || accept(&listener))?;
    signals.wait()?;
    Ok(())
}

/// Listens on all addresses of both families, or of IPv4 where there is no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        _ => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
    })
}

fn accept(listener: &TcpListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors: connections have to end before another can begin.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let counter = Arc::clone(&open);
        let spawned = std::thread::Builder::new().name("connection".to_owned()).stack_size(STACK).spawn(move || {
            // A client that goes away is no fault of ours.
            let _ = converse(&stream);
            counter.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Answers the requests of one connection.
fn converse(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let remote = stream.peer_addr()?;
    // One socket serves both families; IPv4 callers should see themselves as such.
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let Some(request) = Request::read(&mut reader)? else {
            return Ok(());
        };
        let keep_open = request.keep_open();
        let answer = answer(&request, remote);
        let connection = if keep_open { "keep-alive" } else { "close" };
        let mut bytes = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            answer.status,
            answer.content_type,
            answer.body.len(),
        )
        .into_bytes();
        if request.method != "HEAD" {
            bytes.extend_from_slice(answer.body.as_bytes());
        }
        writer.write_all(&bytes)?;
        if !keep_open {
            return Ok(());
        }
    }
}

/// The head of a request. A body is read and forgotten.
struct Request {
    method: String,
    target: String,
    version: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads a request; a connection that ends before one begins gives `None`.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut head = reader.by_ref().take(MAX_HEAD);
        let line = |head: &mut io::Take<_>| -> io::Result<Option<String>> {
            let mut bytes = Vec::new();
            BufRead::read_until(head, b'\n', &mut bytes)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if !bytes.ends_with(b"\n") {
                return Err(invalid("the head is cut short or too long"));
            }
            Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
        };
        let Some(first) = line(&mut head)? else {
            return Ok(None);
        };
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(invalid("no request line"));
        };
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            headers: Vec::new(),
        };
        loop {
            let line = line(&mut head)?.ok_or_else(|| invalid("the head is cut short"))?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
            request.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        if let Some(length) = request.header("content-length") {
            let length: u64 = length.parse().map_err(|_| invalid("a content length that is no number"))?;
            io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        }
        Ok(Some(request))
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
    }

    fn keep_open(&self) -> bool {
        // A chunked body was not read, so what follows it cannot be found.
        self.header("transfer-encoding").is_none()
            && match self.header("connection") {
                Some(value) if value.eq_ignore_ascii_case("close") => false,
                Some(value) if value.eq_ignore_ascii_case("keep-alive") => true,
                _ => self.version == "HTTP/1.1",
            }
    }
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }
}

fn answer(request: &Request, remote: SocketAddr) -> Answer {
    let path = request.target.split(['?', '#']).next().unwrap_or_default();
    if !matches!(request.method.as_str(), "GET" | "HEAD" | "POST" | "PUT") {
        return Answer::text("405 Method Not Allowed", "only GET, HEAD, POST and PUT are served\n".to_owned());
    }
    match path {
        "/" => Answer::text("200 OK", describe(request, remote)),
        "/api" => Answer {
            status: "200 OK",
            content_type: "application/json",
            body: format!("{}\n", describe_as_json(request, remote)),
        },
        "/health" => Answer::text("200 OK", "ok\n".to_owned()),
        _ => match path.strip_prefix("/peer/") {
            Some(peer) => match ask_peer(peer) {
                Ok(body) => Answer::text("200 OK", body),
                Err(message) => Answer::text("502 Bad Gateway", format!("cannot ask {peer}: {message}\n")),
            },
            None => Answer::text("404 Not Found", "there are /, /api, /health and /peer/NAME\n".to_owned()),
        },
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Returns the addresses of all interfaces that are up.
fn addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        })
        .collect()
}

fn describe(request: &Request, remote: SocketAddr) -> String {
    let mut text = format!("Hostname: {}\n", host_name());
    for address in addresses() {
        writeln!(text, "IP: {address}").expect("writing to a string cannot fail");
    }
    writeln!(text, "RemoteAddr: {remote}").expect("writing to a string cannot fail");
    writeln!(text, "{} {} {}", request.method, request.target, request.version)
        .expect("writing to a string cannot fail");
    for (name, value) in &request.headers {
        writeln!(text, "{name}: {value}").expect("writing to a string cannot fail");
    }
    text
}

fn describe_as_json(request: &Request, remote: SocketAddr) -> serde_json::Value {
    let headers: serde_json::Map<_, _> =
        request.headers.iter().map(|(name, value)| (name.clone(), serde_json::json!(value))).collect();
    serde_json::json!({
        "hostname": host_name(),
        "ip": addresses(),
        "remoteAddr": remote.to_string(),
        "method": request.method,
        "url": request.target,
        "headers": headers,
    })
}

/// Asks another service who it is.
fn ask_peer(peer: &str) -> Result<String, String> {
    let (name, port) = match peer.split_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_| format!("{port:?} is no port number"))?),
        None => (peer, DEFAULT_PORT),
    };
    let addresses = Resolver::default().resolve(name).map_err(|error| error.to_string())?;
    let mut failure = String::new();
    for address in addresses {
        match get(SocketAddr::new(address, port), "/", peer, PEER_PATIENCE) {
            Ok((_, body)) => return Ok(body),
            Err(error) => failure = format!("{address}: {error}"),
        }
    }
    Err(failure)
}

fn ask_health(port: u16) -> io::Result<()> {
    let (status, _) = get((Ipv4Addr::LOCALHOST, port).into(), "/health", "localhost", HEALTH_PATIENCE)?;
    if status == 200 { Ok(()) } else { Err(io::Error::other(format!("it answers {status}"))) }
}

/// Makes one HTTP request and returns the answer's status and body.
fn get(address: SocketAddr, path: &str, host: &str, patience: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(MAX_PEER).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "it does not answer in HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(invalid)?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> u16 {
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || accept(&listener));
        port
    }

    fn ask(port: u16, path: &str) -> (u16, String) {
        get((Ipv4Addr::LOCALHOST, port).into(), path, "here", PEER_PATIENCE).unwrap()
    }

    #[test]
    fn it_tells_who_it_is() {
        let port = start();
        let (status, body) = ask(port, "/");
        assert_eq!(status, 200);
        assert!(body.starts_with(&format!("Hostname: {}\n", host_name())), "{body}");
        assert!(body.contains("IP: 127.0.0.1\n") && body.contains("Host: here\n"), "{body}");
        let (_, body) = ask(port, "/api");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["headers"]["Host"], "here");
        assert_eq!(ask(port, "/health"), (200, "ok\n".to_owned()));
        assert_eq!(ask(port, "/nowhere").0, 404);
    }

    #[test]
    fn it_asks_peers_by_name() {
        let (port, peer) = (start(), start());
        let (status, body) = ask(port, &format!("/peer/localhost:{peer}"));
        assert_eq!(status, 200, "{body}");
        assert!(body.contains(&format!("Host: localhost:{peer}\n")), "{body}");
    }

    #[test]
    fn a_peer_that_cannot_be_asked_is_a_bad_gateway() {
        let port = start();
        let (status, body) = ask(port, "/peer/127.0.0.1:1");
        assert_eq!(status, 502);
        assert!(body.contains("127.0.0.1"), "{body}");
        assert_eq!(ask(port, "/peer/..").0, 502);
        assert_eq!(ask(port, "/peer/x:y").0, 502);
    }

    #[test]
    fn connections_are_kept_and_bodies_passed_over() {
        let port = start();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
        assert!(text.ends_with("ok\n"), "{text}");
    }

    #[test]
    fn health_is_what_the_service_says() {
        let port = start();
        assert!(ask_health(port).is_ok());
        // Free a moment ago; nobody listens there.
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(ask_health(closed).is_err());
    }

    #[test]
    fn endless_heads_end_the_connection() {
        let port = start();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000));
        // The other side may close before all of it is written.
        let _ = stream.write_all(long.as_bytes());
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}
