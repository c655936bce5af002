//! A layer's blob: the tree as a tar archive, the same bytes for the same tree, compressed with gzip.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{cache::Cache, recipe::LayerRecipe, tree::is_whiteout};

/// The time of every file in a layer: 2024-01-01 00:00 UTC, in seconds.
pub(crate) const MTIME: u64 = 1_704_067_200;

/// A finished layer in the blob store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    /// Of the compressed blob.
    pub digest: String,
    /// Of the archive inside it.
    pub diff_id: String,
    /// Of the compressed blob, in bytes.
    pub size: u64,
    /// What the image's history says about it.
    pub comment: String,
}

/// Writes the tree into the blob store.
pub fn write(tree: &Path, lowers: &[PathBuf], step: &LayerRecipe, cache: &Cache) -> anyhow::Result<Layer> {
    let folder = cache.folder("blobs/sha256")?;
    let temporary = folder.join(format!(".new-{}-{}", std::process::id(), lowers.len()));
    let name = tree.as_os_str().to_string_lossy().replace('/', "-");
    let temporary = temporary.with_extension(name);
    let blob = Hashing::new(BufWriter::new(File::create(&temporary)?));
    let archive = Hashing::new(GzEncoder::new(blob, Compression::fast()));
    let mut archive = tar::Builder::new(archive);
    let mut writer = Writer { tree, links: BTreeMap::new(), step };
    writer.folder(&mut archive, Path::new(""))?;
    let (gzip, diff_id) = archive.into_inner()?.finish();
    let (mut blob, digest) = gzip.finish()?.finish();
    blob.flush()?;
    let size = fs::metadata(&temporary)?.len();
    let target = cache.blob(&digest);
    fs::rename(&temporary, &target).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(Layer { digest, diff_id, size, comment: comment(step) })
}

fn comment(step: &LayerRecipe) -> String {
    let mut parts = Vec::new();
    if let Some(files) = &step.files {
        parts.push(format!("files {files}"));
    }
    if !step.packages.is_empty() {
        parts.push(format!("packages {}", step.packages.join(" ")));
    }
    if !step.run.is_empty() {
        parts.push(format!("run {}", step.run.join(" && ")));
    }
    parts.join("; ")
}

struct Writer<'a> {
    tree: &'a Path,
    /// The first path of each inode that has several.
    links: BTreeMap<(u64, u64), PathBuf>,
    step: &'a LayerRecipe,
}

impl Writer<'_> {
    /// Writes the entries of a folder, sorted, each folder before what is in it.
    fn folder<W: Write>(&mut self, archive: &mut tar::Builder<W>, relative: &Path) -> anyhow::Result<()> {
        if self.step.opaque.iter().any(|path| Path::new(path) == relative) {
            empty(archive, &relative.join(".wh..wh..opq"))?;
        }
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.tree.join(relative))? {
            names.insert(entry?.file_name());
        }
        for path in &self.step.whiteouts {
            let path = Path::new(path);
            if path.parent() == Some(relative)
                && let Some(name) = path.file_name()
                && !names.contains(name)
            {
                empty(archive, &whiteout(path))?;
            }
        }
        for name in names {
            let path = relative.join(name);
            self.entry(archive, &path).with_context(|| format!("cannot archive /{}", path.display()))?;
        }
        Ok(())
    }

    fn entry<W: Write>(&mut self, archive: &mut tar::Builder<W>, relative: &Path) -> anyhow::Result<()> {
        let path = self.tree.join(relative);
        let metadata = fs::symlink_metadata(&path)?;
        if is_whiteout(&metadata) {
            return empty(archive, &whiteout(relative));
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(u64::from(metadata.uid()));
        header.set_gid(u64::from(metadata.gid()));
        header.set_mtime(MTIME);
        header.set_size(0);
        let kind = metadata.file_type();
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            // With the slash that other tools write, too.
            let mut name = relative.as_os_str().to_owned();
            name.push("/");
            archive.append_data(&mut header, name, io::empty())?;
            return self.folder(archive, relative);
        }
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                header.set_entry_type(tar::EntryType::Link);
                archive.append_link(&mut header, relative, first)?;
                return Ok(());
            }
            self.links.insert(inode, relative.to_owned());
        }
        if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, relative, fs::read_link(&path)?)?;
        } else if kind.is_file() {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(metadata.len());
            archive.append_data(&mut header, relative, File::open(&path)?)?;
        } else {
            anyhow::bail!("{kind:?} has no place in a layer");
        }
        Ok(())
    }
}

fn whiteout(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".wh.");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn empty<W: Write>(archive: &mut tar::Builder<W>, path: &Path) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(MTIME);
    header.set_size(0);
    archive.append_data(&mut header, path, io::empty())?;
    Ok(())
}

/// Passes bytes on and hashes them.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Hashing { inner, hash: Sha256::new() }
    }

    /// Returns what is written to, and the digest of all that was written.
    fn finish(self) -> (W, String) {
        (self.inner, format!("sha256:{}", hex(&self.hash.finalize())))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Returns the digest of bytes as OCI documents write it.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Returns bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tar::EntryType::{Directory, Link, Regular, Symlink};

    use super::*;

    /// Writes a tree made by `make` as a layer and returns it with the names and kinds of its entries.
    fn layer(step: &LayerRecipe, make: impl Fn(&Path)) -> (Layer, Vec<(String, tar::EntryType)>) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open_at(&folder.path().join("cache")).unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        make(&tree);
        let layer = write(&tree, &[], step, &cache).unwrap();
        let blob = File::open(cache.blob(&layer.digest)).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(blob));
        let entries = archive.entries().unwrap();
        let entries = entries
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.header().entry_type())
            })
            .collect();
        (layer, entries)
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let forwards = |tree: &Path| ["a", "b", "c"].iter().for_each(|name| fs::write(tree.join(name), name).unwrap());
        let backwards = |tree: &Path| ["c", "b", "a"].iter().for_each(|name| fs::write(tree.join(name), name).unwrap());
        let (first, _) = layer(&LayerRecipe::default(), forwards);
        let (second, _) = layer(&LayerRecipe::default(), backwards);
        assert_eq!((first.digest, first.diff_id), (second.digest, second.diff_id));
    }

    #[test]
    fn entries_say_what_is_there_and_what_is_gone() {
        let step = LayerRecipe {
            whiteouts: vec!["d/gone".to_owned()],
            opaque: vec!["d".to_owned()],
            ..LayerRecipe::default()
        };
        let (_, entries) = layer(&step, |tree| {
            fs::create_dir(tree.join("d")).unwrap();
            fs::write(tree.join("d/file"), "x").unwrap();
            fs::hard_link(tree.join("d/file"), tree.join("second")).unwrap();
            symlink("d/file", tree.join("link")).unwrap();
        });
        let expected = [
            ("d/", Directory),
            ("d/.wh..wh..opq", Regular),
            ("d/.wh.gone", Regular),
            ("d/file", Regular),
            ("link", Symlink),
            ("second", Link),
        ];
        assert_eq!(entries, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }
}
