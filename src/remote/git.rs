//! Files in git repositories, fetched with the host's `git`, as Docker Compose does.
//!
//! What comes from the user or from a file is never taken for an option, no hook, template or file monitor is run, no
//! submodule is fetched, git may only use the network protocols that were meant, and it never asks anybody.

use std::path::{Component, Path};
use std::process::{Command, Output, Stdio};

use super::{Fetched, RemoteError, tree};
use crate::compose::NAMES;
use crate::compose::remote::GitUrl;

/// Settings that nothing in the user's configuration overrules.
const SETTINGS: [&str; 6] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "submodule.recurse=false",
    "advice.detachedHead=false",
    "gc.auto=0",
    "maintenance.auto=false",
];
/// Variables that would make git work on another repository than its own: a hook of some repository may have called us.
const FOREIGN: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
];
/// What `git ls-remote --exit-code` returns if nothing matches.
const NO_MATCH: i32 = 2;

/// Fetches the tree of a commit and finds the compose file in it.
pub(super) fn fetch(url: &GitUrl, cache: &Path) -> Result<Fetched, RemoteError> {
    let subdirectory = Path::new(&url.subdirectory);
    if subdirectory.is_absolute() {
        return Err(RemoteError::Absolute(url.subdirectory.clone()));
    }
    if subdirectory.components().any(|part| part == Component::ParentDir) {
        return Err(RemoteError::Traversal(url.subdirectory.clone()));
    }
    let commit = if is_commit(&url.reference) { url.reference.clone() } else { resolve(url)? };
    let tree = tree(cache, &commit, |directory| {
        let here = |step, arguments: &[&str]| run(step, Some(directory), arguments);
        here("make a repository", &["init", "--quiet", "--template="])?;
        let fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--"];
        here("fetch the repository", &[&fetch[..], &[&url.repository, &commit]].concat())?;
        here("check the commit out", &["checkout", "--quiet", "--detach", "FETCH_HEAD"])
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

/// Asks the repository which commit (or tag object) a name stands for.
fn resolve(url: &GitUrl) -> Result<String, RemoteError> {
    let reference = if url.reference.is_empty() { "HEAD" } else { &url.reference };
    let output = execute(None, &["ls-remote", "--exit-code", "--", &url.repository, reference])?;
    if output.status.code() == Some(NO_MATCH) {
        return Err(RemoteError::NoReference { reference: reference.to_owned() });
    }
    if !output.status.success() {
        return Err(failed("access the repository", &output));
    }
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = answer.lines().filter_map(|line| line.split_once('\t')).collect::<Vec<_>>();
    // The pattern also matches the ends of longer names: what is called exactly so comes first.
    let exact = [reference.to_owned(), format!("refs/tags/{reference}"), format!("refs/heads/{reference}")];
    let best = exact.iter().find_map(|name| found.iter().find(|(_, found)| found == name)).or_else(|| found.first());
    match best {
        Some((id, _)) if is_commit(id) => Ok((*id).to_owned()),
        _ => Err(RemoteError::NoCommit { answer: answer.chars().take(200).collect() }),
    }
}

/// Whether a text is the id of an object, by SHA-1 or SHA-256.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn run(step: &'static str, directory: Option<&Path>, arguments: &[&str]) -> Result<(), RemoteError> {
    let output = execute(directory, arguments)?;
    if output.status.success() { Ok(()) } else { Err(failed(step, &output)) }
}

fn failed(step: &'static str, output: &Output) -> RemoteError {
    let text = String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect::<String>();
    RemoteError::Git { step, output: if text.is_empty() { output.status.to_string() } else { text } }
}

fn execute(directory: Option<&Path>, arguments: &[&str]) -> Result<Output, RemoteError> {
    let mut command = Command::new("git");
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    for variable in FOREIGN {
        command.env_remove(variable);
    }
    for (variable, default) in [("GIT_TERMINAL_PROMPT", "0"), ("GIT_ALLOW_PROTOCOL", "git:ssh:http:https")] {
        if std::env::var_os(variable).is_none() {
            command.env(variable, default);
        }
    }
    if ["GIT_SSH", "GIT_SSH_COMMAND"].iter().all(|variable| std::env::var_os(variable).is_none()) {
        command.env("GIT_SSH_COMMAND", "ssh -o ControlMaster=no -o BatchMode=yes");
    }
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    command.args(arguments).stdin(Stdio::null()).output().map_err(RemoteError::NoGit)
}
