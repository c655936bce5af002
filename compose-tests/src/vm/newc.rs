//! Archives in the "newc" cpio format, which the kernel unpacks as its first file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).

use std::io::{self, Write};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Writes an archive; entries belong to root, and a folder comes before what is in it.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Archive<W> {
        Archive { out, entries: 0 }
    }

    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER, &[])
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, PROGRAM, content)
    }

    /// Writes the end of the archive and returns what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let too_large = |_| io::Error::other(format!("{path} is too large for an archive"));
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name = u32::try_from(path.len() + 1).map_err(too_large)?;
        // inode, mode, uid, gid, links, mtime, size, device (4), length of the name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        let numbers = fields.map(|field| format!("{field:08x}")).concat();
        let head = format!("070701{numbers}");
        self.out.write_all(head.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        // The name ends with a zero; head and name together, and then the content, fill up to a multiple of four.
        let filled = (head.len() + path.len() + 1).next_multiple_of(4);
        self.out.write_all(&[0; 8][..filled - head.len() - path.len()])?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 4][..content.len().next_multiple_of(4) - content.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("a").unwrap();
        archive.file("a/b", b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let heads: Vec<usize> =
            bytes.windows(6).enumerate().filter(|(_, window)| *window == b"070701").map(|(at, _)| at).collect();
        // 110 bytes of head, the name with its zero, then the content.
        assert_eq!(heads, [0, 112, 112 + 116 + 8]);
    }
}
