//! Makes an image of one layer of an archive (`import`).

use std::io::{self, Read, Write as _};

use serde::Serialize;

use super::blob::PendingFile;
use super::config::DockerConfig;
use super::decompress::Decompressor;
use super::digest::{Digest, Hasher};
use super::manifest::{Descriptor, Manifest, Platform, media};
use super::reference::Reference;
use super::store::{Store, StoreError, io_error};

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the names are those of the OCI image specification")]
pub struct ImportedConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub exposed_ports: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub volumes: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub labels: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(flatten)]
    pub docker: DockerConfig,
}

/// Why an archive cannot become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read or decompressed.
    #[error("cannot read the archive: {0}")]
    Read(#[source] io::Error),
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
        let config = config.to_string().into_bytes();
        let id = self.put_blob(&config)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::OCI_MANIFEST.to_owned()),
            config: Descriptor::new(media::OCI_CONFIG, id, config.len() as u64),
            layers: vec![Descriptor::new(media::OCI_LAYER, layer, size)],
            annotations: None,
        };
        let manifest = serde_json::to_vec(&manifest).expect("a manifest can be written");
        let mut entry = Descriptor::new(media::OCI_MANIFEST, self.put_blob(&manifest)?, manifest.len() as u64);
        entry.platform = Some(import.platform.clone());
        let name = import.name.clone().unwrap_or_else(|| super::archive::named(None, &id));
        self.set_entry(&name, entry)?;
        Ok(name)
    }

    /// Stores what an archive expands to as a blob, which is then its own diff id.
    pub(super) fn import_layer(&self, archive: impl Read) -> Result<(Digest, u64), ImportError> {
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
            file.file_mut().write_all(&buffer[..read]).map_err(io_error("write a file in", &temporary))?;
        }
        let digest = hasher.finish();
        if !self.has_blob(&digest) {
            let path = self.blob_path(&digest);
            file.finish(&path).map_err(io_error("write", &path))?;
        }
        Ok((digest, size))
    }
}
