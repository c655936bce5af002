//! A thread that says which watched files are not what they were.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

use super::batch::Batch;
use super::directories::{Directories, Event, WatchError};
use super::rules::Rules;
use super::tree::{Guide, Tree};

/// Batches that may wait for whoever listens; after that they gather here.
const PENDING: usize = 16;

/// What the thread says.
#[derive(Debug)]
pub enum Found {
    /// Everything is watched from now on. The files that [`Rules`] want to be in containers from the beginning, and how many
    /// there are in all.
    Ready { initial: Vec<PathBuf>, files: usize },
    /// These are not what they were: they were made, changed or removed.
    Changes(Vec<PathBuf>),
    /// What is in this directory is not seen.
    Unreadable(PathBuf, io::Error),
    /// Nothing more is watched.
    Failed(WatchError),
}

/// A running thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Source {
    found: mpsc::Receiver<Found>,
    _stop: PipeWriter,
}

/// Begins to watch. With `interval` all files are looked at so often, and the kernel is not asked for events.
pub fn start(rules: Arc<Rules>, interval: Option<Duration>) -> io::Result<Source> {
    let (stop, writer) = io::pipe()?;
    let (sender, found) = mpsc::channel(PENDING);
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        let failed = Watch::new(rules, interval, sender.clone()).and_then(|mut watch| watch.run(&stop));
        if let Err(error) = failed {
            // Nobody may be listening any more.
            let _ = sender.blocking_send(Found::Failed(error));
        }
    })?;
    Ok(Source { found, _stop: writer })
}

impl Source {
    /// Waits for the next news; `None`: there will be none. Cancel-safe.
    pub async fn next(&mut self) -> Option<Found> {
        self.found.recv().await
    }
}

struct Watch {
    rules: Arc<Rules>,
    tree: Tree,
    eyes: Eyes,
    interval: Option<Duration>,
    sender: mpsc::Sender<Found>,
}

/// Decides where to look, and lets the kernel look there from then on.
struct Eyes {
    rules: Arc<Rules>,
    /// `None`: the kernel is not asked.
    directories: Option<Directories>,
    /// Directories that could not be read.
    blind: Vec<(PathBuf, io::Error)>,
    /// Those of which that was said.
    told: BTreeSet<PathBuf>,
}

impl Guide for Eyes {
    type Error = WatchError;

    fn enter(&mut self, directory: &Path) -> Result<bool, WatchError> {
        if !self.rules.looks_into(directory) {
            return Ok(false);
        }
        match &mut self.directories {
            Some(directories) => directories.add(directory),
            None => Ok(true),
        }
    }

    fn unreadable(&mut self, directory: &Path, error: &io::Error) {
        if self.told.insert(directory.to_owned()) {
            self.blind.push((directory.to_owned(), io::Error::from(error.kind())));
        }
    }
}

impl Watch {
    fn new(rules: Arc<Rules>, interval: Option<Duration>, sender: mpsc::Sender<Found>) -> Result<Self, WatchError> {
        let directories = if interval.is_some() { None } else { Some(Directories::new()?) };
        let eyes = Eyes { rules: Arc::clone(&rules), directories, blind: Vec::new(), told: BTreeSet::new() };
        Ok(Self { rules, tree: Tree::default(), eyes, interval, sender })
    }

    /// Watches until the other end of `stop` is closed, or nobody listens.
    fn run(&mut self, stop: &PipeReader) -> Result<(), WatchError> {
        self.look(&self.roots(), &mut |_| ())?;
        let wanted = |path: &&Path| self.rules.rules.iter().any(|rule| rule.initial_sync && rule.matches(path));
        let initial = self.tree.files().filter(wanted).map(Path::to_owned).collect();
        let files = self.tree.files().count();
        let mut listened = self.say_blind() && self.say(Found::Ready { initial, files });
        let mut batch = Batch::default();
        while listened {
            let due = match self.interval {
                Some(interval) => Some(Instant::now() + interval),
                None => batch.due(),
            };
            if !self.wait(stop, due)? {
                break;
            }
            let now = Instant::now();
            let paths = if self.interval.is_some() {
                self.roots()
            } else {
                self.note(&mut batch, now)?;
                if batch.due().is_none_or(|due| due > now) {
                    continue;
                }
                batch.take()
            };
            let (mut changes, rules) = (Vec::new(), Arc::clone(&self.rules));
            self.look(&paths, &mut |path| {
                if rules.concern(path) {
                    changes.push(path.to_owned());
                }
            })?;
            listened = self.say_blind() && (changes.is_empty() || self.say(Found::Changes(changes)));
        }
        Ok(())
    }

