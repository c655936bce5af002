//! `rcompose doctor`: what this host has and lacks, and the cure.

mod cgroups;
mod kernel;
mod network;
mod storage;

use rcompose_engine::root::Root;
use serde::Serialize;

pub use self::network::registry;

/// What is to be thought of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// Something will not work, or will be a surprise.
    Doubtful,
    /// Nothing will run.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub subject: String,
    pub verdict: Verdict,
    /// How it is.
    pub says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    fn new(verdict: Verdict, subject: &str, says: impl Into<String>, cure: Option<&str>) -> Self {
        Self { subject: subject.to_owned(), verdict, says: says.into(), cure: cure.map(str::to_owned) }
    }

    fn good(subject: &str, says: impl Into<String>) -> Self {
        Self::new(Verdict::Good, subject, says, None)
    }

    fn doubtful(subject: &str, says: impl Into<String>, cure: &str) -> Self {
        Self::new(Verdict::Doubtful, subject, says, Some(cure))
    }

    fn bad(subject: &str, says: impl Into<String>, cure: &str) -> Self {
        Self::new(Verdict::Bad, subject, says, Some(cure))
    }
}

/// Looks at everything but registries, which takes a runtime ([`registry`]).
pub fn examine(root: &Root) -> Vec<Finding> {
    let mut findings = kernel::examine();
    findings.extend(cgroups::examine());
    findings.extend(storage::examine(root));
    findings.extend(network::examine());
    findings
}
