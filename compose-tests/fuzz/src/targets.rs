//! What the fuzz targets do with their input. `tests/loader_fuzz.rs` of the program does the same with the seeds and what grows from
//! them, so that a machine without a nightly toolchain sees them too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::compose::shape::{self, Flavour};
use super::compose::{
    Files, LoadOptions, Resolved, deep, dotenv as env_file, interpolate as variables, load, load_resolved, print,
    short as forms,
};

/// The line that begins a file in an input of several: this and its name.
pub const FILE: &str = "#### ";

/// Files in memory, all below `/p`.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    /// Takes an input apart: files that begin with a line `#### NAME`; what stands before the first is `compose.yaml`.
    pub fn new(input: &[u8]) -> Self {
        let mut files = BTreeMap::new();
        let (mut name, mut content) = ("compose.yaml".to_owned(), Vec::new());
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_prefix(FILE.as_bytes()) {
                Some(next) => {
                    files.insert(Path::new("/p").join(&name), std::mem::take(&mut content));
                    String::from_utf8_lossy(next).trim().trim_start_matches('/').clone_into(&mut name);
                }
                None => content.extend_from_slice(line),
            }
        }
        files.insert(Path::new("/p").join(&name), content);
        Self(files)
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn is_directory(&self, path: &Path) -> io::Result<bool> {
        if self.0.contains_key(path) {
            return Ok(false);
        }
        if self.0.keys().any(|file| file.starts_with(path)) { Ok(true) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }

    fn is_symlink(&self, _path: &Path) -> bool {
        false
    }
}

/// How the project in memory is loaded.
pub fn options() -> LoadOptions {
    LoadOptions {
        working_dir: "/p".into(),
        profiles: vec!["*".to_owned()],
        environment: BTreeMap::from([("SET".to_owned(), "value".to_owned()), ("EMPTY".to_owned(), String::new())]),
        ..LoadOptions::default()
    }
}

/// The YAML that `config` prints.
pub fn print(project: &Resolved) -> String {
    let write = || print::to_yaml(&shape::emit_project(&project.tree.0, Flavour::Yaml));
    let text = if project.depth > deep::SHALLOW { deep::run(write) } else { write() };
    text.replace('$', "$$")
}

/// Loads a project, and says whether it could be; what it prints must load again, to the same.
///
/// # Panics
/// Where that does not hold.
pub fn project(data: &[u8]) -> bool {
    let files = Memory::new(data);
    let Ok(resolved) = load_resolved(&options(), &files) else { return false };
    let text = print(&resolved);
    if is_lossy(&text) {
        return true;
    }
    let again = match load_resolved(&options(), &Memory::new(text.as_bytes())) {
        Ok(again) => again,
        Err(faults) => panic!(
            "what was printed does not load: {:?}\n{text}",
            faults.iter().map(rcompose::compose::Diagnostic::summary).collect::<Vec<_>>()
        ),
    };
    assert_eq!(text, print(&again));
    // To its types it comes or it does not, but it says so.
    drop(load(&options(), &files));
    true
}

/// Whether Docker Compose's way of printing, which is ours, says something else than what was loaded:
/// keys are escaped though they are never interpolated, `-1` and the largest size are printed as texts that are none, the empty
/// context of a build is left out, and a variable without a name is printed but not read.
fn is_lossy(text: &str) -> bool {
    let key = |line: &str| line.split_once(": ").or_else(|| line.split_once(":\n")).map(|(key, _)| key.to_owned());
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let without_context = |at: usize| {
        lines[at].trim() == "build:" && !lines[at + 1..].iter().take(8).any(|line| line.contains("context: /"))
    };
    (0..lines.len()).any(|at| {
        key(lines[at]).is_some_and(|key| key.contains("$$") || key.trim() == "\"\"")
            || lines[at].contains("\"-1\"")
            || lines[at].contains("\"9223372036854775807\"")
            || without_context(at)
            || lines[at].trim() == "build: {}"
    })
}

/// Replaces variables, and lists them.
pub fn interpolate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lookup = |name: &str| match name {
        "A" => Some("value"),
        "B" => Some(""),
        _ => None,
    };
    let replaced = variables::substitute(text, &lookup, &mut |_| {});
    if !text.contains('$') {
        assert_eq!(replaced.as_deref(), Ok(text));
    }
    let escaped = variables::substitute(&text.replace('$', "$$"), &lookup, &mut |_| {});
    assert_eq!(escaped.as_deref(), Ok(text));
    variables::variables(text, &mut Vec::new());
}

/// Reads env files in both formats.
pub fn dotenv(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let outer = |name: &str| (name == "OUTER").then(|| "outside".to_owned());
    match env_file::parse(text, &BTreeMap::new(), &outer, &mut |_, range| assert!(text.get(range).is_some())) {
        Ok(assignments) => assignments.iter().for_each(|one| assert!(text.get(one.range.clone()).is_some())),
        Err(error) => assert!(text.get(error.range).is_some()),
    }
    if let Err(error) = env_file::parse_raw(text, &outer) {
        assert!(text.get(error.range).is_some());
    }
}

/// Takes short forms apart.
pub fn short(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The errors are for people.
    for error in [forms::ports(text).err(), forms::volume(text).err()].into_iter().flatten() {
        assert!(!error.is_empty());
    }
}
