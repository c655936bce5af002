//! Registry credentials, as Docker keeps them: `~/.docker/config.json` and credential helpers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::reference::DEFAULT_REGISTRY;

/// The name that Docker keeps the credentials of `docker.io` under.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Most that a credential helper may answer, in bytes.
const MAX_ANSWER: u64 = 1024 * 1024;

/// What proves to a registry who is asking.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user name and a password (or an access token in its place).
    Basic {
        /// The user.
        username: String,
        /// The secret.
        password: String,
    },
    /// A refresh token, to be exchanged for access tokens.
    Identity {
        /// The secret.
        token: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets do not belong in logs.
        match self {
            Self::Basic { username, .. } => write!(formatter, "Basic({username})"),
            Self::Identity { .. } => formatter.write_str("Identity"),
        }
    }
}

/// Why credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The configuration cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The configuration is not of Docker's form.
    #[error("{} is invalid: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// An entry of the configuration holds no credentials.
    #[error("{} has an invalid entry for {registry}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The registry.
        registry: String,
    },
    /// A credential helper failed.
    #[error("credential helper {program} failed: {message}")]
    Helper {
        /// The program's name.
        program: String,
        /// What it or the system said.
        message: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfigFile {
    auths: BTreeMap<String, AuthEntry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Looks credentials up in a Docker configuration file, asking its helpers. Blocks.
pub fn find_credentials(config: &Path, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let content = match fs::read(config) {
        Ok(content) => content,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(CredentialsError::Io { action: "read", path: config.to_owned(), source }),
    };
    let file: DockerConfigFile = serde_json::from_slice(&content)
        .map_err(|source| CredentialsError::Parse { path: config.to_owned(), source })?;
    let key = config_key(registry);
    if let Some(helper) = file.cred_helpers.get(registry).or_else(|| file.cred_helpers.get(key)) {
        return ask_helper(helper, key);
    }
    if let Some(helper) = file.creds_store.as_deref().filter(|helper| !helper.is_empty())
        && let Some(found) = ask_helper(helper, key)?
    {
        return Ok(Some(found));
    }
    let entry = file.auths.get(key).or_else(|| {
        // Older files have URLs for keys.
        file.auths.iter().find(|(name, _)| bare_host(name) == bare_host(key)).map(|(_, entry)| entry)
    });
    let Some(entry) = entry else {
        return Ok(None);
    };
    let invalid = || CredentialsError::Entry { path: config.to_owned(), registry: registry.to_owned() };
    if let Some(token) = entry.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Credentials::Identity { token: token.clone() }));
    }
    if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        let decoded = BASE64.decode(auth.trim()).map_err(|_| invalid())?;
        let decoded = String::from_utf8(decoded).map_err(|_| invalid())?;
        let (username, password) = decoded.split_once(':').ok_or_else(invalid)?;
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Some(Credentials::Basic { username: username.to_owned(), password }));
    }
    Ok(match (&entry.username, &entry.password) {
        (Some(username), Some(password)) if !username.is_empty() => {
            Some(Credentials::Basic { username: username.clone(), password: password.clone() })
        }
        // Helpers leave empty entries behind.
        _ => None,
    })
}

/// Keeps a user name and a password for a registry (`login`), in the helper that the configuration names, or in the
/// file itself, encoded but not encrypted. Returns whether a helper has them.
pub fn save_credentials(
    config: &Path,
    registry: &str,
    username: &str,
    password: &str,
) -> Result<bool, CredentialsError> {
    let key = config_key(registry);
    let mut helped = false;
    change_config(config, |document| {
        if let Some(helper) = helper_of(document, registry) {
            let request = serde_json::json!({"ServerURL": key, "Username": username, "Secret": password});
            run_helper(&helper, "store", request.to_string().as_bytes())?;
            document_entry(document, "auths").insert(key.to_owned(), serde_json::json!({}));
            helped = true;
        } else {
            let auth = BASE64.encode(format!("{username}:{password}"));
            document_entry(document, "auths").insert(key.to_owned(), serde_json::json!({"auth": auth}));
        }
        Ok(())
    })?;
    Ok(helped)
}

/// Forgets the credentials of a registry (`logout`). Returns whether there were any.
pub fn erase_credentials(config: &Path, registry: &str) -> Result<bool, CredentialsError> {
    let key = config_key(registry);
    let mut existed = false;
    change_config(config, |document| {
        if let Some(helper) = helper_of(document, registry) {
            run_helper(&helper, "erase", key.as_bytes())?;
        }
        existed = document_entry(document, "auths").remove(key).is_some();
        Ok(())
    })?;
    Ok(existed)
}

type Document = serde_json::Map<String, serde_json::Value>;

fn document_entry<'a>(document: &'a mut Document, key: &str) -> &'a mut Document {
    let entry = document.entry(key).or_insert_with(|| serde_json::json!({}));
    if !entry.is_object() {
        *entry = serde_json::json!({});
    }
    entry.as_object_mut().expect("it was made an object just now")
}

fn helper_of(document: &Document, registry: &str) -> Option<String> {
    let own = document.get("credHelpers").and_then(|helpers| helpers.get(registry));
    let helper = own.or_else(|| document.get("credsStore"))?.as_str()?;
    (!helper.is_empty()).then(|| helper.to_owned())
}

