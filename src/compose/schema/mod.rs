//! Which attributes there are and what they take.
//!
//! The rules are those of the Compose Specification's schema as of Docker Compose 2.40, in `rules`; this module checks a tree
//! against them, explains what is wrong, and removes it, so that the later stages see a tree that fits.

mod hints;
pub(super) mod rules;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::node::{Map, Node, Value};
use super::path::Path;
use super::source::Span;
use super::{Diagnostic, Faults, suggest};

/// What an attribute takes.
#[derive(Debug)]
pub(super) enum Rule {
    /// Anything.
    Any,
    /// A scalar of one of these types.
    Scalar(u8),
    /// One of these words.
    Words(&'static [&'static str]),
    /// Text that a function accepts, and what it must be.
    Text(fn(&str) -> bool, &'static str),
    /// A whole number in these bounds, or text.
    Bounded(i64, i64),
    /// A list.
    List {
        /// What its items are.
        item: &'static Rule,
        /// Whether no item may be there twice.
        unique: bool,
    },
    /// A mapping with fixed keys.
    Object(&'static Object),
    /// A mapping whose keys the user chooses.
    Dictionary {
        /// Which keys are taken.
        keys: Keys,
        /// Whether other keys are an error (else they are not looked at).
        strict: bool,
        /// What its values are.
        value: &'static Rule,
    },
    /// One of several forms, told apart by their type.
    Either(&'static [Rule]),
}

/// Returns the path of everything that can be said of a service, such as `deploy.resources.limits.cpus`.
#[cfg(test)]
pub(crate) fn attributes_of_services() -> std::collections::BTreeSet<String> {
    attributes(&rules::SERVICE)
}

/// Returns the path of everything that can be said in an object.
#[cfg(test)]
fn attributes(object: &'static Object) -> std::collections::BTreeSet<String> {
    fn walk(rule: &Rule, path: &str, found: &mut std::collections::BTreeSet<String>) {
        match rule {
            Rule::List { item, .. } => walk(item, path, found),
            Rule::Dictionary { value, .. } => walk(value, path, found),
            Rule::Either(rules) => rules.iter().for_each(|rule| walk(rule, path, found)),
            Rule::Object(object) => {
                for (key, rule) in object.keys {
                    let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
                    walk(rule, &path, found);
                }
            }
            _ => drop(found.insert(path.to_owned())),
        }
    }
    let mut found = std::collections::BTreeSet::new();
    walk(&Rule::Object(object), "", &mut found);
    found
}

/// A mapping with fixed keys.
#[derive(Debug)]
pub(super) struct Object {
    /// What it is called in messages (`a service`).
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [(&'static str, Rule)],
    /// Keys that must be there.
    pub required: &'static [&'static str],
    /// Whether keys that begin with `x-` may be there.
    pub extensions: bool,
    /// Whether other keys are an error.
    pub strict: bool,
}

/// Keys that the user chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// `[a-zA-Z0-9._-]+`
    Name,
    /// Anything but the empty string.
    Filled,
    /// `[a-z]+`
    Lower,
}

/// Types, as bits of a set.
pub(super) const NULL: u8 = 1;
/// `true` or `false`.
pub(super) const BOOL: u8 = 2;
/// A whole number.
pub(super) const INTEGER: u8 = 4;
/// Any number.
pub(super) const NUMBER: u8 = 8 | INTEGER;
/// Text.
pub(super) const STRING: u8 = 16;
const LIST: u8 = 32;
const MAP: u8 = 64;

impl Rule {
    /// The types that the rule takes.
    fn types(&self) -> u8 {
        match self {
            Self::Any => u8::MAX,
            Self::Scalar(types) => *types,
            Self::Words(_) | Self::Text(..) => STRING,
            Self::Bounded(..) => STRING | INTEGER,
            Self::List { .. } => LIST,
            Self::Object(_) | Self::Dictionary { .. } => MAP,
            Self::Either(rules) => rules.iter().fold(0, |types, rule| types | rule.types()),
        }
    }
}

/// Whether two items are the same in the eyes of Docker Compose's validator, which takes a text for the number that a later item
/// is.
fn equal(earlier: &Node, later: &Node) -> bool {
    match (&earlier.value, &later.value) {
        (Value::String(text), Value::Int(_) | Value::Uint(_) | Value::Float(_)) => {
            let number = |value: &Value| value.print().and_then(|text| super::units::parse_float(&text));
            super::units::parse_float(text).is_some_and(|text| number(&later.value) == Some(text))
        }
        (Value::List(earlier), Value::List(later)) => {
            earlier.len() == later.len() && earlier.iter().zip(later).all(|(earlier, later)| equal(earlier, later))
        }
        (Value::Map(earlier), Value::Map(later)) => {
            earlier.len() == later.len()
                && earlier.iter().all(|(key, earlier)| later.get(key).is_some_and(|later| equal(earlier, later)))
        }
        _ => super::node::same(earlier, later),
    }
}

/// A number that is the same for all items that are [`equal`].
fn fingerprint(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| hasher.write_u64(fingerprint(item))),
        Value::Map(map) => {
            let sum = map.iter().fold(0_u64, |sum, (key, node)| {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                hasher.write_u64(fingerprint(node));
                sum.wrapping_add(hasher.finish())
            });
            hasher.write_u64(sum);
        }
        scalar => {
            let text = scalar.print().unwrap_or_default();
            match super::units::parse_float(&text) {
                // Both zeros are one number.
                Some(number) => hasher.write_u64((number + 0.0).to_bits()),
                None => text.hash(&mut hasher),
            }
        }
    }
    hasher.finish()
}

