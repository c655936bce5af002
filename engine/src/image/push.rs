//! Pushes an image: every blob that the registry lacks, then the manifest.
//!
//! A blob that the registry has in another repository of ours is mounted from there instead of being sent. Mirrors are
//! never pushed to.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::config::Image;
use super::copy;
use super::digest::Digest;
use super::http::{Payload, Request};
use super::manifest::{Descriptor, MAX_MANIFEST};
use super::pull::{PullOptions, on_thread};
use super::reference::Reference;
use super::registry::{Client, RegistryError, back_off};
use super::save::Whole;
use super::settings::Endpoint;
use super::store::{Store, StoreError};

/// How often a blob is sent before giving up. Each time it is sent whole.
const UPLOADS: u32 = 3;
/// Time between two progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Is told how a push goes on. Called from several tasks; it should be quick.
pub type PushProgress = Arc<dyn Fn(PushEvent) + Send + Sync>;

/// One step of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushEvent {
    /// The name that is pushed to.
    pub image: Reference,
    /// The blob that this is about, if it is about one.
    pub blob: Option<Digest>,
    /// What happens.
    pub phase: PushPhase,
    /// Bytes that were sent.
    pub current: u64,
    /// Bytes of the blob.
    pub total: u64,
}

/// What happens in a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushPhase {
    /// The blob is there already.
    Exists,
    /// The blob was taken over from another repository of the registry.
    Mounted {
        /// That repository.
        from: String,
    },
    /// The blob is being sent.
    Uploading,
    /// The blob is there.
    Complete,
    /// The manifest is there, with this digest.
    Done {
        /// The manifest's digest.
        digest: Digest,
    },
}

/// Why an image cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry did not do what it was asked for.
    #[error("cannot push {image}: {source}")]
    Registry {
        /// The image.
        image: String,
        /// What went wrong.
        #[source]
        source: Box<RegistryError>,
    },
    /// The image, or a part of it, is not in the store.
    #[error("cannot push {image}: {source}")]
    Store {
        /// The image.
        image: String,
        /// What went wrong.
        #[source]
        source: Box<StoreError>,
    },
    /// The digest of a name is that of another image.
    #[error("cannot push {image}: a tag is needed, or the digest of what is pushed")]
    Digest {
        /// The image.
        image: String,
    },
    /// A task of ours died.
    #[error("cannot push {image}: a worker stopped unexpectedly")]
    Worker {
        /// The image.
        image: String,
    },
}

/// Pushes an image of the store under one of its names. Layers that were made here and are not compressed are sent compressed,
/// always alike. Returns the manifest's digest.
pub async fn push(
    store: &Arc<Store>,
    name: &Reference,
    options: &PullOptions,
    progress: &PushProgress,
) -> Result<Digest, PushError> {
    let store_failed = |source| PushError::Store { image: name.familiar(), source: Box::new(source) };
    let _lease = store.lease().map_err(store_failed)?;
    let image = store
        .load_by_name(name)
        .map_err(store_failed)?
        .ok_or_else(|| store_failed(StoreError::NoSuchImage(name.familiar())))?;
    let mut top = store.pushed(&image).map_err(store_failed)?;
    let plain = store.is_kept_plain(&image).map_err(store_failed)?;
    if plain {
        let (kept, before) = (Arc::clone(store), top);
        let compressed = on_thread("compress", move || kept.for_registry(&before)).await;
        top = compressed.map_err(|_| PushError::Worker { image: name.familiar() })?.map_err(store_failed)?;
    }
    push_as(store, &top, name, options, progress).await?;
    if plain {
        // From here on the name means what the registry has.
        store.name_sent(name, &image, &top).map_err(store_failed)?;
    }
    store.set_checked(name).map_err(store_failed)?;
    Ok(top.digest)
}

/// Pushes a manifest or an index of the store, with all that it needs, under a name that need not be one of the store. The caller
/// holds a lease.
pub async fn push_as(
    store: &Arc<Store>,
    top: &Descriptor,
    name: &Reference,
    options: &PullOptions,
    progress: &PushProgress,
) -> Result<(), PushError> {
    let store_failed = |source| PushError::Store { image: name.familiar(), source: Box::new(source) };
    let registry_failed = |source| PushError::Registry { image: name.familiar(), source: Box::new(source) };
    let tag = match (name.tag(), name.digest()) {
        (Some(tag), None) => Some(tag),
        (_, Some(digest)) if digest == top.digest => None,
        _ => return Err(PushError::Digest { image: name.familiar() }),
    };
    let Whole { documents, blobs } = store.whole(top).map_err(store_failed)?;
    let endpoint = reach(&options.client, name).await.map_err(registry_failed)?;

    let others: Vec<Image> = store.list().map_err(store_failed)?;
    let mut tasks = JoinSet::new();
    for blob in blobs {
        if !store.has_blob(&blob.digest) {
            return Err(store_failed(StoreError::MissingBlob { digest: blob.digest }));
        }
        let from = others
            .iter()
            .filter(|other| {
                other.reference.registry() == name.registry() && other.reference.repository() != name.repository()
            })
            .find(|other| other.layers.iter().any(|layer| layer.digest == blob.digest))
            .map(|other| other.reference.repository().to_owned());
        let upload = Upload {
            client: Arc::clone(&options.client),
            endpoint: endpoint.clone(),
            name: name.clone(),
            content: Content::File(store.blob_path(&blob.digest)),
            blob,
            from,
            progress: Arc::clone(progress),
        };
        let jobs = Arc::clone(&options.jobs);
        tasks.spawn(async move { upload.run(&jobs).await });
    }
    all_sent(tasks, name).await?;
    for document in documents {
        let content = store.read_blob(&document.digest, MAX_MANIFEST).map_err(store_failed)?;
        let tag = tag.filter(|_| document.digest == top.digest);
        put_manifest(&options.client, &endpoint, name, tag, &document, content).await.map_err(registry_failed)?;
    }
    let phase = PushPhase::Done { digest: top.digest };
    progress(PushEvent { image: name.clone(), blob: None, phase, current: 0, total: 0 });
    Ok(())
}

