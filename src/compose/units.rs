//! Durations, byte sizes and numbers in the dialects of Go that compose files are written in.

/// Nanoseconds of the units a duration may have.
const DURATION_UNITS: [(&str, u64); 11] = [
    // Longer names first: `ms` must not be read as `m`.
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
    ("", 0),
];

/// Reads a duration such as `1h30m`, `1.5s`, `2w` or `-3us`; returns nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!("missing unit in duration {text:?}"));
        }
        let nanos = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, nanos)| i128::from(*nanos))
            .ok_or_else(|| format!("unknown unit {unit:?} in duration {text:?}"))?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(nanos).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        let mut scale = nanos;
        let mut part = 0;
        for digit in fraction.bytes().take(18) {
            part = part * 10 + i128::from(digit - b'0');
            scale *= 10;
        }
        if scale > nanos {
            total += part * nanos / (scale / nanos);
        }
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Prints nanoseconds as Go does: `1h0m0s`, `1.5s`, `250ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64| -> String {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        format!("{whole}.{}", digits.trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000);
            let (hours, minutes_left) = (minutes / 60, minutes % 60);
            if hours > 0 {
                format!("{sign}{hours}h{minutes_left}m{seconds}s")
            } else if minutes > 0 {
                format!("{sign}{minutes}m{seconds}s")
            } else {
                format!("{sign}{seconds}s")
            }
        }
    }
}

/// Reads a size such as `64m`, `1.5GiB`, `512 kb` or `100`; returns bytes. All units are powers of 1024.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let suffix_error =
        |suffix: &str| format!("invalid suffix: '{suffix}' (the units are b, k, m, g, t and p, also as kb or kib)");
    let split = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(invalid)?;
    let suffix = &text[split + 1..];
    let number = if text.as_bytes()[split] == b' ' { &text[..split] } else { &text[..=split] };
    let size = parse_float(number).ok_or_else(invalid)?;
    if size < 0.0 {
        return Err(invalid());
    }
    let lower = suffix.to_lowercase();
    let mut letters = lower.chars();
    let factor = match letters.next() {
        None => return Ok(truncate(size)),
        Some('b') if lower.len() == 1 => return Ok(truncate(size)),
        Some('k') => 1_u64 << 10,
        Some('m') => 1 << 20,
        Some('g') => 1 << 30,
        Some('t') => 1 << 40,
        Some('p') => 1 << 50,
        Some(_) => return Err(suffix_error(suffix)),
    };
    if !matches!(letters.as_str(), "" | "b" | "ib") {
        return Err(suffix_error(suffix));
    }
    #[expect(clippy::cast_precision_loss, reason = "powers of two are exact")]
    Ok(truncate(size * factor as f64))
}

/// Converts like Go on x86-64: what does not fit becomes the smallest number.
pub fn truncate(size: f64) -> i64 {
    if size >= 9_223_372_036_854_775_808.0 || size.is_nan() {
        return i64::MIN;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fraction is dropped on purpose, and the range is checked above"
    )]
    {
        size as i64
    }
}

/// Reads a floating-point number as Go does: no spaces, no overflow, underscores between digits, hexadecimal with an
/// exponent of two.
pub fn parse_float(text: &str) -> Option<f64> {
    let digits;
    let text = if text.contains('_') {
        digits = without_underscores(text)?;
        &digits
    } else {
        text
    };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(digits) = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        let value = hexadecimal(digits)?;
        return Some(if text.starts_with('-') { -value } else { value });
    }
    let value: f64 = text.parse().ok()?;
    let named = text.bytes().any(|byte| matches!(byte, b'n' | b'N'));
    (value.is_finite() || named).then_some(value)
}

/// Leaves out underscores, each of which must be between two digits, or between `0x` and a digit.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_hexadecimal = text.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (is_hexadecimal && byte.is_ascii_hexdigit());
    let fits = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let after_prefix = is_hexadecimal && at <= 3 && before.is_some_and(|byte| matches!(byte, b'x' | b'X'));
        (before.is_some_and(is_digit) || after_prefix) && bytes.get(at + 1).is_some_and(is_digit)
    };
    let all_fit = text.bytes().enumerate().filter(|(_, byte)| *byte == b'_').all(|(at, _)| fits(at));
    all_fit.then(|| text.replace('_', ""))
}

/// Reads `h.hhp±d`.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
    let value = value * 2_f64.powi(scale);
    value.is_finite().then_some(value)
}

/// Prints a floating-point number with the fewest digits that read back as it; `%g` in Go's words, with an exponent
/// from 10^`exponent_from` on (6 for YAML and text, 21 for JSON) and below 10^-5 (10^-7 in JSON).
pub fn format_float(value: f64, exponent_from: i32) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format_decimal(&format!("{value:e}"), exponent_from)
}

/// The same for a number of single precision.
pub fn format_float32(value: f32, exponent_from: i32) -> String {
    format_decimal(&format!("{value:e}"), exponent_from)
}

/// Turns `d.ddde±x` into what Go prints.
fn format_decimal(scientific: &str, exponent_from: i32) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let smallest = if exponent_from == JSON_EXPONENT { -6 } else { -4 };
    if mantissa.trim_start_matches('-') == "0" {
        return mantissa.to_owned();
    }
    if exponent < smallest || exponent >= exponent_from {
        let sign = if exponent < 0 { '-' } else { '+' };
        let digits = exponent.unsigned_abs();
        // JSON drops the leading zero of a negative exponent (`1e-7`), `%g` has two digits at least (`1e+06`).
        return if exponent_from == JSON_EXPONENT {
            format!("{mantissa}e{sign}{digits}")
        } else {
            format!("{mantissa}e{sign}{digits:02}")
        };
    }
    let (sign, unsigned) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = unsigned.chars().filter(char::is_ascii_digit).collect();
    if exponent < 0 {
        let zeros = "0".repeat((-exponent - 1).unsigned_abs() as usize);
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole = exponent.unsigned_abs() as usize + 1;
    if digits.len() <= whole {
        format!("{sign}{digits}{}", "0".repeat(whole - digits.len()))
    } else {
        format!("{sign}{}.{}", &digits[..whole], &digits[whole..])
    }
}

/// From which power of ten on text and YAML have an exponent.
pub const TEXT_EXPONENT: i32 = 6;
/// From which power of ten on JSON has an exponent.
pub const JSON_EXPONENT: i32 = 21;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_those_of_go() {
        for (text, value) in [("1_0.5", 10.5), ("0_1", 1.0), ("0x1p3", 8.0), ("-0X_1.8p-1", -0.75), ("+1e1_0", 1e10)] {
            assert_eq!(parse_float(text), Some(value), "{text}");
        }
        for wrong in ["_1", "1_", "1__0", "1_.5", "0x1", "0xp1", "0x1p", "1e400", " 1", ""] {
            assert_eq!(parse_float(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_go_durations_with_days_and_weeks() {
        assert_eq!(parse_duration("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_duration("1w2d"), Ok(9 * 86_400_000_000_000));
        assert_eq!(parse_duration("-.5ms"), Ok(-500_000));
        assert_eq!(parse_duration("0"), Ok(0));
        for wrong in ["", "10", "1x", ".s", "s", "1..5s", "99999999w"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_print_like_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (90_000_000_000, "1m30s"),
            (86_400_000_000_000, "24h0m0s"),
            (1_500_000_000, "1.5s"),
        ] {
            assert_eq!(format_duration(nanos), text);
        }
    }

    #[test]
    fn sizes_have_the_units_of_docker() {
        for (text, bytes) in [
            ("64m", 64 << 20),
            ("1KiB", 1024),
            ("64 m", 64 << 20),
            ("1.5g", 3 << 29),
            ("10b", 10),
            ("0", 0),
            ("2Kb", 2048),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "m", "1Mi", "-1", "1x", "1mbb", "0x10"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_printed_duration_reads_back(nanos in proptest::num::i64::ANY) {
            proptest::prop_assume!(nanos != i64::MIN);
            proptest::prop_assert_eq!(parse_duration(&format_duration(nanos)), Ok(nanos));
        }

        #[test]
        fn a_printed_float_reads_back(value in proptest::num::f64::NORMAL) {
            proptest::prop_assert_eq!(format_float(value, TEXT_EXPONENT).parse::<f64>().ok(), Some(value));
            proptest::prop_assert_eq!(format_float(value, JSON_EXPONENT).parse::<f64>().ok(), Some(value));
        }
    }
}
