//! The image store: an OCI image layout beside the layers unpacked from it.
//!
//! ```text
//! images/oci-layout, images/index.json, images/blobs/sha256/<hex>     what skopeo and umoci read
//! images/.rcompose/tmp, images/.rcompose/locks                        temporary files; locks between processes
//! layers/<diff id>/                                                   one layer, unpacked for overlayfs
//! layers/.tmp, layers/.meta/<diff id>, layers/.unsynced/<diff id>     being unpacked; size; not yet durable
//! build/steps/<key>                                                   which layer a step of a build made
//! ```
//!
//! Invariants, at every instant and after a power cut:
//! - a file below `blobs/sha256` has the digest that its name says (written aside, `fsync`ed, renamed);
//! - `index.json` is one whole version or another (the same way, under a lock);
//! - a directory `layers/<diff id>` without a mark in `.unsynced` is complete and durable; one whose mark names this
//!   boot is complete; one whose mark names an earlier boot is not believed and is unpacked again from its blob. So
//!   nobody waits for a disk before a container starts.
//!
//! Whoever adds to the store holds the lock `store` shared; garbage collection holds it exclusively. Whoever makes a
//! container of an image holds the lock `use` shared besides; whoever removes an image holds it exclusively.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::blob::{HashedFile, PendingFile, sync_directory, write_file};
use super::config::{ConfigError, Image, ParsedConfig};
use super::digest::Digest;
use super::lock::Lock;
use super::lookup::{LayerStack, LookupError, is_opaque};
use super::manifest::{
    Descriptor, Dialect, Document, Index, MAX_CONFIG, MAX_MANIFEST, Manifest, ManifestError, Platform, media,
};
use super::reference::Reference;
use super::sent::KEPT_PLAIN;
use super::unpack::{UnpackError, Unpacked};
use crate::host;
use crate::root::{make_directory, make_directory_of_many};

/// Annotation with an entry's name, as the image layout specification has it.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the digest that the registry had under the name, where it is not the manifest's (an index).
pub(crate) const SOURCE_DIGEST: &str = "rcompose.source.digest";
/// Annotation with the time at which a registry was last asked about the name, or told of it (RFC 3339).
pub(crate) const CHECKED: &str = "rcompose.checked";
/// Annotation with the time at which the image got the name (RFC 3339).
pub(crate) const TAGGED: &str = "rcompose.tagged";
/// Annotation with the name that an entry had before another image took it.
pub(crate) const FORMER_NAME: &str = "rcompose.former.name";
/// Largest `index.json` that is read, in bytes.
const MAX_INDEX: u64 = 64 * 1024 * 1024;

/// Images on disk. Cheap to open; several processes may use one store at once.
#[derive(Debug)]
pub struct Store {
    images: PathBuf,
    layers: PathBuf,
    steps: PathBuf,
    boot: String,
    index: Mutex<Option<(Stamp, Arc<Index>)>>,
}

