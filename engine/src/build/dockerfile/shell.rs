//! Words of an instruction: quotes, escapes and variables, as BuildKit's shell lexer has them.
//!
//! It is like a shell and is none: `$v`, `${v}`, `${v:-w}`, `${v-w}`, `${v:+w}`, `${v+w}`, `${v:?w}`, `${v?w}`, `${v#p}`,
//! `${v##p}`, `${v%p}`, `${v%%p}`, `${v/p/w}` and `${v//p/w}` are expanded; nothing is executed and no file is looked at.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::go;
use super::wildcard::Wildcard;

/// Deeper nested variables are refused: each level is one of our stack.
const MAX_DEPTH: usize = 64;
/// A single text is no longer than this after expansion.
pub(crate) const MAX_EXPANDED: usize = 4 << 20;

/// Where the values of variables come from.
pub(crate) trait Variables {
    /// Returns the value of a variable that is set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variable is set.
#[derive(Debug)]
pub(crate) struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexer {
    /// What escapes: a backslash, or a backtick where `# escape=` says so.
    pub(crate) escape: char,
    /// Quotes stay in the text.
    pub(crate) keep_quotes: bool,
    /// Escapes stay in the text.
    pub(crate) keep_escapes: bool,
    /// Quotes are characters like any other.
    pub(crate) ignore_quotes: bool,
    /// Variables that are not set stay as they are.
    pub(crate) keep_unset: bool,
}

/// What became of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    /// The text.
    pub(crate) text: String,
    /// The text in words, split at blanks that are not quoted. Values are split too.
    pub(crate) words: Vec<String>,
    /// The variables in it that are set.
    pub(crate) used: BTreeSet<String>,
    /// The variables in it that are not.
    pub(crate) missing: BTreeSet<String>,
}

impl Lexer {
    /// Returns a lexer with everything as usual.
    pub(crate) fn new(escape: char) -> Self {
        Self { escape, keep_quotes: false, keep_escapes: false, ignore_quotes: false, keep_unset: false }
    }

    /// Expands a text.
    pub(crate) fn expand(self, text: &str, variables: &dyn Variables) -> Result<Expanded, String> {
        let mut reader = Reader {
            lexer: self,
            variables,
            rest: text.chars().peekable(),
            keep_escapes: self.keep_escapes,
            depth: 0,
            used: BTreeSet::new(),
            missing: BTreeSet::new(),
        };
        match reader.until(None, self.keep_escapes) {
            Ok((text, words)) => Ok(Expanded { text, words, used: reader.used, missing: reader.missing }),
            Err(message) => Err(format!("failed to process {}: {message}", go::quote(text))),
        }
    }
}

struct Reader<'t> {
    lexer: Lexer,
    variables: &'t dyn Variables,
    rest: Peekable<Chars<'t>>,
    keep_escapes: bool,
    depth: usize,
    used: BTreeSet<String>,
    missing: BTreeSet<String>,
}

