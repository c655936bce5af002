//! How values that are text in the canonical form (durations, sizes, modes) become numbers, and back.
//!
//! The canonical form is what `config` prints: `1m30s`, `"67108864"`, `"0440"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

use crate::compose::units;

/// A [`Duration`] as Go prints it.
pub mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, read_duration, units};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&units::format_duration(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        read_duration::<D>(&String::deserialize(deserializer)?)
    }
}

/// An optional [`Duration`] as Go prints it.
pub mod optional_duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, duration, read_duration};

    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => duration::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| read_duration::<D>(&text)).transpose()
    }
}

/// A number of bytes (or another whole number) as decimal text; 0 where there is none.
pub mod decimal {
    use super::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A file mode as octal text.
pub mod optional_mode {
    use super::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(mode) => serializer.collect_str(&format_args!("0{mode:o}")),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        // A mode that does not fit is not a mode: keep the bits that are.
        let mode = i64::from_str_radix(text.strip_prefix('0').filter(|rest| !rest.is_empty()).unwrap_or(&text), 8)
            .map_err(serde::de::Error::custom)?;
        Ok(Some(u32::try_from(mode & 0o7777).unwrap_or(0)))
    }
}

fn read_duration<'de, D: Deserializer<'de>>(text: &str) -> Result<Duration, D::Error> {
    let nanos = units::parse_duration(text).map_err(serde::de::Error::custom)?;
    // A negative duration means nothing to any of its users; none at all is the nearest thing that does.
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}