/// Pushes what is no image (OCI image specification, "artifacts"): small blobs, and a manifest that names them. Returns its digest.
pub async fn push_artifact(
    name: &Reference,
    blobs: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    media_type: &str,
    options: &PullOptions,
) -> Result<Digest, PushError> {
    let registry_failed = |source| PushError::Registry { image: name.familiar(), source: Box::new(source) };
    let described = |content: &[u8], media_type| Descriptor::new(media_type, Digest::of(content), content.len() as u64);
    let document = described(&manifest, media_type);
    let tag = match (name.tag(), name.digest()) {
        (tag, None) => tag,
        (_, Some(digest)) if digest == document.digest => None,
        _ => return Err(PushError::Digest { image: name.familiar() }),
    };
    let endpoint = reach(&options.client, name).await.map_err(registry_failed)?;
    let quiet: PushProgress = Arc::new(|_| ());
    let mut uploads = JoinSet::new();
    for content in blobs {
        let upload = Upload {
            client: Arc::clone(&options.client),
            endpoint: endpoint.clone(),
            name: name.clone(),
            blob: described(&content, "application/octet-stream"),
            content: Content::Bytes(Bytes::from(content)),
            from: None,
            progress: Arc::clone(&quiet),
        };
        let jobs = Arc::clone(&options.jobs);
        uploads.spawn(async move { upload.run(&jobs).await });
    }
    all_sent(uploads, name).await?;
    put_manifest(&options.client, &endpoint, name, tag, &document, manifest).await.map_err(registry_failed)?;
    Ok(document.digest)
}

pub(super) async fn all_sent(
    mut uploads: JoinSet<Result<(), RegistryError>>,
    name: &Reference,
) -> Result<(), PushError> {
    while let Some(result) = uploads.join_next().await {
        // Dropping the set ends the others.
        let sent = result.map_err(|_| PushError::Worker { image: name.familiar() })?;
        sent.map_err(|source| PushError::Registry { image: name.familiar(), source: Box::new(source) })?;
    }
    Ok(())
}

/// Sends a manifest or an index: under a tag, or else by its digest.
pub(super) async fn put_manifest(
    client: &Client,
    endpoint: &Endpoint,
    name: &Reference,
    tag: Option<&str>,
    document: &Descriptor,
    content: Vec<u8>,
) -> Result<(), RegistryError> {
    let written = endpoint.base.join(&format!("v2/{}/manifests/{}", name.repository(), document.digest));
    let url = match tag {
        Some(tag) => endpoint.base.join(&format!("v2/{}/manifests/{tag}", name.repository())),
        None => written.clone(),
    };
    let content_type = HeaderValue::from_str(&document.media_type).expect("it was compared with known types");
    let mut request = Request::new(Method::PUT, url).header(CONTENT_TYPE, content_type);
    request.body = Payload::Bytes(Bytes::from(content));
    let _turn = client.turn(&written).await;
    let response = client.request(endpoint, &request, &push_scope(name), "the upload of the manifest").await?;
    let declared: Option<Digest> = response.header("docker-content-digest").and_then(|text| text.parse().ok());
    match declared.filter(|actual| *actual != document.digest) {
        Some(actual) => {
            let registry = endpoint.registry.clone();
            Err(RegistryError::WrongDigest { registry, expected: document.digest, actual })
        }
        None => Ok(()),
    }
}

/// Finds out how the registry wants to be spoken to, and gets a token on the way.
pub(super) async fn reach(client: &Client, name: &Reference) -> Result<Endpoint, RegistryError> {
    let mut failure = None;
    for endpoint in client.push_endpoints(name.registry())? {
        let request = Request::new(Method::GET, endpoint.base.join("v2/"));
        match client.request(&endpoint, &request, &push_scope(name), "the request for access").await {
            // Some answer "not found" to all but what they know.
            Ok(_) | Err(RegistryError::NotFound { .. }) => return Ok(endpoint),
            Err(error) if error.is_connect() => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| RegistryError::NoEndpoint { registry: name.registry().to_owned() }))
}

fn push_scope(name: &Reference) -> String {
    format!("repository:{}:pull,push", name.repository())
}

