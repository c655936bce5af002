//! Artifacts: what registries hold that is no image, such as compose files (OCI image specification, "artifacts").
//!
//! An artifact is a manifest of a type that its reader knows, and small files as its layers. Nothing is unpacked; what
//! comes is bounded and has the digests that it was announced with.

use serde::Deserialize;

use super::digest::Digest;
use super::manifest::{Descriptor, ManifestError};
use super::reference::Reference;
use super::registry::{Client, RawManifest, RegistryError};
use super::settings::Endpoint;

/// Most files that an artifact may have.
const MAX_FILES: usize = 1000;

/// What a reader takes.
#[derive(Debug, Clone, Copy)]
pub struct ArtifactKind<'k> {
    /// The `artifactType` of the manifest.
    pub artifact_type: &'k str,
    /// The configuration's media type in manifests of the time before there was `artifactType`.
    pub config_type: &'k str,
    /// Most bytes that all files together may have.
    pub max_size: u64,
}

/// An artifact in a registry.
#[derive(Debug)]
pub struct Artifact {
    /// The digest of what the reference names; of the index where there is one.
    pub digest: Digest,
    /// Its files.
    pub files: Vec<Descriptor>,
    reference: Reference,
    endpoint: Endpoint,
}

/// The parts of a manifest or an index that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    artifact_type: String,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
}

impl Client {
    /// Returns the digest of what a reference names, whatever that is.
    pub async fn digest(&self, reference: &Reference) -> Result<Digest, RegistryError> {
        self.document(reference, &|raw| Ok(raw.digest)).await
    }

    /// Finds an artifact; of an index the first one of the kind.
    pub async fn artifact(&self, reference: &Reference, kind: ArtifactKind<'_>) -> Result<Artifact, RegistryError> {
        let (mut document, mut raw) = self.document(reference, &|raw| Ok((parse(&raw)?, raw))).await?;
        let (digest, endpoint) = (raw.digest, raw.endpoint.clone());
        let refused = |source| RegistryError::Manifest { registry: endpoint.registry.clone(), source };
        if let Some(entries) = document.manifests {
            let is_wanted = |entry: &&Descriptor| {
                entry.other.get("artifactType").and_then(serde_json::Value::as_str) == Some(kind.artifact_type)
            };
            let Some(entry) = entries.iter().find(is_wanted) else {
                return Err(refused(ManifestError::OtherArtifact {
                    wanted: kind.artifact_type.to_owned(),
                    found: "an index without one".to_owned(),
                }));
            };
            raw = self.manifest_at(&endpoint, reference, &entry.digest.to_string(), Some(entry.digest)).await?;
            document = parse(&raw)?;
        }
        let config_type = document.config.as_ref().map_or("", |config| config.media_type.as_str());
        let (found, wanted) = if document.artifact_type.is_empty() {
            (config_type, kind.config_type)
        } else {
            (document.artifact_type.as_str(), kind.artifact_type)
        };
        if found != wanted {
            let found = found.chars().take(100).collect::<String>();
            return Err(refused(ManifestError::OtherArtifact { wanted: kind.artifact_type.to_owned(), found }));
        }
        if document.layers.len() > MAX_FILES {
            return Err(refused(ManifestError::Bounds(format!(
                "{} files, at most {MAX_FILES}",
                document.layers.len()
            ))));
        }
        let size = document.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        if size > kind.max_size {
            return Err(refused(ManifestError::Bounds(format!("{size} bytes, at most {}", kind.max_size))));
        }
        Ok(Artifact { digest, files: document.layers, reference: reference.clone(), endpoint })
    }

    /// Fetches one file of an artifact.
    pub async fn artifact_file(&self, artifact: &Artifact, file: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.small_blob(&artifact.endpoint, &artifact.reference, file).await
    }
}

fn parse(raw: &RawManifest) -> Result<Document, RegistryError> {
    serde_json::from_slice(&raw.bytes).map_err(|source| RegistryError::Manifest {
        registry: raw.endpoint.registry.clone(),
        source: ManifestError::Json(source),
    })
}
