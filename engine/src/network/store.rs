//! Files: records of networks in `networks/<id>.json`, registries of endpoints in `networks/<id>.json` of the run-time
//! directory, and the lock that several supervisors share.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a file of ours could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot lock {}", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Whether a file must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is flushed to the disk before it takes its name.
    Disk,
    /// It lives on tmpfs.
    Memory,
}

/// The extension of a file before it takes its place.
const ASIDE: &str = "new";

/// Replaces a file's content at once: whoever reads it sees the old or the new one whole. The caller holds the lock of
/// its directory.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<(), StoreError> {
    let failed = |source| StoreError::Write { path: path.to_owned(), source };
    let bytes = match durability {
        // People read it.
        Durability::Disk => serde_json::to_vec_pretty(value),
        // It is written for every container that comes or goes.
        Durability::Memory => serde_json::to_vec(value),
    };
    let bytes = bytes.map_err(|error| failed(error.into()))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed)?;
    let aside = path.with_extension(ASIDE);
    let put = || {
        let mut file = File::create(&aside)?;
        file.write_all(&bytes)?;
        if durability == Durability::Disk {
            file.sync_all()?;
        }
        fs::rename(&aside, path)?;
        if durability == Durability::Disk {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    put().map_err(|error| {
        // What is left of a failed attempt is in nobody's way, and the first error is the one that counts.
        let _ = fs::remove_file(&aside);
        failed(error)
    })
}

/// Reads a file; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StoreError::Parse { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Read { path: path.to_owned(), source }),
    }
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Write { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Lists the JSON files of a directory; none if there is no such directory.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    files(directory, "json")
}

/// Removes what processes have left that were killed while they wrote. The caller holds the lock of the directory.
pub(crate) fn sweep(directory: &Path) -> Result<(), StoreError> {
    files(directory, ASIDE)?.iter().try_for_each(|path| remove(path))
}

fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|own| own == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Takes the lock that guards every change of networks and endpoints below a root; it is held until the file drops.
pub(crate) fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let take = || {
        fs::create_dir_all(directory)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    take().map_err(|source| StoreError::Lock { path: path.clone(), source })
}

/// Takes the lock that guards the choice of subnets on this host, whatever the root: the network namespace itself, so
/// that nothing is left of it.
pub(crate) fn lock_host() -> Result<File, StoreError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let take = || {
        let file = File::open(path)?;
        file.lock()?;
        Ok(file)
    };
    take().map_err(|source| StoreError::Lock { path: path.to_owned(), source })
}
