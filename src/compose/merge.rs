//! Laying one file over another.
//!
//! Mappings merge, lists are appended, anything else is replaced; null changes nothing. Some attributes have rules of
//! their own: what is a command replaces, what may be written as a list or a mapping becomes a list of `KEY=value`, of which
//! `unique` keeps the last of each key.

use super::Faults;
use super::node::{Map, Node, Value};
use super::path::Path;

/// Merges `over` onto `base`.
pub(super) fn merge(base: Node, over: Node, path: &Path<'_>, faults: &mut Faults) -> Node {
    match path.parts().as_slice() {
        ["networks", _, "ipam", "config"] => return merge_ipam(base, over, path, faults),
        ["networks" | "volumes", _, "labels"]
        | [
            "services",
            _,
            "annotations" | "dns" | "dns_opt" | "dns_search" | "env_file" | "label_file" | "environment" | "labels"
            | "sysctls" | "tmpfs",
        ]
        | ["services", _, "build", "args" | "additional_contexts" | "labels"]
        | ["services", _, "deploy", "labels"]
        | ["services", _, "volumes", _, "volume", "labels"] => return append(base, over, false),
        ["services", _, "extra_hosts"] | ["services", _, "build", "extra_hosts"] => return append(base, over, true),
        ["services", _, "command" | "entrypoint"]
        | ["services", _, "healthcheck", "test"]
        | ["services", _, "ulimits", _] => return over,
        ["services", _, "build"] => return merge_as_maps(base, over, path, faults, build_map),
        ["services", _, "depends_on"] => return merge_names(base, over, path, faults, dependency_map),
        ["services", _, "models" | "networks"] => return merge_names(base, over, path, faults, key_map),
        ["services", _, "logging"] => return merge_logging(base, over, path, faults),
        _ => {}
    }
    let (place, key) = (base.span, base.key);
    match (base.value, over.value) {
        (value, Value::Null) => Node { value, span: place, key },
        (Value::Map(base), Value::Map(other)) => {
            Node { value: Value::Map(merge_maps(base, other, path, faults)), span: place, key }
        }
        (Value::List(mut list), Value::List(other)) => {
            list.extend(other);
            Node { value: Value::List(list), span: place, key }
        }
        (value @ (Value::Map(_) | Value::List(_)), other) => {
            let diagnostic = super::Diagnostic::error(
                "cannot-override",
                format!("cannot override {path}: it is {} there and {} here", value.kind(), other.kind()),
            )
            .at_path(path.to_string())
            .label(&faults.sources, over.span, other.kind())
            .label(&faults.sources, key.or(place), value.kind())
            .help("write both in the same form, or put !override before the value to replace it");
            faults.push(diagnostic);
            Node { value, span: place, key }
        }
        (_, other) => Node { value: other, span: over.span, key: over.key.or(key) },
    }
}

/// Merges the members of two mappings.
pub(super) fn merge_maps(mut base: Map, over: Map, path: &Path<'_>, faults: &mut Faults) -> Map {
    for (key, node) in over {
        match base.entry(key) {
            indexmap::map::Entry::Vacant(entry) => {
                entry.insert(node);
            }
            indexmap::map::Entry::Occupied(mut entry) => {
                let before = std::mem::replace(entry.get_mut(), Node::new(Value::Null, node.span));
                let merged = merge(before, node, &path.key(entry.key()), faults);
                entry.insert(merged);
            }
        }
    }
    base
}

/// Appends two values that may be mappings, lists or single strings, as lists; with `distinct`, what is there already is not
/// added again.
fn append(base: Node, over: Node, distinct: bool) -> Node {
    let (span, key) = (base.span.or(over.span), base.key.or(over.key));
    let mut list = sequence(base);
    for node in sequence(over) {
        if !distinct || !list.iter().any(|other| super::node::same(other, &node)) {
            list.push(node);
        }
    }
    Node { value: Value::List(list), span, key }
}

/// A mapping as a sorted list of `KEY=value`; a list or a string as a list.
fn sequence(node: Node) -> Vec<Node> {
    match node.value {
        Value::List(list) => list,
        Value::String(_) => vec![node],
        Value::Map(map) => {
            let mut list: Vec<Node> = Vec::with_capacity(map.len());
            for (key, value) in map {
                let entry = |text: String, of: &Node| Node {
                    value: Value::String(text),
                    span: of.key.or(of.span),
                    key: of.key,
                };
                match &value.value {
                    Value::Null => list.push(entry(key, &value)),
                    Value::List(items) => list.extend(items.iter().map(|item| {
                        let mut node = entry(format!("{key}={}", printed(&item.value)), item);
                        node.key = value.key;
                        node
                    })),
                    // A mapping is no value here; leave it for validation to find.
                    Value::Map(_) => list.push(value),
                    scalar => list.push(entry(format!("{key}={}", printed(scalar)), &value)),
                }
            }
            list.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            list
        }
        _ => Vec::new(),
    }
}

