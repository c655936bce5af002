//! A streaming reader of tar archives that trusts nothing in them.
//!
//! Layers are tar archives (OCI image specification, "Image Layer Filesystem Changeset") in any of the dialects in
//! use: old, ustar, GNU (long names, sparse files, base-256 numbers) and pax. The reader holds one header block and the
//! extension records of one entry in memory, whatever sizes the archive claims; it knows no file system.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// Most bytes of extension data (a long name, pax records, a sparse map) of one entry.
const MAX_EXTENSION: u64 = 1024 * 1024;
/// Most segments of a sparse file.
const MAX_SEGMENTS: usize = 65_536;
/// Most bytes that one member can have: lengths of files are signed numbers.
const MAX_DATA: u64 = i64::MAX as u64;

/// What kind of file an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One member of an archive, with the extension headers applied.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// The name as it stands in the archive: not checked, not normalised.
    pub(crate) path: Vec<u8>,
    /// The target of a link: not checked, not normalised.
    pub(crate) link: Vec<u8>,
    /// The permission bits, setuid, setgid and sticky included.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    /// Length of the file that is made (not of the data in the archive, for sparse files).
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data lies in a sparse file, as (offset, length).
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive's bytes could not be had.
    #[error("cannot read the archive: {0}")]
    Read(#[source] io::Error),
    /// It ends in the middle of an entry.
    #[error("the archive is cut short")]
    Truncated,
    /// A header's checksum is wrong: this is not a tar archive, or it is damaged.
    #[error("the archive has a header with a wrong checksum")]
    Checksum,
    /// A header or extension record makes no sense.
    #[error("the archive has an invalid header: {0}")]
    Header(&'static str),
    /// The extensions of an entry are larger than any honest one's.
    #[error("the archive has an entry with extension headers of {0} bytes, at most {MAX_EXTENSION} are accepted")]
    Extension(u64),
}

fn read_error(error: io::Error) -> TarError {
    if error.kind() == io::ErrorKind::UnexpectedEof { TarError::Truncated } else { TarError::Read(error) }
}

/// Reads entries one after another; the data of the current one is read with [`Reader::read_data`].
#[derive(Debug)]
pub(crate) struct Reader<R> {
    inner: R,
    /// Bytes of the current entry's data that were not read yet.
    data: u64,
    /// Bytes between the end of the data and the next header.
    padding: u64,
    /// Bytes of extension data that the entry being read may still have.
    extension: u64,
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

#[derive(Default)]
struct PaxSparse {
    is_version_1: bool,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    map: Option<Vec<u64>>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, data: 0, padding: 0, extension: MAX_EXTENSION }
    }

    /// Returns the underlying reader, to read what follows the end of the archive.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// Moves to the next entry, skipping what was not read of the current one.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        // Any number of extension headers may stand before an entry; it is their sum that counts.
        self.extension = MAX_EXTENSION;
        loop {
            self.skip(self.data + self.padding)?;
            (self.data, self.padding) = (0, 0);
            let Some(block) = self.read_header()? else {
                return Ok(None);
            };
            let size = number(&block[124..136])?;
            let kind = match block[156] {
                b'L' => {
                    extensions.path = Some(until_nul(&self.read_extension(size)?).to_vec());
                    continue;
                }
                b'K' => {
                    extensions.link = Some(until_nul(&self.read_extension(size)?).to_vec());
                    continue;
                }
                b'x' => {
                    let records = self.read_extension(size)?;
                    extensions.apply_pax(&records)?;
                    continue;
                }
                // Global records are about the archive, as git writes them, and unknown types about something that
                // makes no file. Docker passes over both.
                b'g' => {
                    self.set_data(size)?;
                    continue;
                }
                0 | b'0' | b'7' | b'S' => Kind::Regular,
                b'1' => Kind::HardLink,
                b'2' => Kind::Symlink,
                b'3' => Kind::CharacterDevice,
                b'4' => Kind::BlockDevice,
                b'5' => Kind::Directory,
                b'6' => Kind::Fifo,
                _ => {
                    self.set_data(extensions.size.unwrap_or(size))?;
                    extensions = Extensions::default();
                    continue;
                }
            };
            return self.finish_entry(&block, kind, size, extensions).map(Some);
        }
    }

    /// Reads from the current entry's data. Returns 0 at its end.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let wanted = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            match self.inner.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => {
                    self.data -= read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
    }

    fn finish_entry(
        &mut self,
        block: &[u8; BLOCK],
        kind: Kind,
        header_size: u64,
        extensions: Extensions,
    ) -> Result<Entry, TarError> {
        let mut path = header_path(block);
        let mut kind = kind;
        // Archives from before ustar mark directories by a slash.
        if matches!(block[156], 0 | b'0') && path.ends_with(b"/") && extensions.path.is_none() {
            kind = Kind::Directory;
        }
        if let Some(long) = extensions.path {
            path = long;
        }
        let link = extensions.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
        let stored = extensions.size.unwrap_or(header_size);
        let mut size = stored;
        let mut sparse = None;
        if kind == Kind::Regular {
            self.set_data(stored)?;
            if block[156] == b'S' {
                sparse = Some(self.read_gnu_sparse(block)?);
                size = number(&block[483..495])?;
            } else if extensions.sparse.is_version_1 {
                sparse = Some(self.read_pax_sparse_map()?);
            } else if let Some(map) = &extensions.sparse.map {
                if map.len() % 2 != 0 {
                    return Err(TarError::Header("a sparse map of odd length"));
                }
                sparse = Some(map.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
            }
            if let Some(segments) = &sparse {
                if let Some(name) = extensions.sparse.name {
                    path = name;
                }
                if let Some(real_size) = extensions.sparse.real_size {
                    size = real_size;
                }
                check_segments(segments, size, self.data)?;
            }
        } else {
            // Entries that are all header have no data, whatever their size says (as Go's reader has it).
            size = 0;
        }
        let id = |extended: Option<u64>, field: &[u8]| -> Result<u32, TarError> {
            let id = match extended {
                Some(id) => id,
                None => number(field)?,
            };
            // The highest id means "leave as it is" to chown(2).
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or(TarError::Header("a user or group id out of range"))
        };
        let device = |field: &[u8]| -> Result<u32, TarError> {
            if !matches!(kind, Kind::CharacterDevice | Kind::BlockDevice) {
                return Ok(0);
            }
            u32::try_from(number(field)?).map_err(|_| TarError::Header("a device number out of range"))
        };
        Ok(Entry {
            kind,
            mode: u32::try_from(number(&block[100..108])? & 0o7777).expect("twelve bits fit"),
            uid: id(extensions.uid, &block[108..116])?,
            gid: id(extensions.gid, &block[116..124])?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => (signed_number(&block[136..148])?, 0),
            },
            device: (device(&block[329..337])?, device(&block[337..345])?),
            path,
            link,
            size,
            xattrs: extensions.xattrs,
            sparse,
        })
    }

    fn set_data(&mut self, size: u64) -> Result<(), TarError> {
        if size > MAX_DATA {
            return Err(TarError::Header("a size out of range"));
        }
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        if !self.fill(&mut block)? || block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let stored = number(&block[148..156])?;
        // The sum counts its own field as blanks.
        let field = |index: usize, byte: u8| if (148..156).contains(&index) { b' ' } else { byte };
        let unsigned: u64 = block.iter().enumerate().map(|(i, b)| u64::from(field(i, *b))).sum();
        let signed: i64 = block.iter().enumerate().map(|(i, b)| i64::from(field(i, *b).cast_signed())).sum();
        // Some old writers summed signed characters.
        if stored != unsigned && i64::try_from(stored).ok() != Some(signed) {
            return Err(TarError::Checksum);
        }
        Ok(Some(block))
    }

    /// Fills a block, or returns false when the input ends before its first byte.
    fn fill(&mut self, block: &mut [u8]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        Ok(true)
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let Some(left) = self.extension.checked_sub(size) else {
            return Err(TarError::Extension(size.saturating_add(MAX_EXTENSION - self.extension)));
        };
        self.extension = left;
        self.set_data(size)?;
        let mut bytes = vec![0; usize::try_from(size).expect("bounded above")];
        self.inner.read_exact(&mut bytes).map_err(read_error)?;
        self.data = 0;
        Ok(bytes)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        while count > 0 {
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len());
            match self.inner.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => count -= read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        Ok(())
    }

    /// Reads the map of a GNU sparse file: four pairs in the header, more in blocks that follow it.
    fn read_gnu_sparse(&mut self, block: &[u8; BLOCK]) -> Result<Vec<(u64, u64)>, TarError> {
        let mut segments = Vec::new();
        let mut add = |table: &[u8]| -> Result<(), TarError> {
            for pair in table.chunks_exact(24) {
                if pair[0] == 0 {
                    break;
                }
                segments.push((number(&pair[..12])?, number(&pair[12..])?));
            }
            if segments.len() > MAX_SEGMENTS { Err(TarError::Header("too many sparse segments")) } else { Ok(()) }
        };
        add(&block[386..482])?;
        let mut extended = block[482] != 0;
        while extended {
            let mut more = [0; BLOCK];
            if !self.fill(&mut more)? {
                return Err(TarError::Truncated);
            }
            if more[0] == 0 {
                return Err(TarError::Header("an empty sparse extension"));
            }
            add(&more[..504])?;
            extended = more[504] != 0;
        }
        Ok(segments)
    }

    /// Reads the map of a pax 1.0 sparse file: decimal lines at the start of the data, padded to a block.
    fn read_pax_sparse_map(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = None;
        let mut digits = Vec::new();
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            if self.data < BLOCK as u64 {
                return Err(TarError::Header("a sparse map beyond its data"));
            }
            self.inner.read_exact(&mut block).map_err(read_error)?;
            self.data -= BLOCK as u64;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Err(TarError::Header("a sparse map with an endless number"));
                    }
                    continue;
                }
                let value = decimal(&digits).ok_or(TarError::Header("a sparse map with no number"))?;
                digits.clear();
                if wanted.is_none() {
                    let count = usize::try_from(value).unwrap_or(usize::MAX);
                    if count > MAX_SEGMENTS {
                        return Err(TarError::Header("too many sparse segments"));
                    }
                    wanted = Some(count * 2);
                } else {
                    numbers.push(value);
                }
            }
        }
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

