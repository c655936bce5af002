//! Layers in the form of eStargz: gzip of which single files can be read without what stands before them.
//!
//! Every file's content is a member of gzip of its own, or several; at the end stand a table of contents and a footer that says
//! where that begins (stargz-snapshotter, `docs/estargz.md`). Whoever knows nothing of it reads a layer as any other, in which
//! there are two files more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::Serialize;

use super::digest::{Digest, Hasher};
use super::tar::{Entry, Kind, Reader};

/// The annotation of a layer that says what its table of contents must be.
pub(super) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The annotation with the length of the layer when it is not compressed.
pub(super) const PLAIN_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// Bytes of a file's content in one member.
pub(super) const CHUNK: u64 = 4 << 20;

const TOC: &str = "stargz.index.json";
/// Says that no file is wanted before the others.
const LANDMARK: (&str, &[u8]) = (".no.prefetch.landmark", &[0x0f]);

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// The digest of what it is when it is not compressed. That is not the archive's that it was made of.
    pub(super) diff_id: Digest,
    /// Bytes of that.
    pub(super) size: u64,
    /// The digest of the table of contents.
    pub(super) toc: Digest,
}

#[derive(Serialize)]
struct Toc {
    version: u32,
    entries: Vec<TocEntry>,
}

/// A file, or a further part of one.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    name: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none", rename = "modtime")]
    modified: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_minor: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Writes an archive in this form, with at most `chunk` bytes of a file in one member.
pub(super) fn write(archive: impl Read, level: u32, chunk: u64, out: impl Write) -> io::Result<Written> {
    let members = RefCell::new(Members::new(out, level));
    let mut entries = Vec::new();
    read(&archive_of(LANDMARK.0, LANDMARK.1)?[..], chunk, &members, &mut entries)?;
    read(archive, chunk, &members, &mut entries)?;
    members.into_inner().finish(&Toc { version: 1, entries })
}

/// Returns an archive of one file.
fn archive_of(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o444);
    archive.append_data(&mut header, name, content)?;
    archive.into_inner()
}

/// Passes an archive on, without the blocks at its end.
fn read<W: Write>(
    archive: impl Read,
    chunk: u64,
    members: &RefCell<Members<W>>,
    entries: &mut Vec<TocEntry>,
) -> io::Result<()> {
    let mut reader = Reader::new(Tap { archive, members });
    let mut buffer = vec![0; 128 << 10];
    while let Some(entry) = reader.next().map_err(io::Error::other)? {
        if entry.sparse.is_some() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "sparse files cannot be in eStargz"));
        }
        if entry.kind != Kind::Regular || entry.size == 0 {
            entries.push(TocEntry::new(&entry));
            continue;
        }
        let first = entries.len();
        let mut whole = Hasher::new();
        while whole.length() < entry.size {
            let (offset, begin) = (members.borrow_mut().cut()?, whole.length());
            let size = chunk.min(entry.size - begin);
            let mut part = Hasher::new();
            while part.length() < size {
                let wanted = usize::try_from(size - part.length()).unwrap_or(usize::MAX).min(buffer.len());
                let read = reader.read_data(&mut buffer[..wanted]).map_err(io::Error::other)?;
                part.update(&buffer[..read]);
                whole.update(&buffer[..read]);
            }
            let mut listed = if begin == 0 { TocEntry::new(&entry) } else { TocEntry::part(&entry) };
            (listed.offset, listed.chunk_offset, listed.chunk_digest) = (offset, begin, Some(part.finish()));
            // The last part of a file, which may be its first, has none.
            listed.chunk_size = if whole.length() < entry.size { size } else { 0 };
            entries.push(listed);
        }
        entries[first].digest = Some(whole.finish());
    }
    members.borrow_mut().held.clear();
    Ok(())
}

