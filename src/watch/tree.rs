//! What the watched files were when they were last looked at.
//!
//! Events only say where to look: what counts as a change is what differs from here. So an event too many changes nothing,
//! and where events were lost everything is looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, Metadata};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;

/// How a file looks from outside. Whoever changes it changes this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    mode: u32,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        if found.is_dir() {
            // The rest of it follows from what is in it.
            return Self { mode: found.mode(), inode: 0, size: 0, modified: (0, 0), changed: (0, 0) };
        }
        Self {
            mode: found.mode(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    fn is_directory(&self) -> bool {
        SFlag::from_bits_truncate(self.mode) & SFlag::S_IFMT == SFlag::S_IFDIR
    }
}

/// Decides about directories while they are looked at.
pub trait Guide {
    type Error;

    /// Called before a directory is read; `false` leaves out what is in it.
    fn enter(&mut self, directory: &Path) -> Result<bool, Self::Error>;

    /// A directory that could not be read, which is as if it were empty.
    fn unreadable(&mut self, directory: &Path, error: &io::Error);
}

/// Files, links and directories by path.
#[derive(Debug, Default)]
pub struct Tree {
    known: BTreeMap<Box<Path>, Known>,
    /// How often something was looked at.
    rounds: u32,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// When it was last seen.
    round: u32,
}

impl Tree {
    /// Looks at a path and all that is in it, and tells `changed` of what is not as it was.
    pub fn look<G: Guide>(
        &mut self,
        path: &Path,
        guide: &mut G,
        changed: &mut impl FnMut(&Path),
    ) -> Result<(), G::Error> {
        self.rounds = self.rounds.wrapping_add(1);
        if let Ok(found) = fs::symlink_metadata(path) {
            self.collect(path.to_owned(), &found, guide, changed)?;
        }
        let below = (Bound::Included(path), Bound::Unbounded);
        let known = self.known.range::<Path, _>(below).take_while(|(known, _)| known.starts_with(path));
        let gone = known.filter(|(_, known)| known.round != self.rounds).map(|(path, _)| path.clone());
        for path in gone.collect::<Vec<_>>() {
            self.known.remove(&path);
            changed(&path);
        }
        Ok(())
    }

    fn collect<G: Guide>(
        &mut self,
        path: PathBuf,
        found: &Metadata,
        guide: &mut G,
        changed: &mut impl FnMut(&Path),
    ) -> Result<(), G::Error> {
        let mut open = vec![(path.into_boxed_path(), Stamp::of(found))];
        while let Some((path, stamp)) = open.pop() {
            if stamp.is_directory() && guide.enter(&path)? {
                match fs::read_dir(&path) {
                    Ok(entries) => {
                        for entry in entries.flatten() {
                            // What vanishes meanwhile is not there.
                            if let Ok(found) = entry.metadata() {
                                open.push((entry.path().into_boxed_path(), Stamp::of(&found)));
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => guide.unreadable(&path, &error),
                }
            }
            self.see(path, stamp, changed);
        }
        Ok(())
    }

    fn see(&mut self, path: Box<Path>, stamp: Stamp, changed: &mut impl FnMut(&Path)) {
        let round = self.rounds;
        match self.known.entry(path) {
            Entry::Occupied(mut known) => {
                if known.insert(Known { stamp, round }).stamp != stamp {
                    changed(known.key());
                }
            }
            Entry::Vacant(unknown) => {
                changed(unknown.key());
                unknown.insert(Known { stamp, round });
            }
        }
    }

    pub fn knows(&self, path: &Path) -> bool {
        self.known.contains_key(path)
    }

    /// Returns the paths of everything that is not a directory.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.known.iter().filter(|(_, known)| !known.stamp.is_directory()).map(|(path, _)| &**path)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct NoGit;

    impl Guide for NoGit {
        type Error = Infallible;

        fn enter(&mut self, directory: &Path) -> Result<bool, Infallible> {
            Ok(!directory.ends_with(".git"))
        }

        fn unreadable(&mut self, _: &Path, _: &io::Error) {}
    }

    fn look(tree: &mut Tree, root: &Path, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut note = |path: &Path| names.push(path.strip_prefix(root).unwrap().display().to_string());
        tree.look(&root.join(path), &mut NoGit, &mut note).unwrap();
        names.sort();
        names
    }

    #[test]
    fn changes_are_what_differs() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir_all(root.join("src/.git")).unwrap();
        fs::write(root.join("src/.git/index"), "").unwrap();
        fs::write(root.join("src/a"), "1").unwrap();
        let mut tree = Tree::default();
        assert_eq!(look(&mut tree, &root, "src"), ["src", "src/.git", "src/a"]);
        assert_eq!(look(&mut tree, &root, "src"), [""; 0]);
        assert_eq!(tree.files().collect::<Vec<_>>(), [root.join("src/a")]);
        fs::write(root.join("src/a"), "22").unwrap();
        fs::set_permissions(root.join("src"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(look(&mut tree, &root, "src"), ["src", "src/a"]);
        // Another file under its name, of the same size.
        fs::write(root.join("src/b"), "33").unwrap();
        fs::rename(root.join("src/b"), root.join("src/a")).unwrap();
        assert_eq!(look(&mut tree, &root, "src/a"), ["src/a"]);
        // A file becomes a directory, and that a link.
        fs::remove_file(root.join("src/a")).unwrap();
        fs::create_dir(root.join("src/a")).unwrap();
        fs::write(root.join("src/a/c"), "").unwrap();
        assert_eq!(look(&mut tree, &root, "src"), ["src/a", "src/a/c"]);
        fs::remove_dir_all(root.join("src/a")).unwrap();
        symlink("nowhere", root.join("src/a")).unwrap();
        assert_eq!(look(&mut tree, &root, "src/a"), ["src/a", "src/a/c"]);
        fs::write(root.join("srcs"), "").unwrap();
        fs::remove_dir_all(root.join("src")).unwrap();
        assert_eq!(look(&mut tree, &root, "src"), ["src", "src/.git", "src/a"]);
        assert_eq!(look(&mut tree, &root, "src"), [""; 0]);
    }
}
