//! The functions that a template may call: Go's own, and those that Docker adds.

use std::cmp::Ordering;

use serde_json::Value;

use super::eval::Item;
use super::print;
use super::shape::Shape;

const NAMES: [&str; 26] = [
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "html", "js", "urlquery", "eq", "ne",
    "lt", "le", "gt", "ge", "json", "split", "join", "title", "lower", "upper", "pad", "truncate",
];

/// Tells whether there is a function of this name.
pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Returns what Go calls the type of a value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Item]) -> Result<Item, String> {
    let count = |least: usize, most: usize| {
        if (least..=most).contains(&arguments.len()) {
            return Ok(());
        }
        Err(format!("wrong number of args: want {least} got {}", arguments.len()))
    };
    let text = |at: usize| arguments[at].text();
    Ok(match name {
        "not" => {
            count(1, 1)?;
            Item::new(!arguments[0].is_true())
        }
        "len" => {
            count(1, 1)?;
            Item::new(length(&arguments[0])?)
        }
        "index" => {
            count(1, usize::MAX)?;
            arguments[1..].iter().try_fold(arguments[0].clone(), index)?
        }
        "slice" => {
            count(1, 3)?;
            slice(arguments)?
        }
        "print" => Item::new(joined(arguments, false)),
        "println" => Item::new(format!("{}\n", joined(arguments, true))),
        "printf" => {
            count(1, usize::MAX)?;
            Item::new(formatted(&text(0), &arguments[1..]))
        }
        "html" => Item::new(escaped(&joined(arguments, false), |c| match c {
            '<' => Some("&lt;"),
            '>' => Some("&gt;"),
            '&' => Some("&amp;"),
            '"' => Some("&#34;"),
            '\'' => Some("&#39;"),
            _ => None,
        })),
        "js" => Item::new(escaped(&joined(arguments, false), |c| match c {
            '\\' => Some("\\\\"),
            '\'' => Some("\\'"),
            '"' => Some("\\\""),
            '<' => Some("\\u003C"),
            '>' => Some("\\u003E"),
            '&' => Some("\\u0026"),
            '=' => Some("\\u003D"),
            '\n' => Some("\\u000A"),
            _ => None,
        })),
        "urlquery" => Item::new(url_query(&joined(arguments, false))),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => {
            count(2, if name == "eq" { usize::MAX } else { 2 })?;
            Item::new(compare(name, arguments)?)
        }
        "json" => {
            count(1, 1)?;
            Item::new(arguments[0].value.as_ref().unwrap_or(&Value::Null).to_string())
        }
        "split" => {
            count(2, 2)?;
            let separator = text(1);
            let whole = text(0);
            let parts: Vec<Value> = if separator.is_empty() {
                whole.chars().map(|c| c.to_string().into()).collect()
            } else {
                whole.split(&separator).map(Value::from).collect()
            };
            Item::new(parts)
        }
        "join" => {
            count(2, 2)?;
            let parts = match &arguments[0].value {
                Some(Value::Array(items)) => items.iter().map(|item| print::value(item, Shape::Plain)).collect(),
                None | Some(Value::Null) => Vec::new(),
                Some(other) => {
                    return Err(format!("wrong type for value; expected []string; got {}", type_name(other)));
                }
            };
            Item::new(parts.join(&text(1)))
        }
        "title" => {
            count(1, 1)?;
            Item::new(title(&text(0)))
        }
        "lower" => {
            count(1, 1)?;
            Item::new(text(0).to_lowercase())
        }
        "upper" => {
            count(1, 1)?;
            Item::new(text(0).to_uppercase())
        }
        "pad" => {
            count(3, 3)?;
            if text(0).is_empty() {
                return Ok(Item::new(""));
            }
            let blanks = |at: usize| Ok::<_, String>(" ".repeat(bounded(integer(&arguments[at])?)));
            Item::new(format!("{}{}{}", blanks(1)?, text(0), blanks(2)?))
        }
        "truncate" => {
            count(2, 2)?;
            let length = bounded(integer(&arguments[1])?);
            Item::new(text(0).chars().take(length).collect::<String>())
        }
        other => return Err(format!("function {other:?} not defined")),
    })
}

fn integer(item: &Item) -> Result<i64, String> {
    item.value.as_ref().and_then(Value::as_i64).ok_or_else(|| format!("expected integer; found {}", item.text()))
}

/// Nobody needs more than that many blanks.
fn bounded(number: i64) -> usize {
    usize::try_from(number.clamp(0, 4096)).unwrap_or(0)
}

