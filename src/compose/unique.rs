//! One value for each key in lists whose items have keys: the last one wins, at the place of the first.

use std::collections::HashMap;

use super::node::{Node, Value};
use super::path::Path;
use super::{Diagnostic, Faults, short};

/// Removes what is defined again later.
pub(super) fn enforce(node: &mut Node, path: &Path<'_>, faults: &mut Faults) {
    match &mut node.value {
        Value::Map(map) => {
            for (key, node) in map.iter_mut() {
                if matches!(node.value, Value::Map(_) | Value::List(_)) {
                    enforce(node, &path.key(key), faults);
                }
            }
        }
        Value::List(list) => {
            let Some(key_of) = key_function(path.parts().as_slice()) else { return };
            let mut keys: HashMap<String, usize> = HashMap::with_capacity(list.len());
            let mut kept: Vec<Node> = Vec::with_capacity(list.len());
            for (index, item) in std::mem::take(list).into_iter().enumerate() {
                match key_of(&item) {
                    Ok(Some(key)) => {
                        let at = *keys.entry(key).or_insert(kept.len());
                        if let Some(earlier) = kept.get_mut(at) {
                            *earlier = item;
                        } else {
                            kept.push(item);
                        }
                    }
                    // Not of a form that has a key; validation will say so.
                    Ok(None) => kept.push(item),
                    // What is missing was taken away because it was wrong; that was said.
                    Err(_) if faults.has_error_in(item.span) => {}
                    Err(message) => {
                        let path = path.index(index).to_string();
                        faults.push(Diagnostic::error("missing-key", format!("{path} {message}")).at_path(path).label(
                            &faults.sources,
                            item.span,
                            "",
                        ));
                    }
                }
            }
            *list = kept;
        }
        _ => {}
    }
}

/// Whether the list at a path has items with keys.
pub(super) fn has_keys(path: &Path<'_>) -> bool {
    key_function(path.parts().as_slice()).is_some()
}

type KeyFunction = fn(&Node) -> Result<Option<String>, &'static str>;

fn key_function(parts: &[&str]) -> Option<KeyFunction> {
    Some(match parts {
        ["networks", _, "labels"]
        | ["networks", _, "ipam", "options"]
        | [
            "services",
            _,
            "annotations" | "cap_add" | "cap_drop" | "dns" | "dns_opt" | "dns_search" | "environment" | "labels"
            | "links" | "profiles" | "sysctls" | "tmpfs",
        ]
        | ["services", _, "build", "args" | "additional_contexts" | "tags" | "labels"]
        | ["services", _, "deploy", "labels"]
        | ["services", _, "networks", _, "aliases" | "link_local_ips"] => key_value,
        ["services", _, "volumes"] => volume,
        ["services", _, "devices"] => device,
        ["services", _, "configs"] => |node| mount("", node),
        ["services", _, "secrets"] => |node| mount("/run/secrets", node),
        ["services", _, "env_file"] => env_file,
        ["services", _, "expose"] => expose,
        ["services", _, "ports"] => port,
        _ => return None,
    })
}

#[expect(clippy::unnecessary_wraps, reason = "one of several functions of this type")]
fn key_value(node: &Node) -> Result<Option<String>, &'static str> {
    Ok(node.as_str().map(|text| text.split_once('=').map_or(text, |(key, _)| key).to_owned()))
}

fn volume(node: &Node) -> Result<Option<String>, &'static str> {
    match &node.value {
        Value::Map(map) => match map.get("target").and_then(Node::as_str) {
            Some(target) => Ok(Some(target.to_owned())),
            None => Err("is missing a mount target"),
        },
        // A wrong short form is found where it is taken apart.
        Value::String(text) => Ok(short::volume(text).ok().map(|volume| volume.target)),
        _ => Ok(None),
    }
}

fn device(node: &Node) -> Result<Option<String>, &'static str> {
    match &node.value {
        Value::Map(map) => match map.get("target").and_then(Node::as_str) {
            Some(target) => Ok(Some(target.to_owned())),
            None => Err("is missing a mount target"),
        },
        Value::String(text) => {
            let mut parts = text.split(':');
            let first = parts.next().unwrap_or("");
            Ok(Some(parts.next().unwrap_or(first).to_owned()))
        }
        _ => Ok(None),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of several functions of this type")]
fn mount(directory: &str, node: &Node) -> Result<Option<String>, &'static str> {
    match &node.value {
        Value::Map(map) => {
            let text = |key| map.get(key).and_then(Node::as_str);
            Ok(text("target").map(ToOwned::to_owned).or_else(|| Some(format!("{directory}/{}", text("source")?))))
        }
        Value::String(text) => Ok(Some(format!("{directory}/{text}"))),
        _ => Ok(None),
    }
}

fn env_file(node: &Node) -> Result<Option<String>, &'static str> {
    match &node.value {
        Value::Map(map) => match map.get("path").and_then(Node::as_str) {
            Some(path) => Ok(Some(path.to_owned())),
            None => Err("is missing its path"),
        },
        Value::String(text) => Ok(Some(text.clone())),
        _ => Ok(None),
    }
}

fn expose(node: &Node) -> Result<Option<String>, &'static str> {
    match &node.value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Int(number) => Ok(Some(number.to_string())),
        _ => Err("must be a port or a range of ports"),
    }
}

fn port(node: &Node) -> Result<Option<String>, &'static str> {
    match &node.value {
        Value::Int(number) => Ok(Some(number.to_string())),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Map(map) => {
            // Numbers and strings are told apart, as in Docker Compose, where "80" and 80 are two ports.
            let shown = |key: &str, default: &str| match map.get(key).map(|node| &node.value) {
                None => default.to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => format!("%{}", other.print().unwrap_or_default()),
            };
            if !map.contains_key("target") {
                return Err("is missing a target port");
            }
            Ok(Some(format!(
                "{}:{}:{}/{}",
                shown("host_ip", "0.0.0.0"),
                shown("published", "%nil"),
                shown("target", ""),
                shown("protocol", "tcp")
            )))
        }
        _ => Ok(None),
    }
}
