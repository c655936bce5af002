//! What a text must look like: the vocabulary of the data-driven cases.

use serde::Deserialize;
use serde_json::Value;

/// Conditions on a text; all of them must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The whole text, without the white space at its end.
    pub is: Option<String>,
    /// Each occurs somewhere.
    pub has: Vec<String>,
    /// None occurs anywhere.
    pub lacks: Vec<String>,
    /// Each matches a whole line (`*` stands for any text; runs of blanks count as one), in this order.
    pub lines: Vec<String>,
    /// Each is contained in some object of the text, read as a JSON array, a JSON object or one object per line.
    pub json: Vec<Value>,
    /// How many objects there are.
    pub json_count: Option<usize>,
    /// How many lines that are not empty.
    pub line_count: Option<usize>,
}

impl Expect {
    /// Returns what does not hold, in words.
    pub fn check(&self, text: &str, fill: &dyn Fn(&str) -> String) -> Result<(), String> {
        if let Some(is) = &self.is {
            let is = fill(is);
            if text.trim_end() != is.trim_end() {
                return Err(format!("it is not {is:?}"));
            }
        }
        for has in &self.has {
            let has = fill(has);
            if !text.contains(&has) {
                return Err(format!("it lacks {has:?}"));
            }
        }
        for lacks in &self.lacks {
            let lacks = fill(lacks);
            if text.contains(&lacks) {
                return Err(format!("it has {lacks:?}"));
            }
        }
        let mut lines = text.lines();
        for pattern in &self.lines {
            let pattern = squeeze(&fill(pattern));
            if !lines.any(|line| glob(&pattern, &squeeze(line))) {
                return Err(format!("no line (after the ones before it) matches {pattern:?}"));
            }
        }
        if let Some(count) = self.line_count {
            let found = text.lines().filter(|line| !line.trim().is_empty()).count();
            if found != count {
                return Err(format!("it has {found} lines instead of {count}"));
            }
        }
        if !self.json.is_empty() || self.json_count.is_some() {
            let objects = objects(text)?;
            if let Some(count) = self.json_count
                && objects.len() != count
            {
                return Err(format!("it has {} objects instead of {count}", objects.len()));
            }
            for wanted in &self.json {
                let wanted: Value = serde_json::from_str(&fill(&wanted.to_string())).map_err(|e| e.to_string())?;
                if !objects.iter().any(|object| contains(object, &wanted)) {
                    return Err(format!("no object contains {wanted}"));
                }
            }
        }
        Ok(())
    }
}

/// Reads a JSON array, a single object, or one object per line.
pub fn objects(text: &str) -> Result<Vec<Value>, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(objects)) => Ok(objects),
        Ok(object) => Ok(vec![object]),
        Err(_) => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{line:?} is not JSON: {error}")))
            .collect(),
    }
}

/// Whether every member of `wanted` is in `found` with a value that contains its value; strings may have `*`.
pub fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| contains(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| found.iter().any(|found| contains(found, wanted)))
        }
        (Value::String(found), Value::String(wanted)) => glob(wanted, found),
        _ => found == wanted,
    }
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether `pattern`, in which `*` stands for any text, matches the whole of `text`.
pub fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    // `rest` has at least one piece, the one that must end the text.
    let tail = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_anything() {
        for (pattern, text) in [("a", "a"), ("a*", "abc"), ("*c", "abc"), ("a*b*c", "a-b-b-c"), ("*", "")] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*c", "abd"), ("a*a", "a"), ("*b*b*", "abc")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn lines_are_matched_in_order() {
        let expect = |lines: &[&str]| Expect {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..Expect::default()
        };
        let check = |lines: &[&str]| expect(lines).check(" a  1\n b  2\n", &|text| text.to_owned()).is_ok();
        assert!(check(&["a 1", "b *"]));
        assert!(!check(&["b 2", "a 1"]));
    }

    #[test]
    fn a_part_of_an_object_is_enough() {
        let expect: Expect =
            serde_json::from_str(r#"{"json": [{"A": "x*", "L": [{"P": 80}]}], "json_count": 2}"#).expect("valid");
        let text = "{\"A\": \"xyz\", \"L\": [{\"P\": 1}, {\"P\": 80, \"Q\": 2}]}\n{\"A\": 3}\n";
        assert_eq!(expect.check(text, &|text| text.to_owned()), Ok(()));
    }
}
