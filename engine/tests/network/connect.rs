//! A running container is connected and disconnected.

use std::net::SocketAddr;

use rcompose_engine::container::config::Endpoint;
use rcompose_engine::network::config::NetworkConfig;

use crate::dns::{A, query};
use crate::host::{Container, NEVER, SOON, ask, network, on, on_host, publish, within};

/// The interface of the default route, as the container's kernel has it.
fn way(container: &Container) -> String {
    let routes = within(container.sandbox.netns(), || std::fs::read_to_string("/proc/thread-self/net/route").unwrap());
    let mut ways = routes.lines().map(|line| line.split('\t').collect::<Vec<_>>()).filter(|line| line[1] == "00000000");
    let way = ways.next().map_or_else(String::new, |line| line[0].to_owned());
    assert!(ways.next().is_none(), "{routes}");
    way
}

#[test]
fn names_and_addresses_follow() {
    on_host(async |host| {
        for name in ["a", "b"] {
            host.networks.ensure(&network(name)).await.unwrap();
        }
        let endpoint = on("a", &[]);
        let one = host.container("one", std::slice::from_ref(&endpoint), &[]).await.unwrap();
        let two = host.container("two", &[on("b", &["db"])], &[]).await.unwrap();
        two.serve(80, "two");
        assert!(one.ask(two.address(80), NEVER).is_err());
        let links = [("mine".to_owned(), vec!["db".to_owned()])].into();
        let other = Endpoint { links, ..on("b", &["alias"]) };
        let joined = host.networks.connect(&one.member, std::slice::from_ref(&endpoint), &other, &[]).await.unwrap();
        let state = &joined.endpoints[1];
        assert_eq!((state.interface.as_str(), state.default_route), ("eth1", false));
        assert_eq!(one.ask(two.address(80), SOON).unwrap(), format!("two {}", state.ipv4.unwrap().0));
        for name in ["db", "mine", "mine.b"] {
            assert_eq!(query(one.sandbox.netns(), name, A).await.addresses, [two.ip().to_string()], "{name}");
        }
        assert_eq!(query(two.sandbox.netns(), "alias", A).await.addresses.len(), 1);
        let left = host.networks.disconnect(&one.member, std::slice::from_ref(&endpoint), "b", &[]).await.unwrap();
        assert_eq!(left.endpoints.len(), 1);
        assert!(one.ask(two.address(80), NEVER).is_err());
        assert_eq!(query(one.sandbox.netns(), "db", A).await.addresses.len(), 0);
        let error = host.networks.disconnect(&one.member, &[endpoint], "b", &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "the container is not connected to network b");
    });
}

#[test]
fn the_default_route_and_published_ports_follow_the_priority() {
    on_host(async |host| {
        let lan = host.lan().await;
        for name in ["m", "n"] {
            host.networks.ensure(&network(name)).await.unwrap();
        }
        host.networks.ensure(&NetworkConfig { internal: true, ..network("inner") }).await.unwrap();
        let ports = [publish(None, Some(8080), 80)];
        // On an internal network alone nothing is published.
        let inner = on("inner", &[]);
        let one = host.container("one", std::slice::from_ref(&inner), &ports).await.unwrap();
        one.serve(80, "one");
        assert!(one.joined.ports.is_empty());
        assert_eq!(way(&one), "");
        let port: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let reached = || {
            assert_eq!(ask(port, SOON).unwrap().split(' ').next(), Some("one"));
            assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "one 192.0.2.2");
        };

        let low = on("n", &[]);
        let joined = host.networks.connect(&one.member, std::slice::from_ref(&inner), &low, &ports).await.unwrap();
        assert_eq!(way(&one), "eth1");
        assert!(!joined.ports.is_empty() && !joined.keep.is_empty());
        reached();
        let high = Endpoint { gw_priority: 1, ..on("m", &[]) };
        let both = [inner.clone(), low.clone()];
        let joined = host.networks.connect(&one.member, &both, &high, &ports).await.unwrap();
        assert_eq!(way(&one), "eth2");
        assert!(joined.keep.is_empty());
        let defaults: Vec<bool> = joined.endpoints.iter().map(|state| state.default_route).collect();
        assert_eq!(defaults, [false, false, true]);
        reached();

        host.networks.disconnect(&one.member, &both, "m", &ports).await.unwrap();
        assert_eq!(way(&one), "eth1");
        reached();
        let left = host.networks.disconnect(&one.member, &[inner], "n", &ports).await.unwrap();
        assert!(left.endpoints.iter().all(|state| !state.default_route));
        assert_eq!(way(&one), "");
        assert!(lan.ask("192.0.2.1:8080", NEVER).is_err());
        assert_eq!(host.networks.census().await.unwrap().ports, 0);
    });
}

