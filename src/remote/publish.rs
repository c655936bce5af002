//! A project's compose files → an artifact in a registry, as `docker compose publish` puts it there ([`super::oci`] reads it).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcompose_engine::image::{
    Descriptor, Digest, PullOptions, PushError, Reference, RegistryError, copy, media, push_artifact,
};
use serde::Serialize;

use super::oci::{COMPOSE_FILE, COMPOSE_NAME, ENV_FILE, ENV_NAME, EXTENDED, KIND};
use crate::compose::portable::{Portable, Surroundings, env_name, extended_name, portable};
use crate::compose::source::Origin;
use crate::compose::{self, Diagnostic, Loaded};
use crate::project::labels::COMPOSE_VERSION;

/// The version of Docker Compose whose files these are.
const VERSION: &str = "com.docker.compose.version";
/// The configuration of an artifact: nothing, which has a type of its own since 1.1.
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What the file with the digests of images is called.
const DIGESTS: &str = "image-digests.yaml";

/// Why a project cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("cannot publish compose file with local includes")]
    LocalIncludes,
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not UTF-8", .0.display())]
    NotText(PathBuf),
    #[error("a compose file has faults")]
    Fault(Vec<Diagnostic>),
    #[error(transparent)]
    Push(#[from] PushError),
}

/// Which version of the OCI image specification a manifest follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OciVersion {
    /// The configuration's type says what it is.
    V1_0,
    /// It has a type of its own.
    V1_1,
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it is here.
    pub path: String,
    /// What it is called there.
    name: String,
    pub content: Vec<u8>,
    kind: FileKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Compose,
    Extended,
    Env,
}

/// The files of a project.
#[derive(Debug)]
pub struct Files {
    /// Those that are published.
    pub all: Vec<File>,
    /// The env files, which may be among them.
    pub env_files: BTreeSet<String>,
}

