//! A way into a build that failed: an image of what there was before the command that did.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use super::error::{Before, BuildError};
use super::execute::Builder;
use crate::image::{Compression, Descriptor, Digest, Platform, Reference};

impl Builder {
    /// Makes an image of the state before a command that failed, with the command's environment, user and directory; its own
    /// command is a shell. Returns its name.
    pub fn halted(&self, before: &Before) -> Result<Reference, BuildError> {
        let shop = self.shop();
        let store = &shop.store;
        let _lease = store.lease()?;
        // Layers that were not made here are there in the form in which they came.
        let images = shop.images();
        let known: HashMap<&Digest, &Descriptor> =
            images.iter().flat_map(|image| image.diff_ids.iter().zip(&image.layers)).collect();
        let layers = before.layers.iter().map(|id| match known.get(id) {
            Some(layer) => Ok((*layer).clone()),
            None => store.layer_as(id, Compression::None).map(|given| given.descriptor),
        });
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let platform = Platform::host();
        let run = &before.run;
        let config = json!({
            "architecture": platform.architecture, "os": platform.os,
            "config": {"Env": run.environment, "User": run.user, "WorkingDir": run.directory, "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": before.layers},
        });
        let (id, image) = store.put_image(&config, layers, platform, BTreeMap::new())?;
        let name: Reference =
            format!("localhost/build-halted:{}", id.short()).parse().expect("made of a valid name and digits");
        store.name_image(std::slice::from_ref(&name), &id, &image, None, false)?;
        Ok(name)
    }
}
