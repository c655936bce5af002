//! Texts as Go's `fmt`, `strconv` and `time` print and read them: they are in image histories and messages.

use std::fmt::Write as _;

/// Returns `%q` of a string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            control if control.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns `%q` of a number, which is that of a character.
pub(crate) fn quote_number(number: i64) -> String {
    let character = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    match character {
        '\'' => "'\\''".to_owned(),
        '"' => "'\"'".to_owned(),
        other => format!("'{}'", quote(other.encode_utf8(&mut [0; 4])).trim_matches('"')),
    }
}

/// Returns `%v` of a list of strings.
pub(crate) fn list(items: &[impl AsRef<str>]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(" "))
}

/// Returns `%q` of a list of strings.
pub(crate) fn quoted_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(" "))
}

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration as `time.ParseDuration` does; returns nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let is_number = |character: char| character.is_ascii_digit() || character == '.';
        let (number, tail) = rest.split_at(rest.find(|character| !is_number(character)).unwrap_or(rest.len()));
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let Some((_, nanoseconds)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text)));
        };
        total += whole.parse::<i128>().unwrap_or(0) * nanoseconds;
        let digits = &fraction[..fraction.len().min(15)];
        total +=
            digits.parse::<i128>().unwrap_or(0) * nanoseconds / 10_i128.pow(u32::try_from(digits.len()).unwrap_or(0));
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = tail;
    }
    i64::try_from(sign * total).map_err(|_| invalid())
}

/// Returns a duration of so many nanoseconds as `time.Duration` prints it: `1m30s`, `1.5s`, `100ms`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    let (sign, left) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    let decimal = |value: u64, unit: u64| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        format!("{}{dot}{fraction}", value / unit)
    };
    match left {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{left}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(left, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(left, 1_000_000)),
        _ => {
            let minutes = left / 60_000_000_000;
            let seconds = decimal(left % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Reads a size in bytes as `units.RAMInBytes` does: `64m`, `1.5GiB`, `100`.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let end = text.rfind(|character: char| character.is_ascii_digit())? + 1;
    let (number, unit) = text.split_at(end);
    let number = number.trim_end();
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size of memory, and not below zero")]
    let bytes = (number.parse::<f64>().ok()? * 1024_f64.powi(power)) as u64;
    Some(bytes)
}

/// Reads a boolean as `strconv.ParseBool` does.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Returns a path without needless parts, as `path.Clean` does: `..` at its beginning stays where it is relative.
pub(crate) fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part != ".." {
            parts.push(part);
        } else if parts.last().is_some_and(|last| *last != "..") {
            parts.pop();
        } else if !rooted {
            parts.push(part);
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Returns a path below a directory, cleaned, as `path.Join("/", directory, path)` does: an absolute path is below it too.
pub(crate) fn join_path(directory: &str, path: &str) -> String {
    clean_path(&format!("/{directory}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        assert_eq!(quote("a\"b\\c\n\u{1}é"), "\"a\\\"b\\\\c\\n\\x01é\"");
        assert_eq!(quoted_list(&["a b".to_owned(), "c".to_owned()]), "[\"a b\" \"c\"]");
        assert_eq!(list(&["a b", "c"]), "[a b c]");
        assert_eq!([3, 39, 97].map(quote_number), ["'\\x03'", "'\\''", "'a'"]);
    }

    #[test]
    fn durations_are_read_and_printed_as_go_does() {
        for (text, printed) in
            [("90s", "1m30s"), ("1.5s", "1.5s"), ("100ms", "100ms"), ("1h", "1h0m0s"), ("2us", "2µs"), ("0", "0s")]
        {
            assert_eq!(duration(parse_duration(text).unwrap()), printed, "{text}");
        }
        assert_eq!(parse_duration("5").unwrap_err(), "time: missing unit in duration \"5\"");
        assert_eq!(parse_duration("1d").unwrap_err(), "time: unknown unit \"d\" in duration \"1d\"");
        assert_eq!(parse_duration("x").unwrap_err(), "time: invalid duration \"x\"");
        assert_eq!(parse_duration("-1s"), Ok(-1_000_000_000));
        assert!(parse_duration("9999999999h").is_err());
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("64m"), Some(64 << 20));
        assert_eq!(parse_bytes("1.5 KiB"), Some(1536));
        assert_eq!(parse_bytes("7"), Some(7));
        assert_eq!(parse_bytes("x"), None);
        assert_eq!(parse_bytes("1x"), None);
    }

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(clean_path("/a/../../b/./c//"), "/b/c");
        assert_eq!(clean_path("../a/.."), "..");
        assert_eq!(clean_path(""), ".");
        assert_eq!(join_path("/app", "../x"), "/x");
    }
}
