//! Takes images out of OCI image layouts: directories as other tools write them (OCI image specification, "Image Layout").
//!
//! A layout is as hostile as a registry: nothing of it is believed but the digests that its blobs really have.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::archive::{ArchiveError, named};
use super::digest::Digest;
use super::manifest::{Descriptor, Document, Index, MAX_MANIFEST, ManifestError, Platform, is_dense};
use super::reference::Reference;
use super::store::{REF_NAME, Store, StoreError};

/// The longest table of contents that is read, in bytes.
const MAX_INDEX: u64 = 16 << 20;

/// Why an image of a layout cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of it cannot be read.
    #[error("cannot read {} of the OCI layout", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its table of contents is of no known form.
    #[error("the OCI layout {} has an invalid index.json", path.display())]
    Index {
        /// The layout.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It has no such image.
    #[error("the OCI layout {} has no image {wanted}", path.display())]
    NoImage {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
    },
    /// A manifest in it cannot be used.
    #[error("the OCI layout {}", path.display())]
    Manifest {
        /// The layout.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The image cannot be taken.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Which image of which layout: `PATH[:TAG][@DIGEST]`.
struct Wanted<'a> {
    directory: &'a Path,
    tag: Option<&'a str>,
    digest: Option<Digest>,
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Self {
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if digest.parse::<Digest>().is_ok() => (rest, digest.parse().ok()),
            _ => (text, None),
        };
        let (directory, tag) = match rest.rsplit_once(':') {
            Some((directory, tag)) if !tag.contains('/') => (directory, Some(tag)),
            _ => (rest, None),
        };
        Self { directory: Path::new(directory), tag, digest }
    }

    fn find(&self, index: &Index) -> Option<Descriptor> {
        let named = |entry: &&Descriptor, tag: &str| {
            let name = entry.annotation(REF_NAME);
            name.is_some_and(|name| name == tag || name.rsplit(['/', ':']).next() == Some(tag))
        };
        let mut entries = index.manifests.iter();
        match (&self.digest, self.tag, index.manifests.as_slice()) {
            (Some(digest), _, _) => entries.find(|entry| entry.digest == *digest).cloned(),
            (None, Some(tag), _) => entries.find(|entry| named(entry, tag)).cloned(),
            // Without a name it is the only one, or `latest`.
            (None, None, [only]) => Some(only.clone()),
            (None, None, _) => entries.find(|entry| named(entry, "latest")).cloned(),
        }
    }

    fn described(&self) -> String {
        match (&self.digest, self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        }
    }
}

impl Store {
    /// Takes the image that `PATH[:TAG][@DIGEST]` means, for a platform. Returns the name it has here, that of a loaded
    /// image without one; its layers are not unpacked yet (see [`super::prepare`]).
    pub fn load_layout(&self, wanted: &str, platform: &Platform) -> Result<Reference, LayoutError> {
        let wanted = Wanted::parse(wanted);
        let path = || wanted.directory.to_owned();
        let _lease = self.lease().map_err(ArchiveError::from)?;
        let table = wanted.directory.join("index.json");
        let index = short(&table, MAX_INDEX)?;
        if is_dense(&index) {
            return Err(LayoutError::NoImage { path: path(), wanted: wanted.described() });
        }
        let index: Index =
            serde_json::from_slice(&index).map_err(|source| LayoutError::Index { path: path(), source })?;
        let missing = || LayoutError::NoImage { path: path(), wanted: wanted.described() };
        let mut entry = wanted.find(&index).ok_or_else(missing)?;
        // An index of platforms, which may be in one of its own.
        for _ in 0..3 {
            let content = short(&blob(wanted.directory, &entry.digest), MAX_MANIFEST)?;
            let actual = Digest::of(&content);
            if actual != entry.digest {
                let wrong = StoreError::WrongDigest { expected: entry.digest, actual };
                return Err(ArchiveError::from(wrong).into());
            }
            let bad = |source| LayoutError::Manifest { path: path(), source };
            match Document::parse(&content, Some(&entry.media_type)).map_err(bad)? {
                Document::Index(index) => entry = index.choose(platform).map_err(bad)?.clone(),
                Document::Manifest(manifest) => {
                    for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
                        let path = blob(wanted.directory, &descriptor.digest);
                        self.take_file(open(&path)?.take(descriptor.size), &descriptor.digest)?;
                    }
                    self.put_blob(&content).map_err(ArchiveError::from)?;
                    let found = self.check_loaded(&manifest)?;
                    if (&found.os, &found.architecture) != (&platform.os, &platform.architecture) {
                        return Err(missing());
                    }
                    let name = named(None, &manifest.config.digest);
                    let mut plain = Descriptor::new(&entry.media_type, entry.digest, content.len() as u64);
                    plain.platform = Some(found);
                    self.set_entry(&name, plain).map_err(ArchiveError::from)?;
                    return Ok(name);
                }
            }
        }
        Err(missing())
    }
}

fn blob(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// Opens a regular file; a FIFO would have us wait.
fn open(path: &Path) -> Result<File, LayoutError> {
    let failed = |source| LayoutError::Read { path: path.to_owned(), source };
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    File::open(path).map_err(failed)
}

fn short(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let mut bytes = Vec::new();
    let failed = |source| LayoutError::Read { path: path.to_owned(), source };
    open(path)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit { Err(failed(io::ErrorKind::FileTooLarge.into())) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_layouts_are_named() {
        let digest = Digest::of(b"x");
        let read = |text: &str| {
            let wanted = Wanted::parse(text);
            (wanted.directory.display().to_string(), wanted.tag.map(str::to_owned), wanted.digest)
        };
        assert_eq!(read("/a/b"), ("/a/b".to_owned(), None, None));
        assert_eq!(read("./b:1.2"), ("./b".to_owned(), Some("1.2".to_owned()), None));
        assert_eq!(read("/a:1/b"), ("/a:1/b".to_owned(), None, None));
        assert_eq!(read(&format!("b:1@{digest}")), ("b".to_owned(), Some("1".to_owned()), Some(digest)));
        assert_eq!(read("user@b"), ("user@b".to_owned(), None, None));
    }
}
