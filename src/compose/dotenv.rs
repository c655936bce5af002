//! `.env` files, env files and label files.
//!
//! The dialect is Docker Compose's: `KEY=value`, `KEY: value`, a bare `KEY` that is inherited, `export`, quotes over several lines,
//! `\` escapes in double quotes, interpolation everywhere but in single quotes.

use std::collections::BTreeMap;
use std::ops::Range;

use super::interpolate::{self, Fault};

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DotenvError {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes.
    pub range: Range<usize>,
}

/// A variable of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its name.
    pub key: String,
    /// Its value, with variables replaced.
    pub value: String,
    /// Where the name stands, in bytes.
    pub range: Range<usize>,
}

/// How many bytes the values of a file may have: variables in them can stand for long texts.
const LARGEST: usize = 64 << 20;

/// Looks a variable up that the file does not define itself.
pub type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

/// Reads the usual format. `outer` wins over the file's own variables in interpolation; `known` are the variables of
/// files read before. `unset` hears of variables without a value.
pub fn parse(
    text: &str,
    known: &BTreeMap<String, String>,
    outer: Lookup<'_>,
    unset: &mut dyn FnMut(&str, Range<usize>),
) -> Result<Vec<Assignment>, DotenvError> {
    let mut reader = Reader { text, at: 0, values: known.clone(), outer };
    let mut assignments = Vec::new();
    let mut bytes = 0;
    loop {
        match reader.statement(unset)? {
            Statement::End => return Ok(assignments),
            Statement::Nothing => {}
            Statement::Assignment(assignment) => {
                bytes += assignment.value.len();
                if bytes > LARGEST {
                    return Err(DotenvError {
                        message: format!("the values make more than {} MiB", LARGEST >> 20),
                        range: assignment.range,
                    });
                }
                reader.values.insert(assignment.key.clone(), assignment.value.clone());
                assignments.push(assignment);
            }
        }
    }
}

/// About how many bytes of memory the variables take in a project.
pub(super) fn size(assignments: &[Assignment]) -> usize {
    const OVERHEAD: usize = 128;
    assignments.iter().map(|assignment| assignment.key.len() + assignment.value.len() + OVERHEAD).sum()
}

/// Reads the format `raw`: one `KEY=value` a line, nothing is special.
pub fn parse_raw(text: &str, outer: Lookup<'_>) -> Result<Vec<Assignment>, DotenvError> {
    let mut assignments = Vec::new();
    let mut start = 0;
    for whole in text.split_inclusive('\n') {
        let line = whole.strip_suffix('\n').unwrap_or(whole);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let content = line.trim_start();
        let offset = start + line.len() - content.len();
        start += whole.len();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let (key, value) = content.split_once('=').map_or((content, None), |(key, value)| (key, Some(value)));
        let range = offset..offset + key.len();
        if key.is_empty() {
            return Err(DotenvError {
                message: format!("no variable name on line '{content}'"),
                range: offset..offset + content.len(),
            });
        }
        if key.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{a0}']) {
            return Err(DotenvError { message: format!("variable '{key}' contains whitespaces"), range });
        }
        if let Some(value) = value.map(ToOwned::to_owned).or_else(|| outer(key)) {
            assignments.push(Assignment { key: key.to_owned(), value, range });
        }
    }
    Ok(assignments)
}

/// What stands in a file.
enum Statement {
    Assignment(Assignment),
    /// A bare name that nobody defines.
    Nothing,
    End,
}

struct Reader<'t, 'l> {
    text: &'t str,
    at: usize,
    values: BTreeMap<String, String>,
    outer: Lookup<'l>,
}

/// Blank, but not the end of a line.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{85}' | '\u{a0}')
}

