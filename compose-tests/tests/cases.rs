//! Runs every folder of `cases/`. Understands what `cargo test` and `cargo nextest` pass to a test program.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test program prints its results")]

use std::{env, fs, path::Path, process::ExitCode, thread};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("the folder of cases can be listed")
        .map(|entry| entry.expect("the folder of cases can be listed").file_name().to_string_lossy().into_owned())
        .collect();
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
        let case = folder.join(name);
        // A thread of its own, since a stack may put its thread into another network namespace.
        let result = thread::spawn(move || compose_tests::case::run(&case)).join();
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
