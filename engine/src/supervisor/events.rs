//! The project's events: one bus that every connection which asked for them listens to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;

use crate::container::config::ContainerConfig;
use crate::id::Id;
use crate::protocol::{Event, EventKind};

/// Events that a slow connection may be behind before it loses the oldest.
const CAPACITY: usize = 4096;

/// Events that are remembered for those who ask what was; as many as Docker remembers.
const REMEMBERED: usize = 256;

/// The sending side of the bus.
#[derive(Debug, Clone)]
pub(super) struct Events {
    bus: broadcast::Sender<Event>,
    /// Held while an event is sent, so that who asks for the past and the future gets each event once.
    past: Arc<Mutex<VecDeque<Event>>>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { bus: broadcast::channel(CAPACITY).0, past: Arc::default() }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.bus.subscribe()
    }

    /// Returns what is remembered from `since` on, and what follows that.
    pub(super) fn subscribe_since(&self, since: jiff::Timestamp) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().expect("no holder of this lock panics");
        (past.iter().filter(|event| event.time >= since).cloned().collect(), self.bus.subscribe())
    }

    /// Says that something happened to a container; `more` is what this kind of event adds to the labels.
    pub(super) fn container<'a>(
        &self,
        config: &ContainerConfig,
        kind: EventKind,
        more: impl IntoIterator<Item = (&'a str, String)>,
    ) {
        let mut attributes = config.labels.clone();
        attributes.insert("image".to_owned(), config.image.clone());
        attributes.insert("name".to_owned(), config.name.clone());
        attributes.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
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
        let event = Event { time: jiff::Timestamp::now(), kind, id, name, attributes };
        let mut past = self.past.lock().expect("no holder of this lock panics");
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody may be listening.
        let _ = self.bus.send(event);
    }
}
