//! Syntax errors of YAML in words that help: the parser says what it expected, people want to know what they did.

use super::super::diagnostic::Diagnostic;
use super::super::source::{Sources, Span};
use super::super::suggest;

/// How much of a file is looked through for what the error could come from.
const LOOKED_THROUGH: usize = 1 << 20;

/// Makes a diagnostic of what the parser says (`info`) about a place in a file's text.
pub(super) fn error(sources: &Sources, file: u32, text: &str, at: usize, info: &str) -> Diagnostic {
    let fault = Fault { sources, file, text, at, info };
    let error = Diagnostic::error("yaml", format!("invalid YAML: {info}"));
    fault
        .merge_conflict(&error)
        .or_else(|| fault.tab(&error))
        .or_else(|| fault.no_key(&error))
        .or_else(|| fault.quote(&error))
        .unwrap_or_else(|| {
            let error = error.label(sources, fault.span(at, fault.next(at)), "");
            match fault.help() {
                Some(help) => error.help(help),
                None => error,
            }
        })
}

struct Fault<'f> {
    sources: &'f Sources,
    file: u32,
    text: &'f str,
    /// Where the parser stopped, in bytes.
    at: usize,
    info: &'f str,
}

impl Fault<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    /// The end of the character at a place.
    fn next(&self, at: usize) -> usize {
        self.text[at..].char_indices().nth(1).map_or(self.text.len(), |(next, _)| at + next)
    }

    fn line_start(&self) -> usize {
        self.text[..self.at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn line(&self) -> &str {
        self.text[self.line_start()..].lines().next().unwrap_or("")
    }

    /// The text up to the fault, as far as it is looked through.
    fn before(&self) -> (usize, &str) {
        let mut start = self.at.saturating_sub(LOOKED_THROUGH);
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        (start, &self.text[start..self.at])
    }

    /// What version control leaves where two changes meet.
    fn merge_conflict(&self, error: &Diagnostic) -> Option<Diagnostic> {
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
                let span = self.span(start, start + line.trim_end().len());
                let mut error = error.clone().label(self.sources, span, "two changes meet here");
                "invalid YAML: a merge conflict that is not resolved".clone_into(&mut error.message);
                return Some(
                    error.help("keep one of the two versions, and remove the lines <<<<<<<, ======= and >>>>>>>"),
                );
            }
            start += line.len();
            if start > LOOKED_THROUGH {
                break;
            }
        }
        None
    }

    /// A tab where indentation is expected: in this line, or in the next one of a text that goes on.
    fn tab(&self, error: &Diagnostic) -> Option<Diagnostic> {
        let line = self.line();
        let indentation = &line[..line.len() - line.trim_start().len()];
        let start = self.line_start();
        let at = match indentation.find('\t') {
            Some(tab) => start + tab,
            None if self.info.contains("tab") => start + self.text[start..].find('\t')?,
            None => return None,
        };
        let error = error.clone().label(self.sources, self.span(at, at + 1), "a tab");
        Some(error.help("YAML is indented with spaces, never with tabs"))
    }

    /// A line between keys that is none: the parser notices only behind it.
    fn no_key(&self, error: &Diagnostic) -> Option<Diagnostic> {
        if !self.info.contains("simple key") {
            return None;
        }
        let is_key = self.line().trim_end().ends_with(':') || self.line().contains(": ");
        let (line_start, line) = if is_key || self.text[self.line_start()..self.at].trim().is_empty() {
            let end = self.text[..self.line_start()].trim_end().len();
            let start = self.text[..end].rfind('\n').map_or(0, |newline| newline + 1);
            (start, &self.text[start..end])
        } else {
            (self.line_start(), self.line())
        };
        let indentation = line.len() - line.trim_start().len();
        let span = self.span(line_start + indentation, line_start + line.trim_end().len());
        let mut error = error.clone().label(self.sources, span, "neither a key nor part of what is above");
        "invalid YAML: a line without the ':' of a key".clone_into(&mut error.message);
        Some(error.help("a key and its value are written `key: value`; check the indentation"))
    }

    /// A quote that ends too late because the one before it was not closed.
    fn quote(&self, error: &Diagnostic) -> Option<Diagnostic> {
        if self.info.contains("hexadecimal") || self.info.contains("escape") {
            let line = self.line();
            let from = self.at - self.line_start();
            let escape = line.get(from..)?.find('\\').map(|offset| self.at + offset)?;
            let error = error.clone().label(self.sources, self.span(escape, self.next(escape)), "begins an escape");
            return Some(
                error.help("in double quotes a backslash begins an escape: write it twice, or use single quotes"),
            );
        }
        if !self.info.contains("trailing content") {
            return None;
        }
        let (offset, before) = self.before();
        let quote = before.chars().next_back().filter(|c| matches!(c, '"' | '\''))?;
        let open = before[..before.len() - 1].rfind(quote)?;
        let error = error.clone().label(self.sources, self.span(self.at, self.next(self.at)), "");
        if !before[open..].contains('\n') {
            return Some(
                error.help("what follows the closing quote belongs inside the quotes, or on a line of its own"),
            );
        }
        let error = error.label(
            self.sources,
            self.span(offset + open, offset + open + 1),
            "this quote is not closed on its line",
        );
        Some(error.help("close the quote where the value ends"))
    }

    fn help(&self) -> Option<String> {
        let (_, before) = self.before();
        let info = self.info;
        let rest = self.text[self.at..].lines().next().unwrap_or("");
        if info.contains("unknown anchor") || info.contains("anchor or alias") {
            let name = rest.strip_prefix('*').unwrap_or("");
            let name = &name[..name.find([' ', ',', ']', '}']).unwrap_or(name.len())];
            let anchors = before.split('&').skip(1).map(|rest| rest.split_whitespace().next().unwrap_or(""));
            return Some(match suggest::closest(name, anchors) {
                Some(known) => format!("did you mean `*{known}`?"),
                None => "`*name` stands for what `&name` marked before; quote a value that begins with `*` or `&`"
                    .to_owned(),
            });
        }
        if info.contains("unexpected character") || info.contains("cannot start any token") {
            let first = rest.chars().next()?;
            return Some(format!("quote a value that begins with `{first}`"));
        }
        let open = |begin: [char; 2], end: [char; 2]| before.matches(begin).count() > before.matches(end).count();
        let advice = if info.contains("flow") || open(['[', '{'], [']', '}']) {
            "a bracket or brace may not be closed before this line"
        } else if info.contains("quoted") || info.contains("EOF") || info.contains("end of stream") {
            "a quote may not be closed"
        } else if info.contains("expected key") || info.contains("expected <block end>") {
            if self.line().trim_start().starts_with("- ") {
                "keys and list items do not mix: write all of them as `NAME: value`, or all as `- NAME=value`"
            } else {
                "check the indentation: this line stands neither with the lines above it nor below one of them"
            }
        } else if info.contains("mapping values") || info.contains("':'") {
            "check the indentation of this line, and quote a value that contains `: `"
        } else {
            return None;
        };
        Some(advice.to_owned())
    }
}