impl Reader<'_> {
    /// Reads up to a character, which is taken too, or to the end.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("variables are nested more than {MAX_DEPTH} times"));
        }
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let read = self.read_until(stop);
        self.keep_escapes = outer;
        self.depth -= 1;
        read
    }

    fn read_until(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        let mut text = Limited::default();
        let mut words = Words::default();
        while let Some(&character) = self.rest.peek() {
            if Some(character) == stop {
                self.rest.next();
                return Ok((text.0, words.finish()));
            }
            match character {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|character| words.add(character));
                    text.push_str(&value)?;
                }
                '\'' | '"' if !self.lexer.ignore_quotes => {
                    let quoted = if character == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    words.add_quoted(&quoted);
                    text.push_str(&quoted)?;
                }
                _ => {
                    self.rest.next();
                    if character != self.lexer.escape {
                        words.add(character);
                        text.push(character)?;
                        continue;
                    }
                    if self.keep_escapes {
                        words.add_quoted(character.encode_utf8(&mut [0; 4]));
                        text.push(character)?;
                    }
                    let Some(escaped) = self.rest.next() else { break };
                    words.add_quoted(escaped.encode_utf8(&mut [0; 4]));
                    text.push(escaped)?;
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok((text.0, words.finish())),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        text.extend(self.rest.next().filter(|_| self.lexer.keep_quotes));
        for character in self.rest.by_ref() {
            if character != '\'' {
                text.push(character);
                continue;
            }
            if self.lexer.keep_quotes {
                text.push(character);
            }
            return Ok(text);
        }
        Err("unexpected end of statement while looking for matching single-quote".to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut text = Limited::default();
        text.0.extend(self.rest.next().filter(|_| self.lexer.keep_quotes));
        while let Some(&character) = self.rest.peek() {
            if character == '$' {
                let value = self.dollar()?;
                text.push_str(&value)?;
                continue;
            }
            self.rest.next();
            if character == '"' {
                text.0.extend(Some(character).filter(|_| self.lexer.keep_quotes));
                return Ok(text.0);
            }
            if character != self.lexer.escape {
                text.push(character)?;
                continue;
            }
            if self.keep_escapes {
                text.push(character)?;
            }
            match self.rest.peek().copied() {
                // An escape at the end escapes nothing.
                None => {}
                Some(next) if next == '"' || next == '$' || next == self.lexer.escape => {
                    self.rest.next();
                    text.push(next)?;
                }
                Some(_) => text.push(character)?,
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".to_owned())
    }

    /// Reads a variable and returns what stands for it.
    fn dollar(&mut self) -> Result<String, String> {
        self.rest.next();
        if self.rest.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                None if self.lexer.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.rest.next();
        match self.rest.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let unsupported = |modifier: &str| Err(format!("unsupported modifier ({modifier}) in substitution"));
        match self.rest.next() {
            None => Err("syntax error: missing '}'".to_owned()),
            Some('}') => Ok(match self.value(&name) {
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => match self.rest.next() {
                Some(operator @ ('+' | '-' | '?' | '#' | '%')) => self.operate(&name, operator, true),
                Some(other) => {
                    self.operand('}', false)?;
                    unsupported(&format!(":{other}"))
                }
                None => Err("syntax error: missing '}'".to_owned()),
            },
            Some(operator @ ('+' | '-' | '?' | '#' | '%')) => self.operate(&name, operator, false),
            Some('/') => self.replace(&name),
            Some(other) => unsupported(other.encode_utf8(&mut [0; 4])),
        }
    }

    /// Reads what comes after an operator.
    fn operand(&mut self, stop: char, keep_escapes: bool) -> Result<String, String> {
        match self.until(Some(stop), keep_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.rest.peek().is_none() && self.depth <= MAX_DEPTH => Err(match stop {
                '/' => "syntax error: missing '/' in ${}".to_owned(),
                _ => "syntax error: missing '}'".to_owned(),
            }),
            Err(message) => Err(message),
        }
    }

    fn operate(&mut self, name: &str, operator: char, empty_is_unset: bool) -> Result<String, String> {
        let is_trim = matches!(operator, '#' | '%');
        let word = self.operand('}', is_trim)?;
        let value = self.value(name);
        if value.is_none() && self.lexer.keep_unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let is_set = value.as_ref().is_some_and(|value| !(empty_is_unset && value.is_empty()));
        match operator {
            '-' | '?' if is_set => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' => Ok(if is_set { word } else { String::new() }),
            '?' => Err(match (word.is_empty(), value) {
                (false, _) => format!("{name}: {word}"),
                (true, None) => format!("{name}: is not allowed to be unset"),
                (true, Some(_)) => format!("{name}: is not allowed to be empty"),
            }),
            _ => {
                let value = value.unwrap_or_default();
                let (longest, pattern) = match word.strip_prefix(operator) {
                    Some(pattern) => (true, pattern),
                    None => (false, word.as_str()),
                };
                let pattern = wildcard(pattern)?;
                let trimmed = match operator {
                    '#' => pattern.trim_start(&value, longest),
                    _ => pattern.trim_end(&value, longest),
                };
                Ok(trimmed.to_owned())
            }
        }
    }

    fn replace(&mut self, name: &str) -> Result<String, String> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        match self.value(name) {
            None if self.lexer.keep_unset => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => wildcard(&pattern)?
                .replace(&value.unwrap_or_default(), &replacement, all, MAX_EXPANDED)
                .ok_or_else(too_long),
        }
    }

    /// Reads the name of a variable: letters, digits and `_`, or digits alone, or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(first) if first.is_numeric() => {
                while let Some(digit) = self.rest.next_if(|character| character.is_numeric()) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.rest.next()),
            _ => {
                while let Some(next) = self.rest.next_if(|character| character.is_alphanumeric() || *character == '_') {
                    name.push(next);
                }
            }
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name).map(str::to_owned);
        let seen = if value.is_some() { &mut self.used } else { &mut self.missing };
        seen.insert(name.to_owned());
        value
    }
}

fn wildcard(pattern: &str) -> Result<Wildcard, String> {
    Wildcard::new(pattern).map_err(|error| format!("invalid pattern ({pattern}) in substitution: {error}"))
}

fn check_length(length: usize) -> Result<(), String> {
    if length > MAX_EXPANDED { Err(too_long()) } else { Ok(()) }
}

fn too_long() -> String {
    format!("it expands to more than {MAX_EXPANDED} bytes")
}

/// A text that does not grow for ever.
#[derive(Default)]
struct Limited(String);

impl Limited {
    fn push(&mut self, character: char) -> Result<(), String> {
        self.0.push(character);
        check_length(self.0.len())
    }

    fn push_str(&mut self, text: &str) -> Result<(), String> {
        check_length(self.0.len() + text.len())?;
        self.0.push_str(text);
        Ok(())
    }
}

/// Words as they are found.
#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
}