/// A scalar as Go prints it with `%v`.
fn printed(value: &Value) -> String {
    let text = value.print().unwrap_or_default();
    match (value, text.split_once('T')) {
        (Value::Time(_), Some((date, time))) => match time.strip_suffix('Z') {
            Some(time) => format!("{date} {time} +0000 UTC"),
            None => match time.rfind(['+', '-']).map(|at| time.split_at(at)) {
                Some((time, zone)) => {
                    let zone = zone.replace(':', "");
                    format!("{date} {time} {zone} {zone}")
                }
                None => text,
            },
        },
        _ => text,
    }
}

/// Merges values that may be written short, after `long` has made mappings of them.
fn merge_as_maps(
    base: Node,
    over: Node,
    path: &Path<'_>,
    faults: &mut Faults,
    long: fn(Node) -> Result<Map, Node>,
) -> Node {
    let (span, key) = (base.span, base.key);
    if over.is_null() {
        return base;
    }
    let (over_span, over_key) = (over.span, over.key);
    match (long(base), long(over)) {
        (Ok(base), Ok(over)) => Node { value: Value::Map(merge_maps(base, over, path, faults)), span, key },
        // A form that is wrong: keep it, so that validation says so.
        (_, Err(wrong)) => wrong,
        (Err(wrong), Ok(_)) if !wrong.is_null() => wrong,
        (Err(_), Ok(over)) => Node { value: Value::Map(over), span: over_span, key: over_key },
    }
}

/// Merges lists of names or mappings by name. Docker Compose passes over anything else that is laid on them, and so do
/// we, but not silently.
fn merge_names(
    base: Node,
    over: Node,
    path: &Path<'_>,
    faults: &mut Faults,
    long: fn(Node) -> Result<Map, Node>,
) -> Node {
    let is_names = |node: &Node| matches!(node.value, Value::Map(_) | Value::List(_));
    if over.is_null() || is_names(&over) || !is_names(&base) {
        return merge_as_maps(base, over, path, faults, long);
    }
    let kind = over.value.kind();
    let message = format!("{path} is ignored: it is {kind} here and {} in what it overrides", base.value.kind());
    faults.push(
        super::Diagnostic::warning("ignored-override", message)
            .at_path(path.to_string())
            .label(&faults.sources, over.span, kind)
            .help("write a list of names"),
    );
    base
}

fn build_map(node: Node) -> Result<Map, Node> {
    match node.value {
        Value::Map(map) => Ok(map),
        Value::String(_) => Ok(Map::from([("context".to_owned(), Node { key: node.span, ..node })])),
        _ => Err(node),
    }
}

fn dependency_map(node: Node) -> Result<Map, Node> {
    listed(node, |span| {
        Value::Map(Map::from([
            ("condition".to_owned(), Node::string("service_started", span)),
            ("required".to_owned(), Node::new(Value::Bool(true), span)),
        ]))
    })
}

fn key_map(node: Node) -> Result<Map, Node> {
    listed(node, |_| Value::Null)
}

/// A list of names as a mapping.
fn listed(node: Node, value: fn(super::source::Span) -> Value) -> Result<Map, Node> {
    match node.value {
        Value::Map(map) => Ok(map),
        Value::List(ref items) if items.iter().all(|item| item.as_str().is_some()) => Ok(items
            .iter()
            .filter_map(|item| {
                Some((item.as_str()?.to_owned(), Node { value: value(item.span), span: item.span, key: item.span }))
            })
            .collect()),
        _ => Err(node),
    }
}

/// Options of the logging driver belong to it: with another driver they are replaced.
fn merge_logging(base: Node, over: Node, path: &Path<'_>, faults: &mut Faults) -> Node {
    let differs = match (base.get("driver"), over.get("driver")) {
        (Some(a), Some(b)) => !super::node::same(a, b),
        _ => false,
    };
    if differs {
        return over;
    }
    merge_as_maps(base, over, path, faults, |node| match node.value {
        Value::Map(map) => Ok(map),
        _ => Err(node),
    })
}

