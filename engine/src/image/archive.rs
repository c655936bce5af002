//! Reads images out of one file (`load`).
//!
//! It is an OCI image layout, a Docker archive or both in one ([`super::save`] writes that), also as older programs wrote it. An
//! archive is as hostile as a registry: every blob is hashed as it is read, names in it are only ever compared, and nothing is
//! unpacked before its digest is known.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::blob::PendingFile;
use super::config::ParsedConfig;
use super::decompress::{Bounded, Decompressor};
use super::digest::{Digest, Hasher};
use super::manifest::{
    Descriptor, Document, Index, MAX_CONFIG, MAX_MANIFEST, Manifest, ManifestError, Platform, is_dense, media,
};
use super::reference::Reference;
use super::store::{REF_NAME, Store, StoreError, io_error};
use super::tar::{Kind, Reader, TarError};

/// The annotation that containerd and Docker keep an image's whole name in.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Largest table of contents in an archive that is read, in bytes.
const MAX_TABLE: u64 = 16 * 1024 * 1024;
/// Most entries of an archive.
const MAX_ENTRIES: usize = 100_000;
/// Longest name or link target in an archive: what the kernel accepts as a path.
const MAX_NAME: usize = 4096;
/// Most bytes of all names in an archive together: they are remembered, since links may lead to any of them.
const MAX_NAMES: usize = 16 * 1024 * 1024;
/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store does not have or cannot take it.
    #[error(transparent)]
    Store(#[from] Box<StoreError>),
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(#[source] io::Error),
    /// The archive cannot be decompressed.
    #[error("cannot read the archive: {0}")]
    Read(#[source] io::Error),
    /// The archive is damaged.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A table of contents in it is not of a known form.
    #[error("{name} in the archive is invalid: {source}")]
    Table {
        /// The table.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It has no table of contents, or too many entries: it is no image archive.
    #[error("not an image archive: {0}")]
    NoImages(&'static str),
    /// A table of contents names what is not there.
    #[error("the archive lacks {0}")]
    Missing(String),
    /// A manifest in it cannot be used.
    #[error("the archive's image {image}: {source}")]
    Manifest {
        /// The image's name or digest.
        image: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
}

impl From<StoreError> for ArchiveError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// One image in Docker's table of contents.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerEntry {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

impl Store {
    /// Reads an archive, compressed or not, and enters its images. Returns their names; their layers are not unpacked yet
    /// (see [`super::prepare`]).
    ///
    /// Images without a name get one: `localhost/loaded` with the start of their id for a tag. On failure, nothing is
    /// entered; what blobs were read are left to garbage collection.
    pub fn load_archive(&self, input: impl Read, platform: &Platform) -> Result<Vec<Reference>, ArchiveError> {
        let _lease = self.lease()?;
        let contents = self.read_archive(input)?;
        let mut entries = Vec::new();
        // Docker's table is complete where there are both, and names images in a way of its own; the index is exact.
        if let Some(index) = &contents.index {
            let index: Index =
                serde_json::from_slice(index).map_err(|source| ArchiveError::Table { name: "index.json", source })?;
            for entry in index.manifests {
                self.load_entry(entry, platform, &mut entries)?;
            }
        } else if let Some(table) = &contents.docker {
            let table: Vec<DockerEntry> = serde_json::from_slice(table)
                .map_err(|source| ArchiveError::Table { name: "manifest.json", source })?;
            for entry in &table {
                self.load_docker(entry, &contents, &mut entries)?;
            }
        } else {
            return Err(ArchiveError::NoImages("it has neither index.json nor manifest.json"));
        }
        let mut names = Vec::new();
        for (name, entry) in entries {
            self.set_entry(&name, entry)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read_archive(&self, input: impl Read) -> Result<Contents, ArchiveError> {
        let compressed = Cell::new(0);
        let counted = Counted { inner: input, count: &compressed };
        let plain = Decompressor::new(counted).map_err(ArchiveError::Read)?;
        let mut reader = Reader::new(Bounded::new(plain, || compressed.get()));
        let mut contents = Contents::default();
        let (mut count, mut names) = (0, 0);
        while let Some(entry) = reader.next()? {
            count += 1;
            names += entry.path.len() + entry.link.len();
            if count > MAX_ENTRIES || names > MAX_NAMES {
                return Err(ArchiveError::NoImages("it has too many entries"));
            }
            if entry.path.len() > MAX_NAME || entry.link.len() > MAX_NAME {
                return Err(ArchiveError::NoImages("it has an entry whose name is too long"));
            }
            let name = normalise(&String::from_utf8_lossy(&entry.path), None);
            match entry.kind {
                Kind::Symlink => {
                    let target = normalise(&String::from_utf8_lossy(&entry.link), Some(&name));
                    contents.aliases.insert(name, target);
                    continue;
                }
                Kind::HardLink => {
                    contents.aliases.insert(name, normalise(&String::from_utf8_lossy(&entry.link), None));
                    continue;
                }
                Kind::Regular if entry.sparse.is_none() => {}
                _ => continue,
            }
            if matches!(name.as_str(), "index.json" | "manifest.json" | "oci-layout" | "repositories") {
                if entry.size > MAX_TABLE {
                    return Err(ArchiveError::NoImages("its table of contents is too large"));
                }
                let mut table = Vec::new();
                let mut buffer = [0; 8192];
                loop {
                    match reader.read_data(&mut buffer)? {
                        0 => break,
                        read => table.extend_from_slice(&buffer[..read]),
                    }
                }
                if is_dense(&table) {
                    return Err(ArchiveError::NoImages("its table of contents has too many values"));
                }
                match name.as_str() {
                    "index.json" => contents.index = Some(table),
                    "manifest.json" => contents.docker = Some(table),
                    _ => {}
                }
                continue;
            }
            let expected = name.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
            let (digest, start) = self.take_blob(&mut reader, expected)?;
            contents.files.insert(name, Stored { digest, size: entry.size, start });
        }
        Ok(contents)
    }

    /// Stores the data of the archive's current entry as a blob.
    fn take_blob<R: Read>(
        &self,
        reader: &mut Reader<R>,
        expected: Option<Digest>,
    ) -> Result<(Digest, Vec<u8>), ArchiveError> {
        self.take(expected, |buffer| Ok(reader.read_data(buffer)?))
    }

    /// Stores a blob that must have this digest.
    pub(super) fn take_file(&self, mut file: impl Read, expected: &Digest) -> Result<(), ArchiveError> {
        if self.has_blob(expected) {
            return Ok(());
        }
        self.take(Some(*expected), |buffer| file.read(buffer).map_err(ArchiveError::Read)).map(drop)
    }

    /// Stores what is read as a blob. Returns its digest and its first bytes.
    fn take(
        &self,
        expected: Option<Digest>,
        mut read: impl FnMut(&mut [u8]) -> Result<usize, ArchiveError>,
    ) -> Result<(Digest, Vec<u8>), ArchiveError> {
        let temporary = self.temporary();
        let mut file = PendingFile::create(&temporary).map_err(io_error("create a file in", &temporary))?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut start = Vec::new();
        loop {
            let read = read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            if start.len() < 4 {
                start.extend(buffer[..read].iter().take(4));
            }
            file.file_mut().write_all(&buffer[..read]).map_err(io_error("write a file in", &temporary))?;
        }
        let digest = hasher.finish();
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(StoreError::WrongDigest { expected, actual: digest }.into());
        }
        if !self.has_blob(&digest) {
            self.publish_blob(file, &digest)?;
        }
        Ok((digest, start))
    }

    /// Finds the image that an index entry means, and its name.
    fn load_entry(
        &self,
        entry: Descriptor,
        platform: &Platform,
        entries: &mut Vec<(Reference, Descriptor)>,
    ) -> Result<(), ArchiveError> {
        let name = entry.annotation(CONTAINERD_NAME).or_else(|| entry.annotation(REF_NAME)).map(str::to_owned);
        let mut entry = entry;
        // Docker wraps images in an index of their own.
        for _ in 0..3 {
            let content = self.read_loaded(&entry.digest, MAX_MANIFEST)?;
            let bad = |source| ArchiveError::Manifest { image: entry.digest.to_string(), source };
            match Document::parse(&content, Some(&entry.media_type)).map_err(bad)? {
                Document::Index(index) => {
                    // An index with one entry means that entry, whatever it is for.
                    let chosen = match index.manifests.as_slice() {
                        [only] => only.clone(),
                        _ => index.choose(platform).map_err(bad)?.clone(),
                    };
                    entry = chosen;
                }
                Document::Manifest(manifest) => {
                    self.check_loaded(&manifest)?;
                    let name = named(name.as_deref(), &manifest.config.digest);
                    let mut plain = Descriptor::new(&entry.media_type, entry.digest, content.len() as u64);
                    plain.platform = entry.platform;
                    entries.push((name, plain));
                    return Ok(());
                }
            }
        }
        Err(ArchiveError::NoImages("its indexes are nested too deeply"))
    }

    /// Makes a manifest for an image of Docker's table.
    fn load_docker(
        &self,
        entry: &DockerEntry,
        contents: &Contents,
        entries: &mut Vec<(Reference, Descriptor)>,
    ) -> Result<(), ArchiveError> {
        let config = contents.find(&entry.config)?;
        let mut layers = Vec::new();
        for layer in &entry.layers {
            let stored = contents.find(layer)?;
            let media_type = match stored.start.as_slice() {
                [0x1f, 0x8b, ..] => media::OCI_LAYER_GZIP,
                [0x28, 0xb5, 0x2f, 0xfd] => media::OCI_LAYER_ZSTD,
                _ => media::OCI_LAYER,
            };
            layers.push(Descriptor::new(media_type, stored.digest, stored.size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::OCI_MANIFEST.to_owned()),
            config: Descriptor::new(media::OCI_CONFIG, config.digest, config.size),
            layers,
            annotations: None,
        };
        let content = serde_json::to_vec(&manifest).expect("a manifest can be written");
        // The same rules as for what comes from a registry.
        Document::parse(&content, None)
            .map_err(|source| ArchiveError::Manifest { image: entry.config.clone(), source })?;
        let platform = self.check_loaded(&manifest)?;
        let mut descriptor = Descriptor::new(media::OCI_MANIFEST, self.put_blob(&content)?, content.len() as u64);
        descriptor.platform = Some(platform);
        let tags = entry.repo_tags.as_deref().unwrap_or_default();
        if tags.is_empty() {
            entries.push((named(None, &config.digest), descriptor));
            return Ok(());
        }
        for tag in tags {
            entries.push((named(Some(tag), &config.digest), descriptor.clone()));
        }
        Ok(())
    }

    /// Checks that all of an image is here.
    pub(super) fn check_loaded(&self, manifest: &Manifest) -> Result<Platform, ArchiveError> {
        let digest = manifest.config.digest;
        let config = self.read_loaded(&digest, MAX_CONFIG)?;
        let parsed = ParsedConfig::parse(&config, manifest.layers.len())
            .map_err(|source| StoreError::Config { digest, source })?;
        for layer in &manifest.layers {
            if !self.has_blob(&layer.digest) {
                return Err(ArchiveError::Missing(layer.digest.to_string()));
            }
            let actual = self.blob_length(&layer.digest)?;
            if actual != layer.size {
                return Err(StoreError::WrongSize { digest: layer.digest, expected: layer.size, actual }.into());
            }
        }
        Ok(parsed.platform)
    }

    fn read_loaded(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        match self.read_blob(digest, limit) {
            Ok(content) => Ok(content),
            Err(StoreError::MissingBlob { digest }) => Err(ArchiveError::Missing(digest.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}

/// Counts the bytes that are read.
pub(super) struct Counted<'a, R> {
    pub(super) inner: R,
    pub(super) count: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// What an archive holds.
#[derive(Default)]
struct Contents {
    index: Option<Vec<u8>>,
    docker: Option<Vec<u8>>,
    files: HashMap<String, Stored>,
    aliases: HashMap<String, String>,
}

/// A file of an archive, now a blob.
struct Stored {
    digest: Digest,
    size: u64,
    /// The first bytes, which tell the compression.
    start: Vec<u8>,
}

impl Contents {
    fn find(&self, name: &str) -> Result<&Stored, ArchiveError> {
        let mut at = normalise(name, None);
        // Old archives have links from one image's layer to another's.
        for _ in 0..8 {
            if let Some(stored) = self.files.get(&at) {
                return Ok(stored);
            }
            match self.aliases.get(&at) {
                Some(target) => at.clone_from(target),
                None => break,
            }
        }
        Err(ArchiveError::Missing(name.chars().take(200).collect()))
    }
}

/// Returns where a blob is in an archive.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Makes names comparable. `link` is where a relative target is taken from.
fn normalise(name: &str, link: Option<&str>) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let directory = link.and_then(|link| Path::new(link).parent()).and_then(Path::to_str).unwrap_or_default();
    for part in directory.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns the name that an image is to have.
pub(crate) fn named(name: Option<&str>, id: &Digest) -> Reference {
    name.and_then(|name| name.parse().ok())
        .unwrap_or_else(|| format!("localhost/loaded:{}", id.short()).parse().expect("made of a valid name and digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_archives_are_only_compared() {
        assert_eq!(normalise("./a//b/../c", None), "a/c");
        assert_eq!(normalise("../../../etc/passwd", None), "etc/passwd");
        assert_eq!(normalise("../x/layer.tar", Some("y/layer.tar")), "x/layer.tar");
        assert_eq!(named(Some("Not A Name"), &Digest::of(b"x")).registry(), "localhost");
    }
}
