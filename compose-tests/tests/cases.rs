//! Runs every folder of `cases/`.

use std::{fs, path::Path, process::ExitCode};

use compose_tests::{case, trials};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"))
}

fn main() -> ExitCode {
    let names = fs::read_dir(folder())
        .expect("the folder of cases can be listed")
        .map(|entry| entry.expect("the folder of cases can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    trials::run(names, |name| case::run(&folder().join(name)))
}
