//! How much of the disk a directory takes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Returns the bytes of all files below a directory, each once however many names it has. What goes meanwhile, or is not
/// there, takes nothing; links are not followed.
pub fn used(directory: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut rest = vec![directory.to_owned()];
    while let Some(directory) = rest.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                rest.push(entry.path());
            } else if metadata.nlink() < 2 || seen.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("sub/a"), [0; 100]).unwrap();
        fs::hard_link(directory.path().join("sub/a"), directory.path().join("b")).unwrap();
        fs::write(directory.path().join("c"), [0; 11]).unwrap();
        assert_eq!(used(directory.path()).unwrap(), 111);
        assert_eq!(used(&directory.path().join("none")).unwrap(), 0);
    }
}
