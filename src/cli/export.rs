//! `export`: a container's own files as a tar archive, or the container as an OCI bundle.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use rcompose_engine::protocol::EventKind;

use super::context::Context;
use super::error::Error;
use crate::project::copy;

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write an OCI bundle, which any OCI runtime runs, to a directory that is made
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    bundle: Option<PathBuf>,
    service: String,
}

pub fn run(context: &Context, args: &ExportArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = engine.containers()?;
    let container = scope.one(&containers, &args.service, args.index)?;
    if let Some(directory) = &args.bundle {
        let progress = context.ui.progress("Exporting");
        progress.working(&container.config.name, "Exporting");
        let exported = copy::bundle(&engine.root, container, directory);
        match &exported {
            Ok(()) => progress.done(&container.config.name, "Exported"),
            Err(_) => progress.error(&container.config.name, "Error"),
        }
        progress.finish();
        return Ok(exported?);
    }
    let Some(path) = &args.output else {
        if io::stdout().is_terminal() {
            return Err(Error::with_hint(
                "output option is required when exporting to terminal",
                "write to a file with -o, or into a pipe",
            ));
        }
        copy::export(&engine.root, container, io::stdout())?;
        return context.report(&engine, &container.config.id, EventKind::Export);
    };
    let progress = context.ui.progress("Exporting");
    progress.working(&container.config.name, "Exporting");
    let exported = write(path, |file| Ok(copy::export(&engine.root, container, file)?));
    match &exported {
        Ok(()) => progress.done(&container.config.name, "Exported"),
        Err(_) => progress.error(&container.config.name, "Error"),
    }
    progress.finish();
    exported?;
    context.report(&engine, &container.config.id, EventKind::Export)
}

/// Writes a file beside its place and puts it there when it is complete.
fn write(path: &Path, content: impl FnOnce(File) -> Result<(), Error>) -> Result<(), Error> {
    // What is no regular file, such as a FIFO or /dev/null, is written to.
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return content(File::options().write(true).open(path)?);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let aside = PathBuf::from(name);
    let failed = |error: io::Error| Error::new(format!("cannot write {}: {error}", path.display()));
    let written = File::create(&aside)
        .map_err(failed)
        .and_then(content)
        .and_then(|()| std::fs::rename(&aside, path).map_err(failed));
    if written.is_err() {
        // What matters is why it failed.
        let _ = std::fs::remove_file(&aside);
    }
    written
}