impl Extensions {
    /// Applies pax records: `<length> <key>=<value>\n`, the length counting itself.
    fn apply_pax(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        while !records.is_empty() {
            let malformed = TarError::Header("a malformed pax record");
            let Some(space) = records.iter().take(20).position(|b| *b == b' ') else {
                return Err(malformed);
            };
            let length = decimal(&records[..space]).and_then(|length| usize::try_from(length).ok());
            let Some(length) = length.filter(|length| *length > space + 1 && *length <= records.len()) else {
                return Err(malformed);
            };
            let (record, rest) = records.split_at(length);
            records = rest;
            let Some((b'\n', record)) = record[space + 1..].split_last() else {
                return Err(malformed);
            };
            let Some(equals) = record.iter().position(|b| *b == b'=') else {
                return Err(malformed);
            };
            self.apply_record(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    fn apply_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let text = |what: &'static str| {
            if value.contains(&0) { Err(TarError::Header(what)) } else { Ok(Some(value.to_vec())) }
        };
        let count = |what: &'static str| decimal(value).map(Some).ok_or(TarError::Header(what));
        match key {
            // An empty value takes a record back.
            b"path" if value.is_empty() => self.path = None,
            b"linkpath" if value.is_empty() => self.link = None,
            b"path" => self.path = text("a NUL in a path")?,
            b"linkpath" => self.link = text("a NUL in a link")?,
            b"size" => self.size = count("a pax size that is no number")?,
            b"uid" => self.uid = count("a pax uid that is no number")?,
            b"gid" => self.gid = count("a pax gid that is no number")?,
            b"mtime" => self.mtime = Some(pax_time(value).ok_or(TarError::Header("a pax time that is no number"))?),
            b"GNU.sparse.major" => self.sparse.is_version_1 = value == b"1",
            b"GNU.sparse.name" => self.sparse.name = text("a NUL in a path")?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = count("a sparse size that is no number")?;
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let number = decimal(value).ok_or(TarError::Header("a sparse map with no number"))?;
                self.sparse.push(number)?;
            }
            b"GNU.sparse.map" => {
                for number in value.split(|b| *b == b',').filter(|number| !number.is_empty()) {
                    let number = decimal(number).ok_or(TarError::Header("a sparse map with no number"))?;
                    self.sparse.push(number)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && !name.is_empty()
                    && !name.contains(&0)
                {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

impl PaxSparse {
    fn push(&mut self, number: u64) -> Result<(), TarError> {
        let map = self.map.get_or_insert_default();
        map.push(number);
        if map.len() > 2 * MAX_SEGMENTS { Err(TarError::Header("too many sparse segments")) } else { Ok(()) }
    }
}

/// Segments must ascend without overlap, fit the file, and be all of the data.
fn check_segments(segments: &[(u64, u64)], size: u64, data: u64) -> Result<(), TarError> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for (offset, length) in segments {
        let next = offset.checked_add(*length).filter(|next| *next <= size);
        match next {
            Some(next) if *offset >= end => end = next,
            _ => return Err(TarError::Header("a sparse map that contradicts itself")),
        }
        sum += length;
    }
    if sum == data { Ok(()) } else { Err(TarError::Header("a sparse map that contradicts its data")) }
}

fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    // Only ustar proper has the prefix; GNU ("ustar  ") has times and sparse maps in its place.
    let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads a field that cannot be negative.
fn number(field: &[u8]) -> Result<u64, TarError> {
    u64::try_from(signed_number(field)?).map_err(|_| TarError::Header("a negative number"))
}

/// Reads octal digits among blanks, or a base-256 number (first bit set, GNU).
fn signed_number(field: &[u8]) -> Result<i64, TarError> {
    let out_of_range = || TarError::Header("a number out of range");
    if field[0] & 0x80 != 0 {
        // Two's complement, of which the marker bit is part when the number is negative.
        let first = if field[0] & 0x40 == 0 { field[0] & 0x7f } else { field[0] };
        return field[1..].iter().try_fold(i64::from(first.cast_signed()), |value, byte| {
            let value = value.checked_mul(256).ok_or_else(out_of_range)?;
            Ok(value + i64::from(*byte))
        });
    }
    let digits = until_nul(field).trim_ascii();
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(TarError::Header("a number that is not octal"));
        }
        value = value * 8 + i64::from(digit - b'0');
        if value > i64::MAX / 8 {
            return Err(out_of_range());
        }
    }
    Ok(value)
}

/// Reads `[-]seconds[.fraction]`.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: u8, path: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(u64::from(u32::MAX - 1));
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn archive(parts: &[(&tar::Header, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (header, data) in parts {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length += 1;
            }
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        bytes
    }

    #[test]
    fn plain_entries_and_their_data_are_read() {
        let bytes = archive(&[(&header(b'5', "d/", 0), b""), (&header(b'0', "d/f", 5), b"hello")]);
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(reader.next().unwrap().unwrap().kind, Kind::Directory);
        let entry = reader.next().unwrap().unwrap();
        assert_eq!((entry.kind, entry.size, entry.mode), (Kind::Regular, 5, 0o4755));
        assert_eq!((entry.uid, entry.gid, entry.mtime), (1000, u32::MAX - 1, (1_700_000_000, 0)));
        let mut buffer = [0; 64];
        assert_eq!(reader.read_data(&mut buffer).unwrap(), 5);
        assert_eq!(reader.read_data(&mut buffer).unwrap(), 0);
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn pax_records_override_the_header() {
        let name = format!("{}/file", "n".repeat(300));
        let records = pax(&[
            ("path", name.as_bytes()),
            ("size", b"3"),
            ("mtime", b"12.5"),
            ("uid", b"70000"),
            ("SCHILY.xattr.security.capability", b"\x01\x00\n="),
        ]);
        let bytes =
            archive(&[(&header(b'x', "pax", records.len() as u64), &records), (&header(b'0', "short", 0), b"abc")]);
        let entry = Reader::new(&bytes[..]).next().unwrap().unwrap();
        assert_eq!(entry.path, name.as_bytes());
        assert_eq!((entry.size, entry.mtime, entry.uid), (3, (12, 500_000_000), 70_000));
        assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), b"\x01\x00\n=".to_vec())]);
    }

    #[test]
    fn sparse_files_have_a_map() {
        let mut gnu = header(b'S', "sparse", 4);
        gnu.as_gnu_mut().unwrap().sparse[0].set_offset(1000);
        gnu.as_gnu_mut().unwrap().sparse[0].set_length(4);
        gnu.as_gnu_mut().unwrap().set_real_size(5000);
        gnu.set_cksum();
        let bytes = archive(&[(&gnu, b"data")]);
        let entry = Reader::new(&bytes[..]).next().unwrap().unwrap();
        assert_eq!((entry.size, entry.sparse), (5000, Some(vec![(1000, 4)])));

        let mut data = b"1\n1000\n4\n".to_vec();
        data.resize(BLOCK, 0);
        data.extend_from_slice(b"data");
        let records = pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", b"5000"),
        ]);
        let bytes = archive(&[
            (&header(b'x', "pax", records.len() as u64), &records),
            (&header(b'0', "GNUSparseFile.1/real", data.len() as u64), &data),
        ]);
        let mut reader = Reader::new(&bytes[..]);
        let entry = reader.next().unwrap().unwrap();
        assert_eq!((entry.path.as_slice(), entry.size, entry.sparse), (&b"real"[..], 5000, Some(vec![(1000, 4)])));
        let mut buffer = [0; 16];
        assert_eq!(reader.read_data(&mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"data");
    }

