//! The variables that interpolation can see, and where each of them comes from.

use std::collections::BTreeMap;

use super::dotenv::{self, DotenvError};
use super::files::Files;
use super::source::{Origin, SourceFile, Span};
use super::{Diagnostic, Faults, yaml};

/// A value that a variable has somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The variable.
    pub name: String,
    /// The value.
    pub value: String,
    /// The place in a file; none: the process environment, or set by Compose.
    pub span: Span,
    /// What the source is, where it is not a file.
    pub source: &'static str,
}

/// Variables: the process environment over the `.env` files.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The value that counts of each variable.
    pub values: BTreeMap<String, String>,
    /// Every value seen, in the order of precedence.
    pub candidates: Vec<Candidate>,
}

impl Environment {
    /// The environment of the process.
    pub fn of_process(variables: &BTreeMap<String, String>) -> Self {
        let candidates = variables
            .iter()
            .map(|(name, value)| Candidate {
                name: name.clone(),
                value: value.clone(),
                span: Span::NONE,
                source: "process environment",
            })
            .collect();
        Self { values: variables.clone(), candidates }
    }

    /// Sets a variable, over all others.
    pub fn set(&mut self, name: &str, value: &str, source: &'static str) {
        self.values.insert(name.to_owned(), value.to_owned());
        self.candidates.retain(|candidate| candidate.name != name || candidate.value != value);
        self.candidates
            .insert(0, Candidate { name: name.to_owned(), value: value.to_owned(), span: Span::NONE, source });
    }

    /// Looks a variable up.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Adds the variables of `.env` files; what is set already stays, and later files win over earlier ones.
    pub(super) fn add_files(&mut self, paths: &[String], cited: Span, files: &dyn Files, faults: &mut Faults) {
        let mut read: BTreeMap<String, String> = BTreeMap::new();
        let mut found = Vec::new();
        for path in paths {
            let Some((number, text)) = open(path, cited, files, faults, "couldn't find env file") else { continue };
            let mut unset = Vec::new();
            let outer = |name: &str| self.values.get(name).cloned();
            let result = dotenv::parse(&text, &read, &outer, &mut |name, range| unset.push((name.to_owned(), range)));
            warn_unset(&unset, number, faults);
            match result {
                Ok(assignments) => {
                    if !faults.expand(dotenv::size(&assignments)) {
                        return;
                    }
                    for assignment in assignments {
                        let span = Span::new(number, assignment.range.start, assignment.range.end);
                        read.insert(assignment.key.clone(), assignment.value.clone());
                        found.push(Candidate {
                            name: assignment.key,
                            value: assignment.value,
                            span,
                            source: "env file",
                        });
                    }
                }
                Err(error) => report(&error, number, path, faults),
            }
        }
        for (name, value) in read {
            self.values.entry(name).or_insert(value);
        }
        found.reverse();
        self.candidates.extend(found);
    }
}

/// Reads the text of a file of variables into the sources.
pub(super) fn open(
    path: &str,
    cited: Span,
    files: &dyn Files,
    faults: &mut Faults,
    missing: &str,
) -> Option<(u32, String)> {
    let bytes = match files.read(path.as_ref()) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = match error.kind() {
                std::io::ErrorKind::NotFound => format!("{missing}: {path}"),
                _ => format!("cannot read {path}: {error}"),
            };
            faults.push(Diagnostic::error("unreadable-file", message).label(&faults.sources, cited, "named here"));
            return None;
        }
    };
    let (text, fault) = yaml::decode(&bytes);
    let number =
        faults.sources.add(SourceFile { path: path.into(), text: text.clone(), origin: Origin::Variables(cited) });
    if let Some(at) = fault {
        let span = Span::new(number, at, at + char::REPLACEMENT_CHARACTER.len_utf8());
        faults.push(Diagnostic::warning("not-utf8", format!("{path} is not UTF-8")).label(&faults.sources, span, ""));
    }
    Some((number, text))
}

/// Reports what is wrong with a file of variables.
pub(super) fn report(error: &DotenvError, number: u32, path: &str, faults: &mut Faults) {
    let span = Span::new(number, error.range.start, error.range.end);
    faults.push(Diagnostic::error("env-file", format!("failed to read {path}: {}", error.message)).label(
        &faults.sources,
        span,
        "",
    ));
}

/// Warns of variables without a value.
pub(super) fn warn_unset(unset: &[(String, std::ops::Range<usize>)], number: u32, faults: &mut Faults) {
    for (name, range) in unset {
        let span = Span::new(number, range.start, range.end);
        faults.push(unset_variable(name).label(&faults.sources, span, ""));
    }
}

/// The warning about a variable without a value.
pub(super) fn unset_variable(name: &str) -> Diagnostic {
    Diagnostic::warning("unset-variable", format!("The {name:?} variable is not set. Defaulting to a blank string."))
}
