//! What is done for services as a whole: rebuilds, restarts, commands.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rcompose_engine::container::state::Status;
use tokio::sync::{Mutex, mpsc};

use super::Options;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::follow::Voice;
use crate::cli::image::local::Local;
use crate::cli::image::prune;
use crate::cli::{build, pull, restart, signals, up};
use crate::compose::Project;
use crate::compose::model::Hook;
use crate::project::apply::{self, run_hooks};
use crate::project::build::service::{Overrides, rounds};
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::names;
use crate::project::plan::up::Recreate;
use crate::project::plan::{Named, Plan, lifecycle};
use crate::ui::progress::Progress;
use crate::watch::words;

/// What such a command is called where it fails.
const HOOK: &str = "watch";

/// Everything that is needed to do something for services.
#[derive(Debug, Clone)]
pub(super) struct Hands<'a> {
    pub context: &'a Context,
    pub engine: &'a Arc<Engine>,
    pub project: &'a Project,
    pub options: Options,
    pub voice: Voice,
    /// Whoever changes containers holds it.
    pub turn: Arc<Mutex<()>>,
}

impl Hands<'_> {
    /// Builds the images of services and makes their containers anew.
    pub(super) async fn rebuild(&self, services: &BTreeSet<String>) -> Result<(), Error> {
        self.voice.say(&words::rebuilding(services))?;
        if self.context.global.dry_run {
            return Ok(());
        }
        let begun = Instant::now();
        let replaced = self.images(services)?;
        let progress = self.progress("Building");
        let rounds = rounds(self.project, services, &Overrides::default())?;
        let root = &self.engine.root;
        if let Err(error) = build::build(self.context.ui, root, rounds, &progress, false).await {
            self.voice.say("Build failed.")?;
            return Err(error);
        }
        self.voice.say(&words::rebuilt(services, begun.elapsed()))?;
        let begun = Instant::now();
        let turn = self.turn.lock().await;
        let mut images = pull::ensure(self.context, self.engine, self.project, None, true).await?;
        let hold = images.hold.take();
        let options = crate::project::plan::up::Options {
            services: services.iter().cloned().collect(),
            recreate: Recreate::Force,
            ignore_orphans: true,
            again: services.clone(),
            ..up::options(self.context, &up::ConvergeArgs::default())
        };
        let plan = up::plan(self.context, self.engine, self.project, &images, &options)?;
        up::claim(self.context, self.project, self.engine, &plan).await?;
        let how = apply::Options { hold, ..self.how()? };
        apply::apply(self.engine, plan, &self.progress("Running"), how).await?;
        drop(turn);
        self.voice.say(&words::recreated(services, begun.elapsed()))?;
        if self.options.prune {
            prune::replaced(self.context, &replaced)?;
        }
        Ok(())
    }

    /// Restarts services, and those that are to be restarted with them.
    pub(super) async fn restart(&self, services: &BTreeSet<String>) -> Result<(), Error> {
        let begun = Instant::now();
        if !self.context.global.dry_run {
            let _turn = self.turn.lock().await;
            let containers = self.engine.containers()?;
            let is_meant = |container: &&rcompose_engine::container::store::Container| {
                !container.is_oneoff() && services.contains(container.service())
            };
            let mut chosen = containers.iter().filter(is_meant).collect::<Vec<_>>();
            restart::with_dependents(&containers, &mut chosen);
            let plan: Plan = lifecycle::restart(&chosen, None);
            apply::apply(self.engine, plan, &Progress::quiet(), self.how()?).await?;
        }
        Ok(self.voice.say(&words::restarted(services, begun.elapsed()))?)
    }

    /// Executes commands in the running containers of a service, one after the other.
    pub(super) async fn execute(&self, service: &str, hooks: Vec<Hook>) -> Result<(), Error> {
        for hook in hooks {
            let begun = Instant::now();
            let command = hook.command.clone().unwrap_or_default();
            if !self.context.global.dry_run {
                self.execute_one(service, hook).await?;
            }
            self.voice.say(&words::executed(service, &command, begun.elapsed()))?;
        }
        Ok(())
    }

    async fn execute_one(&self, service: &str, hook: Hook) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        for container in self.engine.containers()? {
            let runs = container.state.status == Status::Running;
            if container.service() != service || container.is_oneoff() || !runs {
                continue;
            }
            let (audience, mut said) = mpsc::unbounded_channel();
            let (named, hooks) = (Named::from(&container), vec![hook.clone()]);
            let name = names::short(&self.engine.project, &container.config.name);
            let audience = Some(audience);
            let mut running = Box::pin(run_hooks(self.engine, &named, (HOOK, hooks), &audience));
            let ended = loop {
                tokio::select! {
                    biased;
                    Some(said) = said.recv() => self.voice.say(&format!("{name} -> {}", said.line))?,
                    ended = &mut running => break ended,
                }
            };
            drop(running);
            // What it wrote last.
            while let Ok(said) = said.try_recv() {
                self.voice.say(&format!("{name} -> {}", said.line))?;
            }
            ended?;
        }
        Ok(())
    }

    fn progress(&self, title: &'static str) -> Progress {
        if self.options.quiet { Progress::quiet() } else { self.context.ui.lines(title) }
    }

    fn how(&self) -> Result<apply::Options, Error> {
        Ok(apply::Options {
            parallel: self.context.parallel(),
            interrupt: signals::interrupt()?,
            ..apply::Options::default()
        })
    }

    /// Returns the ids of the images that services have now.
    fn images(&self, services: &BTreeSet<String>) -> Result<BTreeSet<rcompose_engine::image::Digest>, Error> {
        let store = Local::open(self.context)?.store;
        let mut known = BTreeSet::new();
        for service in services.iter().filter_map(|name| self.project.services.get(name)) {
            known.extend(store.find(&names::image(self.project, service))?.map(|image| image.id));
        }
        Ok(known)
    }
}
