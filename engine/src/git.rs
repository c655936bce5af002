//! Git repositories, fetched with the host's `git`, as BuildKit and Docker Compose fetch them.
//!
//! The library in Rust (gix) brings some two hundred crates and a second HTTP client for one command that every host has
//! on which repositories are used; without it the error says so.
//!
//! Repositories and their servers are hostile. What comes from the user or from a file is never taken for an option, no
//! hook, template or file monitor is run, git may only use the network protocols that were meant (CVE-2022-39253), it
//! never asks anybody, and what it says is read up to a bound.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

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
/// Variables by which git finds what is the user's.
const OF_THE_USER: [&str; 6] =
    ["GIT_ASKPASS", "SSH_ASKPASS", "SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_CONFIG_PARAMETERS"];
/// What `git ls-remote --exit-code` returns if nothing matches.
const NO_MATCH: i32 = 2;
/// How much of what git says is kept, in bytes.
const KEPT: u64 = 1 << 20;

/// Why something of a repository is not there.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no `git`, or it cannot be started.
    #[error("cannot run git: {0}")]
    NoGit(#[source] io::Error),
    /// The repository has nothing of this name.
    #[error("repository does not contain ref {reference}")]
    NoReference {
        /// What was asked for.
        reference: String,
    },
    /// A command of git failed.
    #[error("cannot {step}: {output}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// What git said.
        output: String,
    },
    /// The repository's answer makes no sense.
    #[error("git answered with no commit but {answer:?}")]
    NoCommit {
        /// The answer, shortened.
        answer: String,
    },
}

impl GitError {
    /// Returns what to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NoGit(_) => Some("install git, or clone the repository elsewhere and give its path"),
            Self::NoReference { .. } => Some("name a branch, a tag or a commit behind the `#`"),
            Self::Failed { .. } => {
                Some("git is not let ask for passwords: a credential helper or an SSH agent must know them")
            }
            Self::NoCommit { .. } => None,
        }
    }
}

/// Whose keys and settings git uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Those of the user who runs the program.
    User,
    /// None but these.
    Given(Keys),
}

/// What a build was given to get at repositories.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// The socket of an SSH agent.
    pub agent: Option<PathBuf>,
    /// The value of the header `Authorization` of HTTP requests to the repository's server.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// What was fetched of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The id of the commit.
    pub id: String,
    /// What the name stands for: the commit, or an annotated tag of it.
    pub object: String,
}

/// Asks a repository which commit (or tag object) a name stands for. An empty name is that of its default branch.
pub async fn resolve(repository: &str, reference: &str, access: &Access) -> Result<String, GitError> {
    let git = Git { repository, access, directory: None };
    let reference = or_head(reference);
    let output = git.execute(&["ls-remote", "--exit-code", "--", repository, reference]).await?;
    if output.status.code() == Some(NO_MATCH) {
        return Err(GitError::NoReference { reference: reference.to_owned() });
    }
    if !output.status.success() {
        return Err(output.failed("access the repository"));
    }
    let found = output.stdout.lines().filter_map(|line| line.split_once('\t')).collect::<Vec<_>>();
    // The pattern also matches the ends of longer names: what is called exactly so comes first.
    let exact = [reference.to_owned(), format!("refs/tags/{reference}"), format!("refs/heads/{reference}")];
    let best = exact.iter().find_map(|name| found.iter().find(|(_, found)| found == name)).or_else(|| found.first());
    match best {
        Some((id, _)) if is_commit(id) => Ok((*id).to_owned()),
        _ => Err(GitError::NoCommit { answer: output.stdout.chars().take(200).collect() }),
    }
}

/// Fetches a commit, as little else of the history as the server allows, and puts its files into an empty directory,
/// beside the `.git` that remembers where they come from. An empty name is that of the default branch.
pub async fn fetch(repository: &str, reference: &str, directory: &Path, access: &Access) -> Result<Commit, GitError> {
    let git = Git { repository, access, directory: Some(directory) };
    git.run("make a repository", &["init", "--quiet", "--template="]).await?;
    git.run("name the repository", &["config", "remote.origin.url", repository]).await?;
    let object = git.fetch(or_head(reference)).await?;
    git.run("check the commit out", &["checkout", "--quiet", "--detach", &object]).await?;
    let id = git.id("HEAD").await?;
    Ok(Commit { id, object })
}

/// Fetches the submodules of what [`fetch`] has fetched, and theirs.
pub async fn fetch_submodules(repository: &str, directory: &Path, access: &Access) -> Result<(), GitError> {
    let git = Git { repository, access, directory: Some(directory) };
    git.run("fetch the submodules", &["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"]).await
}

fn or_head(reference: &str) -> &str {
    if reference.is_empty() { "HEAD" } else { reference }
}

/// Whether a text is the id of an object, by SHA-1 or SHA-256.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One repository that git is run for.
struct Git<'a> {
    repository: &'a str,
    access: &'a Access,
    directory: Option<&'a Path>,
}

