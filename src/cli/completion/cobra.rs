//! What shells ask that have Docker's completion installed: `docker-compose __complete WORDS…`, the protocol of Go's library for
//! command lines. The last word is the one that is being typed.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::engine::CompletionCandidate;

use super::bash;

/// Asks for candidates with a description, or without.
const REQUESTS: [(&str, bool); 2] = [("__complete", true), ("__completeNoDesc", false)];
/// The shell is not to add names of files, of which those that fit are among the candidates.
const NO_FILES: u8 = 4;
/// Nor a blank: the word goes on.
const NO_BLANK: u8 = 2;

/// Returns whether candidates are asked for in this way, and if so whether with descriptions.
pub(super) fn request(arguments: &[OsString]) -> Option<bool> {
    let asked = arguments.get(1)?.to_str()?;
    REQUESTS.iter().find(|(request, _)| *request == asked).map(|(_, described)| *described)
}

/// Answers with one candidate a line, and what the shell is to do with them.
pub(super) fn answer(
    command: &mut clap::Command,
    words: Vec<OsString>,
    described: bool,
    here: Option<&Path>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let candidates = bash::candidates(command, words, here)?;
    let goes_on = |candidate: &CompletionCandidate| candidate.get_value().to_string_lossy().ends_with(['=', ':', '/']);
    let no_blank = !candidates.is_empty() && candidates.iter().all(goes_on);
    for candidate in candidates {
        let value = candidate.get_value().to_string_lossy();
        match candidate.get_help().filter(|_| described) {
            Some(help) => writeln!(out, "{value}\t{}", help.to_string().lines().next().unwrap_or_default())?,
            None => writeln!(out, "{value}")?,
        }
    }
    writeln!(out, ":{}", NO_FILES | if no_blank { NO_BLANK } else { 0 })
}
