//! Compose files that lie elsewhere: fetched once, kept below the user's cache directory, read like local ones; and put there.
//!
//! Every tree is kept under the name of what it holds (the digest of an artifact, the id of a commit) and never changes.
//! It is filled aside and gets its name when it is whole. What is in it was written by others: a symbolic link that leads
//! out of it is not followed, and what its files may name elsewhere is the loader's to check.

mod git;
mod oci;
pub mod publish;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rcompose_engine::git::GitError;
use rcompose_engine::image::{ReferenceError, RegistryError, SettingsError};

use crate::compose::files::NotFetched;
use crate::compose::remote::Remote;
use crate::compose::{Disk, Files};

/// Why something from elsewhere is not there.
#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error("{kind} remote resource is disabled by {variable:?}")]
    Disabled { kind: &'static str, variable: &'static str },
    #[error("{variable} must be true or false, not {value:?}")]
    Switch { variable: &'static str, value: String },
    #[error("there is no cache directory: neither XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    #[error("cannot make {}: {source}", path.display())]
    Cache {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Git(#[from] GitError),
    #[error("git subdirectory path traversal detected: {0}")]
    Traversal(String),
    #[error("git subdirectory must be relative, got: {0}")]
    Absolute(String),
    #[error("the repository has no {path}: {source}")]
    NoPath {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("no configuration file found in {path}: it may be called {names}")]
    NoFile { path: String, names: String },
    #[error("{0}")]
    Reference(#[from] ReferenceError),
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Registry(#[from] RegistryError),
    #[error("file {digest} of the artifact has no annotation {annotation}")]
    NoAnnotation { digest: String, annotation: &'static str },
    #[error("the artifact's file name {0:?} is not the name of a file")]
    FileName(String),
    #[error("cannot ask servers: {0}")]
    Runtime(#[source] io::Error),
}

impl RemoteError {
    fn help(&self) -> Option<String> {
        let text = match self {
            Self::Git(error) => error.help()?,
            Self::NoCache => "set XDG_CACHE_HOME to a directory that may be written to",
            Self::Registry(RegistryError::Denied { .. }) => "log in: credentials are taken from Docker's config.json",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Reads files, also those that lie elsewhere.
#[derive(Debug)]
pub struct Reader {
    cache: Option<PathBuf>,
    known: Mutex<Known>,
}

/// What this process fetched.
#[derive(Debug, Default)]
struct Known {
    /// The compose file of each.
    files: HashMap<Remote, PathBuf>,
    trees: Vec<PathBuf>,
}

/// What was fetched.
#[derive(Debug)]
struct Fetched {
    /// The directory that everything is in.
    tree: PathBuf,
    /// The compose file.
    file: PathBuf,
}

/// Returns the directory that what was fetched is kept in, by this process's environment.
pub fn cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    base.and_then(|base| std::path::absolute(base).ok()).map(|base| base.join("rcompose"))
}

impl Reader {
    /// A reader with the cache directory of this process's environment.
    pub fn of_host() -> Self {
        Self { cache: cache(), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch_new(&self, remote: &Remote) -> Result<Fetched, RemoteError> {
        let cache = self.cache.as_deref().ok_or(RemoteError::NoCache)?;
        match remote {
            Remote::Oci(reference) => {
                is_enabled("OCI", "COMPOSE_EXPERIMENTAL_OCI_REMOTE")?;
                oci::fetch(reference, &cache.join("oci"))
            }
            Remote::Git(url) => {
                is_enabled("git", "COMPOSE_EXPERIMENTAL_GIT_REMOTE")?;
                git::fetch(url, &cache.join("git"))
            }
        }
    }
}

impl Files for Reader {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        tracing::debug!(path = %path.display(), "read");
        let Some(tree) = self.tree_of(path) else { return Disk.read(path) };
        let real = path.canonicalize()?;
        if !real.starts_with(tree.canonicalize()?) {
            let message = "is a symbolic link that leads out of the remote project";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Disk.read(&real)
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        Disk.read_stdin()
    }

    fn is_directory(&self, path: &Path) -> io::Result<bool> {
        Disk.is_directory(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Disk.canonicalize(path)
    }

    fn is_symlink(&self, path: &Path) -> bool {
        Disk.is_symlink(path)
    }

    fn fetch(&self, remote: &Remote) -> Result<PathBuf, NotFetched> {
        if let Some(file) = self.known().files.get(remote) {
            return Ok(file.clone());
        }
        tracing::debug!(%remote, "fetch");
        let Fetched { tree, file } = self
            .fetch_new(remote)
            .map_err(|error| NotFetched { message: format!("cannot load {remote}: {error}"), help: error.help() })?;
        let mut known = self.known();
        known.trees.push(tree);
        known.files.insert(remote.clone(), file.clone());
        Ok(file)
    }

    fn tree_of(&self, path: &Path) -> Option<PathBuf> {
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        self.known().trees.iter().find(|tree| path.starts_with(tree)).cloned()
    }
}

/// Obeys Docker Compose's switches for files from elsewhere; unset means yes.
fn is_enabled(kind: &'static str, variable: &'static str) -> Result<(), RemoteError> {
    match std::env::var(variable).unwrap_or_default().as_str() {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Err(RemoteError::Disabled { kind, variable }),
        value => Err(RemoteError::Switch { variable, value: value.to_owned() }),
    }
}

/// Waits for something. The caller may be inside of a runtime, in which no other one can wait.
fn block_on<T: Send>(work: impl Future<Output = Result<T, RemoteError>> + Send) -> Result<T, RemoteError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(RemoteError::Runtime)?.block_on(work)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Returns the tree with this name, after filling it if it is not there.
///
/// Of several processes that fill the same one the first wins; the others' copies are thrown away.
fn tree(cache: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<(), RemoteError>) -> Result<PathBuf, RemoteError> {
    let tree = cache.join(name);
    if tree.is_dir() {
        return Ok(tree);
    }
    let failed = |source| RemoteError::Cache { path: tree.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(cache).map_err(failed)?;
    let aside = tempfile::Builder::new().prefix(".new-").tempdir_in(cache).map_err(failed)?;
    fill(aside.path())?;
    match std::fs::rename(aside.path(), &tree) {
        // It has moved: there is nothing left to be removed.
        Ok(()) => drop(aside.keep()),
        Err(_) if tree.is_dir() => {}
        Err(source) => return Err(failed(source)),
    }
    Ok(tree)
}