/// The interfaces of default routes of IPv6.
fn ways6(container: &Container) -> Vec<String> {
    let routes = || std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
    let routes = within(container.sandbox.netns(), routes);
    let all = routes.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    // Those of the loopback device are the kernel's own.
    all.filter(|line| line[1] == "00" && line[0].bytes().all(|b| b == b'0') && line[9] != "lo")
        .map(|line| line[9].clone())
        .collect()
}

#[test]
fn so_does_the_default_route_of_ipv6() {
    on_host(async |host| {
        if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            println!("skipped: this kernel has no IPv6");
            return;
        }
        for name in ["m", "n"] {
            host.networks.ensure(&NetworkConfig { enable_ipv6: true, ..network(name) }).await.unwrap();
        }
        let low = on("m", &[]);
        let one = host.container("one", std::slice::from_ref(&low), &[]).await.unwrap();
        assert_eq!(ways6(&one), ["eth0"]);
        let high = Endpoint { gw_priority: 1, ..on("n", &[]) };
        host.networks.connect(&one.member, std::slice::from_ref(&low), &high, &[]).await.unwrap();
        assert_eq!((way(&one).as_str(), ways6(&one)), ("eth1", vec!["eth1".to_owned()]));
        host.networks.disconnect(&one.member, &[low], "n", &[]).await.unwrap();
        assert_eq!((way(&one).as_str(), ways6(&one)), ("eth0", vec!["eth0".to_owned()]));
    });
}

#[test]
fn what_cannot_be_connected_leaves_everything_as_it_was() {
    on_host(async |host| {
        for name in ["a", "b"] {
            host.networks.ensure(&network(name)).await.unwrap();
        }
        let endpoint = on("b", &[]);
        let one = host.container("one", std::slice::from_ref(&endpoint), &[]).await.unwrap();
        for wrong in [
            Endpoint { ipv4_address: Some("203.0.113.1".parse().unwrap()), ..on("a", &[]) },
            Endpoint { interface_name: Some("eth0".into()), ..on("a", &[]) },
            Endpoint {
                driver_opts: [("com.docker.network.endpoint.sysctls".to_owned(), "net.ipv4.ip_forward=1".to_owned())]
                    .into(),
                ..on("a", &[])
            },
            Endpoint {
                driver_opts: [(
                    "com.docker.network.endpoint.sysctls".to_owned(),
                    "net.ipv4.conf.IFNAME.no_such_setting=1".to_owned(),
                )]
                .into(),
                ..on("a", &[])
            },
        ] {
            host.networks.connect(&one.member, std::slice::from_ref(&endpoint), &wrong, &[]).await.unwrap_err();
            assert_eq!(way(&one), "eth0");
            let links = within(one.sandbox.netns(), || std::fs::read_dir("/sys/class/net").map(Iterator::count));
            let known = within(one.sandbox.netns(), || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
            assert!(!known.contains("eth1"), "{known} {links:?}");
        }
        assert!(host.networks.remove("a").await.is_ok());
    });
}
