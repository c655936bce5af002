//! Files in git repositories, fetched as Docker Compose does, with what the user's git knows.

use std::path::{Component, Path};

use rcompose_engine::git::{self, Access};

use super::{Fetched, RemoteError, block_on, tree};
use crate::compose::NAMES;
use crate::compose::remote::GitUrl;

/// Fetches the tree of a commit and finds the compose file in it.
pub(super) fn fetch(url: &GitUrl, cache: &Path) -> Result<Fetched, RemoteError> {
    let subdirectory = Path::new(&url.subdirectory);
    if subdirectory.is_absolute() {
        return Err(RemoteError::Absolute(url.subdirectory.clone()));
    }
    if subdirectory.components().any(|part| part == Component::ParentDir) {
        return Err(RemoteError::Traversal(url.subdirectory.clone()));
    }
    let commit = if git::is_commit(&url.reference) {
        url.reference.clone()
    } else {
        block_on(async { Ok(git::resolve(&url.repository, &url.reference, &Access::User).await?) })?
    };
    let tree = tree(cache, &commit, |directory| {
        block_on(async { Ok(git::fetch(&url.repository, &commit, directory, &Access::User).await.map(drop)?) })
    })?;
    let path = tree.join(subdirectory);
    let failed = |source| RemoteError::NoPath { path: url.subdirectory.clone(), source };
    let real = path.canonicalize().map_err(failed)?;
    if !real.starts_with(tree.canonicalize().map_err(failed)?) {
        return Err(RemoteError::Traversal(url.subdirectory.clone()));
    }
    if !real.is_dir() {
        return Ok(Fetched { tree, file: path });
    }
    let Some(name) = NAMES.iter().find(|name| path.join(name).is_file()) else {
        let path = if url.subdirectory.is_empty() { "the repository".to_owned() } else { url.subdirectory.clone() };
        return Err(RemoteError::NoFile { path, names: NAMES.join(", ") });
    };
    Ok(Fetched { tree, file: path.join(name) })
}
