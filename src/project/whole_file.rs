//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a file beside its place and then renames it: what is there under the name is whole. Pipes and devices are written to
/// where they are. `failed` makes an error of what was being done and what the system said.
pub fn write_whole<E>(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    failed: impl Fn(&'static str, io::Error) -> E,
) -> Result<(), E> {
    let fill = |file: File| {
        let mut out = BufWriter::with_capacity(1 << 17, file);
        content(&mut out)?;
        out.flush().map_err(|error| failed("write", error))
    };
    if path.exists() && !path.is_file() {
        return fill(File::options().write(true).open(path).map_err(|error| failed("open", error))?);
    }
    let mut name = path.file_name().map(std::ffi::OsString::from).unwrap_or_default();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = File::create(&partial)
        .map_err(|error| failed("create", error))
        .and_then(fill)
        .and_then(|()| std::fs::rename(&partial, path).map_err(|error| failed("write", error)));
    if written.is_err() {
        // What is told is why there is no file.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
