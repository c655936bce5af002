//! Gives each value its type, in place.

use super::tables::SECTIONS;
use super::{Kind, Shape};
use crate::compose::node::{Map, Node, Value};
use crate::compose::path::Path;
use crate::compose::source::Span;
use crate::compose::{Diagnostic, Faults, cast, shell, units};

/// Types a whole project; values that cannot be typed are reported and removed.
pub(in crate::compose) fn decode(root: &mut Node, faults: &mut Faults) {
    for (section, shape) in SECTIONS {
        let path = Path::ROOT.key(section);
        let Some(map) = root.get_mut(section).and_then(Node::as_map_mut) else { continue };
        map.retain(|name, node| {
            if node.is_null() {
                node.value = Value::Map(Map::new());
            }
            structure(node, shape, &path.key(name), faults)
        });
    }
}

type Typed = Result<Value, String>;

/// Types the members of a group; false where it is no mapping.
fn structure(node: &mut Node, shape: &'static Shape, path: &Path<'_>, faults: &mut Faults) -> bool {
    let kind = node.value.kind();
    let Some(map) = node.as_map_mut() else {
        report(node, path, &format!("must be a mapping, not {kind}"), None, faults);
        return false;
    };
    map.retain(|key, node| {
        let Some(number) = shape.find(key) else { return true };
        !node.is_null() && value(node, shape.fields[number].kind, &path.key(key), faults)
    });
    true
}

fn report(node: &Node, path: &Path<'_>, message: &str, help: Option<&str>, faults: &mut Faults) {
    faults.taint(path);
    let diagnostic = Diagnostic::error("wrong-type", format!("{path}: {message}")).at_path(path.to_string()).label(
        &faults.sources,
        node.span.or(node.key),
        "",
    );
    faults.push(match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    });
}

/// What a value of this kind looks like, where its message does not say it.
fn advice(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Duration | Kind::OptionalDuration => Some("a duration is a number with a unit: 500ms, 10s, 1m30s"),
        Kind::Hosts => Some("the form is \"HOST=ADDRESS\", such as \"db.local=10.0.0.5\""),
        _ => None,
    }
}

/// Types one value; false where it has another type.
fn value(node: &mut Node, kind: Kind, path: &Path<'_>, faults: &mut Faults) -> bool {
    match kind {
        Kind::Struct(shape) | Kind::OptionalStruct(shape) => return structure(node, shape, path, faults),
        Kind::List(shape) => {
            if let Value::List(list) = &mut node.value {
                let mut index = 0;
                list.retain_mut(|item| {
                    index += 1;
                    if item.is_null() {
                        item.value = Value::Map(Map::new());
                    }
                    structure(item, shape, &path.index(index - 1), faults)
                });
                return true;
            }
        }
        Kind::Dictionary(shape) | Kind::OptionalDictionary(shape) => {
            if let Value::Map(map) = &mut node.value {
                let nullable = matches!(kind, Kind::OptionalDictionary(_));
                map.retain(|key, item| {
                    if item.is_null() {
                        if nullable {
                            return true;
                        }
                        item.value = Value::Map(Map::new());
                    }
                    structure(item, shape, &path.key(key), faults)
                });
                return true;
            }
        }
        _ => {
            return match scalar(node, kind) {
                Ok(value) => {
                    node.value = value;
                    true
                }
                Err(message) => {
                    report(node, path, &message, advice(kind), faults);
                    false
                }
            };
        }
    }
    let found = node.value.kind();
    report(node, path, &format!("has the wrong form: {found}"), None, faults);
    false
}

