//! The image that a build has made: its configuration and manifest, in the store.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::error::BuildError;
use super::execute::{Builder, Solved};
use super::request::Request;
use crate::image::{Compression, Descriptor, Dialect, Digest, INLINE, Index};

/// What is said of each step in the history, so that tools know who wrote it; as BuildKit has it.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// What an image is to be like, beside what its steps have made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shape {
    /// The form of the layers that were made.
    pub compression: Compression,
    /// The layers of the base have that form too.
    pub all_layers: bool,
    /// Whose media types it has.
    pub dialect: Dialect,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The image says of its layers which steps made them, so that it is a cache for other builds.
    pub inline_cache: bool,
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The digest of its configuration: the image id.
    pub id: Digest,
    /// The digest of its manifest.
    pub digest: Digest,
    /// What the manifest says of itself, for an index.
    pub descriptor: Descriptor,
}

impl Builder {
    /// Makes the image of a graph that was executed. It has no name yet: it stays only while `solved` does.
    pub fn image(&self, request: &Request, solved: &Solved, shape: &Shape) -> Result<Built, BuildError> {
        let graph = &request.graph;
        let shop = self.shop();
        let store = &shop.store;
        let base = graph.base.as_ref().and_then(|base| shop.image(&base.digest));
        let mut history: Vec<Value> = Vec::new();
        let mut layers: Vec<Descriptor> = Vec::new();
        let mut diff_ids: Vec<Digest> = Vec::new();
        let mut created = Timestamp::UNIX_EPOCH;
        if let Some(base) = &base {
            let raw = store.raw_config(base)?;
            history.extend(raw.get("history").and_then(Value::as_array).cloned().unwrap_or_default());
            for (layer, diff_id) in base.layers.iter().zip(&base.diff_ids) {
                if shape.all_layers {
                    let given = store.layer_in(layer, diff_id, shape.compression)?;
                    layers.push(given.descriptor);
                    diff_ids.push(given.diff_id);
                } else {
                    layers.push(layer.clone());
                    diff_ids.push(*diff_id);
                }
            }
            created = base.created.as_deref().and_then(|created| created.parse().ok()).unwrap_or(created);
        }
        let epoch = request.epoch.and_then(|epoch| Timestamp::from_second(i64::try_from(epoch).ok()?).ok());
        for entry in &graph.history {
            let step = entry.layer.and_then(|layer| solved.done(layer)?.step.as_ref());
            if let Some(step) = step {
                created = created.max(step.created);
                let given = store.layer_as(&step.layer, shape.compression)?;
                layers.push(given.descriptor);
                diff_ids.push(given.diff_id);
            }
            let mut said = json!({
                "created": epoch.unwrap_or(created), "created_by": entry.created_by, "comment": COMMENT,
            });
            if step.is_none() {
                said["empty_layer"] = true.into();
            }
            history.push(said);
        }
        let created = epoch.unwrap_or(created);
        let mut config = json!({
            "architecture": graph.platform.architecture, "os": graph.platform.os, "created": created,
            "config": graph.config, "history": history, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        if let Some(variant) = &graph.platform.variant {
            config["variant"] = variant.as_str().into();
        }
        if let Some(author) = &graph.author {
            config["author"] = author.as_str().into();
        }
        if shape.inline_cache {
            config[INLINE] = Self::inline_cache(request, solved, &diff_ids).into();
        }
        let (platform, annotations) = (graph.platform.clone(), shape.annotations.clone());
        let (id, descriptor) = store.put_image_in(shape.dialect, &config, layers, platform, annotations)?;
        Ok(Built { id, digest: descriptor.digest, descriptor })
    }

    /// Makes one image of those for several platforms, and of what is attested of them.
    pub fn index(
        &self,
        dialect: Dialect,
        manifests: Vec<Descriptor>,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Descriptor, BuildError> {
        let mut index = Index { media_type: Some(dialect.index().to_owned()), manifests, ..Index::default() };
        if !annotations.is_empty() {
            index.other.insert("annotations".to_owned(), json!(annotations));
        }
        Ok(self.shop().store.put_index(&index)?)
    }
}
