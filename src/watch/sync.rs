//! Files of this host → a container, as they are at that moment.
//!
//! Nothing is executed in the container. What is gone here goes there. No link on the way from the root of a rule is followed
//! here, and none leads out of the container there ([`Placer`]).

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::num::NonZero;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::{io, iter, thread};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use rcompose_engine::container::beneath;
use rcompose_engine::container::files::{
    Attributes, FilesError, PlaceError, Placer, Spot, View, last, parent, with_root,
};
use rcompose_engine::container::store::Container;
use rcompose_engine::root::Root;

use super::machine::Item;
use super::rules::{Rule, Rules};

/// As many items are worth a thread of their own.
const WORTH: usize = 32;
/// As many files are given to a thread at once.
const GROUP: usize = 16;
/// As many groups wait for a thread. Each file may hold two descriptors, of which a process has few.
const WAITING: usize = 4;

/// A file that is not in the container as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl SyncError {
    /// Returns what can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Place(PlaceError::Directory(_)) => {
                Some("`path` is a file, so `target` has to be one as well: name it with the file's name")
            }
            Self::Place(error) if error.errno() == Some(Errno::EROFS) => {
                Some("the target is on a read-only file system: mount a volume or a tmpfs there")
            }
            Self::Place(error) if error.errno() == Some(Errno::EBUSY) => {
                Some("the target is mounted there by itself: mount the directory that it is in instead")
            }
            _ => None,
        }
    }
}

/// What became of the files.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rules of which something was not there yet.
    pub wrote: BTreeSet<usize>,
    /// How many were not.
    pub count: usize,
    pub errors: Vec<SyncError>,
}

impl Outcome {
    fn note(&mut self, rule: usize, changed: Result<bool, SyncError>) {
        match changed {
            Ok(false) => {}
            Ok(true) => {
                self.count += 1;
                self.wrote.insert(rule);
            }
            Err(error) => self.errors.push(error),
        }
    }
}

/// Brings files into a container. An error means that the container could not be reached: it may have ended.
pub fn sync(root: &Root, container: &Container, rules: &Rules, items: &BTreeSet<Item>) -> Result<Outcome, FilesError> {
    with_root(root, container, View::Whole { write: true }, |inside| {
        let items = items.iter().collect::<Vec<_>>();
        let mut outcome = Outcome::default();
        // One rule after the other: where two have one target, the later one decides.
        for items in items.chunk_by(|one, other| one.rule == other.rule) {
            let number = items[0].rule;
            bring(Walk::new(inside, &rules.rules[number]), items, |changed| outcome.note(number, changed));
        }
        outcome
    })
}

/// Brings what one rule is about. Everything is looked at in order, so that a directory is there before what is in it; the
/// files are then copied by several threads, where there are enough.
fn bring<'i>(mut walk: Walk<'_, 'i>, items: &[&'i Item], mut note: impl FnMut(Result<bool, SyncError>)) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let (sender, receiver) = mpsc::sync_channel::<Vec<Copying<'i>>>(WAITING);
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        let workers = iter::repeat_with(|| scope.spawn(|| work(&receiver))).take((items.len() / WORTH).min(cores));
        let workers = workers.collect::<Vec<_>>();
        let mut group = Vec::new();
        for item in items {
            match walk.step(&item.path) {
                Ok(Step::Done(changed)) => note(Ok(changed)),
                Ok(Step::Copy(copying)) if workers.is_empty() => note(copying.copy()),
                Ok(Step::Copy(copying)) => group.push(copying),
                Err(error) => note(Err(error)),
            }
            if group.len() == GROUP {
                sender.send(std::mem::take(&mut group)).expect("the receiver is dropped after this");
            }
        }
        sender.send(group).expect("the receiver is dropped after this");
        drop(sender);
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).into_iter().for_each(&mut note);
        }
    });
}

/// Copies what comes until nothing more does.
fn work(groups: &Mutex<mpsc::Receiver<Vec<Copying<'_>>>>) -> Vec<Result<bool, SyncError>> {
    let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
    iter::from_fn(next).flatten().map(|copying| copying.copy()).collect()
}

