//! A running container takes over what leads to another one that runs: its published ports and its names.
//!
//! Nothing is refused meanwhile: the packet filter leads to the one or to the other, at no moment to neither; the socket
//! that a port is bound by on the host stays the same one, with the connections that wait in it; and connections that are
//! under way, relayed ones too, stay where they are.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::port::Reservation;
use super::worker::{Handed, publish_target};
use super::{Joined, Member, NetworkError, Networks, mappings};
use crate::container::config::PublishedPort;
use crate::container::state::{BoundPort, EndpointState};
use crate::id::Id;

impl Networks {
    /// Leads the ports that `from` has of those that are wanted, and its names, to a container that runs too. Ports that
    /// it did not have are published as well. Returns all that the container has then; of what is to be kept, only what
    /// is new.
    ///
    /// If it fails, everything is as before. It may be asked for again.
    pub async fn take_over(
        &self,
        member: &Member,
        from: &Member,
        wanted: &[PublishedPort],
    ) -> Result<Joined, NetworkError> {
        let (states, own) = self.bound(&member.id).ok_or(NetworkError::Gone)?;
        let (left_states, theirs) = self.bound(&from.id).unwrap_or_default();
        let shared = shared(wanted, &own, &theirs);
        let new = if shared.new.is_empty() || publish_target(&states).is_none() {
            Vec::new()
        } else {
            self.reserve(&states, &shared.new).await?
        };
        let taken = self.give(&from.id, &shared.taken);
        let failed = |source| NetworkError::Resolver { container: member.name.clone(), source };
        let mut keep: Vec<(String, OwnedFd)> = Vec::new();
        for reservation in taken.iter().chain(&new) {
            keep.push((reservation.name(), reservation.socket.try_clone().map_err(failed)?));
        }
        let before = self.receive(&member.id, taken, new);
        let giver = self.handed(&from.id, &left_states);
        let taker = self.handed(&member.id, &states);
        let bound = taker.ports.clone();
        let led = self.0.worker.run(move |worker| worker.hand_over(&giver, &taker)).await;
        if let Err(error) = led {
            self.give_back(&member.id, &from.id, &before, &shared.taken);
            // The first error is the one to tell.
            let _ = self.reopen(from, &left_states).and_then(|()| self.reopen(member, &states));
            return Err(error);
        }
        self.reopen(from, &left_states)?;
        self.reopen(member, &states)?;
        Ok(Joined { endpoints: states, ports: bound, keep })
    }

    /// Returns the ports that are bound for a running container.
    pub fn ports(&self, container: &Id) -> Vec<BoundPort> {
        self.bound(container).map(|(_, ports)| ports).unwrap_or_default()
    }

    fn bound(&self, container: &Id) -> Option<(Vec<EndpointState>, Vec<BoundPort>)> {
        self.running().get(container).map(|running| (running.endpoints.clone(), running.ports()))
    }

    /// Takes these ports from a container, whose relays take in nothing new from then on.
    fn give(&self, from: &Id, ports: &[(BoundPort, BoundPort)]) -> Vec<Reservation> {
        let mut running = self.running();
        let Some(running) = running.get_mut(from) else { return Vec::new() };
        running.relays.close_door();
        let mut given = Vec::new();
        for (old, new) in ports {
            if let Some(place) = running.reservations.iter().position(|reservation| reservation.port == *old) {
                given.push(Reservation { port: new.clone(), ..running.reservations.remove(place) });
            }
        }
        given
    }

    /// Gives a container these ports; returns those that it had.
    fn receive(&self, container: &Id, taken: Vec<Reservation>, new: Vec<Reservation>) -> Vec<BoundPort> {
        let mut running = self.running();
        let Some(running) = running.get_mut(container) else { return Vec::new() };
        let before = running.ports();
        running.relays.close_door();
        running.reservations.extend(taken.into_iter().chain(new));
        before
    }

    fn give_back(&self, container: &Id, to: &Id, had: &[BoundPort], taken: &[(BoundPort, BoundPort)]) {
        let mut running = self.running();
        let Some(taker) = running.get_mut(container) else { return };
        let (own, others) = std::mem::take(&mut taker.reservations)
            .into_iter()
            .partition(|reservation: &Reservation| had.contains(&reservation.port));
        taker.reservations = own;
        if let Some(giver) = running.get_mut(to) {
            for reservation in others {
                let was = taken.iter().find(|(_, new)| *new == reservation.port);
                giver.reservations.extend(was.map(|(old, _)| Reservation { port: old.clone(), ..reservation }));
            }
        }
    }

