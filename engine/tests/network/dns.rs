//! The resolver at 127.0.0.11, asked as a container asks it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rcompose_engine::network::Options;
use rcompose_engine::network::config::NetworkConfig;

use crate::host::{SOON, network, on, on_host, with_options, within};

pub(crate) const A: RecordType = RecordType::A;

#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) code: ResponseCode,
    pub(crate) addresses: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) truncated: bool,
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn read(bytes: &[u8]) -> Answers {
    let message = Message::from_vec(bytes).unwrap();
    let mut answers = Answers {
        code: message.metadata.response_code,
        addresses: Vec::new(),
        names: Vec::new(),
        truncated: message.metadata.truncation,
    };
    for record in &message.answers {
        match &record.data {
            RData::A(a) => answers.addresses.push(a.0.to_string()),
            RData::AAAA(a) => answers.addresses.push(a.0.to_string()),
            RData::PTR(name) => answers.names.push(name.0.to_string()),
            other => answers.names.push(other.to_string()),
        }
    }
    answers
}

/// Asks by UDP inside a namespace.
pub(crate) async fn query(netns: impl AsFd, name: &str, kind: RecordType) -> Answers {
    read(&ask(netns, question(name, kind)).await)
}

async fn ask(netns: impl AsFd, question: Vec<u8>) -> Vec<u8> {
    let netns = netns.as_fd().try_clone_to_owned().unwrap();
    let ask = move || {
        within(netns, move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
            socket.connect("127.0.0.11:53").unwrap();
            socket.send(&question).unwrap();
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        })
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

async fn query_tcp(netns: impl AsFd, name: &str, kind: RecordType) -> Answers {
    let question = question(name, kind);
    let netns = netns.as_fd().try_clone_to_owned().unwrap();
    let ask = move || {
        within(netns, move || {
            let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
            stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&question).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            answer
        })
    };
    read(&tokio::task::spawn_blocking(ask).await.unwrap())
}

#[test]
fn names_of_containers() {
    on_host(async |host| {
        host.networks.ensure(&network("shop_default")).await.unwrap();
        let web1 = host.container("shop-web-1", &[on("shop_default", &["web"])], &[]).await.unwrap();
        let web2 = host.container("shop-web-2", &[on("shop_default", &["web"])], &[]).await.unwrap();
        let netns = web1.sandbox.netns();
        let (one, two) = (web1.ip().to_string(), web2.ip().to_string());
        let mut firsts = Vec::new();
        for _ in 0..2 {
            let answers = query(netns, "WEB", A).await;
            assert_eq!(answers.code, ResponseCode::NoError);
            assert_eq!(answers.addresses.len(), 2);
            firsts.push(answers.addresses[0].clone());
        }
        firsts.sort();
        assert_eq!(firsts, [one.clone(), two.clone()]);
        assert_eq!(query_tcp(netns, "shop-web-2", A).await.addresses, [two.as_str()]);
        assert_eq!(query(netns, "shop-web-2.shop_default.", A).await.addresses, [two.as_str()]);
        assert_eq!(query(netns, web2.member.id.short(), A).await.addresses, [two.as_str()]);
        let none = query(netns, "web", RecordType::AAAA).await;
        assert_eq!((none.code, none.addresses.len()), (ResponseCode::NoError, 0));
        let o = web2.ip().octets();
        let reverse = format!("{}.{}.{}.{}.in-addr.arpa.", o[3], o[2], o[1], o[0]);
        assert_eq!(query(netns, &reverse, RecordType::PTR).await.names, ["shop-web-2.shop_default."]);
        // A name with a port says where all of them are, each by its own name.
        let located = query(netns, "_8080._tcp.web", RecordType::SRV).await;
        let mut targets = located.names.clone();
        targets.sort();
        assert_eq!(targets, ["0 0 8080 shop-web-1.shop_default.", "0 0 8080 shop-web-2.shop_default."]);
        assert_eq!(query(netns, "_http._tcp.web", RecordType::SRV).await.code, ResponseCode::NXDomain);
        assert_eq!(query(netns, "_8080._tcp.web", A).await.code, ResponseCode::NoError);
        // One that is out of service, and one that has ended.
        host.networks.set_visible(&web2.member.id, false).await.unwrap();
        assert_eq!(query(netns, "web", A).await.addresses, [one.as_str()]);
        host.networks.set_visible(&web2.member.id, true).await.unwrap();
        host.networks.leave(&web2.member.id).await.unwrap();
        assert_eq!(query(netns, "web", A).await.addresses, [one.as_str()]);
        assert_eq!(query(netns, "shop-web-2", A).await.code, ResponseCode::NXDomain);
    });
}

#[test]
fn a_name_server_of_the_containers_own() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let a = host.container("a", &[on("n", &[])], &[]).await.unwrap();
        let own = within(a.sandbox.netns(), || {
            let tcp = std::net::TcpListener::bind("0.0.0.0:53").unwrap();
            (UdpSocket::bind("0.0.0.0:53").unwrap(), tcp)
        });
        assert_eq!(query(a.sandbox.netns(), "a", A).await.addresses, [a.ip().to_string()]);
        assert_eq!(query_tcp(a.sandbox.netns(), "a", A).await.addresses, [a.ip().to_string()]);
        let client = within(a.sandbox.netns(), || UdpSocket::bind("0.0.0.0:0").unwrap());
        client.send_to(b"own", "127.0.0.1:53").unwrap();
        let mut buffer = [0; 8];
        own.0.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        assert_eq!(own.0.recv(&mut buffer).unwrap(), 3);
    });
}

