//! `--filter KEY=VALUE`, as Docker's commands have it.

use std::collections::BTreeMap;

use super::error::Error;
use super::logs::parse_time;

/// What was asked for, as it was typed.
#[derive(Debug, Default)]
pub struct Filters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Filters<'a> {
    /// Reads filters; `known` are the keys that the command knows.
    pub fn parse(filters: &'a [String], known: &[&str]) -> Result<Self, Error> {
        let mut parsed = Vec::new();
        for filter in filters {
            // `label!=x` is the filter `label!`, and `label=a=b` has the value `a=b`.
            let Some((key, value)) = filter.split_once('=') else {
                let hint = "a filter is KEY=VALUE, such as label=stage=test";
                return Err(Error::with_hint(format!("invalid filter '{filter}'"), hint));
            };
            let key = key.trim();
            if !known.contains(&key) {
                let hint = format!("known filters: {}", known.join(", "));
                return Err(Error::with_hint(format!("invalid filter '{key}'"), hint));
            }
            parsed.push((key, value.trim()));
        }
        Ok(Self(parsed))
    }

    /// Returns the values of a filter, one of which has to fit.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| *name == key).map(|(_, value)| *value)
    }

    pub fn has(&self, key: &str) -> bool {
        self.all(key).next().is_some()
    }

    /// Returns the value of a filter that is yes or no.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.all(key).last() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(Error::new(format!("invalid filter '{key}={other}': true or false is expected"))),
        }
    }

    /// Returns the time before which something must have been made, by the filter `until`.
    pub fn until(&self, now: jiff::Timestamp) -> Result<Option<jiff::Timestamp>, Error> {
        let mut values = self.all("until");
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Error::new("more than one until filter specified"));
        }
        parse_time(value, now).map(Some)
    }

    /// Tells whether labels fit every filter `label` and none of the filters `label!`.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let fits = |wanted: &str| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.all("label").all(fits) && !self.all("label!").any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_wanted_and_unwanted() {
        let labels = BTreeMap::from([("stage".to_owned(), "test".to_owned()), ("keep".to_owned(), String::new())]);
        for (filters, fits) in [
            (vec!["label=stage"], true),
            (vec!["label=stage=test"], true),
            (vec!["label=stage=production"], false),
            (vec!["label=stage=test", "label=keep"], true),
            (vec!["label!=keep"], false),
            (vec!["label!=stage=production"], true),
            (vec!["label=stage", "label!=other"], true),
        ] {
            let filters = filters.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let parsed = Filters::parse(&filters, &["label", "label!"]).unwrap();
            assert_eq!(parsed.labels(&labels), fits, "{filters:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let parse = |filter: &str| Filters::parse(&[filter.to_owned()], &["until"]).is_err();
        assert!(parse("until"));
        assert!(parse("color=red"));
        let filters = ["until=10m".to_owned()];
        let now = jiff::Timestamp::from_second(1_000_000).unwrap();
        let until = Filters::parse(&filters, &["until"]).unwrap().until(now).unwrap();
        assert_eq!(until, jiff::Timestamp::from_second(1_000_000 - 600).ok());
    }
}
