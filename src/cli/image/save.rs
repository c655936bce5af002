//! `image save`: images into one file that Docker, Podman and skopeo read.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use rcompose_engine::image::Platform;

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::project::whole_file::write_whole;

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
        Some(path) => write_whole(
            path,
            |output| Ok(local.store.save(&images, output)?),
            |verb, error| Error::new(format!("cannot {verb} {}: {error}", path.display())),
        ),
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
