//! The parts of an instruction's line: its keyword, its flags, and its arguments as words, pairs or a JSON array.

use std::ops::Range;

use super::fault::Fault;
use super::go;
use super::lines::Line;
use crate::build::graph::Span;

/// A text of a Dockerfile, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As it was typed, quotes and variables included.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// The parts of a line.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The keyword, as it was typed.
    pub(crate) keyword: Word,
    /// What begins with `--` before the arguments, without quotes.
    pub(crate) flags: Vec<Word>,
    /// Where the arguments are in the line's text, blanks around them left out.
    pub(crate) arguments: Range<usize>,
}

/// Go's `\s` without the line break, as the format has it.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

impl Parts {
    /// Takes a line apart, from some byte of its text on.
    pub(crate) fn of(line: &Line, from: usize) -> Self {
        let text = &line.text;
        let start = from + text[from..].len() - text[from..].trim_start().len();
        let end = text[start..].find(is_blank).map_or(text.len(), |at| start + at);
        let keyword = Word { text: text[start..end].to_owned(), span: line.span_of(start..end) };
        let (flags, rest) = read_flags(line, end);
        let arguments = &text[rest..];
        let from = rest + arguments.len() - arguments.trim_start().len();
        let arguments = from..from.max(rest + arguments.trim_end().len());
        Self { keyword, flags, arguments }
    }
}

/// Reads flags from a byte on; returns them and where they end.
fn read_flags(line: &Line, from: usize) -> (Vec<Word>, usize) {
    let text = &line.text;
    let mut flags = Vec::new();
    let mut at = from;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let (word, length) = read_flag(&text[at..]);
        let span = line.span_of(at..at + length);
        at += length;
        if word == "--" {
            return (flags, at);
        }
        flags.push(Word { text: word, span });
    }
}

/// Reads a flag up to a blank that is not quoted; returns it without quotes, and its length with them.
fn read_flag(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (character, quote) {
            ('\\', _) => word.extend(characters.next().map(|(_, escaped)| escaped)),
            (end, Some(open)) if end == open => quote = None,
            ('"' | '\'', None) => quote = Some(character),
            (blank, None) if blank.is_whitespace() => return (word, at),
            _ => word.push(character),
        }
    }
    (word, text.len())
}

