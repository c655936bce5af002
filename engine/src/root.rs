//! Where everything lives on disk (`docs/architecture.md`, "State on disk"). Every path of ours is made here.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::id::Id;
use crate::sys;

/// The two directories below which all state lives: data that outlives a reboot, and run-time state that does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    data: PathBuf,
    run: PathBuf,
}

impl Root {
    /// Returns the root of this host: `/var/lib/rcompose` and `/run/rcompose`.
    pub fn system() -> Self {
        Self { data: PathBuf::from("/var/lib/rcompose"), run: PathBuf::from("/run/rcompose") }
    }

    /// Returns a root of its own below `directory` (`lib` and `run`), which must be absolute.
    pub fn below(directory: &Path) -> Self {
        Self { data: directory.join("lib"), run: directory.join("run") }
    }

    /// Returns the root made of these two directories, which must be absolute.
    pub fn new(data: PathBuf, run: PathBuf) -> Self {
        Self { data, run }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Returns the OCI bundle of a container: `config.json`, `container.json`, `state.json`, logs, `upper`, `work`.
    pub fn container(&self, id: &Id) -> PathBuf {
        self.data.join("containers").join(id.as_str())
    }

    /// Returns the directory in which is on record who shares a container's network.
    pub fn container_sharers(&self, id: &Id) -> PathBuf {
        self.container(id).join("sharers")
    }

    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// Returns a container's run-time directory: the shim's socket, FIFOs, the log's recovery state. On tmpfs.
    pub fn container_run(&self, id: &Id) -> PathBuf {
        self.containers_run().join(id.as_str())
    }

    pub fn containers_run(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// Returns the directory of a container's configs and secrets. In memory; it outlives the container's runs.
    pub fn container_files(&self, id: &Id) -> PathBuf {
        self.run.join("files").join(id.as_str())
    }

    /// Returns the directory with one `<id>.json` per network.
    pub fn networks(&self) -> PathBuf {
        self.data.join("networks")
    }

    /// Returns the directory in which is on record who is on which network.
    pub fn networks_run(&self) -> PathBuf {
        self.run.join("networks")
    }

    /// Returns the directory of a named volume; its content is in `_data`.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }

    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// Returns the directory in which is on record who uses which volume that is mounted.
    pub fn volumes_run(&self) -> PathBuf {
        self.run.join("volumes")
    }

    /// Returns a project's directory on disk: its containers (as links by name) and its record.
    pub fn project(&self, project: &str) -> PathBuf {
        self.data.join("projects").join(project)
    }

    /// Returns a project's run-time directory: the supervisor's socket and lock.
    pub fn project_run(&self, project: &str) -> PathBuf {
        self.run.join("projects").join(project)
    }

    pub fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }
}

/// Makes a directory of ours, and those above it, for nobody but root.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory that many directories are made and removed in: a container's, a layer's.
///
/// ext4 is told to keep them apart. Without a journal it takes an inode only a minute after it was freed and tries all that it
/// finds before: with everything in one group of blocks, fifty containers take five times as long when fifty have just gone.
pub(crate) fn make_directory_of_many(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            sys::file::keep_subdirectories_apart(path);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
