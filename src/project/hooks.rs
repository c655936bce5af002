//! The hooks of a container, as it was made: whoever stops it need not have its compose file.

use rcompose_engine::container::config::ContainerConfig;
use serde::Deserialize;

use crate::compose::model::Hook;

/// What runs in a container besides its own program (Compose Specification, `post_start` and `pre_stop`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// After each start, one after the other.
    pub post_start: Vec<Hook>,
    /// Before each stop.
    pub pre_stop: Vec<Hook>,
}

impl Hooks {
    /// Returns the hooks of a container.
    pub fn of(container: &ContainerConfig) -> Self {
        let definition = &container.definition;
        // As a rule there are none, and then nothing has to be read.
        if !definition.contains("\"post_start\"") && !definition.contains("\"pre_stop\"") {
            return Self::default();
        }
        // One that an older program wrote, and that cannot be read, has none that are known.
        serde_json::from_str(definition).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_those_of_the_definition() {
        let mut config = ContainerConfig::new("p-web-1".into(), "p".into(), "busybox".into(), "sha256:1".into());
        assert_eq!(Hooks::of(&config), Hooks::default());
        config.definition = r#"{"command":null,"post_start":[{"command":["a","b"],"environment":{"X":"1"}}]}"#.into();
        let hooks = Hooks::of(&config);
        assert_eq!(hooks.post_start[0].command, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert!(hooks.pre_stop.is_empty());
        config.definition = "\"pre_stop\" of another age".into();
        assert_eq!(Hooks::of(&config), Hooks::default());
    }
}