/// Where what is sent is.
pub(super) enum Content {
    File(PathBuf),
    Bytes(Bytes),
    /// In a repository; it is fetched into this file if it has to be sent.
    Elsewhere {
        name: Reference,
        endpoint: Endpoint,
        path: PathBuf,
    },
}

/// A blob on its way to a registry.
pub(super) struct Upload {
    pub(super) client: Arc<Client>,
    pub(super) endpoint: Endpoint,
    pub(super) name: Reference,
    pub(super) content: Content,
    pub(super) blob: Descriptor,
    /// Another repository of the registry that has it.
    pub(super) from: Option<String>,
    pub(super) progress: PushProgress,
}

impl Upload {
    fn report(&self, phase: PushPhase, current: u64) {
        (self.progress)(PushEvent {
            image: self.name.clone(),
            blob: Some(self.blob.digest),
            phase,
            current,
            total: self.blob.size,
        });
    }

    pub(super) async fn run(&self, jobs: &Semaphore) -> Result<(), RegistryError> {
        let repository = self.name.repository();
        let scope = push_scope(&self.name);
        let url = self.endpoint.base.join(&format!("v2/{repository}/blobs/{}", self.blob.digest));
        let _turn = self.client.turn(&url).await;
        let _permit = jobs.acquire().await.expect("the semaphore is never closed");
        let head = Request::new(Method::HEAD, url);
        match self.client.request(&self.endpoint, &head, &scope, "the question for a blob").await {
            Ok(_) => {
                self.report(PushPhase::Exists, self.blob.size);
                return Ok(());
            }
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.send(repository, &scope).await {
                Err(RegistryError::Unreachable { .. } | RegistryError::Status { .. }) if attempt < UPLOADS => {
                    back_off(attempt, None).await;
                }
                result => return result,
            }
        }
    }

    async fn send(&self, repository: &str, scope: &str) -> Result<(), RegistryError> {
        let step = "the start of an upload";
        let digest = self.blob.digest.to_string();
        let mut url = self.endpoint.base.join(&format!("v2/{repository}/blobs/uploads/"));
        let mut mount_scope = scope.to_owned();
        if let Some(from) = &self.from {
            url = url.with_query("mount", &digest).with_query("from", from);
            mount_scope = format!("{scope} repository:{from}:pull");
        }
        let start = Request::new(Method::POST, url.clone());
        let response = self.client.request(&self.endpoint, &start, &mount_scope, step).await?;
        if response.status == hyper::StatusCode::CREATED {
            let from = self.from.clone().unwrap_or_default();
            self.report(PushPhase::Mounted { from }, self.blob.size);
            return Ok(());
        }
        let location = response.header(LOCATION).and_then(|location| url.follow(location));
        let Some(location) = location else {
            let registry = self.endpoint.registry.clone();
            return Err(RegistryError::Answer { registry, step, message: "it names no place to send to".to_owned() });
        };
        drop(response);
        let sent = Arc::new(AtomicU64::new(0));
        let mut request = Request::new(Method::PUT, location.with_query("digest", &digest))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let file =
            |path: &PathBuf| Payload::File { path: path.clone(), length: self.blob.size, sent: Arc::clone(&sent) };
        request.body = match &self.content {
            Content::File(path) => file(path),
            Content::Bytes(bytes) => Payload::Bytes(bytes.clone()),
            Content::Elsewhere { name, endpoint, path } => {
                copy::fetch(&self.client, endpoint, name, &self.blob, path).await?;
                file(path)
            }
        };
        let upload = self.client.request_once(&self.endpoint, &request, scope, "the upload of a blob");
        tokio::pin!(upload);
        loop {
            self.report(PushPhase::Uploading, sent.load(Ordering::Relaxed));
            if let Ok(result) = tokio::time::timeout(REPORT_EVERY, &mut upload).await {
                result?;
                self.report(PushPhase::Complete, self.blob.size);
                return Ok(());
            }
        }
    }
}

impl Store {
    /// Returns an image's manifest as it is stored, with its media type.
    pub(crate) fn manifest_of(&self, image: &Image) -> Result<(Vec<u8>, String), StoreError> {
        let content = self.read_blob(&image.digest, MAX_MANIFEST)?;
        let index = self.index()?;
        let entry = index.manifests.iter().find(|entry| entry.digest == image.digest);
        let media_type = entry.map(|entry| entry.media_type.clone());
        Ok((content, media_type.ok_or_else(|| StoreError::NoSuchImage(image.reference.familiar()))?))
    }

    /// Returns what is pushed under an image's name: the index that it was made as a part of, or else its manifest.
    fn pushed(&self, image: &Image) -> Result<Descriptor, StoreError> {
        match self.index_of(image.digest, image.source_digest) {
            Some(index) => Ok(index),
            None => self.descriptor(image),
        }
    }

    pub(crate) fn blob_length(&self, digest: &Digest) -> Result<u64, StoreError> {
        let path = self.blob_path(digest);
        std::fs::metadata(&path).map(|metadata| metadata.len()).map_err(super::store::io_error("look at", &path))
    }
}
