//! What to do about a key or a value that does not fit: the advice below the errors of the schema.

use super::super::node::{Node, Value};
use super::super::path::Path;
use super::super::suggest;
use super::{BOOL, INTEGER, Keys, LIST, MAP, Object, Rule, STRING, rules};

/// What attributes are called elsewhere, in other programs and by people; of several the one that is known counts.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("cmd", "command"),
    ("cmd", "test"),
    ("command", "test"),
    ("cpu", "cpus"),
    ("depends", "depends_on"),
    ("env", "environment"),
    ("env_vars", "environment"),
    ("envs", "environment"),
    ("ip", "ipv4_address"),
    ("ipv4", "ipv4_address"),
    ("ipv6", "ipv6_address"),
    ("log_driver", "logging"),
    ("log_opt", "logging"),
    ("logging_driver", "logging"),
    ("mem", "memory"),
    ("mem", "mem_limit"),
    ("memory", "mem_limit"),
    ("mount", "volumes"),
    ("mounts", "volumes"),
    ("name", "container_name"),
    ("needs", "depends_on"),
    ("requires", "depends_on"),
    ("run", "command"),
    ("variables", "environment"),
    ("workdir", "working_dir"),
];

/// Advice about a key that is not known; `parents` are the objects around it, outermost first and the last one its own.
pub(super) fn for_key(key: &str, node: &Node, object: &'static Object, parents: &[&'static Object]) -> Option<String> {
    let has = |object: &Object, key: &str| object.keys.iter().any(|(name, _)| *name == key);
    if let Some(odd) = key.chars().find(|c| c.is_whitespace() && !c.is_ascii()) {
        return Some(format!(
            "there is a U+{:04X} in the key, which looks like a space and is none: write a space instead",
            u32::from(odd)
        ));
    }
    if let Some((_, meant)) = OTHER_NAMES.iter().find(|(other, meant)| *other == key && has(object, meant)) {
        return Some(format!("did you mean `{meant}`?"));
    }
    if let Some(parent) = parents.iter().rev().skip(1).find(|parent| has(parent, key)) {
        return Some(format!(
            "`{key}` is an attribute of {}: it belongs further left, check the indentation",
            parent.name
        ));
    }
    if let Some((name, _)) = object.keys.iter().find(|(_, rule)| inner_objects(rule).any(|object| has(object, key))) {
        return Some(format!("`{key}` belongs one level deeper, below `{name}`"));
    }
    if let Some(known) = suggest::closest(key, object.keys.iter().map(|(name, _)| *name)) {
        return Some(format!("did you mean `{known}`?"));
    }
    if std::ptr::eq(object, &raw const *rules::PROJECT_OBJECT) {
        if has(&rules::SERVICE, key) {
            return Some(format!(
                "`{key}` is an attribute of a service: it belongs below `services` and the service's name"
            ));
        }
        if node.get("image").or(node.get("build")).is_some() {
            return Some(format!("if `{key}` is a service, it belongs below `services:`"));
        }
    }
    object.extensions.then(|| "a key of your own must begin with `x-`".to_owned())
}

/// The objects directly inside a rule.
fn inner_objects(rule: &'static Rule) -> Box<dyn Iterator<Item = &'static Object>> {
    match rule {
        Rule::Object(object) => Box::new(std::iter::once(*object)),
        Rule::Either(rules) => Box::new(rules.iter().flat_map(inner_objects)),
        _ => Box::new(std::iter::empty()),
    }
}

/// Advice about a value of the wrong type; `source` is how it stands in the file.
pub(super) fn for_type(node: &Node, rule: &'static Rule, path: &Path<'_>, source: &str) -> Option<String> {
    let parts = path.parts();
    let types = rule.types();
    if let Some(hint) = for_place(node, parts.as_slice()) {
        return Some(hint);
    }
    let is_number = matches!(node.value, Value::Int(_) | Value::Uint(_) | Value::Float(_));
    Some(match &node.value {
        Value::Time(_) => "YAML reads this as a date; quote it to have text".to_owned(),
        Value::Null => "there is nothing after the colon: give it a value, or remove the line".to_owned(),
        _ if is_number && types & BOOL != 0 => "write true or false".to_owned(),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) if types & STRING != 0 => {
            format!("quote it: \"{}\"", source.trim())
        }
        Value::String(text) if types & LIST != 0 && text.starts_with('-') => {
            "a dash needs a space after it: `- value`".to_owned()
        }
        Value::String(text) if types & MAP != 0 && tight_key(text).is_some() => {
            format!("a colon needs a space after it: `{}: …`", tight_key(text).unwrap_or_default())
        }
        Value::String(_) | Value::Int(_) if types & (LIST | STRING) == LIST => {
            format!("write it as a list: `- {}` on a line of its own", short(source))
        }
        Value::List(_) if types & (LIST | MAP) == MAP => {
            "write each entry as a key, `name:`, without the dash".to_owned()
        }
        Value::List(_) if types & (STRING | INTEGER) != 0 && types & LIST == 0 => {
            "one value is wanted: write it without dashes and brackets".to_owned()
        }
        Value::Map(_) if types & (LIST | MAP) == LIST => "write it as a list: a dash before each entry".to_owned(),
        Value::Map(map) if types & STRING != 0 && map.len() == 1 && parts.as_slice().last() == Some(&"[]") => {
            "a colon followed by a space makes a mapping of an item; quote the item to have text".to_owned()
        }
        _ => return None,
    })
}