/// Returns the compose files of a project, and those that they extend; with `variables`, their env files too.
pub fn files(loaded: &Loaded, reader: &dyn compose::Files, variables: bool) -> Result<Files, PublishError> {
    let project = &loaded.project;
    let (mut all, mut open, mut env_files) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut take = |path: &Path, text: &str, directory: &Path| -> Result<(String, BTreeSet<String>), PublishError> {
        let directory = directory.to_string_lossy();
        let around = Surroundings { directory: &directory, environment: &project.environment };
        let Portable { text, env_files: named, extended, included } =
            portable(&path.to_string_lossy(), text, around).map_err(PublishError::Fault)?;
        if !included.is_empty() {
            return Err(PublishError::LocalIncludes);
        }
        env_files.extend(named);
        Ok((text, extended))
    };
    for source in loaded.resolved.sources.files().filter(|source| source.origin == Origin::Given) {
        let (text, extended) = take(&source.path, &source.text, &project.working_dir)?;
        let name = source.path.file_name().map_or_else(|| source.path.to_string_lossy(), |name| name.to_string_lossy());
        let (path, name) = (source.path.display().to_string(), name.into_owned());
        all.push(File { path, name, content: text.into_bytes(), kind: FileKind::Compose });
        open.extend(extended);
    }
    let mut done = BTreeSet::new();
    while let Some(path) = open.pop_first() {
        if !done.insert(path.clone()) {
            continue;
        }
        let text = String::from_utf8(read(&path, reader)?).map_err(|_| PublishError::NotText(PathBuf::from(&path)))?;
        let directory = Path::new(&path).parent().unwrap_or(Path::new("/"));
        let (text, extended) = take(Path::new(&path), &text, directory)?;
        let name = extended_name(&path);
        all.push(File { path, name, content: text.into_bytes(), kind: FileKind::Extended });
        open.extend(extended);
    }
    for path in env_files.iter().filter(|_| variables) {
        match read(path, reader) {
            Ok(content) => all.push(File { path: path.clone(), name: env_name(path), content, kind: FileKind::Env }),
            // One that need not be there.
            Err(PublishError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Files { all, env_files })
}

/// Returns the file that gives images their digests.
pub fn digests(text: String) -> File {
    let name = DIGESTS.to_owned();
    File { path: name.clone(), name, content: text.into_bytes(), kind: FileKind::Compose }
}

fn read(path: &str, reader: &dyn compose::Files) -> Result<Vec<u8>, PublishError> {
    reader.read(Path::new(path)).map_err(|source| PublishError::Read { path: path.into(), source })
}

/// Puts files into a registry. Without a version it is the newest that the registry takes. Returns what the artifact is.
pub async fn push(
    name: &Reference,
    files: &[File],
    version: Option<OciVersion>,
    created: jiff::Timestamp,
    options: &PullOptions,
) -> Result<Descriptor, PublishError> {
    let pushed = push_as(name, files, version.unwrap_or(OciVersion::V1_1), created, options).await;
    match pushed {
        Err(PushError::Registry { source, .. }) if version.is_none() && is_refused(&source) => {
            Ok(push_as(name, files, OciVersion::V1_0, created, options).await?)
        }
        pushed => Ok(pushed?),
    }
}

/// Returns whether a registry does not take what it was given, whoever gives it.
fn is_refused(error: &RegistryError) -> bool {
    match error {
        RegistryError::Status { status, .. } => status.is_client_error(),
        RegistryError::NotFound { .. } => true,
        _ => false,
    }
}

async fn push_as(
    name: &Reference,
    files: &[File],
    version: OciVersion,
    created: jiff::Timestamp,
    options: &PullOptions,
) -> Result<Descriptor, PushError> {
    let blobs = files.iter().map(|file| file.content.clone()).chain([EMPTY.to_vec()]).collect();
    let manifest = serde_json::to_vec(&Manifest::of(files, version, created)).expect("it has text as keys");
    let size = manifest.len() as u64;
    let digest = push_artifact(name, blobs, manifest, media::OCI_MANIFEST, options).await?;
    Ok(Descriptor::new(media::OCI_MANIFEST, digest, size))
}

/// Copies images into the repository of an artifact, and names them beside it. What is on its way is kept in `folder`.
pub async fn push_images(
    name: &Reference,
    artifact: Descriptor,
    images: &[Reference],
    folder: &Path,
    options: &PullOptions,
) -> Result<(), PublishError> {
    let mut manifests = Vec::new();
    for image in images {
        manifests.push(copy(image, name, folder, options).await?);
    }
    let version = (VERSION.to_owned(), COMPOSE_VERSION.to_owned());
    let mut subject = Descriptor { annotations: Some([version].into()), ..artifact };
    subject.other.insert("artifactType".to_owned(), KIND.artifact_type.into());
    let index = Index {
        schema_version: 2,
        media_type: media::OCI_INDEX,
        manifests,
        subject,
        annotations: BTreeMap::from([(VERSION, COMPOSE_VERSION)]),
    };
    let index = serde_json::to_vec(&index).expect("it has text as keys");
    let by_digest = name.with_digest(Digest::of(&index));
    push_artifact(&by_digest, Vec::new(), index, media::OCI_INDEX, options).await?;
    Ok(())
}

/// The images of an artifact.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
    /// The artifact.
    subject: Descriptor,
    annotations: BTreeMap<&'static str, &'static str>,
}

/// The manifest of an artifact, in the order that Go's library has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'static str>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<&'static str, String>,
}

impl Manifest {
    fn of(files: &[File], version: OciVersion, created: jiff::Timestamp) -> Self {
        let (artifact_type, config_type) = match version {
            OciVersion::V1_0 => (None, KIND.config_type),
            OciVersion::V1_1 => (Some(KIND.artifact_type), EMPTY_TYPE),
        };
        let created = created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Self {
            schema_version: 2,
            media_type: media::OCI_MANIFEST,
            artifact_type,
            config: descriptor(config_type, EMPTY, BTreeMap::new()),
            layers: files.iter().map(File::descriptor).collect(),
            annotations: BTreeMap::from([("org.opencontainers.image.created", created)]),
        }
    }
}

impl File {
    fn descriptor(&self) -> Descriptor {
        let (media_type, name) = match self.kind {
            FileKind::Compose | FileKind::Extended => (COMPOSE_FILE, COMPOSE_NAME),
            FileKind::Env => (ENV_FILE, ENV_NAME),
        };
        let mut annotations = BTreeMap::from([(name, self.name.as_str()), (VERSION, COMPOSE_VERSION)]);
        if self.kind == FileKind::Extended {
            annotations.insert(EXTENDED, "true");
        }
        descriptor(media_type, &self.content, annotations)
    }
}

/// Describes content, which is a part of the description.
fn descriptor(media_type: &str, content: &[u8], annotations: BTreeMap<&str, &str>) -> Descriptor {
    let mut descriptor = Descriptor::new(media_type, Digest::of(content), content.len() as u64);
    if !annotations.is_empty() {
        let annotations = annotations.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        descriptor.annotations = Some(annotations.collect());
    }
    descriptor.other.insert("data".to_owned(), STANDARD.encode(content).into());
    descriptor
}
