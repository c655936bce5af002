//! The OCI runtime: containers that somebody else describes, in a bundle, and looks after (OCI runtime specification).
//!
//! It makes them with the code that makes the engine's own (`shim::init`, [`crate::container`]). Nothing of ours stays
//! beside such a container: its process is a child of whoever called, which passes it on to the caller's caller when it
//! ends. What later calls need to know is in the state directory.

mod attached;
mod convert;
mod create;
mod exec;
pub mod features;
mod lifecycle;
pub mod portable;
mod state;

use std::io;
use std::path::PathBuf;

use oci_spec::runtime::ContainerState;

pub use self::convert::default_spec;
pub use self::create::Create;
pub use self::exec::{Exec, Overrides};
pub use self::lifecycle::Listed;
pub use self::state::{Record, Runtime, Status};
use crate::shim::protocol::Failure;

/// The newest version of the specification that is understood.
pub const VERSION: &str = "1.2.1";

/// Why something could not be done with a container. The words are those of runc, which callers look for.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("invalid container ID format: `{0}`")]
    Id(String),
    #[error("container with given ID already exists: `{0}`")]
    Exists(String),
    #[error("container does not exist: `{0}`")]
    Unknown(String),
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a valid configuration", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// A property of the configuration, and what is wrong with it.
    #[error("{property}: {reason}")]
    Property { property: String, reason: String },
    #[error("{0}")]
    Usage(&'static str),
    #[error("container not {wanted}: `{id}` is {status}")]
    Status { id: String, status: Status, wanted: &'static str },
    #[error("signal `{0}` does not exist")]
    Signal(String),
    #[error("cannot signal the container's processes")]
    Kill(#[source] nix::Error),
    #[error("cannot use the console socket {}", path.display())]
    Console {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot pass data through the terminal")]
    Terminal(#[source] io::Error),
    #[error("cannot learn about this host")]
    Host(#[from] crate::host::HostError),
    /// A step of the creation failed.
    #[error("{0}")]
    Step(Failure),
}

impl OciError {
    fn property(property: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Property { property: property.into(), reason: reason.into() }
    }

    /// Returns the exit code for `run` and `exec`, as Docker's: 126 and 127 where the program cannot be executed.
    pub fn code(&self) -> i32 {
        match self {
            Self::Step(failure) if matches!(failure.code, 126 | 127) => failure.code,
            _ => 1,
        }
    }
}

impl From<Failure> for OciError {
    fn from(failure: Failure) -> Self {
        Self::Step(failure)
    }
}

impl From<Status> for ContainerState {
    fn from(status: Status) -> Self {
        match status {
            Status::Creating => Self::Creating,
            Status::Created => Self::Created,
            Status::Running | Status::Paused => Self::Running,
            Status::Stopped => Self::Stopped,
        }
    }
}
