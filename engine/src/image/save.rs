//! Writes images out of the store: as one file (`save`), or as an OCI image layout.
//!
//! What `save` writes is an OCI image layout and a Docker archive in one: `index.json` and `manifest.json` point to the same
//! blobs, as Docker's own `save` has it, so that Docker, skopeo and podman all load it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::archive::{ArchiveError, CONTAINERD_NAME, DockerEntry, blob_name};
use super::config::Image;
use super::digest::Digest;
use super::manifest::{Descriptor, Index, MAX_MANIFEST, Manifest, ManifestError, media};
use super::reference::Reference;
use super::store::{REF_NAME, Store, StoreError, io_error};

/// Everything that a manifest or an index needs.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    /// Manifests and indexes, each after those that it names.
    pub(crate) documents: Vec<Descriptor>,
    /// Configurations, layers, and whatever else manifests name, each once.
    pub(crate) blobs: Vec<Descriptor>,
}

/// Where the files of an image layout go.
pub trait Layout {
    /// Adds a file of this length. Names are relative; directories need not be made.
    fn add(&mut self, name: &str, length: u64, content: &mut dyn Read) -> io::Result<()>;
}

/// A layout in one file.
#[expect(missing_debug_implementations, reason = "the archive's builder has none")]
pub struct Archive<W: Write>(tar::Builder<W>);

impl<W: Write> Archive<W> {
    /// Begins an archive.
    pub fn new(output: W) -> Self {
        Self(tar::Builder::new(output))
    }

    /// Ends it.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.finish()?;
        self.0.get_mut().flush()
    }
}

impl<W: Write> Layout for Archive<W> {
    fn add(&mut self, name: &str, length: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(length);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.0.append_data(&mut header, name, content)
    }
}

/// A layout in a directory. Blobs that are there already are not written again.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the directory unless it is there.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Layout for Folder {
    fn add(&mut self, name: &str, length: u64, content: &mut dyn Read) -> io::Result<()> {
        let path = self.0.join(name);
        if name.starts_with("blobs/") && fs::metadata(&path).is_ok_and(|known| known.len() == length) {
            return Ok(());
        }
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        // Written aside, so that nobody reads half of it.
        let mut partial = path.clone().into_os_string();
        partial.push(format!(".{}", crate::id::Id::random().short()));
        let written = File::create(&partial)
            .and_then(|mut file| io::copy(content, &mut file))
            .and_then(|_| fs::rename(&partial, &path));
        if written.is_err() {
            // What is told is why it was not written.
            let _ = fs::remove_file(&partial);
        }
        written
    }
}

impl Store {
    /// Writes images with their names into an archive. Images that are there under several names share everything.
    pub fn save(&self, images: &[Image], output: impl Write) -> Result<(), ArchiveError> {
        let _lease = self.lease()?;
        let mut entries = Vec::new();
        let mut docker: BTreeMap<Digest, DockerEntry> = BTreeMap::new();
        for image in images {
            let (manifest, media_type) = self.manifest_of(image)?;
            let mut entry = Descriptor::new(&media_type, image.digest, manifest.len() as u64);
            entry.platform = Some(image.platform.clone());
            let name = Some(&image.reference).filter(|name| !image.dangling && name.tag().is_some());
            entries.push(match name {
                Some(name) => named_entry(entry, name),
                None => entry,
            });
            let known = docker.entry(image.digest).or_insert_with(|| docker_entry(&image.id, &image.layers));
            known.repo_tags.get_or_insert_default().extend(name.map(docker_tag));
        }
        let mut archive = Archive::new(output);
        self.write(&mut archive, entries, Some(docker.into_values().collect()))?;
        archive.finish().map_err(ArchiveError::Write)
    }

    /// Writes one manifest or index, under these names, as an OCI image layout; with `docker` also with the table of a Docker
    /// archive, for which it has to be a manifest.
    pub fn save_as(
        &self,
        descriptor: &Descriptor,
        names: &[Reference],
        docker: bool,
        layout: &mut dyn Layout,
    ) -> Result<(), ArchiveError> {
        let _lease = self.lease()?;
        let mut entries: Vec<Descriptor> = names.iter().map(|name| named_entry(descriptor.clone(), name)).collect();
        if entries.is_empty() {
            entries.push(descriptor.clone());
        }
        let table = if docker {
            let manifest = self.read_manifest(descriptor)?;
            let mut entry = docker_entry(&manifest.config.digest, &manifest.layers);
            entry.repo_tags = Some(names.iter().map(docker_tag).collect());
            Some(vec![entry])
        } else {
            None
        };
        self.write(layout, entries, table)
    }

