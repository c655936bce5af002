//! Drives the built binary's `config` over the folders of `loader-cases/`, over hostile input, and, where the folder is
//! there, over the corpus of what Docker Compose makes of real projects.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

/// What a folder holds beside the files of its project.
#[derive(Debug, Deserialize)]
struct Case {
    /// The rule that the case shows.
    why: String,
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Values by JSON pointer; null: must not be there.
    json: Option<BTreeMap<String, Value>>,
    /// The lines of the output, in any order.
    lines: Option<Vec<String>>,
    /// Words that the errors must have; the command must fail.
    errors: Option<Vec<String>>,
    /// What the lines of JSON on standard error have, each by JSON pointer; the command fails if one is an error.
    faults: Option<Vec<BTreeMap<String, Value>>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("loader-cases")
}

/// The program, which the workspace's build puts beside the tests.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let directory = test.ancestors().nth(2).expect("tests are built into a directory of the target directory");
    let binary = directory.join("rcompose");
    assert!(binary.exists(), "{} is not there: cargo build --bins", binary.display());
    binary
}

fn run(directory: &Path, arguments: &[&str], variables: &BTreeMap<String, String>) -> Output {
    Command::new(binary())
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .envs(variables)
        .stdin(Stdio::null())
        .output()
        .expect("the program can be run")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a case can be listed") {
        let entry = entry.expect("a case can be listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

fn check(name: &str) -> Result<(), String> {
    let scratch = tempfile::tempdir().expect("a scratch directory can be made");
    let directory = scratch.path().canonicalize().expect("the scratch directory is there").join(name);
    copy(&folder().join(name), &directory);
    let text = fs::read_to_string(directory.join("case.json")).map_err(|error| format!("case.json: {error}"))?;
    let case: Case = serde_json::from_str(&text).map_err(|error| format!("case.json: {error}"))?;
    let arguments: Vec<&str> = case.command.iter().map(String::as_str).collect();
    let output = run(&directory, &arguments, &case.env);
    let here = directory.display().to_string();
    let stdout = String::from_utf8_lossy(&output.stdout).replace(&here, "@CASE@");
    let stderr = String::from_utf8_lossy(&output.stderr).replace(&here, "@CASE@");
    let fault = |what: String| Err(format!("{name} ({}): {what}\n{stdout}\n{stderr}", case.why));
    if let Some(words) = &case.errors {
        if output.status.success() {
            return fault("succeeded".into());
        }
        return match words.iter().find(|word| !stderr.contains(*word)) {
            Some(word) => fault(format!("the errors do not say {word:?}")),
            None => Ok(()),
        };
    }
    if let Some(wanted) = &case.faults {
        let found: Result<Vec<Value>, _> = stderr.lines().map(serde_json::from_str).collect();
        let Ok(found) = found else { return fault("standard error is not JSON, one object a line".into()) };
        if found.len() != wanted.len() {
            return fault(format!("{} faults, want {}", found.len(), wanted.len()));
        }
        for (found, wanted) in found.iter().zip(wanted) {
            if let Some((pointer, value)) = wanted.iter().find(|(pointer, value)| found.pointer(pointer) != Some(value))
            {
                return fault(format!("{pointer} of {found} is not {value}"));
            }
        }
        let is_error = found.iter().any(|fault| fault["severity"] == "error");
        return if output.status.success() == is_error { fault("the wrong exit status".into()) } else { Ok(()) };
    }
    if !output.status.success() {
        return fault("failed".into());
    }
    if let Some(lines) = &case.lines {
        let mut found: Vec<&str> = stdout.lines().map(str::trim_end).collect();
        let mut wanted: Vec<&str> = lines.iter().map(String::as_str).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        if found != wanted {
            return fault(format!("want {wanted:#?}"));
        }
    }
    if let Some(values) = &case.json {
        let found: Value = serde_json::from_str(&stdout).map_err(|error| format!("{name}: {error}\n{stdout}"))?;
        for (pointer, wanted) in values {
            let value = found.pointer(pointer).unwrap_or(&Value::Null);
            if value != wanted {
                return fault(format!("{pointer} is {value}, want {wanted}"));
            }
        }
    }
    Ok(())
}

#[test]
fn cases_agree() {
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("the cases can be listed")
        .map(|entry| entry.expect("the cases can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let faults: Vec<String> = names.iter().filter_map(|name| check(name).err()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Loading what `config` printed gives the same project: for every case whose project is valid.
#[test]
fn printed_yaml_loads_again() {
    for entry in fs::read_dir(folder()).expect("the cases can be listed") {
        let directory = entry.expect("the cases can be listed").path();
        let first = run(&directory, &["config"], &BTreeMap::new());
        if !first.status.success() {
            continue;
        }
        let scratch = tempfile::tempdir().expect("a scratch directory can be made");
        fs::write(scratch.path().join("compose.yaml"), &first.stdout).expect("a file can be written");
        let second = run(scratch.path(), &["config"], &BTreeMap::new());
        assert_eq!(
            String::from_utf8_lossy(&first.stdout),
            String::from_utf8_lossy(&second.stdout),
            "{}: {}",
            directory.display(),
            String::from_utf8_lossy(&second.stderr)
        );
    }
}

#[test]
fn hostile_files_end_in_an_error() {
    let nested = format!("x-a: {}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let indented = (0..12_000).fold(String::new(), |mut text, depth| {
        text.push_str(&" ".repeat(depth.min(3_000)));
        text.push_str("- \n");
        text
    });
    let inputs: [(&str, Vec<u8>); 9] = [
        ("NUL", b"services: {a: {image: \"x\0\"}}".to_vec()),
        ("not UTF-8", b"services: {a: {image: \xff\xfe}}".to_vec()),
        ("tabs", b"services:\n\ta:\n\t\timage: x\n".to_vec()),
        ("nested", nested.into_bytes()),
        ("indented", indented.into_bytes()),
        ("open quote", b"services: {a: {image: 'x".to_vec()),
        ("merge of a scalar", b"services: {a: {<<: 1, image: x}}".to_vec()),
        ("self reference", b"services: {a: &a {image: x, x-b: *a}}".to_vec()),
        ("empty", b"\n".to_vec()),
    ];
    for (name, content) in inputs {
        let scratch = tempfile::tempdir().expect("a scratch directory can be made");
        fs::write(scratch.path().join("compose.yaml"), content).expect("a file can be written");
        let start = Instant::now();
        let output = run(scratch.path(), &["config", "-q"], &BTreeMap::new());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(!stderr.is_empty(), "{name}");
        assert!(start.elapsed() < Duration::from_secs(20), "{name} took {:?}", start.elapsed());
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let scratch = tempfile::tempdir().expect("a scratch directory can be made");
    let path = scratch.path().join("compose.yaml");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO can be made");
    let output = run(scratch.path(), &["config", "-q"], &BTreeMap::new());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a regular file"));

    fs::remove_file(&path).expect("the FIFO can be removed");
    std::os::unix::fs::symlink(&path, &path).expect("a link can be made");
    let complaint = |arguments: &[&str]| {
        let output = run(scratch.path(), arguments, &BTreeMap::new());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(complaint(&["-f", "compose.yaml", "config", "-q"]).contains("Too many levels of symbolic links"));
    // Found or named makes no difference: it is there.
    assert!(complaint(&["config", "-q"]).contains("Too many levels of symbolic links"));
    fs::remove_file(&path).expect("the link can be removed");
    std::os::unix::fs::symlink("nowhere", &path).expect("a link can be made");
    assert!(complaint(&["config", "-q"]).contains("compose.yaml: no such file or directory"));

    // What can be read is used all the same, as by Docker Compose, but not silently.
    fs::write(scratch.path().join("docker-compose.yml"), "services: {a: {image: x}}\n").expect("a file can be written");
    let output = run(scratch.path(), &["config", "--services"], &BTreeMap::new());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is passed over"));
}

/// The log of what is done is beside the data, and there only when it is asked for.
#[test]
fn verbose_says_which_files_are_read() {
    let scratch = tempfile::tempdir().expect("a scratch directory can be made");
    fs::write(scratch.path().join("compose.yaml"), "services: {a: {image: x}}\n").expect("a file can be written");
    let output = run(scratch.path(), &["--verbose", "config", "--services"], &BTreeMap::new());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\n");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("DEBUG") && stderr.contains("compose.yaml"), "{stderr}");
    let output = run(scratch.path(), &["config", "--services"], &BTreeMap::new());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What Docker Compose 2.40 makes of more than two thousand files, if the corpus is beside the repository.
#[test]
fn the_corpus_agrees() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/compose-corpus/compare");
    let compare = std::env::var_os("RCOMPOSE_CORPUS").map_or(beside, |folder| Path::new(&folder).join("compare"));
    if !compare.exists() {
        return;
    }
    let output = Command::new(&compare)
        .arg(binary())
        .args(["--extra", "--verbose", "--timeout", "60"])
        .output()
        .expect("the checker can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
