//! SSH agents for builds: one that the user has, or one that is started for files with keys and ends with the builds.
//!
//! Keys are given to the host's `ssh-agent`, which knows every kind of them; repositories by SSH need the host's `ssh` in any
//! case. A library in Rust would bring the cryptography of every kind of key.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The longest file with a key that is read, in bytes.
const LONGEST: u64 = 64 << 10;
/// What a key of OpenSSH's own form begins with (PROTOCOL.key), below its first line and base64.
const MAGIC: &[u8] = b"openssh-key-v1\0";
const FIRST_LINE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
/// Tells its id, and ends when nobody holds its standard input any more: also when we are killed. The agent ends with it.
const KEEPER: &str = "echo \"$SSH_AGENT_PID\"; exec cat >/dev/null";

/// Why there is no agent for a build.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("no SSH agent: SSH_AUTH_SOCK is not set")]
    None,
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is neither the socket of an SSH agent nor a private key", .0.display())]
    NoKey(PathBuf),
    #[error(
        "the key {} is protected by a passphrase, which nobody is asked for: load it into an agent (ssh-add) and give the \
         build that", .0.display()
    )]
    Protected(PathBuf),
    #[error("{}: an agent stands alone, and not in a list of keys", .0.display())]
    Mixed(PathBuf),
    #[error("cannot run {program}, which keys are given to: install OpenSSH's client, or give the build an agent")]
    Program {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("ssh-agent did not start: {0}")]
    NotStarted(String),
    #[error("ssh-add does not take the key {}: {said}", path.display())]
    Refused { path: PathBuf, said: String },
}

/// An agent that builds may ask. One that was started for them ends with its last clone.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    _own: Option<Arc<Own>>,
}

impl Agent {
    /// Has the agent that `--ssh` names: its socket, files with keys for one of its own, separated by commas, or if nothing is
    /// given the agent of the user.
    pub fn open(given: &str) -> Result<Self, AgentError> {
        if given.is_empty() {
            let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).ok_or(AgentError::None)?;
            let socket = PathBuf::from(socket);
            return if is_socket(&socket)? { Ok(Self { socket, _own: None }) } else { Err(AgentError::NoKey(socket)) };
        }
        let paths: Vec<PathBuf> = given.split(',').map(PathBuf::from).collect();
        if let [socket] = paths.as_slice()
            && is_socket(socket)?
        {
            return Ok(Self { socket: socket.clone(), _own: None });
        }
        let keys = paths.iter().map(|path| Ok((path, key(path)?))).collect::<Result<Vec<_>, AgentError>>()?;
        let own = Own::start()?;
        for (path, key) in keys {
            own.add(path, &key)?;
        }
        Ok(Self { socket: own.socket(), _own: Some(Arc::new(own)) })
    }

    /// Returns where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn is_socket(path: &Path) -> Result<bool, AgentError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.file_type().is_socket()),
        Err(source) => Err(AgentError::Read { path: path.to_owned(), source }),
    }
}

/// Reads a private key, which must not be protected.
fn key(path: &Path) -> Result<String, AgentError> {
    if is_socket(path)? {
        return Err(AgentError::Mixed(path.to_owned()));
    }
    let failed = |source| AgentError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.contains("PRIVATE KEY-----"));
    let mut text = text.ok_or_else(|| AgentError::NoKey(path.to_owned()))?;
    if is_protected(&text) {
        return Err(AgentError::Protected(path.to_owned()));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Returns whether a key cannot be read without a passphrase.
fn is_protected(key: &str) -> bool {
    let Some((_, body)) = key.split_once(FIRST_LINE) else {
        // The forms of PKCS #8 and of OpenSSL say it.
        return key.contains("ENCRYPTED");
    };
    let body: String = body.split("-----END").next().unwrap_or_default().split_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(body).unwrap_or_default();
    // The name of the cipher comes first, behind its length.
    let cipher = bytes.strip_prefix(MAGIC).and_then(|rest| rest.get(4..)).unwrap_or_default();
    !cipher.is_empty() && !cipher.starts_with(b"none")
}

/// An agent of ours.
#[derive(Debug)]
struct Own {
    folder: TempDir,
    keeper: Child,
    agent: Pid,
}

impl Own {
    fn start() -> Result<Self, AgentError> {
        let program = |program| move |source| AgentError::Program { program, source };
        let folder = tempfile::Builder::new().prefix("rcompose-ssh-").tempdir().map_err(program("ssh-agent"))?;
        let mut keeper = Command::new("ssh-agent")
            .arg("-a")
            .arg(folder.path().join("agent"))
            .args(["sh", "-c", KEEPER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What is typed at the terminal is not for it.
            .process_group(0)
            .spawn()
            .map_err(program("ssh-agent"))?;
        let mut said = String::new();
        if let Some(output) = keeper.stdout.take() {
            BufReader::new(output).take(LONGEST).read_line(&mut said).map_err(program("ssh-agent"))?;
        }
        if let Ok(agent) = said.trim().parse() {
            return Ok(Self { folder, keeper, agent: Pid::from_raw(agent) });
        }
        let ended = keeper.wait_with_output().map_err(program("ssh-agent"))?;
        Err(AgentError::NotStarted(String::from_utf8_lossy(&ended.stderr).trim().to_owned()))
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Gives it a key, which never is an argument or a file of ours.
    fn add(&self, path: &Path, key: &str) -> Result<(), AgentError> {
        let failed = |source| AgentError::Program { program: "ssh-add", source };
        let mut adding = Command::new("ssh-add")
            .args(["-q", "-"])
            .env("SSH_AUTH_SOCK", self.socket())
            .env("SSH_ASKPASS_REQUIRE", "never")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let written = adding.stdin.take().map(|mut input| input.write_all(key.as_bytes()));
        let ended = adding.wait_with_output().map_err(failed)?;
        if ended.status.success() && written.is_some_and(|written| written.is_ok()) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        Err(AgentError::Refused { path: path.to_owned(), said })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Its id is its own as long as its parent, the keeper, has not ended.
        if let Err(error) = kill(self.agent, Signal::SIGTERM) {
            tracing::warn!(%error, "cannot end the SSH agent of a build");
        }
        drop(self.keeper.stdin.take());
        if let Err(error) = self.keeper.wait() {
            tracing::warn!(%error, "cannot wait for the SSH agent of a build");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protected_keys_are_known() {
        let openssh = |cipher: &str| {
            let length = u32::try_from(cipher.len()).unwrap().to_be_bytes();
            let body = BASE64_STANDARD.encode([MAGIC, &length, cipher.as_bytes(), b"and so on"].concat());
            format!("{FIRST_LINE}\n{}\n{}\n-----END OPENSSH PRIVATE KEY-----\n", &body[..10], &body[10..])
        };
        assert!(is_protected(&openssh("aes256-ctr")) && !is_protected(&openssh("none")));
        assert!(is_protected("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"));
        assert!(is_protected("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        assert!(!is_protected("-----BEGIN PRIVATE KEY-----\nMIIE\n"));
    }
}