    fn write(
        &self,
        layout: &mut dyn Layout,
        entries: Vec<Descriptor>,
        docker: Option<Vec<DockerEntry>>,
    ) -> Result<(), ArchiveError> {
        let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
        for entry in &entries {
            let Whole { documents, blobs: parts } = self.whole(entry)?;
            blobs.extend(documents.iter().chain(&parts).map(|part| (part.digest, part.size)));
        }
        let index = Index { manifests: entries, ..Index::default() };
        let index = serde_json::to_vec(&index).expect("an index can be written");
        let mut add = |name: &str, length: u64, content: &mut dyn Read| {
            layout.add(name, length, content).map_err(ArchiveError::Write)
        };
        // The tables first: whoever reads a stream knows what to expect.
        let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
        add("oci-layout", marker.len() as u64, &mut &marker[..])?;
        add("index.json", index.len() as u64, &mut index.as_slice())?;
        if let Some(docker) = docker {
            let docker = serde_json::to_vec(&docker).expect("a table can be written");
            add("manifest.json", docker.len() as u64, &mut docker.as_slice())?;
        }
        for (digest, length) in blobs {
            add(&blob_name(&digest), length, &mut self.open_blob(&digest, length)?)?;
        }
        Ok(())
    }

    /// Opens a blob of which it is known how long it is.
    fn open_blob(&self, digest: &Digest, length: u64) -> Result<impl Read, StoreError> {
        let (path, file) = self.blob_file(digest)?;
        let actual = file.metadata().map_err(io_error("look at", &path))?.len();
        if actual != length {
            return Err(StoreError::WrongSize { digest: *digest, expected: length, actual });
        }
        Ok(file.take(length))
    }

    /// Finds everything that a manifest or an index of the store needs.
    pub(crate) fn whole(&self, descriptor: &Descriptor) -> Result<Whole, StoreError> {
        let mut whole = Whole::default();
        self.collect(descriptor, &mut whole, &mut HashSet::new())?;
        Ok(whole)
    }

    fn collect(
        &self,
        descriptor: &Descriptor,
        whole: &mut Whole,
        seen: &mut HashSet<Digest>,
    ) -> Result<(), StoreError> {
        if !seen.insert(descriptor.digest) {
            return Ok(());
        }
        let digest = descriptor.digest;
        let invalid = |source| StoreError::Manifest { digest, source: ManifestError::Json(source) };
        let content = self.read_blob(&digest, MAX_MANIFEST)?;
        if media::is_index(&descriptor.media_type) {
            let index: Index = serde_json::from_slice(&content).map_err(invalid)?;
            for manifest in &index.manifests {
                self.collect(manifest, whole, seen)?;
            }
        } else {
            let manifest: Manifest = serde_json::from_slice(&content).map_err(invalid)?;
            for blob in manifest.layers.into_iter().chain([manifest.config]) {
                if seen.insert(blob.digest) {
                    whole.blobs.push(blob);
                }
            }
        }
        whole.documents.push(descriptor.clone());
        Ok(())
    }
}

fn named_entry(entry: Descriptor, name: &Reference) -> Descriptor {
    let entry = entry.with_annotation(CONTAINERD_NAME, name.to_string());
    match name.tag() {
        Some(tag) => entry.with_annotation(REF_NAME, tag),
        None => entry,
    }
}

fn docker_entry(config: &Digest, layers: &[Descriptor]) -> DockerEntry {
    DockerEntry {
        config: blob_name(config),
        repo_tags: Some(Vec::new()),
        layers: layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
    }
}

/// Returns a name as Docker's table has it.
fn docker_tag(name: &Reference) -> String {
    format!("{}:{}", name.familiar_name(), name.tag().unwrap_or_default())
}
