//! Trees of git repositories: `ADD` of one, and contexts that are one.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::error::StepError;
use super::execute::{Shop, Temporary};
use super::fetched::open_to_read;
use super::graph::Git;
use super::request::{Keyring, Secret};
use super::tree::Tree;
use crate::container::memory;
use crate::git::{self, Access, Keys};

/// Secrets that are credentials for repositories by HTTP, as BuildKit has them; each also with `.` and the host behind it.
const TOKEN: &str = "GIT_AUTH_TOKEN";
const HEADER: &str = "GIT_AUTH_HEADER";

/// The agent that repositories by SSH are asked with.
const AGENT: &str = "default";

/// Fetches what a step or a context takes of a repository.
pub(super) async fn fetch(shop: &Shop, wanted: &Git, keys: Keys) -> Result<Temporary, StepError> {
    let checkout = open_to_read(shop.temporary()?)?;
    let directory = checkout.0.as_path();
    let access = Access::Given(keys);
    let reference = wanted.reference.as_deref().unwrap_or_default();
    let commit = git::fetch(&wanted.remote, reference, directory, &access).await?;
    if let Some(expected) = &wanted.checksum
        && ![&commit.id, &commit.object].iter().any(|actual| actual.starts_with(expected.as_str()))
    {
        return Err(StepError::Checksum { url: wanted.remote.clone(), expected: expected.clone(), actual: commit.id });
    }
    if directory.join(".gitmodules").symlink_metadata().is_ok_and(|found| found.is_file()) {
        git::fetch_submodules(&wanted.remote, directory, &access).await?;
    }
    settle(directory, wanted.keep_git_dir)?;
    match &wanted.subdirectory {
        Some(path) => below(shop, &checkout, path),
        None => Ok(checkout),
    }
}

/// Returns what a build was given to get at a repository.
pub(super) fn keys(keyring: &Keyring, repository: &str) -> Result<Keys, StepError> {
    let host = repository.split_once("://").map_or(repository, |(_, rest)| rest);
    let host = host.split(['/', ':']).next().unwrap_or_default();
    let secret = |name: &str| {
        let named = format!("{name}.{host}");
        match keyring.secrets.get(&named).or_else(|| keyring.secrets.get(name)) {
            None => Ok(None),
            Some(secret) => read(name, secret).map(Some),
        }
    };
    let authorization = match (secret(HEADER)?, secret(TOKEN)?) {
        (Some(header), _) => Some(header),
        (None, Some(token)) => Some(format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{token}")))),
        (None, None) => None,
    };
    Ok(Keys { agent: keyring.ssh.get(AGENT).cloned(), authorization })
}

fn read(id: &str, secret: &Secret) -> Result<String, StepError> {
    let content = match secret {
        Secret::Value(value) => value.clone(),
        Secret::File(path) => memory::read(path).map_err(|source| StepError::Secret { id: id.to_owned(), source })?,
    };
    let text = String::from_utf8(content).map_err(|_| StepError::BinarySecret(id.to_owned()))?;
    Ok(text.trim().to_owned())
}

/// Gives what was checked out the modes that git knows, whatever our umask is, and removes `.git`, which in submodules is
/// a file, unless it is kept.
fn settle(directory: &Path, keep_git_dir: bool) -> Result<(), StepError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StepError::Io { action: "settle", path, source }
    };
    let mut rest = vec![directory.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
            let entry = entry.map_err(failed(&directory))?;
            let path = entry.path();
            // Not that of what a link points to.
            let metadata = entry.metadata().map_err(failed(&path))?;
            if entry.file_name() == ".git" {
                if !keep_git_dir {
                    crate::image::remove::remove_path(&path).map_err(failed(&path))?;
                }
                continue;
            }
            if !metadata.is_symlink() {
                let executable = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
                let mode = Permissions::from_mode(if executable { 0o755 } else { 0o644 });
                fs::set_permissions(&path, mode).map_err(failed(&path))?;
            }
            if metadata.is_dir() {
                rest.push(path);
            }
        }
    }
    Ok(())
}

/// Takes a directory out of a tree, as if it were all there is. Links on the way lead nowhere outside.
fn below(shop: &Shop, checkout: &Temporary, path: &str) -> Result<Temporary, StepError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| StepError::Io { action, path, source }
    };
    let root = fs::File::open(&checkout.0).map_err(failed("open", &checkout.0))?;
    let found = Tree::plain(root.into()).find(path, true)?;
    let found = found.first().filter(|found| found.is_directory());
    let found = found.ok_or_else(|| StepError::NoDirectory(path.to_owned()))?;
    let taken = shop.unmade();
    // Nobody else is at work in it: what was found has no links in it, and stays so.
    fs::rename(checkout.0.join(&found.base), &taken.0).map_err(failed("take", &taken.0))?;
    Ok(taken)
}
