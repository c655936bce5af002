//! `image pull`: one image from its registry, without a project.

use clap::Args;
use rcompose_engine::image::{Image, Platform, Store, pull};

use crate::cli::context::Context;
use crate::cli::error::{Error, INTERRUPTED};
use crate::cli::signals;
use crate::project::pull::{self as project, Sources};
use crate::ui::progress::{Event, Progress, State};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image pull --platform linux/arm64 redis:7")]
pub struct PullArgs {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Pull for this platform, such as linux/arm64, instead of for this machine's
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

pub fn run(context: &Context, args: &PullArgs) -> Result<(), Error> {
    let reference = super::reference(&args.name)?;
    let has_tag = args.name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    if args.all_tags && has_tag {
        return Err(Error::new("tag can't be used with --all-tags/-a"));
    }
    let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Pulling") };
    let root = context.root()?;
    let store = std::sync::Arc::new(Store::open(root.data())?);
    let pulled = context.block_on(async {
        let mut options = project::pull_options(&Sources::of_host())?;
        options.platform.clone_from(&args.platform);
        let mut wanted = vec![reference.clone()];
        if args.all_tags {
            wanted.clear();
            for tag in options.client.tags(&reference).await? {
                wanted.push(reference.with_tag(&tag)?);
            }
        } else if !has_tag && !args.quiet {
            context.ui.out(&format!("Using default tag: {}\n", reference.identifier()))?;
        }
        let mut tasks = tokio::task::JoinSet::new();
        for (place, reference) in wanted.into_iter().enumerate() {
            let (store, options, progress) = (store.clone(), options.clone(), progress.clone());
            tasks.spawn(async move {
                let before = store.get(&reference)?.map(|image| image.digest);
                let id = reference.familiar();
                progress.event(&Event { text: "Pulling", ..Event::new(&id, State::Working, "") });
                let listener = project::listener(&progress, &id);
                let result = pull(&store, &reference, &options, &listener).await;
                let (text, state) = if result.is_ok() { ("Pulled", State::Done) } else { ("Error", State::Error) };
                progress.event(&Event { text, ..Event::new(&id, state, "") });
                Ok::<_, Error>((place, before, result?))
            });
        }
        let interrupt = signals::interrupt()?;
        let mut pulled = Vec::new();
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    None => break,
                    Some(ended) => pulled.push(ended??),
                },
                () = interrupt.cancelled() => return Err(Error::Exit(INTERRUPTED)),
            }
        }
        pulled.sort_by_key(|(place, ..)| *place);
        Ok(pulled)
    });
    progress.finish();
    for (_, before, image) in pulled? {
        context.ui.out(&said(&image, before != Some(image.digest), args.quiet))?;
    }
    Ok(())
}

/// Returns what is said in the end, in Docker's words.
fn said(image: &Image, updated: bool, quiet: bool) -> String {
    let Image { reference, source_digest, .. } = image;
    if quiet {
        return format!("{reference}\n");
    }
    let status = if updated { "Downloaded newer image for" } else { "Image is up to date for" };
    format!("Digest: {source_digest}\nStatus: {status} {}\n{}\n", reference.familiar(), reference)
}
