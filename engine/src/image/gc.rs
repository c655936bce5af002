//! Frees what nothing refers to.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::config::ParsedConfig;
use super::digest::Digest;
use super::lock::Lock;
use super::manifest::{Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, media};
use super::remove::remove_path;
use super::store::{Store, StoreError, io_error};

/// What garbage collection freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blobs removed.
    pub blobs: u64,
    /// Unpacked layers removed.
    pub layers: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// How much the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the blobs of images.
    pub blob_bytes: u64,
    /// Bytes of their unpacked layers.
    pub layer_bytes: u64,
    /// Bytes of blobs and unpacked layers that no image has: those of the build cache.
    pub cache_bytes: u64,
    /// Number of unpacked layers, of both.
    pub layers: u64,
}

/// What is referred to.
#[derive(Default)]
struct Reachable {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl Store {
    /// Removes every blob and layer that no image and no step of a build refers to, and what processes that died left behind.
    ///
    /// `in_use` is asked for the diff ids of layers that are in use besides (by containers); if it cannot tell, nothing is
    /// removed. It is called when nobody can start to use a layer any more: whoever is about to must hold a
    /// [`super::Hold`] from before it looks at the image until its use can be seen. Waits for pulls and leases to end.
    pub fn gc<E: From<StoreError>>(&self, in_use: impl FnOnce() -> Result<Vec<Digest>, E>) -> Result<Freed, E> {
        let path = self.locks().join("store");
        let _exclusive = Lock::exclusive_permanent(&path).map_err(io_error("lock", &path))?;
        let mut reachable = self.reachable()?;
        reachable.layers.extend(in_use()?);
        Ok(self.sweep(&reachable)?)
    }

    /// Removes what was not reached. Nobody else is at work.
    fn sweep(&self, reachable: &Reachable) -> Result<Freed, StoreError> {
        let mut freed = Freed::default();

        let blobs = self.images().join("blobs/sha256");
        for name in names(&blobs)? {
            let digest = Digest::from_hex(&name);
            if digest.is_some_and(|digest| reachable.blobs.contains(&digest)) {
                continue;
            }
            // What is no digest has no business here either.
            let path = blobs.join(&name);
            let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            remove(&path)?;
            freed.blobs += 1;
            freed.bytes += length;
        }
        self.sync_blobs()?;

        for name in names(self.layers())? {
            let Some(digest) = Digest::from_hex(&name) else {
                continue;
            };
            if reachable.layers.contains(&digest) {
                continue;
            }
            let size = self.layer_size(&digest).map_or(0, |unpacked| unpacked.bytes);
            // Renamed first, so that there never is half a layer under its name.
            let (path, aside) = (self.layer_path(&digest), self.layers().join(".tmp").join(&name));
            remove(&aside)?;
            fs::rename(&path, &aside).map_err(io_error("rename", &path))?;
            remove(&aside)?;
            freed.layers += 1;
            freed.bytes += size;
        }
        for directory in [".meta", ".unsynced"] {
            let directory = self.layers().join(directory);
            for name in names(&directory)? {
                if !self.layers().join(&name).is_dir() {
                    remove(&directory.join(&name))?;
                }
            }
        }
        // With the lock held exclusively, nobody is at work: all of this is from processes that died.
        for directory in [self.temporary(), self.layers().join(".tmp")] {
            for name in names(&directory)? {
                remove(&directory.join(&name))?;
            }
        }
        for name in names(&self.locks())? {
            if name.starts_with("blob-") || name.starts_with("layer-") {
                remove(&self.locks().join(&name))?;
            }
        }
        Ok(freed)
    }

    /// Returns how much the store holds, by what it noted when it took things in.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        let of_images = self.reached_by_images()?;
        let blobs = self.images().join("blobs/sha256");
        for name in names(&blobs)? {
            let bytes = fs::metadata(blobs.join(&name)).map_or(0, |metadata| metadata.len());
            let is_image = Digest::from_hex(&name).is_some_and(|digest| of_images.blobs.contains(&digest));
            *(if is_image { &mut usage.blob_bytes } else { &mut usage.cache_bytes }) += bytes;
        }
        for name in names(self.layers())? {
            if let Some(digest) = Digest::from_hex(&name) {
                usage.layers += 1;
                let bytes = self.layer_size(&digest).map_or(0, |unpacked| unpacked.bytes);
                let is_image = of_images.layers.contains(&digest);
                *(if is_image { &mut usage.layer_bytes } else { &mut usage.cache_bytes }) += bytes;
            }
        }
        Ok(usage)
    }

    fn reachable(&self) -> Result<Reachable, StoreError> {
        let mut reachable = self.reached_by_images()?;
        for (_, step) in self.steps()? {
            reachable.blobs.insert(step.layer);
            reachable.layers.insert(step.layer);
        }
        Ok(reachable)
    }

    fn reached_by_images(&self) -> Result<Reachable, StoreError> {
        let mut reachable = Reachable::default();
        let index = self.index()?;
        for entry in &index.manifests {
            self.reach(entry, &mut reachable, 0)?;
            if let Some(index) = self.own_index(entry) {
                self.reach(&index, &mut reachable, 0)?;
            }
        }
        Ok(reachable)
    }

    /// Marks what an entry refers to. What cannot be read refers to nothing that could be used.
    fn reach(&self, entry: &Descriptor, reachable: &mut Reachable, depth: u32) -> Result<(), StoreError> {
        if !reachable.blobs.insert(entry.digest) || depth > 4 {
            return Ok(());
        }
        let content = match self.read_blob(&entry.digest, MAX_MANIFEST) {
            Ok(content) => content,
            Err(StoreError::MissingBlob { .. } | StoreError::WrongSize { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let manifest = match Document::parse(&content, Some(&entry.media_type)) {
            Ok(Document::Manifest(manifest)) => manifest,
            // Other tools keep indexes in a layout.
            Ok(Document::Index(index)) => {
                for entry in &index.manifests {
                    self.reach(entry, reachable, depth + 1)?;
                }
                return Ok(());
            }
            Err(error) => {
                if media::is_manifest(&entry.media_type) || media::is_index(&entry.media_type) {
                    tracing::warn!(digest = %entry.digest, %error, "a manifest of the store cannot be read");
                }
                // Artifacts of other tools are manifests too; keep what they name.
                reachable.blobs.extend(digests_in(&content));
                return Ok(());
            }
        };
        reachable.blobs.insert(manifest.config.digest);
        reachable.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        match self.read_blob(&manifest.config.digest, MAX_CONFIG) {
            Ok(config) => {
                if let Ok(parsed) = ParsedConfig::parse(&config, manifest.layers.len()) {
                    reachable.layers.extend(parsed.diff_ids);
                }
                Ok(())
            }
            Err(StoreError::MissingBlob { .. } | StoreError::WrongSize { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Finds every string in a JSON document that is a digest.
fn digests_in(content: &[u8]) -> Vec<Digest> {
    let mut found = Vec::new();
    let mut rest: Vec<serde_json::Value> = serde_json::from_slice(content).into_iter().collect();
    while let Some(value) = rest.pop() {
        match value {
            serde_json::Value::String(text) => found.extend(text.parse::<Digest>()),
            serde_json::Value::Array(values) => rest.extend(values),
            serde_json::Value::Object(fields) => rest.extend(fields.into_iter().map(|(_, value)| value)),
            _ => {}
        }
    }
    found
}

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let failed = || io_error("list", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        // Names of ours are ASCII; others are left alone.
        if let Ok(name) = entry.map_err(failed())?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    remove_path(path).map_err(io_error("remove", path))
}