/// How a command of git ended, and what it said.
struct Output {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Output {
    fn failed(&self, step: &'static str) -> GitError {
        let text = self.stderr.trim().chars().take(2000).collect::<String>();
        GitError::Failed { step, output: if text.is_empty() { self.status.to_string() } else { text } }
    }
}

impl Git<'_> {
    /// Fetches what a name stands for. Returns the id of the commit, or of the tag.
    async fn fetch(&self, reference: &str) -> Result<String, GitError> {
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"];
        let these = ["--", self.repository, reference];
        let shallow = self.execute(&[&fetch[..], &["--depth=1"], &these].concat()).await?;
        if shallow.status.success() {
            return self.id("FETCH_HEAD").await;
        }
        if is_commit(reference) {
            // Not every server gives what none of its names stands for.
            let all = ["--", self.repository, "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
            self.run("fetch the repository", &[&fetch[..], &all].concat()).await?;
            return self.id(reference).await;
        }
        // A server that only has files does not know what is shallow.
        let whole = if shallow.stderr.contains("shallow") {
            self.execute(&[&fetch[..], &these].concat()).await?
        } else {
            shallow
        };
        if whole.status.success() {
            return self.id("FETCH_HEAD").await;
        }
        if whole.stderr.contains("couldn't find remote ref") {
            return Err(GitError::NoReference { reference: reference.to_owned() });
        }
        Err(whole.failed("fetch the repository"))
    }

    /// Returns the id that a name of the fetched repository stands for.
    async fn id(&self, name: &str) -> Result<String, GitError> {
        let output = self.execute(&["rev-parse", "--verify", "--quiet", name]).await?;
        let id = output.stdout.trim();
        if output.status.success() && is_commit(id) {
            return Ok(id.to_owned());
        }
        Err(GitError::NoReference { reference: name.to_owned() })
    }

    async fn run(&self, step: &'static str, arguments: &[&str]) -> Result<(), GitError> {
        let output = self.execute(arguments).await?;
        if output.status.success() { Ok(()) } else { Err(output.failed(step)) }
    }

    async fn execute(&self, arguments: &[&str]) -> Result<Output, GitError> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(GitError::NoGit)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), child.wait());
        let ended = status.and_then(|status| Ok(Output { status, stdout: stdout?, stderr: stderr? }));
        ended.map_err(GitError::NoGit)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        for variable in FOREIGN {
            command.env_remove(variable);
        }
        // What it says is read by us too.
        command.env("LC_ALL", "C");
        match self.access {
            Access::User => {
                for (variable, value) in [("GIT_TERMINAL_PROMPT", "0"), ("GIT_ALLOW_PROTOCOL", "git:ssh:http:https")] {
                    if std::env::var_os(variable).is_none() {
                        command.env(variable, value);
                    }
                }
                if ["GIT_SSH", "GIT_SSH_COMMAND"].iter().all(|variable| std::env::var_os(variable).is_none()) {
                    command.env("GIT_SSH_COMMAND", "ssh -o ControlMaster=no -o BatchMode=yes");
                }
            }
            Access::Given(keys) => self.only(keys, &mut command),
        }
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Keeps git from everything that is the user's but the hosts that are known to SSH.
    fn only(&self, keys: &Keys, command: &mut Command) {
        for variable in OF_THE_USER {
            command.env_remove(variable);
        }
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", "git:ssh:http:https");
        let ssh = "ssh -F /dev/null -o ControlMaster=no -o BatchMode=yes -o IdentityFile=none";
        command.env("GIT_SSH_COMMAND", ssh);
        if let Some(agent) = &keys.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        // In the environment, since everybody sees the arguments of a process.
        match (&keys.authorization, origin(self.repository)) {
            (Some(authorization), Some(origin)) => {
                command.env("GIT_CONFIG_COUNT", "1");
                command.env("GIT_CONFIG_KEY_0", format!("http.{origin}.extraHeader"));
                command.env("GIT_CONFIG_VALUE_0", format!("Authorization: {authorization}"));
            }
            _ => _ = command.env("GIT_CONFIG_COUNT", "0"),
        }
    }
}

/// Returns the scheme and the server of a URL of HTTP, with a slash.
fn origin(repository: &str) -> Option<String> {
    let (scheme, rest) = repository.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
    Some(format!("{scheme}://{}/", rest.split('/').next()?))
}

/// Reads what a process says to its end, and keeps the beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let Some(mut stream) = stream else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    (&mut stream).take(KEPT).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_objects_are_told_from_names() {
        assert!(is_commit(&"0a".repeat(20)) && is_commit(&"f".repeat(64)));
        for name in ["", "main", "0A", &"g".repeat(40), &"a".repeat(41)] {
            assert!(!is_commit(name), "{name}");
        }
    }

    #[test]
    fn credentials_go_to_one_server() {
        assert_eq!(origin("https://host.test:8/a/b.git").as_deref(), Some("https://host.test:8/"));
        assert_eq!(origin("http://host.test").as_deref(), Some("http://host.test/"));
        for other in ["git://host.test/a", "git@host.test:a", "ssh://host.test/a"] {
            assert_eq!(origin(other), None, "{other}");
        }
        let shown = format!("{:?}", Keys { agent: None, authorization: Some("Bearer secret".to_owned()) });
        assert!(!shown.contains("secret"), "{shown}");
    }
}
