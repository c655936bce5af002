//! Image references → references by digest, as registries have them now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rcompose_engine::image::{Reference, ReferenceError, RegistryError, SettingsError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::pull::Sources;

/// Most registry requests at a time: registries limit the rate of anonymous users.
const PARALLEL: usize = 8;

/// Why an image has no digest.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Reference(#[from] ReferenceError),
    #[error("failed to resolve digest for {image}: {source}")]
    Registry {
        image: String,
        #[source]
        source: RegistryError,
    },
    #[error("a request stopped unexpectedly")]
    Stopped(#[source] tokio::task::JoinError),
}

/// Returns for every image its full name with its digest; asks registries for those that have none.
///
/// # Errors
/// All failures, by image.
pub async fn pin(images: BTreeSet<String>, sources: &Sources) -> Result<BTreeMap<String, String>, Vec<PinError>> {
    let client = Arc::new(sources.client().map_err(|error| vec![error.into()])?);
    let room = Arc::new(Semaphore::new(PARALLEL));
    let mut requests = JoinSet::new();
    for image in images {
        let (client, room) = (Arc::clone(&client), Arc::clone(&room));
        requests.spawn(async move {
            let reference = image.parse::<Reference>()?;
            let pinned = if let Some(digest) = reference.digest() {
                // A digest says it all; the tag is left out.
                format!("{}@{digest}", reference.name())
            } else {
                let _permit = room.acquire().await.expect("the semaphore is never closed");
                let asked = client.digest(&reference).await;
                let digest = asked.map_err(|source| PinError::Registry { image: reference.to_string(), source })?;
                reference.with_digest(digest).to_string()
            };
            Ok::<_, PinError>((image, pinned))
        });
    }
    let (mut pinned, mut failures) = (BTreeMap::new(), Vec::new());
    while let Some(ended) = requests.join_next().await {
        match ended.map_err(PinError::Stopped).and_then(|result| result) {
            Ok((image, by_digest)) => drop(pinned.insert(image, by_digest)),
            Err(error) => failures.push(error),
        }
    }
    failures.sort_by_key(ToString::to_string);
    if failures.is_empty() { Ok(pinned) } else { Err(failures) }
}