    #[test]
    fn lies_are_refused() {
        let mut bad_sum = header(b'0', "f", 0);
        bad_sum.as_mut_bytes()[0] = b'g';
        assert!(matches!(Reader::new(&archive(&[(&bad_sum, b"")])[..]).next(), Err(TarError::Checksum)));
        let cut = archive(&[(&header(b'0', "f", 100_000), b"x")]);
        let mut reader = Reader::new(&cut[..]);
        reader.next().unwrap().unwrap();
        assert!(matches!(reader.next(), Err(TarError::Truncated)));
        for kind in [b'x', b'L', b'K'] {
            let huge = archive(&[(&header(kind, "x", 1 << 40), b"")]);
            assert!(matches!(Reader::new(&huge[..]).next(), Err(TarError::Extension(_))));
        }
        for records in [&b"5 a=b\n"[..], b"99 a=b\n", b"6 ab\n\n", b"x a=b\n", b"0 \n", b"7 size=\n", b"11 size=-1\n"] {
            let bytes = archive(&[(&header(b'x', "x", records.len() as u64), records), (&header(b'0', "f", 0), b"")]);
            assert!(matches!(Reader::new(&bytes[..]).next(), Err(TarError::Header(_))), "{records:?}");
        }
        assert!(matches!(Reader::new(&[1_u8; 100][..]).next(), Err(TarError::Truncated)));
    }

    #[test]
    fn numbers_in_every_notation() {
        assert_eq!(signed_number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(signed_number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(signed_number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(signed_number(&[0x80, 0, 0, 0, 0, 0, 1, 0]).unwrap(), 256);
        assert_eq!(signed_number(&[0xff; 12]).unwrap(), -1);
        assert!(
            signed_number(&[0x80 | 0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err()
        );
        assert!(signed_number(b"0000689\0").is_err());
        assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut reader = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next() {}
        }

        #[test]
        fn any_header_with_a_valid_sum_ends_in_a_result(
            fields in proptest::collection::vec(any::<u8>(), BLOCK),
            kind in proptest::sample::select(b"01234567SxgLK\0".to_vec()),
            data in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes().copy_from_slice(&fields);
            header.as_mut_bytes()[156] = kind;
            header.set_size(data.len() as u64);
            header.set_cksum();
            let bytes = archive(&[(&header, &data)]);
            let mut reader = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
