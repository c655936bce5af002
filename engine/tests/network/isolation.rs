//! Who reaches whom.

use std::net::SocketAddr;

use rcompose_engine::network::config::NetworkConfig;

use crate::host::{NEVER, SOON, ask, network, nft, on, on_host, publish, serve};

#[test]
fn networks_do_not_reach_each_other() {
    on_host(async |host| {
        for name in ["front", "back"] {
            host.networks.ensure(&network(name)).await.unwrap();
        }
        let front = host.container("front", &[on("front", &[])], &[]).await.unwrap();
        let back = host.container("back", &[on("back", &[])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let both = host.container("both", &[on("front", &[]), on("back", &[])], &[]).await.unwrap();
        back.serve(80, "back");
        back.serve(81, "back");
        assert!(front.ask(back.address(80), NEVER).is_err());
        assert!(front.ask(back.address(81), NEVER).is_err());
        assert_eq!(both.ask(back.address(81), SOON).unwrap().split(' ').next(), Some("back"));
        // What is published is published to everybody who reaches the host.
        let host_side = SocketAddr::new(front.gateway(), 8080);
        assert_eq!(front.ask(host_side, SOON).unwrap(), format!("back {}", front.ip()));
    });
}

#[test]
fn an_internal_network_reaches_nothing_outside() {
    on_host(async |host| {
        let internal = NetworkConfig { internal: true, ..network("inner") };
        host.networks.ensure(&internal).await.unwrap();
        host.networks.ensure(&network("outer")).await.unwrap();
        let lan = host.lan().await;
        serve(lan.run(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap()), "lan");
        serve(std::net::TcpListener::bind("0.0.0.0:99").unwrap(), "host");
        let inner = host.container("inner", &[on("inner", &[])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let peer = host.container("peer", &[on("inner", &[])], &[]).await.unwrap();
        let outer = host.container("outer", &[on("outer", &[])], &[]).await.unwrap();
        inner.serve(80, "inner");
        outer.serve(80, "outer");
        let lan_side: SocketAddr = "192.0.2.2:80".parse().unwrap();
        assert_eq!(outer.ask(lan_side, SOON).unwrap(), "lan 192.0.2.1");
        assert_eq!(peer.ask(inner.address(80), SOON).unwrap().split(' ').next(), Some("inner"));
        assert!(inner.joined.ports.is_empty());
        for target in [lan_side, outer.address(80), "192.0.2.1:99".parse().unwrap()] {
            assert!(inner.ask(target, NEVER).is_err(), "{target}");
        }
        let bridge = inner.sandbox.clone();
        drop(bridge);
        let gateway = host.networks.get("inner").await.unwrap().unwrap().subnets[0].gateway.unwrap();
        assert!(inner.ask(SocketAddr::new(gateway, 99), NEVER).is_err());
        assert!(outer.ask(inner.address(80), NEVER).is_err());
        assert!(lan.ask(&inner.address(80).to_string(), NEVER).is_err());
        // The host may look in.
        assert_eq!(ask(inner.address(80), SOON).unwrap().split(' ').next(), Some("inner"));
    });
}

#[test]
fn neither_neighbours_nor_containers_reach_what_is_meant_for_the_host_alone() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let local = publish(Some("127.0.0.1"), Some(8080), 80);
        let a = host.container("a", &[on("n", &[])], &[local]).await.unwrap();
        a.serve(80, "a");
        a.serve(81, "a");
        serve(std::net::TcpListener::bind("127.0.0.1:99").unwrap(), "host");
        assert_eq!(ask("127.0.0.1:8080".parse().unwrap(), SOON).unwrap().split(' ').next(), Some("a"));
        for target in ["192.0.2.1:8080".to_owned(), a.address(80).to_string(), a.address(81).to_string()] {
            assert!(lan.ask(&target, NEVER).is_err(), "{target}");
        }
        // A neighbour on the same wire that sends 127.0.0.1 to us, and a container that does.
        let martian = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let handle = crate::host::rtnetlink();
                let loopback = crate::host::index(&handle, "lo").await.unwrap();
                let down = rtnetlink::LinkUnspec::new_with_index(loopback).down().build();
                handle.link().set(down).execute().await.unwrap();
                for setting in ["all", "lan1", "eth0"] {
                    let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{setting}/route_localnet"), "1");
                }
            });
        };
        lan.run(martian);
        assert!(lan.ask("127.0.0.1:8080", NEVER).is_err());
        assert!(lan.ask("127.0.0.1:99", NEVER).is_err());
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        crate::host::within(b.sandbox.netns(), martian);
        assert!(b.ask("127.0.0.1:99".parse().unwrap(), NEVER).is_err());
        assert!(b.ask("127.0.0.1:8080".parse().unwrap(), NEVER).is_err());
    });
}

