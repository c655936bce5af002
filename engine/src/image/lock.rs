//! Advisory locks between processes, by `flock(2)` on files that exist only while somebody holds or awaits them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A lock that is held until it is dropped. The kernel drops it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    temporary: bool,
}

impl Lock {
    /// Waits for the lock. `notify` is called once if it cannot be had at once.
    pub(crate) fn exclusive(path: &Path, notify: impl FnOnce()) -> io::Result<Self> {
        let mut notify = Some(notify);
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(notify) = notify.take() {
                        notify();
                    }
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The last holder may have removed the file while we waited; then ours guards nothing.
            if is_current(&file, path)? {
                return Ok(Self { file, path: path.to_owned(), temporary: true });
            }
        }
    }

    /// Waits until nobody holds the lock exclusively, and keeps it so. The file stays.
    pub(crate) fn shared(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.lock_shared()?;
        Ok(Self { file, path: path.to_owned(), temporary: false })
    }

    /// Waits for an exclusive lock on a file that is never removed (one that others take shared).
    pub(crate) fn exclusive_permanent(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.lock()?;
        Ok(Self { file, path: path.to_owned(), temporary: false })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removing before unlocking: whoever waits on this inode finds that it is no longer the path's and tries again.
        // A file that cannot be removed is harmless, it is just found again.
        if self.temporary {
            let _ = std::fs::remove_file(&self.path);
        }
        // Closing would unlock as well, but not while a copy of the descriptor (in a child) is open.
        let _ = self.file.unlock();
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_holder_at_a_time_and_no_file_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let inside = Arc::new(AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::exclusive(&path, || ()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        assert!(File::open(&path).unwrap().try_lock().is_err());
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