/// Looks at what one rule is about, here and in the container.
struct Walk<'r, 'i> {
    rule: &'r Rule,
    placer: Placer<'r>,
    /// The directory that was needed last: what follows is often in it too.
    last: Option<(&'i Path, Arc<OwnedFd>)>,
}

/// What becomes of a path.
enum Step<'i> {
    /// It is as it should be; whether anything changed for that.
    Done(bool),
    /// It is a file.
    Copy(Copying<'i>),
}

/// A file that is to be copied.
struct Copying<'i> {
    directory: Arc<OwnedFd>,
    path: &'i Path,
    spot: Spot,
    /// Whether it may take the place of a directory.
    over: bool,
}

impl<'r, 'i> Walk<'r, 'i> {
    fn new(inside: BorrowedFd<'r>, rule: &'r Rule) -> Self {
        Self { rule, placer: Placer::new(inside), last: None }
    }

    fn step(&mut self, path: &'i Path) -> Result<Step<'i>, SyncError> {
        let Some(target) = self.rule.target_of(path) else { return Ok(Step::Done(false)) };
        let failed = |errno: Errno| SyncError::Read { path: path.to_owned(), source: errno.into() };
        // Where the rule is about a directory, that itself is neither replaced nor removed.
        let over = path != self.rule.root;
        let name = last(path).unwrap_or(path.as_os_str());
        let found = self.directory_of(path).and_then(|directory| {
            let there = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            Ok((directory, there))
        });
        let (directory, there) = match found {
            Ok(found) => found,
            // Of what it was in, something else was made. Where that was brought over, the path may lead elsewhere.
            Err(Errno::ENOTDIR | Errno::ELOOP) if is_replaced(self.rule, path) => return Ok(Step::Done(false)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                return Ok(Step::Done(self.placer.remove(&target, over)?));
            }
            Err(errno) => return Err(failed(errno)),
        };
        let changed = match SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR if over => self.placer.directory(&target, there.st_mode)?,
            SFlag::S_IFLNK => match readlinkat(&directory, name) {
                Ok(leads) => self.placer.link(&target, &leads, over)?,
                // It is something else by now, which will be told.
                Err(Errno::ENOENT | Errno::EINVAL) => false,
                Err(errno) => return Err(failed(errno)),
            },
            SFlag::S_IFREG => {
                let spot = self.placer.spot(&target)?;
                return Ok(Step::Copy(Copying { directory, path, spot, over }));
            }
            // Sockets and the like mean nothing elsewhere.
            _ => false,
        };
        Ok(Step::Done(changed))
    }

    /// Opens the directory that a path of this host is in.
    fn directory_of(&mut self, path: &'i Path) -> nix::Result<Arc<OwnedFd>> {
        let above = path.parent().unwrap_or(path);
        if let Some((known, directory)) = &self.last
            && *known == above
        {
            return Ok(Arc::clone(directory));
        }
        let directory = Arc::new(directory_of(self.rule, path)?);
        self.last = Some((above, Arc::clone(&directory)));
        Ok(directory)
    }
}

impl Copying<'_> {
    /// Returns whether anything changed.
    fn copy(&self) -> Result<bool, SyncError> {
        let failed = |source: io::Error| SyncError::Read { path: self.path.to_owned(), source };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let name = last(self.path).unwrap_or(self.path.as_os_str());
        let mut file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // It is something else by now, which will be told.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Ok(false),
            Err(errno) => return Err(failed(errno.into())),
        };
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Ok(false);
        }
        Ok(self.spot.file(&mut file, attributes(&found), self.over)?)
    }
}

fn attributes(found: &Metadata) -> Attributes {
    Attributes { mode: found.mode(), modified: (found.mtime(), found.mtime_nsec()) }
}

/// Returns whether something that is no directory, and that the rule brings over, is above a path.
fn is_replaced(rule: &Rule, path: &Path) -> bool {
    let mut above = path.ancestors().skip(1).take_while(|above| above.starts_with(&rule.root));
    above.any(|above| {
        let is_brought = |found: Metadata| found.is_file() || found.is_symlink();
        rule.matches(above) && fs::symlink_metadata(above).is_ok_and(is_brought)
    })
}

fn directory_of(rule: &Rule, path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Some(below) = path.strip_prefix(&rule.root).ok().filter(|below| !below.as_os_str().is_empty()) else {
        return nix::fcntl::open(&parent(path), flags, Mode::empty());
    };
    let root = nix::fcntl::open(&rule.root, flags, Mode::empty())?;
    match below.parent().filter(|between| !between.as_os_str().is_empty()) {
        None => Ok(root),
        Some(between) => beneath::open_directory(root.as_fd(), between),
    }
}
