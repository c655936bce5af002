//! Takes one layer into the store in one pass: check, keep, decompress and unpack as the bytes come.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::blob::{PendingFile, WRITE_OUT, sync_directory, write_volatile};
use super::decompress::Decompressor;
use super::digest::{Digest, Hasher};
use super::lock::Lock;
use super::manifest::Descriptor;
use super::remove::remove_path;
use super::store::{Store, StoreError, io_error};
use super::unpack::{Limits, Unpacked, unpack};

/// A layer to take in: which blob, and what it must unpack to.
#[derive(Debug, Clone)]
pub(crate) struct LayerJob {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) limits: Limits,
}

/// Locks on one layer. While they are held nobody else fetches or unpacks it.
#[derive(Debug)]
pub(crate) struct LayerLocks {
    _blob: Lock,
    _layer: Lock,
}

impl Store {
    /// Waits for the right to take a layer in. `waiting` is called if somebody else is at it.
    pub(crate) fn lock_layer(&self, job: &LayerJob, waiting: impl Fn()) -> Result<LayerLocks, StoreError> {
        // Always in this order, and nobody holds locks of two layers, so that nobody waits in a circle.
        let blob = self.locks().join(format!("blob-{}", job.descriptor.digest.hex()));
        let layer = self.locks().join(format!("layer-{}", job.diff_id.hex()));
        Ok(LayerLocks {
            _blob: Lock::exclusive(&blob, &waiting).map_err(io_error("lock", &blob))?,
            _layer: Lock::exclusive(&layer, &waiting).map_err(io_error("lock", &layer))?,
        })
    }

    /// Starts, or goes on with, the file that a blob is fetched to. Returns it with what is there already.
    pub(crate) fn partial_blob(&self, digest: &Digest) -> Result<(PendingFile, u64), StoreError> {
        let path = self.temporary().join(format!("{}.partial", digest.hex()));
        let pending = PendingFile::resume(path.clone()).map_err(io_error("open", &path))?;
        let length = pending.file().metadata().map_err(io_error("look at", &path))?.len();
        Ok((pending, length))
    }

    /// Takes a layer in from a stream of its compressed bytes; the caller holds its locks.
    ///
    /// `blob` is the file to keep the compressed bytes in; the first `resumed` bytes of it are there already, and
    /// `source` goes on behind them. Without it the blob is already in the store and `source` reads it. What is returned
    /// is for [`Store::commit_layer`]: until then the store has nothing of it.
    /// Nothing is left behind on failure, except that a blob whose source failed keeps what came (see `keep_partial`).
    pub(crate) fn receive_layer(
        &self,
        job: &LayerJob,
        source: impl Read,
        blob: Option<(PendingFile, u64)>,
        keep_partial: impl FnOnce() -> bool,
    ) -> Result<Received, StoreError> {
        let layer = job.descriptor.digest;
        let mut input = match blob {
            None => Input { file: None, resumed: 0, source, hasher: Hasher::new(), failed: false, unwritten: 0 },
            Some((mut file, resumed)) => {
                file.file_mut().seek(SeekFrom::Start(0)).map_err(|source| StoreError::Read { layer, source })?;
                Input { file: Some(file), resumed, source, hasher: Hasher::new(), failed: false, unwritten: 0 }
            }
        };
        let outcome = if self.has_layer(&job.diff_id) {
            drain(&mut input).map(|()| None).map_err(|source| StoreError::Read { layer, source })
        } else {
            self.unpack_aside(job, &mut input).map(Some)
        };
        if input.failed || outcome.as_ref().is_err_and(StoreError::is_disk_full) {
            if let Some(file) = input.file.take()
                && keep_partial()
            {
                file.keep();
            }
            return outcome.map(|unpacked| Received { file: None, unpacked });
        }
        // The digest of the whole blob comes before any complaint about what is in it: who was sent something else
        // should hear that first.
        drain(&mut input).map_err(|source| StoreError::Read { layer, source })?;
        let (length, actual) = (input.hasher.length(), input.hasher.finish());
        if length != job.descriptor.size {
            return Err(StoreError::WrongSize { digest: layer, expected: job.descriptor.size, actual: length });
        }
        if actual != layer {
            return Err(StoreError::WrongDigest { expected: layer, actual });
        }
        Ok(Received { file: input.file, unpacked: outcome? })
    }

    /// Makes a layer that was received part of the store. This waits for the disk rather than for a processor.
    pub(crate) fn commit_layer(&self, job: &LayerJob, received: Received) -> Result<(), StoreError> {
        if let Some(file) = received.file {
            self.publish_blob(file, &job.descriptor.digest)?;
        }
        match received.unpacked {
            Some(aside) => self.publish_layer(&job.diff_id, &aside.root(), aside.unpacked),
            None => Ok(()),
        }
    }

