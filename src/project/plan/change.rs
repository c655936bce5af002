//! What is different between two definitions.

use serde_json::Value as Json;

use crate::compose::key::{Key, KeyPath};

/// Words in the name of a variable whose value is nobody's business.
const SECRET: [&str; 7] = ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH", "DSN"];
/// What is shown instead.
const HIDDEN: &str = "(hidden)";

/// One attribute that has another value.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub path: KeyPath,
    /// What it was; `None`: it was not there.
    pub old: Option<Json>,
    /// What it is to be; `None`: it is to go.
    pub new: Option<Json>,
}

/// Returns the attributes in which two values at the same place differ, each as deep down as it can be told.
pub fn changes(path: &KeyPath, old: &Json, new: &Json) -> Vec<Change> {
    let mut found = Vec::new();
    compare(path, old, new, &mut found);
    found
}

fn compare(path: &KeyPath, old: &Json, new: &Json, found: &mut Vec<Change>) {
    match (old, new) {
        _ if old == new => {}
        (Json::Object(old), Json::Object(new)) => {
            for (name, was) in old {
                let path = path.join(Key::Name(name.clone()));
                match new.get(name) {
                    Some(is) => compare(&path, was, is, found),
                    None => found.push(change(path, Some(was), None)),
                }
            }
            for (name, is) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                found.push(change(path.join(Key::Name(name.clone())), None, Some(is)));
            }
        }
        (Json::Array(old), Json::Array(new)) if old.len() == new.len() => {
            for (index, (was, is)) in old.iter().zip(new).enumerate() {
                compare(&path.join(Key::Index(index)), was, is, found);
            }
        }
        (Json::Array(old), Json::Array(new)) => {
            let mut rest = new.iter().enumerate().collect::<Vec<_>>();
            for (index, was) in old.iter().enumerate() {
                match rest.iter().position(|(_, is)| *is == was) {
                    Some(same) => drop(rest.remove(same)),
                    None => found.push(change(path.join(Key::Index(index)), Some(was), None)),
                }
            }
            for (index, is) in rest {
                found.push(change(path.join(Key::Index(index)), None, Some(is)));
            }
        }
        _ => found.push(change(path.clone(), Some(old), Some(new))),
    }
}

/// Returns a change as it may be shown to whoever reads the log of a CI job.
fn change(path: KeyPath, old: Option<&Json>, new: Option<&Json>) -> Change {
    let (old, new) = if is_secret(&path) {
        (old.map(|_| HIDDEN.into()), new.map(|_| HIDDEN.into()))
    } else {
        (old.cloned(), new.cloned())
    };
    Change { path, old, new }
}

/// Returns whether a path is that of a variable with something secret in it.
fn is_secret(path: &KeyPath) -> bool {
    let [.., Key::Name(section), Key::Name(name)] = path.0.as_slice() else { return false };
    let name = name.to_ascii_uppercase();
    section == "environment" && SECRET.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(old: &Json, new: &Json) -> Vec<String> {
        let text = |value: &Option<Json>| value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let all = changes(&KeyPath::of(&["services", "web"]), old, new);
        all.iter().map(|change| format!("{} {} {}", change.path, text(&change.old), text(&change.new))).collect()
    }

    #[test]
    fn a_change_is_told_as_deep_down_as_it_is() {
        let old =
            json!({"image": "a", "environment": {"A": "1", "B": null}, "ports": [{"target": 80, "published": "1"}]});
        let new =
            json!({"image": "a", "environment": {"A": "2", "C": ""}, "ports": [{"target": 80, "published": "2"}]});
        assert_eq!(
            shown(&old, &new),
            [
                "services.web.environment.A \"1\" \"2\"",
                "services.web.environment.B null -",
                "services.web.environment.C - \"\"",
                "services.web.ports[0].published \"1\" \"2\"",
            ]
        );
        assert!(shown(&old, &old).is_empty());
    }

    #[test]
    fn items_come_and_go() {
        let (old, new) = (json!({"dns": ["1", "2", "2", "3"]}), json!({"dns": ["3", "2", "4"]}));
        let all = ["services.web.dns[0] \"1\" -", "services.web.dns[2] \"2\" -", "services.web.dns[2] - \"4\""];
        assert_eq!(shown(&old, &new), all);
        assert_eq!(shown(&json!({"a": [1]}), &json!({"a": "x"})), ["services.web.a [1] \"x\""]);
    }

    #[test]
    fn passwords_are_not_shown() {
        let (old, new) =
            (json!({"environment": {"Db_Password": "old"}}), json!({"environment": {"Db_Password": "new"}}));
        assert_eq!(shown(&old, &new), ["services.web.environment.Db_Password \"(hidden)\" \"(hidden)\""]);
    }
}
