//! Caches of builds outside of the store: in a registry, in a directory, or in the image itself.
//!
//! The format is BuildKit's: a manifest whose configuration ([`CONFIG`]) says which step made which of its layers. What it says is
//! believed as far as the one who named it is; every layer is checked against its digest, and against the diff id that is said of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::ParsedConfig;
use super::digest::Digest;
use super::import::ImportError;
use super::manifest::{Descriptor, Dialect, Index, MAX_CONFIG, MAX_MANIFEST, Platform, is_dense};
use super::pull::{PullError, PullOptions, Pulling, no_progress, on_thread};
use super::reference::Reference;
use super::registry::{RawManifest, RegistryError};
use super::settings::Endpoint;
use super::step::StepKey;
use super::store::{REF_NAME, Store, StoreError};

/// The media type of what says which step made which layer.
pub(crate) const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The annotation of a layer, in the manifest, that says what it expands to.
const PLAIN: &str = "containerd.io/uncompressed";
/// The field of an image's configuration that says it of the image's own layers.
pub(crate) const INLINE: &str = "moby.buildkit.cache.v0";

/// Which step made which layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CacheConfig {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub(crate) layers: Vec<CacheLayer>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) records: Vec<CacheRecord>,
}

/// A layer, which the manifest describes, and the one below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CacheLayer {
    pub(crate) blob: Digest,
    /// Its place in the list; -1: none.
    #[serde(default)]
    pub(crate) parent: i64,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CacheRecord {
    #[serde(default, rename = "layers", skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub(crate) results: Vec<CacheResult>,
    /// Its key.
    pub(crate) digest: Digest,
}

/// What a step has made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CacheResult {
    /// The layer's place in the list.
    pub(crate) layer: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<Timestamp>,
}

/// Go writes `null` for a list without anything in it.
fn or_empty<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer of it cannot be had.
    #[error(transparent)]
    Layer(#[from] PullError),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be decompressed.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A file of a directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A document of it is not of a known form.
    #[error("{what} cannot be read: {source}")]
    Document {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A document of it is larger than any honest one.
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// A blob of a directory is another one than its name says.
    #[error("the content of blob {0} is not what its name says")]
    WrongDigest(Digest),
    /// There is nothing in it that says which step made what.
    #[error("it is not the cache of a build")]
    None,
    /// A thread of ours died.
    #[error("a worker stopped unexpectedly")]
    Worker,
}

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// In a registry: a cache, or an image that has its own in it.
    Registry(Reference),
    /// In a directory, under a tag or a digest.
    Directory {
        /// The directory, an OCI image layout.
        path: PathBuf,
        /// What the layout calls it.
        tag: String,
        /// Its manifest, whatever the tag says.
        digest: Option<Digest>,
    },
}

/// A cache that was found.
#[derive(Debug, Clone)]
pub struct ImportedCache {
    place: Place,
    steps: HashMap<StepKey, CachedLayer>,
    options: PullOptions,
}

#[derive(Debug, Clone)]
enum Place {
    Registry(Reference, Endpoint),
    Directory(PathBuf),
}

/// A layer of a cache.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CachedLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) created: Timestamp,
}

/// The document that a cache begins with.
#[derive(Deserialize)]
struct Top {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
}

