//! What a build gives to the caches of others: which of its steps made which layer.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::BuildError;
use super::execute::{Builder, Done, Solved, State};
use super::request::Request;
use crate::image::{
    CacheConfig, CacheLayer, CacheRecord, CacheResult, Compression, Descriptor, Digest, Store, StoreError, inline_text,
};

/// A cache that is put together.
#[derive(Default)]
struct Collection {
    config: CacheConfig,
    /// The layers, each once, with their diff ids.
    layers: Vec<(Descriptor, Digest)>,
    /// The diff ids of the configuration's layers, which are once on each that is below them.
    diff_ids: Vec<Digest>,
    /// The places of these, by their diff ids and the places below them.
    places: HashMap<(Digest, i64), usize>,
}

impl Collection {
    /// Adds a step and its layer.
    fn add(&mut self, store: &Store, done: &Done, compression: Compression) -> Result<(), StoreError> {
        let (State::Layers(stack), Some(step), Some(key)) = (&done.state, &done.step, &done.key) else {
            return Ok(());
        };
        if self.config.records.iter().any(|record| record.digest == *key) {
            return Ok(());
        }
        let below = stack.len().checked_sub(2).map(|at| stack[at]);
        let below = below.and_then(|below| self.diff_ids.iter().rposition(|id| *id == below));
        let parent = below.and_then(|place| i64::try_from(place).ok()).unwrap_or(-1);
        let layer = if let Some(place) = self.places.get(&(step.layer, parent)) {
            *place
        } else {
            let given = store.layer_as(&step.layer, compression)?;
            self.config.layers.push(CacheLayer { blob: given.descriptor.digest, parent });
            self.diff_ids.push(given.diff_id);
            let layer = (given.descriptor, given.diff_id);
            if !self.layers.contains(&layer) {
                self.layers.push(layer);
            }
            let place = self.diff_ids.len() - 1;
            self.places.insert((step.layer, parent), place);
            place
        };
        let results = vec![CacheResult { layer, created_at: Some(step.created) }];
        self.config.records.push(CacheRecord { results, digest: *key });
        Ok(())
    }
}

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
        let mut collection = Collection::default();
        for (request, solved) in builds {
            for done in steps(request, solved, all) {
                collection.add(store, done, compression)?;
            }
        }
        Ok(store.put_cache(&collection.config, collection.layers)?)
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
    Box::new(vertices.filter_map(|vertex| solved.done(vertex)))
}