fn scalar(node: &Node, kind: Kind) -> Typed {
    let span = node.span;
    let value = &node.value;
    let wrong = |what: &str| Err(format!("must be {what}, not {}", value.kind()));
    Ok(match (kind, value) {
        (Kind::Text, _) => Value::String(text(value)?),
        (Kind::Flag | Kind::OptionalFlag, Value::String(text)) => match cast::parse_bool(text) {
            Some((value, _)) => Value::Bool(value),
            None => return Err(format!("invalid boolean: {text}")),
        },
        (Kind::Int | Kind::OptionalInt, Value::String(text)) => match cast::parse_int(text) {
            Some(number) => Value::Int(number),
            None => return Err(format!("{text:?} is not a whole number")),
        },
        (Kind::Int | Kind::OptionalInt, _) => match whole(value) {
            Some(number) => Value::Int(number),
            None => return wrong("a whole number"),
        },
        (Kind::Unsigned | Kind::OptionalUnsigned, _) => match whole(value) {
            Some(number) if number >= 0 => Value::Int(number),
            Some(number) => return Err(format!("must not be negative, and is {number}")),
            None => return wrong("a whole number"),
        },
        (Kind::Float, Value::String(text)) => match units::parse_float(text) {
            Some(number) => Value::Float(number),
            None => return Err(format!("{text:?} is not a number")),
        },
        #[expect(clippy::cast_precision_loss, reason = "it becomes a number of single precision")]
        (Kind::Float, Value::Int(number)) => Value::Float(*number as f64),
        #[expect(clippy::cast_precision_loss, reason = "it becomes a number of single precision")]
        (Kind::Float, Value::Uint(number)) => Value::Float(*number as f64),
        (Kind::Float, Value::Float(_))
        | (Kind::Flag | Kind::OptionalFlag, Value::Bool(_))
        | (Kind::Bytes | Kind::OptionalMode | Kind::Count, Value::Int(_))
        | (Kind::Ssh, Value::Map(_)) => value.clone(),
        (Kind::Float, _) => return wrong("a number"),
        (Kind::Bytes, Value::String(text)) => Value::Int(units::parse_bytes(text)?),
        // Fractions and numbers beyond 63 bits are dropped without a word, as Docker Compose does.
        (Kind::Bytes, _) => Value::Int(0),
        (Kind::Duration | Kind::OptionalDuration, _) => {
            Value::Int(units::parse_duration(&value.print().unwrap_or_default())?)
        }
        (Kind::OptionalMode, Value::String(text)) => match i64::from_str_radix(text, 8) {
            Ok(mode) => Value::Int(mode),
            Err(_) => return Err(format!("{text:?} is not an octal mode")),
        },
        (Kind::OptionalMode, _) => return wrong("a file mode such as \"0440\""),
        (Kind::Count, Value::String(text)) if text.eq_ignore_ascii_case("all") => Value::Int(-1),
        (Kind::Count, Value::String(text)) => match cast::parse_int(text) {
            Some(count) => Value::Int(count),
            None => return Err(format!("invalid value {text:?}, the only value allowed is 'all' or a number")),
        },
        (Kind::Count, _) => return wrong("a number or `all`"),
        (Kind::Command, Value::String(line)) => {
            Value::List(shell::split(line)?.into_iter().map(|word| Node::string(word, span)).collect())
        }
        (Kind::Test, Value::String(line)) => {
            Value::List(vec![Node::string("CMD-SHELL", span), Node::string(line.clone(), span)])
        }
        (Kind::TextOrTexts, Value::String(text)) => Value::List(vec![Node::string(text.clone(), span)]),
        (Kind::Command | Kind::Test | Kind::Texts | Kind::TextOrTexts, Value::List(list)) => {
            texts(list, |item| text(&item.value))?
        }
        (Kind::TextsOrNumbers, Value::List(list)) => {
            texts(list, |item| item.value.print().ok_or_else(|| format!("{} is no port", item.value.kind())))?
        }
        (Kind::Variables | Kind::Mapping, Value::Map(map)) => {
            let null = if matches!(kind, Kind::Variables) { Value::Null } else { Value::String(String::new()) };
            entries(map, |node| match node.value.print() {
                _ if node.is_null() => Ok(null.clone()),
                Some(text) => Ok(Value::String(text)),
                None => Err(format!("must be text, not {}", node.value.kind())),
            })?
        }
        (Kind::Variables | Kind::Mapping, Value::List(list)) => {
            let mut map = Map::with_capacity(list.len());
            for item in list {
                let entry = item.value.print().unwrap_or_default();
                let (key, value) =
                    entry.split_once('=').map_or((entry.as_str(), None), |(key, value)| (key, Some(value)));
                if matches!(kind, Kind::Variables) && key.ends_with(char::is_whitespace) {
                    return Err(format!("environment variable {key} is declared with a trailing space"));
                }
                let value = match (value, kind) {
                    (Some(value), _) => Value::String(value.to_owned()),
                    (None, Kind::Variables) => Value::Null,
                    (None, _) => Value::String(String::new()),
                };
                map.insert(key.to_owned(), Node { value, span: item.span, key: item.key.or(item.span) });
            }
            Value::Map(map)
        }
        (Kind::Options, Value::Map(map)) => entries(map, |node| match node.value.print() {
            _ if node.is_null() => Ok(Value::String(String::new())),
            Some(text) => Ok(Value::String(text)),
            None => Err(format!("must be text, not {}", node.value.kind())),
        })?,
        (Kind::StrictOptions, Value::Map(map)) => entries(map, |node| {
            if node.is_null() { Ok(Value::String(String::new())) } else { text(&node.value).map(Value::String) }
        })?,
        (Kind::MultiOptions, Value::Map(map)) => entries(map, |node| {
            let print = |node: &Node| Node::string(node.value.print().unwrap_or_default(), node.span);
            Ok(Value::List(match &node.value {
                Value::List(list) => list.iter().map(print).collect(),
                _ => vec![print(node)],
            }))
        })?,
        (Kind::Hosts, _) => hosts(value)?,
        (Kind::EnvFiles, Value::List(list)) => {
            let mut typed = list.clone();
            for file in &mut typed {
                if let Some(required) = file.get_mut("required") {
                    required.value = scalar(required, Kind::Flag)?;
                }
            }
            Value::List(typed)
        }
        (Kind::Ulimits, Value::Map(map)) => entries(map, |node| match &node.value {
            Value::Int(_) => Ok(node.value.clone()),
            Value::Map(limits)
                if limits
                    .iter()
                    .filter(|(key, _)| !key.starts_with("x-"))
                    .all(|(_, limit)| limit.as_int().is_some()) =>
            {
                Ok(node.value.clone())
            }
            other => Err(format!("unexpected value {} for ulimit", other.kind())),
        })?,
        _ => return wrong("of another type"),
    })
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        other => Err(format!("must be a string, not {}", other.kind())),
    }
}

