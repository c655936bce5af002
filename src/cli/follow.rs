//! Logs of many containers as they grow.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use rcompose_engine::container::log::reader::{Entry, Follow};
use rcompose_engine::container::log::{self, Options};
use rcompose_engine::id::Id;
use rcompose_engine::root::Root;
use rcompose_engine::sys::readiness;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::Error;
use crate::ui::logs::{Printer, Source, Stream};
use crate::ui::progress::PRETENDED;

/// Status lines that may wait for a feed to come to them.
const PENDING: usize = 16;

/// Where the lines of all containers come together.
#[derive(Debug)]
pub struct Feeds {
    root: Root,
    printer: Arc<Mutex<Printer>>,
    /// Whether a container's standard error goes to ours.
    split: bool,
    told: HashMap<Id, mpsc::Sender<Told>>,
    tasks: JoinSet<io::Result<()>>,
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

/// What a feed is told.
#[derive(Debug)]
enum Told {
    /// Say this of the container, after everything it wrote before.
    Status(String),
    /// Nothing more is to come.
    End,
}

impl Feeds {
    pub fn new(root: Root, printer: Printer, split: bool) -> Self {
        Self { root, printer: Arc::new(Mutex::new(printer)), split, told: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Returns what says something of our own in the same place.
    pub fn voice(&self) -> Voice {
        Voice { printer: Arc::clone(&self.printer), before: "" }
    }

    pub fn has(&self, id: &Id) -> bool {
        self.told.contains_key(id)
    }

    /// Begins to show a container's log under a name.
    pub fn add(&mut self, id: &Id, name: &str, options: &Options) -> Result<(), Error> {
        let source = lock(&self.printer).source(name);
        let path = log::path(&self.root.container(id), id);
        let (sender, told) = mpsc::channel(PENDING);
        let feed =
            Feed { source, printer: Arc::clone(&self.printer), split: self.split, path, options: options.clone() };
        self.tasks.spawn(feed.run(told));
        self.told.insert(id.clone(), sender);
        Ok(())
    }

    /// Says something of a container, after everything it wrote before.
    pub async fn status(&self, id: &Id, text: &str) {
        if let Some(feed) = self.told.get(id) {
            // A feed that failed is noticed at the end.
            let _ = feed.send(Told::Status(text.to_owned())).await;
        }
    }

    /// Shows what is left of a container's log, and then no more of it.
    pub async fn end(&mut self, id: &Id) {
        if let Some(feed) = self.told.remove(id) {
            let _ = feed.send(Told::End).await;
        }
    }

    /// Waits until a feed fails; one that ends is none that failed.
    pub async fn failure(&mut self) -> Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error.into(),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => std::future::pending().await,
            }
        }
    }

    /// Shows all that is left of all logs.
    pub async fn finish(mut self) -> Result<(), Error> {
        for feed in self.told.values() {
            let _ = feed.send(Told::End).await;
        }
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(result) => result?,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Ok(lock(&self.printer).flush()?)
    }
}

fn lock(printer: &Mutex<Printer>) -> MutexGuard<'_, Printer> {
    printer.lock().expect("no holder of this lock panics")
}

/// The log of one container.
struct Feed {
    source: Source,
    printer: Arc<Mutex<Printer>>,
    split: bool,
    path: PathBuf,
    options: Options,
}

impl Feed {
    async fn run(self, mut told: mpsc::Receiver<Told>) -> io::Result<()> {
        let mut follow = Follow::new(&self.path, &self.options, true)?;
        let watch: OwnedFd = follow.as_fd().try_clone_to_owned()?;
        let watch = readiness::watch_reading(watch)?;
        let mut over = self.advance(&mut follow)?;
        while !over {
            tokio::select! {
                grown = watch.readable() => {
                    grown?.clear_ready();
                    over = self.advance(&mut follow)?;
                }
                told = told.recv() => {
                    over = self.advance(&mut follow)?;
                    match told {
                        Some(Told::Status(text)) => {
                            let mut printer = lock(&self.printer);
                            printer.end(self.source)?;
                            printer.status(self.source, &text)?;
                            printer.flush()?;
                        }
                        Some(Told::End) | None => over = true,
                    }
                }
            }
        }
        let mut printer = lock(&self.printer);
        printer.end(self.source)?;
        printer.flush()
    }

    /// Shows what is new; returns whether the end that was asked for is reached.
    fn advance(&self, follow: &mut Follow) -> io::Result<bool> {
        let mut printer = lock(&self.printer);
        let over = follow.advance(&mut |entry| show(&mut printer, self.source, self.split, entry))?;
        printer.flush()?;
        Ok(over)
    }
}

/// Prints an entry, on standard error where that is wanted of what a container writes there.
pub fn show(printer: &mut Printer, source: Source, split: bool, entry: Entry<'_>) -> io::Result<()> {
    let stream = if split && entry.stream == log::Stream::Stderr { Stream::Stderr } else { Stream::Stdout };
    printer.entry(source, stream, entry.time, entry.text)
}