impl Reader<'_, '_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self, skip: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(skip).len();
    }

    fn line_end(&self) -> usize {
        self.rest().find('\n').map_or(self.text.len(), |end| self.at + end)
    }

    /// The next statement.
    fn statement(&mut self, unset: &mut dyn FnMut(&str, Range<usize>)) -> Result<Statement, DotenvError> {
        loop {
            self.skip(char::is_whitespace);
            if self.rest().is_empty() {
                return Ok(Statement::End);
            }
            if !self.rest().starts_with('#') {
                break;
            }
            self.at = self.line_end();
        }
        if let Some(after) = self.rest().strip_prefix("export").filter(|after| after.starts_with(char::is_whitespace)) {
            self.at = self.text.len() - after.len();
            self.skip(is_blank);
        }
        let start = self.at;
        let mut inherited = false;
        let mut key_end = None;
        for (offset, c) in self.rest().char_indices() {
            match c {
                _ if is_blank(c) => {}
                '=' | ':' | '\n' => {
                    inherited = c == '\n';
                    key_end = Some(start + offset);
                    break;
                }
                '_' | '.' | '-' | '[' | ']' => {}
                _ if c.is_alphanumeric() => {}
                _ => {
                    let at = start + offset;
                    let line = &self.text[start..self.line_end()];
                    return Err(DotenvError {
                        message: format!("unexpected character {c:?} in variable name {line:?}"),
                        range: at..at + c.len_utf8(),
                    });
                }
            }
        }
        let Some(key_end) = key_end else {
            // A bare name that ends the file without a line end is no statement for Docker Compose: the text becomes
            // the value of the empty name.
            return self.value(String::new(), start..self.text.len(), unset).map(Statement::Assignment);
        };
        let key = self.text[start..key_end].trim_end().to_owned();
        let range = start..start + key.len();
        self.at = key_end + 1;
        self.skip(is_blank);
        if key.contains(' ') {
            return Err(DotenvError { message: "key cannot contain a space".to_owned(), range });
        }
        if inherited {
            return Ok(match (self.outer)(&key) {
                Some(value) => Statement::Assignment(Assignment { key, value, range }),
                None => Statement::Nothing,
            });
        }
        self.value(key, range, unset).map(Statement::Assignment)
    }

    fn value(
        &mut self,
        key: String,
        range: Range<usize>,
        unset: &mut dyn FnMut(&str, Range<usize>),
    ) -> Result<Assignment, DotenvError> {
        let start = self.at;
        let quote = self.rest().chars().next().filter(|c| matches!(c, '"' | '\''));
        let Some(quote) = quote else {
            let end = self.line_end();
            let line = &self.text[start..end];
            let content = line.split_once(" #").map_or(line, |(content, _)| content).trim_end();
            self.at = (end + 1).min(self.text.len());
            let value = self.expand(content, start..start + content.len(), unset)?;
            return Ok(Assignment { key, value, range });
        };
        let mut content = String::new();
        let mut escaped = false;
        for (offset, c) in self.text[start + 1..].char_indices() {
            if c == quote && !escaped {
                let end = start + 1 + offset;
                self.at = end + 1;
                let value =
                    if quote == '"' { self.expand(&unescape(&content), start..end + 1, unset)? } else { content };
                return Ok(Assignment { key, value, range });
            }
            if c == '\\' && !escaped {
                escaped = true;
                continue;
            }
            if escaped && c != quote {
                content.push('\\');
            }
            escaped = false;
            content.push(c);
        }
        let end = self.line_end();
        Err(DotenvError { message: format!("unterminated quoted value {}", &self.text[start..end]), range: start..end })
    }

    fn expand(
        &self,
        text: &str,
        range: Range<usize>,
        unset: &mut dyn FnMut(&str, Range<usize>),
    ) -> Result<String, DotenvError> {
        if !text.contains('$') {
            return Ok(text.to_owned());
        }
        // What the lookup finds must outlive it, so collect the values that the text could need first.
        let mut wanted = Vec::new();
        interpolate::variables(text, &mut wanted);
        collect_required(text, &mut wanted);
        let found: BTreeMap<String, String> = wanted
            .into_iter()
            .filter_map(|variable| {
                let value = (self.outer)(&variable.name).or_else(|| self.values.get(&variable.name).cloned())?;
                Some((variable.name, value))
            })
            .collect();
        let lookup = |name: &str| found.get(name).map(String::as_str);
        interpolate::substitute(text, &lookup, &mut |name| unset(name, range.clone()))
            .map_err(|fault: Fault| DotenvError { message: fault.to_string(), range })
    }
}

/// Adds the variables inside the messages of `${A:?…}`, which are evaluated too.
fn collect_required(text: &str, wanted: &mut Vec<interpolate::Variable>) {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        let name = rest.trim_start_matches('{');
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        wanted.push(interpolate::Variable { name: name[..end].to_owned(), ..interpolate::Variable::default() });
    }
}

