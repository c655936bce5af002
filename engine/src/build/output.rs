//! The image that a build has made: its configuration and manifest, in the store.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::error::BuildError;
use super::execute::{Builder, Solved, State};
use super::request::Request;
use crate::image::{Descriptor, Digest, Image, Reference, media};

/// What is said of each step in the history, so that tools know who wrote it; as BuildKit has it.
const COMMENT: &str = "buildkit.dockerfile.v0";

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
    /// Makes the image of a graph that was executed, and gives it these names. Without a name it is called like a loaded image
    /// without one.
    pub fn export(&self, request: &Request, solved: &Solved, names: &[Reference]) -> Result<Built, BuildError> {
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
            layers.extend(base.layers.iter().cloned());
            diff_ids.extend(&base.diff_ids);
            created = base.created.as_deref().and_then(|created| created.parse().ok()).unwrap_or(created);
        }
        let epoch = request.epoch.and_then(|epoch| Timestamp::from_second(i64::try_from(epoch).ok()?).ok());
        for entry in &graph.history {
            let step = entry.layer.and_then(|layer| solved.done.get(layer.0)?.as_ref()?.step.as_ref());
            if let Some(step) = step {
                created = created.max(step.created);
                layers.push(Descriptor::new(media::OCI_LAYER, step.layer, store.blob_length(&step.layer)?));
                diff_ids.push(step.layer);
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
        let (id, descriptor) = store.put_image(&config, layers, graph.platform.clone())?;
        let digest = descriptor.digest;
        if names.is_empty() {
            store.set_entry(&crate::image::named(None, &id), descriptor.clone())?;
        }
        for name in names {
            store.set_entry(name, descriptor.clone())?;
        }
        Ok(Built { id, digest, descriptor })
    }

    /// Returns the layers of the file system that a graph has made, bottom first.
    pub fn layers(&self, request: &Request, solved: &Solved) -> Vec<Digest> {
        match solved.done.get(request.graph.target.0).and_then(Option::as_ref).map(|done| &done.state) {
            Some(State::Layers(layers)) => Vec::clone(layers),
            _ => Vec::new(),
        }
    }

    /// Returns an image that was offered.
    pub fn offered(&self, digest: &Digest) -> Option<Image> {
        self.shop().image(digest)
    }
}