impl ImportedCache {
    /// Finds a cache. Nothing but what says which step made what is read yet.
    pub async fn find(source: &CacheSource, options: &PullOptions) -> Result<Self, CacheError> {
        let (place, top) = match source {
            CacheSource::Registry(reference) => {
                let raw = options.client.document(reference, &|raw: RawManifest| Ok(raw)).await?;
                (Place::Registry(reference.clone(), raw.endpoint), raw.bytes)
            }
            CacheSource::Directory { path, tag, digest } => {
                let digest = match digest {
                    Some(digest) => *digest,
                    None => tagged(path, tag)?,
                };
                (Place::Directory(path.clone()), read_blob(path, &digest, MAX_MANIFEST, "its manifest")?)
            }
        };
        let mut cache = Self { place, steps: HashMap::new(), options: options.clone() };
        let mut top: Top = parse(&top, "its manifest")?;
        if let Some(entries) = top.manifests.take() {
            // Either the layers with the configuration behind them, or one image for several platforms.
            if let Some(config) = entries.iter().find(|entry| entry.media_type == CONFIG) {
                top = Top { config: Some(config.clone()), layers: entries, manifests: None };
            } else {
                let index = Index { manifests: entries, ..Index::default() };
                let platform = options.platform.clone().unwrap_or_else(Platform::host);
                let entry = index.choose(&platform).map_err(|_| CacheError::None)?;
                top = parse(&cache.document(entry).await?, "its manifest")?;
            }
        }
        let config = top.config.ok_or(CacheError::None)?;
        let content = cache.small_blob(&config).await?;
        cache.steps = if config.media_type == CONFIG {
            steps_of(&parse(&content, "its configuration")?, &top.layers)
        } else {
            inline_steps(&content, &top.layers)?
        };
        Ok(cache)
    }

    /// Returns what a step has made.
    pub(crate) fn get(&self, key: &StepKey) -> Option<&CachedLayer> {
        self.steps.get(key)
    }

    /// Brings a layer into the store: unpacked, and as a blob that is not compressed. The caller holds a lease.
    pub(crate) async fn fetch(&self, store: &Arc<Store>, layer: &CachedLayer) -> Result<(), CacheError> {
        let name;
        let (reference, endpoint) = match &self.place {
            Place::Registry(reference, endpoint) => (reference, Some(endpoint)),
            Place::Directory(path) => {
                let (store, digest) = (Arc::clone(store), layer.descriptor.digest);
                let path = blob_path(path, &digest);
                let copied = on_thread("cache-copy", move || -> Result<(), CacheError> {
                    let file = open(&path)?;
                    let (actual, pending) = store.take_in(file).map_err(|source| CacheError::Read { path, source })?;
                    if actual != digest {
                        return Err(CacheError::WrongDigest(digest));
                    }
                    Ok(store.publish_blob(pending, &digest)?)
                });
                copied.await.map_err(|_| CacheError::Worker)??;
                name = super::archive::named(None, &layer.diff_id);
                (&name, None)
            }
        };
        let pulling = Pulling { store, reference, options: &self.options, progress: &no_progress() };
        let (descriptors, diff_ids) = (std::slice::from_ref(&layer.descriptor), [layer.diff_id]);
        pulling.fetch_layers(endpoint, descriptors, &diff_ids).await?;
        if store.has_blob(&layer.diff_id) {
            return Ok(());
        }
        let (store, blob) = (Arc::clone(store), store.blob_path(&layer.descriptor.digest));
        let plain = on_thread("cache-plain", move || -> Result<(), CacheError> {
            // It has just been unpacked, so that it is known what it expands to.
            store.import_layer(open(&blob)?)?;
            Ok(())
        });
        plain.await.map_err(|_| CacheError::Worker)?
    }

    async fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, CacheError> {
        match &self.place {
            Place::Registry(reference, endpoint) => {
                let client = &self.options.client;
                let identifier = entry.digest.to_string();
                Ok(client.manifest_at(endpoint, reference, &identifier, Some(entry.digest)).await?.bytes)
            }
            Place::Directory(path) => read_blob(path, &entry.digest, MAX_MANIFEST, "its manifest"),
        }
    }

    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, CacheError> {
        if descriptor.size > MAX_CONFIG {
            return Err(CacheError::TooLarge("its configuration"));
        }
        match &self.place {
            Place::Registry(reference, endpoint) => {
                Ok(self.options.client.small_blob(endpoint, reference, descriptor).await?)
            }
            Place::Directory(path) => read_blob(path, &descriptor.digest, MAX_CONFIG, "its configuration"),
        }
    }
}

