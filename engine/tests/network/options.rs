//! `driver_opts` of networks and endpoints.

use std::collections::BTreeMap;

use rcompose_engine::container::config::Endpoint;
use rcompose_engine::network::config::NetworkConfig;

use crate::host::{NEVER, SOON, index, network, on, on_host, publish, rtnetlink, within};

fn options(options: &[(&str, &str)]) -> BTreeMap<String, String> {
    options.iter().map(|(name, value)| (format!("com.docker.network.{name}"), (*value).to_owned())).collect()
}

#[test]
fn containers_that_may_not_speak_to_each_other() {
    on_host(async |host| {
        let lan = host.lan().await;
        let apart = NetworkConfig { driver_opts: options(&[("bridge.enable_icc", "false")]), ..network("n") };
        let (made, _) = host.networks.ensure(&apart).await.unwrap();
        let a = host.container("a", &[on("n", &[])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        a.serve(80, "a");
        a.serve(81, "a");
        let separate = |what: &str| {
            for port in [80, 81] {
                assert!(b.ask(a.address(port), NEVER).is_err(), "{what}");
            }
        };
        separate("at first");
        // The host forwards nothing from one to the other either, whatever route they take.
        let (gateway, target) = (b.gateway(), a.ip());
        within(b.sandbox.netns(), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let std::net::IpAddr::V4(gateway) = gateway else { panic!("it is IPv4") };
                let route = rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .destination_prefix(target, 32)
                    .gateway(gateway)
                    .build();
                rtnetlink().route().add(route).execute().await.unwrap();
            });
        });
        separate("by way of the gateway");
        // What is published is for everybody.
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");
        assert_eq!(b.ask("192.0.2.1:8080".parse().unwrap(), SOON).unwrap().split(' ').next(), Some("a"));

        let bridge = index(&rtnetlink(), &made.bridge()).await.unwrap();
        rtnetlink().link().del(bridge).execute().await.unwrap();
        host.networks.repair().await.unwrap();
        separate("after a repair");
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");
    });
}

#[test]
fn names_prefixes_and_bindings() {
    on_host(async |host| {
        let asked = options(&[
            ("bridge.name", "shop0"),
            ("container_iface_prefix", "net"),
            ("bridge.host_binding_ipv4", "127.0.0.1"),
            ("driver.mtu", "1400"),
        ]);
        let config = NetworkConfig { driver_opts: asked, ..network("n") };
        let (made, _) = host.networks.ensure(&config).await.unwrap();
        // The kernel knows the bridge by both names.
        let handle = rtnetlink();
        assert_eq!(index(&handle, &made.bridge()).await, index(&handle, "shop0").await);
        assert!(index(&handle, "shop0").await.is_some());
        let endpoint = Endpoint {
            driver_opts: options(&[(
                "endpoint.sysctls",
                "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.rp_filter=2",
            )]),
            ..on("n", &[])
        };
        let a = host.container("a", &[endpoint], &[publish(None, Some(8080), 80)]).await.unwrap();
        assert_eq!(a.endpoint().interface, "net0");
        let addresses: Vec<String> = a.joined.ports.iter().map(|port| port.host_ip.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1"]);
        let read = |name: &'static str| {
            let path = format!("/proc/sys/net/ipv4/conf/net0/{name}");
            within(a.sandbox.netns(), move || std::fs::read_to_string(path).unwrap())
        };
        assert_eq!((read("log_martians").trim(), read("rp_filter").trim()), ("1", "2"));
        let named = Endpoint { driver_opts: options(&[("endpoint.ifname", "front")]), ..on("n", &[]) };
        let b = host.container("b", &[named], &[]).await.unwrap();
        assert_eq!(b.endpoint().interface, "front");

        let taken = NetworkConfig { driver_opts: options(&[("bridge.name", "shop0")]), ..network("m") };
        let error = host.networks.ensure(&taken).await.unwrap_err();
        assert_eq!(error.to_string(), "link shop0 exists already");
        let wrong = NetworkConfig { driver_opts: options(&[("driver.mtu", "big")]), ..network("m") };
        let error = host.networks.ensure(&wrong).await.unwrap_err();
        assert_eq!(error.to_string(), "`big` is no value of the option com.docker.network.driver.mtu of network m");
        assert_eq!(host.networks.list().await.unwrap().len(), 1);
    });
}

#[test]
fn a_bridge_without_an_address() {
    on_host(async |host| {
        let config = NetworkConfig { driver_opts: options(&[("bridge.inhibit_ipv4", "true")]), ..network("n") };
        let (made, _) = host.networks.ensure(&config).await.unwrap();
        let gateway = made.subnets[0].gateway.unwrap();
        let bind = std::net::TcpListener::bind((gateway, 0));
        assert!(bind.is_err(), "{gateway} is an address of the host");
    });
}
