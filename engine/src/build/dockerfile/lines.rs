//! The lines of a Dockerfile: directives, comments, continuations and heredocs; what is left are instructions, one
//! logical line each, that know where each of their characters stands.

use std::ops::Range;

use super::fault::Fault;
use super::heredoc::{self, Heredoc};
use crate::build::graph::{Position, Span};

/// A longer Dockerfile is refused.
pub(crate) const MAX_FILE: usize = 16 << 20;
/// A longer line is refused, as by BuildKit.
const MAX_LINE: usize = 65_535;
/// More instructions are refused.
const MAX_INSTRUCTIONS: usize = 10_000;
/// Heredocs of one instruction.
const MAX_HEREDOCS: usize = 1_000;

/// A Dockerfile in lines.
#[derive(Debug)]
pub(crate) struct Lines {
    /// What escapes, and continues a line.
    pub(crate) escape: char,
    /// `# syntax=`, `# escape=` and `# check=`.
    pub(crate) directives: Vec<Directive>,
    /// The instructions.
    pub(crate) instructions: Vec<Line>,
}

/// A parser directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directive {
    /// Its name in lower case.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
    /// Where it stands.
    pub(crate) span: Span,
}

/// An instruction on one logical line.
#[derive(Debug)]
pub(crate) struct Line {
    /// The line without what continues it and without comments.
    pub(crate) text: String,
    /// Its heredocs, in their order.
    pub(crate) heredocs: Vec<Heredoc>,
    /// The comment lines right before it.
    pub(crate) comments: Vec<String>,
    /// All of it, heredocs included.
    pub(crate) span: Span,
    /// There is an empty line between a line and what continues it.
    pub(crate) has_empty_continuation: bool,
    /// Where parts of the text come from: from which byte on, and the position of that.
    pieces: Vec<(usize, Position)>,
}

impl Line {
    /// Returns where a part of the text, in bytes, stands in the file.
    pub(crate) fn span_of(&self, range: Range<usize>) -> Span {
        let last = self.text[range.clone()].char_indices().next_back().map_or(range.start, |(at, _)| range.start + at);
        Span { start: self.position(range.start), end: self.position(last) }
    }

    fn position(&self, at: usize) -> Position {
        let piece = self.pieces.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        let (start, position) = self.pieces[piece];
        let characters = self.text.get(start..at).map_or(0, |text| text.chars().count());
        Position { line: position.line, column: position.column + u32::try_from(characters).unwrap_or(u32::MAX) }
    }

    /// Returns a line of its own, such as the trigger of an `ONBUILD`, all of which stands at one place.
    pub(crate) fn at(text: &str, heredocs: Vec<Heredoc>, span: Span) -> Self {
        Self {
            text: text.to_owned(),
            heredocs,
            comments: Vec::new(),
            span,
            has_empty_continuation: false,
            pieces: vec![(0, span.start)],
        }
    }
}

/// The physical lines of a file.
struct Physical<'f> {
    rest: &'f [u8],
    number: u32,
}

/// One physical line.
#[derive(Clone, Copy)]
struct Raw<'f> {
    /// With its line break.
    bytes: &'f [u8],
    number: u32,
}

impl<'f> Iterator for Physical<'f> {
    type Item = Raw<'f>;

    fn next(&mut self) -> Option<Raw<'f>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let (bytes, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.number += 1;
        Some(Raw { bytes, number: self.number })
    }
}

impl<'f> Raw<'f> {
    fn is_comment(self) -> bool {
        self.bytes.trim_ascii_start().first() == Some(&b'#')
    }

    /// Returns the line as text, without its line break.
    fn text(self) -> Result<&'f str, Fault> {
        let end = self.bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
        let bytes = &self.bytes[..end];
        if bytes.len() > MAX_LINE {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE}");
            return Err(Fault::new(message).at(self.point(1)));
        }
        std::str::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).chars().count();
            Fault::new("the Dockerfile is no UTF-8 text here").at(self.point(valid + 1))
        })
    }

    fn point(self, column: usize) -> Span {
        let position = Position { line: self.number, column: u32::try_from(column).unwrap_or(u32::MAX) };
        Span { start: position, end: position }
    }
}

