//! The project's events: one bus that every connection which asked for them listens to.

use std::collections::BTreeMap;

use tokio::sync::broadcast;

use crate::container::config::ContainerConfig;
use crate::id::Id;
use crate::protocol::{Event, EventKind};

/// Events that a slow connection may be behind before it loses the oldest.
const CAPACITY: usize = 4096;

/// The sending side of the bus.
#[derive(Debug, Clone)]
pub(super) struct Events(broadcast::Sender<Event>);

impl Events {
    pub(super) fn new() -> Self {
        Self(broadcast::channel(CAPACITY).0)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }

    /// Says that something happened to a container; `more` is what this kind of event adds to the labels.
    pub(super) fn container<const N: usize>(
        &self,
        config: &ContainerConfig,
        kind: EventKind,
        more: [(&str, String); N],
    ) {
        let mut attributes = config.labels.clone();
        attributes.insert("image".to_owned(), config.image.clone());
        attributes.insert("name".to_owned(), config.name.clone());
        attributes.extend(more.map(|(name, value)| (name.to_owned(), value)));
        self.send(kind, config.id.clone(), config.name.clone(), attributes);
    }

    /// Says that something happened to a network.
    pub(super) fn network(&self, id: &Id, name: &str, kind: EventKind, container: Option<&Id>) {
        let mut attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_string());
        }
        self.send(kind, id.clone(), name.to_owned(), attributes);
    }

    fn send(&self, kind: EventKind, id: Id, name: String, attributes: BTreeMap<String, String>) {
        // Nobody may be listening.
        let _ = self.0.send(Event { time: jiff::Timestamp::now(), kind, id, name, attributes });
    }
}
