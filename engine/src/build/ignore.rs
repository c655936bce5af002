//! `.dockerignore`: which files of a context are left out.
//!
//! The patterns and their order are those of moby's `patternmatcher`: Go's `filepath.Match` with `**`, a `!` takes a file in
//! again, the last pattern that matches decides, and what matches a directory matches everything in it. Paths are bytes,
//! with slashes, relative to the context.
//!
//! `*`, `?`, brackets and backslashes have the meaning that `filepath.Match` gives them; where moby's translation to a
//! regular expression gives a character such as `|` or `*` in brackets another one, that is not copied.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// More patterns are refused.
const MAX_PATTERNS: usize = 10_000;
/// Longer ones are refused.
const MAX_PATTERN: usize = 4096;

/// Reads the patterns of a `.dockerignore`: one per line; lines that begin with `#` are comments.
pub fn read_lines(file: impl AsRef<[u8]>) -> Vec<String> {
    let file = file.as_ref();
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let text = String::from_utf8_lossy(file);
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (not, pattern) = match line.strip_prefix('!') {
                Some(pattern) => ("!", pattern.trim()),
                None => ("", line),
            };
            let cleaned = if pattern.is_empty() { String::new() } else { clean(pattern) };
            // The context is the root.
            let relative = if cleaned.len() > 1 { cleaned.strip_prefix('/').unwrap_or(&cleaned) } else { &cleaned };
            format!("{not}{relative}")
        })
        .collect()
}

fn clean(path: &str) -> String {
    super::dockerfile::go::clean_path(path)
}

/// Why patterns cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There is nothing behind the `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    Nothing,
    /// Its brackets or its last backslash are unfinished.
    #[error("syntax error in pattern {pattern:?}")]
    Syntax {
        /// The pattern.
        pattern: String,
    },
    /// It is longer than anyone writes.
    #[error("a pattern is longer than {MAX_PATTERN} bytes")]
    TooLong,
    /// There are more than anyone writes.
    #[error("there are more than {MAX_PATTERNS} patterns")]
    TooMany,
}

/// Patterns, in their order.
#[derive(Clone, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    has_exceptions: bool,
}

/// Which patterns match a directory, for what is in it.
#[derive(Debug, Clone, Default)]
pub struct DirectoryMatch {
    matched: Vec<bool>,
    is_ignored: bool,
}

impl DirectoryMatch {
    /// Returns whether the directory itself is left out.
    pub fn is_ignored(&self) -> bool {
        self.is_ignored
    }
}

#[derive(Clone)]
struct Pattern {
    /// As it was written, without `!`.
    text: String,
    negated: bool,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// This, and nothing else.
    Exact(String),
    /// What begins with this.
    Prefix(String),
    /// What ends with this, or is this without its slash.
    Suffix(String),
    /// Everything.
    All,
    /// Something with wildcards.
    Glob(Glob),
}

#[derive(Debug, Clone)]
struct Glob {
    tokens: Vec<Token>,
    /// What the path begins with.
    prefix: Vec<u8>,
    /// What the path ends with.
    suffix: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `*`: anything but slashes.
    Star,
    /// `**/`: nothing, or anything that ends with a slash.
    Directories,
    /// `**` at the end: anything.
    Rest,
    /// `?`: a character, but no slash.
    One,
    /// `[…]`: a character in ranges, or in none of them.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    Literal(char),
}

impl fmt::Debug for Patterns {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |pattern: &Pattern| format!("{}{}", if pattern.negated { "!" } else { "" }, pattern.text);
        formatter.debug_list().entries(self.patterns.iter().map(show)).finish()
    }
}

