//! Measures what networks cost: `cargo run --release -p rcompose-engine --example network_bench` as root.
//!
//! It runs in a network namespace of its own. Milliseconds unless it says otherwise.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and shares here are small and positive"
)]

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, setns, unshare};
use rcompose_engine::container::config::{Endpoint, Protocol, PublishedPort};
use rcompose_engine::id::Id;
use rcompose_engine::network::config::NetworkConfig;
use rcompose_engine::network::{Member, Networks, Options, Sandbox};
use rcompose_engine::root::Root;

const CONTAINERS: usize = 50;

fn main() -> outcome::Result {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run())
}

mod outcome {
    /// Whatever goes wrong ends the benchmark.
    pub(crate) type Result = std::result::Result<(), Box<dyn std::error::Error>>;
}

/// A moment: when it was, and how much CPU this process had used by then.
#[derive(Clone, Copy)]
struct Mark(Instant, f64);

impl Mark {
    fn now() -> Self {
        Self(Instant::now(), cpu())
    }

    fn print(self, what: &str, count: usize) {
        let wall = self.0.elapsed().as_secs_f64() * 1e3;
        let spent = (cpu() - self.1) * 1e3;
        let each = count as f64;
        println!("{what:32} {wall:8.2}, {spent:7.1} of CPU; each {:6.2}, {:5.2}", wall / each, spent / each);
    }
}