    fn roots(&self) -> BTreeSet<PathBuf> {
        self.rules.roots().into_iter().map(Path::to_owned).collect()
    }

    /// Returns whether anybody listens.
    fn say(&self, found: Found) -> bool {
        self.sender.blocking_send(found).is_ok()
    }

    fn say_blind(&mut self) -> bool {
        let blind = std::mem::take(&mut self.eyes.blind);
        blind.into_iter().all(|(path, error)| self.say(Found::Unreadable(path, error)))
    }

    /// Waits for events or the time; returns whether to go on.
    fn wait(&self, stop: &PipeReader, due: Option<Instant>) -> Result<bool, WatchError> {
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.eyes.directories.as_ref().map(|known| PollFd::new(known.as_fd(), PollFlags::POLLIN)));
        let timeout = match due {
            None => PollTimeout::NONE,
            Some(due) => {
                // One that is rounded down would come too early, again and again.
                let left = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(!fds[0].any().unwrap_or(true)),
            Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(WatchError::Read(errno.into())),
        }
    }

    /// Takes the events that there are.
    fn note(&mut self, batch: &mut Batch, now: Instant) -> Result<(), WatchError> {
        let Some(directories) = &mut self.eyes.directories else { return Ok(()) };
        for event in directories.read()? {
            match event {
                Event::Path { path, directory, settled } => {
                    // One that came and went was never there.
                    let settled = settled || !self.tree.knows(&path);
                    if batch.has(&path) {
                        batch.note(path, settled, now);
                        continue;
                    }
                    for concerned in self.concerned(path, directory) {
                        batch.note(concerned, settled, now);
                    }
                }
                Event::Lost(path) => {
                    if self.rules.looks_into(&path) {
                        batch.note(path.clone(), false, now);
                    }
                    for root in self.rules.roots() {
                        if root.starts_with(&path) || root.parent() == Some(path.as_path()) {
                            batch.note(root.to_owned(), false, now);
                        }
                    }
                }
                Event::Overflow => {
                    for root in self.rules.roots() {
                        batch.note(root.to_owned(), true, now);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns what is to be looked at when something happened to a path.
    fn concerned(&self, path: PathBuf, directory: bool) -> Vec<PathBuf> {
        if self.rules.concern(&path) || (directory && self.rules.looks_into(&path)) || self.tree.knows(&path) {
            return vec![path];
        }
        // What leads to a root may have come, gone or become something else.
        self.rules.roots().into_iter().filter(|root| root.starts_with(&path)).map(Path::to_owned).collect()
    }

    /// Looks at paths, and tells `changed` of what is not as it was.
    fn look(&mut self, paths: &BTreeSet<PathBuf>, changed: &mut impl FnMut(&Path)) -> Result<(), WatchError> {
        self.anchor()?;
        let mut above: Option<&Path> = None;
        for path in paths {
            // What is in another one of them, which it follows in their order, is looked at with that.
            if above.is_none_or(|above| !path.starts_with(above)) {
                self.tree.look(path, &mut self.eyes, changed)?;
                above = Some(path);
            }
        }
        Ok(())
    }

    /// Watches the directories that the roots are in: a root is replaced, or made, there.
    fn anchor(&mut self) -> Result<(), WatchError> {
        let Some(directories) = &mut self.eyes.directories else { return Ok(()) };
        for root in self.rules.roots() {
            for above in root.ancestors().skip(1) {
                if directories.has(above) || directories.add(above)? {
                    break;
                }
            }
        }
        Ok(())
    }
}
