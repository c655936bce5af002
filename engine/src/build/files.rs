//! The files that a build has made, given away as they are: into a directory, or as an archive.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::{Attributes, Destination, Source};
use super::error::{BuildError, StepError};
use super::execute::{Builder, Solved, State, Temporary};
use super::layer::LayerError;
use super::request::Request;
use super::tree::{Tree, kind};
use crate::container::files::pack_trees;
use crate::container::rootfs;

/// The file system that one build has made.
#[derive(Debug)]
pub struct FileSystem {
    pub(super) root: OwnedFd,
    /// What the root is where there are no layers.
    _empty: Option<Arc<Temporary>>,
    epoch: Option<u64>,
}

fn failed(source: impl Into<StepError>) -> BuildError {
    BuildError::Export { source: Box::new(source.into()) }
}

impl Builder {
    /// Opens the file system that a graph has made. It stays as long as `solved` does.
    pub fn files(&self, request: &Request, solved: &Solved) -> Result<FileSystem, BuildError> {
        let done = solved.done.get(request.graph.target.0).and_then(Option::as_ref);
        let (root, empty) = match done.map(|done| &done.state) {
            Some(State::Layers(layers)) if !layers.is_empty() => {
                (rootfs::image(&self.shop().store.stack(layers)).map_err(failed)?, None)
            }
            _ => {
                let empty = Arc::new(self.shop().temporary().map_err(failed)?);
                (open(&empty.0)?, Some(empty))
            }
        };
        Ok(FileSystem { root, _empty: empty, epoch: request.epoch })
    }
}

impl FileSystem {
    /// Copies everything into a directory, which is made if it is not there. What is copied belongs to whoever calls; devices are
    /// left out, since they would be those of this host.
    pub fn copy_to(self, directory: &Path) -> Result<(), BuildError> {
        let io = |action, source| StepError::Io { action, path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(|error| failed(io("create", error)))?;
        let to = open(directory)?;
        let tree = Tree::plain(self.root);
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let attributes = Attributes { owner: Some(owner), mode: None };
        let destination = Destination { root: to.as_fd(), path: "/", attributes: &attributes };
        for mut found in tree.find("/", true).map_err(failed)? {
            found.found.retain(|file| !matches!(kind(&file.stat), libc::S_IFCHR | libc::S_IFBLK));
            let source = Source { tree: &tree, found: &found, unpack: false };
            destination.copy(&source, false).map_err(failed)?;
        }
        Ok(())
    }

    /// Writes an archive of these file systems, each below a directory of its name; of an empty name below none.
    pub fn archive(all: &[(PathBuf, Self)], out: &mut dyn Write) -> Result<(), BuildError> {
        let epoch = all.first().and_then(|(_, files)| files.epoch);
        let trees: Vec<_> = all.iter().map(|(name, files)| (name.as_path(), files.root.as_fd())).collect();
        pack_trees(&trees, epoch, out).map_err(|error| failed(LayerError::from(error)))
    }
}

fn open(path: &Path) -> Result<OwnedFd, BuildError> {
    fs::File::open(path)
        .map(OwnedFd::from)
        .map_err(|source| failed(StepError::Io { action: "open", path: path.to_owned(), source }))
}
