//! Times and sizes in the words that Docker uses for people.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24;

/// Returns a duration in one unit, such as `About a minute` or `3 weeks`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..MINUTE => format!("{seconds} seconds"),
        _ if seconds / MINUTE == 1 => "About a minute".to_owned(),
        MINUTE..HOUR => format!("{} minutes", seconds / MINUTE),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 2 * DAY => format!("{hours} hours"),
        _ if hours < 14 * DAY => format!("{} days", hours / DAY),
        _ if hours < 60 * DAY => format!("{} weeks", hours / DAY / 7),
        _ if hours < 730 * DAY => format!("{} months", hours / DAY / 30),
        _ => format!("{} years", seconds / HOUR / DAY / 365),
    }
}

/// Returns how long ago `then` was, in the words of [`duration`]; nothing that is yet to come.
pub fn since(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    duration(Duration::try_from(now.duration_since(then)).unwrap_or_default())
}

/// Returns a number of bytes with a decimal unit and three significant digits, such as `187MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    let digits = format!("{value:.decimals$}");
    let digits = if decimals > 0 { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{}", UNITS[unit])
}

/// Returns a number of bytes with a binary unit and four significant digits, such as `1.898MiB`.
pub fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = [(10.0, 3), (100.0, 2), (1000.0, 1)];
    let decimals = decimals.iter().find(|(limit, _)| value < *limit).map_or(0, |(_, decimals)| *decimals);
    let digits = format!("{value:.decimals$}");
    let digits = if decimals > 0 { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    #[test]
    fn binary_sizes_have_four_significant_digits() {
        for (bytes, want) in [
            (0, "0B"),
            (1023, "1023B"),
            (484 << 10, "484KiB"),
            (1_990_197, "1.898MiB"),
            (10 << 20, "10MiB"),
            (25_275_882_045, "23.54GiB"),
        ] {
            assert_eq!(binary_size(bytes), want, "{bytes}");
        }
    }

    use super::*;

    #[test]
    fn durations_have_dockers_words() {
        let said = |seconds| duration(Duration::from_secs(seconds));
        for (seconds, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ] {
            assert_eq!(said(seconds), want, "{seconds} s");
        }
    }

    #[test]
    fn sizes_have_three_significant_digits() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (12_340, "12.3kB"),
            (187_400_000, "187MB"),
            (1_500_000_000, "1.5GB"),
        ] {
            assert_eq!(size(bytes), want, "{bytes}");
        }
    }
}
