//! The patterns of `${v#p}`, `${v%p}` and `${v/p/w}`: `*` is any text, `?` any character; there are no brackets.

use regex::Regex;

/// A longer pattern is refused.
const LONGEST: usize = 1024;

/// A pattern.
#[derive(Debug)]
pub(crate) struct Wildcard(Vec<Token>);

#[derive(Debug, Clone, Copy)]
enum Token {
    Any,
    One,
    Literal(char),
}

impl Wildcard {
    /// Reads a pattern. A backslash escapes `*`, `?`, itself, and what would end the pattern: `}` and `/`.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut rest = pattern.chars();
        while let Some(character) = rest.next() {
            tokens.push(match character {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match rest.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(escaped),
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("invalid escape '\\'".to_owned()),
                },
                other => Token::Literal(other),
            });
        }
        if tokens.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} characters"));
        }
        Ok(Self(tokens))
    }

    /// Returns a text without the shortest or longest beginning that matches.
    pub(crate) fn trim_start<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        let expression = expression(self.0.iter(), longest, true);
        expression.find(value).map_or(value, |found| &value[found.end()..])
    }

    /// Returns a text without the shortest or longest end that matches.
    pub(crate) fn trim_end<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        // Backwards the end is a beginning.
        let expression = expression(self.0.iter().rev(), longest, true);
        let backwards: String = value.chars().rev().collect();
        expression.find(&backwards).map_or(value, |found| &value[..value.len() - found.end()])
    }

    /// Returns a text in which the first, or each, longest match has been replaced. None where that is longer than a limit.
    pub(crate) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let expression = expression(self.0.iter(), true, false);
        let mut text = String::new();
        let mut done = 0;
        for found in expression.find_iter(value).take(if all { usize::MAX } else { 1 }) {
            text.push_str(&value[done..found.start()]);
            text.push_str(replacement);
            done = found.end();
            if text.len() > limit {
                return None;
            }
        }
        text.push_str(&value[done..]);
        Some(text).filter(|text| text.len() <= limit)
    }
}

/// A regular expression, since it takes time in proportion to the value whatever the pattern is.
fn expression<'t>(tokens: impl Iterator<Item = &'t Token>, longest: bool, anchored: bool) -> Regex {
    let mut expression = String::from(if anchored { "^" } else { "" });
    for token in tokens {
        match token {
            Token::Any if longest => expression.push_str(".*"),
            Token::Any => expression.push_str(".*?"),
            Token::One => expression.push('.'),
            Token::Literal(literal) => expression.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&expression).expect("a pattern of limited length is an expression")
}
