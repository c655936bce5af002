//! What commands print, and the files that they are given and write.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rcompose_engine::container::processes;
use rcompose_engine::oci::{Listed, OciError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ui::table::{DOCKER, TOP, render};

/// Writes to standard output. Whoever read it may have seen enough.
pub(super) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Returns a document over several lines.
pub(super) fn indented(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}

/// Returns a document on one line.
pub(super) fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).map(|text| text + "\n").unwrap_or_default()
}

/// Returns a table of containers, as runc's.
pub(super) fn containers(list: &[Listed]) -> String {
    let row = |one: &Listed| {
        [&*one.id, &*one.pid.to_string(), one.status, &*one.bundle, &*one.created, &*one.owner]
            .map(str::to_owned)
            .to_vec()
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    render(DOCKER, &["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], &rows)
}

/// Returns a table of processes.
pub(super) fn processes(pids: &[i32]) -> String {
    // One that has ended meanwhile is not there.
    let rows = pids.iter().filter_map(|pid| processes::read(*pid)).map(|process| {
        let (uid, pid, parent) = (process.uid.to_string(), process.pid.to_string(), process.parent.to_string());
        vec![uid, pid, parent, process.utilization.to_string(), process.terminal, process.command]
    });
    render(TOP, &["UID", "PID", "PPID", "C", "TTY", "CMD"], &rows.collect::<Vec<_>>())
}

/// Reads a JSON file, or standard input where it is called `-`.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, OciError> {
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_end(&mut text)
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut text))
    };
    read.map_err(|source| OciError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| OciError::Parse { path: path.to_owned(), source })
}

/// Writes a JSON file that must not be there yet.
pub(super) fn write_new(path: &Path, value: &impl Serialize) -> Result<(), OciError> {
    let written = File::options().create_new(true).write(true).open(path);
    written
        .and_then(|mut file| file.write_all(indented(value).as_bytes()))
        .map_err(|source| OciError::Write { path: path.to_owned(), source })
}
