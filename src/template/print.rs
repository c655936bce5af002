//! How values look when they are printed, as Go's `%v` has it.

use serde_json::Value;

use super::shape::Shape;

/// What is printed for what is not there.
pub(super) const NO_VALUE: &str = "<no value>";

/// Returns a value's text.
pub(super) fn value(value: &Value, shape: Shape) -> String {
    let mut text = String::new();
    write(&mut text, value, shape);
    text
}

fn write(text: &mut String, value: &Value, shape: Shape) {
    match value {
        Value::Null => text.push_str(match shape {
            Shape::Plain => "<nil>",
            Shape::Map => "map[]",
            Shape::List => "[]",
        }),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(string) => text.push_str(string),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                write(text, item, Shape::Plain);
            }
            text.push(']');
        }
        Value::Object(members) => {
            text.push_str("map[");
            let mut members = members.iter().collect::<Vec<_>>();
            members.sort_by_key(|(name, _)| *name);
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(name);
                text.push(':');
                write(text, member, super::shape::of(name));
            }
            text.push(']');
        }
    }
}
