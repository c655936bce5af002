//! `image load`: images from an archive of Docker, Podman, skopeo or ours.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rcompose_engine::image::{Platform, PullError, Reference, Store, no_progress, prepare};

use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::project::pull::{self as project, Sources};
use crate::ui::progress::{Event, Progress, State};

#[derive(Debug, Args)]
#[command(after_help = "Example: zstd -dc images.tar.zst | rcompose image load")]
pub struct LoadArgs {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Load only the given platform variant, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(context: &Context, args: &LoadArgs) -> Result<(), Error> {
    let input: Box<dyn Read + Send> = match &args.input {
        Some(path) => {
            let file = File::open(path).map_err(|error| Error::new(format!("open {}: {error}", path.display())))?;
            Box::new(file)
        }
        None if io::stdin().is_terminal() => {
            return Err(Error::new("requested load from stdin, but stdin is empty"));
        }
        None => Box::new(io::stdin()),
    };
    let store = Arc::new(Store::open(context.root()?.data())?);
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let names = store.load_archive(input, &platform)?;
    let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Loading") };
    let unpacked = context.block_on(unpack(&store, &names, &progress));
    progress.finish();
    if let Err(error) = unpacked {
        // An image that cannot be unpacked is none.
        for name in &names {
            if store.get(name)?.is_none() {
                store.remove(name)?;
            }
        }
        return Err(error);
    }
    for name in names {
        let Some(image) = store.get(&name)? else { continue };
        let line = if super::is_nameless(&name) {
            format!("Loaded image ID: {}\n", image.id)
        } else {
            format!("Loaded image: {}\n", name.familiar())
        };
        context.ui.out(&line)?;
    }
    Ok(())
}

/// Unpacks what was loaded, which is when its layers are checked.
pub async fn unpack(store: &Arc<Store>, names: &[Reference], progress: &Progress) -> Result<(), Error> {
    let options = project::pull_options(&Sources::of_host())?;
    for name in names {
        let id = name.familiar();
        progress.event(&Event { text: "Loading", ..Event::new(&id, State::Working, "") });
        let result = prepare(store, name, &options, &no_progress()).await;
        let (text, state) = if result.is_ok() { ("Loaded", State::Done) } else { ("Error", State::Error) };
        progress.event(&Event { text, ..Event::new(&id, state, "") });
        result.map_err(|error| match error {
            PullError::Store { source, .. } | PullError::DiskFull { source, .. } => {
                Error::new(format!("cannot load {id}: {source}"))
            }
            error => error.into(),
        })?;
    }
    Ok(())
}
