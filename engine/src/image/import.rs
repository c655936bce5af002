//! Makes an image of one layer of an archive (`import`), from a file or from a web server.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::sync::Arc;

use hyper::body::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::mpsc;

use super::archive::Counted;
use super::blob::PendingFile;
use super::config::DockerConfig;
use super::decompress::Decompressor;
use super::digest::{Digest, Hasher};
use super::download::DownloadError;
use super::manifest::{Descriptor, Platform, media};
use super::pull::{CHUNKS, ChannelReader, on_thread};
use super::reference::Reference;
use super::registry::Client;
use super::store::{Store, StoreError, io_error};
use super::unpack::Limits;

/// What the new image is to be.
#[derive(Debug, Clone)]
pub struct Import {
    /// Its name. An image without one is called like a loaded one without a name.
    pub name: Option<Reference>,
    /// What machine it is for.
    pub platform: Platform,
    /// What is said of it in its history.
    pub comment: String,
    /// What its containers run, and how.
    pub config: ImportedConfig,
}

/// The `config` of an image configuration, as Docker writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names are those of the OCI image specification")]
pub struct ImportedConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", deserialize_with = "or_empty")]
    pub exposed_ports: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", deserialize_with = "or_empty")]
    pub volumes: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", deserialize_with = "or_empty")]
    pub labels: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_empty")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_empty")]
    pub stop_signal: String,
    #[serde(flatten)]
    pub docker: DockerConfig,
}

/// Docker writes `null` for what is empty.
fn or_empty<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Why an archive cannot become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read or decompressed.
    #[error("cannot read the archive: {0}")]
    Read(#[source] io::Error),
    /// It expands to more than an honest archive does.
    #[error("the archive expands to more than {limit} bytes")]
    TooLarge {
        /// What is accepted of an archive of this size.
        limit: u64,
    },
    /// A server does not give it.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// A thread of ours died.
    #[error("cannot import {url}: a worker stopped unexpectedly")]
    Worker {
        /// The URL.
        url: String,
    },
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes an image whose only layer is an archive, compressed or not. Returns its name; its layer is not unpacked, and
    /// with that not checked, yet (see [`super::prepare`]).
    pub fn import(&self, archive: impl Read, import: &Import) -> Result<Reference, ImportError> {
        let _lease = self.lease()?;
        let (layer, size) = self.import_layer(archive)?;
        let now = jiff::Timestamp::now().to_string();
        let config = serde_json::json!({
            "architecture": import.platform.architecture,
            "os": import.platform.os,
            "variant": import.platform.variant,
            "created": now,
            "comment": import.comment,
            "config": import.config,
            "rootfs": {"type": "layers", "diff_ids": [layer]},
            "history": [{"created": now, "comment": import.comment}],
        });
        let layers = vec![Descriptor::new(media::OCI_LAYER, layer, size)];
        let (id, entry) = self.put_image(&config, layers, import.platform.clone(), BTreeMap::new())?;
        let name = import.name.clone().unwrap_or_else(|| super::archive::named(None, &id));
        self.set_entry(&name, entry)?;
        Ok(name)
    }

    /// Stores what an archive expands to as a blob, which is then its own diff id.
    pub(super) fn import_layer(&self, archive: impl Read) -> Result<(Digest, u64), ImportError> {
        let compressed = Cell::new(0);
        let archive = Counted { inner: archive, count: &compressed };
        let mut plain = Decompressor::new(archive).map_err(ImportError::Read)?;
        let temporary = self.temporary();
        let mut file = PendingFile::create(&temporary).map_err(io_error("create a file in", &temporary))?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut size = 0;
        loop {
            let read = plain.read(&mut buffer).map_err(ImportError::Read)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            size += read as u64;
            // As for a layer of this size, headers and padding included.
            let limit = Limits::default().for_compressed(compressed.get()).bytes.saturating_mul(2);
            if size > limit {
                return Err(ImportError::TooLarge { limit });
            }
            file.file_mut().write_all(&buffer[..read]).map_err(io_error("write a file in", &temporary))?;
        }
        let digest = hasher.finish();
        if !self.has_blob(&digest) {
            self.publish_blob(file, &digest)?;
        }
        Ok((digest, size))
    }
}

/// Makes an image as [`Store::import`] does, of an archive that a web server has.
///
/// `progress` hears how many bytes have come and, where the server says so, of how many.
pub async fn import_url(
    store: &Arc<Store>,
    client: &Client,
    url: &str,
    import: Import,
    progress: &(dyn Fn(u64, Option<u64>) + Sync),
) -> Result<Reference, ImportError> {
    let mut download = client.download(url).await?;
    let total = download.length();
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let importing = {
        let store = Arc::clone(store);
        on_thread("image-import", move || store.import(ChannelReader::new(receiver), &import))
    };
    let mut received = 0;
    let failure = loop {
        match download.chunk().await {
            Ok(Some(chunk)) => {
                received += chunk.len() as u64;
                // The receiver went away, so it has something to say.
                if sender.send(Ok(chunk)).await.is_err() {
                    break None;
                }
                progress(received, total);
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    // The end is said, so that what came before a failure is not taken for the whole.
    drop(sender.send(if failure.is_none() { Ok(Bytes::new()) } else { Err(()) }).await);
    let imported = importing.await.map_err(|_| ImportError::Worker { url: url.to_owned() })?;
    match failure {
        Some(failure) => Err(failure.into()),
        None => imported,
    }
}