fn length(item: &Item) -> Result<usize, String> {
    match &item.value {
        Some(Value::String(text)) => Ok(text.len()),
        Some(Value::Array(items)) => Ok(items.len()),
        Some(Value::Object(members)) => Ok(members.len()),
        Some(Value::Null) if item.shape != Shape::Plain => Ok(0),
        None | Some(Value::Null) => Err("len of nil pointer".to_owned()),
        Some(other) => Err(format!("len of type {}", type_name(other))),
    }
}

fn index(item: Item, key: &Item) -> Result<Item, String> {
    match item.value {
        Some(Value::Array(mut items)) => {
            let wanted = integer(key).map_err(|_| format!("cannot index slice/array with {}", key.text()))?;
            let place = usize::try_from(wanted).ok().filter(|place| *place < items.len());
            let place = place.ok_or_else(|| format!("index out of range: {wanted}"))?;
            Ok(Item::new(items.swap_remove(place)))
        }
        Some(Value::Object(mut members)) => {
            let Some(Value::String(name)) = &key.value else {
                return Err(format!("cannot index map with {}", key.text()));
            };
            // What a map lacks is its type's zero value, which for the maps there are prints as nothing.
            let value = members.shift_remove(name).unwrap_or_else(|| Value::String(String::new()));
            Ok(Item { value: Some(value), shape: super::shape::of(name) })
        }
        Some(Value::String(text)) => {
            let wanted = integer(key)?;
            let byte = usize::try_from(wanted).ok().and_then(|place| text.as_bytes().get(place).copied());
            byte.map(Item::new).ok_or_else(|| format!("index out of range: {wanted}"))
        }
        Some(Value::Null) if item.shape == Shape::Map => Ok(Item::new("")),
        Some(Value::Null) if item.shape == Shape::List => Err(format!("index out of range: {}", key.text())),
        None | Some(Value::Null) => Err("index of nil pointer".to_owned()),
        Some(other) => Err(format!("can't index item of type {}", type_name(&other))),
    }
}

fn slice(arguments: &[Item]) -> Result<Item, String> {
    let bound = |at: usize, default: usize, most: usize| match arguments.get(at) {
        None => Ok(default),
        Some(item) => {
            let wanted = integer(item)?;
            let place = usize::try_from(wanted).ok().filter(|place| *place <= most);
            place.ok_or_else(|| format!("index out of range: {wanted}"))
        }
    };
    match &arguments[0].value {
        Some(Value::String(text)) => {
            let (from, to) = (bound(1, 0, text.len())?, bound(2, text.len(), text.len())?);
            text.get(from..to).map(Item::new).ok_or_else(|| format!("invalid slice index: {from} > {to}"))
        }
        Some(Value::Array(items)) => {
            let (from, to) = (bound(1, 0, items.len())?, bound(2, items.len(), items.len())?);
            let part = items.get(from..to).ok_or_else(|| format!("invalid slice index: {from} > {to}"))?;
            Ok(Item::new(part.to_vec()))
        }
        None | Some(Value::Null) => Err("slice of untyped nil".to_owned()),
        Some(other) => Err(format!("can't slice item of type {}", type_name(other))),
    }
}

/// Joins texts as `print` does: with a blank between two of which neither is a string, or everywhere.
fn joined(arguments: &[Item], everywhere: bool) -> String {
    let is_text = |item: &Item| matches!(item.value, Some(Value::String(_)));
    let mut text = String::new();
    for (place, item) in arguments.iter().enumerate() {
        if place > 0 && (everywhere || !(is_text(&arguments[place - 1]) || is_text(item))) {
            text.push(' ');
        }
        text.push_str(&item.text());
    }
    text
}

/// `printf`, with the verbs, widths and precisions that make sense for JSON.
fn formatted(format: &str, arguments: &[Item]) -> String {
    let mut result = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            result.push(character);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = rest.next_if(|c| "-+# 0".contains(*c)) {
            flags.push(flag);
        }
        let mut number = || {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse::<i64>().ok().map(bounded)
        };
        let width = number().unwrap_or(0);
        let precision = if rest.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            Some(digits.parse::<i64>().map_or(0, bounded))
        } else {
            None
        };
        let verb = match rest.next() {
            None => {
                result.push_str("%!(NOVERB)");
                break;
            }
            Some('%') => {
                result.push('%');
                continue;
            }
            Some(verb) => verb,
        };
        let Some(item) = arguments.next() else {
            result.push_str("%!");
            result.push(verb);
            result.push_str("(MISSING)");
            continue;
        };
        let text = converted(verb, item, precision, flags.contains('+'));
        let missing = width.saturating_sub(text.chars().count());
        if flags.contains('-') {
            result.push_str(&text);
            result.extend(std::iter::repeat_n(' ', missing));
        } else if flags.contains('0') && "dxXfo".contains(verb) {
            let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
            result.push_str(sign);
            result.extend(std::iter::repeat_n('0', missing));
            result.push_str(digits);
        } else {
            result.extend(std::iter::repeat_n(' ', missing));
            result.push_str(&text);
        }
    }
    let extra = arguments.map(|item| format!("{}={}", kind(item), item.text())).collect::<Vec<_>>();
    if !extra.is_empty() {
        result.push_str("%!(EXTRA ");
        result.push_str(&extra.join(", "));
        result.push(')');
    }
    result
}