impl TocEntry {
    fn new(entry: &Entry) -> Self {
        let is_device = matches!(entry.kind, Kind::CharacterDevice | Kind::BlockDevice);
        let device = |number: u32| is_device.then_some(number);
        let is_link = matches!(entry.kind, Kind::Symlink | Kind::HardLink);
        let modified = Timestamp::from_second(entry.mtime.0).ok();
        let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| (text(name), BASE64_STANDARD.encode(value));
        Self {
            name: text(&entry.path),
            r#type: match entry.kind {
                Kind::Regular => "reg",
                Kind::HardLink => "hardlink",
                Kind::Symlink => "symlink",
                Kind::CharacterDevice => "char",
                Kind::BlockDevice => "block",
                Kind::Directory => "dir",
                Kind::Fifo => "fifo",
            },
            size: entry.size,
            modified: modified.map(|time| time.to_string()),
            link_name: if is_link { text(&entry.link) } else { String::new() },
            mode: Some(entry.mode),
            uid: Some(entry.uid),
            gid: Some(entry.gid),
            dev_major: device(entry.device.0),
            dev_minor: device(entry.device.1),
            xattrs: entry.xattrs.iter().map(xattr).collect(),
            ..Self::default()
        }
    }

    fn part(entry: &Entry) -> Self {
        Self { name: text(&entry.path), r#type: "chunk", ..Self::default() }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes what is read of an archive to the members.
struct Tap<'a, R, W: Write> {
    archive: R,
    members: &'a RefCell<Members<W>>,
}

impl<R: Read, W: Write> Read for Tap<'_, R, W> {
    /// Fills the buffer, unless the archive ends: what was read last is a whole block where it is a header.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.archive.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut members = self.members.borrow_mut();
        members.write_held()?;
        members.held.extend_from_slice(&buffer[..filled]);
        Ok(filled)
    }
}

/// Members of gzip, one after another.
struct Members<W: Write> {
    out: W,
    /// Bytes that were written.
    offset: u64,
    current: GzEncoder<Vec<u8>>,
    level: Compression,
    /// What was read last. Where it is the end of an archive, it is not written: the table of contents stands before that.
    held: Vec<u8>,
    plain: Hasher,
}

impl<W: Write> Members<W> {
    fn new(out: W, level: u32) -> Self {
        let level = Compression::new(level);
        let current = GzEncoder::new(Vec::new(), level);
        Self { out, offset: 0, current, level, held: Vec::new(), plain: Hasher::new() }
    }

    fn write_held(&mut self) -> io::Result<()> {
        self.plain.update(&self.held);
        self.current.write_all(&self.held)?;
        self.held.clear();
        let ready = std::mem::take(self.current.get_mut());
        self.write(&ready)
    }

    /// Begins the next member. Returns where it begins.
    fn cut(&mut self) -> io::Result<u64> {
        self.write_held()?;
        let ended = std::mem::replace(&mut self.current, GzEncoder::new(Vec::new(), self.level)).finish()?;
        self.write(&ended)?;
        Ok(self.offset)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn finish(mut self, toc: &Toc) -> io::Result<Written> {
        let toc = serde_json::to_vec_pretty(toc)?;
        let begin = self.cut()?;
        self.held = archive_of(TOC, &toc)?;
        self.cut()?;
        self.write(&footer(begin))?;
        self.out.flush()?;
        Ok(Written { size: self.plain.length(), diff_id: self.plain.finish(), toc: Digest::of(&toc) })
    }
}

/// Returns an empty member that says where the table of contents begins.
fn footer(toc: u64) -> Vec<u8> {
    // The header, with an extra field and of no known system; then its length, its name, and the length of what it says.
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    footer.extend_from_slice(format!("{toc:016x}STARGZ").as_bytes());
    // The last block, which is stored and empty; then the checksum and the length of nothing.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    footer
}

#[cfg(test)]
mod tests {
    use flate2::read::{GzDecoder, MultiGzDecoder};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Small, so that files have several.
    const CHUNK: u64 = 50;

