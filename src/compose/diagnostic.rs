//! Errors and warnings that know their place.
//!
//! A diagnostic holds everything that is needed to show it: the text of the files it points to comes with it. How it
//! is drawn is the business of `ui::diagnostics`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::source::{Origin, SourceFile, Sources, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The project can be used.
    Warning,
    /// The project cannot be used.
    Error,
}

/// A place in a file with a word about it.
#[derive(Debug, Clone)]
pub struct Label {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Byte offsets into the file's text.
    pub range: Range<usize>,
    /// What is there; may be empty.
    pub text: String,
}

/// One fault of the compose files, or one remark about them.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What kind of fault it is, for programs: `unknown-key`, `undefined-network`, …
    pub code: &'static str,
    /// What is wrong: lower-case, one sentence, no full stop.
    pub message: String,
    /// The dotted path of the attribute (`services.web.ports[0]`), where it has one.
    pub path: Option<String>,
    /// The places; the first is where the fault is.
    pub labels: Vec<Label>,
    /// What to do about it.
    pub help: Vec<String>,
    /// How the file of the first place came to be read, nearest first (`included by compose.yaml:3:5`).
    pub chain: Vec<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            path: None,
            labels: Vec::new(),
            help: Vec::new(),
            chain: Vec::new(),
        }
    }

    /// A warning without a place.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds the path of the attribute.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Adds a place; the first one added is where the fault is.
    #[must_use]
    pub fn label(mut self, sources: &Sources, span: Span, text: impl Into<String>) -> Self {
        let Some(file) = sources.of(span) else {
            return self;
        };
        if self.labels.is_empty() {
            self.chain = chain(sources, file);
        }
        let length = file.text.len();
        let start = (span.start as usize).min(length);
        self.labels.push(Label {
            file: file.clone(),
            range: start..(span.end as usize).clamp(start, length),
            text: text.into(),
        });
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// The file, line and column (from 1) of the fault.
    pub fn position(&self) -> Option<(&Path, usize, usize)> {
        let label = self.labels.first()?;
        let (line, column) = label.file.position(label.range.start);
        Some((&label.file.path, line, column))
    }

    /// One line: `file:line:column: message`.
    pub fn summary(&self) -> String {
        match self.position() {
            Some((file, line, column)) => {
                format!("{}:{line}:{column}: {}", file.display(), self.message)
            }
            None => self.message.clone(),
        }
    }
}

/// Says how a file came to be read.
fn chain(sources: &Sources, file: &SourceFile) -> Vec<String> {
    let mut links = Vec::new();
    let mut origin = &file.origin;
    while let Some((verb, span)) = match origin {
        Origin::Included(span) => Some(("included", *span)),
        Origin::Extended(span) => Some(("extended", *span)),
        Origin::Variables(span) if span.is_some() => Some(("read", *span)),
        Origin::Given | Origin::Variables(_) => None,
    } {
        let (Some(place), Some(parent)) = (sources.describe(span), sources.of(span)) else {
            break;
        };
        links.push(format!("{verb} by {place}"));
        origin = &parent.origin;
    }
    links
}
