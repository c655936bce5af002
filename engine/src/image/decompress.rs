//! Decompresses layers and archives: gzip, zstd, xz, bzip2 or nothing, told apart by their first bytes.
//!
//! The media type is not asked: images exist whose layers are not compressed as declared, and Docker reads them too.
//! The digest has the last word.
//!
//! A zstd frame says how much of what it has expanded must be kept in memory (RFC 8878, section 3.1.1.1.2). Usual images
//! need 8 MiB at most; those that need more take turns, and more than 128 MiB is refused, as by `zstd -d`. What is
//! compressed with xz says so only on the way, and takes turns too.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::{Action, Status, XzStream};

type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Logarithm of the largest window of which any number may be in use: what RFC 8878 recommends every decoder to have.
const USUAL_WINDOW: u32 = 23;
/// Logarithm of the largest window.
const LARGEST_WINDOW: u32 = 27;
/// How much of a stream tells what it is: the longest header of a zstd frame.
const PEEKED: u64 = 18;

/// Held while a stream with an unusually large window is read.
static LARGE_WINDOW: Mutex<()> = Mutex::new(());

fn large_window() -> MutexGuard<'static, ()> {
    LARGE_WINDOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads what a compressed stream expands to.
#[expect(clippy::large_enum_variant, reason = "there is one per layer in work")]
pub(crate) enum Decompressor<R: Read> {
    Plain(Input<R>),
    Gzip(MultiGzDecoder<Input<R>>),
    Zstd(
        zstd::Decoder<'static, Input<R>>,
        #[expect(dead_code, reason = "held for its Drop")] Option<MutexGuard<'static, ()>>,
    ),
    Xz(Xz<Input<R>>, #[expect(dead_code, reason = "held for its Drop")] MutexGuard<'static, ()>),
    Bzip2(MultiBzDecoder<Input<R>>),
}

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes and chooses. An empty stream is plain.
    pub(crate) fn new(mut inner: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(usize::try_from(PEEKED).expect("it is small"));
        inner.by_ref().take(PEEKED).read_to_end(&mut start)?;
        // What stands behind a skippable frame is not known yet.
        let usual = zstd_window(&start).is_some_and(|window| window <= 1 << USUAL_WINDOW);
        let kind = Kind::of(&start);
        let input = BufReader::with_capacity(128 * 1024, Cursor::new(start).chain(inner));
        Ok(match kind {
            Kind::Plain => Self::Plain(input),
            Kind::Gzip => Self::Gzip(MultiGzDecoder::new(input)),
            Kind::Zstd => {
                let turn = (!usual).then(large_window);
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(if usual { USUAL_WINDOW } else { LARGEST_WINDOW })?;
                Self::Zstd(decoder, turn)
            }
            Kind::Xz => {
                let turn = large_window();
                Self::Xz(Xz { stream: XzStream::new_mem_limit(true, 1 << (LARGEST_WINDOW - 10)), input }, turn)
            }
            Kind::Bzip2 => Self::Bzip2(MultiBzDecoder::new(input)),
        })
    }
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Kind {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame before it; the latter is the start of no archive.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => Self::Bzip2,
            _ => Self::Plain,
        }
    }
}

/// Reads what is compressed with xz, in any number of streams.
pub(crate) struct Xz<R> {
    stream: XzStream,
    input: R,
}

impl<R: BufRead> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let compressed = self.input.fill_buf()?;
            let ended = compressed.is_empty();
            let done = self.stream.process(compressed, buffer, if ended { Action::Finish } else { Action::Run })?;
            self.input.consume(done.bytes_consumed);
            if done.bytes_produced > 0 || buffer.is_empty() || done.status == Status::StreamEnd {
                return Ok(done.bytes_produced);
            }
            if ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(input) => input.read(buffer),
            Self::Zstd(input, _) => input.read(buffer),
            Self::Xz(input, _) => input.read(buffer),
            Self::Bzip2(input) => input.read(buffer),
        }
    }
}

/// What an archive may expand to: this much, and so many times what was read of it. Honest ones shrink to a tenth, seldom
/// to a hundredth.
const EXPANDED_AT_LEAST: u64 = 1 << 30;
const EXPANSION: u64 = 250;

/// Ends a stream that expands beyond measure. `compressed` says how much was read of what it was compressed to.
pub(super) struct Bounded<R, C> {
    inner: R,
    count: u64,
    compressed: C,
}

impl<R: Read, C: Fn() -> u64> Bounded<R, C> {
    pub(super) fn new(inner: R, compressed: C) -> Self {
        Self { inner, count: 0, compressed }
    }
}

