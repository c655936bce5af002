//! The modules that a program in Go is made of, as its compiler wrote them into the section `.go.buildinfo`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::Package;
use super::databases::encoded;

/// What the section begins with.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where the strings begin, in a section of Go 1.18 or younger.
const STRINGS: usize = 32;
/// The flag of such a section.
const INLINE: u8 = 2;
/// The longest section that is read, in bytes.
const LONGEST: usize = 4 << 20;
/// How many sections a file may have.
const SECTIONS: u16 = 1000;

/// Returns the modules of a program; none where it is another kind of file.
pub(super) fn modules(file: &File) -> Vec<Package> {
    let section = build_info(file).ok().flatten();
    section.and_then(|section| packages(&section)).unwrap_or_default()
}

/// Reads the section of an ELF file of 64 bits, little-endian.
fn build_info(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 64];
    match file.read_exact_at(&mut header, 0) {
        // It is shorter than a program.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let table = number(&header[40..48]);
    let size = usize::from(short(&header[58..60]));
    let count = short(&header[60..62]).min(SECTIONS);
    if size < 64 {
        return Ok(None);
    }
    let mut entry = vec![0; size];
    for index in 0..u64::from(count) {
        file.read_exact_at(&mut entry, table.saturating_add(index.saturating_mul(size as u64)))?;
        let (offset, length) = (number(&entry[24..32]), number(&entry[32..40]));
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(LONGEST);
        let mut magic = [0; MAGIC.len()];
        // By what it begins with, since nothing else does.
        if length < STRINGS || file.read_exact_at(&mut magic, offset).is_err() || magic != MAGIC {
            continue;
        }
        let mut section = vec![0; length];
        file.read_exact_at(&mut section, offset)?;
        return Ok(Some(section));
    }
    Ok(None)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn short(bytes: &[u8]) -> u16 {
    u16::from(bytes[0]) | u16::from(bytes[1]) << 8
}

/// Returns the modules that a section tells of, and the standard library.
fn packages(section: &[u8]) -> Option<Vec<Package>> {
    if section.get(15)? & INLINE == 0 {
        return None;
    }
    let mut rest = section.get(STRINGS..)?;
    let version = text(&mut rest)?;
    let info = text(&mut rest)?;
    // There are marks of 16 bytes around it.
    let info = String::from_utf8_lossy(info.get(16..info.len().checked_sub(16)?)?).into_owned();
    let version = String::from_utf8_lossy(version).into_owned();
    let mut found = vec![package("stdlib", version.trim_start_matches("go"))];
    for line in info.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        match words.as_slice() {
            ["mod" | "dep", name, version, ..] => found.push(package(name, version)),
            // It stands in place of the one before.
            ["=>", name, version, ..] => {
                found.pop();
                found.push(package(name, version));
            }
            _ => {}
        }
    }
    Some(found)
}

fn package(name: &str, version: &str) -> Package {
    let path: Vec<String> = name.split('/').map(encoded).collect();
    let url = format!("pkg:golang/{}@{}", path.join("/"), encoded(version));
    Package { name: name.to_owned(), version: version.to_owned(), url, licence: None }
}

/// Takes a text with its length in front (`encoding/binary`, unsigned varint).
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0_usize;
    for shift in (0..35).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let taken = rest.get(..length)?;
            *rest = &rest[length..];
            return Some(taken);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(info: &str) -> Vec<u8> {
        let mut section = MAGIC.to_vec();
        section.extend([8, INLINE]);
        section.resize(STRINGS, 0);
        let marked = format!("{0}{info}{0}", "#".repeat(16));
        for text in ["go1.24.4", &marked] {
            let length = u16::try_from(text.len()).unwrap();
            let [low, high] = [length & 0x7f | 0x80, length >> 7].map(|part| u8::try_from(part).unwrap());
            section.extend([low, high]);
            section.extend(text.as_bytes());
        }
        section
    }

    #[test]
    fn modules_of_go_are_read() {
        let info = "path\thost.test/app\nmod\thost.test/app\t(devel)\t\ndep\thost.test/a\tv1.0.0\th1:x=\n\
                    =>\thost.test/b\tv2.0.0\th1:y=\nbuild\t-compiler=gc\n";
        let urls: Vec<String> = packages(&section(info)).unwrap().into_iter().map(|package| package.url).collect();
        assert_eq!(
            urls,
            ["pkg:golang/stdlib@1.24.4", "pkg:golang/host.test/app@%28devel%29", "pkg:golang/host.test/b@v2.0.0"]
        );
        let whole = section(info);
        for length in 0..whole.len() {
            assert!(packages(&whole[..length]).is_none(), "{length}");
        }
    }
}
