//! What is known of the files of a context: digests by path, for as long as size, times and inode are the same.
//!
//! So one changed file among twenty thousand is the only one that is read. It is a cache and nothing else: what cannot be
//! read of it counts as not there.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::stat::FileStat;

use crate::image::Digest;
use crate::root::make_directory;

/// A file that was changed so shortly before it was read may be changed again without its times showing it.
const SETTLED: Duration = Duration::from_secs(2);

const MAGIC: &[u8; 8] = b"rcseen01";

/// What tells one version of a file from another: device, inode, size, modification and change time, mode.
type Version = (u64, u64, i64, (i64, i64), (i64, i64), u32);

/// The digests of one context's files.
#[derive(Debug)]
pub(crate) struct Seen {
    path: PathBuf,
    known: HashMap<Vec<u8>, (Version, Digest)>,
    /// What was asked for or found out in this build; what is not among it is forgotten.
    used: Mutex<HashMap<Vec<u8>, (Version, Digest)>>,
}

fn version(stat: &FileStat) -> Version {
    let times = ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
    (stat.st_dev, stat.st_ino, stat.st_size, times.0, times.1, stat.st_mode)
}

impl Seen {
    /// Reads what is known of the context in a directory. `directory` is where such knowledge is kept.
    pub(crate) fn open(directory: &Path, context: &Path) -> Self {
        let path = directory.join(Digest::of(context.as_os_str().as_bytes()).hex());
        let known = fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { path, known, used: Mutex::default() }
    }

    /// Returns the digest of a file that is as it was.
    pub(crate) fn get(&self, path: &Path, stat: &FileStat) -> Option<Digest> {
        let key = path.as_os_str().as_bytes();
        let version = version(stat);
        let mut used = self.used();
        if let Some((of, digest)) = used.get(key)
            && *of == version
        {
            return Some(*digest);
        }
        let (of, digest) = self.known.get(key)?;
        if *of != version {
            return None;
        }
        used.insert(key.to_vec(), (version, *digest));
        Some(*digest)
    }

    /// Remembers the digest of a file.
    pub(crate) fn put(&self, path: &Path, stat: &FileStat, digest: Digest) {
        let changed = u64::try_from(stat.st_ctime.max(stat.st_mtime)).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if Duration::from_secs(changed).saturating_add(SETTLED) < now {
            self.used().insert(path.as_os_str().as_bytes().to_vec(), (version(stat), digest));
        }
    }

    /// Keeps what is known for the next build.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let used = self.used();
        let same =
            used.len() == self.known.len() && used.iter().all(|(path, known)| self.known.get(path) == Some(known));
        // A build that did not look at the context knows nothing new of it.
        if same || used.is_empty() {
            return Ok(());
        }
        let bytes = encode(&used);
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        make_directory(directory)?;
        crate::image::write_volatile(directory, &self.path, &bytes)
    }

    fn used(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, (Version, Digest)>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(known: &HashMap<Vec<u8>, (Version, Digest)>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (path, ((device, inode, size, modified, changed, mode), digest)) in known {
        let Ok(length) = u16::try_from(path.len()) else { continue };
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(path);
        for number in [*device, *inode] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [*size, modified.0, modified.1, changed.0, changed.1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&mode.to_le_bytes());
        bytes.extend_from_slice(digest.hex().as_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<Vec<u8>, (Version, Digest)>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut known = HashMap::new();
    while !rest.is_empty() {
        let length = u16::from_le_bytes(*rest.split_off(..2)?.as_array()?);
        let path = rest.split_off(..usize::from(length))?.to_vec();
        let mut unsigned = || Some(u64::from_le_bytes(*rest.split_off(..8)?.as_array()?));
        let (device, inode) = (unsigned()?, unsigned()?);
        let mut signed = || Some(i64::from_le_bytes(*rest.split_off(..8)?.as_array()?));
        let (size, modified, changed) = (signed()?, (signed()?, signed()?), (signed()?, signed()?));
        let mode = u32::from_le_bytes(*rest.split_off(..4)?.as_array()?);
        let digest = Digest::from_hex(std::str::from_utf8(rest.split_off(..64)?).ok()?)?;
        known.insert(path, ((device, inode, size, modified, changed, mode), digest));
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_known_until_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "content").unwrap();
        let old = fs::File::open(&file).unwrap();
        let digest = Digest::of(b"content");
        let context = Path::new("/context");
        let seen = Seen::open(directory.path(), context);
        let mut stat = nix::sys::stat::fstat(&old).unwrap();
        seen.put(Path::new("file"), &stat, digest);
        assert_eq!(seen.get(Path::new("file"), &stat), None, "it may be changed within the same tick");
        stat.st_mtime -= 10;
        stat.st_ctime -= 10;
        seen.put(Path::new("file"), &stat, digest);
        seen.keep().unwrap();
        let seen = Seen::open(directory.path(), context);
        assert_eq!(seen.get(Path::new("file"), &stat), Some(digest));
        assert_eq!(seen.get(Path::new("other"), &stat), None);
        stat.st_size += 1;
        assert_eq!(seen.get(Path::new("file"), &stat), None);
        fs::write(&seen.path, &fs::read(&seen.path).unwrap()[..40]).unwrap();
        assert!(Seen::open(directory.path(), context).known.is_empty());
    }
}
