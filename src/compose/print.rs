//! Writing values as JSON and YAML, byte for byte as Go's libraries do.

use std::fmt::Write as _;

use super::shape::Out;
use super::{units, yaml};

/// JSON: indented by two spaces, or on one line.
pub fn json(value: &Out, indented: bool) -> String {
    let mut text = String::new();
    write_json(value, indented.then_some(0), &mut text);
    text
}

fn write_json(value: &Out, indent: Option<usize>, text: &mut String) {
    match value {
        Out::Null => text.push_str("null"),
        Out::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Out::Int(number) => {
            let _ = write!(text, "{number}");
        }
        Out::Uint(number) => {
            let _ = write!(text, "{number}");
        }
        Out::Float(number) => text.push_str(&units::format_float(*number, units::JSON_EXPONENT)),
        Out::Float32(number) => text.push_str(&units::format_float32(*number, units::JSON_EXPONENT)),
        Out::Text(value) | Out::Time(value) => json_string(value, text),
        Out::List(items) => json_block(items, '[', ']', indent, text, write_json),
        Out::Map(entries) => json_block(entries, '{', '}', indent, text, |(key, value), inner, text| {
            json_string(key, text);
            text.push_str(if inner.is_some() { ": " } else { ":" });
            write_json(value, inner, text);
        }),
    }
}

fn json_block<T>(
    items: &[T],
    open: char,
    close: char,
    indent: Option<usize>,
    text: &mut String,
    write: impl Fn(&T, Option<usize>, &mut String),
) {
    text.push(open);
    let inner = indent.map(|indent| indent + 2);
    let line = |text: &mut String, indent: Option<usize>| {
        if let Some(indent) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
        }
    };
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        line(text, inner);
        write(item, inner, text);
    }
    if !items.is_empty() {
        line(text, indent);
    }
    text.push(close);
}

/// A string with what could be read as HTML escaped, as encoding/json does.
fn json_string(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\u{0}'..='\u{1f}' => {
                let _ = write!(text, "\\u{:04x}", c as u32);
            }
            _ => text.push(c),
        }
    }
    text.push('"');
}

/// YAML in block style, indented by two spaces.
pub fn to_yaml(value: &Out) -> String {
    let mut text = String::new();
    match value {
        Out::Map(entries) if !entries.is_empty() => yaml_map(entries, 0, true, &mut text),
        Out::List(items) if !items.is_empty() => yaml_list(items, 0, &mut text),
        other => {
            yaml_scalar(other, 0, &mut text);
            text.push('\n');
        }
    }
    text
}

fn spaces(count: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', count));
}

/// A mapping, one key a line; the first line may be indented already.
fn yaml_map(entries: &[(String, Out)], indent: usize, mut indented: bool, text: &mut String) {
    for (key, value) in entries {
        if !std::mem::take(&mut indented) || indent == 0 {
            spaces(indent, text);
        }
        yaml_key(key, text);
        text.push(':');
        yaml_member(value, indent, text);
    }
}

fn yaml_member(value: &Out, indent: usize, text: &mut String) {
    match value {
        Out::Map(entries) if !entries.is_empty() => {
            text.push('\n');
            yaml_map(entries, indent + 2, false, text);
        }
        Out::List(items) if !items.is_empty() => {
            text.push('\n');
            yaml_list(items, indent + 2, text);
        }
        other => {
            text.push(' ');
            yaml_scalar(other, indent + 2, text);
            text.push('\n');
        }
    }
}

fn yaml_list(items: &[Out], indent: usize, text: &mut String) {
    for item in items {
        spaces(indent, text);
        text.push('-');
        yaml_item(item, indent, text);
    }
}

fn yaml_item(item: &Out, indent: usize, text: &mut String) {
    match item {
        Out::Map(entries) if !entries.is_empty() => {
            text.push(' ');
            yaml_map(entries, indent + 2, true, text);
        }
        Out::List(items) if !items.is_empty() => {
            // A list in a list begins on the line of its dash.
            for (index, inner) in items.iter().enumerate() {
                if index == 0 {
                    text.push(' ');
                } else {
                    spaces(indent + 2, text);
                }
                text.push('-');
                yaml_item(inner, indent + 2, text);
            }
        }
        other => {
            text.push(' ');
            yaml_scalar(other, indent + 2, text);
            text.push('\n');
        }
    }
}

fn yaml_key(key: &str, text: &mut String) {
    if key.contains('\n') || key.len() > 128 {
        double_quoted(key, text);
    } else {
        yaml_text(key, 0, text);
    }
}

fn yaml_scalar(value: &Out, indent: usize, text: &mut String) {
    match value {
        Out::Null => text.push_str("null"),
        Out::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Out::Int(number) => {
            let _ = write!(text, "{number}");
        }
        Out::Uint(number) => {
            let _ = write!(text, "{number}");
        }
        Out::Float(number) => text.push_str(&yaml_float(units::format_float(*number, units::TEXT_EXPONENT))),
        Out::Float32(number) => text.push_str(&yaml_float(units::format_float32(*number, units::TEXT_EXPONENT))),
        Out::Time(value) => text.push_str(value),
        Out::Text(value) => yaml_text(value, indent, text),
        Out::List(_) => text.push_str("[]"),
        Out::Map(_) => text.push_str("{}"),
    }
}