impl<R: Read, C: Fn() -> u64> Read for Bounded<R, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        let limit = EXPANDED_AT_LEAST + (self.compressed)().saturating_mul(EXPANSION);
        if self.count > limit {
            let message = format!("it expands to more than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(read)
    }
}

/// Reads what a file expands to, as far as that is not beyond measure.
pub(crate) fn expand(file: File) -> io::Result<impl Read> {
    let length = file.metadata()?.len();
    Ok(Bounded::new(Decompressor::new(file)?, move || length))
}

/// Reads the window size from the header of a zstd frame (RFC 8878, section 3.1.1.1), if it starts with one.
fn zstd_window(start: &[u8]) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = start else { return None };
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let byte = u64::from(*rest.first()?);
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // The whole content is the window.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let field = rest.get(dictionary..dictionary + length)?;
    let size = field.iter().rev().fold(0_u64, |size, byte| size << 8 | u64::from(*byte));
    Some(if length == 2 { size + 256 } else { size })
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
    fn windows_are_read_from_frames() {
        let window = |log: u32, pledged: Option<u64>| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(log)).unwrap();
            encoder.set_pledged_src_size(pledged).unwrap();
            encoder.include_contentsize(true).unwrap();
            encoder.write_all(&vec![0; usize::try_from(pledged.unwrap_or(100)).unwrap()]).unwrap();
            zstd_window(&encoder.finish().unwrap())
        };
        for log in [10, 17, 23, 24, 27] {
            assert_eq!(window(log, None), Some(1 << log));
        }
        for size in [0, 1, 255, 256, 300, 65_791, 65_792, 1_000_000] {
            assert_eq!(window(20, Some(size)), Some(size));
        }
        assert_eq!(zstd_window(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]), None);
        assert_eq!(zstd_window(&[0x28, 0xb5, 0x2f, 0xfd]), None);
        assert_eq!(zstd_window(&[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 1, 2]), None);
    }

    #[test]
    fn large_windows_are_read_and_huge_ones_refused() {
        let frame = |log: u32| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(log)).unwrap();
            encoder.write_all(b"content").unwrap();
            encoder.finish().unwrap()
        };
        for log in [23, 24, 27] {
            assert_eq!(expand(&frame(log)).unwrap(), b"content");
        }
        assert!(expand(&frame(28)).is_err());
        // A later frame has no larger one than the first one let expect.
        assert!(expand(&[frame(20), frame(26)].concat()).is_err());
        // Whoever has had a turn has left it.
        assert_eq!(expand(&frame(27)).unwrap(), b"content");
    }

    #[test]
    fn damage_is_an_error() {
        let content = b"content ".repeat(1000);
        let whole = gzip(&content);
        assert!(expand(&whole[..whole.len() - 9]).is_err());
        assert!(expand(&[&whole[..], b"garbage"].concat()).is_err());
        assert!(expand(b"\xfd7zXZ\0\0\0\0").is_err());
        assert!(expand(b"BZh91AY&SY").is_err());
        for whole in [XZ, BZIP2] {
            assert!(expand(&whole[..whole.len() - 1]).is_err());
            assert!(expand(&[whole, b"garbage"].concat()).is_err());
        }
    }

    /// "content\n", as `xz` and `bzip2` compress it.
    const XZ: &[u8] = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\x01\x00\x07content\x0a\x00\x16\x1a\xfd\xa1\x06\xce\xc3@\x00\x01 \x08\xbb\x19\xd9\xbb\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ";
    const BZIP2: &[u8] = b"BZh91AY&SY\x06\xd7\xfb\xa4\x00\x00\x00\xc1\x80\x00\x10\x0a\x01\x84\x00 \x00\x22\x18h0\x01(S\xb0\xbb\x92)\xc2\x84\x806\xbf\xdd ";
    /// The same with a window of 1.5 GiB (`xz --lzma2=dict=1536MiB`).
    const XZ_LARGE: &[u8] = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01%\x00\x00\x00;x{A\x01\x00\x07content\x0a\x00\x16\x1a\xfd\xa1\x06\xce\xc3@\x00\x01 \x08\xbb\x19\xd9\xbb\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ";

    #[test]
    fn what_other_programs_compress_expands() {
        assert_eq!(expand(XZ).unwrap(), b"content\n");
        assert_eq!(expand(&[XZ, XZ].concat()).unwrap(), b"content\ncontent\n");
        assert!(expand(XZ_LARGE).is_err());
        assert_eq!(expand(BZIP2).unwrap(), b"content\n");
        assert_eq!(expand(&[BZIP2, BZIP2].concat()).unwrap(), b"content\ncontent\n");
    }
}