#[test]
fn a_container_sees_other_projects_of_a_shared_network_and_no_other_network() {
    on_host(async |host| {
        for name in ["shared", "private"] {
            host.networks.ensure(&network(name)).await.unwrap();
        }
        let other = host.another().await;
        let a = host.container("a", &[on("shared", &[])], &[]).await.unwrap();
        let hidden = host.container("hidden", &[on("private", &[])], &[]).await.unwrap();
        let member = rcompose_engine::network::Member {
            id: rcompose_engine::id::Id::random(),
            name: "b".into(),
            project: "other".into(),
            visible: true,
        };
        let sandbox = other.sandbox().await.unwrap();
        let joined = other.join(&sandbox, &member, &[on("shared", &["api"])], &[], &[]).await.unwrap();
        assert_ne!(joined.endpoints[0].ipv4.unwrap().0, a.ip());
        let address = joined.endpoints[0].ipv4.unwrap().0.to_string();
        let deadline = std::time::Instant::now() + SOON;
        while query(a.sandbox.netns(), "api", A).await.addresses != [address.clone()] {
            assert!(std::time::Instant::now() < deadline);
        }
        assert_eq!(query(&sandbox.netns(), "a", A).await.addresses, [a.ip().to_string()]);
        assert_eq!(query(&sandbox.netns(), "hidden", A).await.addresses, [""; 0]);
        assert_eq!(query(hidden.sandbox.netns(), "hidden", A).await.addresses.len(), 1);
    });
}

/// Answers every question of type A with 203.0.113.9, and counts in the last byte whether it came by TCP.
async fn upstream() -> IpAddr {
    let address: IpAddr = "127.5.5.5".parse().unwrap();
    let socket = tokio::net::UdpSocket::bind(SocketAddr::new(address, 53)).await.unwrap();
    let listener = tokio::net::TcpListener::bind(SocketAddr::new(address, 53)).await.unwrap();
    let answer = |bytes: &[u8], tcp: bool| {
        let query = Message::from_vec(bytes).unwrap();
        let asked = query.queries[0].clone();
        let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_query(asked.clone());
        let name = asked.name().to_ascii();
        if name.starts_with("large.") && !tcp {
            message.metadata.truncation = true;
        } else if asked.query_type() == A {
            // What the client says of itself arrives as it was said, and so does what is said to it.
            let edns = query.edns.filter(|edns| edns.max_payload() == 1232 && edns.flags().dnssec_ok);
            let last = if edns.is_some() {
                11
            } else if tcp {
                10
            } else {
                9
            };
            message.edns = edns;
            let data = RData::A(std::net::Ipv4Addr::new(203, 0, 113, last).into());
            message.add_answer(hickory_proto::rr::Record::from_rdata(asked.name().clone(), 60, data));
        }
        message.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&answer(&buffer[..length], false), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.unwrap();
            let reply = answer(&bytes, true);
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    address
}

#[test]
fn the_rest_of_the_world() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 127.6.6.6\nnameserver 127.5.5.5\n").unwrap();
    let options = Options { resolv_conf: path, ..Options::default() };
    with_options(options, async |host| {
        let address = upstream().await;
        host.networks.ensure(&network("n")).await.unwrap();
        host.networks.ensure(&NetworkConfig { internal: true, ..network("inner") }).await.unwrap();
        host.networks.reserve_names(["db".to_owned()]);
        let a = host.container("a", &[on("n", &[])], &[]).await.unwrap();
        let netns = a.sandbox.netns();
        // The first resolver is down.
        assert_eq!(query(netns, "example.org", A).await.addresses, ["203.0.113.9"]);
        assert_eq!(query(netns, "intranet", A).await.addresses, ["203.0.113.9"]);
        let mut extended = Message::from_vec(&question("edns.example.org", A)).unwrap();
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(1232).set_dnssec_ok(true);
        extended.edns = Some(edns);
        let bytes = ask(netns, extended.to_vec().unwrap()).await;
        assert_eq!(read(&bytes).addresses, ["203.0.113.11"]);
        assert!(Message::from_vec(&bytes).unwrap().edns.is_some_and(|edns| edns.flags().dnssec_ok));
        assert_eq!(query(netns, "example.org", RecordType::MX).await.code, ResponseCode::NoError);
        assert_eq!(query(netns, "db", A).await.code, ResponseCode::NXDomain);
        assert!(query(netns, "large.example.org", A).await.truncated);
        assert_eq!(query_tcp(netns, "large.example.org", A).await.addresses, ["203.0.113.10"]);
        let inner = host.container("b", &[on("inner", &[])], &[]).await.unwrap();
        assert_eq!(query(inner.sandbox.netns(), "example.org", A).await.code, ResponseCode::Refused);
        assert_eq!(query(inner.sandbox.netns(), "b", A).await.addresses.len(), 1);
        // A container with resolvers of its own.
        let member = rcompose_engine::network::Member {
            id: rcompose_engine::id::Id::random(),
            name: "c".into(),
            project: "test".into(),
            visible: true,
        };
        let sandbox = host.networks.sandbox().await.unwrap();
        host.networks.join(&sandbox, &member, &[on("n", &[])], &[], &[address]).await.unwrap();
        assert_eq!(query(sandbox.netns(), "example.org", A).await.addresses, ["203.0.113.9"]);
        drop(directory);
    });
}

