//! How fast the network of containers is: names, published ports, bytes from one to another.
//!
//! Servers and clients are threads of this program inside the containers' network namespaces, so that both sides are
//! asked by the same code and neither's images or `exec` are in the way.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
};

/// How long one measurement takes.
const WHILE: Duration = Duration::from_secs(2);
/// How long the server of a measurement waits for a byte before it looks whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(200);
/// Questions, or connections, at once.
const OUTSTANDING: u16 = 20;
/// The port that is published at 127.0.0.1.
pub(crate) const PUBLISHED: u16 = 38_118;
/// What the two containers sleep for, by which they are known.
const CLIENT: &str = "3101975";
const SERVER: &str = "3101976";

/// Returns a project with a client and a server.
pub(crate) fn project() -> String {
    format!(
        "services:\n  client: {{image: busybox, command: sleep {CLIENT}}}\n  server:\n    image: busybox\n    \
         command: sleep {SERVER}\n    ports: [\"127.0.0.1:{PUBLISHED}:80\"]\n"
    )
}

/// Returns services that have no network, to see by comparison what the network costs.
pub(crate) fn without_network(count: usize) -> String {
    let service = |number| format!("  s{number}: {{image: busybox, command: sleep 100000, network_mode: none}}\n");
    format!("services:\n{}", (0..count).map(service).collect::<Vec<_>>().concat())
}

/// What was measured of one side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    /// Names asked for, each second.
    pub(crate) names: f64,
    /// Of the time for an answer, in milliseconds, what one of a hundred took longer than.
    pub(crate) slow_name: f64,
    /// HTTP requests by the published port, each second.
    pub(crate) requests: f64,
    /// Gbit/s from one container to the other.
    pub(crate) bytes: f64,
}

/// Measures the containers of [`project`], which run.
pub(crate) fn measure() -> anyhow::Result<Speed> {
    let (client, server) = (Namespace::of(CLIENT)?, Namespace::of(SERVER)?);
    let (names, slow_name) = client.run(ask_for_names)?;
    let requests = serving(&server, 80, answer, || request(([127, 0, 0, 1], PUBLISHED).into()))?;
    let address = server.run(|| Ok(SocketAddr::new(address()?, 81)))?;
    let bytes = serving(&server, 81, swallow, || client.run(move || send(address)))?;
    Ok(Speed { names, slow_name, requests, bytes })
}

/// A container's network namespace.
struct Namespace(File);

impl Namespace {
    /// Finds the container that sleeps for so long.
    fn of(seconds: &str) -> anyhow::Result<Self> {
        let pid = compose_tests::process::that_runs(&["sleep", seconds]);
        let pid = pid.with_context(|| format!("no container sleeps for {seconds}"))?;
        Ok(Self(File::open(format!("/proc/{pid}/ns/net"))?))
    }

    /// Runs `work` in a thread inside.
    fn run<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow::anyhow!("a client panicked"))?
    }
}

/// Returns this namespace's own address: the one that a packet to a neighbour would have.
fn address() -> anyhow::Result<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

/// Runs `client` while `server` accepts connections on a port inside a namespace.
fn serving<T>(
    namespace: &Namespace,
    port: u16,
    server: fn(&TcpListener, &AtomicBool) -> anyhow::Result<()>,
    client: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let listener = namespace.run(|| Ok(TcpListener::bind(("0.0.0.0", port))?))?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let serving = thread::spawn(move || server(&listener, &told));
    let measured = client();
    stop.store(true, Ordering::Relaxed);
    serving.join().map_err(|_| anyhow::anyhow!("a server panicked"))??;
    measured
}

