//! Checks images of the store against their digests, and fetches again what is damaged.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::config::{Image, ParsedConfig};
use super::digest::Digest;
use super::manifest::{Document, MAX_CONFIG, MAX_MANIFEST, ManifestError};
use super::pull::{Progress, PullError, PullOptions, Pulling, make_builtin, on_thread};
use super::reference::Reference;
use super::remove::remove_path;
use super::store::{Store, StoreError, entry_reference, find_entry, io_error};
use super::{builtin, prepare};

/// Something in the store that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A blob's content or length is wrong.
    Blob(Digest),
    /// A blob is not there.
    MissingBlob(Digest),
    /// A layer is not unpacked, or may have been hit by a power cut.
    Layer(Digest),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(digest) => write!(formatter, "blob {digest} is damaged"),
            Self::MissingBlob(digest) => write!(formatter, "blob {digest} is missing"),
            Self::Layer(digest) => write!(formatter, "layer {digest} is not unpacked"),
        }
    }
}

impl Store {
    /// Lists the names of all images, also of those whose manifest is damaged (which [`Store::list`] passes over).
    pub fn names(&self) -> Result<Vec<Reference>, StoreError> {
        Ok(self.index()?.manifests.iter().filter_map(entry_reference).collect())
    }

    /// Checks an image's blobs against their digests, and that its layers are unpacked. Reads all of them.
    pub fn verify(&self, image: &Image) -> Result<Vec<Damage>, StoreError> {
        self.verify_manifest(&image.digest)
    }

    /// The same by name; `None` if the store has no such name.
    pub fn verify_name(&self, reference: &Reference) -> Result<Option<Vec<Damage>>, StoreError> {
        let digest = find_entry(&*self.index()?, reference).map(|entry| entry.digest);
        digest.map(|digest| self.verify_manifest(&digest)).transpose()
    }

    /// What cannot be known because something else is damaged is left out.
    fn verify_manifest(&self, digest: &Digest) -> Result<Vec<Damage>, StoreError> {
        if let Some(damage) = self.verify_blob(digest, None)? {
            return Ok(vec![damage]);
        }
        let content = self.read_blob(digest, MAX_MANIFEST)?;
        let unusable = |source| StoreError::Manifest { digest: *digest, source };
        let manifest = match Document::parse(&content, None).map_err(unusable)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => return Err(unusable(ManifestError::Unsupported { found: "index".to_owned() })),
        };
        let mut damage = Vec::new();
        let config = self.verify_blob(&manifest.config.digest, Some(manifest.config.size))?;
        let config_is_good = config.is_none();
        damage.extend(config);
        for layer in &manifest.layers {
            damage.extend(self.verify_blob(&layer.digest, Some(layer.size))?);
        }
        if config_is_good {
            let id = manifest.config.digest;
            let content = self.read_blob(&id, MAX_CONFIG)?;
            let parsed = ParsedConfig::parse(&content, manifest.layers.len())
                .map_err(|source| StoreError::Config { digest: id, source })?;
            damage.extend(parsed.diff_ids.iter().filter(|id| !self.has_layer(id)).map(|id| Damage::Layer(*id)));
        }
        Ok(damage)
    }

    fn verify_blob(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Damage>, StoreError> {
        let path = self.blob_path(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Damage::MissingBlob(*digest))),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let (actual, length) = Digest::of_reader(&mut file).map_err(io_error("read", &path))?;
        let is_good = actual == *digest && size.is_none_or(|size| size == length);
        Ok((!is_good).then_some(Damage::Blob(*digest)))
    }

    /// Removes what [`Store::verify`] found damaged, so that it is fetched and unpacked again.
    pub fn discard(&self, damage: &[Damage]) -> Result<(), StoreError> {
        let _lease = self.lease()?;
        for damage in damage {
            match damage {
                Damage::Blob(digest) => {
                    let path = self.blob_path(digest);
                    remove_path(&path).map_err(io_error("remove", &path))?;
                }
                Damage::MissingBlob(_) | Damage::Layer(_) => {}
            }
        }
        self.sync_blobs()
    }
}

/// Checks an image of the store, and gets again what is damaged or missing of it: blobs by their digests from the
/// registry that the name says, unpacked layers from their blobs. Returns what there was to repair.
///
/// The name keeps meaning the image that it means here, whatever the registry has under it by now.
pub async fn repair(
    store: &Arc<Store>,
    reference: &Reference,
    options: &PullOptions,
    progress: &Progress,
) -> Result<Vec<Damage>, PullError> {
    let failed = |error| PullError::store(reference, error);
    let worker = || PullError::Worker { image: reference.familiar() };
    let pull = Pulling { store, reference, options, progress };
    let _lease = pull.lease().await?;
    let (checked, name) = (Arc::clone(store), reference.clone());
    let damage = on_thread("image-verify", move || checked.verify_name(&name)).await.map_err(|_| worker())?;
    let damage = damage.map_err(failed)?.ok_or_else(|| failed(StoreError::NoSuchImage(reference.familiar())))?;
    if damage.is_empty() {
        return Ok(damage);
    }
    store.discard(&damage).map_err(failed)?;
    if builtin::is_builtin(reference) && options.builtin.is_some() {
        // Without its name it is made anew.
        store.remove(reference).map_err(failed)?;
        make_builtin(store, reference, options).await?;
        return Ok(damage);
    }
    if damage.iter().all(|damage| matches!(damage, Damage::Layer(_))) {
        prepare(store, reference, options, progress).await?;
        return Ok(damage);
    }
    let index = store.index().map_err(failed)?;
    let digest = find_entry(&index, reference).map(|entry| entry.digest);
    let digest = digest.ok_or_else(|| failed(StoreError::NoSuchImage(reference.familiar())))?;
    let exact = format!("{}@{digest}", reference.name()).parse().expect("made of a valid name and a digest");
    Pulling { reference: &exact, ..pull }.fetch_exactly().await?;
    Ok(damage)
}
