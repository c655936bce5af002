//! Why something was not built.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::cache_mount::CacheMountError;
use super::copy::CopyError;
use super::graph::{Run, Span};
use super::layer::LayerError;
use super::run::RunError;
use super::tree::TreeError;
use super::uplink::UplinkError;
use crate::container::files::LayError;
use crate::container::{memory, user};
use crate::git::GitError;
use crate::host::HostError;
use crate::image::{Digest, DownloadError, StoreError};
use crate::network::files::InvalidHost;
use crate::shim::protocol::Failure;

/// Why something was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed.
    #[error("{name}: {source}")]
    Step {
        /// What the step is called.
        name: String,
        /// Where its instruction stands.
        at: Option<Span>,
        /// The last lines that it wrote.
        output: Vec<String>,
        /// Of a command: what there was before it.
        before: Option<Box<Before>>,
        /// What went wrong.
        #[source]
        source: Box<StepError>,
    },
    /// The image cannot be put together.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was built cannot be written where it is wanted.
    #[error("cannot write what was built: {source}")]
    Export {
        /// What went wrong.
        #[source]
        source: Box<StepError>,
    },
    /// The builder's own directories cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// This host cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// A step of another build, or one before, failed; that has been told.
    #[error("{0}")]
    Shared(Arc<BuildError>),
}

/// The state before a command.
#[derive(Debug, Clone)]
pub struct Before {
    /// The layers of its file system, bottom first.
    pub(crate) layers: Vec<Digest>,
    /// The command, as it was to be run.
    pub(crate) run: Run,
}

impl BuildError {
    /// Returns whether somebody wanted it to end.
    pub fn is_interruption(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Shared(error) => error.is_interruption(),
            _ => false,
        }
    }

    /// Adds what there was before the command that failed.
    pub(crate) fn with_state(mut self, state: Option<Box<Before>>) -> Self {
        if let Self::Step { before, .. } = &mut self {
            *before = state;
        }
        self
    }

    /// Returns the error itself, whoever else has it too.
    pub fn root(&self) -> &Self {
        match self {
            Self::Shared(error) => error.root(),
            error => error,
        }
    }
}

/// What went wrong in a step.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StepError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    User(#[from] user::UserError),
    #[error(transparent)]
    Network(#[from] UplinkError),
    #[error(transparent)]
    Hosts(#[from] InvalidHost),
    #[error(transparent)]
    CacheMount(#[from] CacheMountError),
    #[error("cannot read secret {id}")]
    Secret {
        id: String,
        #[source]
        source: memory::MemoryError,
    },
    #[error("secret {0}: not found")]
    NoSecret(String),
    #[error("secret {0} is not text, and cannot be a variable")]
    BinarySecret(String),
    #[error("the SSH agent {0:?} was not given to the build: use --ssh {0}")]
    NoAgent(String),
    #[error("cannot pass on to the SSH agent {id:?}")]
    Agent {
        id: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the build was not given the entitlement {0}")]
    Entitlement(&'static str),
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("{url} is not what it should be: its checksum is {actual}, and not {expected}")]
    Checksum { url: String, expected: String, actual: String },
    #[error("cannot unpack the build context")]
    Unpack(#[source] LayError),
    #[error("the build context has more than {limit} bytes")]
    LargeContext { limit: u64 },
    #[error("{} has more than {limit} bytes, and is no archive", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("there is no directory {0} in the repository")]
    NoDirectory(String),
    #[error("there is no build context called {0:?}")]
    NoContext(String),
    #[error("image {0} was removed meanwhile")]
    NoImage(String),
    #[error("{0:?} is not a valid mode")]
    Mode(String),
    #[error("{pattern:?} is not a valid pattern")]
    Pattern { pattern: String },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    System(Failure),
    #[error("the image {0} has no program: it is no generator of SBOMs")]
    NoGenerator(String),
    #[error("the generator has written no statement")]
    NoStatement,
    #[error("what the generator has written cannot be read: {file}")]
    Statement {
        file: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("what the generator has written does not say what it is: {0} has no predicateType")]
    Untyped(String),
    #[error("a worker stopped unexpectedly")]
    Worker,
    #[error("interrupted")]
    Interrupted,
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        Self::System(failure)
    }
}
