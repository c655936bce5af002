//! `build`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::service::{FileMount, Ulimit};
use super::text;

/// How the image of a service is built.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    /// The directory, tar file or URL that is built.
    pub context: String,
    /// The Dockerfile, relative to the context.
    pub dockerfile: String,
    /// The Dockerfile's text; exclusive with `dockerfile`.
    pub dockerfile_inline: Option<String>,
    pub entitlements: Vec<String>,
    /// Build arguments. None: one that has no value anywhere.
    pub args: BTreeMap<String, Option<String>>,
    pub provenance: Option<String>,
    pub sbom: Option<String>,
    /// `id` or `id: path`, as printed.
    pub ssh: Vec<SshKey>,
    pub labels: BTreeMap<String, String>,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    pub no_cache: bool,
    /// Name to directory, URL, `docker-image://…`, `oci-layout://…` or `service:NAME`.
    pub additional_contexts: BTreeMap<String, String>,
    pub pull: bool,
    /// `host=address`.
    pub extra_hosts: Vec<String>,
    pub isolation: Option<String>,
    pub network: Option<String>,
    pub target: Option<String>,
    pub secrets: Vec<FileMount>,
    /// Bytes; 0: the default.
    #[serde(with = "text::decimal")]
    pub shm_size: i64,
    pub tags: Vec<String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub platforms: Vec<String>,
    pub privileged: bool,
}

/// An SSH agent socket or key given to the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct SshKey {
    pub id: String,
    /// None: the agent of the user.
    pub path: Option<String>,
}

impl From<String> for SshKey {
    fn from(text: String) -> Self {
        match text.split_once(": ") {
            Some((id, path)) => Self { id: id.to_owned(), path: Some(path.to_owned()) },
            None => Self { id: text, path: None },
        }
    }
}

impl From<SshKey> for String {
    fn from(key: SshKey) -> Self {
        match key.path {
            Some(path) => format!("{}: {path}", key.id),
            None => key.id,
        }
    }
}