    fn archive(files: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (number, (kind, content)) in files.iter().enumerate() {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o4755);
            header.set_mtime(1_700_000_000);
            header.set_uid(7);
            header.set_gid(8);
            let name = format!("{}{number}", "long/".repeat(usize::from(*kind) * 10));
            match kind % 4 {
                0 => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    archive.append_link(&mut header, name, "elsewhere").unwrap();
                }
                1 => {
                    header.set_entry_type(tar::EntryType::Char);
                    header.set_device_major(1).unwrap();
                    header.set_device_minor(3).unwrap();
                    archive.append_data(&mut header, name, &b""[..]).unwrap();
                }
                _ => {
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, name, &content[..]).unwrap();
                }
            }
        }
        archive.into_inner().unwrap()
    }

    fn members(archive: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path_bytes().into_owned(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn plain(mut decoder: impl Read) -> Vec<u8> {
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        plain
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_file_is_found_by_the_table_and_by_those_who_do_not_know_it(
            files in vec((0_u8..8, vec(any::<u8>(), 0..180)), 0..12),
        ) {
            let archive = archive(&files);
            let mut blob = Vec::new();
            let written = write(&archive[..], 6, CHUNK, &mut blob).unwrap();

            let whole = plain(MultiGzDecoder::new(&blob[..]));
            prop_assert_eq!((written.diff_id, written.size), (Digest::of(&whole), whole.len() as u64));
            let mut listed = members(&whole);
            let (name, toc) = listed.pop().unwrap();
            prop_assert_eq!((&name[..], Digest::of(&toc)), (TOC.as_bytes(), written.toc));
            prop_assert_eq!(listed.remove(0), (LANDMARK.0.as_bytes().to_vec(), LANDMARK.1.to_vec()));
            prop_assert_eq!(&listed, &members(&archive));

            let footer = &blob[blob.len() - 51..];
            prop_assert_eq!(&footer[32..38], b"STARGZ");
            prop_assert!(plain(GzDecoder::new(footer)).is_empty());
            let begin = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
            prop_assert_eq!(&members(&plain(GzDecoder::new(&blob[begin..])))[0].1, &toc);

            let toc: Value = serde_json::from_slice(&toc).unwrap();
            let entries = toc["entries"].as_array().unwrap();
            let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            for entry in entries {
                let number = |name: &str| entry[name].as_u64().unwrap_or(0);
                let name = entry["name"].as_str().unwrap().as_bytes().to_vec();
                if entry["type"] != "chunk" {
                    found.push((name, Vec::new()));
                }
                let Some(digest) = entry["chunkDigest"].as_str() else { continue };
                let offset = usize::try_from(number("offset")).unwrap();
                let (_, content) = found.last_mut().unwrap();
                prop_assert_eq!(number("chunkOffset"), content.len() as u64);
                let member = plain(GzDecoder::new(&blob[offset..]));
                let size = entries.iter().find(|first| first["name"] == entry["name"]).unwrap()["size"].as_u64().unwrap();
                let length = match number("chunkSize") {
                    0 => size - number("chunkOffset"),
                    length => length,
                };
                let part = &member[..usize::try_from(length).unwrap()];
                prop_assert_eq!(Digest::of(part).to_string(), digest);
                content.extend_from_slice(part);
            }
            prop_assert_eq!(&found.remove(0).1[..], LANDMARK.1);
            prop_assert_eq!(found, listed);
        }
    }

    #[test]
    fn a_table_says_of_files_what_the_archive_says() {
        let mut blob = Vec::new();
        write(&archive(&[(2, vec![1; 60]), (4, vec![]), (1, vec![])])[..], 6, CHUNK, &mut blob).unwrap();
        let toc: Value =
            serde_json::from_slice(&members(&plain(MultiGzDecoder::new(&blob[..]))).pop().unwrap().1).unwrap();
        let entries = toc["entries"].as_array().unwrap();
        let said = |at: usize, names: &[&str]| names.iter().map(|name| entries[at][name].clone()).collect::<Vec<_>>();
        let names = ["type", "mode", "uid", "gid", "size", "modtime", "chunkSize", "chunkOffset", "linkName"];
        let modified = "2023-11-14T22:13:20Z";
        let none = Value::Null;
        assert_eq!(
            said(1, &names),
            [
                "reg".into(),
                0o4755.into(),
                7.into(),
                8.into(),
                60.into(),
                modified.into(),
                50.into(),
                none.clone(),
                none.clone()
            ]
        );
        assert_eq!(said(2, &names[6..]), [none.clone(), 50.into(), none.clone()]);
        assert_eq!(said(2, &["type", "mode"]), ["chunk".into(), none]);
        assert_eq!(said(3, &["type", "linkName"]), [Value::from("symlink"), "elsewhere".into()]);
        assert_eq!(said(4, &["type", "devMajor", "devMinor"]), [Value::from("char"), 1.into(), 3.into()]);
    }
}
