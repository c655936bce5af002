//! `image save`: images into one file that Docker, Podman and skopeo read.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use rcompose_engine::image::Platform;

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image save -o images.tar redis:7 postgres:16")]
pub struct SaveArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save the images only if they are for this platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Names or ids of images; a name without a tag means all tags of it
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub fn run(context: &Context, args: &SaveArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let mut images = Vec::new();
    for name in &args.images {
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let all = name.parse::<rcompose_engine::image::Reference>().ok().filter(|_| !has_tag);
        let all = local.images.iter().filter(|image| {
            !image.dangling && all.as_ref().is_some_and(|reference| reference.name() == image.reference.name())
        });
        let mut all = all.map(|image| image.reference.to_string()).collect::<Vec<_>>();
        if all.is_empty() {
            all.push(name.clone());
        }
        for name in all {
            let mut image = local.find_for(&name, args.platform.as_ref())?;
            if !name.parse().is_ok_and(|reference| image.reference == reference) {
                // By its id, it goes without a name.
                image.dangling = true;
            }
            images.push(image);
        }
    }
    match &args.output {
        Some(path) => save_to_file(&local, &images, path),
        None if io::stdout().is_terminal() => {
            Err(Error::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"))
        }
        None => {
            let mut output = BufWriter::with_capacity(1 << 17, io::stdout().lock());
            local.store.save(&images, &mut output)?;
            Ok(output.flush()?)
        }
    }
}

/// Writes the archive beside its place and then renames it: what is there under the name is whole.
fn save_to_file(local: &Local, images: &[rcompose_engine::image::Image], path: &Path) -> Result<(), Error> {
    let failed = |verb: &str, error: io::Error| Error::new(format!("cannot {verb} {}: {error}", path.display()));
    // Pipes and devices are written to where they are.
    if path.exists() && !path.is_file() {
        let file = File::options().write(true).open(path).map_err(|error| failed("open", error))?;
        let mut output = BufWriter::with_capacity(1 << 17, file);
        local.store.save(images, &mut output)?;
        return output.flush().map_err(|error| failed("write", error));
    }
    let mut name = path.file_name().map(std::ffi::OsString::from).unwrap_or_default();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = File::create(&partial).map_err(|error| failed("create", error)).and_then(|file| {
        let mut output = BufWriter::with_capacity(1 << 17, file);
        local.store.save(images, &mut output)?;
        output.flush().map_err(|error| failed("write", error))?;
        std::fs::rename(&partial, path).map_err(|error| failed("write", error))
    });
    if written.is_err() {
        // What is told is why there is no archive.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
