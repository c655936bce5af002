//! Errors in words.

use std::error::Error;
use std::fmt::Write as _;

/// Returns an error with everything that caused it, from the outermost inwards.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    text
}
