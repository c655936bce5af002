//! What follows from what is there: implicit networks and dependencies, names, inherited variables.

use super::environment::Environment;
use super::gopath;
use super::node::{Map, Node, Value};
use super::source::Span;

/// Gives variables that are named without a value the value of the environment.
///
/// In mappings this is left to [`normalize`]; here is what belongs to an included project's own environment.
pub(super) fn resolve_environment(root: &mut Node, environment: &Environment) {
    for (_, service) in members(root, "services") {
        for entry in service.get_mut("environment").and_then(Node::as_list_mut).into_iter().flatten() {
            inherit(entry, environment);
        }
    }
    for (section, key) in [("secrets", SECRET_CONTENT), ("configs", "content")] {
        for (_, object) in members(root, section) {
            let Some(variable) = object.get("environment") else { continue };
            let span = variable.span;
            let Some(value) = variable.as_str().and_then(|name| environment.get(name)) else { continue };
            let value = Node { key: span, ..Node::string(value, span) };
            if let Some(map) = object.as_map_mut() {
                map.insert(key.to_owned(), value);
            }
        }
    }
}

/// Where the value of a secret that comes from a variable is kept in the tree; no file can have such a key.
pub(super) const SECRET_CONTENT: &str = "\0content";

fn members<'n>(node: &'n mut Node, key: &str) -> impl Iterator<Item = (&'n String, &'n mut Node)> {
    node.get_mut(key).and_then(Node::as_map_mut).into_iter().flatten()
}

/// `KEY` → `KEY=value` where there is a value.
fn inherit(entry: &mut Node, environment: &Environment) {
    if let Value::String(text) = &mut entry.value
        && !text.contains('=')
        && let Some(value) = environment.get(text)
    {
        *text = format!("{text}={value}");
    }
}

/// Fills in what follows from the rest of the tree.
pub(super) fn normalize(root: &mut Node, name: &str, environment: &Environment) {
    networks(root);
    for (_, service) in members(root, "services") {
        self::service(service, environment);
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        for (key, resource) in members(root, section) {
            let span = resource.place();
            if resource.is_null() {
                resource.value = Value::Map(Map::new());
            }
            let external = match resource.get("external").map(|node| &node.value) {
                Some(Value::Bool(external)) => *external,
                Some(Value::String(text)) => matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"),
                _ => false,
            };
            let Some(map) = resource.as_map_mut() else { continue };
            if map.get("name").is_none_or(Node::is_null) {
                let full = if external { key.clone() } else { format!("{name}_{key}") };
                map.insert("name".to_owned(), Node { key: span, ..Node::string(full, span) });
            }
        }
    }
}

/// Connects services without networks to `default`, and makes it where it is used.
fn networks(root: &mut Node) {
    let mut used = Span::NONE;
    let mut uses_default = false;
    for (_, service) in members(root, "services") {
        let place = service.place();
        let Some(map) = service.as_map_mut() else { continue };
        if map.contains_key("provider") || map.contains_key("network_mode") {
            continue;
        }
        match map.get_mut("networks") {
            Some(Node { value: Value::Map(networks), .. }) if !networks.is_empty() => {
                if !networks.contains_key("default") {
                    continue;
                }
            }
            Some(Node { value: Value::Map(_) | Value::Null, .. }) | None => {
                let default = Node { value: Value::Null, span: place, key: place };
                let networks = Map::from([("default".to_owned(), default)]);
                map.insert("networks".to_owned(), Node { value: Value::Map(networks), span: place, key: place });
            }
            Some(_) => continue,
        }
        uses_default = true;
        used = used.or(place);
    }
    let Some(map) = root.as_map_mut() else { return };
    if uses_default {
        let networks = map.entry("networks".to_owned()).or_insert_with(|| Node::new(Value::Map(Map::new()), used));
        if let Some(networks) = networks.as_map_mut() {
            networks.entry("default".to_owned()).or_insert_with(|| Node { value: Value::Null, span: used, key: used });
        }
    }
}

fn service(service: &mut Node, environment: &Environment) {
    let place = service.place();
    let Some(map) = service.as_map_mut() else { return };
    if let Some(Node { value: Value::String(policy), .. }) = map.get_mut("pull_policy")
        && policy == "if_not_present"
    {
        "missing".clone_into(policy);
    }
    if let Some(build) = map.get_mut("build") {
        let span = build.place();
        if let Some(build) = build.as_map_mut() {
            let text = |value: &str| Node { key: span, ..Node::string(value, span) };
            if build.get("context").is_none_or(Node::is_null) {
                build.insert("context".to_owned(), text("."));
            }
            if build.get("dockerfile").is_none_or(Node::is_null)
                && build.get("dockerfile_inline").is_none_or(Node::is_null)
            {
                build.insert("dockerfile".to_owned(), text("Dockerfile"));
            }
            if let Some(args) = build.get_mut("args") {
                inherit_all(args, environment, false);
            }
        }
    }
    if let Some(variables) = map.get_mut("environment") {
        inherit_all(variables, environment, true);
    }

    let mut implied: Vec<(String, bool, Span)> = Vec::new();
    for link in map.get("links").and_then(Node::as_list).into_iter().flatten() {
        let text = link.as_str().unwrap_or_default();
        let mut parts = text.split(':');
        let target = match (parts.next(), parts.next(), parts.next()) {
            (Some(target), Some(_), None) => target,
            _ => text,
        };
        implied.push((target.to_owned(), true, link.span));
    }
    for namespace in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = map.get(namespace)
            && let Some(target) = node.as_str().and_then(|text| text.strip_prefix("service:"))
        {
            implied.push((target.to_owned(), true, node.span));
        }
    }
    for mount in map.get_mut("volumes").and_then(Node::as_list_mut).into_iter().flatten() {
        if let Some(Node { value: Value::String(target), .. }) = mount.get_mut("target") {
            *target = gopath::clean(target);
        }
    }
    for node in map.get("volumes_from").and_then(Node::as_list).into_iter().flatten() {
        let text = node.as_str().unwrap_or_default();
        if !text.starts_with("container:") {
            implied.push((text.split(':').next().unwrap_or_default().to_owned(), false, node.span));
        }
    }
    if implied.is_empty() {
        return;
    }
    let dependencies = map.entry("depends_on".to_owned()).or_insert_with(|| Node {
        value: Value::Map(Map::new()),
        span: place,
        key: Span::NONE,
    });
    let Some(dependencies) = dependencies.as_map_mut() else { return };
    for (target, restart, span) in implied {
        dependencies.entry(target).or_insert_with(|| {
            let flag = |value| Node { value: Value::Bool(value), span, key: span };
            let condition = Node { key: span, ..Node::string("service_started", span) };
            let value = Map::from([
                ("condition".to_owned(), condition),
                ("restart".to_owned(), flag(restart)),
                ("required".to_owned(), flag(true)),
            ]);
            Node { value: Value::Map(value), span, key: span }
        });
    }
}

/// Gives variables without a value the value of the environment; what has none there either is dropped, unless it is to be kept.
fn inherit_all(node: &mut Node, environment: &Environment, keep: bool) {
    match &mut node.value {
        Value::List(list) => {
            list.retain_mut(|entry| {
                inherit(entry, environment);
                keep || entry.as_str().is_none_or(|text| text.contains('='))
            });
        }
        Value::Map(map) => map.retain(|key, value| {
            if value.is_null() {
                match environment.get(key) {
                    Some(found) => value.value = Value::String(found.to_owned()),
                    None => return keep,
                }
            }
            true
        }),
        _ => {}
    }
}
