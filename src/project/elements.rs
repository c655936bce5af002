//! What a project asks for beside its services that is not done: said, with its place, and not dropped in silence.
//!
//! That of services is named by [`super::container::unhonoured`].

use crate::compose::key::{Key, KeyPath};
use crate::compose::node::{Node, Value};
use crate::compose::{Diagnostic, Resolved};

/// What is of services of a cluster, which are given configs and secrets by its managers.
const CLUSTER: &str = "has an effect in a cluster only";
/// What is asked of a server that is none of ours.
const SERVER: &str = "has no effect: how a model is run is up to what serves it";
/// What a plugin would do.
const ADDRESSES: &str = "has no effect: addresses come from the engine's own pools";

/// Attributes that have no effect, by section, and why.
const IDLE: [(&str, &str, &str); 13] = [
    ("configs", "labels", CLUSTER),
    ("configs", "name", CLUSTER),
    ("configs", "template_driver", CLUSTER),
    ("models", "context_size", SERVER),
    ("models", "name", SERVER),
    ("models", "runtime_flags", SERVER),
    ("networks", "ipam.driver", ADDRESSES),
    ("networks", "ipam.options", ADDRESSES),
    ("secrets", "driver", CLUSTER),
    ("secrets", "driver_opts", CLUSTER),
    ("secrets", "labels", CLUSTER),
    ("secrets", "name", CLUSTER),
    ("secrets", "template_driver", CLUSTER),
];

/// Returns a warning for each attribute of networks, configs, secrets and models that has no effect.
pub fn unhonoured(resolved: &Resolved) -> Vec<Diagnostic> {
    let mut said = Vec::new();
    for (section, attribute, why) in IDLE {
        for (name, element) in resolved.tree.0.get(section).and_then(Node::as_map).into_iter().flatten() {
            let path = KeyPath([section, name].into_iter().chain(attribute.split('.')).map(Key::from).collect());
            let is_given = resolved.node(&path).is_some_and(|node| asks(node, &format!("{}_{name}", resolved.name)));
            if is_given && element.get("external").and_then(Node::as_bool) != Some(true) {
                let message = format!("{path} {why}");
                let warning = Diagnostic::warning("no-effect", message).at_path(path.to_string());
                said.push(warning.label(&resolved.sources, resolved.span(&path), ""));
            }
        }
    }
    said
}

/// Returns whether a value asks for more than what is so without it; `implied`: the name that the element has without one.
fn asks(value: &Node, implied: &str) -> bool {
    match &value.value {
        Value::Null => false,
        Value::String(text) => !matches!(text.as_str(), "" | "default") && text != implied,
        Value::Map(map) => !map.is_empty(),
        Value::List(list) => !list.is_empty(),
        _ => true,
    }
}
