//! Directories whose events the kernel tells (`inotify(7)`).
//!
//! A watch is on a directory itself and goes along when it is moved; so what was moved is forgotten, and watched anew where it
//! is looked at again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags as Flags, Inotify, WatchDescriptor};
use rcompose_engine::host;

/// Where the limit of watches is (`inotify(7)`).
const WATCHES: &str = "/proc/sys/fs/inotify/max_user_watches";

/// Why directories cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot watch files: the limit fs.inotify.max_user_instances is reached")]
    Instances(#[source] io::Error),
    #[error("cannot watch {}: the limit fs.inotify.max_user_watches{} is reached", path.display(), shown(*limit))]
    Watches { path: PathBuf, limit: Option<u64> },
    #[error("cannot watch {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read what changed")]
    Read(#[source] io::Error),
}

fn shown(limit: Option<u64>) -> String {
    limit.map(|limit| format!(" ({limit})")).unwrap_or_default()
}

impl WatchError {
    /// Returns what can be done about it.
    pub fn hint(&self) -> Option<String> {
        let name = match self {
            Self::Instances(_) => "instances=1024".to_owned(),
            Self::Watches { limit, .. } => format!("watches={}", limit.unwrap_or(0).saturating_mul(4).max(524_288)),
            Self::Directory { .. } | Self::Read(_) => return None,
        };
        Some(format!("sysctl fs.inotify.max_user_{name}, or look at the files every second instead: --poll 1"))
    }
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// To what has this name in a watched directory.
    Path { path: PathBuf, directory: bool, settled: bool },
    /// To a watched directory itself, which is not where it was.
    Lost(PathBuf),
    /// More than the kernel keeps, so that some is not known.
    Overflow,
}

/// The directories that are watched.
#[derive(Debug)]
pub struct Directories {
    inotify: Inotify,
    paths: HashMap<WatchDescriptor, PathBuf>,
    descriptors: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Directories {
    pub fn new() -> Result<Self, WatchError> {
        let inotify = host::inotify().map_err(WatchError::Instances)?;
        Ok(Self { inotify, paths: HashMap::new(), descriptors: BTreeMap::new() })
    }

    /// Watches a directory, from before it is read. Returns whether there is one.
    pub fn add(&mut self, path: &Path) -> Result<bool, WatchError> {
        let flags = Flags::IN_CREATE
            | Flags::IN_MODIFY
            | Flags::IN_CLOSE_WRITE
            | Flags::IN_ATTRIB
            | Flags::IN_MOVE
            | Flags::IN_DELETE
            | Flags::IN_DELETE_SELF
            | Flags::IN_MOVE_SELF
            | Flags::IN_ONLYDIR
            | Flags::IN_DONT_FOLLOW;
        let descriptor = match self.inotify.add_watch(path, flags) {
            Ok(descriptor) => descriptor,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(false),
            Err(Errno::ENOSPC) => {
                let limit = std::fs::read_to_string(WATCHES).ok().and_then(|text| text.trim().parse().ok());
                return Err(WatchError::Watches { path: path.to_owned(), limit });
            }
            Err(errno) => return Err(WatchError::Directory { path: path.to_owned(), source: errno.into() }),
        };
        // It may have been watched under another name, or another directory under this one.
        if let Some(before) = self.paths.insert(descriptor, path.to_owned())
            && before != path
        {
            self.descriptors.remove(&before);
        }
        if let Some(before) = self.descriptors.insert(path.to_owned(), descriptor)
            && before != descriptor
        {
            self.drop_watch(before);
        }
        Ok(true)
    }

    pub fn has(&self, path: &Path) -> bool {
        self.descriptors.contains_key(path)
    }

    /// Watches a directory and those in it no longer.
    pub fn forget(&mut self, path: &Path) {
        let below = (Bound::Included(path.to_owned()), Bound::Unbounded);
        let known = self.descriptors.range(below).map(|(known, _)| known).take_while(|known| known.starts_with(path));
        for known in known.cloned().collect::<Vec<_>>() {
            if let Some(descriptor) = self.descriptors.remove(&known) {
                self.drop_watch(descriptor);
            }
        }
    }

    fn drop_watch(&mut self, descriptor: WatchDescriptor) {
        self.paths.remove(&descriptor);
        // The directory may be gone, and the watch with it.
        let _ = self.inotify.rm_watch(descriptor);
    }

    /// Returns the events that are there; none: nothing has happened.
    pub fn read(&mut self) -> Result<Vec<Event>, WatchError> {
        let read = match self.inotify.read_events() {
            Ok(read) => read,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(WatchError::Read(errno.into())),
        };
        let mut events = Vec::with_capacity(read.len());
        for event in read {
            if event.mask.contains(Flags::IN_Q_OVERFLOW) {
                events.push(Event::Overflow);
                continue;
            }
            // One of a watch that was given up says nothing that is not looked at anyway.
            let Some(path) = self.paths.get(&event.wd) else { continue };
            match event.name {
                Some(name) => {
                    let event = named(path, name, event.mask);
                    if let Event::Path { path, directory: true, settled: false } = &event {
                        self.forget(path);
                    }
                    events.push(event);
                }
                None if event.mask.intersects(Flags::IN_DELETE_SELF | Flags::IN_MOVE_SELF | Flags::IN_IGNORED) => {
                    let path = path.clone();
                    self.forget(&path);
                    events.push(Event::Lost(path));
                }
                // Its own mode: the directory above tells it by name.
                None => {}
            }
        }
        Ok(events)
    }
}

fn named(directory: &Path, name: OsString, mask: Flags) -> Event {
    let is_directory = mask.contains(Flags::IN_ISDIR);
    let goes = mask.intersects(Flags::IN_DELETE | Flags::IN_MOVED_FROM);
    // A file is written after it was created, and a directory is there.
    let begins = mask.contains(Flags::IN_MODIFY) || (mask.contains(Flags::IN_CREATE) && !is_directory);
    Event::Path { path: directory.join(name), directory: is_directory, settled: !goes && !begins }
}

impl AsFd for Directories {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
