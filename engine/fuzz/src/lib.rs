//! The parts of the engine that read what strangers wrote, compiled by themselves, and what must hold of them.
#![allow(dead_code, unused_imports, reason = "the modules are parts of the engine, which uses all of them")]

pub mod build;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

#[path = "../../src/image"]
mod image {
    pub(crate) mod config;
    pub(crate) mod decompress;
    pub(crate) mod digest;
    pub(crate) mod manifest;
    pub(crate) mod reference;
    pub(crate) mod remove;
    pub(crate) mod tar;
    pub(crate) mod unpack;
}
#[path = "../../src/sys"]
mod sys {
    pub(crate) mod xattr;
}

use image::config::ParsedConfig;
use image::decompress::Decompressor;
use image::manifest::{Document, Platform, media};
use image::reference::Reference;
use image::tar::Reader;
use image::unpack::{Limits, unpack};

/// A manifest, an index or a configuration: what is accepted can be written and read again as the same.
pub fn document(bytes: &[u8]) {
    for declared in [None, Some(media::OCI_MANIFEST), Some(media::OCI_INDEX)] {
        let Ok(document) = Document::parse(bytes, declared) else { continue };
        let written = match &document {
            Document::Manifest(manifest) => {
                assert!(manifest.download_size() <= i64::MAX as u64 + (8 << 20));
                serde_json::to_vec(manifest)
            }
            Document::Index(index) => {
                if let Ok(chosen) = index.choose(&Platform::host()) {
                    assert!(index.manifests.contains(chosen));
                }
                serde_json::to_vec(index)
            }
        };
        let again = Document::parse(&written.expect("it can be written"), declared).expect("it is still a document");
        match (document, again) {
            (Document::Manifest(one), Document::Manifest(other)) => assert_eq!(one, other),
            (Document::Index(one), Document::Index(other)) => assert_eq!(one, other),
            _ => panic!("it has become another kind of document"),
        }
    }
    for layers in 0..3 {
        if let Ok(parsed) = ParsedConfig::parse(bytes, layers) {
            assert_eq!(parsed.diff_ids.len(), layers);
        }
    }
}

/// A reference that is accepted is written as something that means the same.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference));
    assert_eq!(reference.familiar().parse::<Reference>().as_ref(), Ok(&reference));
    assert!(!reference.repository().contains("..") && !reference.repository().starts_with('/'));
    assert!(!reference.registry().contains('/'));
}

/// The entries of an archive: no more data comes out than went in.
pub fn tar(bytes: &[u8]) {
    let bytes = with_checksums(bytes);
    let mut reader = Reader::new(&bytes[..]);
    let mut buffer = [0; 4096];
    let mut total = 0;
    while let Ok(Some(entry)) = reader.next() {
        let mut data = 0;
        // Every other file is skipped rather than read.
        while entry.mode & 1 == 0 {
            match reader.read_data(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => data += read,
            }
        }
        total += data;
        if let Some(segments) = &entry.sparse {
            assert!(segments.iter().all(|(offset, length)| offset + length <= entry.size));
        }
    }
    assert!(total <= bytes.len());
}

/// A layer, compressed or not, into a directory beside which there are things that must stay as they are.
pub fn layer(bytes: &[u8]) {
    let world = tempfile::tempdir().expect("a directory can be made");
    let path = |name: &str| world.path().join(name);
    for name in ["root", "trash", "outside"] {
        fs::create_dir(path(name)).expect("a directory can be made");
    }
    fs::write(path("outside/victim"), "victim").expect("a file can be written");
    let before = fs::symlink_metadata(path("outside/victim")).expect("it is there");
    let limits = Limits { bytes: 1 << 20, entries: 500, names: 64 << 10 };
    let plain = is_plain(bytes).then(|| with_checksums(bytes));
    if let Ok(input) = Decompressor::new(plain.as_deref().unwrap_or(bytes)) {
        let root = File::open(path("root")).expect("it can be opened");
        let trash = File::open(path("trash")).expect("it can be opened");
        drop(unpack(input.take(4 << 20), root.as_fd(), trash.as_fd(), &limits));
    }
    let after = fs::symlink_metadata(path("outside/victim")).expect("it is still there");
    let describe = |metadata: &fs::Metadata| {
        (metadata.ino(), metadata.nlink(), metadata.mode(), metadata.uid(), metadata.ctime(), metadata.ctime_nsec())
    };
    assert_eq!(describe(&before), describe(&after), "the victim was touched");
    assert_eq!(fs::read_dir(path("outside")).expect("it can be listed").count(), 1, "something came out");
    assert_eq!(fs::read_dir(world.path()).expect("it can be listed").count(), 3, "something came out");
    assert_eq!(fs::read_dir(path("trash")).expect("it can be listed").count(), 0, "something was left in the trash");
    image::remove::remove_path(&path("root")).expect("whatever was made can be removed");
}

fn is_plain(bytes: &[u8]) -> bool {
    !matches!(bytes, [0x1f, 0x8b, ..] | [0x28, 0xb5, ..])
}

/// Puts right the checksums of what looks like headers, so that what is behind them is reached.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}
