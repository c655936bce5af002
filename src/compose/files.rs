//! The one door to the file system.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::remote::Remote;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 4 << 20;
/// `/dev/null`, which is an empty file: `makedev(1, 3)`.
const NULL_DEVICE: u64 = 0x103;

/// Reads files for the loader.
pub trait Files: Sync {
    /// The content of a regular file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Everything on standard input.
    fn read_stdin(&self) -> io::Result<Vec<u8>>;
    /// Whether something is there (symbolic links followed), and whether it is a directory.
    fn is_directory(&self, path: &Path) -> io::Result<bool>;
    /// Whether a file is there that is read where it is. One that cannot be looked at is, for reading it says why.
    fn is_for_reading(&self, path: &Path) -> bool {
        match self.is_directory(path) {
            Ok(directory) => !directory,
            Err(error) => !is_absent(&error),
        }
    }
    /// The path without symbolic links.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
    /// Whether the path itself is a symbolic link.
    fn is_symlink(&self, path: &Path) -> bool;

    /// The path of the local copy of a compose file that lies elsewhere, absolute.
    fn fetch(&self, remote: &Remote) -> Result<PathBuf, NotFetched> {
        Err(NotFetched { message: format!("cannot fetch {remote} here"), help: None })
    }

    /// The directory that something was fetched to, if the path is in one.
    fn tree_of(&self, path: &Path) -> Option<PathBuf> {
        let _ = path;
        None
    }
}

/// Why there is no local copy.
#[derive(Debug, Clone)]
pub struct NotFetched {
    /// What was being done and what went wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // A FIFO would block in open(2), a device could be endless: look before opening.
        check(&fs::metadata(path)?)?;
        // And after opening, since it may be another file by then. Files of /proc can block as well, whatever they say they are.
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        check(&file.metadata()?)?;
        read_bounded(file)
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        read_bounded(io::stdin().lock())
    }

    fn is_directory(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::metadata(path)?.is_dir())
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn is_symlink(&self, path: &Path) -> bool {
        path.is_symlink()
    }
}

/// Whether nothing is there, and not something that cannot be looked at.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Refuses what is no file with an end.
fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
    }
    if kind.is_char_device() && metadata.rdev() == NULL_DEVICE {
        return Ok(());
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    if metadata.len() > LARGEST { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("is larger than {} MiB", LARGEST >> 20))
}

fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(too_large());
    }
    Ok(content)
}
