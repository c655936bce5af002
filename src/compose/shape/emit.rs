//! From typed trees to what is printed.

use super::tables::SECTIONS;
use super::{Field, Kind, Out, Shape};
use crate::compose::node::{Map, Node, Value};
use crate::compose::path::Path;
use crate::compose::{unique, units};

/// For what it is printed: they differ in what is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// As Go's encoding/json prints Docker Compose's types.
    Json,
    /// As Go's yaml.v3 prints them.
    Yaml,
}

/// A typed project.
pub fn emit_project(root: &Node, flavour: Flavour) -> Out {
    let mut entries = Vec::new();
    if let Some(name) = root.get("name").and_then(Node::as_str) {
        if !name.is_empty() || flavour == Flavour::Json {
            entries.push(("name".to_owned(), Out::Text(name.to_owned())));
        }
    } else if flavour == Flavour::Json {
        entries.push(("name".to_owned(), Out::Text(String::new())));
    }
    for (section, _) in SECTIONS {
        // Docker Compose forgets the models in JSON.
        if section == "models" && flavour == Flavour::Json {
            continue;
        }
        let members = emit_section(root, section, flavour);
        if section == "services" || matches!(&members, Out::Map(map) if !map.is_empty()) {
            entries.push((section.to_owned(), members));
        }
    }
    let mut extensions = extensions(root.as_map(), flavour);
    entries.append(&mut extensions);
    if flavour == Flavour::Json {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
    Out::Map(entries)
}

/// One section of a typed project.
pub fn emit_section(root: &Node, section: &str, flavour: Flavour) -> Out {
    let Some((_, shape)) = SECTIONS.iter().find(|(name, _)| *name == section) else { return Out::Null };
    let Some(map) = root.get(section).and_then(Node::as_map) else { return Out::Map(Vec::new()) };
    let members = map.iter().map(|(name, node)| {
        let mut out = emit_structure(node, shape, flavour);
        // The content of a config that comes from a variable is not printed.
        if section == "configs"
            && node.get("environment").and_then(Node::as_str).is_some_and(|name| !name.is_empty())
            && let Out::Map(entries) = &mut out
        {
            entries.retain(|(key, _)| key != "content");
        }
        (name.clone(), out)
    });
    Out::Map(sorted(members.collect(), flavour))
}

/// One service, with members left out.
pub fn emit_service(service: &Node, without: &[&str], flavour: Flavour) -> Out {
    let mut out = emit_structure(service, SECTIONS[0].1, flavour);
    if let Out::Map(entries) = &mut out {
        entries.retain(|(key, _)| !without.contains(&key.as_str()));
    }
    out
}

/// A whole project without types: keys sorted, values as they are.
pub fn emit_untyped(root: &Node, flavour: Flavour) -> Out {
    untyped(root, &Path::ROOT, flavour)
}

fn untyped(node: &Node, path: &Path<'_>, flavour: Flavour) -> Out {
    match &node.value {
        // Lists whose items have keys have been made anew, and are lists even if they are empty.
        Value::List(list) if list.is_empty() && unique::has_keys(path) => Out::List(Vec::new()),
        Value::Map(map) => {
            let entries = map
                .iter()
                .filter(|(key, _)| !key.starts_with('\0'))
                .map(|(key, node)| (key.clone(), untyped(node, &path.key(key), flavour)));
            Out::Map(sorted(entries.collect(), flavour))
        }
        _ => emit_raw(node, flavour),
    }
}

/// A value without a type.
pub fn emit_raw(node: &Node, flavour: Flavour) -> Out {
    match &node.value {
        Value::Null => Out::Null,
        Value::Bool(value) => Out::Bool(*value),
        Value::Int(value) => Out::Int(*value),
        Value::Uint(value) => Out::Uint(*value),
        Value::Float(value) => Out::Float(*value),
        Value::Time(text) => Out::Time(text.clone()),
        Value::String(text) => Out::Text(text.clone()),
        // Docker Compose prints an empty list that it has no type for as null.
        Value::List(list) if list.is_empty() && flavour == Flavour::Json => Out::Null,
        Value::List(list) => Out::List(list.iter().map(|node| emit_raw(node, flavour)).collect()),
        Value::Map(map) => {
            let entries = map
                .iter()
                .filter(|(key, _)| !key.starts_with('\0'))
                .map(|(key, node)| (key.clone(), emit_raw(node, flavour)));
            Out::Map(sorted(entries.collect(), flavour))
        }
    }
}

fn extensions(map: Option<&Map>, flavour: Flavour) -> Vec<(String, Out)> {
    let entries = map
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("x-"))
        .map(|(key, node)| (key.clone(), emit_raw(node, flavour)));
    sorted(entries.collect(), flavour)
}