async fn run() -> outcome::Result {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    handle.link().set(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await?;
    let directory = tempfile::tempdir()?;
    let networks = Networks::open(&Root::below(directory.path()), Options::default()).await?;
    let config = NetworkConfig { name: "bench".into(), enable_ipv4: true, ..NetworkConfig::default() };
    let start = Mark::now();
    networks.ensure(&config).await?;
    start.print("ensure, new network", 1);
    let start = Mark::now();
    networks.ensure(&config).await?;
    start.print("ensure, existing network", 1);

    let start = Mark::now();
    let mut sandboxes = Vec::new();
    for _ in 0..CONTAINERS {
        sandboxes.push(networks.sandbox().await?);
    }
    start.print("sandbox, one after another", CONTAINERS);
    drop(sandboxes);
    settle(&networks).await?;

    let start = Mark::now();
    networks.prepare(CONTAINERS);
    let mut sandboxes = Vec::new();
    for _ in 0..CONTAINERS {
        sandboxes.push(networks.sandbox().await?);
    }
    start.print(&format!("sandbox, {CONTAINERS} at once"), CONTAINERS);
    let start = Mark::now();
    let endpoint = Endpoint { network: "bench".into(), aliases: vec!["web".into()], ..Endpoint::default() };
    let port = PublishedPort { host_ip: None, host_port: None, container_port: 80, protocol: Protocol::Tcp };
    let mut members = Vec::new();
    for (n, sandbox) in sandboxes.iter().enumerate() {
        let member = Member { id: Id::random(), name: format!("bench-{n}"), project: "bench".into(), visible: true };
        networks.join(sandbox, &member, std::slice::from_ref(&endpoint), &[], &[]).await?;
        members.push(member);
    }
    start.print("join", CONTAINERS);

    dns(&networks, &sandboxes).await?;

    let start = Mark::now();
    for member in &members {
        networks.forget(&member.id).await?;
    }
    start.print("forget", CONTAINERS);
    let start = Mark::now();
    drop(sandboxes);
    start.print(&format!("drop {CONTAINERS} sandboxes"), 1);
    settle(&networks).await?;
    start.print("… until their links are gone", 1);

    let start = Mark::now();
    networks.prepare(CONTAINERS);
    let mut running = Vec::new();
    for n in 0..CONTAINERS {
        let networks = networks.clone();
        let (endpoint, port) = (endpoint.clone(), port.clone());
        let member = Member { id: Id::random(), name: format!("bench-{n}"), project: "bench".into(), visible: true };
        running.push(tokio::spawn(async move {
            let sandbox = networks.sandbox().await?;
            let joined = networks.join(&sandbox, &member, &[endpoint], &[port], &[]).await?;
            Ok::<_, rcompose_engine::network::NetworkError>((sandbox, member, joined))
        }));
    }
    let mut all = Vec::new();
    for task in running {
        all.push(task.await??);
    }
    start.print("sandbox, join, publish", CONTAINERS);

    let start = Mark::now();
    for (_, member, _) in &all {
        networks.leave(&member.id).await?;
    }
    for (_, member, _) in &all {
        networks.forget(&member.id).await?;
    }
    drop(all);
    let removal = networks.remove("bench").await?;
    start.print("all of it gone for the user", 1);
    removal.finished().await?;
    start.print("… and the bridge", 1);
    settle(&networks).await?;
    start.print("… and the links", 1);
    Ok(())
}

/// Waits until no port of a bridge is left.
async fn settle(networks: &Networks) -> outcome::Result {
    while networks.census().await?.links.iter().any(|link| link.starts_with("rcv")) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Several clients, each in its own container, with 20 queries outstanding between them.
async fn dns(networks: &Networks, sandboxes: &[Sandbox]) -> outcome::Result {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii("bench-7.")?, RecordType::A));
    let question: Arc<[u8]> = message.to_vec()?.into();
    for clients in [1, 20] {
        let stop = Arc::new(AtomicBool::new(false));
        let outstanding = 20 / clients;
        let before = cpu();
        let start = Instant::now();
        let threads: Vec<_> = sandboxes[..clients]
            .iter()
            .map(|sandbox| {
                let netns = sandbox.netns().try_clone().expect("a descriptor can be copied");
                let (question, stop) = (Arc::clone(&question), Arc::clone(&stop));
                thread::spawn(move || client(netns, &question, outstanding, &stop))
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.store(true, Ordering::Relaxed);
        let mut times: Vec<Duration> = Vec::new();
        let mut client_cpu = 0.0;
        for thread in threads {
            let (mut mine, spent) = tokio::task::spawn_blocking(|| thread.join()).await?.expect("no client panics");
            times.append(&mut mine);
            client_cpu += spent;
        }
        let wall = start.elapsed().as_secs_f64();
        let server_cpu = cpu() - before - client_cpu;
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        let count = times.len() as f64;
        println!(
            "dns, {clients:2} clients, 20 outstanding: {:.1} k/s, p50 {:.2}, p99 {:.2}; server {:.1} µs of CPU per answer \
             = {:.1} k/s per core",
            count / wall / 1e3,
            at(0.5),
            at(0.99),
            server_cpu / count * 1e6,
            count / server_cpu / 1e3,
        );
    }
    let _ = networks;
    Ok(())
}

/// Seconds of CPU that this process, or with `thread` the calling thread, has used.
fn cpu() -> f64 {
    ticks("/proc/self/stat")
}

fn ticks(path: &str) -> f64 {
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    // utime and stime, in hundredths of a second.
    (number(11) + number(12)) / 100.0
}

fn client(netns: std::os::fd::OwnedFd, question: &[u8], outstanding: usize, stop: &AtomicBool) -> (Vec<Duration>, f64) {
    setns(netns, CloneFlags::CLONE_NEWNET).expect("a sandbox can be entered");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket can be bound");
    socket.connect("127.0.0.11:53").expect("the resolver's address is local");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("one second is a time");
    let mut buffer = [0; 512];
    let mut sent: Vec<Instant> = vec![Instant::now(); outstanding];
    let mut times = Vec::new();
    let mut bytes = question.to_vec();
    let mut send = |id: usize, sent: &mut Vec<Instant>| {
        bytes[..2].copy_from_slice(&u16::try_from(id).expect("few are outstanding").to_be_bytes());
        sent[id] = Instant::now();
        socket.send(&bytes).expect("loopback takes it");
    };
    for id in 0..outstanding {
        send(id, &mut sent);
    }
    while !stop.load(Ordering::Relaxed) {
        let length = socket.recv(&mut buffer).expect("no answer is lost");
        assert!(length > question.len(), "an answer has an address");
        let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        times.push(sent[id].elapsed());
        send(id, &mut sent);
    }
    (times, ticks("/proc/thread-self/stat"))
}
