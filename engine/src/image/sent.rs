//! What registries are sent in place of images that were made here: their layers are not compressed as long as they are only
//! kept, and are when they are pushed.

use super::compress::Compression;
use super::config::Image;
use super::digest::Digest;
use super::manifest::{Descriptor, Dialect, Document, Index, MAX_MANIFEST, ManifestError, media};
use super::reference::Reference;
use super::store::{SOURCE_DIGEST, Store, StoreError, is_named, without};

/// Annotation of an image whose layers are not compressed only because it is kept here.
pub(crate) const KEPT_PLAIN: &str = "rcompose.kept.plain";
/// Annotation of a manifest, in an index, that attests something of another: its digest.
pub(crate) const ATTESTED: &str = "vnd.docker.reference.digest";

impl Store {
    /// Returns whether an image's layers are to be compressed when it is sent.
    pub(crate) fn is_kept_plain(&self, image: &Image) -> Result<bool, StoreError> {
        let index = self.index()?;
        let mut entries = index.manifests.iter().filter(|entry| entry.digest == image.digest);
        Ok(entries.any(|entry| entry.annotation(KEPT_PLAIN).is_some()))
    }

    /// Returns what a registry is sent in place of an image: one whose layers are compressed, always alike. What is attested
    /// of an image names it by its digest, so that stays as it is.
    pub(crate) fn for_registry(&self, top: &Descriptor) -> Result<Descriptor, StoreError> {
        let digest = top.digest;
        let content = self.read_blob(&digest, MAX_MANIFEST)?;
        let sent = match Document::parse(&content, Some(&top.media_type)) {
            Err(source) => return Err(StoreError::Manifest { digest, source }),
            Ok(Document::Manifest(mut manifest)) => {
                let layers = self.compressed_layers(&manifest.layers)?;
                if layers == manifest.layers {
                    return Ok(top.clone());
                }
                manifest.layers = layers;
                self.put_document(&manifest)?
            }
            Ok(Document::Index(mut index)) => {
                if index.manifests.iter().any(|entry| entry.annotation(ATTESTED).is_some()) {
                    return Ok(top.clone());
                }
                let entries = index.manifests.iter().map(|entry| self.for_registry(entry));
                let entries = entries.collect::<Result<Vec<_>, _>>()?;
                if entries == index.manifests {
                    return Ok(top.clone());
                }
                index.manifests = entries;
                self.put_index(&index)?
            }
        };
        Ok(Descriptor { digest: sent.digest, size: sent.size, ..top.clone() })
    }

    fn compressed_layers(&self, layers: &[Descriptor]) -> Result<Vec<Descriptor>, StoreError> {
        let compressed = |layer: &Descriptor| {
            if !Compression::None.is_of(layer) || !self.has_blob(&layer.digest) {
                return Ok(layer.clone());
            }
            let dialect = if layer.media_type == media::OCI_LAYER { Dialect::Oci } else { Dialect::Docker };
            let compressed = self.layer_as(&layer.digest, Compression::USUAL)?.descriptor;
            Ok(Descriptor { media_type: dialect.layer(&compressed.media_type).to_owned(), ..compressed })
        };
        layers.iter().map(compressed).collect()
    }

    /// Has a name mean what was sent under it from here on, and no longer the image that was kept.
    pub(crate) fn name_sent(&self, name: &Reference, image: &Image, sent: &Descriptor) -> Result<(), StoreError> {
        let manifest = if media::is_index(&sent.media_type) { self.part_of(sent, &image.id)? } else { sent.clone() };
        self.sync_blobs()?;
        self.update_index(|index| {
            for entry in &mut index.manifests {
                if entry.digest != image.digest || !is_named(entry, name) {
                    continue;
                }
                let mut renewed = without(entry.clone(), &[KEPT_PLAIN]);
                (renewed.digest, renewed.size) = (manifest.digest, manifest.size);
                if manifest.digest != sent.digest {
                    renewed = renewed.with_annotation(SOURCE_DIGEST, sent.digest.to_string());
                }
                *entry = renewed;
            }
        })
    }

    /// Finds the manifest of an image in an index.
    fn part_of(&self, index: &Descriptor, id: &Digest) -> Result<Descriptor, StoreError> {
        let digest = index.digest;
        let content = self.read_blob(&digest, MAX_MANIFEST)?;
        let invalid = |source| StoreError::Manifest { digest, source: ManifestError::Json(source) };
        let index: Index = serde_json::from_slice(&content).map_err(invalid)?;
        for entry in index.manifests {
            if self.read_manifest(&entry)?.config.digest == *id {
                return Ok(entry);
            }
        }
        Err(StoreError::NoSuchImage(id.to_string()))
    }
}