impl Patterns {
    /// Reads patterns, one per item.
    pub fn new(patterns: &[impl AsRef<str>]) -> Result<Self, PatternError> {
        if patterns.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany);
        }
        let mut read = Self::default();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.len() > MAX_PATTERN {
                return Err(PatternError::TooLong);
            }
            if pattern.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let (negated, text) = match cleaned.strip_prefix('!') {
                Some("") => return Err(PatternError::Nothing),
                Some(rest) => (true, rest),
                None => (false, cleaned.as_str()),
            };
            read.has_exceptions |= negated;
            read.patterns.push(Pattern { text: text.to_owned(), negated, kind: Kind::read(text)? });
        }
        Ok(read)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns whether a pattern takes files in again.
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Returns whether all that is at the root of the context is left out.
    pub(crate) fn ignore_everything(&self) -> bool {
        self.patterns.iter().any(|pattern| !pattern.negated && matches!(pattern.text.as_str(), "*" | "**" | "**/*"))
    }

    /// Returns whether a path is left out, itself or a directory that it is in.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path.as_ref();
        let mut parent = DirectoryMatch::default();
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes {
            parent = self.enter(&path[..end], &parent);
        }
        self.enter(path, &parent).is_ignored
    }

    /// Matches a path in a directory that was matched before. For a directory the result is what its own entries need.
    pub fn enter(&self, path: &[u8], parent: &DirectoryMatch) -> DirectoryMatch {
        let mut entered = DirectoryMatch { matched: vec![false; self.patterns.len()], is_ignored: false };
        for (at, pattern) in self.patterns.iter().enumerate() {
            let is_match = parent.matched.get(at).copied().unwrap_or(false)
                // What would change nothing need not be looked at.
                || (pattern.negated == entered.is_ignored && pattern.matches(path));
            entered.matched[at] = is_match;
            if is_match {
                entered.is_ignored = !pattern.negated;
            }
        }
        entered
    }

    /// Returns whether a directory need not be looked into: it is left out, and nothing in it can be taken in again.
    pub fn can_skip(&self, directory: &[u8], matched: &DirectoryMatch) -> bool {
        matched.is_ignored && !self.patterns.iter().any(|pattern| pattern.negated && pattern.may_match_below(directory))
    }
}

impl Pattern {
    fn matches(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::All => true,
            Kind::Exact(exact) => path == exact.as_bytes(),
            Kind::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
            Kind::Suffix(suffix) => {
                path.ends_with(suffix.as_bytes())
                    || suffix.strip_prefix('/').is_some_and(|name| path == name.as_bytes())
            }
            Kind::Glob(glob) => glob.matches(path),
        }
    }

    /// Returns whether it could match something in a directory. It says yes where that is not known.
    fn may_match_below(&self, directory: &[u8]) -> bool {
        let fixed = match &self.kind {
            Kind::All | Kind::Suffix(_) => return true,
            Kind::Exact(exact) => exact.as_bytes(),
            Kind::Prefix(prefix) => prefix.as_bytes(),
            Kind::Glob(glob) => &glob.prefix,
        };
        let inside = [directory, b"/"].concat();
        match &self.kind {
            // What matches a directory above matches everything in this one.
            Kind::Exact(_) => fixed.starts_with(&inside) || inside.starts_with(&[fixed, b"/"].concat()),
            _ => fixed.starts_with(&inside) || inside.starts_with(fixed),
        }
    }
}

impl Kind {
    fn read(text: &str) -> Result<Self, PatternError> {
        let invalid = || PatternError::Syntax { pattern: text.to_owned() };
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            tokens.push(match character {
                '*' if rest.next_if_eq(&'*').is_some() => {
                    let _ = rest.next_if_eq(&'/');
                    if rest.peek().is_none() { Token::Rest } else { Token::Directories }
                }
                '*' => Token::Star,
                '?' => Token::One,
                '\\' => Token::Literal(rest.next().ok_or_else(invalid)?),
                '[' => read_class(&mut rest).ok_or_else(invalid)?,
                other => Token::Literal(other),
            });
        }
        Ok(Self::of(text, tokens))
    }

    /// Returns the simplest kind that matches the same.
    fn of(text: &str, tokens: Vec<Token>) -> Self {
        match tokens.as_slice() {
            [Token::Rest] => return Self::All,
            [Token::Directories, rest @ ..] if rest.iter().all(Token::is_literal) => {
                // `**x` is not `**/x`: the slash is part of what the path ends with.
                let slash = if text.starts_with("**/") { "/" } else { "" };
                return Self::Suffix(format!("{slash}{}", literals(rest.iter())));
            }
            [start @ .., Token::Rest] if start.iter().all(Token::is_literal) => {
                return Self::Prefix(literals(start.iter()));
            }
            all if all.iter().all(Token::is_literal) => return Self::Exact(literals(all.iter())),
            _ => {}
        }
        let prefix = literals(tokens.iter()).into_bytes();
        let suffix: String = literals(tokens.iter().rev()).chars().rev().collect();
        Self::Glob(Glob { prefix, suffix: suffix.into_bytes(), tokens })
    }
}

