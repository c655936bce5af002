//! Brings the lines of growing logs into the order of time.
//!
//! Every container's shim writes the time beside a line and then the line into the container's own log, so that of two logs the
//! one with the later line may be seen first. What was read waits for a moment ([`HOLD`]); then all logs are read, and what
//! waited is shown in order with everything older that came meanwhile. A log alone waits for nobody.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;
use rcompose_engine::container::log::reader::{Entry, Follow};
use rcompose_engine::container::log::{self, Options};
use rcompose_engine::id::Id;
use rcompose_engine::sys::readiness;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{lock, show};
use crate::ui::logs::{Printer, Source};

/// How long a line waits for older ones of other containers. Nobody sees it, and a shim has written its line long before.
const HOLD: Duration = Duration::from_millis(20);

/// How much of a log is read ahead of the others, in bytes.
const AHEAD: usize = 1 << 20;

/// What a feed is told.
#[derive(Debug)]
pub(super) enum Told {
    Begin(Box<Feed>),
    /// Say this of the container, after everything it wrote before.
    Status(String),
    /// Nothing more is to come.
    End,
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct Feed {
    source: Source,
    follow: Follow,
    grown: AsyncFd<OwnedFd>,
    queue: Queue,
    /// What follows when everything that is in the log has been read.
    then: VecDeque<What>,
    /// Whether there may be more in the log than was read.
    more: bool,
}

/// What was read of a log and is not shown yet, in the order of the log.
#[derive(Debug)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// The latest time of all items so far: a clock that was set back does not change the order of a log.
    last: Timestamp,
}

#[derive(Debug)]
struct Item {
    time: Timestamp,
    what: What,
}

#[derive(Debug)]
enum What {
    Entry { stream: log::Stream, time: String, text: Vec<u8> },
    Status(String),
    End,
}

impl Feed {
    /// Opens a log; what is written to it from now on is noticed.
    pub(super) fn open(source: Source, path: &Path, options: &Options) -> io::Result<Self> {
        let follow = Follow::new(path, options, true)?;
        let grown = readiness::watch_reading(follow.as_fd().try_clone_to_owned()?)?;
        let queue = Queue { items: VecDeque::new(), bytes: 0, last: Timestamp::MIN };
        Ok(Self { source, follow, grown, queue, then: VecDeque::new(), more: true })
    }