/// A number as a whole one; fractions are cut off, as Docker Compose does.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Uint(number) => Some(i64::from_ne_bytes(number.to_ne_bytes())),
        Value::Float(number) => Some(units::truncate(*number)),
        _ => None,
    }
}

fn texts(list: &[Node], read: impl Fn(&Node) -> Result<String, String>) -> Typed {
    list.iter()
        .map(|item| Ok(Node { value: Value::String(read(item)?), span: item.span, key: Span::NONE }))
        .collect::<Result<_, String>>()
        .map(Value::List)
}

fn entries(map: &Map, read: impl Fn(&Node) -> Typed) -> Typed {
    let read = |(key, node): (&String, &Node)| match read(node) {
        Ok(value) => Ok((key.clone(), Node { value, span: node.span, key: node.key })),
        Err(message) => Err(format!("{key}: {message}")),
    };
    map.iter().map(read).collect::<Result<_, String>>().map(Value::Map)
}

/// `HOST=ADDRESS` or `HOST:ADDRESS`, or a mapping of hosts to addresses; becomes a sorted list of `HOST=ADDRESS`.
fn hosts(value: &Value) -> Typed {
    let mut all: Vec<(String, String, Span)> = Vec::new();
    match value {
        Value::Map(map) => {
            for (host, node) in map {
                match &node.value {
                    Value::Null => all.push((host.clone(), String::new(), node.span)),
                    Value::String(address) => all.push((host.clone(), address.clone(), node.span)),
                    Value::List(list) => all.extend(
                        list.iter().map(|item| (host.clone(), item.value.print().unwrap_or_default(), item.span)),
                    ),
                    other => return Err(format!("{host} must have an address, not {}", other.kind())),
                }
            }
        }
        Value::List(list) => {
            for item in list {
                let entry = item.value.print().unwrap_or_default();
                let Some((host, addresses)) = entry.split_once('=').or_else(|| entry.split_once(':')) else {
                    return Err(format!("invalid additional host, missing IP: {entry}"));
                };
                all.extend(addresses.split(',').map(|address| (host.to_owned(), address.to_owned(), item.span)));
            }
        }
        other => return Err(format!("must be a list or a mapping, not {}", other.kind())),
    }
    if let Some((host, ..)) = all.iter().find(|(host, ..)| host.is_empty() || host.contains([':', '='])) {
        return Err(format!("bad host name '{host}'"));
    }
    let mut list: Vec<Node> = all
        .into_iter()
        .map(|(host, address, span)| {
            let bare = if address.len() > 2 {
                address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
            } else {
                None
            };
            Node::string(format!("{host}={}", bare.unwrap_or(&address)), span)
        })
        .collect();
    list.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    Ok(Value::List(list))
}
