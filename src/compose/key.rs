//! A path to a value that is kept, such as `services.web.ports[0]`.

use std::fmt;

/// One step from a mapping or list to what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A member of a mapping.
    Name(String),
    /// An item of a list.
    Index(usize),
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// The steps from the root of a project to a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(pub Vec<Key>);

impl KeyPath {
    /// Returns the path of these names.
    pub fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|name| Key::from(*name)).collect())
    }

    /// Returns the path of a member or an item of what is at this one.
    #[must_use]
    pub fn join(&self, key: Key) -> Self {
        Self(self.0.iter().cloned().chain([key]).collect())
    }
}

/// With dots and brackets, as messages and `config --provenance` have it.
impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, key) in self.0.iter().enumerate() {
            match key {
                Key::Name(name) if n > 0 => write!(f, ".{name}")?,
                Key::Name(name) => f.write_str(name)?,
                Key::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
