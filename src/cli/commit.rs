//! `commit`: an image of what a container has made of its own.

use std::sync::Arc;

use clap::Args;
use rcompose_engine::container::state::Status;
use rcompose_engine::image::{Commit, Reference, Store};
use rcompose_engine::protocol::EventKind;

use super::context::Context;
use super::error::Error;
use super::image;
use crate::project::{copy, describe};
use crate::ui::progress::Progress;

#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Commit message
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Pause container during commit
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pause: bool,
    service: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

pub fn run(context: &Context, args: &CommitArgs) -> Result<(), Error> {
    let name = args.name.as_deref().map(image::reference).transpose()?;
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = engine.containers()?;
    let container = scope.one(&containers, &args.service, args.index)?;
    let config = &container.config;
    let store = Arc::new(Store::open(engine.root.data())?);
    let base = store.find(&config.image_id)?.ok_or_else(|| {
        Error::with_hint(
            format!("the image of container {} is not there any more", config.name),
            format!("rcompose image pull {}", config.image),
        )
    })?;
    let mut made = describe::configuration(config, &store.raw_config(&base)?);
    for change in &args.change {
        image::import::apply(&mut made, change)
            .map_err(|error| Error::new(format!("cannot apply the change {change:?}: {error}")))?;
    }
    let commit = Commit {
        name,
        author: args.author.clone(),
        comment: args.message.clone(),
        created_by: config.command.clone().unwrap_or_default().join(" "),
        config: made,
    };
    let progress = context.ui.progress("Committing");
    progress.working(&config.name, "Committing");
    let committed = context.block_on(async {
        let pause = args.pause && container.state.status == Status::Running;
        if pause {
            engine.client().await?.pause(&config.id).await?;
        }
        let name = copy::changes(&engine.root, container, |changes| store.commit(&base, changes, &commit));
        if let Ok(Ok(name)) = &name
            && let Some(image) = store.load_by_name(name)?
        {
            let reference = commit.name.as_ref().map(Reference::familiar).unwrap_or_default();
            let comment = ("comment", commit.comment.clone());
            let attributes = [comment, ("imageID", image.id.to_string()), ("imageRef", reference)];
            engine.report(&config.id, EventKind::Commit, attributes).await;
        }
        if pause {
            engine.client().await?.unpause(&config.id).await?;
        }
        let name = name??;
        image::load::unpack(&store, std::slice::from_ref(&name), &Progress::quiet()).await?;
        store.get(&name)?.ok_or_else(|| Error::new(format!("{} was removed meanwhile", name.familiar())))
    });
    match &committed {
        Ok(_) => progress.done(&config.name, "Committed"),
        Err(_) => progress.error(&config.name, "Error"),
    }
    progress.finish();
    Ok(context.ui.out(&format!("{}\n", committed?.id))?)
}
