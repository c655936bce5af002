//! A running container is connected to one more network, or disconnected from one.
//!
//! Its names and addresses change, and so may its way to the world: the default route belongs to the network with the
//! highest priority among those that are left, and published ports lead in through the same network.

use std::os::fd::OwnedFd;

use super::relay::Relays;
use super::worker::publish_target;
use super::{Joined, Member, NetworkError, Networks, mappings};
use crate::container::config::{Endpoint, PublishedPort};
use crate::container::state::{BoundPort, EndpointState};
use crate::id::Id;

impl Networks {
    /// Connects a running container, which is on the networks of `connected` already, to one more. Returns all that it
    /// has then; of what is to be kept, only what is new.
    ///
    /// If it fails, everything is as before.
    pub async fn connect(
        &self,
        member: &Member,
        connected: &[Endpoint],
        endpoint: &Endpoint,
        ports: &[PublishedPort],
    ) -> Result<Joined, NetworkError> {
        let not_there = || NetworkError::NotConnected { network: endpoint.network.clone() };
        let (sandbox, before) = self.place(&member.id).ok_or_else(not_there)?;
        let there: Vec<String> = before.iter().map(|state| state.interface.clone()).collect();
        let (inside, who, what) = (sandbox.clone(), member.clone(), vec![endpoint.clone()]);
        let made = self.0.worker.run(move |worker| worker.join(&inside, &who, &what, &there)).await?;
        let endpoints = [connected, std::slice::from_ref(endpoint)].concat();
        let after = [before.clone(), made].concat();
        let settled = match self.configure(&sandbox, &endpoints[connected.len()..], &after[before.len()..]).await {
            Ok(()) => self.settle(member, endpoints, after, ports).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(joined) => Ok(joined),
            Err(error) => {
                let (id, name) = (member.id.clone(), endpoint.network.clone());
                // The first error is the one to tell.
                let _ = self.0.worker.run(move |worker| worker.detach(&sandbox, &id, &name)).await;
                let _ = self.settle(member, connected.to_vec(), before, ports).await;
                Err(error)
            }
        }
    }

    /// Disconnects a running container from a network; `left` are its endpoints on the others.
    pub async fn disconnect(
        &self,
        member: &Member,
        left: &[Endpoint],
        network: &str,
        ports: &[PublishedPort],
    ) -> Result<Joined, NetworkError> {
        let unknown = || NetworkError::NotConnected { network: network.to_owned() };
        let (sandbox, mut states) = self.place(&member.id).ok_or_else(unknown)?;
        let (id, name) = (member.id.clone(), network.to_owned());
        self.0.worker.run(move |worker| worker.detach(&sandbox, &id, &name)).await?;
        states.retain(|state| state.network != network);
        self.settle(member, left.to_vec(), states, ports).await
    }

    fn place(&self, container: &Id) -> Option<(super::Sandbox, Vec<EndpointState>)> {
        self.running().get(container).map(|running| (running.sandbox.clone(), running.endpoints.clone()))
    }

    /// Has routes, names and published ports follow the networks that a container is on.
    async fn settle(
        &self,
        member: &Member,
        endpoints: Vec<Endpoint>,
        states: Vec<EndpointState>,
        ports: &[PublishedPort],
    ) -> Result<Joined, NetworkError> {
        let (sandbox, before) = self.place(&member.id).ok_or(NetworkError::Gone)?;
        let states = self.0.worker.run(move |worker| worker.reroute(&sandbox, &endpoints, states)).await?;
        let moved = publish_target(&before) != publish_target(&states);
        let keep = if moved && !ports.is_empty() { self.republish(member, &states, ports).await? } else { Vec::new() };
        let mut bound = Vec::new();
        if let Some(running) = self.running().get_mut(&member.id) {
            running.resolver.view().set(&states);
            running.endpoints.clone_from(&states);
            bound = running.ports();
        }
        Ok(Joined { endpoints: states, ports: bound, keep })
    }

    /// Leads the published ports of a container in through the network that is its way to the world now.
    async fn republish(
        &self,
        member: &Member,
        states: &[EndpointState],
        ports: &[PublishedPort],
    ) -> Result<Vec<(String, OwnedFd)>, NetworkError> {
        let target = publish_target(states).map(|(network, ..)| network.clone());
        let bound = self.running().get(&member.id).map(super::Running::ports).unwrap_or_default();
        // On internal networks alone nothing was published.
        let new = if bound.is_empty() && target.is_some() { self.reserve(states, ports).await? } else { Vec::new() };
        let bound: Vec<BoundPort> = bound.into_iter().chain(new.iter().map(|new| new.port.clone())).collect();
        let mut keep = Vec::new();
        for reservation in &new {
            let failed = |source| NetworkError::Resolver { container: member.name.clone(), source };
            keep.push((reservation.name(), reservation.socket.try_clone().map_err(failed)?));
        }
        let (id, mappings) = (member.id.clone(), mappings(states, &bound));
        self.0.worker.run(move |worker| worker.republish(&id, target.as_ref(), mappings, bound)).await?;
        let relays = Relays::new(&self.0.stop);
        let before = self.running().get_mut(&member.id).map(|running| {
            running.reservations.extend(new);
            std::mem::replace(&mut running.relays, relays.clone())
        });
        if let Some(before) = before {
            before.end().await;
        }
        self.relay(member, states, &relays)?;
        Ok(keep)
    }
}
