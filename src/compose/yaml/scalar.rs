//! What a plain scalar means: the rules of Go's yaml.v3, which mixes YAML 1.1 and 1.2.

use crate::compose::node::Value;
use crate::compose::units;

/// Resolves a plain scalar: `0440` is octal, `1_000` a number, `yes` a string, `2020-01-01` a date.
pub fn resolve(text: &str) -> Value {
    let Some(first) = text.bytes().next() else { return Value::Null };
    match first {
        b'~' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' => match text {
            "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            _ => Value::String(text.to_owned()),
        },
        b'.' => named_float(text)
            .or_else(|| decimal_float(text))
            .map_or_else(|| Value::String(text.to_owned()), Value::Float),
        b'+' | b'-' => named_float(text)
            .map(Value::Float)
            .or_else(|| number(text))
            .unwrap_or_else(|| Value::String(text.to_owned())),
        b'0'..=b'9' => {
            time(text).map(Value::Time).or_else(|| number(text)).unwrap_or_else(|| Value::String(text.to_owned()))
        }
        _ => Value::String(text.to_owned()),
    }
}

/// `.inf`, `-.INF`, `.nan` and the like.
fn named_float(text: &str) -> Option<f64> {
    match text {
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A number of any base, with underscores between the digits.
fn number(text: &str) -> Option<Value> {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(value) = integer(&plain) {
        return Some(value);
    }
    decimal_float(&plain).map(Value::Float)
}

/// `12`, `-0x1F`, `0b101`, `0o17` or `017`.
fn integer(plain: &str) -> Option<Value> {
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some(_) if lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        return i64::try_from(-i128::from(magnitude)).ok().map(Value::Int);
    }
    Some(i64::try_from(magnitude).map_or(Value::Uint(magnitude), Value::Int))
}

/// `1.5`, `.5`, `5.`, `1e5`: YAML's own grammar, narrower than what number parsers accept.
fn decimal_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    if !mantissa_fits || !exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
    {
        return None;
    }
    units::parse_float(text)
}

/// A date or a time; returns it as RFC 3339.
fn time(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    if bytes.len() < 8 || bytes[4] != b'-' || !bytes[..4].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut rest = &text[5..];
    let month = take_number(&mut rest, 2)?;
    rest = rest.strip_prefix('-')?;
    let day = take_number(&mut rest, 2)?;
    let year: u32 = text[..4].parse().ok()?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) {
        return None;
    }
    if rest.is_empty() {
        return Some(format!("{year:04}-{month:02}-{day:02}T00:00:00Z"));
    }
    let separator = rest.chars().next()?;
    rest = &rest[separator.len_utf8()..];
    let hour = take_number(&mut rest, 2)?;
    rest = rest.strip_prefix(':')?;
    let minute = take_number(&mut rest, 2)?;
    rest = rest.strip_prefix(':')?;
    let second = take_number(&mut rest, 2)?;
    let mut fraction = "";
    if let Some(digits) = rest.strip_prefix('.') {
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        fraction = &digits[..end];
        rest = &digits[end..];
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let zone = match separator {
        // With a T the zone is part of the form, with a space it must not be there.
        'T' | 't' if rest == "Z" => "Z",
        'T' | 't' if rest.len() == 6 && rest.starts_with(['+', '-']) && rest.as_bytes()[3] == b':' => rest,
        ' ' if rest.is_empty() => "Z",
        _ => return None,
    };
    let fraction = fraction.trim_end_matches('0');
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{}", &fraction[..fraction.len().min(9)]) };
    let zone = if zone == "+00:00" { "Z" } else { zone };
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"))
}

/// Takes one to `most` digits from the front.
fn take_number(rest: &mut &str, most: usize) -> Option<u32> {
    let end = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    let number = rest.get(..end)?.parse().ok()?;
    *rest = &rest[end..];
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(plain: &str) -> Value {
        Value::String(plain.to_owned())
    }

    #[test]
    fn scalars_mean_what_they_mean_to_go() {
        for (plain, value) in [
            ("0440", Value::Int(288)),
            ("010", Value::Int(8)),
            ("08", Value::Float(8.0)),
            ("0o17", Value::Int(15)),
            ("-0b11", Value::Int(-3)),
            ("1_000", Value::Int(1000)),
            ("1e5", Value::Float(100_000.0)),
            ("5.", Value::Float(5.0)),
            ("+5", Value::Int(5)),
            ("-0", Value::Int(0)),
            ("18446744073709551615", Value::Uint(u64::MAX)),
            ("", Value::Null),
            ("~", Value::Null),
            ("TRUE", Value::Bool(true)),
            ("2020-1-1", Value::Time("2020-01-01T00:00:00Z".into())),
            ("2001-12-14t21:59:43.10-05:00", Value::Time("2001-12-14T21:59:43.1-05:00".into())),
        ] {
            assert_eq!(resolve(plain), value, "{plain}");
        }
        for plain in [
            "yes",
            "on",
            "No",
            "12:30",
            "0x",
            "1.2.3",
            "-",
            "=",
            "NaN",
            "tRUE",
            "2020-13-01",
            "1e",
            "nullx",
            "10.0.0.0/8",
        ] {
            assert_eq!(resolve(plain), text(plain), "{plain}");
        }
    }
}
