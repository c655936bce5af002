//! The world around a layer: sentinels beside and above it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rcompose_engine::image::{Limits, UnpackError, unpack};

pub(crate) struct World {
    directory: PathBuf,
    /// Removes it in the end, if this process made it.
    _made: Option<tempfile::TempDir>,
}

impl World {
    pub(crate) fn new() -> Self {
        let made = tempfile::Builder::new().prefix("rcompose-hostile-").tempdir().unwrap();
        let world = Self { directory: made.path().to_owned(), _made: Some(made) };
        fs::create_dir_all(world.outside().join("sub/deep")).unwrap();
        fs::write(world.victim(), "victim").unwrap();
        fs::set_permissions(world.victim(), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(world.outside().join("sub/deep/file"), "deep").unwrap();
        symlink("victim", world.outside().join("link")).unwrap();
        // The layer's neighbours in the store.
        fs::create_dir_all(world.directory.join("layers/neighbour")).unwrap();
        fs::write(world.directory.join("layers/neighbour/file"), "neighbour").unwrap();
        world
    }

    /// The world that another process made.
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { directory, _made: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Where a store has its place.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.directory.join("outside")
    }

    pub(crate) fn victim(&self) -> PathBuf {
        self.outside().join("victim")
    }

    /// Describes everything but the layer, the trash and the store.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut rest = vec![self.directory.clone()];
        while let Some(path) = rest.pop() {
            if path.ends_with("layers/root") || path.ends_with("layers/trash") || path == self.data() {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut text = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
            if metadata.is_dir() {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                // Making the layer's or the store's directories changes the time of the one that holds them.
                if !path.ends_with("layers") && path != self.directory {
                    text += &format!(" {}.{}", metadata.mtime(), metadata.mtime_nsec());
                }
            } else if metadata.is_symlink() {
                text += &format!(" -> {}", fs::read_link(&path).unwrap().display());
            } else {
                text += &format!(" {} {:?}", metadata.nlink(), fs::read(&path).unwrap());
                text += &format!(" {}.{}", metadata.mtime(), metadata.mtime_nsec());
            }
            found.insert(path, text);
        }
        found
    }

    pub(crate) fn unpack(&self, archive: &[u8], limits: &Limits) -> Result<(), UnpackError> {
        let (root, trash) = (self.directory.join("layers/root"), self.directory.join("layers/trash"));
        for path in [&root, &trash] {
            fs::create_dir_all(path).unwrap();
        }
        let result = {
            let (root, trash) = (File::open(&root).unwrap(), File::open(&trash).unwrap());
            unpack(archive, root.as_fd(), trash.as_fd(), limits).map(|_| ())
        };
        // Nothing in the layer may be the same file as something outside.
        let victim = fs::metadata(self.victim()).unwrap();
        let mut rest = vec![root.clone()];
        while let Some(path) = rest.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            assert_ne!((metadata.dev(), metadata.ino()), (victim.dev(), victim.ino()), "{}", path.display());
            if metadata.is_dir() {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0, "the trash is emptied");
        for path in [&root, &trash] {
            fs::remove_dir_all(path).unwrap();
        }
        result
    }
}