/// Splits a part of a line at blanks.
pub(crate) fn split(line: &Line, range: Range<usize>) -> Vec<Word> {
    let text = &line.text[range.clone()];
    let mut words = Vec::new();
    let mut start = None;
    for (at, character) in text.char_indices().chain([(text.len(), ' ')]) {
        match (is_blank(character), start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                words.push(word(line, range.start + from..range.start + at));
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// Returns a part of a line.
pub(crate) fn word(line: &Line, range: Range<usize>) -> Word {
    Word { text: line.text[range.clone()].to_owned(), span: line.span_of(range) }
}

/// Splits a part of a line at blanks that are neither quoted nor escaped; quotes and escapes stay.
pub(crate) fn split_quoted(line: &Line, range: Range<usize>, escape: char) -> Vec<Word> {
    let text = &line.text[range.clone()];
    let mut words = Vec::new();
    let mut current = String::new();
    let mut start = None;
    let mut quote: Option<char> = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        if start.is_none() {
            if character.is_whitespace() {
                continue;
            }
            start = Some(at);
        }
        let from = range.start + start.unwrap_or(at);
        match quote {
            None if character.is_whitespace() => {
                let span = line.span_of(from..range.start + at);
                words.push(Word { text: std::mem::take(&mut current), span });
                start = None;
                continue;
            }
            None if matches!(character, '"' | '\'') => quote = Some(character),
            Some(open) if character == open => quote = None,
            _ => {}
        }
        if character != escape || quote == Some('\'') {
            current.push(character);
            continue;
        }
        // An escape at the end escapes nothing.
        if let Some((_, escaped)) = characters.next() {
            current.extend([character, escaped]);
        }
    }
    if let Some(start) = start.filter(|_| !current.is_empty()) {
        words.push(Word { text: current, span: line.span_of(range.start + start..range.end) });
    }
    words
}

/// Reads a part of a line as a JSON array of strings. None where it is no JSON array, and so for the shell.
pub(crate) fn json(line: &Line, range: Range<usize>) -> Result<Option<Vec<Word>>, Fault> {
    let text = &line.text[range.clone()];
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let span = line.span_of(range);
    let word = |value| {
        let serde_json::Value::String(text) = value else {
            let message = "when using JSON array syntax, arrays must be comprised of strings only";
            return Err(Fault::new(message).at(span));
        };
        Ok(Word { text, span })
    };
    values.into_iter().map(word).collect::<Result<_, _>>().map(Some)
}

/// A name and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The name, quotes and variables included.
    pub(crate) name: Word,
    /// The value, quotes and variables included.
    pub(crate) value: Word,
    /// A blank stands between them: `ENV name value`.
    pub(crate) is_legacy: bool,
}

/// Reads the pairs of `ENV` and `LABEL`: `name=value …`, or the old form of one pair, `name value`.
pub(crate) fn pairs(line: &Line, range: Range<usize>, instruction: &str, escape: char) -> Result<Vec<Pair>, Fault> {
    let words = split_quoted(line, range.clone(), escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.text.contains('=') {
        let text = &line.text[range.clone()];
        let two_wanted = || Fault::new(format!("{instruction} must have two arguments")).at(first.span);
        let end = text.find(is_blank).ok_or_else(two_wanted)?;
        let value = range.end - text[end..].trim_start_matches(is_blank).len();
        let pair = Pair {
            name: word(line, range.start..range.start + end),
            value: word(line, value..range.end),
            is_legacy: true,
        };
        return Ok(vec![pair]);
    }
    let pair = |word: Word| {
        let Some((name, value)) = word.text.split_once('=') else {
            let quoted = go::quote(&word.text);
            let message = format!("Syntax error - can't find = in {quoted}. Must be of the form: name=value");
            return Err(Fault::new(message).at(word.span));
        };
        let part = |text: &str| Word { text: text.to_owned(), span: word.span };
        Ok(Pair { name: part(name), value: part(value), is_legacy: false })
    };
    words.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::dockerfile::lines::Lines;

    fn line(text: &str) -> Line {
        Lines::read(text.as_bytes()).unwrap().instructions.remove(0)
    }

    fn texts(words: Vec<Word>) -> Vec<String> {
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn flags_stand_before_arguments() {
        let line = line("COPY --from=a --chown='x y' --x\\ y -- --b c ");
        let parts = Parts::of(&line, 0);
        assert_eq!(parts.keyword.text, "COPY");
        assert_eq!(texts(parts.flags), ["--from=a", "--chown=x y", "--x y"]);
        assert_eq!(&line.text[parts.arguments], "--b c");
    }

    #[test]
    fn words_know_where_they_stand() {
        let line = line("EXPOSE  80 \\\n  443");
        let words = split(&line, Parts::of(&line, 0).arguments);
        assert_eq!(words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), ["80", "443"]);
        assert_eq!((words[1].span.start.line, words[1].span.start.column, words[1].span.end.column), (2, 3, 5));
    }

    #[test]
    fn pairs_of_both_forms() {
        let read = |text: &str| {
            let line = line(text);
            pairs(&line, Parts::of(&line, 0).arguments, "ENV", '\\')
                .map(|pairs| pairs.into_iter().map(|pair| (pair.name.text, pair.value.text)).collect::<Vec<_>>())
                .map_err(|fault| fault.to_string())
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read("ENV a=b c=\"d e\" f=g\\ h"),
            Ok(vec![pair("a", "b"), pair("c", "\"d e\""), pair("f", "g\\ h")])
        );
        assert_eq!(read("ENV a  b c=d"), Ok(vec![pair("a", "b c=d")]));
        assert_eq!(read("ENV a"), Err("ENV must have two arguments".to_owned()));
        let message = "Syntax error - can't find = in \"b\". Must be of the form: name=value";
        assert_eq!(read("ENV a=1 b"), Err(message.to_owned()));
    }

    #[test]
    fn json_is_an_array_of_strings() {
        let read = |text: &str| {
            let line = line(text);
            json(&line, Parts::of(&line, 0).arguments).map(|words| words.map(texts)).map_err(|fault| fault.to_string())
        };
        assert_eq!(read(r#"CMD ["a", "b c"]"#), Ok(Some(vec!["a".to_owned(), "b c".to_owned()])));
        assert_eq!(read("CMD [ -f x ]"), Ok(None));
        assert!(read("CMD [1]").unwrap_err().contains("strings only"));
    }
}
