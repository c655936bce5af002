//! Layers that steps make: an overlay is written to, or files are put into a directory, and what is there then becomes a
//! layer of the image store.
//!
//! The directory itself becomes the unpacked layer, so that nothing is written twice; the blob is its archive, not
//! compressed, whose digest is the diff id.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tokio_util::sync::CancellationToken;

use crate::container::files::{PackError, pack_layer};
use crate::container::rootfs;
use crate::container::step::{Context as _, Step};
use crate::id::Id;
use crate::image::{Digest, HashedFile, Store, StoreError, Unpacked, io_error};
use crate::root::make_directory;
use crate::shim::config::Rootfs;

/// Why what a step made cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be archived.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// The owner, group and mode of the root directory of a file system.
type RootAttributes = (u32, u32, u32);

/// A layer that is being made. What was not finished is removed.
#[derive(Debug)]
pub(crate) struct Draft {
    directory: PathBuf,
    before: RootAttributes,
    stop: CancellationToken,
}

/// A layer of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) id: Digest,
    /// Bytes of the files in it.
    pub(crate) size: u64,
}

impl Draft {
    /// Begins a layer on top of these directories, topmost first. The caller holds a lease of the store.
    pub(crate) fn new(store: &Store, below: &[PathBuf]) -> Result<Self, LayerError> {
        let directory = store.drafts(&format!("build-{}", Id::random().short()));
        let before = below.first().map_or(Ok((0, 0, 0o755)), |top| attributes(top))?;
        let draft = Self { directory, before, stop: CancellationToken::new() };
        for path in [draft.root(), draft.work()] {
            make_directory(&path).map_err(io_error("create", &path))?;
        }
        let root = draft.root();
        let (uid, gid, mode) = draft.before;
        chown(&root, Some(uid), Some(gid)).map_err(io_error("set the owner of", &root))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(mode)).map_err(io_error("set the mode of", &root))?;
        Ok(draft)
    }

    /// Returns the same draft, which becomes no layer any more once this says so.
    pub(crate) fn until(mut self, stop: &CancellationToken) -> Self {
        self.stop = stop.clone();
        self
    }

    /// Returns the directory whose content becomes the layer.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Returns the overlay's directory for its work.
    pub(crate) fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Returns the overlay that writes to this draft.
    pub(crate) fn overlay(&self, layers: Vec<PathBuf>, places: Option<PathBuf>) -> Rootfs {
        Rootfs { layers, places, upper: self.root(), work: self.work(), volatile: true }
    }

    /// Opens the file system as it is with the draft on top of these directories, to write to it.
    pub(crate) fn open(&self, below: &[PathBuf]) -> Step<OwnedFd> {
        if below.is_empty() {
            let root = self.root();
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            return nix::fcntl::open(&root, flags, Mode::empty()).step(|| format!("open {}", root.display()));
        }
        rootfs::writable(&self.overlay(below.to_vec(), None))
    }

    /// Makes it a layer. Nothing in it is younger than `latest`, in seconds since the epoch.
    pub(crate) fn finish(self, store: &Store, latest: Option<u64>) -> Result<Layer, LayerError> {
        let root = self.root();
        let changed = attributes(&root)? != self.before;
        let opened = File::open(&root).map_err(io_error("open", &root))?;
        let temporary = store.temporary();
        let file = HashedFile::create(&temporary).map_err(io_error("create a file in", &temporary))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let packed = pack_layer(opened.as_fd(), changed, latest, Stoppable { out: &mut out, stop: &self.stop })?;
        let file = out.into_inner().map_err(|error| io_error("write a file in", &temporary)(error.into_error()))?;
        let (id, blob) = file.finish();
        if !store.has_blob(&id) {
            store.publish_blob(blob, &id)?;
        }
        if latest.is_some() {
            clamp_times(&root, latest).map_err(io_error("set the times in", &root))?;
        }
        store.adopt_layer(&id, &root, Unpacked { bytes: packed.bytes, entries: packed.entries })?;
        Ok(Layer { id, size: packed.bytes })
    }
}

/// Writes as long as nobody ends it.
struct Stoppable<'a, W> {
    out: W,
    stop: &'a CancellationToken,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() { Err(io::Error::other("interrupted")) } else { self.out.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = crate::image::remove::remove_path(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %error, "cannot remove a temporary directory");
        }
    }
}

fn attributes(path: &Path) -> Result<RootAttributes, StoreError> {
    let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
    Ok((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777))
}

/// Makes the unpacked layer what its archive says of times.
fn clamp_times(directory: &Path, latest: Option<u64>) -> io::Result<()> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let Some(latest) = latest.and_then(|latest| i64::try_from(latest).ok()) else { return Ok(()) };
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            clamp_times(&entry.path(), u64::try_from(latest).ok())?;
        }
        if metadata.mtime() >= latest {
            let time = TimeSpec::new(latest, 0);
            utimensat(nix::fcntl::AT_FDCWD, &entry.path(), &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
    }
    Ok(())
}
