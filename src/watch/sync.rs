//! Files of this host → a container, as they are at that moment.
//!
//! Nothing is executed in the container. What is gone here goes there. No link on the way from the root of a rule is followed
//! here, and none leads out of the container there ([`Placer`]).

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use rcompose_engine::container::beneath;
use rcompose_engine::container::files::{Attributes, FilesError, PlaceError, Placer, View, last, parent, with_root};
use rcompose_engine::container::store::Container;
use rcompose_engine::root::Root;

use super::machine::Item;
use super::rules::{Rule, Rules};

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

/// Brings files into a container. An error means that the container could not be reached: it may have ended.
pub fn sync(root: &Root, container: &Container, rules: &Rules, items: &BTreeSet<Item>) -> Result<Outcome, FilesError> {
    with_root(root, container, View::Whole { write: true }, |inside| {
        let mut placer = Placer::new(inside);
        let mut outcome = Outcome::default();
        for item in items {
            let rule = &rules.rules[item.rule];
            let Some(target) = rule.target_of(&item.path) else { continue };
            match put(&mut placer, rule, &item.path, &target) {
                Ok(false) => {}
                Ok(true) => {
                    outcome.count += 1;
                    outcome.wrote.insert(item.rule);
                }
                Err(error) => outcome.errors.push(error),
            }
        }
        outcome
    })
}

/// Returns whether anything changed in the container.
fn put(placer: &mut Placer<'_>, rule: &Rule, path: &Path, target: &Path) -> Result<bool, SyncError> {
    let failed = |errno: Errno| SyncError::Read { path: path.to_owned(), source: errno.into() };
    // Where the rule is about a directory, that itself is neither replaced nor removed.
    let is_below = path != rule.root;
    let Some((directory, there)) = find(rule, path).map_err(failed)? else {
        return Ok(placer.remove(target, is_below)?);
    };
    let name = last(path).unwrap_or(path.as_os_str());
    match SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR if is_below => Ok(placer.directory(target, there.st_mode)?),
        SFlag::S_IFLNK => match readlinkat(&directory, name) {
            Ok(leads) => Ok(placer.link(target, &leads, is_below)?),
            // It is something else by now, which will be told.
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(false),
            Err(errno) => Err(failed(errno)),
        },
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            match openat(&directory, name, flags, Mode::empty()) {
                Ok(file) => {
                    let mut file = File::from(file);
                    let found = file.metadata().map_err(|source| SyncError::Read { path: path.to_owned(), source })?;
                    Ok(placer.file(target, &mut file, attributes(&found), is_below)?)
                }
                // Likewise.
                Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => Ok(false),
                Err(errno) => Err(failed(errno)),
            }
        }
        // Sockets and the like mean nothing elsewhere.
        _ => Ok(false),
    }
}

fn attributes(found: &Metadata) -> Attributes {
    Attributes { mode: found.mode(), modified: (found.mtime(), found.mtime_nsec()) }
}

/// Finds a file of this host, with the directory that it is in; `None`: it is not there.
fn find(rule: &Rule, path: &Path) -> nix::Result<Option<(OwnedFd, FileStat)>> {
    let found = directory_of(rule, path).and_then(|directory| {
        let name = last(path).unwrap_or(path.as_os_str());
        let there = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok((directory, there))
    });
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
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
