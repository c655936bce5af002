//! The files that a build has made, given away as they are: into a directory, or as an archive; what is attested of them stands
//! beside them.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::attest::{Predicate, Subject};
use super::copy::{Attributes, Destination, Source};
use super::error::{BuildError, StepError};
use super::execute::{Builder, Solved, State};
use super::layer::{Draft, LayerError};
use super::request::Request;
use super::tree::{Tree, kind};
use crate::container::files::pack_trees;
use crate::container::rootfs;
use crate::image::Digest;

/// The file system that one build has made.
#[derive(Debug)]
pub struct FileSystem {
    root: OwnedFd,
    /// Its layers, topmost first.
    layers: Vec<PathBuf>,
    /// What is laid over them.
    _statements: Option<Draft>,
    epoch: Option<u64>,
}

fn failed(source: impl Into<StepError>) -> BuildError {
    BuildError::Export { source: Box::new(source.into()) }
}

impl Builder {
    /// Opens the file system that a graph has made. It stays as long as `solved` does.
    pub fn files(&self, request: &Request, solved: &Solved) -> Result<FileSystem, BuildError> {
        let store = &self.shop().store;
        let layers = match solved.state(request.graph.target) {
            Some(State::Layers(layers)) => store.stack(layers),
            _ => return Err(failed(StepError::Worker)),
        };
        let (root, statements) = if layers.is_empty() {
            let nothing = Draft::new(store, &[]).map_err(failed)?;
            (nothing.open(&[]).map_err(failed)?, Some(nothing))
        } else {
            (rootfs::image(&layers).map_err(failed)?, None)
        };
        Ok(FileSystem { root, layers, _statements: statements, epoch: request.epoch })
    }

    /// Lays statements over the files of a file system that they are about: each predicate in a file of its name.
    pub fn attest_files(
        &self,
        files: FileSystem,
        predicates: &[(String, Predicate)],
    ) -> Result<FileSystem, BuildError> {
        if predicates.is_empty() {
            return Ok(files);
        }
        let subjects = files.subjects().map_err(failed)?;
        let draft = Draft::new(&self.shop().store, &files.layers).map_err(failed)?;
        let epoch = files.epoch.and_then(|epoch| UNIX_EPOCH.checked_add(Duration::from_secs(epoch)));
        let time = epoch.unwrap_or_else(SystemTime::now);
        for (name, predicate) in predicates {
            let path = draft.root().join(name);
            let text = format!("{:#}", predicate.statement(&subjects));
            let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
            let written = file.and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.set_modified(time)
            });
            written.map_err(|source| failed(StepError::Io { action: "write", path, source }))?;
        }
        let mut layers = files.layers;
        layers.insert(0, draft.root());
        let root = rootfs::image(&layers).map_err(failed)?;
        Ok(FileSystem { root, layers, _statements: Some(draft), epoch: files.epoch })
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

    /// Returns its files, each with the digest of its content.
    fn subjects(&self) -> Result<Vec<Subject>, StepError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StepError::Io { action: "read", path, source }
        };
        let tree = Tree::plain(self.root.try_clone().map_err(io(Path::new("/")))?);
        let mut subjects = Vec::new();
        for found in &tree.find("/", true)? {
            for file in found.found.iter().filter(|file| kind(&file.stat) == libc::S_IFREG) {
                let mut content = tree.open_file(&found.base, file)?;
                let (digest, _) = Digest::of_reader(&mut content).map_err(io(&file.path))?;
                subjects.push(Subject(file.path.display().to_string(), digest));
            }
        }
        Ok(subjects)
    }

    /// Writes an archive of these file systems, each below a directory of its name; of an empty name below none.
    pub fn archive(all: &[(PathBuf, Self)], out: &mut dyn Write) -> Result<(), BuildError> {
        let epoch = all.first().and_then(|(_, files)| files.epoch);
        let trees: Vec<_> = all.iter().map(|(name, files)| (name.as_path(), files.root.as_fd())).collect();
        pack_trees(&trees, epoch, out).map_err(|error| failed(LayerError::from(error)))
    }
}

fn open(path: &Path) -> Result<OwnedFd, BuildError> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|source| failed(StepError::Io { action: "open", path: path.to_owned(), source }))
}