/// What Docker leaves behind on a host with nftables: `ip filter FORWARD` drops what it does not know.
const DOCKER: &str = "
table ip filter {
    chain DOCKER-USER { }
    chain DOCKER-FORWARD { iifname \"docker0\" accept; }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        jump DOCKER-FORWARD
    }
    chain INPUT { type filter hook input priority filter; policy accept; }
}
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
        iifname \"lan0\" jump filter_FORWARD_IN
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_IN { }
}
table inet quiet {
    chain forward { type filter hook forward priority filter + 20; policy accept; iifname \"x\" accept; }
}";

/// What ufw makes of a host: what comes in or passes through is dropped unless a rule knows it.
const UFW: &str = "
table ip filter {
    chain ufw-before-input { iifname \"lo\" accept; ct state established,related accept; }
    chain ufw-before-forward { ct state established,related accept; }
    chain ufw-reject-forward { }
    chain INPUT { type filter hook input priority filter; policy drop; jump ufw-before-input; }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump ufw-before-forward
        jump ufw-reject-forward
    }
}
table ip6 filter {
    chain INPUT {
        type filter hook input priority filter; policy drop;
        iifname \"lo\" accept
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
    chain FORWARD { type filter hook forward priority filter; policy drop; }
}";

fn load(ruleset: &str) -> bool {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, ruleset.as_bytes()).unwrap();
    nft(&["-f", file.path().to_str().unwrap()]).is_some()
}

#[test]
fn firewalls_like_those_of_docker_and_firewalld() {
    firewall(DOCKER);
}

#[test]
fn a_firewall_like_that_of_ufw() {
    firewall(UFW);
}

/// Everything works behind these rules, also after they were loaded anew, and nothing of ours is left in them.
fn firewall(rules: &'static str) {
    on_host(async move |host| {
        if !load(rules) {
            println!("skipped: nft is not installed");
            return;
        }
        let before = nft(&["list", "ruleset"]).unwrap();
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        serve(lan.run(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap()), "lan");
        let a = host.container("a", &[on("n", &[])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        a.serve(80, "a");
        a.serve(81, "a");
        let works = || {
            a.ask("192.0.2.2:80".parse().unwrap(), SOON).is_ok()
                && lan.ask("192.0.2.1:8080", SOON).is_ok()
                && b.ask("192.0.2.1:8080".parse().unwrap(), SOON).is_ok()
                && b.ask(a.address(81), SOON).is_ok()
                && ["127.0.0.1:8080", "[::1]:8080"].iter().all(|at| ask(at.parse().unwrap(), SOON).is_ok())
        };
        assert!(works(), "{}", nft(&["list", "ruleset"]).unwrap());
        assert!(lan.ask(&a.address(81).to_string(), NEVER).is_err());
        // Two in each chain that drops, and none in others.
        assert_eq!(host.networks.census().await.unwrap().foreign_rules, 4);

        // A reload of the firewall throws our rules out; the supervisor notices.
        nft(&["flush", "ruleset"]);
        load(rules);
        let deadline = std::time::Instant::now() + SOON;
        while !works() {
            assert!(std::time::Instant::now() < deadline, "{}", nft(&["list", "ruleset"]).unwrap());
        }
        assert_eq!(host.networks.census().await.unwrap().foreign_rules, 4);
        for container in [a, b] {
            host.networks.forget(&container.member.id).await.unwrap();
        }
        host.networks.remove("n").await.unwrap().finished().await.unwrap();
        assert_eq!(nft(&["list", "ruleset"]).unwrap(), before);
    });
}

fn iptables(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("iptables-nft").args(arguments).output().ok()?;
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(both).unwrap();
    assert!(output.status.success(), "iptables-nft {arguments:?}: {text}");
    Some(text)
}

#[test]
fn iptables_reads_and_changes_its_own_table_with_our_rules_in_it() {
    on_host(async |host| {
        if iptables(&["-P", "FORWARD", "DROP"]).is_none() {
            println!("skipped: iptables-nft is not installed");
            return;
        }
        iptables(&["-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"]);
        let before = iptables(&["-S"]).unwrap();
        host.networks.ensure(&network("n")).await.unwrap();
        let with = iptables(&["-S"]).unwrap();
        assert!(with.contains("-A FORWARD -i rc+") && with.contains("-A FORWARD -o rc+"), "{with}");
        assert!(!with.contains("incompatible"), "{with}");
        iptables(&["-I", "FORWARD", "-i", "docker1", "-j", "ACCEPT"]);
        iptables(&["-D", "FORWARD", "-i", "docker1", "-j", "ACCEPT"]);
        host.networks.remove("n").await.unwrap().finished().await.unwrap();
        assert_eq!(iptables(&["-S"]).unwrap(), before);
    });
}
