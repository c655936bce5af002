//! Compresses layers on their way out of the store. The same layer always becomes the same bytes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::PathBuf;

use flate2::write::GzEncoder;

use super::blob::{HashedFile, write_volatile};
use super::decompress::Decompressor;
use super::digest::Digest;
use super::estargz;
use super::manifest::{Descriptor, Dialect, media};
use super::store::{Store, StoreError, io_error};
use crate::root::make_directory;

/// In what form a layer that was made here is given away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// gzip of a level from 0 to 9.
    Gzip(u32),
    /// eStargz, with gzip of a level from 0 to 9. Such a layer has a diff id of its own.
    Estargz(u32),
    /// zstd of a level from 1 to 22.
    Zstd(i32),
}

/// A layer in the form in which it is given away.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Given {
    pub(crate) descriptor: Descriptor,
    /// What it expands to.
    pub(crate) diff_id: Digest,
}

impl Compression {
    /// What registries and their clients expect: gzip, in its usual level.
    pub const USUAL: Self = Self::Gzip(6);
    /// zstd in its usual level.
    pub const ZSTD: Self = Self::Zstd(3);
    /// eStargz in its usual level.
    pub const ESTARGZ: Self = Self::Estargz(6);

    /// Returns the media type of layers in this form.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::None => media::OCI_LAYER,
            Self::Gzip(_) | Self::Estargz(_) => media::OCI_LAYER_GZIP,
            Self::Zstd(_) => media::OCI_LAYER_ZSTD,
        }
    }

    /// Returns whether a layer has this form, of whatever level.
    pub(super) fn is_of(self, layer: &Descriptor) -> bool {
        let has_toc = layer.annotation(estargz::TOC_DIGEST).is_some();
        Dialect::Oci.layer(&layer.media_type) == self.media_type() && (has_toc || !matches!(self, Self::Estargz(_)))
    }

    fn name(self) -> String {
        match self {
            Self::None => "plain".to_owned(),
            Self::Gzip(level) => format!("gzip-{level}"),
            Self::Estargz(level) => format!("estargz-{level}"),
            Self::Zstd(level) => format!("zstd-{level}"),
        }
    }
}

impl Store {
    /// Returns a layer whose blob is its own diff id in this form. What was compressed before is not compressed again, as
    /// long as an image has it. The caller holds a lease.
    pub(crate) fn layer_as(&self, diff_id: &Digest, compression: Compression) -> Result<Given, StoreError> {
        if compression == Compression::None {
            let descriptor = Descriptor::new(media::OCI_LAYER, *diff_id, self.blob_length(diff_id)?);
            return Ok(Given { descriptor, diff_id: *diff_id });
        }
        let record = self.compressed().join(format!("{}-{}", diff_id.hex(), compression.name()));
        let known = fs::read_to_string(&record).ok().and_then(|text| Compressed::parse(&text));
        let compressed = if let Some(known) = known.filter(|known| self.has_blob(&known.blob)) {
            known
        } else {
            let compressed = self.compress(diff_id, compression)?;
            let directory = self.compressed();
            make_directory(&directory).map_err(io_error("create", &directory))?;
            let text = compressed.to_string();
            write_volatile(&self.temporary(), &record, text.as_bytes()).map_err(io_error("write", &record))?;
            compressed
        };
        let (blob, media_type) = (compressed.blob, compression.media_type());
        let mut descriptor = Descriptor::new(media_type, blob, self.blob_length(&blob)?);
        let Some(written) = compressed.estargz else { return Ok(Given { descriptor, diff_id: *diff_id }) };
        descriptor = descriptor
            .with_annotation(estargz::TOC_DIGEST, written.toc.to_string())
            .with_annotation(estargz::PLAIN_SIZE, written.size.to_string());
        // Whoever uses the image here needs what it expands to, and that was not there before.
        self.restore_layer(&descriptor, &written.diff_id)?;
        Ok(Given { descriptor, diff_id: written.diff_id })
    }

    /// Returns a layer in this form, whatever form it has; one that has it already stays as it is.
    pub(crate) fn layer_in(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        compression: Compression,
    ) -> Result<Given, StoreError> {
        if compression.is_of(layer) {
            return Ok(Given { descriptor: layer.clone(), diff_id: *diff_id });
        }
        if !self.has_blob(diff_id) {
            self.decompress(layer, diff_id)?;
        }
        self.layer_as(diff_id, compression)
    }

