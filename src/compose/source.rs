//! The files that were read, and places in them.

use std::path::PathBuf;
use std::sync::Arc;

/// A piece of a file: byte offsets into the text of one of the [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    file: u32,
    /// Byte offset of the first byte.
    pub start: u32,
    /// Byte offset behind the last byte.
    pub end: u32,
}

impl Span {
    /// The place of what stands in no file.
    pub const NONE: Self = Self { file: u32::MAX, start: 0, end: 0 };

    /// A piece of the file with this number.
    pub fn new(file: u32, start: usize, end: usize) -> Self {
        let clamp = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Self { file, start: clamp(start), end: clamp(end) }
    }

    /// Whether it is a place in a file.
    pub fn is_some(self) -> bool {
        self.file != u32::MAX
    }

    /// This place, or the other one where this is none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.is_some() { self } else { other }
    }

    /// The number of the file.
    pub fn file(self) -> Option<u32> {
        self.is_some().then_some(self.file)
    }
}

/// How a file came to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Given with `-f`, by `COMPOSE_FILE`, or found.
    Given,
    /// Named by `include` at this place.
    Included(Span),
    /// Named by `extends` at this place.
    Extended(Span),
    /// An env file or a label file, named at this place (none: given on the command line or found).
    Variables(Span),
}

/// A file that was read.
pub struct SourceFile {
    /// The path as it was opened; `-` for standard input.
    pub path: PathBuf,
    /// The text; what was not UTF-8 is replaced.
    pub text: String,
    /// Why it was read.
    pub origin: Origin,
}

/// Everything but the text.
impl std::fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceFile").field("path", &self.path).field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl SourceFile {
    /// The line and column (both from 1, columns in characters) of a byte offset.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().map(|byte| usize::from(*byte == b'\n')).sum::<usize>() + 1;
        // Every character has one byte that does not go on with another's.
        let column = before[line_start..].iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
        (line, column)
    }
}

/// All files that were read in one run.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Arc<SourceFile>>,
}

impl Sources {
    /// Adds a file and returns its number.
    pub fn add(&mut self, file: SourceFile) -> u32 {
        self.files.push(Arc::new(file));
        u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX - 1)
    }

    /// The file with this number.
    pub fn file(&self, number: u32) -> Option<&Arc<SourceFile>> {
        self.files.get(number as usize)
    }

    /// All files, in the order in which they were read.
    pub fn files(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().map(|file| &**file)
    }

    /// The number of a file.
    pub fn number(&self, file: &Arc<SourceFile>) -> Option<usize> {
        self.files.iter().position(|known| Arc::ptr_eq(known, file))
    }

    /// The file that a place is in.
    pub fn of(&self, span: Span) -> Option<&Arc<SourceFile>> {
        self.file(span.file()?)
    }

    /// The text of a place.
    pub fn text(&self, span: Span) -> Option<&str> {
        self.of(span)?.text.get(span.start as usize..span.end as usize)
    }

    /// `file:line:column` of a place.
    pub fn describe(&self, span: Span) -> Option<String> {
        let file = self.of(span)?;
        let (line, column) = file.position(span.start as usize);
        Some(format!("{}:{line}:{column}", file.path.display()))
    }
}