    /// Reads what is new, as far as there is room for it.
    fn read(&mut self) -> io::Result<()> {
        let queue = &mut self.queue;
        if queue.bytes >= AHEAD {
            return Ok(());
        }
        let read = self.follow.advance(&mut |entry| {
            queue.push(entry);
            // It goes on behind this entry.
            if queue.bytes < AHEAD { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        self.more = match read {
            Ok(over) => {
                if over {
                    self.then.push_back(What::End);
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) => return Err(error),
        };
        if !self.more {
            let now = Timestamp::now();
            self.then.drain(..).for_each(|what| self.queue.push_at(now, what));
        }
        Ok(())
    }
}

impl Queue {
    fn push(&mut self, entry: Entry<'_>) {
        let Entry { stream, time, text } = entry;
        self.bytes += text.len();
        let what = What::Entry { stream, time: time.to_owned(), text: text.to_owned() };
        self.push_at(entry.timestamp().unwrap_or(self.last), what);
    }

    fn push_at(&mut self, time: Timestamp, what: What) {
        self.last = self.last.max(time);
        self.items.push_back(Item { time: self.last, what });
    }

    /// Returns the next item, unless it is later than `limit`.
    fn pop(&mut self, limit: Timestamp) -> Option<What> {
        let item = self.items.pop_front_if(|item| item.time <= limit)?;
        if let What::Entry { text, .. } = &item.what {
            self.bytes -= text.len();
        }
        Some(item.what)
    }
}

/// Shows logs until nobody can tell of another one and all have been shown.
pub(super) async fn run(
    printer: Arc<Mutex<Printer>>,
    split: bool,
    mut told: mpsc::Receiver<(Id, Told)>,
) -> io::Result<()> {
    let mut feeds = Vec::<(Id, Feed)>::new();
    // Up to when everything was read that is to be shown next, and when.
    let mut due = None::<(Timestamp, Instant)>;
    // When the last log was added. Others of the same command follow at once.
    let mut begun = Instant::now();
    let mut closed = false;
    loop {
        tokio::select! {
            message = told.recv(), if !closed => match message {
                Some((id, Told::Begin(feed))) => {
                    begun = Instant::now();
                    feeds.push((id, *feed));
                }
                Some((id, Told::Status(text))) => after(&mut feeds, &id, What::Status(text)),
                Some((id, Told::End)) => after(&mut feeds, &id, What::End),
                None => {
                    closed = true;
                    for (_, feed) in &mut feeds {
                        feed.then.push_back(What::End);
                    }
                }
            },
            grown = grown(&feeds), if due.is_none() => grown?,
            () = tokio::time::sleep_until(due.map_or_else(Instant::now, |(_, at)| at)), if due.is_some() => {}
        }
        loop {
            for (_, feed) in &mut feeds {
                feed.read()?;
            }
            let latest = feeds.iter().filter_map(|(_, feed)| feed.queue.items.back()).map(|item| item.time).max();
            // Nothing older than its last line can come of a log that was not read to its end.
            let unread = feeds.iter().filter(|(_, feed)| feed.more).map(|(_, feed)| feed.queue.last).min();
            let complete = closed || begun.elapsed() >= HOLD;
            let limit = match (unread, due, latest) {
                (Some(unread), ..) if complete => unread,
                (None, _, Some(latest)) if closed || complete && feeds.len() == 1 => latest,
                (_, Some((limit, at)), _) if at <= Instant::now() => limit,
                _ => break,
            };
            print(&mut feeds, &mut lock(&printer), split, limit)?;
            if unread.is_none() {
                due = None;
                break;
            }
        }
        if due.is_none() {
            let latest = feeds.iter().filter_map(|(_, feed)| feed.queue.items.back()).map(|item| item.time).max();
            due = latest.map(|latest| (latest, Instant::now() + HOLD));
        }
        if closed && feeds.is_empty() {
            return lock(&printer).flush();
        }
    }
}

/// Notes what follows when everything that a container wrote has been shown.
fn after(feeds: &mut [(Id, Feed)], id: &Id, what: What) {
    if let Some((_, feed)) = feeds.iter_mut().find(|(known, _)| known == id) {
        feed.then.push_back(what);
    }
}

/// Waits until one of the logs may have grown.
async fn grown(feeds: &[(Id, Feed)]) -> io::Result<()> {
    std::future::poll_fn(|context| {
        let mut any = Poll::Pending;
        for (_, feed) in feeds {
            if let Poll::Ready(ready) = feed.grown.poll_read_ready(context) {
                ready?.clear_ready();
                any = Poll::Ready(Ok(()));
            }
        }
        any
    })
    .await
}

/// Prints what is not later than `limit`, the oldest first, and forgets those that have ended.
fn print(feeds: &mut Vec<(Id, Feed)>, printer: &mut Printer, split: bool, limit: Timestamp) -> io::Result<()> {
    loop {
        let heads = feeds.iter().enumerate().filter_map(|(n, (_, feed))| Some((feed.queue.items.front()?.time, n)));
        let Some((_, n)) = heads.filter(|(time, _)| *time <= limit).min() else { break };
        // As long as no other's is older, its next ones follow: logs come in long runs of one.
        let others = feeds.iter().enumerate().filter(|(other, _)| *other != n);
        let next = others.filter_map(|(_, (_, feed))| Some(feed.queue.items.front()?.time)).min();
        let run = next.map_or(limit, |next| next.min(limit));
        let (_, feed) = &mut feeds[n];
        let source = feed.source;
        let mut ended = false;
        while let Some(what) = feed.queue.pop(run) {
            match what {
                What::Entry { stream, time, text } => {
                    show(printer, source, split, Entry { stream, time: &time, text: &text })?;
                }
                What::Status(text) => {
                    printer.end(source)?;
                    printer.status(source, &text)?;
                }
                What::End => {
                    printer.end(source)?;
                    ended = true;
                    break;
                }
            }
        }
        if ended {
            feeds.remove(n);
        }
    }
    printer.flush()
}