fn emit_structure(node: &Node, shape: &Shape, flavour: Flavour) -> Out {
    let map = node.as_map();
    let mut nodes: Vec<Option<&Node>> = vec![None; shape.fields.len()];
    for (key, node) in map.into_iter().flatten() {
        if let Some(number) = shape.find(key) {
            nodes[number] = Some(node);
        }
    }
    let mut entries = Vec::new();
    for (field, node) in shape.fields.iter().zip(nodes) {
        if let Some(out) = emit_field(node, field, flavour) {
            let key = if flavour == Flavour::Json { field.json } else { field.key };
            entries.push((key.to_owned(), out));
        }
    }
    if flavour == Flavour::Yaml {
        entries.append(&mut extensions(map, flavour));
    }
    Out::Map(entries)
}

fn emit_field(node: Option<&Node>, field: &Field, flavour: Flavour) -> Option<Out> {
    let empty = Node::new(Value::Null, crate::compose::source::Span::NONE);
    let out = match (field.kind, node) {
        (Kind::Struct(shape), node) => {
            let out = emit_structure(node.unwrap_or(&empty), shape, flavour);
            if flavour == Flavour::Yaml && matches!(&out, Out::Map(entries) if entries.is_empty()) {
                return None;
            }
            return Some(out);
        }
        (Kind::Command, None) => return (flavour == Flavour::Json).then_some(Out::Null),
        // An empty command is not the same as none.
        (Kind::Command, Some(node)) => return Some(texts(node)),
        (_, None) if !field.always => return None,
        (kind, node) => emit_value(node.unwrap_or(&empty), kind, flavour),
    };
    (field.always || !is_empty(&out, field.kind)).then_some(out)
}

/// Whether a value is the same as none.
fn is_empty(out: &Out, kind: Kind) -> bool {
    match (kind, out) {
        (
            Kind::OptionalStruct(_)
            | Kind::OptionalFlag
            | Kind::OptionalInt
            | Kind::OptionalUnsigned
            | Kind::OptionalDuration
            | Kind::OptionalMode,
            _,
        ) => false,
        (Kind::Duration, Out::Text(text)) => text == "0s",
        (Kind::Bytes, Out::Text(text)) => text == "0",
        (_, Out::Null | Out::Bool(false) | Out::Int(0)) => true,
        (_, Out::Float32(number)) => *number == 0.0,
        (_, Out::Text(text)) => text.is_empty(),
        (_, Out::List(list)) => list.is_empty(),
        (_, Out::Map(map)) => map.is_empty(),
        _ => false,
    }
}

fn emit_value(node: &Node, kind: Kind, flavour: Flavour) -> Out {
    match kind {
        Kind::Text => Out::Text(node.as_str().unwrap_or_default().to_owned()),
        Kind::Flag | Kind::OptionalFlag => Out::Bool(node.as_bool().unwrap_or(false)),
        Kind::Int | Kind::OptionalInt | Kind::Unsigned | Kind::OptionalUnsigned | Kind::Count => {
            Out::Int(node.as_int().unwrap_or(0))
        }
        #[expect(clippy::cast_possible_truncation, reason = "single precision is what these attributes have")]
        Kind::Float => match node.value {
            Value::Float(number) => Out::Float32(number as f32),
            _ => Out::Float32(0.0),
        },
        Kind::Bytes => Out::Text(node.as_int().unwrap_or(0).to_string()),
        Kind::Duration | Kind::OptionalDuration => Out::Text(units::format_duration(node.as_int().unwrap_or(0))),
        Kind::OptionalMode => {
            let mode = node.as_int().unwrap_or(0);
            let sign = if mode < 0 { "-" } else { "" };
            Out::Text(format!("0{sign}{:o}", mode.unsigned_abs()))
        }
        Kind::Command | Kind::Test | Kind::Texts | Kind::TextOrTexts | Kind::TextsOrNumbers | Kind::Hosts => {
            texts(node)
        }
        Kind::Variables | Kind::Mapping | Kind::Options | Kind::StrictOptions | Kind::MultiOptions => {
            let entries = node.as_map().into_iter().flatten().map(|(key, node)| (key.clone(), emit_raw(node, flavour)));
            Out::Map(sorted(entries.collect(), flavour))
        }
        Kind::Ssh => {
            let keys = node.as_map().into_iter().flatten().map(|(id, path)| match path.value.print() {
                Some(path_text) if !path.is_null() && !path_text.is_empty() => Out::Text(format!("{id}: {path_text}")),
                _ => Out::Text(id.clone()),
            });
            Out::List(keys.collect())
        }
        Kind::EnvFiles => Out::List(node.as_list().into_iter().flatten().map(|file| env_file(file, flavour)).collect()),
        Kind::Ulimits => {
            let entries =
                node.as_map().into_iter().flatten().map(|(name, limit)| (name.clone(), ulimit(limit, flavour)));
            Out::Map(sorted(entries.collect(), flavour))
        }
        Kind::Struct(shape) | Kind::OptionalStruct(shape) => emit_structure(node, shape, flavour),
        Kind::List(shape) => {
            Out::List(node.as_list().into_iter().flatten().map(|item| emit_structure(item, shape, flavour)).collect())
        }
        Kind::Dictionary(shape) | Kind::OptionalDictionary(shape) => {
            let entries = node.as_map().into_iter().flatten().map(|(key, item)| {
                (key.clone(), if item.is_null() { Out::Null } else { emit_structure(item, shape, flavour) })
            });
            Out::Map(sorted(entries.collect(), flavour))
        }
    }
}

