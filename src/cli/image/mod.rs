//! `image`: the images of this host, whatever project they are for.

pub mod build;
pub mod call;
pub mod history;
pub mod import;
pub mod inspect;
pub mod load;
pub mod local;
pub mod ls;
pub mod prune;
pub mod pull;
pub mod push;
pub mod rm;
pub mod save;
pub mod tag;
pub mod verify;

use clap::{Args, Subcommand};
use rcompose_engine::image::{Platform, Reference, ReferenceError};

use super::context::Context;
use super::error::Error;

#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Show the history of an image
    History(history::HistoryArgs),
    /// Import the contents from a tarball to create a filesystem image
    Import(import::ImportArgs),
    /// Display detailed information on one or more images
    Inspect(inspect::InspectArgs),
    /// Load an image from a tar archive or STDIN
    Load(load::LoadArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Remove unused images
    Prune(prune::PruneArgs),
    /// Download an image from a registry
    Pull(pull::PullArgs),
    /// Upload an image to a registry
    Push(push::PushArgs),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(save::SaveArgs),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(tag::TagArgs),
    /// Check that images are what their digests say, and fetch what is damaged again
    Verify(verify::VerifyArgs),
}

pub fn run(context: &Context, args: &ImageArgs) -> Result<(), Error> {
    match &args.command {
        Command::Build(args) => build::run(context, args),
        Command::History(args) => history::run(context, args),
        Command::Import(args) => import::run(context, args),
        Command::Inspect(args) => inspect::run(context, args),
        Command::Load(args) => load::run(context, args),
        Command::Ls(args) => ls::run(context, args),
        Command::Prune(args) => prune::run(context, args),
        Command::Pull(args) => pull::run(context, args),
        Command::Push(args) => push::run(context, args),
        Command::Rm(args) => rm::run(context, args),
        Command::Save(args) => save::run(context, args),
        Command::Tag(args) => tag::run(context, args),
        Command::Verify(args) => verify::run(context, args),
    }
}

/// Reads `--platform`.
pub fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error: rcompose_engine::image::PlatformError| error.to_string())
}

/// Reads the name of an image.
pub fn reference(text: &str) -> Result<Reference, Error> {
    text.parse().map_err(|error: ReferenceError| {
        Error::with_hint(
            format!("invalid image name {text:?}: {error}"),
            "a name is [registry[:port]/]repository[:tag][@digest]",
        )
    })
}

/// Tells whether an image has its name only because every image has to have one.
pub fn is_nameless(name: &Reference) -> bool {
    name.registry() == "localhost" && name.repository() == "loaded"
}
