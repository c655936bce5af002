//! An image from one repository to another: what a registry has of it goes as it is, for all platforms, past the store.

use std::path::Path;
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::digest::Hasher;
use super::manifest::{Descriptor, Document, media};
use super::pull::PullOptions;
use super::push::{Content, PushError, PushProgress, Upload, all_sent, put_manifest, reach};
use super::reference::Reference;
use super::registry::{Client, FetchedManifest, RegistryError};
use super::settings::Endpoint;

/// Copies what a name means into the repository of another one, where it has no name but its digest. Returns what it is there.
///
/// Blobs that cannot be taken over within the registry are kept in `folder` on their way, which is the caller's to remove.
pub async fn copy(
    from: &Reference,
    to: &Reference,
    folder: &Path,
    options: &PullOptions,
) -> Result<Descriptor, PushError> {
    let failed = |source| PushError::Registry { image: from.familiar(), source: Box::new(source) };
    let client = &options.client;
    let top = client.manifest(from).await.map_err(failed)?;
    let endpoint = reach(client, to).await.map_err(failed)?;
    let mut manifests = Vec::new();
    if let Document::Index(index) = &top.document {
        for entry in &index.manifests {
            manifests.push(client.manifest_by_digest(&top.endpoint, from, entry).await.map_err(failed)?);
        }
    }
    manifests.push(top);
    // An index comes after what it names.
    for manifest in &manifests {
        send_blobs(manifest, from, to, &endpoint, folder, options).await?;
        let document = descriptor(manifest);
        put_manifest(client, &endpoint, to, None, &document, manifest.bytes.clone()).await.map_err(failed)?;
    }
    Ok(descriptor(manifests.last().expect("the one at the top is there")))
}

fn descriptor(manifest: &FetchedManifest) -> Descriptor {
    Descriptor::new(&manifest.media_type, manifest.digest, manifest.bytes.len() as u64)
}

/// Sends what a manifest names and the other repository lacks.
async fn send_blobs(
    manifest: &FetchedManifest,
    from: &Reference,
    to: &Reference,
    endpoint: &Endpoint,
    folder: &Path,
    options: &PullOptions,
) -> Result<(), PushError> {
    let Document::Manifest(own) = &manifest.document else { return Ok(()) };
    let quiet: PushProgress = Arc::new(|_| ());
    let mut uploads = JoinSet::new();
    for blob in std::iter::once(&own.config).chain(&own.layers).filter(|blob| !media::is_foreign(&blob.media_type)) {
        let upload = Upload {
            client: Arc::clone(&options.client),
            endpoint: endpoint.clone(),
            name: to.clone(),
            content: Content::Elsewhere {
                name: from.clone(),
                endpoint: manifest.endpoint.clone(),
                path: folder.join(blob.digest.to_string()),
            },
            blob: blob.clone(),
            from: (from.registry() == to.registry()).then(|| from.repository().to_owned()),
            progress: Arc::clone(&quiet),
        };
        let jobs = Arc::clone(&options.jobs);
        uploads.spawn(async move { upload.run(&jobs).await });
    }
    all_sent(uploads, to).await
}

/// Fetches a blob into a file, and checks it.
pub(super) async fn fetch(
    client: &Client,
    endpoint: &Endpoint,
    name: &Reference,
    blob: &Descriptor,
    path: &Path,
) -> Result<(), RegistryError> {
    let (sender, mut receiver) = mpsc::channel::<Result<Bytes, ()>>(4);
    let write = async {
        let (mut file, mut hasher) = (File::create(path).await?, Hasher::new());
        while let Some(Ok(chunk)) = receiver.recv().await {
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        Ok(hasher.finish())
    };
    let (fetched, written) = tokio::join!(client.blob(endpoint, name, blob, 0, sender, &|_| ()), write);
    fetched?;
    let actual = written.map_err(RegistryError::Scratch)?;
    if actual != blob.digest {
        let registry = endpoint.registry.clone();
        return Err(RegistryError::WrongDigest { registry, expected: blob.digest, actual });
    }
    Ok(())
}
