//! Compose files in registries, as `docker compose publish` puts them there.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use rcompose_engine::image::{Artifact, ArtifactKind, Client, Descriptor, Reference};

use super::{Fetched, RemoteError, block_on, tree};
use crate::project::pull::Sources;

/// What an artifact with a project in it says it is.
pub(super) const KIND: ArtifactKind<'static> = ArtifactKind {
    artifact_type: "application/vnd.docker.compose.project",
    config_type: "application/vnd.docker.compose.config.empty.v1+json",
    max_size: 64 << 20,
};
/// The media type of compose files.
pub(super) const COMPOSE_FILE: &str = "application/vnd.docker.compose.file+yaml";
/// The media type of env files.
pub(super) const ENV_FILE: &str = "application/vnd.docker.compose.envfile";
/// Marks a compose file that another one extends.
pub(super) const EXTENDED: &str = "com.docker.compose.extends";
/// The name of a compose file.
pub(super) const COMPOSE_NAME: &str = "com.docker.compose.file";
/// The name of an env file.
pub(super) const ENV_NAME: &str = "com.docker.compose.envfile";
/// The file that all compose files that are laid over each other become documents of.
const MAIN: &str = "compose.yaml";

/// Fetches an artifact's files.
pub(super) fn fetch(reference: &str, cache: &Path) -> Result<Fetched, RemoteError> {
    let reference: Reference = reference.parse()?;
    let tree = block_on(async {
        let client = Sources::of_host().client()?;
        let artifact = client.artifact(&reference, KIND).await?;
        let name = artifact.digest.to_string().replace(':', "-");
        if !cache.join(&name).is_dir() {
            let files = download(&client, &artifact).await?;
            return tree(cache, &name, |directory| write(directory, &files));
        }
        Ok(cache.join(&name))
    })?;
    Ok(Fetched { file: tree.join(MAIN), tree })
}

async fn download<'a>(client: &Client, artifact: &'a Artifact) -> Result<Vec<(&'a Descriptor, Vec<u8>)>, RemoteError> {
    let mut files = Vec::new();
    for file in &artifact.files {
        if matches!(file.media_type.as_str(), COMPOSE_FILE | ENV_FILE) {
            files.push((file, client.artifact_file(artifact, file).await?));
        }
    }
    Ok(files)
}

fn write(directory: &Path, files: &[(&Descriptor, Vec<u8>)]) -> Result<(), RemoteError> {
    let mut is_first = true;
    for (file, content) in files {
        let annotation = |annotation: &'static str| {
            let missing = || RemoteError::NoAnnotation { digest: file.digest.to_string(), annotation };
            file.annotation(annotation).ok_or_else(missing)
        };
        let (name, separator) = if file.media_type == ENV_FILE {
            (annotation(ENV_NAME)?, "")
        } else if file.annotation(EXTENDED).is_some() {
            (annotation(COMPOSE_NAME)?, "")
        } else {
            (MAIN, if std::mem::take(&mut is_first) { "" } else { "\n---\n" })
        };
        if name.contains(['/', '\\', '\0']) || matches!(name, "" | "." | "..") {
            return Err(RemoteError::FileName(name.to_owned()));
        }
        let path = directory.join(name);
        let open = OpenOptions::new().create(true).append(true).open(&path);
        let written = open.and_then(|mut opened| {
            opened.write_all(separator.as_bytes())?;
            opened.write_all(content)
        });
        written.map_err(|source| RemoteError::Cache { path, source })?;
    }
    Ok(())
}