/// A number without a fraction.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Float(number) => Some(super::units::truncate(*number)),
        _ => None,
    }
}

fn types_of(value: &Value) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOL,
        Value::Int(_) | Value::Uint(_) => INTEGER,
        Value::Float(number) if number.fract() == 0.0 => INTEGER,
        Value::Float(_) => NUMBER & !INTEGER,
        Value::Time(_) => 0,
        Value::String(_) => STRING,
        Value::List(_) => LIST,
        Value::Map(_) => MAP,
    }
}

fn describe(types: u8) -> String {
    let names = [
        (MAP, "mapping"),
        (LIST, "list"),
        (STRING, "string"),
        (BOOL, "boolean"),
        (NUMBER & !INTEGER, "number"),
        (INTEGER, "whole number"),
        (NULL, "null"),
    ];
    let found: Vec<&str> = names
        .iter()
        .filter(|(bit, name)| types & bit != 0 && !(*name == "whole number" && types & NUMBER == NUMBER))
        .map(|(_, name)| *name)
        .collect();
    match found.as_slice() {
        [] => "nothing".to_owned(),
        [one] => format!("a {one}"),
        [first @ .., last] => format!("a {} or a {last}", first.join(", a ")),
    }
}

/// Checks a whole project tree; what does not fit is reported and removed.
pub(super) fn validate(root: &mut Node, faults: &mut Faults) {
    let mut checker = Checker { faults, parents: Vec::new() };
    checker.check(root, &rules::PROJECT, &Path::ROOT);
}

struct Checker<'f> {
    faults: &'f mut Faults,
    /// The objects around the value, outermost first.
    parents: Vec<&'static Object>,
}