impl Words {
    /// Adds a character that ends the word if it is a blank.
    fn add(&mut self, character: char) {
        if !character.is_whitespace() {
            self.word.push(character);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    /// Adds what belongs to the word, whatever it is.
    fn add_quoted(&mut self, text: &str) {
        self.word.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Some3;

    impl Variables for Some3 {
        fn get(&self, name: &str) -> Option<&str> {
            match name {
                "a" => Some("foo bar foo"),
                "path" => Some("/usr/local/lib.tar.gz"),
                "empty" => Some(""),
                _ => None,
            }
        }
    }

    fn expand(text: &str) -> Result<String, String> {
        Lexer::new('\\').expand(text, &Some3).map(|expanded| expanded.text)
    }

    #[test]
    fn every_form_is_expanded() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$a", "foo bar foo"),
            ("x${a}y", "xfoo bar fooy"),
            ("'$a'", "$a"),
            ("\"$a\"", "foo bar foo"),
            ("\\$a", "$a"),
            ("a\\bc", "abc"),
            ("\"a\\bc\\\"d\"", "a\\bc\"d"),
            ("$", "$"),
            ("$.", "$."),
            ("$u", ""),
            ("${u-w}", "w"),
            ("${empty-w}", ""),
            ("${empty:-w}", "w"),
            ("${u:-${v:-deep}}", "deep"),
            ("${a:+set}", "set"),
            ("${empty:+set}", ""),
            ("${empty+set}", "set"),
            ("${a:?no}", "foo bar foo"),
            ("${path#*/}", "usr/local/lib.tar.gz"),
            ("${path##*/}", "lib.tar.gz"),
            ("${path%.*}", "/usr/local/lib.tar"),
            ("${path%%.*}", "/usr/local/lib"),
            ("${a/foo/x}", "x bar foo"),
            ("${a//foo/x}", "x bar x"),
            ("${path//\\//_}", "_usr_local_lib.tar.gz"),
            ("${a/f*r/x}", "x foo"),
            ("${a/b?r/x}", "foo x foo"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, expected) in [
            ("${a", "syntax error: missing '}'"),
            ("${", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${a:-x", "syntax error: missing '}'"),
            ("${a/x}", "syntax error: missing '/' in ${}"),
            ("${a*x}", "unsupported modifier (*) in substitution"),
            ("${a:=x}", "unsupported modifier (:=) in substitution"),
            ("'a", "unexpected end of statement while looking for matching single-quote"),
            ("\"a", "unexpected end of statement while looking for matching double-quote"),
            ("${u:?please}", "u: please"),
            ("${u?}", "u: is not allowed to be unset"),
            ("${empty:?}", "empty: is not allowed to be empty"),
            ("${a#\\d}", "invalid pattern (\\d) in substitution: invalid escape '\\d'"),
        ] {
            assert_eq!(expand(text), Err(format!("failed to process {}: {expected}", go::quote(text))), "{text}");
        }
    }

    #[test]
    fn words_are_split_after_expansion() {
        let words = |text| Lexer::new('\\').expand(text, &Some3).unwrap().words;
        assert_eq!(words(" a  $a 'b c'd "), ["a", "foo", "bar", "foo", "b cd"]);
        assert_eq!(words("\"$a\""), ["foo bar foo"]);
    }

    #[test]
    fn what_is_unset_can_stay() {
        let lexer = Lexer { keep_unset: true, keep_quotes: true, ..Lexer::new('\\') };
        let text = |text| lexer.expand(text, &Some3).unwrap().text;
        assert_eq!(text("'x' $u ${u} ${u:-w} \"${u/a/b}\" $empty"), "'x' $u ${u} ${u:-w} \"${u/a/b}\" ");
    }

    #[test]
    fn variables_are_listed() {
        let expanded = Lexer::new('\\').expand("$a ${u:-$v} $empty", &Some3).unwrap();
        assert_eq!(expanded.used, BTreeSet::from(["a".to_owned(), "empty".to_owned()]));
        assert_eq!(expanded.missing, BTreeSet::from(["u".to_owned(), "v".to_owned()]));
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = format!("{}x{}", "${u:-".repeat(10_000), "}".repeat(10_000));
        assert!(expand(&nested).unwrap_err().contains("nested more than 64 times"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[$\\{\\}a-c:/#%?+'\"\\\\ -]{0,40}") {
            let _ = expand(&text);
        }

        #[test]
        fn what_has_no_special_character_stays(text in "[a-z.,:/{}#%-]{0,40}") {
            prop_assert_eq!(expand(&text), Ok(text));
        }

        #[test]
        fn what_is_single_quoted_stays(text in "[^']{0,40}") {
            prop_assert_eq!(expand(&format!("'{text}'")), Ok(text));
        }
    }
}