/// Returns the literal characters up to the first wildcard.
fn literals<'t>(tokens: impl Iterator<Item = &'t Token>) -> String {
    tokens.map_while(|token| if let Token::Literal(literal) = token { Some(*literal) } else { None }).collect()
}

/// Reads what is in brackets, as `filepath.Match` does: at least one range, and no bare `-` or `]` as a bound.
fn read_class(rest: &mut Peekable<Chars<'_>>) -> Option<Token> {
    fn bound(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
        match rest.next()? {
            '-' | ']' => None,
            '\\' => rest.next(),
            other => Some(other),
        }
    }
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
        let low = bound(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() { bound(rest)? } else { low };
        ranges.push((low, high));
    }
    Some(Token::Class { negated, ranges })
}

impl Glob {
    fn matches(&self, path: &[u8]) -> bool {
        // Most paths are told apart by what they begin and end with.
        if !path.starts_with(&self.prefix) || !path.ends_with(&self.suffix) {
            return false;
        }
        // All that the tokens can have matched so far, at once: the effort is bounded whatever the pattern is.
        let mut states = vec![false; self.tokens.len() + 1];
        self.reach(&mut states, 0);
        let mut next = vec![false; states.len()];
        for character in Characters(path) {
            next.fill(false);
            for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| states[*at]) {
                match token {
                    Token::Star if character != Some('/') => self.reach(&mut next, at),
                    Token::Directories => {
                        next[at] = true;
                        if character == Some('/') {
                            self.reach(&mut next, at + 1);
                        }
                    }
                    Token::Rest => self.reach(&mut next, at),
                    token if token.is(character) => self.reach(&mut next, at + 1),
                    _ => {}
                }
            }
            std::mem::swap(&mut states, &mut next);
        }
        states[self.tokens.len()]
    }

    /// Enters a state, and those that are reached from it without a character.
    fn reach(&self, states: &mut [bool], state: usize) {
        for (at, is_reached) in states.iter_mut().enumerate().skip(state) {
            if std::mem::replace(is_reached, true) {
                return;
            }
            if !matches!(self.tokens.get(at), Some(Token::Star | Token::Directories | Token::Rest)) {
                return;
            }
        }
    }
}

impl Token {
    fn is_literal(&self) -> bool {
        matches!(self, Self::Literal(_))
    }

    /// Returns whether it matches this one character.
    fn is(&self, character: Option<char>) -> bool {
        match self {
            Self::One => character != Some('/'),
            Self::Class { negated, ranges } => {
                let within = |character: char| ranges.iter().any(|(low, high)| (*low..=*high).contains(&character));
                character.is_some_and(within) != *negated
            }
            Self::Literal(literal) => character == Some(*literal),
            Self::Star | Self::Directories | Self::Rest => false,
        }
    }
}

/// The characters of a path; None for a byte that is part of none.
struct Characters<'p>(&'p [u8]);