/// Address pools merge by subnet.
fn merge_ipam(base: Node, over: Node, path: &Path<'_>, faults: &mut Faults) -> Node {
    if over.is_null() {
        return base;
    }
    let subnet = |node: &Node| node.get("subnet").and_then(Node::as_str).map(ToOwned::to_owned);
    let (span, key) = (base.span, base.key);
    let (Value::List(base), Value::List(over)) = (base.value, over.value.clone()) else { return over };
    let mut merged: Vec<Node> = Vec::new();
    for mut original in base {
        for addition in &over {
            if subnet(addition) != subnet(&original) && !merged.iter().any(|pool| subnet(pool) == subnet(addition)) {
                merged.push(addition.clone());
                continue;
            }
            let (Value::Map(left), Value::Map(right)) = (original.value.clone(), addition.value.clone()) else {
                continue;
            };
            original.value = Value::Map(merge_maps(left, right, path, faults));
            match merged.iter_mut().find(|pool| subnet(pool) == subnet(&original)) {
                Some(pool) => *pool = original.clone(),
                None => merged.push(original.clone()),
            }
        }
    }
    Node { value: Value::List(merged), span, key }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::node::same;
    use super::super::source::Span;
    use super::super::{canonical, unique};
    use super::*;

    fn merged(base: &Node, over: &Node) -> Node {
        let mut faults = Faults::default();
        let mut node = merge(base.clone(), over.clone(), &Path::ROOT, &mut faults);
        unique::enforce(&mut node, &Path::ROOT, &mut faults);
        canonical::canonical(&mut node, &Path::ROOT, false, &mut faults);
        unique::enforce(&mut node, &Path::ROOT, &mut faults);
        assert_eq!(faults.errors(), 0);
        node
    }

    fn node(value: Value) -> Node {
        Node::new(value, Span::NONE)
    }

    fn text(text: impl Into<String>) -> Node {
        Node::string(text, Span::NONE)
    }

    fn map<const N: usize>(entries: [(&str, Node); N]) -> Node {
        node(Value::Map(entries.into_iter().map(|(key, node)| (key.to_owned(), node)).collect()))
    }

    fn list(items: impl IntoIterator<Item = String>) -> Node {
        node(Value::List(items.into_iter().map(text).collect()))
    }

    /// Variables as a list or as a mapping; few names, so that files meet in them.
    fn variables() -> impl Strategy<Value = Node> {
        let pairs = || prop::collection::btree_map("[ABC]", "[0-9]{1,2}", 0..4);
        prop_oneof![
            pairs().prop_map(|pairs| list(pairs.into_iter().map(|(name, value)| format!("{name}={value}")))),
            pairs()
                .prop_map(|pairs| node(Value::Map(pairs.into_iter().map(|(key, value)| (key, text(value))).collect()))),
        ]
    }

    prop_compose! {
        /// A file of one service, of which everything may be missing.
        fn file()(
            image in prop::option::of("[ab]"),
            command in prop::option::of(prop::collection::vec("[ab]", 0..3)),
            environment in prop::option::of(variables()),
            labels in prop::option::of(variables()),
            ports in prop::option::of(prop::collection::vec("[1-3]:[1-3]", 0..4)),
            volumes in prop::option::of(prop::collection::vec("[vw]x:/[ab]", 0..4)),
            caps in prop::option::of(prop::collection::vec("[AB]", 0..3)),
            depends in prop::option::of(prop::collection::btree_set("[bc]", 0..3)),
            networks in prop::option::of(prop::collection::btree_set("[mn]", 0..3)),
            retries in prop::option::of(0_i64..5),
            options in prop::option::of(prop::collection::btree_map("[ab]", "[0-9]", 0..3)),
        ) -> Node {
            let mut service = Map::new();
            let mut add = |key: &str, value: Option<Node>| {
                if let Some(value) = value {
                    service.insert(key.to_owned(), value);
                }
            };
            add("image", image.map(text));
            add("command", command.map(list));
            add("environment", environment);
            add("labels", labels);
            add("ports", ports.map(list));
            add("volumes", volumes.map(list));
            add("cap_add", caps.map(list));
            add("depends_on", depends.map(list));
            add("networks", networks.map(list));
            add("healthcheck", retries.map(|number| map([("retries", node(Value::Int(number)))])));
            add("x-any", options.map(|pairs| node(Value::Map(pairs.into_iter().map(|(key, value)| (key, text(value))).collect()))));
            map([("services", map([("a", node(Value::Map(service)))]))])
        }
    }

    proptest! {
        /// Files are laid over each other one by one; which two are taken together first makes no difference.
        #[test]
        fn merging_is_associative(a in file(), b in file(), c in file()) {
            let left = merged(&merged(&a, &b), &c);
            let right = merged(&a, &merged(&b, &c));
            prop_assert!(same(&sorted(left.clone()), &sorted(right.clone())), "{:#?}\n{:#?}", left, right);
        }

        /// An empty file changes nothing, above or below.
        #[test]
        fn an_empty_file_changes_nothing(a in file()) {
            let empty = node(Value::Map(Map::new()));
            let alone = merged(&empty, &a);
            prop_assert!(same(&alone, &merged(&alone, &empty)));
            prop_assert!(same(&alone, &merged(&empty, &alone)));
        }

        /// A file over itself is itself: what has keys is not doubled, what is replaced is the same.
        #[test]
        fn a_file_over_itself_is_itself(a in file()) {
            let once = merged(&node(Value::Map(Map::new())), &a);
            prop_assert!(same(&sorted(once.clone()), &sorted(merged(&once, &a))));
        }
    }

    /// The tree with its sequences of `KEY=value` in the order of their keys, which depends on who was written as a mapping.
    fn sorted(mut root: Node) -> Node {
        let Some(service) = root.get_mut("services").and_then(|services| services.get_mut("a")) else { return root };
        for key in ["environment", "labels"] {
            let Some(node) = service.get_mut(key) else { continue };
            let mut items = sequence(node.clone());
            items.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            node.value = Value::List(items);
        }
        root
    }
}