fn yaml_float(number: String) -> String {
    match number.as_str() {
        "+Inf" => ".inf".to_owned(),
        "-Inf" => "-.inf".to_owned(),
        "NaN" => ".nan".to_owned(),
        _ => number,
    }
}

/// Text in the style in which it reads back as text: plain, quoted, or as a block.
fn yaml_text(value: &str, indent: usize, text: &mut String) {
    let printable = value.chars().all(|c| {
        matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
            || c == '\t'
    });
    if value.contains('\n')
        && printable
        && indent > 0
        && !value.contains(['\t', '\u{2028}', '\u{2029}', '\u{85}'])
        && block(value, indent, text)
    {
        return;
    }
    let typed = !matches!(yaml::scalar::resolve(value), super::node::Value::String(_))
        || is_old_bool(value)
        || is_base60(value);
    if typed || value.is_empty() {
        double_quoted_simple(value, text);
    } else if is_plain(value) {
        text.push_str(value);
    } else if printable && !value.contains(['\n', '\t', '\u{85}', '\u{2028}', '\u{2029}']) {
        text.push('\'');
        text.push_str(&value.replace('\'', "''"));
        text.push('\'');
    } else {
        double_quoted(value, text);
    }
}

/// What YAML 1.1 reads as a truth value.
fn is_old_bool(value: &str) -> bool {
    matches!(
        value,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF"
    )
}

/// What YAML 1.1 reads as a number to the base 60: `12:30`.
fn is_base60(value: &str) -> bool {
    let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
    let Some((first, rest)) = digits.split_once(':') else { return false };
    if !first.starts_with(|c: char| c.is_ascii_digit()) || !first.chars().all(|c| c.is_ascii_digit() || c == '_') {
        return false;
    }
    let mut groups = rest.split(':').collect::<Vec<_>>();
    if let Some((whole, fraction)) = groups.last().and_then(|last| last.split_once('.')) {
        if !fraction.chars().all(|c| c.is_ascii_digit() || c == '_') {
            return false;
        }
        groups.pop();
        groups.push(whole);
    }
    groups.iter().all(|group| matches!(group.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
}

/// Whether a text may stand without quotes.
fn is_plain(value: &str) -> bool {
    let characters: Vec<char> = value.chars().collect();
    let (Some(first), Some(last)) = (characters.first(), characters.last()) else { return false };
    if *first == ' ' || *last == ' ' || value.starts_with("---") || value.starts_with("...") {
        return false;
    }
    let space_at = |at: usize| characters.get(at).is_none_or(|c| matches!(c, ' ' | '\t' | '\n'));
    for (at, c) in characters.iter().enumerate() {
        let indicator = match c {
            '#' => at == 0 || characters[at - 1] == ' ' || characters[at - 1] == '\t',
            ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => at == 0,
            ':' => space_at(at + 1),
            '?' | '-' => at == 0 && space_at(1),
            _ => false,
        };
        let printable = matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
            && !matches!(c, '\u{2028}' | '\u{2029}');
        if indicator || !printable {
            return false;
        }
    }
    true
}

/// Text as a literal block; false where a block cannot hold it.
fn block(value: &str, indent: usize, text: &mut String) -> bool {
    if value.split('\n').any(|line| line.ends_with(' ')) {
        return false;
    }
    text.push('|');
    if value.starts_with([' ', '\n']) {
        text.push('2');
    }
    if value.ends_with("\n\n") || value == "\n" {
        text.push('+');
    } else if !value.ends_with('\n') {
        text.push('-');
    }
    let content = value.strip_suffix('\n').unwrap_or(value);
    for line in content.split('\n') {
        text.push('\n');
        if !line.is_empty() {
            spaces(indent, text);
            text.push_str(line);
        }
    }
    true
}

fn double_quoted_simple(value: &str, text: &mut String) {
    double_quoted(value, text);
}

fn double_quoted(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{0}' => text.push_str("\\0"),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{b}' => text.push_str("\\v"),
            '\u{c}' => text.push_str("\\f"),
            '\u{1b}' => text.push_str("\\e"),
            '\u{85}' => text.push_str("\\N"),
            '\u{2028}' => text.push_str("\\L"),
            '\u{2029}' => text.push_str("\\P"),
            ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' => text.push(c),
            _ if (c as u32) < 0x100 => {
                let _ = write!(text, "\\x{:02X}", c as u32);
            }
            _ if (c as u32) < 0x1_0000 => {
                let _ = write!(text, "\\u{:04X}", c as u32);
            }
            // Go's library takes nothing beyond the first plane for printable.
            _ => {
                let _ = write!(text, "\\U{:08X}", c as u32);
            }
        }
    }
    text.push('"');
}