impl Iterator for Characters<'_> {
    type Item = Option<char>;

    fn next(&mut self) -> Option<Option<char>> {
        let first = *self.0.first()?;
        let length = match first {
            0..0x80 => 1,
            0xc2..0xe0 => 2,
            0xe0..0xf0 => 3,
            _ => 4,
        };
        let character =
            self.0.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|text| text.chars().next());
        self.0 = &self.0[if character.is_some() { length } else { 1 }..];
        Some(character)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ignored(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns).unwrap().matches(path)
    }

    #[test]
    fn patterns_match_as_in_moby() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "a/b", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir", true),
            ("**/dir", "a/dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "dir/afile", true),
            ("**/file", "dir/afile", false),
            ("a*", "abc", true),
            ("*", "a/b", true),
            ("*.go", "a.go", true),
            ("*.go", "a/b.go", false),
            ("**/*.go", "a/b.go", true),
            ("**/*.go", "b.go", true),
            ("a/*/b", "a/x/b", true),
            ("a/*/b", "a/x/y/b", false),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/b", true),
            ("a**/*.txt", "a/bar.txt", true),
            ("a**/*.txt", "a/b/bar.txt", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[ab]c", "bc", true),
            ("[^ab]c", "bc", false),
            ("[a-c]", "b", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("file", "file/inside", true),
            ("dir/file", "dir", false),
            ("/file", "file", false),
            ("caf\u{e9}?", "caf\u{e9}s", true),
        ] {
            assert_eq!(ignored(&[pattern], path), expected, "{pattern} {path}");
        }
        assert!(Patterns::new(&["*a"]).unwrap().matches(b"\xff\xfea"));
    }

    #[test]
    fn the_last_match_decides() {
        assert!(!ignored(&["*", "!a"], "a"));
        assert!(ignored(&["*", "!a", "a"], "a"));
        assert!(ignored(&["!a", "*"], "a"));
        assert!(!ignored(&["docs", "!docs/README.md"], "docs/README.md"));
        assert!(ignored(&["docs", "!docs/README.md"], "docs/other"));
        assert!(!ignored(&["**", "!util/docker/web"], "util/docker/web/foo"));
        assert!(ignored(&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo"));
    }

    #[test]
    fn files_are_read() {
        let file = b"\xef\xbb\xbf# comment\n\n /a/./b/ \n! /c\n#x\n  # not a comment\n**\r\n!\n";
        assert_eq!(read_lines(file), ["a/b", "!c", "# not a comment", "**", "!"]);
        assert_eq!(Patterns::new(&["!"]).unwrap_err(), PatternError::Nothing);
        for wrong in ["[", "[]", "[a", "a\\", "[a-]", "[-a]"] {
            assert!(matches!(Patterns::new(&[wrong]), Err(PatternError::Syntax { .. })), "{wrong}");
        }
    }

    #[test]
    fn directories_are_skipped_where_nothing_can_come_back() {
        let can_skip = |patterns: &[&str], directory: &str| {
            let patterns = Patterns::new(patterns).unwrap();
            let matched = patterns.enter(directory.as_bytes(), &DirectoryMatch::default());
            patterns.can_skip(directory.as_bytes(), &matched)
        };
        assert!(can_skip(&["node_modules"], "node_modules"));
        assert!(!can_skip(&["src"], "node_modules"));
        assert!(can_skip(&["*", "!src/*.c"], "node_modules"));
        assert!(!can_skip(&["*", "!src/*.c"], "src"));
        assert!(!can_skip(&["*", "!**/keep"], "node_modules"));
        assert!(!can_skip(&["*", "!node_modules/a"], "node_modules"));
        assert!(can_skip(&["*", "!node_modules2/a"], "node_modules"));
    }

    /// The same, in the plainest way: which rest of the pattern matches which rest of the path.
    fn naive(tokens: &[Token], path: &[char]) -> bool {
        let Some((token, rest)) = tokens.split_first() else { return path.is_empty() };
        match token {
            Token::Star => {
                (0..=path.len()).take_while(|end| !path[..*end].contains(&'/')).any(|end| naive(rest, &path[end..]))
            }
            Token::Directories => {
                naive(rest, path) || (0..path.len()).any(|at| path[at] == '/' && naive(rest, &path[at + 1..]))
            }
            Token::Rest => true,
            token => path.split_first().is_some_and(|(first, left)| token.is(Some(*first)) && naive(rest, left)),
        }
    }

    fn glob(text: &str) -> Option<Glob> {
        match Kind::read(text) {
            Ok(Kind::Glob(glob)) => Some(glob),
            _ => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn globs_match_as_the_plain_way(pattern in "[ab/*?]{1,9}|[ab]\\[\\^?a-b\\][*/ab]{0,5}", path in "[ab/]{0,10}") {
            if let Some(glob) = glob(&pattern) {
                let characters: Vec<char> = path.chars().collect();
                prop_assert_eq!(glob.matches(path.as_bytes()), naive(&glob.tokens, &characters));
            }
        }

        #[test]
        fn what_is_skipped_has_nothing_to_take_in(
            patterns in prop::collection::vec("!?[ab*/]{1,6}", 1..5),
            directory in "[ab]{1,2}(/[ab]{1,2})?",
            inside in "[ab]{1,2}(/[ab]{1,2})?",
        ) {
            if let Ok(patterns) = Patterns::new(&patterns) {
                let mut matched = DirectoryMatch::default();
                if let Some((first, _)) = directory.split_once('/') {
                    matched = patterns.enter(first.as_bytes(), &matched);
                }
                matched = patterns.enter(directory.as_bytes(), &matched);
                if patterns.can_skip(directory.as_bytes(), &matched) {
                    let path = [directory, inside].join("/");
                    prop_assert!(patterns.matches(path));
                }
            }
        }

        #[test]
        fn nothing_panics(pattern in ".{0,20}", path in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(patterns) = Patterns::new(&[pattern]) {
                patterns.matches(&path);
            }
        }
    }
}
