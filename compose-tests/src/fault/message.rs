//! Whether an error says which step failed, and why.

use nix::errno::Errno;

use super::{Fault, Seen};

/// Whether what a command said on standard error names what was being done when it failed, and why that failed. `failed` is the
/// call, if it was made.
pub fn says_what(stderr: &str, fault: Fault, failed: Option<&Seen>) -> Result<(), String> {
    let errors: Vec<&str> =
        stderr.lines().filter(|line| line.starts_with("error:") || line.contains("cannot ")).collect();
    let Some(error) = errors.first() else { return Err("no error was told".to_owned()) };
    // One end of a socket does not hear why the other one gave up.
    let between = failed.is_some_and(|seen| seen.about.starts_with("socket:"));
    // What the standard library says where it made a directory that it could not look at before.
    let exists = fault.place.call.contains("stat") && stderr.contains("File exists");
    // The C library has one error for all that may go wrong with a thread.
    let thread = fault.place.call == "clone3" && stderr.contains(said_by_the_library(Errno::EAGAIN).as_str());
    let lower = stderr.to_lowercase();
    let caused = between
        || exists
        || thread
        || lower.contains(&fault.error.desc().to_lowercase())
        || stderr.contains(said_by_the_library(fault.error).as_str());
    if !names_a_step(error) {
        return Err("the error does not name the step that failed".to_owned());
    }
    if caused { Ok(()) } else { Err("the error does not say the cause".to_owned()) }
}

/// Returns the words of the standard library for an error, without its number.
fn said_by_the_library(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What a command does to a container or a network as a whole. Each is many steps.
const OPERATIONS: [&str; 8] = [
    "create container",
    "start container",
    "stop container",
    "restart container",
    "remove container",
    "execute in container",
    "make network",
    "remove network",
];

/// Whether an error says at which step of an operation it happened: `cannot start container web-1: cannot mount proc at
/// /proc: Operation not permitted` does, and without the second part it would not.
fn names_a_step(error: &str) -> bool {
    error.trim_start_matches("error: ").split(": ").any(|clause| {
        let what = clause.trim_start_matches("cannot ");
        !OPERATIONS.iter().any(|operation| what.starts_with(operation)) && !is_a_cause(clause)
    })
}

/// Whether these are the words for an error of the kernel, or its name.
fn is_a_cause(clause: &str) -> bool {
    let words = clause.split(" (os error").next().unwrap_or_default();
    (1..134).map(Errno::from_raw).any(|error| {
        words.eq_ignore_ascii_case(error.desc()) || words == said_by_the_library(error) || words == format!("{error:?}")
    })
}

#[test]
fn an_error_that_names_an_operation_alone_names_no_step() {
    assert!(names_a_step("error: cannot start container p-web-1: cannot mount proc at /proc: Operation not permitted"));
    assert!(names_a_step("error: cannot start container p-web-1: exec: \"true\": permission denied"));
    assert!(names_a_step("error: cannot read compose.yaml: Permission denied (os error 13)"));
    assert!(!names_a_step("error: cannot start container p-web-1: Operation not permitted (os error 1)"));
    assert!(!names_a_step("error: cannot start container p-web-1: EMFILE: Too many open files"));
    assert!(!names_a_step("error: Permission denied (os error 13)"));
}
