//! Networks, names and registries.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rcompose_engine::error::chain;
use rcompose_engine::image::{Client, DEFAULT_REGISTRY, RegistryError};
use rcompose_engine::network::trial;

use super::Finding;

/// How long a resolver, or a registry, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// A question for the name servers of the root, which every resolver knows.
const QUESTION: [u8; 17] = [0x72, 0x63, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = trial::trials().into_iter().map(tried).collect::<Vec<_>>();
    findings.extend(resolvers());
    findings
}

fn tried(trial: trial::Trial) -> Finding {
    match trial.failure {
        None => Finding::good(trial.what, "work"),
        Some(failure) => Finding::bad(
            trial.what,
            failure,
            "run it as root; modprobe bridge veth nf_tables nft_nat nft_masq nft_fib_inet nft_ct",
        ),
    }
}

/// Asks the host's resolvers, which containers' questions are passed on to.
fn resolvers() -> Vec<Finding> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let mut findings = servers.map(resolver).collect::<Vec<_>>();
    if findings.is_empty() {
        let says = "/etc/resolv.conf names no name server: containers know each other's names only";
        findings.push(Finding::doubtful("DNS", says, "name one, or give services `dns`"));
    }
    findings
}

fn resolver(server: IpAddr) -> Finding {
    match ask(server) {
        Ok(()) => Finding::good("DNS", format!("{server} answers")),
        Err(error) => {
            let says = format!("{server} does not answer: {error}");
            Finding::doubtful("DNS", says, "see /etc/resolv.conf and the firewall, or give services `dns`")
        }
    }
}

fn ask(server: IpAddr) -> std::io::Result<()> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(SocketAddr::new(server, 53))?;
    socket.send(&QUESTION)?;
    // Whatever it says, it is there.
    socket.recv(&mut [0; 512]).map(drop)
}

/// Asks the registry that images without one in their name come from.
pub async fn registry(client: &Client) -> Finding {
    let subject = "registry";
    let cure = "see the proxy settings, `rcompose login`, and the mirrors of docs/images.md";
    match tokio::time::timeout(PATIENCE, client.reach(DEFAULT_REGISTRY)).await {
        // It is there, and wants to know who asks.
        Ok(Ok(()) | Err(RegistryError::Denied { .. })) => Finding::good(subject, format!("{DEFAULT_REGISTRY} answers")),
        Ok(Err(error)) => Finding::doubtful(subject, format!("{DEFAULT_REGISTRY}: {}", chain(&error)), cure),
        Err(_) => {
            let says = format!("{DEFAULT_REGISTRY} did not answer within {} s", PATIENCE.as_secs());
            Finding::doubtful(subject, says, cure)
        }
    }
}
