//! What was found wrong so far, and the files it was found in.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Severity};
use super::path::Path;
use super::source::{Sources, Span};

/// How many diagnostics are kept; who has more faults than this wants to see the first ones.
const MOST: usize = 100;

/// How many bytes variables, env files and ranges of ports may add to a project: the small text of a file may stand for an endless one.
const EXPANDED: usize = 16 << 20;

/// Collects diagnostics.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The files that were read.
    pub sources: Sources,
    list: Vec<Diagnostic>,
    /// The diagnostics that were pushed, by what makes them the same.
    known: HashSet<u64>,
    errors: usize,
    expanded: usize,
    /// Services that are not whole any more; what later stages would find in them only follows from what was found.
    tainted: BTreeSet<String>,
    /// A resource section lost something: references into it cannot be checked.
    tainted_sections: BTreeSet<String>,
}

impl Faults {
    /// Adds a diagnostic, unless the same was said of the same place before.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        // The path differs where a value got to several services (anchors, `extends`): one place is one fault.
        let words = match &diagnostic.path {
            Some(path) => Cow::Owned(diagnostic.message.replace(path.as_str(), "")),
            None => Cow::Borrowed(diagnostic.message.as_str()),
        };
        let place = diagnostic.labels.first().map(|label| (Arc::as_ptr(&label.file), &label.range));
        let mut hasher = DefaultHasher::new();
        (diagnostic.code, place, words).hash(&mut hasher);
        if !self.known.insert(hasher.finish()) {
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

    /// Whether an error is inside this place: what is missing there may only be missing because of it.
    pub(super) fn has_error_in(&self, span: Span) -> bool {
        let Some(file) = self.sources.of(span) else { return false };
        let inside = |range: &Range<usize>| range.start >= span.start as usize && range.end <= span.end as usize;
        self.list
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .filter_map(|diagnostic| diagnostic.labels.first())
            .any(|label| Arc::ptr_eq(&label.file, file) && inside(&label.range))
    }

    /// Whether more errors would not be shown: what is costly to say about them need not be found out.
    pub(super) fn is_full(&self) -> bool {
        self.errors >= MOST
    }

    /// Whether there is still room for what variables make.
    pub(super) fn can_expand(&self) -> bool {
        self.expanded <= EXPANDED
    }

    /// Notes that variables, an env file or a range of ports made so many bytes; false once that is too much.
    pub(super) fn expand(&mut self, bytes: usize) -> bool {
        self.expanded = self.expanded.saturating_add(bytes);
        if self.can_expand() {
            return true;
        }
        self.push(
            Diagnostic::error(
                "too-large",
                format!(
                    "variables, env files and ranges of ports make more than {} MiB of this project",
                    EXPANDED >> 20
                ),
            )
            .help(
                "a variable whose value has other variables several times grows with each level; look for such a chain",
            ),
        );
        false
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

    /// All diagnostics: warnings, then errors, in the order of the files and of the places in them; those without a place first.
    pub(super) fn take(&mut self) -> Vec<Diagnostic> {
        let mut list = std::mem::take(&mut self.list);
        let kept = list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
        list.sort_by_cached_key(|diagnostic| {
            let place = diagnostic.labels.first().map(|label| (self.sources.number(&label.file), label.range.start));
            (diagnostic.severity == Severity::Error, place)
        });
        if self.errors > kept {
            list.push(Diagnostic::error("more", format!("and {} errors more", self.errors - kept)));
        }
        list
    }
}
