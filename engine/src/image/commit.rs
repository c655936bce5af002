//! Makes an image of another one and what a container has changed of it (`commit`).

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};

use super::config::Image;
use super::import::{ImportError, ImportedConfig};
use super::manifest::{Descriptor, media};
use super::reference::Reference;
use super::store::Store;

/// What the new image is to be.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Its name. An image without one is called like a loaded one without a name.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// What is said of it in its history.
    pub comment: String,
    /// The command that made the changes.
    pub created_by: String,
    /// What its containers run, and how.
    pub config: ImportedConfig,
}

impl Store {
    /// Makes an image of `base` and one more layer, an archive. Returns its name; its layer is not unpacked yet (see
    /// [`super::prepare`]).
    pub fn commit(&self, base: &Image, changes: impl Read, commit: &Commit) -> Result<Reference, ImportError> {
        let _lease = self.lease()?;
        let (layer, size) = self.import_layer(changes)?;
        let mut config = self.raw_config(base)?;
        let now = jiff::Timestamp::now().to_string();
        let object = config.as_object_mut().expect("the configuration of an image is an object");
        object.insert("created".to_owned(), now.clone().into());
        object.insert("author".to_owned(), commit.author.clone().into());
        object.insert("comment".to_owned(), commit.comment.clone().into());
        object.insert("config".to_owned(), json!(commit.config));
        // What Docker's older configurations say of the container that they came from.
        object.remove("container");
        object.remove("container_config");
        let step = json!({
            "created": now, "author": commit.author, "created_by": commit.created_by, "comment": commit.comment,
        });
        let push = |value: &mut Value, item: Value| match value {
            Value::Array(items) => items.push(item),
            other => *other = json!([item]),
        };
        push(object.entry("history").or_insert_with(|| json!([])), step);
        let rootfs = object.entry("rootfs").or_insert_with(|| json!({"type": "layers"}));
        push(&mut rootfs["diff_ids"], json!(layer));
        let mut layers = base.layers.clone();
        layers.push(Descriptor::new(media::OCI_LAYER, layer, size));
        let (id, entry) = self.put_image(&config, layers, base.platform.clone(), BTreeMap::new())?;
        let name = commit.name.clone().unwrap_or_else(|| super::archive::named(None, &id));
        self.set_entry(&name, entry)?;
        Ok(name)
    }
}
