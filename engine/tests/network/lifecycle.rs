//! Networks and containers come and go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rcompose_engine::network::{NetworkError, Networks, Options};

use crate::host::{NEVER, SOON, ask, index, network, nft, on, on_host, publish, rtnetlink};

#[test]
fn containers_of_a_network_reach_each_other_and_nothing_is_left() {
    on_host(async |host| {
        assert!(host.networks.census().await.unwrap().is_empty());
        let (made, created) = host.networks.ensure(&network("shop_default")).await.unwrap();
        assert!(created);
        let (again, created) = host.networks.ensure(&network("shop_default")).await.unwrap();
        assert!(!created);
        assert_eq!(made, again);

        let a = host.container("shop-a-1", &[on("shop_default", &["a"])], &[]).await.unwrap();
        let b = host.container("shop-b-1", &[on("shop_default", &["b"])], &[]).await.unwrap();
        b.serve(80, "b");
        assert_eq!(a.ask(b.address(80), SOON).unwrap(), format!("b {}", a.ip()));
        // The host reaches its containers, and they reach the host.
        assert_eq!(ask(b.address(80), SOON).unwrap(), format!("b {}", a.gateway()));
        println!("{}", nft(&["list", "ruleset"]).unwrap_or_default());

        let in_use = host.networks.remove("shop_default").await.unwrap_err();
        assert!(matches!(&in_use, NetworkError::InUse { holders, .. } if holders.len() == 2), "{in_use}");

        for container in [a, b] {
            host.networks.leave(&container.member.id).await.unwrap();
            host.networks.forget(&container.member.id).await.unwrap();
        }
        host.networks.remove("shop_default").await.unwrap().finished().await.unwrap();
        assert!(matches!(host.networks.ensure(&network("x")).await, Ok((_, true))));
        host.networks.remove("x").await.unwrap().finished().await.unwrap();
        gone(&host.networks).await;
        assert!(host.networks.list().await.unwrap().is_empty());
        assert_eq!(std::fs::read_dir(host.root.networks()).unwrap().count(), 1, "only the lock is left");
    });
}

/// Waits until nothing of ours is in the kernel: links of a namespace that was dropped go a little later.
async fn gone(networks: &Networks) {
    let deadline = Instant::now() + SOON;
    loop {
        let census = networks.census().await.unwrap();
        if census.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {census:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_container_gets_its_address_back() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let a = host.container("a", &[on("n", &[])], &[]).await.unwrap();
        let before = a.ip();
        host.networks.leave(&a.member.id).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        assert_ne!(b.ip(), before);
        let sandbox = host.networks.sandbox().await.unwrap();
        let again = host.networks.join(&sandbox, &a.member, &[on("n", &[])], &[], &[]).await.unwrap();
        assert_eq!(again.endpoints[0].ipv4.unwrap().0, before);
    });
}

#[test]
fn a_bridge_and_rules_removed_by_hand_come_back() {
    on_host(async |host| {
        let (made, _) = host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let a = host.container("a", &[on("n", &[])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        a.serve(80, "a");
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");

        let handle = rtnetlink();
        let bridge = index(&handle, &made.bridge()).await.unwrap();
        handle.link().del(bridge).execute().await.unwrap();
        assert!(b.ask(a.address(80), NEVER).is_err());
        repaired(async || b.ask(a.address(80), NEVER).is_ok()).await;
        repaired(async || lan.ask("192.0.2.1:8080", NEVER).is_ok()).await;

        if nft(&["flush", "ruleset"]).is_some() {
            repaired(async || lan.ask("192.0.2.1:8080", NEVER).is_ok()).await;
            repaired(async || lan.ask(&a.address(80).to_string(), NEVER).is_err()).await;
        }
        // And by the next command, whether or not anybody noticed.
        host.networks.ensure(&network("n")).await.unwrap();
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");
    });
}

async fn repaired(works: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !works().await {
        assert!(Instant::now() < deadline, "it was not repaired");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_new_supervisor_takes_over() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let a = host.container("a", &[on("n", &["web"])], &[publish(None, Some(8080), 80)]).await.unwrap();
        let b = host.container("b", &[on("n", &[])], &[]).await.unwrap();
        a.serve(80, "a");
        // The shim holds the descriptors; the supervisor dies.
        let (root, networks) = (host.root.clone(), host.networks);
        drop(networks);
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");
        let new = Networks::open(&root, Options::default()).await.unwrap();
        for container in [a, b] {
            let joined = &container.joined;
            let keep = joined.keep.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect();
            let sandbox = new.adopt(&container.member, &joined.endpoints, &joined.ports, &[], keep).await.unwrap();
            let answers = crate::dns::query(sandbox.netns(), "web", crate::dns::A).await;
            assert_eq!(answers.addresses.len(), 1);
            assert_eq!(lan.ask("[2001:db8::1]:8080", SOON).unwrap().split(' ').next(), Some("a"));
            new.leave(&container.member.id).await.unwrap();
            if container.member.name == "a" {
                assert!(lan.ask("192.0.2.1:8080", NEVER).is_err());
                break;
            }
        }
    });
}

#[test]
fn what_a_process_was_writing_when_it_was_killed_goes() {
    on_host(async |host| {
        let (network, _) = host.networks.ensure(&network("n")).await.unwrap();
        let files = || {
            let folders = [host.root.networks(), host.root.networks_run()];
            let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
            entries.map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>()
        };
        host.another().await;
        let before = files();
        // A network that never came to be, and a record that was about to be replaced.
        for name in ["surely-no-network.new", &format!("{}.new", network.id)] {
            std::fs::write(host.root.networks().join(name), "{").unwrap();
            std::fs::write(host.root.networks_run().join(name), "{").unwrap();
        }
        let another = host.another().await;
        assert_eq!(files(), before);
        assert_eq!(another.list().await.unwrap(), [network]);
    });
}

#[test]
fn nothing_but_the_namespace_was_kept() {
    on_host(async |host| {
        host.networks.ensure(&network("n")).await.unwrap();
        let lan = host.lan().await;
        let mut a = host.container("a", &[on("n", &["web"])], &[publish(None, Some(8080), 80)]).await.unwrap();
        a.serve(80, "a");
        let root = host.root.clone();
        drop(host.networks);
        a.joined.keep.retain(|(name, _)| name == "netns");
        let keep = a.joined.keep.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect();
        let new = Networks::open(&root, Options::default()).await.unwrap();
        let sandbox = new.adopt(&a.member, &a.joined.endpoints, &a.joined.ports, &[], keep).await.unwrap();
        assert_eq!(crate::dns::query(sandbox.netns(), "web", crate::dns::A).await.addresses.len(), 1);
        assert_eq!(lan.ask("192.0.2.1:8080", SOON).unwrap(), "a 192.0.2.2");
        assert_eq!(ask("[::1]:8080".parse().unwrap(), SOON).unwrap().split(' ').next(), Some("a"));
        assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err());
    });
}
