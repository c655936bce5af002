//! Numbers without quotes, of which YAML makes something else.

use super::{Findings, Subject, service};
use crate::compose::key::{Key, KeyPath};
use crate::compose::node::{Node, Value};

/// Finds ports such as `22:22`, which is 1342 in YAML 1.1: hours and minutes.
pub(super) fn ports(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for name in subject.project.services.keys() {
        let path = service(name, &["ports"]);
        let listed = subject.resolved.node(&path).and_then(Node::as_list).map_or(0, <[Node]>::len);
        for path in (0..listed).map(|index| path.join(Key::Index(index))) {
            let Some(text) = written(subject, &path.join(Key::from("target"))) else { continue };
            let sixty = |part: &str| part.len() <= 2 && part.parse::<u8>().is_ok_and(|number| number < 60);
            if text.split_once(':').is_some_and(|(host, container)| sixty(host) && sixty(container)) {
                findings.add(
                    &path,
                    format!("{text} is a number to base 60 for some readers of YAML"),
                    format!("write \"{text}\""),
                );
            }
        }
    }
}

/// Finds values such as `3.10`, which is 3.1.
pub(super) fn values(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for name in subject.project.services.keys() {
        for place in [&["environment"][..], &["labels"], &["build", "args"], &["build", "labels"]] {
            let path = service(name, place);
            for (key, node) in subject.resolved.node(&path).and_then(Node::as_map).into_iter().flatten() {
                let path = path.join(Key::from(key.as_str()));
                let (Value::String(value), Some(text)) = (&node.value, written(subject, &path)) else { continue };
                if is_number(text) && text != value {
                    findings.add(
                        &path,
                        format!("{text} becomes {value}: without quotes it is a number"),
                        format!("write \"{text}\""),
                    );
                }
            }
        }
    }
}

/// Returns a value as it is written; with its quotes, if it has some.
fn written<'s>(subject: &Subject<'s>, path: &KeyPath) -> Option<&'s str> {
    let text = subject.resolved.sources.text(subject.resolved.value_span(path))?;
    // In the list form the name stands before it.
    Some(text.trim())
}

/// Returns whether text without quotes is a number.
fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && (text.parse::<f64>().is_ok() || text.starts_with("0x") || text.starts_with("0o") || text.starts_with("0b"))
}