/// Replaces the escapes that double quotes know.
fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let mut length = 1;
        match escape.bytes().next() {
            Some(b'a') => result.push('\u{7}'),
            Some(b'b') => result.push('\u{8}'),
            Some(b'f') => result.push('\u{c}'),
            Some(b'n') => result.push('\n'),
            Some(b'r') => result.push('\r'),
            Some(b't') => result.push('\t'),
            Some(b'v') => result.push('\u{b}'),
            Some(b'"') => result.push('"'),
            Some(b'\\') => result.push('\\'),
            // Left for interpolation, which makes one `$` of it.
            Some(b'$') => result.push_str("$$"),
            Some(b'0') => {
                let digits = escape[1..].bytes().take(3).take_while(u8::is_ascii_digit).count();
                let octal = &escape[1..=digits];
                length = 1 + digits;
                match u8::from_str_radix(octal, 8) {
                    Ok(code) if digits == 3 => result.push(char::from(code)),
                    _ => {
                        result.push('\\');
                        result.push_str(octal);
                    }
                }
            }
            _ => {
                result.push('\\');
                length = 0;
            }
        }
        rest = &escape[length..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let outer = |name: &str| (name == "OUTER").then(|| "outside".to_owned());
        parse(text, &BTreeMap::new(), &outer, &mut |_, _| {})
            .expect("no fault")
            .into_iter()
            .map(|assignment| (assignment.key, assignment.value))
            .collect()
    }

    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(read(text), expected, "{text:?}");
    }

    #[test]
    fn the_dialect_is_compose_s() {
        check("A=1\nB = 2 \nC: 3\n", &[("A", "1"), ("B", "2"), ("C", "3")]);
        check("export A=1\r\n# no\n  B=x # y\nC=x#y\nD= #x\n", &[("A", "1"), ("B", "x"), ("C", "x#y"), ("D", "#x")]);
        check("OUTER\nNONE\nA=1\n", &[("OUTER", "outside"), ("A", "1")]);
        check(
            "A='$OUTER\\n'\nB=\"$OUTER\\n\"\nC=${A}x\n",
            &[("A", "$OUTER\\n"), ("B", "outside\n"), ("C", "$OUTER\\nx")],
        );
        check("A=\"two\nlines\"\nB='it\\'s'\n", &[("A", "two\nlines"), ("B", "it's")]);
        check("A=\"x\"y\nB=1\n", &[("A", "x"), ("B", "1")]);
        check("=x\n", &[("", "x")]);
        check("A=\"\\$OUTER $$OUTER\"\n", &[("A", "$OUTER $OUTER")]);
        check("A=${NONE:-d}\nA=2\n", &[("A", "d"), ("A", "2")]);
    }

    #[test]
    fn faults_have_a_place() {
        let fault = |text| parse(text, &BTreeMap::new(), &|_| None, &mut |_, _| {}).expect_err("a fault");
        assert_eq!(fault("A=1\nB%=2\n").range, 5..6);
        assert_eq!(fault("A='x\n").range, 2..4);
        assert_eq!(fault("A B=1\n").message, "key cannot contain a space");
        assert!(fault("A=${B:?no}\n").message.contains("required variable B"));
    }

    #[test]
    fn raw_files_have_no_syntax() {
        let read = |text| {
            parse_raw(text, &|_| None).map(|all| all.into_iter().map(|one| (one.key, one.value)).collect::<Vec<_>>())
        };
        assert_eq!(
            read("A='x' # $Y\n# no\nB=\n"),
            Ok(vec![("A".into(), "'x' # $Y".into()), ("B".into(), String::new())])
        );
        assert!(read("export A=1").is_err());
        assert!(read("A =1").is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[A=\"'\\\\$#{} \n:e\u{e9}0n]{0,30}") {
            let _ = parse(&text, &BTreeMap::new(), &|_| None, &mut |_, _| {});
            let _ = parse_raw(&text, &|_| None);
        }

        #[test]
        fn what_is_single_quoted_stays(value in "[^'\\\\\r\u{0}]{0,20}") {
            proptest::prop_assert_eq!(read(&format!("K='{value}'\n")), vec![("K".to_owned(), value)]);
        }
    }
}