    /// Returns what a container has, for the packet filter and the registries.
    fn handed(&self, container: &Id, states: &[EndpointState]) -> Handed {
        let ports = self.ports(container);
        Handed {
            container: container.clone(),
            leads_in: publish_target(states).map(|(network, ..)| network.clone()),
            mappings: mappings(states, &ports),
            ports,
        }
    }

    /// Starts the relays of a container again, for the ports that it has now.
    fn reopen(&self, member: &Member, states: &[EndpointState]) -> Result<(), NetworkError> {
        let relays = self.running().get(&member.id).map(|running| running.relays.clone());
        relays.map_or(Ok(()), |relays| self.relay(member, states, &relays))
    }
}

/// Where the ports that a container wants come from.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shared {
    /// Those that the other has, as it has them and as they are to be.
    taken: Vec<(BoundPort, BoundPort)>,
    new: Vec<PublishedPort>,
}

fn shared(wanted: &[PublishedPort], own: &[BoundPort], theirs: &[BoundPort]) -> Shared {
    let mut shared = Shared::default();
    let mut free = theirs.to_vec();
    for wanted in wanted {
        if own.iter().any(|bound| satisfies(wanted, bound) && bound.container_port == wanted.container_port) {
            continue;
        }
        // Of several of a range, that which leads to the same port.
        let best = free.iter().filter(|bound| satisfies(wanted, bound));
        let best = best.min_by_key(|bound| bound.container_port != wanted.container_port).map(|bound| bound.host_port);
        let Some(host_port) = best else {
            shared.new.push(wanted.clone());
            continue;
        };
        // Of both families, where no address is named.
        let (taken, left) =
            free.into_iter().partition(|bound| bound.host_port == host_port && satisfies(wanted, bound));
        free = left;
        let as_wanted = |bound: BoundPort| {
            let new = BoundPort { container_port: wanted.container_port, ..bound.clone() };
            (bound, new)
        };
        shared.taken.extend(Vec::into_iter(taken).map(as_wanted));
    }
    shared
}

/// Returns whether a bound port is one that is wanted, wherever it leads.
fn satisfies(wanted: &PublishedPort, bound: &BoundPort) -> bool {
    let port = match wanted.host_port {
        Some((first, last)) => (first..=last.max(first)).contains(&bound.host_port),
        // Any: then that which leads to the same port.
        None => bound.container_port == wanted.container_port,
    };
    let address = wanted.host_ip.is_none_or(|address: IpAddr| address == bound.host_ip);
    port && address && wanted.protocol == bound.protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::Protocol;

    fn wanted(host_ip: Option<&str>, host_port: Option<(u16, u16)>, container_port: u16) -> PublishedPort {
        let host_ip = host_ip.map(|address| address.parse().unwrap());
        PublishedPort { host_ip, host_port, container_port, protocol: Protocol::Tcp }
    }

    fn bound(host_ip: &str, host_port: u16, container_port: u16) -> BoundPort {
        BoundPort { host_ip: host_ip.parse().unwrap(), host_port, container_port, protocol: Protocol::Tcp }
    }

    #[test]
    fn what_the_other_has_is_taken_and_the_rest_is_new() {
        let theirs = [bound("0.0.0.0", 8080, 80), bound("::", 8080, 80), bound("127.0.0.1", 9000, 9000)];
        let asked = [wanted(None, Some((8080, 8080)), 81), wanted(Some("127.0.0.1"), Some((9001, 9001)), 9000)];
        let found = shared(&asked, &[], &theirs);
        assert_eq!(
            found.taken,
            [(bound("0.0.0.0", 8080, 80), bound("0.0.0.0", 8080, 81)), (bound("::", 8080, 80), bound("::", 8080, 81)),]
        );
        assert_eq!(found.new, [asked[1].clone()]);
    }

    #[test]
    fn a_port_of_a_range_or_of_the_kernels_choice_stays_the_same_one() {
        let theirs = [bound("0.0.0.0", 32768, 80), bound("0.0.0.0", 8082, 443)];
        let asked = [wanted(None, None, 80), wanted(None, Some((8080, 8090)), 443)];
        let found = shared(&asked, &[], &theirs);
        assert_eq!(found.taken, theirs.map(|port| (port.clone(), port)));
        assert!(found.new.is_empty());
        // Asked again, there is nothing left to do.
        assert_eq!(shared(&asked, &theirs_of(&found), &[]), Shared::default());
    }

    fn theirs_of(shared: &Shared) -> Vec<BoundPort> {
        shared.taken.iter().map(|(_, new)| new.clone()).collect()
    }
}
