//! Published ports.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rcompose_engine::container::config::{Protocol, PublishedPort};
use rcompose_engine::network::config::NetworkConfig;

use crate::host::{NEVER, SOON, ask, ask_udp, network, on, on_host, publish, within};

fn first(said: &str) -> &str {
    said.split(' ').next().unwrap_or_default()
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let ports = [publish(None, Some(8080), 80), publish(None, None, 80)];
        let a = host.container("a", &[on("n", &[])], &ports).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        a.serve(80, "a");
        let bound: Vec<String> =
            a.joined.ports.iter().map(|p| SocketAddr::new(p.host_ip, p.host_port).to_string()).collect();
        assert_eq!(&bound[..2], ["0.0.0.0:8080", "[::]:8080"]);
        let ephemeral = a.joined.ports[2].host_port;
        assert_eq!(a.joined.ports[3].host_port, ephemeral);
        for address in ["127.0.0.1:8080", "192.0.2.1:8080", "[::1]:8080", "[2001:db8::1]:8080"] {
            let said = ask(address.parse().unwrap(), SOON).unwrap_or_else(|error| panic!("{address}: {error}"));
            assert_eq!(first(&said), "a", "{address}");
        }
        assert_eq!(first(&ask(([127, 0, 0, 1], ephemeral).into(), SOON).unwrap()), "a");
        // The client's address is kept.
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");
        assert_eq!(first(&lan.ask("[2001:db8::1]:8080", SOON).unwrap()), "a");
        // From beside it, and from itself.
        for container in [&b, &a] {
            for address in ["192.0.2.1".parse().unwrap(), container.gateway()] {
                assert_eq!(first(&container.ask(SocketAddr::new(address, 8080), SOON).unwrap()), "a");
            }
        }
        assert!(lan.ask(&a.address(80).to_string(), NEVER).is_err());
        host.networks.leave(&a.member.id).await.unwrap();
        assert!(lan.ask("192.0.2.1:8080", NEVER).is_err());
        // What a shim keeps goes with it; of ours nothing is left.
        drop(a);
        std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
    });
}

#[test]
fn udp_ports_and_one_address() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let udp = |ip: Option<&str>, port| PublishedPort { protocol: Protocol::Udp, ..publish(ip, Some(port), 53) };
        let ports = [udp(None, 5300), udp(Some("192.0.2.1"), 5301), publish(Some("192.0.2.1"), Some(8080), 80)];
        let a = host.container("a", &[on("n", &[])], &ports).await.unwrap();
        a.serve_udp(53, "a");
        a.serve(80, "a");
        assert_eq!(a.joined.ports.len(), 4);
        for address in ["127.0.0.1:5300", "192.0.2.1:5300", "[::1]:5300", "192.0.2.1:5301"] {
            assert_eq!(first(&ask_udp(address.parse().unwrap(), SOON).unwrap()), "a", "{address}");
        }
        let from_lan = |address: &str| {
            let address = address.parse().unwrap();
            lan.run(move || ask_udp(address, NEVER))
        };
        assert!(from_lan("192.0.2.1:5300").unwrap().starts_with("a 192.0.2.2:"));
        assert!(from_lan("[2001:db8::1]:5300").is_ok());
        assert!(from_lan("192.0.2.1:5301").is_ok());
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");
        assert!(ask("127.0.0.1:8080".parse().unwrap(), NEVER).is_err());
    });
}

/// Waits for one of these events.
fn ready(fd: &impl AsFd, events: PollFlags) -> i32 {
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    poll(&mut fds, PollTimeout::try_from(SOON).unwrap()).unwrap()
}

#[test]
fn sctp_ports() {
    use nix::sys::socket::{Backlog, SockaddrIn, accept, bind, connect, getpeername, listen, recv, send};

    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let port = PublishedPort { protocol: Protocol::Sctp, ..publish(Some("192.0.2.1"), Some(9999), 80) };
        let a = host.container("a", &[on("n", &[])], std::slice::from_ref(&port)).await.unwrap();
        assert_eq!((a.joined.ports[0].protocol, a.joined.ports[0].host_port), (Protocol::Sctp, 9999));
        assert_eq!(host.networks.census().await.unwrap().ports, 1);
        if rcompose_engine::sys::net::sctp_socket(false).is_err() {
            println!("skipped: this kernel has no SCTP");
            return;
        }
        let at = |address: &str| SockaddrIn::from(address.parse::<std::net::SocketAddrV4>().unwrap());
        let open = || rcompose_engine::sys::net::sctp_socket(false).unwrap();
        let listening = within(a.sandbox.netns(), move || {
            let socket = open();
            bind(socket.as_raw_fd(), &at("0.0.0.0:80")).unwrap();
            listen(&socket, Backlog::new(1).unwrap()).unwrap();
            socket
        });
        let client = lan.run(move || {
            let socket = open();
            // The sockets of the engine do not wait.
            let connected = connect(socket.as_raw_fd(), &at("192.0.2.1:9999"));
            assert!(matches!(connected, Ok(()) | Err(nix::errno::Errno::EINPROGRESS)), "{connected:?}");
            assert_eq!(ready(&socket, PollFlags::POLLOUT), 1);
            send(socket.as_raw_fd(), b"x", nix::sys::socket::MsgFlags::empty()).unwrap();
            socket
        });
        assert_eq!(ready(&listening, PollFlags::POLLIN), 1);
        let accepted = accept(listening.as_raw_fd()).unwrap();
        assert_eq!(getpeername::<SockaddrIn>(accepted).unwrap().ip().to_string(), "192.0.2.2");
        let mut byte = [0];
        assert_eq!(recv(accepted, &mut byte, nix::sys::socket::MsgFlags::empty()).unwrap(), 1);
        drop(client);
    });
}