    /// Stores a layer as it is when it is not compressed.
    fn decompress(&self, layer: &Descriptor, diff_id: &Digest) -> Result<(), StoreError> {
        let blob = layer.digest;
        let failed = |source| StoreError::Read { layer: blob, source };
        let (_, file) = self.blob_file(&blob)?;
        // It was unpacked, so that it is known what it expands to.
        let (actual, pending) = self.take_in(Decompressor::new(file).map_err(failed)?).map_err(failed)?;
        if actual != *diff_id {
            return Err(StoreError::WrongDiffId { layer: blob, expected: *diff_id, actual });
        }
        self.publish_blob(pending, diff_id)
    }

    /// Returns the directory of what is known of compressed layers.
    pub(crate) fn compressed(&self) -> PathBuf {
        self.steps_path().with_file_name("compressed")
    }

    fn compress(&self, diff_id: &Digest, compression: Compression) -> Result<Compressed, StoreError> {
        let path = self.blob_path(diff_id);
        let mut plain = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::MissingBlob { digest: *diff_id });
            }
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let temporary = self.temporary();
        let failed = || io_error("write a file in", &temporary);
        let file = HashedFile::create(&temporary).map_err(io_error("create a file in", &temporary))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        let mut written = None;
        match compression {
            Compression::None => io::copy(&mut plain, &mut out).map(drop),
            Compression::Gzip(level) => {
                let mut encoder = GzEncoder::new(&mut out, flate2::Compression::new(level));
                io::copy(&mut plain, &mut encoder).and_then(|_| encoder.finish()).map(drop)
            }
            Compression::Estargz(level) => {
                estargz::write(&mut plain, level, estargz::CHUNK, &mut out).map(|estargz| written = Some(estargz))
            }
            Compression::Zstd(level) => zstd::stream::copy_encode(&mut plain, &mut out, level),
        }
        .map_err(failed())?;
        let (digest, pending) = out.into_inner().map_err(|error| failed()(error.into_error()))?.finish();
        if !self.has_blob(&digest) {
            self.publish_blob(pending, &digest)?;
        }
        Ok(Compressed { blob: digest, estargz: written })
    }
}

/// What is known of a layer that was compressed.
struct Compressed {
    blob: Digest,
    /// What it is besides, where it is eStargz.
    estargz: Option<estargz::Written>,
}

impl fmt::Display for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.blob)?;
        match &self.estargz {
            Some(written) => write!(f, " {} {} {}", written.diff_id, written.size, written.toc),
            None => Ok(()),
        }
    }
}

impl Compressed {
    /// Reads what was noted of it.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let blob = words.next()?.parse().ok()?;
        let Some(diff_id) = words.next() else { return Some(Self { blob, estargz: None }) };
        let diff_id = diff_id.parse().ok()?;
        let (size, toc) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { blob, estargz: Some(estargz::Written { diff_id, size, toc }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_compressed_once_and_always_alike() {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..200_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        for compression in [Compression::None, Compression::USUAL, Compression::ZSTD] {
            let mut found = Vec::new();
            for name in ["a", "b"] {
                let store = Store::open(&directory.path().join(name)).unwrap();
                let diff_id = store.put_blob(&content).unwrap();
                let layer = store.layer_as(&diff_id, compression).unwrap();
                assert_eq!(store.layer_as(&diff_id, compression).unwrap(), layer);
                let blob = File::open(store.blob_path(&layer.descriptor.digest)).unwrap();
                let mut plain = Vec::new();
                io::copy(&mut Decompressor::new(blob).unwrap(), &mut plain).unwrap();
                assert!(plain == content, "{compression:?}");
                found.push(layer);
            }
            assert_eq!(found[0], found[1]);
        }
    }

    #[test]
    fn a_layer_in_estargz_is_one_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        archive.append_data(&mut header, "file", &b"hello"[..]).unwrap();
        let diff_id = store.put_blob(&archive.into_inner().unwrap()).unwrap();
        let given = store.layer_as(&diff_id, Compression::ESTARGZ).unwrap();
        assert_ne!(given.diff_id, diff_id);
        assert_eq!(fs::read(store.layer_path(&given.diff_id).join("file")).unwrap(), b"hello");
        assert!(given.descriptor.annotation(estargz::TOC_DIGEST).is_some());
        // What is known of it is enough to say it again, and it has this form already.
        assert_eq!(store.layer_as(&diff_id, Compression::ESTARGZ).unwrap(), given);
        let (descriptor, own) = (&given.descriptor, &given.diff_id);
        assert_eq!(store.layer_in(descriptor, own, Compression::ESTARGZ).unwrap(), given);
        assert_eq!(store.layer_in(descriptor, own, Compression::USUAL).unwrap(), given, "it is gzip as well");
        let plain = Descriptor::new(media::OCI_LAYER, diff_id, store.blob_length(&diff_id).unwrap());
        assert_eq!(store.layer_in(&plain, &diff_id, Compression::ESTARGZ).unwrap(), given);
    }
}
