//! Replaces the containers of a service while it goes on (`deploy.update_config`), and takes that back where it fails.
//!
//! The old containers are kept, stopped, until the whole service has been replaced: to roll back is to start them again, and
//! nothing of them is lost. A command that is killed meanwhile leaves each place with a container that has its ports and
//! names, and the next `up` brings the rest in order. So it is when the command is interrupted, except that it takes away again
//! what was made for places whose turn did not come.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::engine::Engine;
use super::super::plan::update::{OnFailure, Order, Policy, Replacement, Side, Update};
use super::super::plan::{Named, Until, Wait};
use super::hook::{self, Audience, POST_START, PRE_STOP};
use super::step::{self, StepError, title};
use super::wait;
use crate::ui::progress::Progress;

/// What became of a service whose update failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Its other containers are as they were, or have been replaced already.
    Paused,
    RolledBack,
    /// Not all containers could be brought back.
    PartlyRolledBack,
}

impl Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "and went no further",
            Self::RolledBack => "and was rolled back",
            Self::PartlyRolledBack => "and could not be rolled back as a whole",
        })
    }
}

/// One place of the service, and who goes and who comes there.
#[derive(Debug, Clone)]
struct Swap {
    /// What its container is called.
    name: String,
    from: Side,
    to: Side,
}

impl Swap {
    fn reversed(self) -> Self {
        Self { name: self.name, from: self.to, to: self.from }
    }
}

/// What came of replacing containers.
#[derive(Debug, Default)]
struct Rolled {
    done: Vec<Swap>,
    failed: Vec<(Swap, StepError)>,
    /// Those whose turn did not come.
    rest: Vec<Swap>,
}

/// Everything that a replacement needs.
#[derive(Debug, Clone)]
struct Crew {
    engine: Arc<Engine>,
    progress: Progress,
    service: String,
    timeout: Option<Duration>,
    audience: Audience,
    interrupt: CancellationToken,
}

/// Carries out an update, until `interrupt` is cancelled.
pub(super) async fn run(
    engine: &Arc<Engine>,
    progress: &Progress,
    update: Update,
    audience: &Audience,
    interrupt: &CancellationToken,
) -> Result<(), StepError> {
    let Update { service, replacements, policy, rollback, timeout } = update;
    let (engine, progress, audience) = (Arc::clone(engine), progress.clone(), audience.clone());
    let crew = Crew { engine, progress, service, timeout, audience, interrupt: interrupt.clone() };
    let total = replacements.len();
    let swaps = crew.make(replacements).await?;
    let mut rolled = crew.roll(swaps, &policy).await;
    for (swap, _) in &rolled.failed {
        crew.discard(&swap.to.container).await;
    }
    if crew.interrupt.is_cancelled() || !policy.is_exceeded_by(rolled.failed.len(), total) {
        for swap in &rolled.rest {
            crew.discard(&swap.to.container).await;
        }
        for (swap, error) in &rolled.failed {
            crew.progress.warning(&swap.title(), &format!("Skipped: {error}"));
        }
        return crew.finish(rolled.done).await;
    }
    for swap in &rolled.rest {
        crew.discard(&swap.to.container).await;
    }
    let then = if policy.on_failure == OnFailure::Rollback {
        crew.bring_back(std::mem::take(&mut rolled.done), &rollback).await?
    } else {
        crew.finish(std::mem::take(&mut rolled.done)).await?;
        Then::Paused
    };
    let (_, source) = rolled.failed.swap_remove(0);
    Err(StepError::Update { service: crew.service, then, source: Box::new(source) })
}

impl Swap {
    fn title(&self) -> String {
        format!("Container {}", self.name)
    }

    /// Returns the one who comes, by the name that it is to have.
    fn coming(&self) -> Named {
        Named { id: self.to.container.id.clone(), name: self.name.clone() }
    }
}

