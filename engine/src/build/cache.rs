//! What a build gives to the caches of others: which of its steps made which layer.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::BuildError;
use super::execute::{Builder, Done, Solved, State};
use super::request::Request;
use crate::image::{
    CacheConfig, CacheLayer, CacheRecord, CacheResult, Compression, Descriptor, Digest, LayerAnnotations, inline_text,
};

impl Builder {
    /// Makes a cache of builds, in the store: of the layers of their images, or with `all` of every step. It stays only while the
    /// builds do.
    pub fn cache(
        &self,
        builds: &[(Arc<Request>, Arc<Solved>)],
        all: bool,
        compression: Compression,
    ) -> Result<Descriptor, BuildError> {
        let store = &self.shop().store;
        let mut config = CacheConfig::default();
        let mut layers: Vec<Descriptor> = Vec::new();
        // By the diff ids of the layer and of the one below it.
        let mut places: HashMap<(Digest, i64), usize> = HashMap::new();
        for (request, solved) in builds {
            for done in steps(request, solved, all) {
                let (State::Layers(stack), Some(step), Some(key)) = (&done.state, &done.step, &done.key) else {
                    continue;
                };
                if config.records.iter().any(|record| record.digest == *key) {
                    continue;
                }
                let below = stack.len().checked_sub(2).and_then(|at| {
                    config
                        .layers
                        .iter()
                        .rposition(|layer| layer.annotations.as_ref().and_then(|said| said.diff_id) == Some(stack[at]))
                });
                let parent = below.and_then(|place| i64::try_from(place).ok()).unwrap_or(-1);
                let place = if let Some(place) = places.get(&(step.layer, parent)) {
                    *place
                } else {
                    let layer = store.layer_as(&step.layer, compression)?;
                    config.layers.push(CacheLayer {
                        blob: layer.digest,
                        parent,
                        annotations: Some(LayerAnnotations {
                            media_type: layer.media_type.clone(),
                            diff_id: Some(step.layer),
                            size: layer.size,
                            created_at: Some(step.created),
                        }),
                    });
                    if !layers.contains(&layer) {
                        layers.push(layer);
                    }
                    places.insert((step.layer, parent), config.layers.len() - 1);
                    config.layers.len() - 1
                };
                let results = vec![CacheResult { layer: place, created_at: Some(step.created) }];
                config.records.push(CacheRecord { results, digest: *key });
            }
        }
        Ok(store.put_cache(&config, layers)?)
    }

    /// Returns what an image says of its own layers, so that it is a cache.
    pub(super) fn inline_cache(request: &Request, solved: &Solved, diff_ids: &[Digest]) -> String {
        let mut records = Vec::new();
        for done in steps(request, solved, false) {
            let (Some(step), Some(key)) = (&done.step, &done.key) else { continue };
            let Some(layer) = diff_ids.iter().rposition(|id| *id == step.layer) else { continue };
            let results = vec![CacheResult { layer, created_at: Some(step.created) }];
            records.push(CacheRecord { results, digest: *key });
        }
        inline_text(&records)
    }
}

/// Returns the steps whose layers an image has, or all.
fn steps<'a>(request: &'a Request, solved: &'a Solved, all: bool) -> Box<dyn Iterator<Item = &'a Done> + 'a> {
    if all {
        return Box::new(solved.done.iter().flatten());
    }
    let vertices = request.graph.history.iter().filter_map(|entry| entry.layer);
    Box::new(vertices.filter_map(|vertex| solved.done.get(vertex.0)?.as_ref()))
}