/// A question for the address of `server`.
fn question(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 6]);
    message.extend_from_slice(b"server");
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// Asks for a name again and again, with so many questions outstanding; returns how many a second were answered, and
/// the time of the slow ones.
fn ask_for_names() -> anyhow::Result<(f64, f64)> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("127.0.0.11:53")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut asked = [Instant::now(); OUTSTANDING as usize];
    for id in 0..OUTSTANDING {
        asked[usize::from(id)] = Instant::now();
        socket.send(&question(id))?;
    }
    let mut times = Vec::new();
    let mut buffer = [0; 512];
    let started = Instant::now();
    while started.elapsed() < WHILE {
        let length = socket.recv(&mut buffer).context("a question for a name was not answered")?;
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        // One answer, no error.
        if length < 12 || buffer[3] & 15 != 0 || buffer[6..8] != [0, 1] || id >= OUTSTANDING {
            bail!("a name was answered wrongly: {:?}", &buffer[..length]);
        }
        times.push(asked[usize::from(id)].elapsed());
        asked[usize::from(id)] = Instant::now();
        socket.send(&question(id))?;
    }
    let rate = per_second(times.len(), started);
    times.sort();
    Ok((rate, times[times.len() * 99 / 100].as_secs_f64() * 1e3))
}

fn per_second(count: usize, started: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
    let count = count as f64;
    count / started.elapsed().as_secs_f64()
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Waits until one of the connections can be read; returns which.
fn readable(connections: &[TcpStream], patience: Duration) -> anyhow::Result<Vec<usize>> {
    let mut wanted: Vec<PollFd<'_>> =
        connections.iter().map(|connection| PollFd::new(connection.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut wanted, PollTimeout::try_from(patience)?)?;
    let ready = |(index, fd): (usize, &PollFd<'_>)| fd.any().unwrap_or(false).then_some(index);
    Ok(wanted.iter().enumerate().filter_map(ready).collect())
}

/// Answers requests on as many connections as the client opens, from one thread.
fn answer(listener: &TcpListener, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut connections = Vec::new();
    for _ in 0..OUTSTANDING {
        let Some(connection) = accept(listener, stop)? else { return Ok(()) };
        connection.set_nodelay(true)?;
        connections.push(connection);
    }
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        for index in readable(&connections, PATIENCE)? {
            // A request is small enough to come whole. A client that has seen enough has gone.
            if matches!(connections[index].read(&mut buffer), Ok(0) | Err(_)) {
                return Ok(());
            }
            connections[index].write_all(RESPONSE)?;
        }
    }
    Ok(())
}

fn accept(listener: &TcpListener, stop: &AtomicBool) -> anyhow::Result<Option<TcpStream>> {
    listener.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::try_from(PATIENCE)?)?;
        match listener.accept() {
            Ok((connection, _)) => {
                connection.set_nonblocking(false)?;
                connection.set_read_timeout(Some(PATIENCE))?;
                return Ok(Some(connection));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Sends requests over some connections at once; returns how many a second were answered.
fn request(address: SocketAddr) -> anyhow::Result<f64> {
    let mut connections = Vec::new();
    for _ in 0..OUTSTANDING {
        let mut connection = TcpStream::connect(address)?;
        connection.set_nodelay(true)?;
        connection.write_all(REQUEST)?;
        connections.push(connection);
    }
    let mut buffer = [0; 4096];
    let mut count = 0;
    let started = Instant::now();
    while started.elapsed() < WHILE {
        let ready = readable(&connections, WHILE)?;
        if ready.is_empty() {
            bail!("requests to {address} are not answered");
        }
        for index in ready {
            if connections[index].read(&mut buffer)? == 0 {
                bail!("{address} closed a connection");
            }
            connections[index].write_all(REQUEST)?;
            count += 1;
        }
    }
    Ok(per_second(count, started))
}

/// Reads whatever comes and forgets it.
fn swallow(listener: &TcpListener, stop: &AtomicBool) -> anyhow::Result<()> {
    let Some(mut connection) = accept(listener, stop)? else { return Ok(()) };
    let mut buffer = vec![0; 256 << 10];
    while !stop.load(Ordering::Relaxed) {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sends as much as goes through; returns Gbit/s.
fn send(address: SocketAddr) -> anyhow::Result<f64> {
    let mut connection = TcpStream::connect(address)?;
    let block = vec![b'x'; 256 << 10];
    let mut count = 0;
    let started = Instant::now();
    while started.elapsed() < WHILE {
        connection.write_all(&block)?;
        count += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
    let bits = (block.len() * 8) as f64;
    Ok(per_second(count, started) * bits / 1e9)
}