#[test]
fn changes_of_membership_lose_no_query() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let a = host.container("a", &[on("n", &["web"])], &[]).await.unwrap();
        let b = host.container("b", &[on("n", &["web"])], &[]).await.unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (netns, stopped) = (a.sandbox.netns().try_clone().unwrap(), std::sync::Arc::clone(&stop));
        let (asked, own) = (question("web", A), a.ip().to_string());
        let client = std::thread::spawn(move || {
            within(netns, move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.connect("127.0.0.11:53").unwrap();
                let (mut count, mut changed, mut buffer) = (0, 0, [0; 512]);
                while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    socket.send(&asked).unwrap();
                    let length = socket.recv(&mut buffer).unwrap();
                    let answers = read(&buffer[..length]);
                    assert!(answers.addresses.contains(&own), "{answers:?}");
                    count += 1;
                    changed += usize::from(answers.addresses.len() == 1);
                }
                (count, changed)
            })
        });
        for n in 0..1000 {
            host.networks.set_visible(&b.member.id, n % 2 == 1).await.unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (count, changed) = client.join().unwrap();
        assert!(count > 100 && changed > 0, "{count} {changed}");
    });
}

/// Messages that are none, loops of compressed names, answers that nobody asked for, and connections that say nothing: whoever
/// sends them, others are answered as before.
#[test]
fn hostile_messages_harm_nobody() {
    let header = |flags: u16, questions: u16| {
        let mut message = vec![0x12, 0x67];
        message.extend_from_slice(&flags.to_be_bytes());
        message.extend_from_slice(&questions.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
        message
    };
    let asking = |name: &[u8]| [&header(0x0100, 1)[..], name, &[0, 1, 0, 1]].concat();
    let mut messages = vec![
        Vec::new(),
        vec![0],
        vec![0; 12],
        vec![0xff; 12],
        vec![0xff; 60_000],
        header(0x0100, u16::MAX),
        [header(0x0100, 1), vec![63]].concat(),
        // A name that is itself, one that leads to the next and back, one that leads behind the end, and odd labels.
        asking(&[0xc0, 12]),
        asking(&[1, b'a', 0xc0, 12]),
        asking(&[0xc0, 14, 0xc0, 12]),
        asking(&[0xff, 0xff]),
        asking(&[0x40, 1]),
        asking(&[0x80]),
        asking(&[[1, b'a'].repeat(2_000), vec![0]].concat()),
        // What a program that prints it would obey, and what looks like a name of ours.
        asking(b"\x04\x1b]0;\x00"),
        asking(b"\x03w\x00b\x00"),
        question("web", A),
    ];
    // An answer, an update, a status request.
    messages.extend([0x8180, 0x2800, 0x1000, 0x7800].map(|flags| [header(flags, 1), vec![0, 0, 1, 0, 1]].concat()));
    let shortened = (0..question("web", A).len()).map(|length| question("web", A)[..length].to_vec());
    messages.extend(shortened.collect::<Vec<_>>());
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let a = host.container("a", &[on("n", &[])], &[]).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        let (netns, other) = (a.sandbox.netns().try_clone().unwrap(), b.ip());
        let attack = move || {
            within(netns, move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let mut held = Vec::new();
                for message in &messages {
                    socket.send_to(message, "127.0.0.11:53").unwrap();
                    let mut stream = TcpStream::connect("127.0.0.11:53").unwrap();
                    // Once as it is, and once with a length that never comes.
                    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
                    let length = if held.len().is_multiple_of(2) { length } else { u16::MAX };
                    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).ok();
                    held.push(stream);
                }
                for _ in 0..200 {
                    held.push(TcpStream::connect("127.0.0.11:53").unwrap());
                }
                // The resolver of another container is nobody's on the network.
                let foreign = UdpSocket::bind("0.0.0.0:0").unwrap();
                foreign.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                foreign.connect((other, 53)).unwrap();
                foreign.send(&question("a", A)).unwrap();
                assert!(foreign.recv(&mut [0; 512]).is_err(), "another container's resolver answered");
                held
            })
        };
        let held = tokio::task::spawn_blocking(attack).await.unwrap();
        for netns in [a.sandbox.netns(), b.sandbox.netns()] {
            assert_eq!(query(netns, "b", A).await.addresses, [b.ip().to_string()]);
            assert_eq!(query_tcp(netns, "a", A).await.addresses, [a.ip().to_string()]);
        }
        drop(held);
    });
}
