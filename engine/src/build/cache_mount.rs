//! Cache mounts: directories that stay from one build to the next, for package managers and compilers.
//!
//! A directory below `build/mounts` is one cache. Whoever has it mounted holds a lock on the file beside it: shared, or
//! alone where it is to be `locked`. A `private` one is the first of its name that nobody has.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{Attributes, CopyError, Destination, Source};
use super::graph::Sharing;
use super::tree::{Tree, TreeError};
use crate::image::Digest;
use crate::root::make_directory;

/// Why a cache mount cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheMountError {
    /// Its directory cannot be used.
    #[error("cannot {action} {}, which the cache mount {id} is", path.display())]
    Io {
        /// Its name.
        id: String,
        /// What was being done.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What it begins as cannot be found.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What it begins as cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

/// What is wanted.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) id: &'a str,
    pub(super) sharing: Sharing,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A cache that nobody removes, and that is shared as it was wanted, for as long as this value lives.
#[derive(Debug, Clone)]
pub(super) struct CacheMount {
    pub(super) id: String,
    /// Where it is mounted.
    pub(super) target: String,
    pub(super) directory: PathBuf,
    /// Held for its lock.
    _lock: Arc<File>,
}

impl CacheMount {
    /// Returns the same cache at another place of the same command.
    pub(super) fn at(&self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self.clone() }
    }
}

/// Returns a cache, making it where it is new: empty, or with what a directory of a tree has. May wait for who has it.
pub(super) fn hold(
    directory: &Path,
    wish: &Wish<'_>,
    target: &str,
    initial: Option<(&Tree, &str)>,
) -> Result<CacheMount, CacheMountError> {
    let failed = |action, path: &Path| {
        let (id, path) = (wish.id.to_owned(), path.to_owned());
        move |source| CacheMountError::Io { id, action, path, source }
    };
    make_directory(directory).map_err(failed("create", directory))?;
    let name = Digest::of(wish.id.as_bytes()).hex();
    let mut number = 0;
    loop {
        let path = directory.join(format!("{name}-{number}"));
        let lock_path = path.with_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed("open", &lock_path))?;
        match wish.sharing {
            Sharing::Shared => lock.lock_shared().map_err(failed("lock", &lock_path))?,
            Sharing::Locked => lock.lock().map_err(failed("lock", &lock_path))?,
            Sharing::Private => match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    number += 1;
                    continue;
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
            },
        }
        if !path.exists() {
            begin(&path, wish, initial, &failed)?;
        }
        return Ok(CacheMount {
            id: wish.id.to_owned(),
            target: target.to_owned(),
            directory: path,
            _lock: Arc::new(lock),
        });
    }
}

/// Makes a cache aside and gives it its name, so that it is there whole or not at all.
fn begin<E: FnOnce(io::Error) -> CacheMountError>(
    path: &Path,
    wish: &Wish<'_>,
    initial: Option<(&Tree, &str)>,
    failed: &impl Fn(&'static str, &Path) -> E,
) -> Result<(), CacheMountError> {
    let new = path.with_extension(format!("new-{}", crate::id::Id::random().short()));
    DirBuilder::new().mode(0o700).create(&new).map_err(failed("create", &new))?;
    if let Some((tree, source)) = initial {
        let root = File::open(&new).map_err(failed("open", &new))?;
        let attributes = Attributes::default();
        for found in &tree.find(source, true)? {
            let destination = Destination { root: root.as_fd(), path: "/", attributes: &attributes };
            destination.copy(&Source { tree, found, unpack: false }, false)?;
        }
    }
    chown(&new, Some(wish.uid), Some(wish.gid)).map_err(failed("set the owner of", &new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(wish.mode)).map_err(failed("set the mode of", &new))?;
    match fs::rename(&new, path) {
        // Somebody else who shares it was faster.
        Err(_) if path.exists() => crate::image::remove::remove_path(&new).map_err(failed("remove", &new)),
        renamed => renamed.map_err(failed("rename", &new)),
    }
}
