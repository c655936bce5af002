//! What the store can say about an image beside what is needed to run it.

use super::config::Image;
use super::digest::Digest;
use super::manifest::{Descriptor, MAX_CONFIG};
use super::reference::Reference;
use super::store::{CHECKED, SOURCE_DIGEST, Store, StoreError, is_named, without};

/// A layer of an image, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of what it unpacks to.
    pub diff_id: Digest,
    /// Bytes of its files, or of the compressed layer where that is not known.
    pub bytes: u64,
}

impl Store {
    /// Returns an image's configuration as it was written, with fields that the specification does not know.
    pub fn raw_config(&self, image: &Image) -> Result<serde_json::Value, StoreError> {
        let content = self.read_blob(&image.id, MAX_CONFIG)?;
        serde_json::from_slice(&content)
            .map_err(|source| StoreError::Config { digest: image.id, source: super::config::ConfigError::Json(source) })
    }

    /// Returns the media type, digest and size of an image's manifest.
    pub fn descriptor(&self, image: &Image) -> Result<Descriptor, StoreError> {
        let (content, media_type) = self.manifest_of(image)?;
        Ok(Descriptor::new(&media_type, image.digest, content.len() as u64))
    }

    /// Returns an image's layers and their sizes, bottom first.
    pub fn layer_sizes(&self, image: &Image) -> Vec<Layer> {
        let layers = image.diff_ids.iter().zip(&image.layers);
        let size = |(diff_id, layer): (&Digest, &Descriptor)| Layer {
            diff_id: *diff_id,
            bytes: self.layer_size(diff_id).map_or(layer.size, |unpacked| unpacked.bytes),
        };
        layers.map(size).collect()
    }

    /// Notes that the registry has, under this name, the manifest that is here, as of now.
    pub(crate) fn set_checked(&self, name: &Reference) -> Result<(), StoreError> {
        self.update_index(|index| {
            for entry in &mut index.manifests {
                if is_named(entry, name) {
                    let source = if self.own_index(entry).is_some() { "" } else { SOURCE_DIGEST };
                    *entry =
                        without(entry.clone(), &[source]).with_annotation(CHECKED, jiff::Timestamp::now().to_string());
                }
            }
        })
    }
}