impl Store {
    /// Stores a cache: what says which step made what, and the layers with their diff ids, which are in the store. Returns its
    /// descriptor.
    pub(crate) fn put_cache(
        &self,
        config: &CacheConfig,
        layers: Vec<(Descriptor, Digest)>,
    ) -> Result<Descriptor, StoreError> {
        let described = |(layer, diff_id): (Descriptor, Digest)| layer.with_annotation(PLAIN, diff_id.to_string());
        let layers = layers.into_iter().map(described).collect();
        let config = serde_json::to_vec(config).expect("a cache's configuration can be written");
        self.put_manifest(Dialect::Oci, &config, CONFIG, layers, BTreeMap::new())
    }

    /// Writes a cache of the store into a directory, under a tag.
    pub fn save_cache(&self, cache: &Descriptor, directory: PathBuf, tag: &str) -> Result<(), super::ArchiveError> {
        let mut folder = super::save::Folder::new(directory).map_err(super::ArchiveError::Write)?;
        self.save_as(&cache.clone().with_annotation(REF_NAME, tag), &[], false, &mut folder)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(content: &[u8], what: &'static str) -> Result<T, CacheError> {
    if is_dense(content) {
        return Err(CacheError::TooLarge(what));
    }
    serde_json::from_slice(content).map_err(|source| CacheError::Document { what, source })
}

/// Returns the steps that a cache knows. What makes no sense is left out.
fn steps_of(config: &CacheConfig, layers: &[Descriptor]) -> HashMap<StepKey, CachedLayer> {
    let known: HashMap<Digest, &Descriptor> = layers.iter().map(|layer| (layer.digest, layer)).collect();
    let step = |record: &CacheRecord| {
        let result = record.results.first()?;
        let descriptor = *known.get(&config.layers.get(result.layer)?.blob)?;
        let diff_id = descriptor.annotation(PLAIN)?.parse().ok()?;
        let created = result.created_at.unwrap_or_default();
        Some((record.digest, CachedLayer { descriptor: descriptor.clone(), diff_id, created }))
    };
    config.records.iter().filter_map(step).collect()
}

/// Returns the steps that an image says of its own layers.
fn inline_steps(config: &[u8], layers: &[Descriptor]) -> Result<HashMap<StepKey, CachedLayer>, CacheError> {
    let parsed = ParsedConfig::parse(config, layers.len()).map_err(|_| CacheError::None)?;
    let whole: serde_json::Value = parse(config, "its configuration")?;
    let text = whole.get(INLINE).and_then(serde_json::Value::as_str).ok_or(CacheError::None)?;
    let said = BASE64_STANDARD.decode(text).map_err(|_| CacheError::None)?;
    let said: Vec<CacheRecord> = parse(&said, "its cache")?;
    let step = |record: &CacheRecord| {
        let result = record.results.first()?;
        let (descriptor, diff_id) = (layers.get(result.layer)?.clone(), *parsed.diff_ids.get(result.layer)?);
        let created = result.created_at.unwrap_or_default();
        Some((record.digest, CachedLayer { descriptor, diff_id, created }))
    };
    Ok(said.iter().filter_map(step).collect())
}

/// Returns what a cache in an image is written as: the steps, whose layers are those of the image.
pub(crate) fn inline_text(records: &[CacheRecord]) -> String {
    BASE64_STANDARD.encode(serde_json::to_vec(records).expect("the steps of a cache can be written"))
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// Opens a file; what is none is not waited for.
fn open(path: &Path) -> Result<File, CacheError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |source| CacheError::Read { path: path.to_owned(), source };
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() { Ok(file) } else { Err(failed(io::ErrorKind::InvalidInput.into())) }
}

fn read(path: &Path, limit: u64, what: &'static str) -> Result<Vec<u8>, CacheError> {
    let mut content = Vec::new();
    let read = open(path)?.take(limit + 1).read_to_end(&mut content);
    read.map_err(|source| CacheError::Read { path: path.to_owned(), source })?;
    if content.len() as u64 > limit { Err(CacheError::TooLarge(what)) } else { Ok(content) }
}

fn read_blob(directory: &Path, digest: &Digest, limit: u64, what: &'static str) -> Result<Vec<u8>, CacheError> {
    let content = read(&blob_path(directory, digest), limit, what)?;
    if Digest::of(&content) == *digest { Ok(content) } else { Err(CacheError::WrongDigest(*digest)) }
}

/// Finds what a layout has under a tag.
fn tagged(directory: &Path, tag: &str) -> Result<Digest, CacheError> {
    let index: Index = parse(&read(&directory.join("index.json"), MAX_MANIFEST, "its index")?, "its index")?;
    let is_it = |entry: &&Descriptor| entry.annotation(REF_NAME) == Some(tag);
    index.manifests.iter().find(is_it).map(|entry| entry.digest).ok_or(CacheError::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As BuildKit writes it with `BUILDKIT_INLINE_CACHE=1`, shortened.
    #[test]
    fn what_buildkit_writes_into_an_image_is_read() {
        let hex = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let records = format!(
            r#"[{{"digest":"{}"}},{{"layers":[{{"layer":1,"createdAt":"2026-11-22T02:55:35.819112081Z"}}],"digest":"{}",
                "inputs":[[{{"selector":"{}","link":0}}]]}}]"#,
            hex("c"),
            hex("d"),
            hex("e")
        );
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64", "config": {}, INLINE: BASE64_STANDARD.encode(records),
            "rootfs": {"type": "layers", "diff_ids": [hex("a"), hex("b")]},
        });
        let layers = ["1", "2"].map(|digit| Descriptor::new("", hex(digit).parse().unwrap(), 7));
        let steps = inline_steps(config.to_string().as_bytes(), &layers).unwrap();
        let layer = &steps[&hex("d").parse().unwrap()];
        assert_eq!((steps.len(), &layer.descriptor, layer.diff_id.to_string()), (1, &layers[1], hex("b")));
        let none = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": []}, "config": {}});
        assert!(inline_steps(none.to_string().as_bytes(), &[]).is_err());
    }

    /// As Docker's BuildKit writes it with its containerd store (`--cache-to type=local,mode=max`), shortened.
    #[test]
    fn what_buildkit_writes_is_read() {
        let hex = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let config = format!(
            r#"{{"layers":[{{"blob":"{a}","parent":1}},{{"blob":"{b}","parent":-1}}],
                "records":[{{"layers":[{{"layer":0,"createdAt":"2026-11-22T09:26:57.28967339Z"}}],"digest":"{c}",
                "inputs":[[{{"link":4}}],[{{"link":1}},{{"selector":"{d}","link":2}}]]}},{{"digest":"{d}"}},
                {{"layers":[{{"layer":7}}],"digest":"{e}"}}]}}"#,
            a = hex("a"),
            b = hex("b"),
            c = hex("c"),
            d = hex("d"),
            e = hex("e"),
        );
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": CONFIG, "digest": hex("f"), "size": 1380},
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": hex("a"), "size": 146,
                "annotations": {PLAIN: hex("1")},
            }],
        });
        let top: Top = parse(manifest.to_string().as_bytes(), "it").unwrap();
        let steps = steps_of(&parse(config.as_bytes(), "it").unwrap(), &top.layers);
        let (key, layer) = steps.iter().next().unwrap();
        assert_eq!((steps.len(), key.to_string(), layer.diff_id.to_string()), (1, hex("c"), hex("1")));
        assert_eq!((layer.descriptor.size, layer.created.to_string().as_str()), (146, "2026-11-22T09:26:57.28967339Z"));
    }
}
