//! Compresses layers on their way out of the store. The same layer always becomes the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::PathBuf;

use flate2::write::GzEncoder;

use super::blob::{HashedFile, write_volatile};
use super::decompress::Decompressor;
use super::digest::Digest;
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
    /// zstd of a level from 1 to 22.
    Zstd(i32),
}

impl Compression {
    /// What registries and their clients expect: gzip, in its usual level.
    pub const USUAL: Self = Self::Gzip(6);
    /// zstd in its usual level.
    pub const ZSTD: Self = Self::Zstd(3);

    /// Returns the media type of layers in this form.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::None => media::OCI_LAYER,
            Self::Gzip(_) => media::OCI_LAYER_GZIP,
            Self::Zstd(_) => media::OCI_LAYER_ZSTD,
        }
    }

    /// Returns whether a layer of a media type has this form, of whatever level.
    pub(super) fn is_of(self, media_type: &str) -> bool {
        Dialect::Oci.layer(media_type) == self.media_type()
    }

    fn name(self) -> String {
        match self {
            Self::None => "plain".to_owned(),
            Self::Gzip(level) => format!("gzip-{level}"),
            Self::Zstd(level) => format!("zstd-{level}"),
        }
    }
}

impl Store {
    /// Returns a layer whose blob is its own diff id in this form. What was compressed before is not compressed again, as
    /// long as an image has it. The caller holds a lease.
    pub(crate) fn layer_as(&self, diff_id: &Digest, compression: Compression) -> Result<Descriptor, StoreError> {
        if compression == Compression::None {
            return Ok(Descriptor::new(media::OCI_LAYER, *diff_id, self.blob_length(diff_id)?));
        }
        let record = self.compressed().join(format!("{}-{}", diff_id.hex(), compression.name()));
        let known = fs::read_to_string(&record).ok().and_then(|text| text.parse::<Digest>().ok());
        let digest = if let Some(digest) = known.filter(|digest| self.has_blob(digest)) {
            digest
        } else {
            let digest = self.compress(diff_id, compression)?;
            let directory = self.compressed();
            make_directory(&directory).map_err(io_error("create", &directory))?;
            let text = digest.to_string();
            write_volatile(&self.temporary(), &record, text.as_bytes()).map_err(io_error("write", &record))?;
            digest
        };
        Ok(Descriptor::new(compression.media_type(), digest, self.blob_length(&digest)?))
    }

    /// Returns a layer in this form, whatever form it has; one that has it already stays as it is.
    pub(crate) fn layer_in(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        compression: Compression,
    ) -> Result<Descriptor, StoreError> {
        if compression.is_of(&layer.media_type) {
            return Ok(layer.clone());
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

    fn compress(&self, diff_id: &Digest, compression: Compression) -> Result<Digest, StoreError> {
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
        let written = match compression {
            Compression::None => io::copy(&mut plain, &mut out).map(drop),
            Compression::Gzip(level) => {
                let mut encoder = GzEncoder::new(&mut out, flate2::Compression::new(level));
                io::copy(&mut plain, &mut encoder).and_then(|_| encoder.finish()).map(drop)
            }
            Compression::Zstd(level) => zstd::stream::copy_encode(&mut plain, &mut out, level),
        };
        written.map_err(failed())?;
        let (digest, pending) = out.into_inner().map_err(|error| failed()(error.into_error()))?.finish();
        if !self.has_blob(&digest) {
            self.publish_blob(pending, &digest)?;
        }
        Ok(digest)
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
                let blob = File::open(store.blob_path(&layer.digest)).unwrap();
                let mut plain = Vec::new();
                io::copy(&mut Decompressor::new(blob).unwrap(), &mut plain).unwrap();
                assert!(plain == content, "{compression:?}");
                found.push(layer);
            }
            assert_eq!(found[0], found[1]);
        }
    }
}
