//! `image tag`: another name for an image.

use clap::Args;
use rcompose_engine::image::Reference;

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image tag redis:7 registry.internal:5000/redis:7")]
pub struct TagArgs {
    /// The name or id of an image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// The name that it gets as well
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

pub fn run(context: &Context, args: &TagArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let target = args.target.parse::<Reference>();
    let target =
        target.map_err(|error| Error::new(format!("{:?} is not a valid repository/tag: {error}", args.target)))?;
    if target.digest().is_some() {
        return Err(Error::new("refusing to create a tag with a digest reference"));
    }
    let image = local.find(&args.source)?;
    Ok(local.store.tag(&image, &target)?)
}
