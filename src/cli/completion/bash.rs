//! Completion in bash. It takes words apart at `:` and `=` (`COMP_WORDBREAKS`), so the line is asked about instead of its words,
//! and of what fits only the part is given back that bash puts in.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::engine::CompletionCandidate;
use clap_complete::env::EnvCompleter;

#[derive(Debug)]
pub(super) struct Bash;

const SCRIPT: &str = r#"_FUNCTION() {
    local IFS=$'\n'
    COMPREPLY=($(VARIABLE=bash PROGRAM -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null))
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=:/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -o default -F _FUNCTION NAME
"#;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        "bash"
    }

    fn is(&self, name: &str) -> bool {
        name == self.name()
    }

    fn write_registration(
        &self,
        variable: &str,
        name: &str,
        bin: &str,
        program: &str,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let program = shlex::try_quote(program).map_err(io::Error::other)?;
        let script = SCRIPT.replace("FUNCTION", &name.replace('-', "_")).replace("VARIABLE", variable);
        out.write_all(script.replace("PROGRAM", &program).replace("NAME", bin).as_bytes())
    }

    /// Answers with one candidate a line. `arguments` are the line up to the cursor, and what bash takes for its last word.
    fn write_complete(
        &self,
        command: &mut clap::Command,
        arguments: Vec<OsString>,
        here: Option<&Path>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
        let (line, part) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
        let (words, _) = crate::cli::arguments(words(&line));
        let last = words.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        let kept = kept(&last, &part);
        for candidate in candidates(command, words, here)? {
            let value = candidate.get_value().to_string_lossy();
            if let Some(rest) = value.get(kept..) {
                writeln!(out, "{rest}")?;
            }
        }
        Ok(())
    }
}

/// Returns what may stand in the place of the last word.
pub(super) fn candidates(
    command: &mut clap::Command,
    words: Vec<OsString>,
    here: Option<&Path>,
) -> io::Result<Vec<CompletionCandidate>> {
    let index = words.len().saturating_sub(1);
    let is_begun = words.last().is_some_and(|word| !word.is_empty());
    let mut candidates = clap_complete::engine::complete(command, words, index, here)?;
    // Nobody who has typed nothing yet looks for a flag, where there are names.
    let is_flag = |candidate: &CompletionCandidate| candidate.get_value().as_encoded_bytes().starts_with(b"-");
    if !is_begun && !candidates.iter().all(is_flag) {
        candidates.retain(|candidate| !is_flag(candidate));
    }
    Ok(candidates)
}

/// Returns the words of a line that is not finished; the last one is empty after a blank.
pub(super) fn words(line: &str) -> Vec<OsString> {
    // A quotation that is still open is one that will be closed.
    let closed = || ["'", "\""].iter().find_map(|quote| shlex::split(&format!("{line}{quote}")));
    let mut words = shlex::split(line).or_else(closed).unwrap_or_default();
    if line.ends_with([' ', '\t']) && shlex::split(line).is_some() {
        words.push(String::new());
    }
    words.into_iter().map(OsString::from).collect()
}

/// Returns how many bytes of the last word bash leaves as they are: all up to what it takes for the word.
fn kept(last: &str, part: &str) -> usize {
    // `=` and `:` alone are words of bash's.
    let part = if part.chars().all(|sign| matches!(sign, '=' | ':')) { "" } else { part };
    if last.ends_with(part) && last[..last.len() - part.len()].ends_with([':', '=']) {
        last.len() - part.len()
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_typed_has_words() {
        let split = |line| words(line).into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>();
        assert_eq!(split("rcompose up w"), ["rcompose", "up", "w"]);
        assert_eq!(split("rcompose up "), ["rcompose", "up", ""]);
        assert_eq!(split("rcompose -f 'a b.yaml' up \"w"), ["rcompose", "-f", "a b.yaml", "up", "w"]);
        assert_eq!(split("rcompose -f 'a "), ["rcompose", "-f", "a "]);
    }

    #[test]
    fn what_bash_breaks_off_stays() {
        assert_eq!(kept("redis:", ":"), 6);
        assert_eq!(kept("redis:", ""), 6);
        assert_eq!(kept("redis:7", "7"), 6);
        assert_eq!(kept("--profile=de", "de"), 10);
        assert_eq!(kept("web", "web"), 0);
        assert_eq!(kept("", ""), 0);
        // A bash whose word breaks are others gives the whole word.
        assert_eq!(kept("redis:7", "redis:7"), 0);
    }
}