impl Crew {
    /// Makes all new containers, so that what cannot be made costs nothing that runs.
    async fn make(&self, replacements: Vec<Replacement>) -> Result<Vec<Swap>, StepError> {
        let mut swaps = Vec::<Swap>::new();
        for Replacement { old, mut new, .. } in replacements {
            let title = title(&old.container);
            self.progress.working(&title, "Recreate");
            let meanwhile = step::meanwhile(&old.container, &new.config.name);
            let name = std::mem::replace(&mut new.config.name, meanwhile);
            let to = Side::from(&new.config);
            if let Err(error) = step::create(&self.engine, new).await {
                self.progress.error(&title, "Error");
                for swap in swaps {
                    self.discard(&swap.to.container).await;
                }
                return Err(error);
            }
            self.progress.done(&title, "Recreated");
            swaps.push(Swap { name, from: old, to });
        }
        Ok(swaps)
    }

    /// Replaces containers, as many at a time as the policy says, until too many have failed or somebody interrupts it.
    async fn roll(&self, swaps: Vec<Swap>, policy: &Policy) -> Rolled {
        let total = swaps.len();
        let mut rest = VecDeque::from(swaps);
        let mut rolled = Rolled::default();
        while !rest.is_empty() && !policy.is_exceeded_by(rolled.failed.len(), total) && !self.interrupt.is_cancelled() {
            if rest.len() < total
                && self.interrupt.run_until_cancelled(tokio::time::sleep(policy.delay)).await.is_none()
            {
                break;
            }
            let mut tasks = JoinSet::new();
            for swap in rest.drain(..policy.at_a_time(total).min(rest.len())) {
                let (crew, policy) = (self.clone(), policy.clone());
                tasks.spawn(async move {
                    let replaced = crew.replace(&swap, &policy).await;
                    (swap, replaced)
                });
            }
            while let Some(ended) = tasks.join_next().await {
                match ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
                    (swap, Ok(())) => rolled.done.push(swap),
                    (swap, Err(error)) => rolled.failed.push((swap, error)),
                }
            }
        }
        rolled.rest = rest.into();
        rolled
    }

    /// Replaces one container by another. If it fails, the first one has its place as before.
    async fn replace(&self, swap: &Swap, policy: &Policy) -> Result<(), StepError> {
        self.progress.working(&swap.title(), "Starting");
        let replaced = match policy.order {
            Order::StartFirst => self.beside(swap, policy.monitor).await,
            Order::StopFirst => self.instead(swap, policy.monitor).await,
        };
        match &replaced {
            Ok(()) => self.progress.done(&swap.title(), "Started"),
            Err(_) => self.progress.error(&swap.title(), "Error"),
        }
        replaced
    }

    /// Starts a container beside the other, and stops that when everything leads to the new one and nobody is connected to
    /// the old one any more.
    async fn beside(&self, swap: &Swap, monitor: Duration) -> Result<(), StepError> {
        let (from, to) = (&swap.from.container, &swap.to.container);
        if let Err(error) = self.bring_beside(swap).await {
            self.halt(&swap.to).await;
            return Err(error);
        }
        if let Err(error) = self.watch(swap, monitor).await {
            // The first error is the one to tell.
            if let Ok(client) = self.engine.client().await {
                let _ = client.take_over(&from.id, &to.id).await;
            }
            self.halt(&swap.to).await;
            return Err(error);
        }
        let client = self.engine.client().await.map_err(StepError::container("stop", from))?;
        let limit = self.timeout.unwrap_or(swap.from.grace);
        client.drain(&from.id, limit).await.map_err(StepError::container("stop", from))?;
        self.stop(&swap.from).await
    }

    async fn bring_beside(&self, swap: &Swap) -> Result<(), StepError> {
        let (from, to) = (&swap.from.container, &swap.to.container);
        let client = self.engine.client().await.map_err(StepError::container("start", to))?;
        client.start_beside(&to.id, &from.id).await.map_err(StepError::container("start", to))?;
        hook::run(&self.engine, to, (POST_START, swap.to.hooks.post_start.clone()), &self.audience).await?;
        self.await_ready(swap).await?;
        client.take_over(&to.id, &from.id).await.map_err(StepError::container("lead everything to", to))
    }

    /// Stops a container, and starts the other in its place; that one comes back if it fails.
    async fn instead(&self, swap: &Swap, monitor: Duration) -> Result<(), StepError> {
        self.stop(&swap.from).await?;
        let started = async {
            self.start(&swap.to).await?;
            self.await_ready(swap).await?;
            self.watch(swap, monitor).await
        };
        if let Err(error) = started.await {
            self.halt(&swap.to).await;
            // The first error is the one to tell.
            let _ = self.start(&swap.from).await;
            return Err(error);
        }
        Ok(())
    }

    /// Waits until the one who comes is ready.
    async fn await_ready(&self, swap: &Swap) -> Result<(), StepError> {
        let (wanted, coming) = (self.ready(), swap.coming());
        let ready = self.interrupt.run_until_cancelled(wait::ready(&self.engine, &wanted, &coming)).await;
        ready.unwrap_or(Err(StepError::Interrupted))
    }

    /// Watches the one who came. What has shown no fault until somebody interrupts it is good.
    async fn watch(&self, swap: &Swap, monitor: Duration) -> Result<(), StepError> {
        let (wanted, coming) = (self.ready(), swap.coming());
        let steady = wait::steady(&self.engine, &wanted, &coming, monitor);
        self.interrupt.run_until_cancelled(steady).await.unwrap_or(Ok(()))
    }

    async fn start(&self, side: &Side) -> Result<(), StepError> {
        let container = &side.container;
        let client = self.engine.client().await.map_err(StepError::container("start", container))?;
        client.start(&container.id).await.map_err(StepError::container("start", container))?;
        hook::run(&self.engine, container, (POST_START, side.hooks.post_start.clone()), &self.audience).await
    }

    async fn stop(&self, side: &Side) -> Result<(), StepError> {
        hook::run(&self.engine, &side.container, (PRE_STOP, side.hooks.pre_stop.clone()), &self.audience).await?;
        step::stop(&self.engine, &side.container, self.timeout).await.map(drop)
    }

    /// Stops a container that is not wanted: whether that works is not what counts.
    async fn halt(&self, side: &Side) {
        let _ = step::stop(&self.engine, &side.container, self.timeout).await;
    }

    /// Removes a container that is not wanted: what is left of it, the next `up` finds.
    async fn discard(&self, container: &Named) {
        let _ = step::remove(&self.engine, container, true, false).await;
    }

    /// What is waited for of a container before it takes over.
    fn ready(&self) -> Wait {
        let (service, until) = (self.service.clone(), Until::RunningOrHealthy);
        Wait { service, containers: Vec::new(), until, required: true }
    }

    /// Removes those who went, and gives their names to those who came.
    async fn finish(&self, swaps: Vec<Swap>) -> Result<(), StepError> {
        for Swap { name, from, to } in swaps {
            step::remove(&self.engine, &from.container, true, false).await?;
            step::rename(&self.engine, &to.container, &name).await?;
        }
        Ok(())
    }

    /// Brings back the containers that were replaced.
    async fn bring_back(&self, replaced: Vec<Swap>, policy: &Policy) -> Result<Then, StepError> {
        let back = self.roll(replaced.into_iter().map(Swap::reversed).collect(), policy).await;
        for swap in &back.done {
            self.discard(&swap.from.container).await;
        }
        let stayed = back.failed.into_iter().map(|(swap, _)| swap).chain(back.rest).map(Swap::reversed);
        let stayed = stayed.collect::<Vec<_>>();
        let then = if stayed.is_empty() { Then::RolledBack } else { Then::PartlyRolledBack };
        self.finish(stayed).await?;
        Ok(then)
    }
}
