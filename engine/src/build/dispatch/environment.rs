//! Variables in the order in which they were set.

use std::collections::{BTreeMap, HashMap};

use crate::build::dockerfile::shell::Variables;
use crate::image::Platform;

/// Variables. One that is set again moves to the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    places: HashMap<String, u64>,
    values: BTreeMap<u64, (String, String)>,
    next: u64,
    /// Bytes of all names and values.
    size: usize,
}

impl Variables for Environment {
    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.values[place].1.as_str())
    }
}

impl Environment {
    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        if let Some((name, value)) = self.places.remove(name).and_then(|place| self.values.remove(&place)) {
            self.size -= name.len() + value.len();
        }
        self.size += name.len() + value.len();
        self.places.insert(name.to_owned(), self.next);
        self.values.insert(self.next, (name.to_owned(), value.to_owned()));
        self.next += 1;
    }

    /// Returns how many bytes it has.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Returns the names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.values().map(|(name, _)| name.as_str())
    }

    /// Returns `NAME=value` of each.
    pub(crate) fn list(&self) -> Vec<String> {
        self.values.values().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Returns what is predefined for the expansion of `FROM` and for `ARG` without a default: the platforms, and the
    /// target's name. Arguments of the build have precedence.
    pub(crate) fn predefined(
        build: &Platform,
        target: &Platform,
        stage: Option<&str>,
        arguments: &BTreeMap<String, String>,
    ) -> Self {
        let variant = |platform: &Platform| platform.variant.clone().unwrap_or_default();
        let mut environment = Self::default();
        for (name, value) in [
            ("BUILDPLATFORM", build.to_string()),
            ("BUILDOS", build.os.clone()),
            ("BUILDARCH", build.architecture.clone()),
            ("BUILDVARIANT", variant(build)),
            ("TARGETPLATFORM", target.to_string()),
            ("TARGETOS", target.os.clone()),
            ("TARGETARCH", target.architecture.clone()),
            ("TARGETVARIANT", variant(target)),
            ("TARGETSTAGE", stage.unwrap_or("default").to_owned()),
        ] {
            environment.set(name, arguments.get(name).unwrap_or(&value));
        }
        environment
    }
}

/// The arguments that every `RUN` sees without an `ARG`, and that change neither its cache key nor the history.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Returns the proxies among arguments, each in capitals and in small letters.
pub(crate) fn proxies(arguments: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let known = |name: &str| PROXIES.iter().find(|proxy| name.eq_ignore_ascii_case(proxy));
    let given = arguments.iter().filter_map(|(name, value)| known(name).map(|proxy| (*proxy, value)));
    given
        .flat_map(|(proxy, value)| [proxy.to_owned(), proxy.to_lowercase()].map(|name| (name, value.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_last_stands_last() {
        let mut environment = Environment::default();
        for (name, value) in [("a", "1"), ("b", "22"), ("a", "3")] {
            environment.set(name, value);
        }
        assert_eq!(environment.list(), ["b=22", "a=3"]);
        assert_eq!((environment.get("a"), environment.get("c"), environment.size()), (Some("3"), None, 5));
    }

    #[test]
    fn proxies_have_both_cases() {
        let arguments = BTreeMap::from([("http_proxy".to_owned(), "p".to_owned()), ("x".to_owned(), "y".to_owned())]);
        let names: Vec<String> = proxies(&arguments).into_keys().collect();
        assert_eq!(names, ["HTTP_PROXY", "http_proxy"]);
    }
}
