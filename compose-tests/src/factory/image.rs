//! The documents of an image: configuration, manifest, and the index that its tags point at.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    cache::Cache,
    layer::{self, Layer},
    recipe::{Publish, Recipe},
};

/// The creation time that every image claims.
const CREATED: &str = "2024-01-01T00:00:00Z";

/// An image with all its blobs in the cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuiltImage {
    /// `repository:tag` for each name.
    pub names: Vec<String>,
    /// The lowest first.
    pub layers: Vec<Layer>,
    /// The unpacked layers, the lowest first; empty unless another recipe starts from this one.
    pub trees: Vec<PathBuf>,
    /// The Debian packages in it.
    pub packages: BTreeSet<String>,
    /// The `config` object of the image configuration.
    pub config: BTreeMap<String, Value>,
    /// What must be in a registry before a tag can point at the last one, in this order.
    pub documents: Vec<Document>,
    /// The configurations that the manifests name.
    pub configs: Vec<Document>,
}

/// A JSON document, as the bytes its digest is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Document {
    pub media_type: String,
    pub digest: String,
    pub text: String,
}

impl Document {
    fn new(media_type: &str, value: &Value) -> Document {
        let text = value.to_string();
        Document { media_type: media_type.to_owned(), digest: layer::digest(text.as_bytes()), text }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.text.len()})
    }
}

struct MediaTypes {
    index: &'static str,
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

const OCI: MediaTypes = MediaTypes {
    index: "application/vnd.oci.image.index.v1+json",
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};

const DOCKER: MediaTypes = MediaTypes {
    index: "application/vnd.docker.distribution.manifest.list.v2+json",
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

/// Writes the documents for finished layers.
pub fn assemble(
    recipe: &Recipe,
    parent: Option<&BuiltImage>,
    layers: Vec<Layer>,
    trees: Vec<PathBuf>,
    packages: BTreeSet<String>,
    cache: &Cache,
) -> anyhow::Result<BuiltImage> {
    let config = merge_config(parent.map(|parent| &parent.config), &recipe.config)
        .with_context(|| format!("bad config in recipe {}", recipe.name))?;
    let types = if recipe.publish == Publish::DockerList { &DOCKER } else { &OCI };
    let (native, foreign) = platforms();
    let mut documents = Vec::new();
    let mut configs = Vec::new();
    let mut manifest_for = |architecture: &str| {
        let image_config = Document::new(types.config, &image_config(architecture, &config, &layers));
        let manifest = Document::new(types.manifest, &manifest(types, &image_config, &layers));
        configs.push(image_config);
        manifest
    };
    if recipe.publish == Publish::Manifest {
        documents.push(manifest_for(native));
    } else {
        let mut entries = Vec::new();
        // The foreign one first: an engine that takes the first entry must fail.
        for architecture in [foreign, native] {
            let manifest = manifest_for(architecture);
            let mut descriptor = manifest.descriptor();
            descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
            entries.push(descriptor);
            documents.push(manifest);
        }
        documents.push(Document::new(
            types.index,
            &json!({"schemaVersion": 2, "mediaType": types.index, "manifests": entries}),
        ));
    }
    for config in &configs {
        std::fs::write(cache.blob(&config.digest), &config.text)?;
    }
    Ok(BuiltImage { names: recipe.names.clone(), layers, trees, packages, config, documents, configs })
}

fn platforms() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    }
}

fn image_config(architecture: &str, config: &BTreeMap<String, Value>, layers: &[Layer]) -> Value {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let mut history: Vec<Value> =
        layers.iter().map(|layer| json!({"created": CREATED, "created_by": layer.comment})).collect();
    history.push(json!({"created": CREATED, "created_by": "recipe config", "empty_layer": true}));
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": CREATED,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    })
}

fn manifest(types: &MediaTypes, config: &Document, layers: &[Layer]) -> Value {
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| json!({"mediaType": types.layer, "digest": layer.digest, "size": layer.size}))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": types.manifest,
        "config": config.descriptor(),
        "layers": layers,
    })
}

/// Lays a recipe's configuration over its parent's, as a Dockerfile's instructions would: variables are added or
/// replaced by name, a new entrypoint discards the old command, everything else replaces.
fn merge_config(
    parent: Option<&BTreeMap<String, Value>>,
    own: &BTreeMap<String, Value>,
) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut merged = parent.cloned().unwrap_or_default();
    if own.contains_key("Entrypoint") {
        merged.remove("Cmd");
    }
    for (key, value) in own {
        if key != "Env" {
            merged.insert(key.clone(), value.clone());
            continue;
        }
        let mut variables: Vec<Value> = match merged.remove("Env") {
            Some(Value::Array(variables)) => variables,
            _ => Vec::new(),
        };
        let name = |variable: &Value| variable.as_str().and_then(|text| Some(text.split_once('=')?.0.to_owned()));
        for variable in value.as_array().context("Env is not a list")? {
            let own = name(variable).with_context(|| format!("{variable} is not NAME=value"))?;
            match variables.iter_mut().find(|old| name(old).as_deref() == Some(&own)) {
                Some(old) => *old = variable.clone(),
                None => variables.push(variable.clone()),
            }
        }
        merged.insert(key.clone(), Value::Array(variables));
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> BTreeMap<String, Value> {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn configuration_is_inherited_as_a_dockerfile_would() {
        let parent = object(json!({"Env": ["PATH=/bin", "A=1"], "Cmd": ["sh"], "User": "x"}));
        let own = object(json!({"Env": ["A=2", "B=3"], "Entrypoint": ["/e"]}));
        let merged = merge_config(Some(&parent), &own).expect("valid");
        assert_eq!(
            serde_json::to_value(&merged).expect("plain data"),
            json!({"Entrypoint": ["/e"], "Env": ["PATH=/bin", "A=2", "B=3"], "User": "x"})
        );
    }
}
