//! The build checks: remarks about a Dockerfile that can be built. Their names and words are BuildKit's.

mod rule;
mod stages;

use std::collections::BTreeSet;

use super::dockerfile::{Fault, go};
use super::graph::Span;

pub use rule::Rule;
pub(crate) use stages::check_stages;

/// A remark about a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// Where.
    pub span: Span,
    /// Which check made it.
    pub rule: Rule,
    /// What it says.
    pub message: String,
}

/// Which checks are made: `# check=skip=…;error=true`, or the build argument `BUILDKIT_DOCKERFILE_CHECK`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    skip: Names,
    experimental: Names,
    /// Warnings are errors.
    error: bool,
}

/// Names of rules, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: Vec<String>,
}

impl Names {
    fn set(&mut self, value: &str) {
        match value.trim() {
            "all" => self.all = true,
            value => self.names = value.split(',').map(|name| name.trim().to_owned()).collect(),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        self.all || self.names.iter().any(|name| name == rule.name())
    }
}

impl CheckOptions {
    /// Reads options: `skip=A,B;error=true;experimental=all`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut options = Self::default();
        for part in text.split(';').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let invalid = |what: &str| {
                Fault::new(format!("failed to parse check options: invalid check option {}", go::quote(what)))
            };
            let (key, value) = part.split_once('=').ok_or_else(|| invalid(part))?;
            match key.trim() {
                "skip" => options.skip.set(value),
                "experimental" => options.experimental.set(value),
                "error" => {
                    let value = value.trim();
                    options.error = go::parse_bool(value).ok_or_else(|| {
                        let (part, value) = (go::quote(part), go::quote(value));
                        Fault::new(format!(
                            "failed to parse check options: failed to parse check option {part}: strconv.ParseBool: \
                             parsing {value}: invalid syntax"
                        ))
                    })?;
                }
                other => return Err(invalid(other)),
            }
        }
        Ok(options)
    }

    fn wants(&self, rule: Rule) -> bool {
        if rule.is_experimental() { self.experimental.has(rule) } else { !self.skip.has(rule) }
    }
}

/// Takes remarks down.
#[derive(Debug)]
pub(crate) struct Checker {
    options: CheckOptions,
    warnings: BTreeSet<Warning>,
    /// The rules that made them, in the order in which they did first.
    rules: Vec<Rule>,
}

impl Checker {
    pub(crate) fn new(options: CheckOptions) -> Self {
        Self { options, warnings: BTreeSet::new(), rules: Vec::new() }
    }

    /// Takes a remark down, unless it is not wanted or was made before. `comments` are those before the instruction, which may
    /// have a `check=` of their own.
    pub(crate) fn report(&mut self, rule: Rule, span: Span, comments: &[String], message: String) {
        let own = comments.iter().filter_map(|comment| comment.strip_prefix("check="));
        let mut own = own.filter_map(|options| CheckOptions::parse(options).ok());
        if !self.options.wants(rule) || own.any(|options| options.skip.has(rule)) {
            return;
        }
        self.warnings.insert(Warning { span, rule, message });
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    /// Returns the remarks by their places, or the fault that they are where they are to be errors.
    pub(crate) fn finish(self) -> (Vec<Warning>, Option<Fault>) {
        let rules: Vec<&str> = self.rules.iter().map(|rule| rule.name()).collect();
        let first = self.warnings.first().filter(|_| self.options.error);
        let fault = first
            .map(|first| Fault::new(format!("lint violation found for rules: {}", rules.join(", "))).at(first.span));
        (self.warnings.into_iter().collect(), fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = CheckOptions::parse("skip=UndefinedVar, StageNameCasing;error=true").unwrap();
        assert!(!options.wants(Rule::UndefinedVar) && !options.wants(Rule::StageNameCasing));
        assert!(options.wants(Rule::FromAsCasing) && options.error);
        assert!(!CheckOptions::parse("skip=all").unwrap().wants(Rule::FromAsCasing));
        assert!(!options.wants(Rule::CopyIgnoredFile));
        assert!(CheckOptions::parse("experimental=all").unwrap().wants(Rule::CopyIgnoredFile));
        for (text, message) in [
            ("skip", "invalid check option \"skip\""),
            ("a=b", "invalid check option \"a\""),
            ("error=x", "failed to parse check option \"error=x\": strconv.ParseBool: parsing \"x\": invalid syntax"),
        ] {
            let expected = format!("failed to parse check options: {message}");
            assert_eq!(CheckOptions::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
