//! Who gets which address, and which subnets networks get.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rcompose_engine::container::config::Endpoint;
use rcompose_engine::network::config::{Driver, NetworkConfig, Subnet};
use rcompose_engine::network::{NetworkError, Networks, Options, pool};
use rcompose_engine::root::Root;

use crate::dns::{A, query};
use crate::host::{SOON, index, network, on, on_host, rtnetlink, serve, within};

fn subnet(text: &str) -> Subnet {
    let (address, prefix) = text.split_once('/').unwrap();
    Subnet {
        subnet: (address.parse().unwrap(), prefix.parse().unwrap()),
        ip_range: None,
        gateway: None,
        aux_addresses: BTreeMap::new(),
    }
}

fn with_subnet(name: &str, text: &str) -> NetworkConfig {
    NetworkConfig { subnets: vec![subnet(text)], ..network(name) }
}

#[test]
fn what_an_endpoint_asks_for() {
    on_host(async |host| {
        host.networks.ensure(&with_subnet("n", "10.77.0.0/24")).await.unwrap();
        let internal = NetworkConfig { internal: true, ..with_subnet("inner", "10.78.0.0/24") };
        host.networks.ensure(&internal).await.unwrap();
        host.networks.ensure(&with_subnet("way", "10.79.0.0/24")).await.unwrap();
        let asked = Endpoint {
            ipv4_address: Some("10.77.0.77".parse().unwrap()),
            mac_address: Some([2, 0, 0, 0, 0, 7]),
            interface_name: Some("front0".into()),
            link_local_ips: vec!["169.254.8.8".parse().unwrap()],
            ..on("n", &[])
        };
        let way = Endpoint { gw_priority: 1, ..on("way", &[]) };
        let a = host.container("a", &[asked.clone(), on("inner", &[]), way], &[]).await.unwrap();
        let states = &a.joined.endpoints;
        assert_eq!(states[0].ipv4, Some(("10.77.0.77".parse().unwrap(), 24)));
        assert_eq!((states[0].mac_address, states[0].interface.as_str()), ([2, 0, 0, 0, 0, 7], "front0"));
        assert_eq!((states[1].interface.as_str(), states[1].ipv4_gateway), ("eth0", None));
        let defaults: Vec<bool> = states.iter().map(|state| state.default_route).collect();
        assert_eq!(defaults, [false, false, true]);
        let routes = within(a.sandbox.netns(), || std::fs::read_to_string("/proc/thread-self/net/route").unwrap());
        // The default route (destination 0) is by 10.79.0.1, as the kernel prints it.
        let default: Vec<&str> = routes.lines().filter(|line| line.split('\t').nth(1) == Some("00000000")).collect();
        assert_eq!(default.len(), 1);
        assert!(default[0].starts_with("eth1\t00000000\t01004F0A\t"), "{routes}");
        let fib = within(a.sandbox.netns(), || std::fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap());
        assert!(fib.contains("169.254.8.8"));
        // Nobody on a network without IPv6 has any.
        let six = within(a.sandbox.netns(), || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
        assert!(!six.contains("eth"), "{six}");

        let taken = host.container("b", &[asked], &[]).await.unwrap_err();
        assert_eq!(taken.to_string(), "address 10.77.0.77 of network n is taken by container a of project test");
        let outside = Endpoint { ipv4_address: Some("10.1.1.1".parse().unwrap()), ..on("n", &[]) };
        let error = host.container("b", &[on("way", &[]), outside], &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "address 10.1.1.1 is not in a subnet of network n (10.77.0.0/24)");
        // The half of it that was made is undone.
        let error = host.container("b", &[on("nowhere", &[])], &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no network nowhere");
        host.networks.forget(&a.member.id).await.unwrap();
        drop(a);
        for name in ["n", "inner", "way"] {
            host.networks.remove(name).await.unwrap().finished().await.unwrap();
        }
    });
}

#[test]
fn a_subnet_that_is_taken_names_who_has_it() {
    on_host(async |host| {
        let _lan = host.lan().await;
        host.networks.ensure(&with_subnet("n", "10.77.0.0/24")).await.unwrap();
        let error = host.networks.ensure(&with_subnet("m", "10.77.0.128/25")).await.unwrap_err();
        assert_eq!(error.to_string(), "subnet 10.77.0.128/25 of network m overlaps with 10.77.0.0/24 of network n");
        let error = host.networks.ensure(&with_subnet("m", "192.0.2.0/28")).await.unwrap_err();
        assert!(error.to_string().contains("of link lan0"), "{error}");
        let error = host.networks.ensure(&with_subnet("m", "10.9.0.1/24")).await.unwrap_err();
        assert!(matches!(error, NetworkError::InvalidSubnet { .. }), "{error}");
        assert_eq!(host.networks.list().await.unwrap().len(), 1);
    });
}

#[test]
fn many_networks_of_several_roots_at_once_share_nothing() {
    on_host(async |host| {
        let other_directory = tempfile::tempdir().unwrap();
        let other_root = Root::below(other_directory.path());
        let other = Networks::open(&other_root, Options::default()).await.unwrap();
        let beside = host.another().await;
        let mut tasks = Vec::new();
        for n in 0..8 {
            for networks in [&host.networks, &other, &beside] {
                let networks = networks.clone();
                tasks.push(tokio::spawn(async move { networks.ensure(&network(&format!("net{n}"))).await.unwrap() }));
            }
        }
        let mut made = Vec::new();
        for task in tasks {
            let (network, created) = task.await.unwrap();
            if created {
                made.push(network);
            }
        }
        // Of the two supervisors of one root exactly one made each.
        assert_eq!(
            made.len(),
            16,
            "{:#?}",
            made.iter().map(|n| (&n.config.name, &n.id, n.created, &n.subnets[0].subnet)).collect::<Vec<_>>()
        );
        for (n, a) in made.iter().enumerate() {
            for b in &made[n + 1..] {
                assert!(!pool::overlap(a.subnets[0].subnet, b.subnets[0].subnet), "{a:?} {b:?}");
            }
        }
        assert_eq!(host.networks.census().await.unwrap().bridges.len(), 16);
        for n in 0..8 {
            let name = format!("net{n}");
            host.networks.remove(&name).await.unwrap().finished().await.unwrap();
            assert!(beside.get(&name).await.unwrap().is_none());
        }
        assert_eq!(other.census().await.unwrap().bridges.len(), 8);
        for n in 0..8 {
            other.remove(&format!("net{n}")).await.unwrap().finished().await.unwrap();
        }
        assert!(other.census().await.unwrap().is_empty());
    });
}

#[test]
fn an_interrupted_removal_is_finished_by_the_next_supervisor() {
    on_host(async |host| {
        let (made, _) = host.networks.ensure(&network("n")).await.unwrap();
        let record = host.root.networks().join(format!("{}.json", made.id));
        let text = std::fs::read_to_string(&record).unwrap().replace("\"removing\": false", "\"removing\": true");
        std::fs::write(&record, text).unwrap();
        let new = host.another().await;
        assert!(new.list().await.unwrap().is_empty());
        assert!(!record.exists());
        assert!(new.census().await.unwrap().is_empty());
    });
}

#[test]
fn macvlan_and_ipvlan_share_a_link_of_the_host() {
    on_host(async |host| {
        let lan = host.lan().await;
        serve(lan.run(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap()), "lan");
        for (driver, address) in [(Driver::Macvlan, "192.0.2.50"), (Driver::Ipvlan, "192.0.2.51")] {
            let mut config = with_subnet("shared", "192.0.2.0/24");
            config.driver = driver;
            config.subnets[0].gateway = Some("192.0.2.2".parse().unwrap());
            config.driver_opts = BTreeMap::from([("parent".to_owned(), "lan0".to_owned())]);
            host.networks.ensure(&config).await.unwrap();
            let endpoint = Endpoint { ipv4_address: Some(address.parse().unwrap()), ..on("shared", &[]) };
            let a = match host.container("a", &[endpoint], &[]).await {
                Ok(a) => a,
                Err(error) => {
                    println!("skipped {driver:?}: {error:?}");
                    host.networks.remove("shared").await.unwrap().finished().await.unwrap();
                    continue;
                }
            };
            let gateway: IpAddr = "192.0.2.2".parse().unwrap();
            assert_eq!(a.ask((gateway, 80).into(), SOON).unwrap(), format!("lan {address}"));
            assert_eq!(query(a.sandbox.netns(), "a", A).await.addresses, [address]);
            host.networks.forget(&a.member.id).await.unwrap();
            drop(a);
            host.networks.remove("shared").await.unwrap().finished().await.unwrap();
        }
        assert!(index(&rtnetlink(), "lan0").await.is_some());
    });
}