/// Advice that depends on where the value is.
fn for_place(node: &Node, parts: &[&str]) -> Option<String> {
    let is_attribute = |key: &str| rules::SERVICE.keys.iter().any(|(name, _)| *name == key);
    Some(match (parts, &node.value) {
        (["services", key], value) if !matches!(value, Value::Map(_)) && is_attribute(key) => {
            format!("`{key}` is an attribute of a service; it belongs one level deeper, below the service's name")
        }
        (["services", _], Value::Null) => {
            "a service needs at least `image` or `build`; the lines below it may not be indented".to_owned()
        }
        (["services", _], Value::String(text)) if tight_key(text).is_none() => {
            format!("write `image: {}` on a line of its own below the name", short(text))
        }
        (["services", _], Value::List(_)) => "the attributes of a service have no dashes".to_owned(),
        (["services", _, "healthcheck"], Value::String(_)) => {
            "write it below: `healthcheck:`, and on the next line `test: …`".to_owned()
        }
        (["services", _, "restart"], Value::Bool(_)) => {
            "the policies are \"no\", always, unless-stopped and on-failure; quote \"no\"".to_owned()
        }
        (["services", _, "depends_on" | "networks", "[]"], Value::Map(map)) => {
            let name = map.keys().next().map_or("name", String::as_str);
            format!("an entry with attributes is a key: `{}:` without the dash", short(name))
        }
        (
            [.., "environment" | "labels" | "args" | "sysctls" | "annotations" | "additional_contexts", "[]"],
            Value::Map(map),
        ) if map.len() == 1 => {
            let name = map.keys().next().map_or("NAME", String::as_str);
            format!("write `- {0}=…`, or `{0}: …` without the dash", short(name))
        }
        (["secrets", _], Value::Null) => "give it `file:`, `environment:`, or `external: true`".to_owned(),
        (["configs", _], Value::Null) => "give it `file:`, `content:`, `environment:`, or `external: true`".to_owned(),
        (
            [
                ..,
                "interval" | "timeout" | "start_period" | "start_interval" | "stop_grace_period" | "delay" | "window"
                | "monitor",
            ],
            Value::Int(number),
        ) => format!("a duration has a unit: {number}s"),
        _ => return None,
    })
}

/// Advice about a key that is missing.
pub(super) fn for_missing(key: &str) -> Option<&'static str> {
    Some(match key {
        "condition" => {
            "write `condition: service_started`, `service_healthy` or `service_completed_successfully`; a mere list of names waits for the start"
        }
        "capabilities" => "write `capabilities: [gpu]`",
        "hard" | "soft" => "a limit with one value for both is written `name: value`",
        _ => return None,
    })
}

/// Advice about a name that may not be.
pub(super) fn for_name(name: &str, keys: Keys) -> Option<String> {
    if keys != Keys::Name {
        return None;
    }
    let usable: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    let usable = usable.trim_matches('-');
    (!usable.is_empty() && name.len() < 64).then(|| format!("{usable:?} would do"))
}

/// Advice about text that an attribute does not take.
pub(super) fn for_text(text: &str, path: &Path<'_>) -> Option<String> {
    let parts = path.parts();
    match parts.as_slice() {
        ["services", _, "pull_policy"] => {
            let known = ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly"];
            let meant = suggest::closest(text, known);
            meant.map(|meant| format!("did you mean {meant:?}?"))
        }
        _ => None,
    }
}

/// The key of text such as `image:nginx`, which lacks the space that would make it a mapping.
fn tight_key(text: &str) -> Option<&str> {
    let (key, value) = text.split_once(':')?;
    let is_key = rules::SERVICE.keys.iter().any(|(name, _)| *name == key);
    (is_key && !value.is_empty() && !value.starts_with(' ')).then_some(key)
}

/// Text that is short enough to be repeated.
fn short(text: &str) -> &str {
    let text = text.trim();
    if text.is_empty() || text.len() > 40 || text.contains('\n') { "…" } else { text }
}