    /// Returns a directory of this name in which a layer can be made, on the file system that layers are on. Whoever makes
    /// one holds a [`super::Lease`] meanwhile.
    pub(crate) fn drafts(&self, name: &str) -> PathBuf {
        self.layers().join(".tmp").join(name)
    }

    /// Makes a directory the unpacked layer of a blob that is in the store as it is: the blob's digest is the diff id.
    pub(crate) fn adopt_layer(&self, id: &Digest, root: &Path, unpacked: Unpacked) -> Result<(), StoreError> {
        let lock = self.locks().join(format!("layer-{}", id.hex()));
        let _lock = Lock::exclusive(&lock, || ()).map_err(io_error("lock", &lock))?;
        if self.has_layer(id) { Ok(()) } else { self.publish_layer(id, root, unpacked) }
    }

    /// Unpacks layers again that are not to be believed after a power cut, from the blobs of whatever image has them.
    ///
    /// For layers of containers: pulling an image does the same ([`super::pull::prepare`]).
    pub(crate) fn restore_layers(&self, wanted: &HashSet<Digest>) -> Result<(), StoreError> {
        let _lease = self.lease()?;
        for image in self.list()? {
            for (descriptor, diff_id) in image.layers.iter().zip(&image.diff_ids) {
                if wanted.contains(diff_id) && self.has_blob(&descriptor.digest) {
                    self.restore_layer(descriptor, diff_id)?;
                }
            }
        }
        match wanted.iter().find(|diff_id| !self.has_layer(diff_id)) {
            Some(diff_id) => Err(StoreError::LostLayer { diff_id: *diff_id }),
            None => Ok(()),
        }
    }

    /// Unpacks a layer whose blob is in the store, unless that was done. The caller holds a lease.
    pub(super) fn restore_layer(&self, descriptor: &Descriptor, diff_id: &Digest) -> Result<(), StoreError> {
        let job = LayerJob { descriptor: descriptor.clone(), diff_id: *diff_id, limits: Limits::default() };
        let _locks = self.lock_layer(&job, || ())?;
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let path = self.blob_path(&descriptor.digest);
        let blob = File::open(&path).map_err(io_error("open", &path))?;
        let received = self.receive_layer(&job, blob, None, || false)?;
        self.commit_layer(&job, received)
    }

    fn unpack_aside<S: Read>(&self, job: &LayerJob, input: &mut Input<S>) -> Result<Aside, StoreError> {
        let layer = job.descriptor.digest;
        let mut aside = Aside::create(self.layers(), &job.diff_id)?;
        let open = |path: &Path| File::open(path).map_err(io_error("open", path));
        let (root, trash) = (open(&aside.root())?, open(&aside.trash())?);
        let limits = job.limits.for_compressed(job.descriptor.size);
        let decompressor = Decompressor::new(input).map_err(|source| StoreError::Read { layer, source })?;
        // Headers and padding come on top of what the files hold.
        let plain = Plain { inner: decompressor, hasher: Hasher::new(), limit: limits.bytes.saturating_mul(2) };
        let (unpacked, mut plain) = unpack(plain, root.as_fd(), trash.as_fd(), &limits)
            .map_err(|source| StoreError::Unpack { layer, source })?;
        drain(&mut plain).map_err(|source| StoreError::Read { layer, source })?;
        let actual = plain.hasher.finish();
        if actual != job.diff_id {
            return Err(StoreError::WrongDiffId { layer, expected: job.diff_id, actual });
        }
        aside.unpacked = unpacked;
        Ok(aside)
    }

