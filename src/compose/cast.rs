//! Replacing variables in a tree, and giving what was text because of them its type.

use std::collections::BTreeSet;

use super::environment::{Environment, unset_variable};
use super::interpolate::{Fault, substitute};
use super::node::{Node, Value};
use super::path::Path;
use super::source::Span;
use super::{Diagnostic, Faults, units};

/// How many variables without a value are looked for in one text.
const MOST_UNSET: usize = 100;

/// What text at a path becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cast {
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// A truth value.
    Bool,
}

/// What the text at a path is to become.
pub(super) fn cast_at(parts: &[&str]) -> Option<Cast> {
    Some(match parts {
        [
            "services",
            _,
            "cpu_count" | "cpu_period" | "cpu_quota" | "cpu_rt_period" | "cpu_rt_runtime" | "cpu_shares"
            | "oom_score_adj" | "pids_limit" | "scale",
        ]
        | ["services", _, "deploy", "replicas"]
        | ["services", _, "deploy", "update_config" | "rollback_config", "parallelism"]
        | ["services", _, "deploy", "restart_policy", "max_attempts"]
        | ["services", _, "deploy", "placement", "max_replicas_per_node"]
        | ["services", _, "healthcheck", "retries"]
        | ["services", _, "ports", "[]", "target"]
        | ["services", _, "ulimits", _]
        | ["services", _, "ulimits", _, "hard" | "soft"] => Cast::Int,
        ["services", _, "cpu_percent" | "cpus"]
        | ["services", _, "deploy", "update_config" | "rollback_config", "max_failure_ratio"] => Cast::Float,
        ["services", _, "init" | "oom_kill_disable" | "privileged" | "read_only" | "stdin_open" | "tty"]
        | ["services", _, "healthcheck", "disable"]
        | ["services", _, "volumes", "[]", "read_only"]
        | ["services", _, "volumes", "[]", "volume", "nocopy"]
        | ["networks", _, "external" | "internal" | "attachable" | "enable_ipv4" | "enable_ipv6"]
        | ["volumes" | "secrets" | "configs", _, "external"] => Cast::Bool,
        _ => return None,
    })
}

/// Reads a truth value; the second part says whether it was written in the manner of YAML 1.1.
pub(super) fn parse_bool(text: &str) -> Option<(bool, bool)> {
    match text.to_lowercase().as_str() {
        "true" => Some((true, false)),
        "false" => Some((false, false)),
        "y" | "yes" | "on" => Some((true, true)),
        "n" | "no" | "off" => Some((false, true)),
        _ => None,
    }
}