/// Tells one version of a file from another: device, inode, size, change time.
type Stamp = (u64, u64, u64, i64, i64);

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the store cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store's table of contents is not readable.
    #[error("the image index {} is damaged: {source}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest in the store is not usable.
    #[error("manifest {digest}: {source}")]
    Manifest {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// A configuration in the store is not usable.
    #[error("image configuration {digest}: {source}")]
    Config {
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// A blob that the store should have is missing.
    #[error("blob {digest} is missing from the image store")]
    MissingBlob {
        /// Its digest.
        digest: Digest,
    },
    /// A power cut came before a layer was durable, and what it could be unpacked from is no longer there.
    #[error("layer {diff_id} was lost in a power cut, and no image in the store has it any more")]
    LostLayer {
        /// Its diff id.
        diff_id: Digest,
    },
    /// The content of a blob is not what its digest says.
    #[error("wrong digest: the content of {expected} is {actual}")]
    WrongDigest {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// The length of a blob is not what its descriptor says.
    #[error("wrong size: {digest} has {actual} bytes instead of {expected}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// What the descriptor says.
        expected: u64,
        /// What there is.
        actual: u64,
    },
    /// The unpacked layer is not the one that the configuration names.
    #[error("layer {layer} does not unpack to {expected}, as the image configuration says, but to {actual}")]
    WrongDiffId {
        /// The compressed layer.
        layer: Digest,
        /// The diff id in the configuration.
        expected: Digest,
        /// The diff id of what was unpacked.
        actual: Digest,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {layer}: {source}")]
    Unpack {
        /// The compressed layer.
        layer: Digest,
        /// What went wrong.
        #[source]
        source: UnpackError,
    },
    /// A layer's compressed data cannot be read.
    #[error("cannot read layer {layer}: {source}")]
    Read {
        /// The compressed layer.
        layer: Digest,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// There is no such image.
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// A file of an image cannot be looked up.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl StoreError {
    /// Tells whether the disk is full (or a quota reached).
    pub fn is_disk_full(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } | Self::Read { source, .. } => Some(source),
            Self::Unpack { source, .. } => source.io_error(),
            _ => None,
        };
        source.is_some_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Makes an [`StoreError::Io`] of a system's error.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// Keeps garbage collection away from what is about to be used. Held for as long as the value lives.
#[derive(Debug)]
pub struct Lease(#[expect(dead_code, reason = "held for its Drop")] Lock);

/// Keeps every image of the store, and its name, from being removed. Held for as long as the value lives.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "held for their Drop")] (Lease, Lock));

/// A blob that lacks nothing but its name.
#[derive(Debug)]
pub(crate) struct PreparedBlob {
    digest: Digest,
    /// None: the blob was there already.
    file: Option<PendingFile>,
    path: PathBuf,
}

impl PreparedBlob {
    pub(crate) fn publish(self) -> Result<(), StoreError> {
        match self.file {
            Some(file) => file.publish(&self.path).map_err(io_error("write", &self.path)),
            None => Ok(()),
        }
    }
}

impl Store {
    /// Opens the store in a data directory, making it if it is new.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self {
            images: root.join("images"),
            layers: root.join("layers"),
            steps: root.join("build/steps"),
            boot: boot_id()?,
            index: Mutex::new(None),
        };
        // The last directory that is made.
        let ready = store.layers.join(".unsynced");
        if !ready.is_dir() {
            let directories =
                [store.images.join("blobs/sha256"), store.temporary(), store.locks(), store.layers.join(".meta")];
            // Layers have setuid programs and readable secrets of other people's images in them: root's eyes only.
            for path in [root, &store.images, &store.layers].into_iter().chain(directories.iter().map(PathBuf::as_path))
            {
                make_directory(path).map_err(io_error("create", path))?;
            }
            let unpacking = store.layers.join(".tmp");
            make_directory_of_many(&unpacking).map_err(io_error("create", &unpacking))?;
            let layout = store.images.join("oci-layout");
            if !layout.exists() {
                write_file(&store.temporary(), &layout, br#"{"imageLayoutVersion":"1.0.0"}"#)
                    .map_err(io_error("write", &layout))?;
            }
            store.update_index(|_| ())?;
            make_directory(&ready).map_err(io_error("create", &ready))?;
        }
        Ok(store)
    }

    /// Returns the image of a name, if it is here and all its layers are unpacked. Nothing is fetched.
    ///
    /// A reference with a digest is served by any image of that repository whose manifest, or whose index in the
    /// registry, has it.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let image = self.load_by_name(reference)?;
        Ok(image.filter(|image| image.diff_ids.iter().all(|id| self.has_layer(id))))
    }

    /// Returns the image of a name even if layers of it are not unpacked. An entry whose manifest or configuration is
    /// missing is none.
    pub fn load_by_name(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let index = self.index()?;
        let Some(entry) = find_entry(&index, reference) else {
            return Ok(None);
        };
        match self.load(reference.clone(), entry) {
            Ok(image) => Ok(Some(image)),
            Err(StoreError::MissingBlob { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists every image that is complete enough to be described, in the order in which they came.
    ///
    /// An image that lost its name to another one is listed by the digest it had (see [`Reference::tag`]).
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let index = self.index()?;
        let mut images = Vec::new();
        for entry in &index.manifests {
            let Some(reference) = entry_reference(entry) else {
                continue;
            };
            match self.load(reference, entry) {
                Ok(image) => images.push(image),
                Err(error) => tracing::warn!(digest = %entry.digest, %error, "passing over an image of the store"),
            }
        }
        Ok(images)
    }

    /// Finds an image by what people type: a reference, an image id, or at least two first digits of one.
    pub fn find(&self, name: &str) -> Result<Option<Image>, StoreError> {
        if let Ok(reference) = name.parse::<Reference>()
            && let Some(image) = self.load_by_name(&reference)?
        {
            return Ok(Some(image));
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < 2 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let images = self.list()?;
        let mut found = images.into_iter().filter(|image| {
            image.id.hex().starts_with(hex)
                || image.digest.hex().starts_with(hex)
                || image.source_digest.hex().starts_with(hex)
        });
        let first = found.next();
        // Several names of one image are fine; two images are not one.
        let id = first.as_ref().map(|image| image.id);
        Ok(if found.any(|other| Some(other.id) != id) { None } else { first })
    }

    /// Returns the layer directories of an image, topmost first: the order of overlayfs's lower directories.
    ///
    /// A layer that is opaque as a whole hides those below it, which overlayfs itself does not look at.
    pub fn layer_paths(&self, image: &Image) -> Vec<PathBuf> {
        self.stack(&image.diff_ids)
    }

    /// Likewise of layers that may belong to no image yet, bottom first.
    pub(crate) fn stack(&self, diff_ids: &[Digest]) -> Vec<PathBuf> {
        let mut paths = Vec::with_capacity(diff_ids.len());
        let mut seen = HashSet::new();
        for id in diff_ids.iter().rev() {
            // Overlayfs refuses a directory that is there twice, and the lower one could show nothing new.
            if !seen.insert(id) {
                continue;
            }
            let path = self.layer_path(id);
            let opaque = File::open(&path).is_ok_and(|layer| is_opaque(layer.as_fd()).unwrap_or(false));
            paths.push(path);
            if opaque {
                break;
            }
        }
        paths
    }

    /// Reads a file of an image, links resolved within it. What does not exist gives `None`.
    pub fn read_file(&self, image: &Image, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(LayerStack::open(&self.layer_paths(image))?.read_file(path)?)
    }

    /// Gives an image another name, which another image may have had.
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<(), StoreError> {
        let _lease = self.lease()?;
        let mut entry = None;
        let index = self.index()?;
        for candidate in &index.manifests {
            if candidate.digest == image.digest {
                entry = Some(candidate.clone());
                break;
            }
        }
        let entry = entry.ok_or_else(|| StoreError::NoSuchImage(image.reference.familiar()))?;
        // The digest in the old name's registry says nothing about the new name's.
        let source = if self.own_index(&entry).is_some() { "" } else { SOURCE_DIGEST };
        self.set_entry(name, without(entry, &[source, CHECKED, TAGGED]))
    }

    /// Takes a name away. Returns whether it was there. What nothing refers to any more is freed by [`Store::gc`].
    ///
    /// Waits for every [`Hold`] to end.
    pub fn remove(&self, reference: &Reference) -> Result<bool, StoreError> {
        let _lease = self.lease()?;
        let _nobody_uses = self.lock_uses(Lock::exclusive_permanent)?;
        self.update_index(|index| {
            let before = index.manifests.len();
            let digest = find_entry(index, reference).map(|entry| entry.digest);
            index.manifests.retain(|entry| !(Some(entry.digest) == digest && is_named(entry, reference)));
            before != index.manifests.len()
        })
    }

    /// Takes all names away that one image has. Returns them. Waits for every [`Hold`] to end.
    pub fn remove_image(&self, id: &Digest) -> Result<Vec<Reference>, StoreError> {
        let _lease = self.lease()?;
        let _nobody_uses = self.lock_uses(Lock::exclusive_permanent)?;
        let manifests: BTreeSet<Digest> =
            self.list()?.into_iter().filter(|image| image.id == *id).map(|image| image.digest).collect();
        self.update_index(|index| {
            let mut removed = Vec::new();
            index.manifests.retain(|entry| {
                let keep = !manifests.contains(&entry.digest);
                if !keep {
                    removed.extend(entry_reference(entry));
                }
                keep
            });
            removed
        })
    }

    /// Keeps garbage collection from running while the returned value lives. Don't call [`Store::gc`] meanwhile.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        let path = self.locks().join("store");
        Lock::shared(&path).map(Lease).map_err(io_error("lock", &path))
    }

    /// Keeps all images and their names while the returned value lives: for whoever looks an image up and is about to
    /// make a container of it, until the container can be seen. Don't remove images or call [`Store::gc`] meanwhile.
    pub fn hold(&self) -> Result<Hold, StoreError> {
        Ok(Hold((self.lease()?, self.lock_uses(Lock::shared)?)))
    }

    fn lock_uses(&self, lock: impl FnOnce(&Path) -> io::Result<Lock>) -> Result<Lock, StoreError> {
        let path = self.locks().join("use");
        lock(&path).map_err(io_error("lock", &path))
    }

    /// Returns the directory of an unpacked layer.
    pub(crate) fn layer_path(&self, id: &Digest) -> PathBuf {
        self.layers.join(id.hex())
    }

    /// Tells whether a layer is unpacked and can be believed.
    pub(crate) fn has_layer(&self, id: &Digest) -> bool {
        if !self.layer_path(id).is_dir() {
            return false;
        }
        match fs::read_link(self.unsynced_path(id)) {
            Ok(boot) => boot == Path::new(&self.boot),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Returns the layers that were unpacked in an earlier boot and never known to be durable.
    pub(crate) fn doubtful_layers(&self) -> Result<HashSet<Digest>, StoreError> {
        let directory = self.layers.join(".unsynced");
        let mut doubtful = HashSet::new();
        for entry in fs::read_dir(&directory).map_err(io_error("list", &directory))? {
            let name = entry.map_err(io_error("list", &directory))?.file_name();
            if let Some(id) = name.to_str().and_then(Digest::from_hex)
                && !self.has_layer(&id)
            {
                doubtful.insert(id);
            }
        }
        Ok(doubtful)
    }

    /// Returns what is known about an unpacked layer's size.
    pub(crate) fn layer_size(&self, id: &Digest) -> Option<Unpacked> {
        let text = fs::read_to_string(self.meta_path(id)).ok()?;
        let (bytes, entries) = text.trim().split_once(' ')?;
        Some(Unpacked { bytes: bytes.parse().ok()?, entries: entries.parse().ok()? })
    }

    /// Returns the path of a blob, whether it is there or not.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.images.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Opens a blob. Its path comes with it, for what goes wrong later.
    pub(super) fn blob_file(&self, digest: &Digest) -> Result<(PathBuf, File), StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::MissingBlob { digest: *digest }),
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }

    /// Reads a small blob (a manifest or a configuration).
    pub(crate) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let (path, file) = self.blob_file(digest)?;
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).map_err(io_error("read", &path))?;
        if content.len() as u64 > limit {
            let actual = content.len() as u64;
            return Err(StoreError::WrongSize { digest: *digest, expected: limit, actual });
        }
        Ok(content)
    }

    /// Stores an image that was made here: its configuration, and a manifest with its layers and annotations. Returns the image's
    /// id, which is its configuration's digest, and the manifest's descriptor, to which an entry is to refer.
    pub(crate) fn put_image(
        &self,
        config: &serde_json::Value,
        layers: Vec<Descriptor>,
        platform: Platform,
        annotations: BTreeMap<String, String>,
    ) -> Result<(Digest, Descriptor), StoreError> {
        self.put_image_in(Dialect::Oci, config, layers, platform, annotations)
    }

    /// Likewise, with media types of a dialect.
    pub(crate) fn put_image_in(
        &self,
        dialect: Dialect,
        config: &serde_json::Value,
        layers: Vec<Descriptor>,
        platform: Platform,
        annotations: BTreeMap<String, String>,
    ) -> Result<(Digest, Descriptor), StoreError> {
        let config = config.to_string().into_bytes();
        let mut descriptor = self.put_manifest(dialect, &config, dialect.config(), layers, annotations)?;
        descriptor.platform = Some(platform);
        Ok((Digest::of(&config), descriptor))
    }

    /// Stores a manifest of layers that are in the store, and its configuration, whatever kind of one that is.
    pub(crate) fn put_manifest(
        &self,
        dialect: Dialect,
        config: &[u8],
        config_type: &str,
        mut layers: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Result<Descriptor, StoreError> {
        for layer in &mut layers {
            layer.media_type = dialect.layer(&layer.media_type).to_owned();
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(dialect.manifest().to_owned()),
            config: Descriptor::new(config_type, self.put_blob(config)?, config.len() as u64),
            layers,
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        };
        self.put_document(&manifest)
    }

    /// Stores a manifest as it is. Returns its descriptor.
    pub(crate) fn put_document(&self, manifest: &Manifest) -> Result<Descriptor, StoreError> {
        let content = serde_json::to_vec(manifest).expect("a manifest can be written");
        let media_type = manifest.media_type.as_deref().unwrap_or(media::OCI_MANIFEST);
        Ok(Descriptor::new(media_type, self.put_blob(&content)?, content.len() as u64))
    }

    /// Copies what is read into a file that can become a blob, and returns its digest.
    pub(crate) fn take_in(&self, mut content: impl Read) -> io::Result<(Digest, PendingFile)> {
        let mut file = HashedFile::create(&self.temporary())?;
        io::copy(&mut content, &mut file)?;
        Ok(file.finish())
    }

    /// Stores an index of manifests that are in the store. Returns its descriptor.
    pub(crate) fn put_index(&self, index: &Index) -> Result<Descriptor, StoreError> {
        let content = serde_json::to_vec(index).expect("an index can be written");
        let media_type = index.media_type.as_deref().unwrap_or(media::OCI_INDEX);
        Ok(Descriptor::new(media_type, self.put_blob(&content)?, content.len() as u64))
    }

    /// Enters an image that was made here under names; one without a name is called like a loaded one without. `index` is the
    /// index that it is a part of: it stays in the store with the name, with all that it names, and is what is pushed under it.
    /// With `kept_plain` the layers that were made here are compressed when it is pushed.
    pub fn name_image(
        &self,
        names: &[Reference],
        id: &Digest,
        image: &Descriptor,
        index: Option<&Descriptor>,
        kept_plain: bool,
    ) -> Result<(), StoreError> {
        let mut entry = image.clone();
        if let Some(index) = index {
            entry = entry.with_annotation(SOURCE_DIGEST, index.digest.to_string());
        }
        if kept_plain {
            entry = entry.with_annotation(KEPT_PLAIN, "true");
        }
        if names.is_empty() {
            return self.set_entry(&super::archive::named(None, id), entry);
        }
        names.iter().try_for_each(|name| self.set_entry(name, entry.clone()))
    }

    /// Returns the index that an entry's image was made as a part of, if the store has it. Those of registries are not kept.
    pub(crate) fn own_index(&self, entry: &Descriptor) -> Option<Descriptor> {
        self.index_of(entry.digest, entry.annotation(SOURCE_DIGEST)?.parse().ok()?)
    }

    /// Likewise of a manifest and what its name meant where it came from.
    pub(crate) fn index_of(&self, manifest: Digest, source: Digest) -> Option<Descriptor> {
        if source == manifest {
            return None;
        }
        let content = self.read_blob(&source, MAX_MANIFEST).ok()?;
        let index: Index = serde_json::from_slice(&content).ok()?;
        let media_type = index.media_type.as_deref().unwrap_or(media::OCI_INDEX);
        Some(Descriptor::new(media_type, source, content.len() as u64))
    }

    /// Stores bytes under their digest. The name is durable when an entry refers to it (see [`Store::set_entry`]).
    pub(crate) fn put_blob(&self, content: &[u8]) -> Result<Digest, StoreError> {
        let prepared = self.prepare_blob(content)?;
        let digest = prepared.digest;
        prepared.publish()?;
        Ok(digest)
    }

    /// Makes bytes durable that are to be stored under their digest, without storing them yet.
    pub(crate) fn prepare_blob(&self, content: &[u8]) -> Result<PreparedBlob, StoreError> {
        let digest = Digest::of(content);
        let path = self.blob_path(&digest);
        let file = if self.has_blob(&digest) {
            None
        } else {
            Some(PendingFile::with_content(&self.temporary(), content).map_err(io_error("write", &path))?)
        };
        Ok(PreparedBlob { digest, file, path })
    }

    /// Makes a file that has a blob's content the blob; its name is durable when an entry refers to it.
    pub(crate) fn publish_blob(&self, file: PendingFile, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        file.sync().and_then(|()| file.publish(&path)).map_err(io_error("write", &path))
    }

    /// Makes the names of all blobs durable.
    pub(crate) fn sync_blobs(&self) -> Result<(), StoreError> {
        let blobs = self.images.join("blobs/sha256");
        sync_directory(&blobs).map_err(io_error("sync", &blobs))
    }

    pub(crate) fn read_manifest(&self, entry: &Descriptor) -> Result<Manifest, StoreError> {
        let digest = entry.digest;
        let content = self.read_blob(&digest, MAX_MANIFEST)?;
        match Document::parse(&content, Some(&entry.media_type)) {
            Ok(Document::Manifest(manifest)) => Ok(manifest),
            Ok(Document::Index(_)) => {
                Err(StoreError::Manifest { digest, source: ManifestError::Unsupported { found: "index".to_owned() } })
            }
            Err(source) => Err(StoreError::Manifest { digest, source }),
        }
    }

    /// Describes the image of an index entry.
    pub(crate) fn load(&self, reference: Reference, entry: &Descriptor) -> Result<Image, StoreError> {
        let manifest = self.read_manifest(entry)?;
        let id = manifest.config.digest;
        let content = self.read_blob(&id, MAX_CONFIG)?;
        let parsed = ParsedConfig::parse(&content, manifest.layers.len())
            .map_err(|source| StoreError::Config { digest: id, source })?;
        let mut size = 0;
        for (layer, diff_id) in manifest.layers.iter().zip(&parsed.diff_ids) {
            size += self.layer_size(diff_id).map_or(layer.size, |unpacked| unpacked.bytes);
        }
        Ok(Image {
            reference,
            digest: entry.digest,
            id,
            source_digest: entry.annotation(SOURCE_DIGEST).and_then(|text| text.parse().ok()).unwrap_or(entry.digest),
            created: parsed.config.created().clone(),
            config: parsed.config,
            docker: parsed.docker,
            platform: parsed.platform,
            diff_ids: parsed.diff_ids,
            layers: manifest.layers,
            size,
            dangling: entry.annotation(REF_NAME).is_none(),
            checked: entry.annotation(CHECKED).and_then(|time| time.parse().ok()),
            tagged: entry.annotation(TAGGED).and_then(|time| time.parse().ok()),
        })
    }

    /// Enters an image under a name. An image that had the name stays, without it. Its blobs are made durable with it.
    pub(crate) fn set_entry(&self, name: &Reference, entry: Descriptor) -> Result<(), StoreError> {
        self.sync_blobs()?;
        let entry = without(entry, &[FORMER_NAME]).with_annotation(REF_NAME, name.to_string());
        self.update_index(|index| {
            let digest = entry.digest;
            let same = index.manifests.iter().find(|other| other.digest == digest && is_named(other, name));
            let tagged = same.and_then(|same| same.annotation(TAGGED)).map(str::to_owned);
            let entry = entry.with_annotation(TAGGED, tagged.unwrap_or_else(|| jiff::Timestamp::now().to_string()));
            for other in &mut index.manifests {
                if other.digest != digest && is_named(other, name) {
                    let former = other.annotation(REF_NAME).unwrap_or_default().to_owned();
                    *other = without(other.clone(), &[REF_NAME]).with_annotation(FORMER_NAME, former);
                }
            }
            index.manifests.retain(|other| {
                !(other.digest == digest && (is_named(other, name) || other.annotation(REF_NAME).is_none()))
            });
            // An image with other names needs no entry without one.
            let named: HashSet<Digest> = index
                .manifests
                .iter()
                .filter(|other| other.annotation(REF_NAME).is_some())
                .map(|other| other.digest)
                .collect();
            index.manifests.retain(|other| other.annotation(FORMER_NAME).is_none() || !named.contains(&other.digest));
            index.manifests.push(entry);
        })
    }

    /// Returns the table of contents, from memory if the file is the one that was read last.
    pub(crate) fn index(&self) -> Result<Arc<Index>, StoreError> {
        let path = self.images.join("index.json");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(io_error("look at", &path))?;
        let stamp = (metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec());
        let mut cached = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, index)) = &*cached
            && *known == stamp
        {
            return Ok(Arc::clone(index));
        }
        let mut content = Vec::new();
        file.by_ref().take(MAX_INDEX).read_to_end(&mut content).map_err(io_error("read", &path))?;
        let index: Arc<Index> =
            Arc::new(serde_json::from_slice(&content).map_err(|source| StoreError::Index { path, source })?);
        *cached = Some((stamp, Arc::clone(&index)));
        Ok(index)
    }

    /// Changes the table of contents: read, change, write, all under a lock. What other tools wrote is kept.
    pub(crate) fn update_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T, StoreError> {
        let lock = self.locks().join("index");
        let _lock = Lock::exclusive(&lock, || ()).map_err(io_error("lock", &lock))?;
        let path = self.images.join("index.json");
        // Change times have a grain; what is about to be overwritten is read for certain.
        *self.index.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let before = self.index()?;
        let mut index = Index::clone(&before);
        let result = change(&mut index);
        if index != *before || !path.exists() {
            index.media_type.get_or_insert_with(|| media::OCI_INDEX.to_owned());
            let content =
                serde_json::to_vec(&index).map_err(|source| StoreError::Index { path: path.clone(), source })?;
            write_file(&self.temporary(), &path, &content).map_err(io_error("write", &path))?;
        }
        Ok(result)
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.images.join(".rcompose/tmp")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.images.join(".rcompose/locks")
    }

    pub(crate) fn layers(&self) -> &Path {
        &self.layers
    }

    pub(crate) fn images(&self) -> &Path {
        &self.images
    }

    pub(crate) fn steps_path(&self) -> &Path {
        &self.steps
    }

    pub(crate) fn meta_path(&self, id: &Digest) -> PathBuf {
        self.layers.join(".meta").join(id.hex())
    }

    pub(crate) fn unsynced_path(&self, id: &Digest) -> PathBuf {
        self.layers.join(".unsynced").join(id.hex())
    }

    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }
}

fn boot_id() -> Result<String, StoreError> {
    host::boot_id().map_err(io_error("read", Path::new(host::BOOT_ID)))
}

/// Returns the name that an entry has or had. Entries of other tools may have short ones.
pub(crate) fn entry_reference(entry: &Descriptor) -> Option<Reference> {
    if let Some(name) = entry.annotation(REF_NAME) {
        return name.parse().ok();
    }
    let former: Reference = entry.annotation(FORMER_NAME)?.parse().ok()?;
    let source = entry.annotation(SOURCE_DIGEST).and_then(|digest| digest.parse().ok()).unwrap_or(entry.digest);
    format!("{}@{source}", former.name()).parse().ok()
}

pub(crate) fn is_named(entry: &Descriptor, reference: &Reference) -> bool {
    let Some(name) = entry.annotation(REF_NAME) else {
        return reference.tag().is_none() && entry_reference(entry).as_ref() == Some(reference);
    };
    name == reference.to_string() || name.parse::<Reference>().as_ref() == Ok(reference)
}

pub(crate) fn find_entry<'a>(index: &'a Index, reference: &Reference) -> Option<&'a Descriptor> {
    // The last one wins: it came last.
    let mut entries = index.manifests.iter().rev();
    match reference.digest() {
        None => entries.find(|entry| entry.annotation(REF_NAME).is_some() && is_named(entry, reference)),
        Some(digest) => entries.find(|entry| {
            let source = entry.annotation(SOURCE_DIGEST).and_then(|text| text.parse().ok());
            (entry.digest == digest || source == Some(digest))
                && entry_reference(entry).is_some_and(|name| name.name() == reference.name())
        }),
    }
}

pub(crate) fn without(mut entry: Descriptor, annotations: &[&str]) -> Descriptor {
    if let Some(map) = &mut entry.annotations {
        for key in annotations {
            map.remove(*key);
        }
    }
    entry
}
