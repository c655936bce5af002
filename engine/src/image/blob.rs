//! Writes files of the store so that they are there whole or not at all: temporary file, `fsync`, rename, `fsync` of
//! the directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::digest::{Digest, Hasher};

/// What is written to disk between two requests to start writing it out; about as much is left to wait for at the end.
pub(super) const WRITE_OUT: u64 = 2 << 20;

/// A file that becomes visible under its name when it is complete, and goes away when it is dropped before.
#[derive(Debug)]
pub(crate) struct PendingFile {
    file: File,
    temporary: PathBuf,
    finished: bool,
}

impl PendingFile {
    /// Starts a file in the directory for temporary files, which is on the same file system as the final place.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let temporary = directory.join(format!("{}-{count}", std::process::id()));
            // A process with our id may have died here before.
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary) {
                Ok(file) => return Ok(Self { file, temporary, finished: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on with a file of a fixed name, which the caller has locked. It may have content from an earlier attempt.
    pub(crate) fn resume(temporary: PathBuf) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&temporary)?;
        Ok(Self { file, temporary, finished: false })
    }

    /// Starts a file with its content, which is durable.
    pub(crate) fn with_content(directory: &Path, content: &[u8]) -> io::Result<Self> {
        let mut pending = Self::create(directory)?;
        pending.file.write_all(content)?;
        pending.sync()?;
        Ok(pending)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Leaves the file where it is, so that another attempt can go on with it.
    pub(crate) fn keep(mut self) {
        self.finished = true;
    }

    /// Makes the content durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes the file visible under its final name, which is durable only when the directory is (see [`sync_directory`]).
    pub(crate) fn publish(mut self, destination: &Path) -> io::Result<()> {
        fs::rename(&self.temporary, destination)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is removed by the next garbage collection.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file on its way to the store: hashed as it is written, and written out as it grows, so that the `fsync` at the end finds
/// little left.
#[derive(Debug)]
pub(crate) struct HashedFile {
    pending: PendingFile,
    hasher: Hasher,
    unwritten: u64,
}

impl HashedFile {
    /// Starts a file in the directory for temporary files.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        Ok(Self { pending: PendingFile::create(directory)?, hasher: Hasher::new(), unwritten: 0 })
    }

    /// Returns the digest of what was written, and the file.
    pub(crate) fn finish(self) -> (Digest, PendingFile) {
        (self.hasher.finish(), self.pending)
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.pending.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.unwritten += written as u64;
        if self.unwritten >= WRITE_OUT {
            crate::sys::file::start_write_out(&self.pending.file)?;
            self.unwritten = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a whole file so that it is there whole or not at all.
pub(crate) fn write_file(temporary: &Path, destination: &Path, content: &[u8]) -> io::Result<()> {
    PendingFile::with_content(temporary, content)?.publish(destination)?;
    sync_directory(destination.parent().unwrap_or(Path::new("/")))
}

/// Writes a whole file so that it is there whole or not at all, except that after a power cut it may be empty.
pub(crate) fn write_volatile(temporary: &Path, destination: &Path, content: &[u8]) -> io::Result<()> {
    let mut pending = PendingFile::create(temporary)?;
    pending.file_mut().write_all(content)?;
    pending.publish(destination)
}

/// Makes renames in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
