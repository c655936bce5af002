//! Forgetting what builds have kept: which step made which layer, cache mounts, what is known of contexts.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::web;
use crate::container::store;
use crate::error::chain;
use crate::image::remove::remove_path;
use crate::image::{Step, StepKey, Store, StoreError};
use crate::root::Root;

/// Why not everything could be forgotten.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not known which layers containers need.
    #[error(transparent)]
    Containers(#[from] store::StoreError),
    /// A cache mount cannot be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What is forgotten.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Also steps whose layers images have, cache mounts, and what is known of contexts.
    pub all: bool,
    /// Only what was of no use since then.
    pub until: Option<Timestamp>,
}

/// What was forgotten.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The steps, by their keys.
    pub steps: Vec<(StepKey, Step)>,
    /// Bytes that were freed.
    pub bytes: u64,
}

/// Forgets, and frees what nothing needs any more. Waits for builds to end.
pub fn prune(root: &Root, store: &Store, options: PruneOptions) -> Result<Pruned, PruneError> {
    let mut pruned = Pruned::default();
    let kept: HashSet<_> = store.list()?.into_iter().flat_map(|image| image.diff_ids).collect();
    for (key, step) in store.steps()? {
        let old = options.until.is_none_or(|until| step.used.unwrap_or(step.created) < until);
        if old && (options.all || !kept.contains(&step.layer)) {
            store.forget_step(&key)?;
            pruned.steps.push((key, step));
        }
    }
    if options.all && options.until.is_none() {
        pruned.bytes += clear_mounts(&mounts(root))?;
        for known in ["build/contexts", "build/compressed"] {
            let path = root.data().join(known);
            remove_path(&path).map_err(|source| PruneError::Remove { path, source })?;
        }
        let web = web::kept(root);
        pruned.bytes += size(&web);
        clear(&web).map_err(|source| PruneError::Remove { path: web, source })?;
    }
    let freed = store.gc(|| store::layers(root).map_err(PruneError::from))?;
    pruned.bytes += freed.bytes;
    Ok(pruned)
}

/// Returns the directory of cache mounts.
pub fn mounts(root: &Root) -> PathBuf {
    root.data().join("build/mounts")
}

/// Removes the cache mounts that nobody has. Returns the bytes of their files.
fn clear_mounts(directory: &Path) -> Result<u64, PruneError> {
    let mut bytes = 0;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PruneError::Remove { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed(directory))?,
    };
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let lock = File::open(&path).map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        let mount = path.with_extension("");
        bytes += size(&mount);
        // The lock's file stays: somebody may be waiting for it.
        remove_path(&mount).map_err(failed(&mount))?;
    }
    Ok(bytes)
}

/// Removes everything in a directory, which stays: builds may put something into it right now.
fn clear(directory: &Path) -> io::Result<()> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        entries => entries?.try_for_each(|entry| remove_path(&entry?.path())),
    }
}

/// Returns about how many bytes a directory holds.
fn size(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut rest = vec![directory.to_owned()];
    while let Some(directory) = rest.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => rest.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(error) => tracing::debug!(error = chain(&error), "a file of a cache mount has just gone"),
            }
        }
    }
    bytes
}