/// Reads a whole number as Go's `strconv.Atoi` does.
pub(super) fn parse_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Replaces the variables of all texts below a node. What cannot be replaced is reported, and removed, so that later stages do not
/// stumble over it; false where that is the node itself.
pub(super) fn interpolate(node: &mut Node, path: &Path<'_>, environment: &Environment, faults: &mut Faults) -> bool {
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|key, node| interpolate(node, &path.key(key), environment, faults));
            true
        }
        Value::List(list) => {
            let mut index = 0;
            list.retain_mut(|node| {
                index += 1;
                interpolate(node, &path.index(index - 1), environment, faults)
            });
            true
        }
        Value::String(text) => {
            if text.contains('$') {
                if !faults.can_expand() {
                    faults.taint(path);
                    return false;
                }
                let mut unset = BTreeSet::new();
                let result = substitute(text, &|name| environment.get(name), &mut |name| {
                    if unset.len() < MOST_UNSET {
                        unset.insert(name.to_owned());
                    }
                });
                for name in unset {
                    let span = variable_span(node.span, &name, faults);
                    faults.push(
                        unset_variable(&name)
                            .label(&faults.sources, span, "not set")
                            .help(format!("set it in the environment or in .env, or write ${{{name}:-default}}")),
                    );
                }
                match result {
                    Ok(value) => {
                        if !faults.expand(value.len()) {
                            faults.taint(path);
                            return false;
                        }
                        *text = value;
                    }
                    Err(fault) => {
                        report(&fault, node.span, path, environment, faults);
                        return false;
                    }
                }
            }
            let Some(cast) = cast_at(path.parts().as_slice()) else { return true };
            let value = match cast {
                Cast::Int => parse_int(text).map(Value::Int),
                Cast::Float => units::parse_float(text).map(Value::Float),
                Cast::Bool => parse_bool(text).map(|(value, old)| {
                    if old {
                        let message =
                            format!("{text:?} for boolean is not supported by YAML 1.2, please use `{value}`");
                        faults.push(Diagnostic::warning("old-boolean", message).at_path(path.to_string()).label(
                            &faults.sources,
                            node.span,
                            "",
                        ));
                    }
                    Value::Bool(value)
                }),
            };
            if let Some(value) = value {
                node.value = value;
                return true;
            }
            let what = match cast {
                Cast::Int => "a whole number",
                Cast::Float => "a number",
                Cast::Bool => "true or false",
            };
            faults.taint(path);
            let is_made = faults.sources.text(node.span).is_some_and(|source| source.contains('$'));
            let label = if is_made { format!("is {text:?} after interpolation") } else { String::new() };
            let mut diagnostic = Diagnostic::error("wrong-type", format!("{path} must be {what}, not {text:?}"))
                .at_path(path.to_string())
                .label(&faults.sources, node.span, label);
            if let (["services", _, "ulimits", _], Some((soft, hard))) = (path.parts().as_slice(), text.split_once(':'))
            {
                diagnostic = diagnostic.help(format!("two limits are a mapping: `{{soft: {soft}, hard: {hard}}}`"));
            }
            faults.push(diagnostic);
            false
        }
        _ => true,
    }
}

/// Where in a scalar a variable stands.
fn variable_span(span: Span, name: &str, faults: &Faults) -> Span {
    let Some(text) = faults.sources.text(span) else { return span };
    let found =
        [format!("${{{name}"), format!("${name}")].into_iter().find_map(|form| Some((text.find(&form)?, form.len())));
    match (found, span.file()) {
        (Some((at, length)), Some(file)) => {
            let start = span.start as usize + at;
            let length = if text.as_bytes().get(at + length) == Some(&b'}') { length + 1 } else { length };
            Span::new(file, start, start + length)
        }
        _ => span,
    }
}

fn report(fault: &Fault, span: Span, path: &Path<'_>, environment: &Environment, faults: &mut Faults) {
    faults.taint(path);
    let diagnostic = match fault {
        Fault::Required { variable, .. } => {
            let span = variable_span(span, variable, faults);
            let mut diagnostic = Diagnostic::error(
                "required-variable",
                format!("error while interpolating {path}: {fault}"),
            )
            .label(&faults.sources, span, "required here");
            if environment.get(variable) == Some("") {
                diagnostic = diagnostic.help(format!("{variable} is set, but empty"));
            } else if let Some(known) = super::suggest::closest(variable, environment.values.keys().map(String::as_str))
            {
                diagnostic = diagnostic.help(format!("{known} is set: did you mean it?"));
            }
            diagnostic.help(format!("set it with `export {variable}=…`, or in the .env file beside the compose file"))
        }
        Fault::TooDeep | Fault::TooLong => {
            Diagnostic::error("too-large", format!("cannot interpolate {path}: {fault}"))
                .label(&faults.sources, span, "")
                .help("write the value out, or put it into a file")
        }
        Fault::Invalid { form } => {
            let narrowed = variable_span(span, form.trim_start_matches(['$', '{']).trim_end_matches('}'), faults);
            Diagnostic::error("invalid-interpolation", format!("invalid interpolation format for {path}: {form:?}"))
                .label(&faults.sources, narrowed, "not a variable")
                .help("you may need to escape any $ with another $")
        }
    };
    faults.push(diagnostic.at_path(path.to_string()));
}
