//! What was found wrong so far, and the files it was found in.

use std::collections::BTreeSet;

use super::diagnostic::{Diagnostic, Severity};
use super::path::Path;
use super::source::Sources;

/// How many diagnostics are kept; who has more faults than this wants to see the first ones.
const MOST: usize = 100;

/// Collects diagnostics.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The files that were read.
    pub sources: Sources,
    list: Vec<Diagnostic>,
    errors: usize,
    /// Services that are not whole any more; what later stages would find in them only follows from what was found.
    tainted: BTreeSet<String>,
    /// A resource section lost something: references into it cannot be checked.
    tainted_sections: BTreeSet<String>,
}

impl Faults {
    /// Adds a diagnostic, unless the same was said of the same place before.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        let place = |diagnostic: &Diagnostic| {
            diagnostic.labels.first().map(|label| (std::sync::Arc::as_ptr(&label.file), label.range.clone()))
        };
        // The path differs where a value got to several services (anchors, `extends`): one place is one fault.
        let words = |diagnostic: &Diagnostic| match &diagnostic.path {
            Some(path) => diagnostic.message.replace(path.as_str(), ""),
            None => diagnostic.message.clone(),
        };
        let known = self.list.iter().any(|other| {
            other.code == diagnostic.code && place(other) == place(&diagnostic) && words(other) == words(&diagnostic)
        });
        if known {
            return;
        }
        if diagnostic.severity == Severity::Error {
            self.errors += 1;
        }
        if self.list.len() < MOST || (diagnostic.severity == Severity::Error && self.kept_errors() < MOST) {
            self.list.push(diagnostic);
        }
    }

    fn kept_errors(&self) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// How many errors there are.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// Notes that what is at a path has been taken away or is not right.
    pub(super) fn taint(&mut self, path: &Path<'_>) {
        match path.top() {
            (Some("services"), Some(service)) => {
                self.tainted.insert(service.to_owned());
            }
            (Some(section), _) => {
                self.tainted_sections.insert(section.to_owned());
            }
            _ => {}
        }
    }

    /// Whether a service is not whole.
    pub(super) fn is_tainted(&self, service: &str) -> bool {
        self.tainted.contains(service)
    }

    /// Whether a top-level section is not whole.
    pub(super) fn is_section_tainted(&self, section: &str) -> bool {
        self.tainted_sections.contains(section)
    }

    /// All diagnostics, in the order of the files and the places in them; those without a place first.
    pub(super) fn take(&mut self) -> Vec<Diagnostic> {
        let mut list = std::mem::take(&mut self.list);
        let kept = list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
        if self.errors > kept {
            list.push(Diagnostic::error("more", format!("and {} errors more", self.errors - kept)));
        }
        list.sort_by_key(|diagnostic| diagnostic.severity == Severity::Error);
        list
    }
}
