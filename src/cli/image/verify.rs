//! `image verify`: images are what their digests say, or become so again.

use clap::Args;
use rcompose_engine::image::{Reference, StoreError, no_progress, repair};

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::{Error, Message};

use crate::project::pull::{self as project, Sources};

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
    let names = if args.images.is_empty() {
        // Those too that are too damaged to be listed.
        local.store.names()?
    } else {
        args.images.iter().map(|name| chosen(&local, name)).collect::<Result<Vec<_>, _>>()?
    };
    let mut failures = Vec::new();
    for name in &names {
        let shown = name.familiar();
        let damage = local.store.verify_name(name)?.ok_or_else(|| StoreError::NoSuchImage(shown.clone()))?;
        if damage.is_empty() {
            if !args.quiet {
                context.ui.out(&format!("{shown}: OK\n"))?;
            }
            continue;
        }
        let found = damage.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if args.no_repair {
            let hint = format!("rcompose image verify {shown} repairs it");
            failures.push(Message { text: format!("{shown}: {found}"), hint: Some(hint) });
            continue;
        }
        let repaired = context.block_on(async {
            let options = project::pull_options(&Sources::of_host())?;
            Ok(repair(&local.store, name, &options, &no_progress()).await?)
        });
        match repaired {
            Ok(_) if args.quiet => {}
            Ok(_) => context.ui.out(&format!("{shown}: repaired ({found})\n"))?,
            Err(Error::Failed(messages)) => {
                let why = messages.into_iter().map(|message| message.text).collect::<Vec<_>>().join("; ");
                let hint = Some(format!("rcompose image rm {shown}, and pull, load or build it again"));
                failures.push(Message { text: format!("{shown}: {found}; cannot repair it: {why}"), hint });
            }
            Err(error) => return Err(error),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures)) }
}

/// Returns the name of an image that was given by a name, which may be too damaged to be found, or by its id.
fn chosen(local: &Local, name: &str) -> Result<Reference, Error> {
    match name.parse::<Reference>() {
        Ok(reference) if local.store.names()?.contains(&reference) => Ok(reference),
        _ => local.find(name).map(|image| image.reference),
    }
}