#[test]
fn a_taken_port_names_its_holder() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let a = host.container("shop-web-1", &[on("n", &[])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let taken = host.container("b", &[on("n", &[])], &[publish(None, Some(8080), 80)]).await.unwrap_err();
        assert_eq!(
            taken.to_string(),
            "port 0.0.0.0:8080/tcp is already in use by container shop-web-1 of project test; the next free port is 8081"
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:9090").unwrap();
        let taken = host.container("b", &[on("n", &[])], &[publish(None, Some(9090), 80)]).await.unwrap_err();
        let process = format!("port 0.0.0.0:9090/tcp is already in use by process {} (", std::process::id());
        assert!(taken.to_string().starts_with(&process), "{taken}");
        drop(listener);
        // Nothing of the failed attempts is left.
        let b = host.container("b", &[on("n", &[])], &[publish(None, Some(9090), 80)]).await.unwrap();
        assert_eq!(u32::from(b.ip()), u32::from(a.ip()) + 1);
        // Several containers share a range.
        let range = PublishedPort { host_port: Some((8080, 8082)), ..publish(None, None, 80) };
        let c = host.container("c", &[on("n", &[])], std::slice::from_ref(&range)).await.unwrap();
        let d = host.container("d", &[on("n", &[])], std::slice::from_ref(&range)).await.unwrap();
        assert_eq!((c.joined.ports[0].host_port, d.joined.ports[0].host_port), (8081, 8082));
        let full = host.container("e", &[on("n", &[])], &[range]).await.unwrap_err().to_string();
        assert!(
            full.starts_with(
                "none of the ports 8080-8082 of 0.0.0.0/tcp is free: the first is in use by container shop-web-1"
            ),
            "{full}"
        );
    });
}

#[test]
fn a_container_with_ipv6_is_reached_by_the_kernel_alone() {
    on_host(async |host| {
        host.networks.ensure(&NetworkConfig { enable_ipv6: true, ..network("n") }).await.unwrap();
        let lan = host.lan().await;
        let a = host.container("a", &[on("n", &[])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        a.serve(80, "a");
        let six = a.endpoint().ipv6.unwrap().0;
        assert_eq!(first(&b.ask((six, 80).into(), SOON).unwrap()), "a");
        assert_eq!(lan.ask("[2001:db8::1]:8080", SOON).unwrap(), "a 2001:db8::2");
        assert_eq!(first(&ask("[::1]:8080".parse().unwrap(), SOON).unwrap()), "a");
        assert_eq!(first(&ask("[2001:db8::1]:8080".parse().unwrap(), SOON).unwrap()), "a");
        let gateway = a.endpoint().ipv6_gateway.unwrap();
        assert_eq!(first(&b.ask((gateway, 8080).into(), SOON).unwrap()), "a");
        let inside = within(a.sandbox.netns(), || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
        assert!(inside.contains("eth0"), "{inside}");
    });
}

#[test]
fn a_udp_client_that_keeps_sending_reaches_the_next_container() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let port = PublishedPort { protocol: Protocol::Udp, ..publish(None, Some(5300), 53) };
        let client = lan.run(|| {
            let socket = std::net::UdpSocket::bind("192.0.2.2:4444").unwrap();
            socket.connect("192.0.2.1:5300").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
            socket
        });
        // Answers to earlier questions may still come.
        let ask = |wanted: &str| {
            let deadline = std::time::Instant::now() + SOON;
            let mut buffer = [0; 64];
            loop {
                client.send(b"?").unwrap();
                if let Ok(length) = client.recv(&mut buffer)
                    && String::from_utf8_lossy(&buffer[..length]) == wanted
                {
                    return;
                }
                assert!(std::time::Instant::now() < deadline, "{wanted} does not answer");
            }
        };
        let old = host.container("old", &[on("n", &[])], std::slice::from_ref(&port)).await.unwrap();
        old.serve_udp(53, "old");
        ask("old 192.0.2.2:4444");
        host.networks.leave(&old.member.id).await.unwrap();
        drop(old);
        let new = host.container("new", &[on("n", &[])], &[port]).await.unwrap();
        new.serve_udp(53, "new");
        ask("new 192.0.2.2:4444");
    });
}
