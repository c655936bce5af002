//! A container's output on disk: Docker's json-file format, written without losing or doubling a line even over a
//! `kill -9` of the writer, and read back whole, from the end, or as it grows.

pub mod config;
pub mod entry;
pub mod forward;
pub mod reader;
pub mod writer;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::id::Id;

pub use reader::{Follow, Options, follow, read};

/// Which output of a process a line came from. A terminal counts as standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Returns the word in the log, `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Returns the log file of a container; rotated ones have `.1`, `.2`, … behind it, the highest being the oldest.
pub fn path(bundle: &Path, id: &Id) -> PathBuf {
    bundle.join(format!("{id}-json.log"))
}

/// Returns the name of the rotated file number `index`; 0 is the current one.
fn rotated(path: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}
