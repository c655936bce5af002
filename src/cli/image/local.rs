//! The images of this host, and who uses them.

use std::sync::Arc;

use rcompose_engine::container::store::{self, Container};
use rcompose_engine::image::{Digest, Freed, Image, Platform, Store};
use rcompose_engine::root::Root;

use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::compose::suggest;

/// The store of this host, and what it holds.
#[derive(Debug)]
pub struct Local {
    pub root: Root,
    pub store: Arc<Store>,
    pub images: Vec<Image>,
}

impl Local {
    pub fn open(context: &Context) -> Result<Self, Error> {
        let root = context.root()?;
        let store = Arc::new(Store::open(root.data())?);
        let images = store.list()?;
        Ok(Self { root, store, images })
    }

    /// Returns the image that a name or the beginning of an id means.
    pub fn find(&self, name: &str) -> Result<Image, Error> {
        if let Some(image) = self.store.find(name)? {
            return Ok(image);
        }
        // Docker says which tag it looked for.
        let parsed = name.parse::<rcompose_engine::image::Reference>();
        let asked = parsed.map_or_else(|_| name.to_owned(), |reference| reference.familiar());
        let names = self.images.iter().filter(|image| !image.dangling).map(|image| image.reference.familiar());
        let names = names.collect::<Vec<_>>();
        let text = format!("No such image: {asked}");
        // People forget the tag, or mistype the name.
        let bare = asked.strip_suffix(":latest").unwrap_or(&asked);
        let other_tag = || names.iter().map(String::as_str).find(|known| known.split(':').next() == Some(bare));
        match other_tag().or_else(|| suggest::closest(&asked, names.iter().map(String::as_str))) {
            Some(like) => Err(Error::with_hint(text, format!("did you mean {like}?"))),
            None if names.is_empty() => {
                Err(Error::with_hint(text, format!("there is no image here yet: rcompose image pull {bare}")))
            }
            None => Err(Error::with_hint(text, "rcompose image ls lists what is here")),
        }
    }

    /// Returns the image, if it is for the platform that was asked for.
    pub fn find_for(&self, name: &str, platform: Option<&Platform>) -> Result<Image, Error> {
        let image = self.find(name)?;
        match platform {
            Some(wanted) if wanted.rank(&image.platform).is_none() => Err(Error::with_hint(
                format!("image with reference {name} was found but does not provide the specified platform ({wanted})"),
                format!("it is for {}: rcompose image pull --platform {wanted} {name}", image.platform),
            )),
            _ => Ok(image),
        }
    }

    /// Returns all entries of the image that has this id, in the order of their names.
    pub fn entries(&self, id: &Digest) -> Vec<&Image> {
        let mut entries = self.images.iter().filter(|image| image.id == *id).collect::<Vec<_>>();
        entries.sort_by_key(|image| image.reference.familiar());
        entries
    }

    /// Returns the names of an image, sorted.
    pub fn tags(&self, id: &Digest) -> Vec<String> {
        self.entries(id).iter().filter(|image| !image.dangling).map(|image| image.reference.familiar()).collect()
    }

    /// Returns the names by digest under which registries have an image, sorted.
    pub fn digests(&self, id: &Digest) -> Vec<String> {
        let mut names = self.entries(id).into_iter().filter_map(repo_digest).collect::<Vec<_>>();
        names.sort();
        names.dedup();
        names
    }

    pub fn containers(&self) -> Result<Vec<Container>, Error> {
        Ok(store::list(&self.root, None)?)
    }

    /// Frees what neither an image nor a container needs.
    pub fn collect(&self) -> Result<Freed, Error> {
        self.store.gc(|| store::layers(&self.root).map_err(Error::from))
    }
}

/// Returns the name by digest of what a registry has, for an image that came from one or went to one.
pub fn repo_digest(image: &Image) -> Option<String> {
    (image.checked.is_some() || image.source_digest != image.digest || image.reference.digest().is_some())
        .then(|| format!("{}@{}", image.reference.familiar_name(), image.source_digest))
}

/// Returns the containers that were made of an image.
pub fn users<'a>(containers: &'a [Container], id: &Digest) -> Vec<&'a Container> {
    let id = id.to_string();
    containers.iter().filter(|container| container.config.image_id == id).collect()
}

/// Returns when an image was built.
pub fn created(image: &Image) -> Option<jiff::Timestamp> {
    image.created.as_deref()?.parse().ok()
}
