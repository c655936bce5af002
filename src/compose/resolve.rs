//! Env files and label files: their variables become part of the services.

use std::collections::BTreeMap;

use super::environment::{self, Environment};
use super::files::Files;
use super::node::{Map, Node, Value};
use super::source::Span;
use super::{Diagnostic, Faults, dotenv};

/// Variables and where they stand.
type Found = Vec<(String, String, Span)>;

/// Puts the variables of `env_file` below those of `environment`.
pub(super) fn env_files(service: &mut Node, environment: &Environment, files: &dyn Files, faults: &mut Faults) {
    let place = service.place();
    let Some(map) = service.as_map_mut() else { return };
    if let Some(variables) = map.get_mut("environment").and_then(Node::as_map_mut) {
        for (name, node) in variables.iter_mut() {
            if node.is_null()
                && let Some(value) = environment.get(name)
            {
                node.value = Value::String(value.to_owned());
            }
        }
    }
    let Some(listed) = map.shift_remove("env_file") else { return };
    let own: BTreeMap<String, String> = map
        .get("environment")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
        .filter_map(|(name, node)| Some((name.clone(), node.as_str()?.to_owned())))
        .collect();
    let outer = |name: &str| environment.get(name).map(ToOwned::to_owned).or_else(|| own.get(name).cloned());
    let mut known = own.clone();
    let mut found: Found = Vec::new();
    for file in listed.as_list().into_iter().flatten() {
        let Some(path) = file.get("path").and_then(Node::as_str) else { continue };
        let required = file.get("required").and_then(Node::as_bool).unwrap_or(true);
        if !required
            && files.is_directory(path.as_ref()).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        {
            continue;
        }
        let format = file.get("format").and_then(Node::as_str).unwrap_or("");
        let span = file.get("path").map_or(file.span, |path| path.span);
        let Some((number, text)) = environment::open(path, span, files, faults, "env file not found") else { continue };
        let mut unset = Vec::new();
        let result = match format {
            "" | ".env" => {
                dotenv::parse(&text, &known, &outer, &mut |name, range| unset.push((name.to_owned(), range)))
            }
            "raw" => dotenv::parse_raw(&text, &outer),
            other => {
                let span = file.get("format").map_or(file.span, |format| format.span);
                faults.push(
                    Diagnostic::error("invalid-value", format!("unsupported env_file format {other:?}"))
                        .label(&faults.sources, span, "")
                        .help("the formats are `raw` and, when none is given, that of .env"),
                );
                continue;
            }
        };
        environment::warn_unset(&unset, number, faults);
        match result {
            Ok(assignments) => {
                if !faults.expand(dotenv::size(&assignments)) {
                    return;
                }
                for assignment in assignments {
                    known.insert(assignment.key.clone(), assignment.value.clone());
                    found.push((
                        assignment.key,
                        assignment.value,
                        Span::new(number, assignment.range.start, assignment.range.end),
                    ));
                }
            }
            Err(error) => environment::report(&error, number, path, faults),
        }
    }
    // Own variables win, also those that are null: only what is not there is added.
    below(map, "environment", found, place);
}

/// Puts the labels of `label_file` below those of `labels`.
pub(super) fn label_files(service: &mut Node, files: &dyn Files, faults: &mut Faults) {
    let place = service.place();
    let Some(map) = service.as_map_mut() else { return };
    let Some(listed) = map.shift_remove("label_file") else { return };
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut found: Found = Vec::new();
    for file in listed.as_list().into_iter().flatten() {
        let Some(path) = file.as_str() else { continue };
        let Some((number, text)) = environment::open(path, file.span, files, faults, "label file not found") else {
            continue;
        };
        let mut unset = Vec::new();
        let before = known.clone();
        let outer = |name: &str| before.get(name).cloned();
        let result =
            dotenv::parse(&text, &BTreeMap::new(), &outer, &mut |name, range| unset.push((name.to_owned(), range)));
        environment::warn_unset(&unset, number, faults);
        match result {
            Ok(assignments) => {
                if !faults.expand(dotenv::size(&assignments)) {
                    return;
                }
                for assignment in assignments {
                    known.insert(assignment.key.clone(), assignment.value.clone());
                    found.push((
                        assignment.key,
                        assignment.value,
                        Span::new(number, assignment.range.start, assignment.range.end),
                    ));
                }
            }
            Err(error) => environment::report(&error, number, path, faults),
        }
    }
    below(map, "labels", found, place);
}

/// Adds what is not there yet; of several the last one counts.
fn below(service: &mut Map, key: &str, found: Found, place: Span) {
    if found.is_empty() {
        return;
    }
    let target = service.entry(key.to_owned()).or_insert_with(|| Node {
        value: Value::Map(Map::new()),
        span: place,
        key: Span::NONE,
    });
    let Some(target) = target.as_map_mut() else { return };
    for (name, value, span) in found.into_iter().rev() {
        target.entry(name).or_insert_with(|| Node { value: Value::String(value), span, key: span });
    }
}
