//! What is wrong with a Dockerfile, and where.

use crate::build::graph::Span;

/// One fault of a Dockerfile. Its words are BuildKit's, since people look for them; hence a message and not a variant for
/// each of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", did_you_mean(suggestion.as_deref()))]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Option<Span>,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl Fault {
    /// Returns a fault whose place its caller knows.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, suggestion: None }
    }

    /// Says where it is, unless that is known better already.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span.get_or_insert(span);
        self
    }

    /// Adds what was probably meant: the candidate that is most like what was written.
    #[must_use]
    pub fn suggest<'c>(mut self, written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Self {
        self.suggestion = closest(written, candidates, true).map(str::to_owned);
        self
    }

    /// Does the same where capitals and small letters are alike.
    #[must_use]
    pub fn suggest_in_any_case<'c>(mut self, written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Self {
        self.suggestion = closest(written, candidates, false).map(str::to_owned);
        self
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |suggestion| format!(" (did you mean {suggestion}?)"))
}

/// Edits from which on two words are not alike any more.
const TOO_FAR: usize = 3;
/// Longer words are not compared: the effort grows with the square.
const LONGEST: usize = 128;

/// Returns the candidate that is most like a word: by fewer than three edits, as BuildKit has it, but with two letters that
/// changed places as one edit. None where the word is one of the candidates, because then it is not what is wrong.
pub(crate) fn closest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
    case_matters: bool,
) -> Option<&'c str> {
    if word.len() > LONGEST {
        return None;
    }
    let folded = |text: &str| if case_matters { text.to_owned() } else { text.to_lowercase() };
    let word = folded(word);
    let mut best = None;
    let mut distance = TOO_FAR;
    for candidate in candidates.into_iter().filter(|candidate| candidate.len() <= LONGEST) {
        let other = folded(candidate);
        if other == word {
            return None;
        }
        let edits = strsim::damerau_levenshtein(&word, &other);
        if edits < distance {
            (best, distance) = (Some(candidate), edits);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        assert_eq!(closest("FORM", ["FROM", "RUN"], true), Some("FROM"));
        assert_eq!(closest("RNU", ["ENV", "RUN"], true), Some("RUN"));
        assert_eq!(closest("run", ["FROM", "RUN"], false), None);
        assert_eq!(closest("INSTALL", ["FROM", "RUN"], true), None);
        let fault = Fault::new("unknown instruction: FORM").suggest("FORM", ["FROM", "RUN"]);
        assert_eq!(fault.to_string(), "unknown instruction: FORM (did you mean FROM?)");
    }
}
