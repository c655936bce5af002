//! How a build goes on, for whoever shows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::StepError;

/// Is told how builds go on. Called from several threads; it should be quick.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which build of this process.
    pub build: Arc<str>,
    /// Which of the build's graphs: there is one for each platform.
    pub graph: usize,
    /// Which vertex of its graph; what is not one comes after all that are.
    pub vertex: usize,
    /// What it is called: `[build 2/5] RUN make`.
    pub name: Arc<str>,
    /// What happens.
    pub phase: Phase,
}

/// What happens to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It has begun.
    Started,
    /// Its result was known.
    Cached,
    /// A line that it wrote.
    Output(Vec<u8>),
    /// Something that the user is to know of it, in lines, of which the first says it all. It stays.
    Remark(Vec<String>),
    /// So many bytes have come of what it fetches; of so many, where that is known.
    Received(u64, Option<u64>),
    /// It is done, after this time.
    Done(Duration),
    /// It failed, after this time.
    Failed(Duration, String),
    /// Something else failed, or somebody interrupted it.
    Cancelled,
}

impl Phase {
    /// Returns what happens to a step that began then and comes to nothing.
    pub(super) fn ended(begun: Instant, error: &StepError) -> Self {
        match error {
            StepError::Interrupted => Self::Cancelled,
            error => Self::Failed(begun.elapsed(), error.to_string()),
        }
    }
}
