//! `image verify`: images are what their digests say, or become so again.

use std::sync::Arc;

use clap::Args;
use rcompose_engine::image::{Image, pull};

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::{Error, Message};
use crate::cli::pull::sources;
use crate::project::pull as project;
use crate::ui::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image verify redis:7")]
pub struct VerifyArgs {
    /// Only say what is damaged
    #[arg(long)]
    no_repair: bool,
    /// Only say what is damaged and cannot be repaired
    #[arg(short, long)]
    quiet: bool,
    /// Names or ids of images; none: all
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

pub fn run(context: &Context, args: &VerifyArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let chosen = if args.images.is_empty() {
        local.images.clone()
    } else {
        args.images.iter().map(|name| local.find(name)).collect::<Result<Vec<_>, _>>()?
    };
    let mut failures = Vec::new();
    for image in &chosen {
        let name = image.reference.familiar();
        let damage = local.verify(image)?;
        if damage.is_empty() {
            if !args.quiet {
                context.ui.out(&format!("{name}: OK\n"))?;
            }
            continue;
        }
        let found = damage.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if args.no_repair {
            let hint = format!("rcompose image verify {name} repairs it");
            failures.push(Message { text: format!("{name}: {found}"), hint: Some(hint) });
            continue;
        }
        local.store.discard(&damage)?;
        match context.block_on(repair(&local, image)) {
            Ok(()) if args.quiet => {}
            Ok(()) => context.ui.out(&format!("{name}: repaired ({found})\n"))?,
            Err(Error::Failed(messages)) => {
                let why = messages.into_iter().map(|message| message.text).collect::<Vec<_>>().join("; ");
                let hint = Some(format!("rcompose image rm {name}, and pull, load or build it again"));
                failures.push(Message { text: format!("{name}: {found}; cannot repair it: {why}"), hint });
            }
            Err(error) => return Err(error),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures)) }
}

/// Fetches an image again, by the digest that it had: its tag may mean another one by now.
async fn repair(local: &Local, image: &Image) -> Result<(), Error> {
    let options = project::pull_options(&sources())?;
    let exact = image.reference.with_digest(image.source_digest);
    let listener = project::listener(&Progress::quiet(), "");
    pull(&Arc::clone(&local.store), &exact, &options, &listener).await?;
    // The name by digest is not needed beside the one that was there.
    if !image.dangling && image.reference.digest().is_none() {
        let digest_only = format!("{}@{}", image.reference.name(), image.source_digest);
        local.store.remove(&super::reference(&digest_only)?)?;
    }
    let left = local.verify(image)?;
    match left.first() {
        None => Ok(()),
        Some(damage) => Err(Error::new(format!("{damage} still"))),
    }
}
