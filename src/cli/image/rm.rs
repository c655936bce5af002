//! `image rm`: names go, and an image with its last one.

use clap::Args;
use rcompose_engine::container::store::Container;
use rcompose_engine::image::{Image, Platform};

use super::local::{Local, repo_digest, users};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::project::plan::lifecycle;
use crate::ui::lines;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image rm redis:6 redis:7")]
pub struct RmArgs {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents (there are none)
    #[arg(long)]
    no_prune: bool,
    /// Remove the image only if it is for this platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub fn run(context: &Context, args: &RmArgs) -> Result<(), Error> {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for name in &args.images {
        // Each sees what the one before has left.
        let local = Local::open(context)?;
        match remove(&local, args, name) {
            Ok(gone) => removed.extend(gone),
            // With --force, what is not there is as good as removed.
            Err(Error::Failed(_)) if args.force && local.store.find(name)?.is_none() => {}
            Err(Error::Failed(messages)) => failures.extend(messages),
            Err(error) => return Err(error),
        }
    }
    if !removed.is_empty() {
        Local::open(context)?.collect()?;
    }
    context.ui.out(&lines(removed))?;
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures)) }
}

fn remove(local: &Local, args: &RmArgs, name: &str) -> Result<Vec<String>, Error> {
    let image = local.find_for(name, args.platform.as_ref())?;
    let entries = local.entries(&image.id);
    let containers = local.containers()?;
    let users = users(&containers, &image.id);
    let by_name = is_name(name, &image);
    if by_name && entries.len() > 1 {
        // Others keep the image.
        local.store.remove(&image.reference)?;
        return Ok(untagged(&[&image]));
    }
    if !by_name && entries.iter().filter(|entry| !entry.dangling).count() > 1 && !args.force {
        let names = local.tags(&image.id).join(", ");
        return Err(Error::with_hint(
            format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories or tags",
                image.short_id()
            ),
            format!("its names are {names}; --force removes them all"),
        ));
    }
    if let Some(user) = users.iter().find(|user| lifecycle::is_active(user)) {
        return Err(in_use(name, &image, user, "cannot be forced", "is using its referenced image"));
    }
    if let Some(user) = users.first().filter(|_| !args.force) {
        return Err(in_use(name, &image, user, "must be forced", "is being used by stopped container"));
    }
    let mut gone = untagged(&entries);
    local.store.remove_image(&image.id)?;
    gone.push(format!("Deleted: {}", image.id));
    gone.extend(image.diff_ids.iter().rev().filter(|id| !needed(local, &image, id)).map(|id| format!("Deleted: {id}")));
    Ok(gone)
}

/// Returns why an image cannot go, by whom it is used, and what to do.
fn in_use(name: &str, image: &Image, user: &Container, force: &str, how: &str) -> Error {
    let (id, project) = (user.config.id.short(), &user.config.project);
    let how = if how.starts_with("is being") {
        format!("image {how} {id} ({})", user.config.name)
    } else {
        format!("container {id} ({}) {how} {}", user.config.name, image.short_id())
    };
    let hint = if force == "must be forced" {
        format!("rcompose -p {project} rm {} removes the container, --force only the image's names", service(user))
    } else {
        format!("rcompose -p {project} down ends it")
    };
    Error::with_hint(format!("conflict: unable to remove {name} ({force}) - {how}"), hint)
}

fn service(container: &Container) -> String {
    use crate::project::labels::Labelled as _;
    container.service().to_owned()
}

/// Tells whether another image has a layer as well.
fn needed(local: &Local, image: &Image, layer: &rcompose_engine::image::Digest) -> bool {
    local.images.iter().any(|other| other.id != image.id && other.diff_ids.contains(layer))
}

fn untagged(entries: &[&Image]) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in entries {
        if !entry.dangling {
            lines.push(format!("Untagged: {}", entry.reference.familiar()));
        }
        lines.extend(repo_digest(entry).map(|digest| format!("Untagged: {digest}")));
    }
    lines.dedup();
    lines
}

/// Tells whether an image was given by a name, and not by its id.
fn is_name(text: &str, image: &Image) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    !(image.id.hex().starts_with(hex) || (image.digest.hex().starts_with(hex)))
        || text
            .parse()
            .is_ok_and(|reference: rcompose_engine::image::Reference| reference.name() == image.reference.name())
}
