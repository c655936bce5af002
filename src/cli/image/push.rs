//! `image push`: an image of this host to a registry, without a project.

use std::sync::Arc;

use clap::Args;
use rcompose_engine::image::Platform;

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::{Error, INTERRUPTED};
use crate::cli::signals;
use crate::project::pull::Sources;
use crate::project::{pull, push};
use crate::ui::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image push registry.internal:5000/app:1")]
pub struct PushArgs {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Push the image only if it is for this platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

pub fn run(context: &Context, args: &PushArgs) -> Result<(), Error> {
    let reference = super::reference(&args.name)?;
    let local = Local::open(context)?;
    let mut wanted = Vec::new();
    if args.all_tags {
        if args.name.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])) {
            return Err(Error::new("tag can't be used with --all-tags/-a"));
        }
        let own = local.images.iter().filter(|image| !image.dangling && image.reference.name() == reference.name());
        wanted.extend(own.map(|image| image.reference.clone()));
        if wanted.is_empty() {
            return Err(Error::new(format!(
                "An image does not exist locally with the tag: {}",
                reference.familiar_name()
            )));
        }
    } else {
        local.find_for(&args.name, args.platform.as_ref())?;
        wanted.push(reference);
    }
    let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Pushing") };
    let pushed = context.block_on(async {
        let options = pull::pull_options(&Sources::of_host())?;
        let interrupt = signals::interrupt()?;
        let mut pushed = Vec::new();
        for name in wanted {
            let (store, shown) = (Arc::clone(&local.store), name.familiar());
            tokio::select! {
                result = push::push(&store, &name, &options, &progress, &shown) => pushed.push((name, result?)),
                () = interrupt.cancelled() => return Err(Error::Exit(INTERRUPTED)),
            }
        }
        Ok(pushed)
    });
    progress.finish();
    for (name, digest) in pushed? {
        let line = if args.quiet {
            format!("{name}\n")
        } else {
            let size =
                local.store.get(&name)?.map(|image| local.store.descriptor(&image)).transpose()?.map_or(0, |d| d.size);
            format!("{}: digest: {digest} size: {size}\n", name.identifier())
        };
        context.ui.out(&line)?;
    }
    Ok(())
}
