//! Decompresses layers: gzip, zstd or nothing, told apart by their first bytes.
//!
//! The media type is not asked: images exist whose layers are not compressed as declared, and Docker reads them too.
//! The digest has the last word.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Reads what a compressed stream expands to.
#[expect(clippy::large_enum_variant, reason = "there is one per layer in work")]
pub(crate) enum Decompressor<R: Read> {
    Plain(Input<R>),
    Gzip(MultiGzDecoder<Input<R>>),
    Zstd(zstd::Decoder<'static, Input<R>>),
}

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes and chooses. An empty stream is plain.
    pub(crate) fn new(mut inner: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(8);
        inner.by_ref().take(8).read_to_end(&mut start)?;
        let unsupported = |name: &str| {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("the layer is compressed with {name}")))
        };
        let kind = match start.as_slice() {
            [0x1f, 0x8b, ..] => Self::Gzip as fn(_) -> _,
            // A frame, or a skippable frame before it; the latter is the start of no archive.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let input = BufReader::with_capacity(128 * 1024, Cursor::new(start).chain(inner));
                return Ok(Self::Zstd(zstd::Decoder::with_buffer(input)?));
            }
            [0xfd, b'7', b'z', b'X', b'Z', ..] => return unsupported("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => return unsupported("bzip2"),
            _ => {
                return Ok(Self::Plain(BufReader::with_capacity(128 * 1024, Cursor::new(start).chain(inner))));
            }
        };
        let input = BufReader::with_capacity(128 * 1024, Cursor::new(start).chain(inner));
        Ok(kind(MultiGzDecoder::new(input)))
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(input) => input.read(buffer),
            Self::Zstd(input) => input.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn expand(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut expanded = Vec::new();
        Decompressor::new(bytes)?.read_to_end(&mut expanded)?;
        Ok(expanded)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_expands_to_the_same() {
        let content = b"content ".repeat(10_000);
        assert_eq!(expand(&content).unwrap(), content);
        assert_eq!(expand(&gzip(&content)).unwrap(), content);
        assert_eq!(expand(&zstd::encode_all(&content[..], 1).unwrap()).unwrap(), content);
        // Several members and frames, as pigz, estargz and zstd:chunked write.
        let (first, second) = content.split_at(1234);
        assert_eq!(expand(&[gzip(first), gzip(second)].concat()).unwrap(), content);
        let frames = [
            zstd::encode_all(first, 1).unwrap(),
            vec![0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2],
            zstd::encode_all(second, 1).unwrap(),
        ];
        assert_eq!(expand(&frames.concat()).unwrap(), content);
        assert_eq!(expand(b"").unwrap(), b"");
        assert_eq!(expand(b"abc").unwrap(), b"abc");
    }

    #[test]
    fn damage_and_unknown_compressions_are_errors() {
        let content = b"content ".repeat(1000);
        let whole = gzip(&content);
        assert!(expand(&whole[..whole.len() - 9]).is_err());
        assert!(expand(&[&whole[..], b"garbage"].concat()).is_err());
        assert!(expand(b"\xfd7zXZ\0\0\0\0").unwrap_err().to_string().contains("xz"));
        assert!(expand(b"BZh91AY&SY").unwrap_err().to_string().contains("bzip2"));
    }
}
