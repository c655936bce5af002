//! Logs of many containers as they grow.

mod merger;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rcompose_engine::container::log::reader::Entry;
use rcompose_engine::container::log::{self, Options};
use rcompose_engine::id::Id;
use rcompose_engine::root::Root;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::Error;
use crate::ui::logs::{Printer, Source, Stream};
use crate::ui::progress::PRETENDED;
use merger::{Feed, Told};

/// Messages that may wait for the task that shows the logs.
const PENDING: usize = 16;

/// Where the lines of all containers come together.
#[derive(Debug)]
pub struct Feeds {
    root: Root,
    printer: Arc<Mutex<Printer>>,
    known: HashSet<Id>,
    told: mpsc::Sender<(Id, Told)>,
    shown: JoinHandle<io::Result<()>>,
}

/// Says something of our own between the lines of containers.
#[derive(Debug, Clone)]
pub struct Voice {
    printer: Arc<Mutex<Printer>>,
    /// What stands before everything.
    before: &'static str,
}

impl Voice {
    /// Returns one that is alone. With `pretends`, nothing of what it says is really done.
    pub fn new(printer: Printer, pretends: bool) -> Self {
        Self { printer: Arc::new(Mutex::new(printer)), before: if pretends { PRETENDED } else { "" } }
    }

    pub fn say(&self, text: &str) -> io::Result<()> {
        let mut printer = lock(&self.printer);
        printer.announce(&format!("{}{text}", self.before))?;
        printer.flush()
    }
}

impl Feeds {
    /// Returns the place for the logs of containers below a root. With `split`, a container's standard error goes to ours.
    pub fn new(root: Root, printer: Printer, split: bool) -> Self {
        let printer = Arc::new(Mutex::new(printer));
        let (sender, told) = mpsc::channel(PENDING);
        let shown = tokio::spawn(merger::run(Arc::clone(&printer), split, told));
        Self { root, printer, known: HashSet::new(), told: sender, shown }
    }

    /// Returns what says something of our own in the same place.
    pub fn voice(&self) -> Voice {
        Voice { printer: Arc::clone(&self.printer), before: "" }
    }

    pub fn has(&self, id: &Id) -> bool {
        self.known.contains(id)
    }

    /// Begins to show a container's log under a name, from where it is now.
    pub async fn add(&mut self, id: &Id, name: &str, options: &Options) -> Result<(), Error> {
        let source = lock(&self.printer).source(name);
        let feed = Feed::open(source, &log::path(&self.root.container(id), id), options)?;
        self.known.insert(id.clone());
        self.tell(id, Told::Begin(Box::new(feed))).await;
        Ok(())
    }

    /// Says something of a container, after everything it wrote before.
    pub async fn status(&self, id: &Id, text: &str) {
        self.tell(id, Told::Status(text.to_owned())).await;
    }

    /// Shows what is left of a container's log, and then no more of it.
    pub async fn end(&mut self, id: &Id) {
        if self.known.remove(id) {
            self.tell(id, Told::End).await;
        }
    }

    async fn tell(&self, id: &Id, what: Told) {
        // If nobody listens any more, that has failed, which is noticed where it is waited for.
        let _ = self.told.send((id.clone(), what)).await;
    }

    /// Waits until the logs cannot be shown any more. Cancel-safe.
    pub async fn failure(&mut self) -> Error {
        match outcome((&mut self.shown).await) {
            Ok(()) => std::future::pending().await,
            Err(error) => error.into(),
        }
    }

    /// Shows all that is left of all logs.
    pub async fn finish(self) -> Result<(), Error> {
        let Self { told, shown, .. } = self;
        drop(told);
        Ok(outcome(shown.await)?)
    }
}

fn outcome(ended: Result<io::Result<()>, tokio::task::JoinError>) -> io::Result<()> {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn lock(printer: &Mutex<Printer>) -> MutexGuard<'_, Printer> {
    printer.lock().expect("no holder of this lock panics")
}

/// Prints an entry, on standard error where that is wanted of what a container writes there.
pub fn show(printer: &mut Printer, source: Source, split: bool, entry: Entry<'_>) -> io::Result<()> {
    let stream = if split && entry.stream == log::Stream::Stderr { Stream::Stderr } else { Stream::Stdout };
    printer.entry(source, stream, entry.time, entry.text)
}
