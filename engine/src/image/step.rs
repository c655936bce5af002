//! The build cache: which layer a step of a build made, by the key that says everything that could have changed it.
//!
//! A record is one small file, replaced by rename. It is only believed while its layer and the blob of that are in the
//! store, so a record that a power cut left, or one whose layer was lost, is as good as none.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::blob::write_volatile;
use super::digest::Digest;
use super::store::{Store, StoreError, io_error};
use crate::root::make_directory;

/// What a step depends on, as one digest.
pub type StepKey = Digest;

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The diff id of its layer, which is also the digest of its blob.
    pub layer: Digest,
    /// Bytes of the files in it.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
    /// What it was called, such as `RUN make`.
    pub name: String,
    /// When it was last of use. Kept as the time of the record's file.
    #[serde(skip)]
    pub used: Option<Timestamp>,
}

impl Store {
    /// Returns what a step made, if that is still here, and notes that it was of use.
    pub fn step(&self, key: &StepKey) -> Result<Option<Step>, StoreError> {
        let path = self.step_path(key);
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        // What a power cut tore is none.
        let Ok(step) = serde_json::from_slice::<Step>(&content) else { return Ok(None) };
        if !self.has_layer(&step.layer) || !self.has_blob(&step.layer) {
            return Ok(None);
        }
        let touched = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        match touched {
            // Somebody prunes; the layer is kept by whoever builds (`Store::lease`).
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("set the time of", &path)(error));
            }
            _ => {}
        }
        Ok(Some(step))
    }

    /// Notes what a step made.
    pub fn remember_step(&self, key: &StepKey, step: &Step) -> Result<(), StoreError> {
        let directory = self.steps_path();
        make_directory(directory).map_err(io_error("create", directory))?;
        let path = self.step_path(key);
        let content = serde_json::to_vec(step).expect("a step can be written");
        write_volatile(&self.temporary(), &path, &content).map_err(io_error("write", &path))
    }

    /// Returns every record of a step.
    pub fn steps(&self) -> Result<Vec<(StepKey, Step)>, StoreError> {
        let directory = self.steps_path();
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error("list", directory))?,
        };
        let mut steps = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("list", directory))?;
            let Some(key) = entry.file_name().to_str().and_then(Digest::from_hex) else { continue };
            // Somebody may remove one after it was listed.
            let (Ok(content), Ok(metadata)) = (fs::read(entry.path()), entry.metadata()) else { continue };
            if let Ok(step) = serde_json::from_slice::<Step>(&content) {
                let used = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
                steps.push((key, Step { used, ..step }));
            }
        }
        Ok(steps)
    }

    /// Forgets what a step made; what nothing else refers to is freed by [`Store::gc`].
    pub fn forget_step(&self, key: &StepKey) -> Result<(), StoreError> {
        let path = self.step_path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn step_path(&self, key: &StepKey) -> PathBuf {
        self.steps_path().join(key.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_counts_while_its_layer_is_here() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("data")).unwrap();
        let key = Digest::of(b"key");
        let layer = store.put_blob(&[0; 1024]).unwrap();
        let step = Step { layer, size: 0, created: Timestamp::UNIX_EPOCH, name: "RUN true".into(), used: None };
        assert_eq!(store.step(&key).unwrap(), None);
        store.remember_step(&key, &step).unwrap();
        assert_eq!(store.step(&key).unwrap(), None, "its layer is not unpacked");
        let root = store.drafts("x");
        std::fs::create_dir(&root).unwrap();
        store.adopt_layer(&layer, &root, super::super::unpack::Unpacked::default()).unwrap();
        assert_eq!(store.step(&key).unwrap(), Some(step));
        store.gc::<StoreError>(|| Ok(Vec::new())).unwrap();
        assert!(store.step(&key).unwrap().is_some(), "the cache keeps it");
        store.forget_step(&key).unwrap();
        store.gc::<StoreError>(|| Ok(Vec::new())).unwrap();
        assert!(!store.has_layer(&layer) && !store.has_blob(&layer));
    }
}