impl Checker<'_> {
    fn report(&mut self, diagnostic: Diagnostic, path: &Path<'_>) {
        self.faults.taint(path);
        self.faults.push(diagnostic.at_path(path.to_string()));
    }

    /// Checks one value; false: it is to be removed.
    fn check(&mut self, node: &mut Node, rule: &'static Rule, path: &Path<'_>) -> bool {
        let types = types_of(&node.value);
        if let Rule::Either(rules) = rule
            && let Some(rule) = rules.iter().find(|rule| rule.types() & types != 0)
        {
            return self.check(node, rule, path);
        }
        if !matches!(rule, Rule::Any) && rule.types() & types == 0 {
            self.wrong_type(node, rule, path);
            return false;
        }
        let number = whole(&node.value);
        match (rule, &mut node.value) {
            (Rule::Words(words), Value::String(text)) if !words.contains(&text.as_str()) => {
                let message = format!("{path} must be one of {}, not {text:?}", quoted(words));
                let mut diagnostic = Diagnostic::error("invalid-value", message).label(
                    &self.faults.sources,
                    node.span,
                    "not one of them",
                );
                // `healthy` for `service_healthy` is left out, not mistyped.
                let ending =
                    || words.iter().copied().find(|word| !text.is_empty() && word.ends_with(&format!("_{text}")));
                if let Some(word) = suggest::closest(text, words.iter().copied()).or_else(ending) {
                    diagnostic = diagnostic.help(format!("did you mean {word:?}?"));
                }
                self.report(diagnostic, path);
                false
            }
            (Rule::Text(accepts, what), Value::String(text)) if !accepts(text) => {
                let message = format!("{path} must be {what}, not {text:?}");
                let mut diagnostic =
                    Diagnostic::error("invalid-value", message).label(&self.faults.sources, node.span, "");
                if let Some(hint) = hints::for_text(text, path) {
                    diagnostic = diagnostic.help(hint);
                }
                self.report(diagnostic, path);
                false
            }
            (Rule::Bounded(low, high), _) if number.is_some_and(|number| !(*low..=*high).contains(&number)) => {
                let (bound, limit) = if number < Some(*low) { ("greater", low) } else { ("less", high) };
                let message = format!("{path} must be {bound} than or equal to {limit}");
                let diagnostic = Diagnostic::error("out-of-range", message).label(&self.faults.sources, node.span, "");
                self.report(diagnostic, path);
                false
            }
            (Rule::List { item, unique }, Value::List(list)) => {
                self.list(list, item, *unique, path);
                true
            }
            (Rule::Object(object), Value::Map(map)) => {
                self.object(map, node.key.or(node.span), object, path);
                true
            }
            (Rule::Dictionary { keys, strict, value }, Value::Map(map)) => {
                self.dictionary(map, *keys, *strict, value, path);
                true
            }
            _ => true,
        }
    }

    fn list(&mut self, list: &mut Vec<Node>, item: &'static Rule, unique: bool, path: &Path<'_>) {
        let mut index = 0;
        list.retain_mut(|node| {
            index += 1;
            self.check(node, item, &path.index(index - 1))
        });
        if unique {
            // Ranges of ports make lists of thousands: only items that could be equal are compared.
            let mut alike: HashMap<u64, Vec<usize>> = HashMap::with_capacity(list.len());
            let mut later = 0;
            while later < list.len() {
                let earlier = alike.entry(fingerprint(&list[later])).or_default();
                let Some(earlier) = earlier.iter().copied().find(|index| equal(&list[*index], &list[later])) else {
                    earlier.push(later);
                    later += 1;
                    continue;
                };
                let shown = list[later].value.print().map_or_else(String::new, |text| format!(" {text:?}"));
                let message =
                    format!("{path} items[{earlier},{later}] must be unique: the value{shown} is there twice");
                let diagnostic = Diagnostic::error("duplicate-item", message)
                    .label(&self.faults.sources, list[later].span, "again")
                    .label(&self.faults.sources, list[earlier].span, "first");
                self.report(diagnostic, path);
                list.remove(later);
            }
        }
    }

    fn object(&mut self, map: &mut Map, place: Span, object: &'static Object, path: &Path<'_>) {
        for name in object.required {
            if !map.contains_key(*name) {
                let message = format!("{path} is missing {name:?}");
                let diagnostic = Diagnostic::error("missing-key", message).label(
                    &self.faults.sources,
                    place,
                    format!("needs {name:?}"),
                );
                self.report(
                    hints::for_missing(name).map(ToOwned::to_owned).into_iter().fold(diagnostic, Diagnostic::help),
                    path,
                );
            }
        }
        self.parents.push(object);
        map.retain(|key, node| {
            let path = path.key(key);
            match object.keys.iter().find(|(name, _)| name == key) {
                Some((_, rule)) => self.check(node, rule, &path),
                // Keys that begin with NUL are the loader's own.
                None if (object.extensions && key.starts_with("x-")) || key.starts_with('\0') => true,
                None if !object.strict => true,
                None => {
                    self.unknown_key(key, node, object, &path);
                    false
                }
            }
        });
        self.parents.pop();
    }

    fn dictionary(&mut self, map: &mut Map, keys: Keys, strict: bool, value: &'static Rule, path: &Path<'_>) {
        map.retain(|key, node| {
            let fits = match keys {
                Keys::Name => {
                    !key.is_empty()
                        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
                }
                Keys::Filled => !key.is_empty(),
                Keys::Lower => !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase()),
            };
            let path = path.key(key);
            if fits {
                return self.check(node, value, &path);
            }
            if strict {
                let what = match keys {
                    Keys::Name => "may have letters, digits, `.`, `_` and `-` only",
                    Keys::Filled => "must not be empty",
                    Keys::Lower => "may have lower-case letters only",
                };
                let message = format!("{path}: the name {key:?} is not allowed");
                let mut diagnostic =
                    Diagnostic::error("invalid-name", message).label(&self.faults.sources, node.place(), what);
                if let Some(hint) = hints::for_name(key, keys) {
                    diagnostic = diagnostic.help(hint);
                }
                self.report(diagnostic, &path);
            }
            !strict
        });
    }

    fn wrong_type(&mut self, node: &Node, rule: &'static Rule, path: &Path<'_>) {
        let wanted = describe(rule.types());
        let found = match &node.value {
            Value::Time(_) => "a date".to_owned(),
            value => match value.print() {
                Some(text) if !node.is_null() => format!("{} ({text})", value.kind()),
                _ => value.kind().to_owned(),
            },
        };
        let place = if node.span.is_some() && node.span.start < node.span.end { node.span } else { node.place() };
        let place =
            if matches!(node.value, Value::Map(_) | Value::List(_) | Value::Null) { node.place() } else { place };
        let mut diagnostic = Diagnostic::error("wrong-type", format!("{path} must be {wanted}, not {found}")).label(
            &self.faults.sources,
            place,
            value_label(&node.value),
        );
        let source = self.faults.sources.text(node.span).unwrap_or("…");
        if let Some(hint) = hints::for_type(node, rule, path, source) {
            diagnostic = diagnostic.help(hint);
        }
        self.report(diagnostic, path);
    }

    fn unknown_key(&mut self, key: &str, node: &Node, object: &'static Object, path: &Path<'_>) {
        let mut diagnostic =
            Diagnostic::error("unknown-key", format!("additional properties '{key}' not allowed in {}", object.name))
                .label(&self.faults.sources, node.place(), "unknown key");
        if let Some(hint) = hints::for_key(key, node, object, &self.parents) {
            diagnostic = diagnostic.help(hint);
        }
        self.report(diagnostic, path);
    }
}

fn value_label(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing here",
        other => other.kind(),
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_beside_services_has_a_black_box_test() {
        let listed = include_str!("../../../compose-tests/elements").lines().filter(|line| !line.starts_with('#'));
        let listed: BTreeSet<_> = listed.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        let mut known = attributes(rules::PROJECT_OBJECT);
        known.retain(|path| !path.starts_with("services"));
        assert_eq!(listed, known);
    }
}