/// Reads, changes and replaces the file; what we don't know in it stays.
fn change_config(
    config: &Path,
    change: impl FnOnce(&mut Document) -> Result<(), CredentialsError>,
) -> Result<(), CredentialsError> {
    // People keep it elsewhere and link to it; the link stays.
    let target = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    let config = target.as_path();
    let io_error = |action| {
        let path = config.to_owned();
        move |source| CredentialsError::Io { action, path, source }
    };
    let owner = fs::metadata(config).ok().map(|metadata| (metadata.uid(), metadata.gid()));
    let mut document = match fs::read(config) {
        Ok(content) => serde_json::from_slice(&content)
            .map_err(|source| CredentialsError::Parse { path: config.to_owned(), source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Document::new(),
        Err(error) => return Err(io_error("read")(error)),
    };
    change(&mut document)?;
    let directory = config.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(io_error("create the directory of"))?;
    let content = serde_json::to_vec_pretty(&document)
        .map_err(|source| CredentialsError::Parse { path: config.to_owned(), source })?;
    super::blob::write_file(directory, config, &content).map_err(io_error("write"))?;
    // With the home of somebody else, as under sudo, it stays theirs.
    match owner {
        Some((user, group)) => chown(config, Some(user), Some(group)).map_err(io_error("give back")),
        None => Ok(()),
    }
}

fn config_key(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { registry }
}

fn bare_host(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn ask_helper(helper: &str, server: &str) -> Result<Option<Credentials>, CredentialsError> {
    let answer = match run_helper(helper, "get", server.as_bytes()) {
        Ok(answer) => answer,
        // The one message that helpers are told apart by.
        Err(CredentialsError::Helper { message, .. }) if message.contains("credentials not found") => return Ok(None),
        Err(error) => return Err(error),
    };
    let answer: HelperAnswer = serde_json::from_slice(&answer).map_err(|error| CredentialsError::Helper {
        program: format!("docker-credential-{helper}"),
        message: format!("it answered something else than credentials ({error})"),
    })?;
    Ok(Some(if answer.username == "<token>" {
        Credentials::Identity { token: answer.secret }
    } else {
        Credentials::Basic { username: answer.username, password: answer.secret }
    }))
}

fn run_helper(helper: &str, action: &str, input: &[u8]) -> Result<Vec<u8>, CredentialsError> {
    let program = format!("docker-credential-{helper}");
    let failed = |message: String| CredentialsError::Helper { program: program.clone(), message };
    if helper.is_empty() || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(failed("its name is invalid".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("cannot start it: {error}")))?;
    let written = child.stdin.take().expect("stdin was asked for").write_all(input);
    let mut answer = Vec::new();
    let read = child.stdout.take().expect("stdout was asked for").take(MAX_ANSWER).read_to_end(&mut answer);
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    read.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        // Helpers complain on stdout.
        let message: String = String::from_utf8_lossy(&answer).trim().chars().take(300).collect();
        return Err(failed(if message.is_empty() { status.to_string() } else { message }));
    }
    match written {
        // One that has read enough may close its input.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error.to_string())),
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn entries_of_every_age_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.json");
        assert_eq!(find_credentials(&config, "docker.io").unwrap(), None);
        let auth = BASE64.encode("user:pa:ss");
        let document = serde_json::json!({
            "auths": {
                DOCKER_HUB_KEY: {"auth": auth},
                "https://old.test/v1/": {"username": "u", "password": "p"},
                "h.test:5000": {"identitytoken": "t"},
                "empty.test": {},
                "bad.test": {"auth": "%%%"},
            },
            "HttpHeaders": {"x": "y"},
        });
        fs::write(&config, document.to_string()).unwrap();
        assert_eq!(find_credentials(&config, "docker.io").unwrap(), Some(basic("user", "pa:ss")));
        assert_eq!(find_credentials(&config, "old.test").unwrap(), Some(basic("u", "p")));
        assert_eq!(
            find_credentials(&config, "h.test:5000").unwrap(),
            Some(Credentials::Identity { token: "t".into() })
        );
        assert_eq!(find_credentials(&config, "h.test").unwrap(), None);
        assert_eq!(find_credentials(&config, "empty.test").unwrap(), None);
        assert!(matches!(find_credentials(&config, "bad.test"), Err(CredentialsError::Entry { .. })));
        let secret = format!("{:?}", find_credentials(&config, "docker.io").unwrap());
        assert!(!secret.contains("pa:ss"), "{secret}");
    }

    #[test]
    fn login_and_logout_keep_the_rest_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("sub/config.json");
        save_credentials(&config, "docker.io", "me", "secret").unwrap();
        save_credentials(&config, "r.test", "you", "x").unwrap();
        assert_eq!(find_credentials(&config, "docker.io").unwrap(), Some(basic("me", "secret")));
        assert!(erase_credentials(&config, "docker.io").unwrap());
        assert!(!erase_credentials(&config, "docker.io").unwrap());
        assert_eq!(find_credentials(&config, "docker.io").unwrap(), None);
        assert_eq!(find_credentials(&config, "r.test").unwrap(), Some(basic("you", "x")));
        let link = directory.path().join("link.json");
        std::os::unix::fs::symlink(&config, &link).unwrap();
        save_credentials(&link, "l.test", "me", "y").unwrap();
        assert!(link.is_symlink());
        assert_eq!(find_credentials(&config, "l.test").unwrap(), Some(basic("me", "y")));
    }

    #[test]
    fn helpers_with_evil_names_are_not_run() {
        for helper in ["", "../x", "a b", "x;y"] {
            assert!(matches!(ask_helper(helper, "h"), Err(CredentialsError::Helper { .. })), "{helper}");
        }
        let error = ask_helper("rcompose-there-is-no-such", "h").unwrap_err().to_string();
        assert!(error.contains("docker-credential-rcompose-there-is-no-such"), "{error}");
    }
}