    /// Makes an unpacked layer visible. It is complete, but durable only after [`Store::settle`].
    fn publish_layer(&self, id: &Digest, root: &Path, unpacked: Unpacked) -> Result<(), StoreError> {
        let destination = self.layer_path(id);
        let meta = self.meta_path(id);
        let size = format!("{} {}\n", unpacked.bytes, unpacked.entries);
        // Only for listings: not worth waiting for a disk.
        write_volatile(&self.temporary(), &meta, size.as_bytes()).map_err(io_error("write", &meta))?;
        if destination.exists() {
            // It is from before a power cut and was not believed; no container of this boot can have it mounted.
            let former = self.layers().join(".tmp").join(format!("{}-former", id.hex()));
            remove_path(&former).map_err(io_error("remove", &former))?;
            fs::rename(&destination, &former).map_err(io_error("rename", &destination))?;
            remove_path(&former).map_err(io_error("remove", &former))?;
        }
        // A link's target is part of its inode, so that journals keep it in order with the rename below: whoever sees the
        // layer after a power cut sees the mark.
        let mark = self.unsynced_path(id);
        match symlink(self.boot(), &mark) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&mark).map_err(io_error("remove", &mark))?;
                symlink(self.boot(), &mark).map_err(io_error("create", &mark))?;
            }
            result => result.map_err(io_error("create", &mark))?,
        }
        fs::rename(root, &destination).map_err(io_error("rename", root))
    }

    /// Makes all layers of this boot durable and takes their marks away.
    ///
    /// It is never urgent, and may take the disk seconds (`syncfs(2)`), in which a process cannot even exit: it is for a
    /// thread of a process that stays, and not for a command that somebody waits for.
    pub fn settle(&self) -> Result<(), StoreError> {
        let _lease = self.lease()?;
        let directory = self.layers().join(".unsynced");
        let mut marks: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&directory).map_err(io_error("list", &directory))? {
            let path = entry.map_err(io_error("list", &directory))?.path();
            if fs::read_link(&path).is_ok_and(|boot| boot == Path::new(self.boot())) {
                marks.push(path);
            }
        }
        if marks.is_empty() {
            return Ok(());
        }
        let layers = File::open(self.layers()).map_err(io_error("open", self.layers()))?;
        nix::unistd::syncfs(&layers).map_err(|error| io_error("sync", self.layers())(error.into()))?;
        for mark in marks {
            match fs::remove_file(&mark) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &mark)(error)),
            }
        }
        sync_directory(&directory).map_err(io_error("sync", &directory))
    }
}

/// A layer that is whole and checked, but not in the store yet.
pub(crate) struct Received {
    /// Its blob, unless the store had it.
    file: Option<PendingFile>,
    /// What it unpacks to, unless the store had that.
    unpacked: Option<Aside>,
}

/// A layer being unpacked: a directory beside the layers, which goes away unless it is committed.
struct Aside {
    directory: PathBuf,
    unpacked: Unpacked,
}

impl Aside {
    fn create(layers: &Path, id: &Digest) -> Result<Self, StoreError> {
        let directory = layers.join(".tmp").join(id.hex());
        // From a process that died; we have the lock.
        remove_path(&directory).map_err(io_error("remove", &directory))?;
        let aside = Self { directory, unpacked: Unpacked::default() };
        for path in [&aside.directory, &aside.root(), &aside.trash()] {
            DirBuilder::new().mode(0o700).create(path).map_err(io_error("create", path))?;
        }
        // What a root directory is when the layer says nothing about it; whatever the umask.
        let root = aside.root();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).map_err(io_error("set the mode of", &root))?;
        Ok(aside)
    }

    fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    fn trash(&self) -> PathBuf {
        self.directory.join("trash")
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = remove_path(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %error, "cannot remove a temporary directory");
        }
    }
}

/// The compressed bytes, on their way: hashed and kept.
struct Input<S> {
    file: Option<PendingFile>,
    /// How many bytes of the file are still to be read from it rather than from the source.
    resumed: u64,
    source: S,
    hasher: Hasher,
    /// The source or the file failed (and not what is in them).
    failed: bool,
    unwritten: u64,
}

impl<S: Read> Read for Input<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.read_and_keep(buffer);
        match &result {
            Ok(read) => self.hasher.update(&buffer[..*read]),
            Err(error) => self.failed |= error.kind() != io::ErrorKind::Interrupted,
        }
        result
    }
}

impl<S: Read> Input<S> {
    fn read_and_keep(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(pending) = &mut self.file else {
            return self.source.read(buffer);
        };
        if self.resumed > 0 {
            let wanted = usize::try_from(self.resumed).unwrap_or(usize::MAX).min(buffer.len());
            let read = pending.file_mut().read(&mut buffer[..wanted])?;
            if read == 0 && wanted > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.resumed -= read as u64;
            return Ok(read);
        }
        let read = self.source.read(buffer)?;
        pending.file_mut().write_all(&buffer[..read])?;
        self.unwritten += read as u64;
        if self.unwritten >= WRITE_OUT {
            // The disk works while we do, so that the fsync at the end finds little left.
            crate::sys::file::start_write_out(pending.file())?;
            self.unwritten = 0;
        }
        Ok(read)
    }
}

/// The decompressed bytes: hashed and counted.
struct Plain<R> {
    inner: R,
    hasher: Hasher,
    limit: u64,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        if self.hasher.length() > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it expands to more than {} bytes", self.limit),
            ));
        }
        Ok(read)
    }
}

fn drain(reader: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
