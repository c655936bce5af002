//! The flags of an instruction: `--name`, `--name=value`.

use super::fault::Fault;
use super::words::Word;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or `true` or `false`.
    Bool,
    /// A value.
    Value,
    /// A value, and the flag can be given several times.
    Values,
}

/// The flags that were given.
#[derive(Debug, Default)]
pub(crate) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    /// Reads flags, of which these exist.
    pub(crate) fn read(given: &[Word], known: &[(&'static str, Takes)]) -> Result<Self, Fault> {
        let mut flags = Self::default();
        for flag in given {
            let fault = |message: String| Fault::new(message).at(flag.span);
            let text = flag.text.trim_start_matches("--");
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text, None),
            };
            let Some((name, takes)) = known.iter().copied().find(|(known, _)| *known == name) else {
                let names = known.iter().map(|(name, _)| *name);
                return Err(fault(format!("unknown flag: --{name}")).suggest(name, names));
            };
            if takes != Takes::Values && flags.get(name).is_some() {
                return Err(fault(format!("duplicate flag specified: --{name}")));
            }
            let missing = || fault(format!("missing a value on flag: --{name}"));
            let value = match (takes, value) {
                (Takes::Bool, None) => "true".to_owned(),
                (Takes::Bool, Some("")) | (_, None) => return Err(missing()),
                (Takes::Bool, Some(value)) => match value.to_lowercase() {
                    lower if lower == "true" || lower == "false" => lower,
                    _ => return Err(fault(format!("expecting boolean value for flag --{name}, not: {value}"))),
                },
                (_, Some(value)) => value.to_owned(),
            };
            flags.0.push((name, Word { text: value, span: flag.span }));
        }
        Ok(flags)
    }

    /// Returns the value of a flag that was given.
    pub(crate) fn get(&self, name: &str) -> Option<&Word> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value)
    }

    /// Returns the value of a flag that was given and is not empty, which is the same as not given.
    pub(crate) fn value(&self, name: &str) -> Option<Word> {
        self.get(name).filter(|word| !word.text.is_empty()).cloned()
    }

    /// Returns all values of a flag.
    pub(crate) fn values(&self, name: &str) -> Vec<Word> {
        self.0.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.clone()).collect()
    }

    /// Returns what a flag that is true or false says, if it was given.
    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.get(name).map(|word| word.text == "true")
    }
}