impl Lines {
    /// Takes a Dockerfile apart.
    pub(crate) fn read(file: &[u8]) -> Result<Self, Fault> {
        if file.len() > MAX_FILE {
            return Err(Fault::new(format!("the Dockerfile is larger than {MAX_FILE} bytes")));
        }
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let mut physical = Physical { rest: file, number: 0 };
        let mut lines = Self { escape: '\\', directives: read_directives(file)?, instructions: Vec::new() };
        if let Some(directive) = lines.directives.iter().find(|directive| directive.name == "escape") {
            lines.escape = match directive.value.as_str() {
                "\\" => '\\',
                "`" => '`',
                other => {
                    let message = format!("invalid escape token '{other}' does not match ` or \\");
                    return Err(Fault::new(message).at(directive.span));
                }
            };
        }
        let mut comments: Vec<String> = Vec::new();
        while let Some(raw) = physical.next() {
            if raw.is_comment() {
                let text = String::from_utf8_lossy(raw.bytes);
                match text.trim_start().trim_start_matches('#').trim() {
                    // What stands before an empty comment is about something else.
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            let text = raw.text()?;
            if text.trim().is_empty() {
                continue;
            }
            if lines.instructions.len() == MAX_INSTRUCTIONS {
                let message = format!("the Dockerfile has more than {MAX_INSTRUCTIONS} instructions");
                return Err(Fault::new(message).at(raw.point(1)));
            }
            let line = lines.read_instruction(raw, text, &mut physical, std::mem::take(&mut comments))?;
            lines.instructions.push(line);
        }
        if lines.instructions.is_empty() {
            if file.is_empty() {
                return Err(Fault::new("the Dockerfile cannot be empty"));
            }
            let last = Position { line: physical.number, column: 1 };
            return Err(Fault::new("file with no instructions").at(Span { start: last, end: last }));
        }
        Ok(lines)
    }

    fn read_instruction(
        &self,
        raw: Raw<'_>,
        text: &str,
        physical: &mut Physical<'_>,
        comments: Vec<String>,
    ) -> Result<Line, Fault> {
        let trimmed = text.trim_start();
        let indent = text.chars().count() - trimmed.chars().count();
        let start = raw.point(indent + 1).start;
        let mut line = Line {
            text: String::new(),
            heredocs: Vec::new(),
            comments,
            span: Span { start, end: start },
            has_empty_continuation: false,
            pieces: Vec::new(),
        };
        let mut goes_on = line.add(self.without_continuation(trimmed), start);
        line.span.end = raw.point(text.trim_end().chars().count()).end;
        while goes_on {
            let Some(raw) = physical.next() else { break };
            if raw.is_comment() {
                continue;
            }
            let text = raw.text()?;
            if text.trim().is_empty() {
                line.has_empty_continuation = true;
                continue;
            }
            goes_on = line.add(self.without_continuation(text), raw.point(1).start);
            line.span.end = raw.point(text.trim_end().chars().count()).end;
            if line.text.len() > MAX_FILE / 4 {
                return Err(Fault::new("the instruction is too long").at(line.span));
            }
        }
        read_heredocs(&mut line, physical)?;
        Ok(line)
    }

    /// Returns a line without what continues it: an escape at its end that is not escaped itself. None says it ends.
    fn without_continuation<'l>(&self, text: &'l str) -> (&'l str, bool) {
        let trimmed = text.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(self.escape) {
            Some(rest) if !rest.ends_with(self.escape) => (rest, true),
            _ => (text, false),
        }
    }
}

fn read_heredocs(line: &mut Line, physical: &mut Physical<'_>) -> Result<(), Fault> {
    if !line.text.contains("<<") || !heredoc::are_possible(&line.text) {
        return Ok(());
    }
    for word in heredoc::words(&line.text) {
        let Some(mut heredoc) = heredoc::parse(&word) else { continue };
        if line.heredocs.len() == MAX_HEREDOCS {
            return Err(Fault::new(format!("the instruction has more than {MAX_HEREDOCS} heredocs")).at(line.span));
        }
        loop {
            let Some(raw) = physical.next() else { return Err(Fault::new("unterminated heredoc").at(line.span)) };
            let text = std::str::from_utf8(raw.bytes).or_else(|_| raw.text())?;
            let possible = text.trim_end_matches(['\r', '\n']);
            let possible = if heredoc.strip_tabs { possible.trim_start_matches('\t') } else { possible };
            if possible == heredoc.name {
                line.span.end = raw.point(text.trim_end().chars().count()).end;
                break;
            }
            heredoc.contents.push_str(text);
        }
        line.heredocs.push(heredoc);
    }
    Ok(())
}

impl Line {
    /// Adds a physical line; returns whether there is more to come.
    fn add(&mut self, (text, goes_on): (&str, bool), position: Position) -> bool {
        if !text.is_empty() || self.pieces.is_empty() {
            self.pieces.push((self.text.len(), position));
        }
        self.text.push_str(text);
        goes_on
    }
}

/// Reads the directives, which are the comments of a certain form before anything else.
fn read_directives(file: &[u8]) -> Result<Vec<Directive>, Fault> {
    let mut directives: Vec<Directive> = Vec::new();
    for raw in (Physical { rest: file, number: 0 }) {
        if raw.number == 1 && raw.bytes.starts_with(b"#!") {
            continue;
        }
        let text = String::from_utf8_lossy(raw.bytes);
        let Some((name, value)) = text.strip_prefix('#').and_then(|text| text.split_once('=')) else { break };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !["syntax", "escape", "check"].contains(&name.as_str()) || value.is_empty() {
            break;
        }
        let span = Span { start: raw.point(1).start, end: raw.point(text.trim_end().chars().count()).end };
        if directives.iter().any(|directive| directive.name == name) {
            return Err(Fault::new(format!("only one {name} parser directive can be used")).at(span));
        }
        directives.push(Directive { name, value: value.to_owned(), span });
    }
    Ok(directives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str) -> Lines {
        Lines::read(file.as_bytes()).unwrap()
    }

    fn texts(file: &str) -> Vec<String> {
        read(file).instructions.into_iter().map(|line| line.text).collect()
    }

    fn span(line: u32, column: u32, end_line: u32, end_column: u32) -> Span {
        Span { start: Position { line, column }, end: Position { line: end_line, column: end_column } }
    }

    #[test]
    fn lines_are_continued() {
        assert_eq!(texts("FROM a\n\n  RUN x \\  \n # no\n\n  y\r\n"), ["FROM a", "RUN x   y"]);
        assert_eq!(texts("RUN a\\\\\nRUN b"), ["RUN a\\\\", "RUN b"]);
        assert_eq!(texts("# escape=`\nRUN a`\nb\\\n"), ["RUN ab\\"]);
        assert_eq!(texts("RUN a \\"), ["RUN a "]);
        assert!(read("RUN a \\\n\nb").instructions[0].has_empty_continuation);
    }

    #[test]
    fn places_are_those_of_the_file() {
        let lines = read("FROM a\n  RUN é \\\n   word\n");
        let run = &lines.instructions[1];
        assert_eq!(run.span, span(2, 3, 3, 7));
        let at = run.text.find("word").unwrap();
        assert_eq!(run.span_of(at..at + 4), span(3, 4, 3, 7));
        let at = run.text.find('é').unwrap();
        assert_eq!(run.span_of(at..at + 2), span(2, 7, 2, 7));
    }

    #[test]
    fn heredocs_belong_to_their_instruction() {
        let lines = read("RUN <<A cat <<-\"B\"\none\nA\n\ttwo\n\tB\nCMD x <<C");
        let heredocs = &lines.instructions[0].heredocs;
        assert_eq!((heredocs[0].name.as_str(), heredocs[0].contents.as_str()), ("A", "one\n"));
        assert_eq!((heredocs[1].name.as_str(), heredocs[1].contents.as_str()), ("B", "\ttwo\n"));
        assert!(heredocs[0].expand && !heredocs[1].expand);
        assert_eq!(lines.instructions[0].span, span(1, 1, 5, 2));
        assert_eq!(lines.instructions[1].text, "CMD x <<C");
        assert_eq!(Lines::read(b"RUN <<A\nx").unwrap_err().to_string(), "unterminated heredoc");
    }

    #[test]
    fn directives_come_first_and_once() {
        let lines = read("# Syntax = docker/dockerfile:1\n#escape=`\n# check=skip=all\nFROM a");
        assert_eq!(lines.directives.len(), 3);
        assert_eq!(lines.directives[0].value, "docker/dockerfile:1");
        assert!(read("# hello\n# escape=`\nFROM a").directives.is_empty());
        let fault = Lines::read(b"# escape=x\nFROM a").unwrap_err();
        assert_eq!(fault.to_string(), "invalid escape token 'x' does not match ` or \\");
        let fault = Lines::read(b"# escape=`\n# escape=`\nFROM a").unwrap_err();
        assert_eq!(fault.to_string(), "only one escape parser directive can be used");
    }

    #[test]
    fn comments_stay_with_their_instruction() {
        let lines = read("# one\n# two\nFROM a\n# three\n\nRUN b\n# four\n#\nRUN c");
        assert_eq!(lines.instructions[0].comments, ["one", "two"]);
        assert_eq!(lines.instructions[1].comments, ["three"]);
        assert!(lines.instructions[2].comments.is_empty());
    }

    #[test]
    fn what_is_no_text_is_refused_but_in_comments() {
        assert!(Lines::read(b"# caf\xe9\nFROM a").is_ok());
        let fault = Lines::read(b"FROM a\nRUN caf\xe9").unwrap_err();
        assert_eq!(fault.span, Some(span(2, 8, 2, 8)));
    }

    #[test]
    fn sizes_are_bounded() {
        let fault = |file: String| Lines::read(file.as_bytes()).unwrap_err().to_string();
        assert!(fault(format!("RUN {}", "x".repeat(70_000))).contains("max allowed size of 65535"));
        assert!(fault("RUN x\n".repeat(10_001)).contains("more than 10000 instructions"));
        assert_eq!(fault("# only\n".to_owned()), "file with no instructions");
    }
}