fn texts(node: &Node) -> Out {
    Out::List(
        node.as_list()
            .into_iter()
            .flatten()
            .map(|item| Out::Text(item.as_str().unwrap_or_default().to_owned()))
            .collect(),
    )
}

fn env_file(file: &Node, flavour: Flavour) -> Out {
    let text = |key: &str| file.get(key).and_then(Node::as_str).unwrap_or_default().to_owned();
    if file.get("required").and_then(Node::as_bool).unwrap_or(true) {
        return Out::Text(text("path"));
    }
    let mut entries = vec![("path".to_owned(), Out::Text(text("path"))), ("required".to_owned(), Out::Bool(false))];
    if flavour == Flavour::Json && !text("format").is_empty() {
        entries.push(("format".to_owned(), Out::Text(text("format"))));
    }
    Out::Map(entries)
}

fn ulimit(limit: &Node, flavour: Flavour) -> Out {
    let number = |key: &str| limit.get(key).and_then(Node::as_int).unwrap_or(0);
    match limit.as_int() {
        Some(single) if single != 0 => Out::Int(single),
        _ => {
            let both = [("soft", number("soft")), ("hard", number("hard"))];
            let entries = both.into_iter().filter(|(_, number)| flavour == Flavour::Yaml || *number != 0);
            Out::Map(entries.map(|(key, number)| (key.to_owned(), Out::Int(number))).collect())
        }
    }
}

/// Sorts keys: bytewise in JSON, in YAML so that numbers in them count as numbers.
fn sorted(mut entries: Vec<(String, Out)>, flavour: Flavour) -> Vec<(String, Out)> {
    match flavour {
        Flavour::Json => entries.sort_by(|(a, _), (b, _)| a.cmp(b)),
        Flavour::Yaml => entries.sort_by(|(a, _), (b, _)| natural(a, b)),
    }
    entries
}

/// The order of keys in yaml.v3: `a2` before `a10`, letters behind everything else.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut digits = false;
    for at in 0..a.len().min(b.len()) {
        if a[at] == b[at] {
            digits = a[at].is_ascii_digit();
            continue;
        }
        let (a_letter, b_letter) = (a[at].is_alphabetic(), b[at].is_alphabetic());
        if a_letter && b_letter {
            return a[at].cmp(&b[at]);
        }
        if a_letter || b_letter {
            let a_first = if digits { a_letter } else { b_letter };
            return if a_first { Ordering::Less } else { Ordering::Greater };
        }
        let leading = (a[at] == '0' || b[at] == '0')
            && a[..at].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
        let number = |text: &[char]| {
            let digits: Vec<u64> = text.iter().map_while(|c| c.to_digit(10)).map(u64::from).collect();
            (
                digits.iter().fold(u64::from(leading), |number, digit| number.wrapping_mul(10).wrapping_add(*digit)),
                digits.len(),
            )
        };
        let ((a_number, a_length), (b_number, b_length)) = (number(&a[at..]), number(&b[at..]));
        return a_number.cmp(&b_number).then(a_length.cmp(&b_length)).then(a[at].cmp(&b[at]));
    }
    a.len().cmp(&b.len())
}
