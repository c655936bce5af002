//! `wait`: until the containers of services end.

use clap::Args;
use rcompose_engine::protocol::Condition;
use tokio::task::JoinSet;

use super::context::Context;
use super::error::Error;
use crate::project::plan::{down, lifecycle};

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Drops project when the first container stops
    #[arg(long)]
    down_project: bool,
    #[arg(required = true)]
    services: Vec<String>,
}

/// Waits for the first of the containers, as Docker Compose does, and exits as it did.
pub fn run(context: &Context, args: &WaitArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = std::sync::Arc::new(context.engine(&scope.name)?);
    let containers = context.own(&scope, &engine)?;
    let mut chosen = scope.select(&containers, &args.services)?;
    chosen.retain(|container| lifecycle::is_active(container));
    if chosen.is_empty() {
        return Err(Error::with_hint(format!("no containers for project \"{}\"", scope.name), "rcompose up -d"));
    }
    context.block_on(async {
        let mut waits = JoinSet::new();
        for container in chosen {
            let (engine, config) = (std::sync::Arc::clone(&engine), container.config.clone());
            waits.spawn(async move {
                let state = engine.wait(&config.id, Condition::NotRunning).await?;
                Ok::<_, Error>((config.id, state.exit_code))
            });
        }
        let Some(first) = waits.join_next().await else { return Ok(()) };
        let (id, code) = first.map_err(|error| Error::new(format!("cannot wait: {error}")))??;
        context.ui.out(&format!("container \"{id}\" exited with status code {code}\n"))?;
        // Nobody else is waited for.
        waits.shutdown().await;
        if args.down_project {
            let containers = engine.containers()?;
            let resources = down::Resources { networks: engine.own_networks()?, ..down::Resources::default() };
            let plan = down::down(&containers.iter().collect::<Vec<_>>(), &resources, &down::Options::default());
            context.apply(&engine, plan, "Running", true).await?;
            if let Some(engine) = std::sync::Arc::into_inner(engine) {
                engine.shutdown().await?;
            }
        }
        match u8::try_from(code).unwrap_or(1) {
            0 => Ok(()),
            code => Err(Error::Exit(code)),
        }
    })
}