fn kind(item: &Item) -> &'static str {
    item.value.as_ref().map_or("nil", type_name)
}

fn converted(verb: char, item: &Item, precision: Option<usize>, signed: bool) -> String {
    let wrong = || format!("%!{verb}({}={})", kind(item), item.text());
    let number = item.value.as_ref().and_then(Value::as_i64);
    let plus = |text: String| if signed && !text.starts_with('-') { format!("+{text}") } else { text };
    match verb {
        'v' => item.text(),
        's' => match (&item.value, precision) {
            (Some(Value::Number(_) | Value::Bool(_)), _) => wrong(),
            (_, Some(precision)) => item.text().chars().take(precision).collect(),
            _ => item.text(),
        },
        'q' => Value::String(item.text()).to_string(),
        'd' => number.map_or_else(wrong, |number| plus(number.to_string())),
        'x' => match (&item.value, number) {
            (_, Some(number)) => format!("{number:x}"),
            (Some(Value::String(text)), _) => {
                text.bytes().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
            }
            _ => wrong(),
        },
        'X' => number.map_or_else(wrong, |number| format!("{number:X}")),
        'o' => number.map_or_else(wrong, |number| format!("{number:o}")),
        'c' => {
            let character = number.and_then(|number| u32::try_from(number).ok()).and_then(char::from_u32);
            character.map_or_else(wrong, |character| character.to_string())
        }
        't' => item.value.as_ref().and_then(Value::as_bool).map_or_else(wrong, |value| value.to_string()),
        'f' | 'F' => match &item.value {
            Some(Value::Number(number)) if number.is_f64() => {
                plus(format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or(0.0)))
            }
            _ => wrong(),
        },
        'T' => kind(item).to_owned(),
        _ => wrong(),
    }
}

fn escaped(text: &str, replacement: impl Fn(char) -> Option<&'static str>) -> String {
    let mut result = String::new();
    for character in text.chars() {
        match replacement(character) {
            Some(replacement) => result.push_str(replacement),
            None => result.push(character),
        }
    }
    result
}

fn url_query(text: &str) -> String {
    let mut result = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => result.push(char::from(byte)),
            b' ' => result.push('+'),
            other => result = format!("{result}%{other:02X}"),
        }
    }
    result
}

fn title(text: &str) -> String {
    let mut previous = ' ';
    let mut result = String::new();
    for character in text.chars() {
        if previous.is_alphanumeric() || previous == '_' || previous == '\'' {
            result.push(character);
        } else {
            result.extend(character.to_uppercase());
        }
        previous = character;
    }
    result
}

fn compare(name: &str, arguments: &[Item]) -> Result<bool, String> {
    let (first, others) = arguments.split_first().ok_or("missing argument for comparison")?;
    match name {
        "eq" => {
            for other in others {
                if equal(first, other)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        "ne" => Ok(!equal(first, &others[0])?),
        _ => {
            let order = order(first, &others[0])?;
            Ok(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }
    }
}

fn equal(a: &Item, b: &Item) -> Result<bool, String> {
    let nothing = |item: &Item| matches!(item.value, None | Some(Value::Null));
    match (&a.value, &b.value) {
        _ if nothing(a) || nothing(b) => Ok(nothing(a) && nothing(b)),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => Ok(a == b),
        (Some(Value::String(_)), Some(Value::String(_))) | (Some(Value::Number(_)), Some(Value::Number(_))) => {
            Ok(order(a, b)? == Ordering::Equal)
        }
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn order(a: &Item, b: &Item) -> Result<Ordering, String> {
    match (&a.value, &b.value) {
        (Some(Value::String(a)), Some(Value::String(b))) => Ok(a.cmp(b)),
        (Some(Value::Number(x)), Some(Value::Number(y))) if x.is_f64() == y.is_f64() => {
            match (x.as_i64(), y.as_i64()) {
                (Some(x), Some(y)) => Ok(x.cmp(&y)),
                _ => x.as_f64().partial_cmp(&y.as_f64()).ok_or_else(|| "invalid type for comparison".to_owned()),
            }
        }
        _ => Err("incompatible types for comparison".to_owned()),
    }
}
