//! Test programs whose tests are data: understands what `cargo test` and `cargo nextest` pass to a test program.

use std::{env, process::ExitCode, thread};

/// Runs those of the named tests that the command line asks for. A test fails by panicking.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a test program prints its results")]
pub fn run(mut names: Vec<String>, test: fn(&str)) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    names.sort();
    if has("--ignored") {
        names.clear();
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let filters: Vec<&str> = filters.into_iter().map(String::as_str).filter(|word| *word != "terse").collect();
    names.retain(|name| {
        filters.is_empty()
            || filters.iter().any(|filter| if has("--exact") { name == filter } else { name.contains(filter) })
    });
    if has("--list") {
        for name in &names {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for name in &names {
        let own = name.clone();
        // A thread of its own, since a stack may put its thread into another network namespace.
        let result = thread::spawn(move || test(&own)).join();
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(name);
        }
    }
    println!("\ntest result: {} passed; {} failed", names.len() - failed.len(), failed.len());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("failed: {failed:?}");
    ExitCode::FAILURE
}
