//! Texts and actions of a template, and the words of an action.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    /// What stands between the braces, and where it begins.
    Action(&'t str, usize),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `.Name`; an empty name is the dot itself.
    Field(String),
    /// `$name`, without the dollar sign.
    Variable(String),
    Word(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Open,
    Close,
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// A token, where it begins, where it ends, and whether a blank stands before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Located {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) spaced: bool,
}

pub(super) fn error(text: &str, at: usize, message: impl Into<String>) -> TemplateError {
    let line = 1 + text.get(..at).unwrap_or(text).matches('\n').count();
    TemplateError { at, line, part: None, message: message.into() }
}

/// Splits a template. Comments are left out, and so is what `{{-` and `-}}` trim away.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = 0;
    let mut trim_next = false;
    loop {
        let open = text[rest..].find("{{").map(|at| rest + at);
        let mut plain = &text[rest..open.unwrap_or(text.len())];
        if trim_next {
            plain = plain.trim_start();
        }
        let Some(open) = open else {
            if !plain.is_empty() {
                pieces.push(Piece::Text(plain));
            }
            return Ok(pieces);
        };
        let mut start = open + 2;
        let inner = &text[start..];
        if let Some(after) = inner.strip_prefix('-')
            && after.starts_with([' ', '\t', '\r', '\n'])
        {
            plain = plain.trim_end();
            start += 1;
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        let close = closing(text, start)?;
        let mut action = &text[start..close];
        rest = close + 2;
        trim_next = false;
        if let Some(before) = action.strip_suffix('-')
            && before.ends_with([' ', '\t', '\r', '\n'])
        {
            action = before;
            trim_next = true;
        }
        let trimmed = action.trim();
        if trimmed.starts_with("/*") {
            if !trimmed.ends_with("*/") {
                return Err(error(text, open, "unclosed comment"));
            }
            continue;
        }
        pieces.push(Piece::Action(action, start));
    }
}

/// Finds the braces that end an action: not those in texts.
fn closing(text: &str, start: usize) -> Result<usize, TemplateError> {
    let bytes = text.as_bytes();
    let trimmed = text[start..].trim_start();
    if trimmed.starts_with("/*") {
        let end = text[start..].find("*/").ok_or_else(|| error(text, start, "unclosed comment"))?;
        let close = text[start + end..].find("}}").ok_or_else(|| error(text, start, "unclosed comment"))?;
        return Ok(start + end + close);
    }
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'' | b'`') => {
                let unterminated = || error(text, at, "unterminated quoted string");
                let mut end = at + 1;
                loop {
                    match bytes.get(end) {
                        None => return Err(unterminated()),
                        Some(b'\n') if quote != b'`' => return Err(unterminated()),
                        Some(b'\\') if quote != b'`' => end += 2,
                        Some(byte) if *byte == quote => break,
                        Some(_) => end += 1,
                    }
                }
                at = end + 1;
            }
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Ok(at),
            _ => at += 1,
        }
    }
    Err(error(text, start, "unclosed action"))
}

/// Splits an action into its words. `whole` is the template, in which the action begins at `offset`.
pub(super) fn tokens(whole: &str, action: &str, offset: usize) -> Result<Vec<Located>, TemplateError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut spaced = true;
    while let Some(first) = action[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            spaced = true;
            continue;
        }
        let start = at;
        let bad = |message: String| error(whole, offset + start, message);
        let name = |from: usize| {
            let end = action[from..].find(|c: char| !is_word(c)).map_or(action.len(), |length| from + length);
            &action[from..end]
        };
        let token = match first {
            '(' => Token::Open,
            ')' => Token::Close,
            '|' => Token::Pipe,
            ',' => Token::Comma,
            '=' => Token::Assign,
            ':' if action[at + 1..].starts_with('=') => Token::Declare,
            '"' => {
                let end = quoted(action, at);
                at = end;
                Token::Text(unquote(&action[start + 1..end - 1]).map_err(bad)?)
            }
            '`' => {
                let end =
                    at + 1 + action[at + 1..].find('`').ok_or_else(|| bad("unterminated quoted string".into()))?;
                at = end + 1;
                Token::Text(action[start + 1..end].to_owned())
            }
            '\'' => {
                let end = quoted(action, at);
                at = end;
                let text = unquote(&action[start + 1..end - 1]).map_err(bad)?;
                let mut characters = text.chars();
                match (characters.next(), characters.next()) {
                    (Some(character), None) => Token::Integer(i64::from(u32::from(character))),
                    _ => return Err(bad("malformed character constant".into())),
                }
            }
            '.' if !action[at + 1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let name = name(at + 1);
                at += 1 + name.len();
                Token::Field(name.to_owned())
            }
            '$' => {
                let name = name(at + 1);
                at += 1 + name.len();
                Token::Variable(name.to_owned())
            }
            '0'..='9' | '.' | '-' | '+' => {
                let end = action[at + 1..]
                    .find(|c: char| !(is_word(c) || c == '.'))
                    .map_or(action.len(), |length| at + 1 + length);
                at = end;
                number(&action[start..end])
                    .ok_or_else(|| bad(format!("bad number syntax: {:?}", &action[start..end])))?
            }
            c if is_word(c) => {
                let name = name(at);
                at += name.len();
                Token::Word(name.to_owned())
            }
            other => return Err(bad(format!("unexpected {other:?} in operand"))),
        };
        if at == start {
            at += if token == Token::Declare { 2 } else { 1 };
        }
        tokens.push(Located { token, start: offset + start, end: offset + at, spaced });
        spaced = false;
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Returns where a quoted text ends, its quote included. [`closing`] has seen that it ends.
fn quoted(action: &str, start: usize) -> usize {
    let bytes = action.as_bytes();
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != bytes[start] {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(action.len())
}

fn unquote(text: &str) -> Result<String, String> {
    let mut result = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            result.push(character);
            continue;
        }
        let digits = match characters.next() {
            Some('n') => {
                result.push('\n');
                continue;
            }
            Some('t') => {
                result.push('\t');
                continue;
            }
            Some('r') => {
                result.push('\r');
                continue;
            }
            Some(quoted @ ('\\' | '"' | '\'')) => {
                result.push(quoted);
                continue;
            }
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err("bad escape sequence".to_owned()),
        };
        let code: String = characters.by_ref().take(digits).collect();
        let code = u32::from_str_radix(&code, 16).ok().filter(|_| code.len() == digits).and_then(char::from_u32);
        result.push(code.ok_or("bad escape sequence")?);
    }
    Ok(result)
}

fn number(text: &str) -> Option<Token> {
    let digits = text.replace('_', "");
    let (sign, plain) = match digits.strip_prefix('-') {
        Some(plain) => (-1, plain),
        None => (1, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    if let Some(hexadecimal) = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        return i64::from_str_radix(hexadecimal, 16).ok().map(|number| Token::Integer(sign * number));
    }
    if plain.starts_with(|c: char| c.is_ascii_digit()) && plain.bytes().all(|byte| byte.is_ascii_digit()) {
        return plain.parse().ok().map(|number: i64| Token::Integer(sign * number));
    }
    digits.parse().ok().filter(|number: &f64| number.is_finite()).map(Token::Float)
}
