//! The built-in image `rcompose.local/whoami`: the program itself, which answers HTTP requests when it is called
//! `whoami`. It needs no registry, so that a first stack runs on a machine without a network.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::config::Image;
use super::digest::Digest;
use super::layer::LayerJob;
use super::manifest::{Descriptor, Platform, media};
use super::reference::Reference;
use super::store::{Store, StoreError};
use super::unpack::Limits;

/// The registry that exists only here.
const REGISTRY: &str = "rcompose.local";
const REPOSITORY: &str = "whoami";
/// Annotation that tells which binary the image was made of.
const FINGERPRINT: &str = "rcompose.builtin.fingerprint";
/// When the image claims to be from: one binary makes one image, whenever it is made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Why the built-in image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinError {
    /// There is no other image of that registry.
    #[error("the only built-in image is {REGISTRY}/{REPOSITORY}")]
    Unknown,
    /// Whoever asked did not say where the program is.
    #[error("the path of the rcompose binary is not known")]
    NoBinary,
    /// The program cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Binary {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Tells whether a reference is to a built-in image, so that no registry is ever asked for it.
pub fn is_builtin(reference: &Reference) -> bool {
    reference.registry() == REGISTRY
}

/// Returns the built-in image, making it if it is not there or was made of another binary.
pub fn ensure(store: &Store, reference: &Reference, binary: &Path) -> Result<Image, BuiltinError> {
    if reference.registry() != REGISTRY || reference.repository() != REPOSITORY || reference.digest().is_some() {
        return Err(BuiltinError::Unknown);
    }
    let unreadable = |source| BuiltinError::Binary { path: binary.to_owned(), source };
    let file = File::open(binary).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let fingerprint = format!(
        "{} {}:{} {} {}.{}",
        env!("CARGO_PKG_VERSION"),
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    if let Some(image) = store.get(reference)? {
        let index = store.index()?;
        let entry = index.manifests.iter().find(|entry| entry.digest == image.digest);
        if entry.is_some_and(|entry| entry.annotation(FINGERPRINT) == Some(&fingerprint)) {
            return Ok(image);
        }
    }
    let _lease = store.lease()?;
    let head = archive_head(metadata.len());
    let tail = vec![0; usize::try_from(metadata.len().wrapping_neg() % 512).expect("less than a block") + 1024];
    // Twice through the binary: once for the digest that the copy must have, then for the copy.
    let (digest, length) = Digest::of_reader(&mut archive(&head, &file, metadata.len(), &tail)).map_err(unreadable)?;
    let layer = Descriptor::new(media::OCI_LAYER, digest, length);
    let job = LayerJob { descriptor: layer.clone(), diff_id: digest, limits: Limits::default() };
    {
        let _locks = store.lock_layer(&job, || ())?;
        if !store.has_layer(&digest) || !store.has_blob(&digest) {
            use std::io::Seek as _;
            (&file).rewind().map_err(unreadable)?;
            let (blob, _) = store.partial_blob(&digest)?;
            blob.file().set_len(0).map_err(unreadable)?;
            let archive = archive(&head, &file, metadata.len(), &tail);
            let received = store.receive_layer(&job, archive, Some((blob, 0)), || false)?;
            store.commit_layer(&job, received)?;
        }
    }
    let platform = Platform::host();
    let config = serde_json::json!({
        "created": CREATED,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "Entrypoint": ["/whoami"],
            "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {
                "Test": ["CMD", "/whoami", "--health"],
                "Interval": 5_000_000_000_i64,
                "Timeout": 2_000_000_000_i64,
                "StartPeriod": 5_000_000_000_i64,
                "Retries": 3,
            },
            "Labels": {
                "org.opencontainers.image.title": "whoami",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [digest]},
        "history": [{"created": CREATED, "created_by": "rcompose"}],
    });
    let (_, entry) = store.put_image(&config, vec![layer], platform, BTreeMap::new())?;
    store.set_entry(reference, entry.with_annotation(FINGERPRINT, fingerprint))?;
    store.get(reference)?.ok_or_else(|| StoreError::NoSuchImage(reference.familiar()).into())
}

/// The directories that a program may want, and the header of the program itself.
fn archive_head(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut header = |path: &str, kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).expect("the path is short");
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        bytes.write_all(header.as_bytes()).expect("writing to memory cannot fail");
    };
    for directory in ["dev/", "etc/", "proc/", "sys/"] {
        header(directory, tar::EntryType::Directory, 0o755, 0);
    }
    header("tmp/", tar::EntryType::Directory, 0o1777, 0);
    header("whoami", tar::EntryType::Regular, 0o755, length);
    bytes
}

fn archive<'a>(head: &'a [u8], file: &'a File, length: u64, tail: &'a [u8]) -> impl Read + 'a {
    // Of a binary that grows meanwhile, the length that was promised; of one that shrinks, a wrong digest.
    Cursor::new(head).chain(file.take(length)).chain(Cursor::new(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_again_when_the_binary_changes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("data")).unwrap();
        let binary = directory.path().join("rcompose");
        std::fs::write(&binary, b"\x7fELF one").unwrap();
        let reference: Reference = "rcompose.local/whoami".parse().unwrap();
        assert!(is_builtin(&reference));
        assert!(store.get(&reference).unwrap().is_none());
        let first = ensure(&store, &reference, &binary).unwrap();
        assert_eq!(first.config.config().as_ref().unwrap().entrypoint().as_deref(), Some(&["/whoami".to_owned()][..]));
        assert_eq!(first.docker.healthcheck.as_ref().unwrap().test.as_ref().unwrap()[2], "--health");
        assert_eq!(store.read_file(&first, "/whoami").unwrap().unwrap(), b"\x7fELF one");
        assert_eq!(ensure(&store, &reference, &binary).unwrap(), first);
        std::fs::write(&binary, b"\x7fELF other").unwrap();
        let second = ensure(&store, &reference, &binary).unwrap();
        assert_ne!(second.id, first.id);
        assert_eq!(store.read_file(&second, "/whoami").unwrap().unwrap(), b"\x7fELF other");
        assert_eq!(store.get(&reference).unwrap().unwrap(), second);
        let other = "rcompose.local/other".parse().unwrap();
        assert!(matches!(ensure(&store, &other, &binary), Err(BuiltinError::Unknown)));
    }
}
