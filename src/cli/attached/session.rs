//! The containers of attached `up`: who takes part, whose logs are shown, who has ended, and what follows from that.

use std::collections::BTreeSet;
use std::sync::Arc;

use rcompose_engine::container::log;
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::id::Id;
use rcompose_engine::protocol::{Condition, Event, EventKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::OnExit;
use crate::cli::context::{Context, timeout};
use crate::cli::error::Error;
use crate::cli::follow::Feeds;
use crate::cli::up::UpArgs;
use crate::compose::Project;
use crate::project::apply::{self, ApplyError, Options, Said};
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::names;
use crate::project::plan::{Plan, lifecycle};
use crate::ui::logs::{Printer, Style};

/// What is shown and waited for.
pub(super) struct Session<'a> {
    context: &'a Context,
    args: &'a UpArgs,
    engine: &'a Arc<Engine>,
    /// The services of the project, and those whose logs are shown.
    services: BTreeSet<String>,
    attached: BTreeSet<String>,
    /// The containers that take part.
    members: BTreeSet<Id>,
    pub(super) feeds: Feeds,
    begun: jiff::Timestamp,
    /// Which containers have not ended for good.
    pub(super) ends: JoinSet<Result<Id, Error>>,
    watched: BTreeSet<Id>,
    /// Which containers were said to have ended for good.
    mourned: BTreeSet<Id>,
    /// Which containers were told to stop.
    told: BTreeSet<Id>,
    /// Stops that are under way.
    pub(super) stopping: JoinSet<Result<(), ApplyError>>,
    /// What hooks write, and where they are to send it.
    pub(super) hooks: mpsc::UnboundedReceiver<Said>,
    pub(super) audience: mpsc::UnboundedSender<Said>,
    /// How often the user asked for the end.
    pub(super) presses: u32,
    /// Whether that was by the key for it, which is no failure.
    pub(super) quits: bool,
    /// Whether files are watched, so that other containers may take the place of these.
    pub(super) watching: bool,
    /// Whether a container's exit has led to the end of all.
    pub(super) aborted: bool,
    pub(super) code: i32,
    code_known: bool,
}

impl<'a> Session<'a> {
    pub(super) async fn begin(
        context: &'a Context,
        args: &'a UpArgs,
        engine: &'a Arc<Engine>,
        project: &Project,
        attached: BTreeSet<String>,
    ) -> Result<Self, Error> {
        let mut printer = Printer::new(Style {
            colours: !args.no_color && context.ui.colours_out(),
            prefix: !args.no_log_prefix,
            timestamps: args.timestamps,
        });
        let mut containers = engine.containers()?;
        containers.retain(|container| !container.is_oneoff() && project.services.contains_key(container.service()));
        // Who was named is waited for and stopped in the end; what they depend on goes on.
        let named = |service: &str| {
            let mut all = args.converge.services.iter().chain(&args.exit_code_from);
            args.converge.services.is_empty() || all.any(|name| name == service)
        };
        let members = containers.iter().filter(|container| named(container.service()));
        let members = members.map(|container| container.config.id.clone()).collect();
        containers.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        let shown = containers.iter().filter(|container| attached.contains(container.service())).collect::<Vec<_>>();
        let name = |container: &Container| names::short(&engine.project, &container.config.name).to_owned();
        let list = shown.iter().map(|container| name(container)).collect::<Vec<_>>().join(", ");
        if !shown.is_empty() {
            printer.say(&format!("Attaching to {list}"))?;
            printer.flush()?;
        }
        let mut feeds = Feeds::new(engine.root.clone(), printer, true);
        let now = jiff::Timestamp::now();
        for container in shown {
            // What was written before is not the news.
            let options = if lifecycle::is_active(container) {
                log::Options { tail: Some(0), ..log::Options::default() }
            } else {
                log::Options { since: Some(now), ..log::Options::default() }
            };
            feeds.add(&container.config.id, &name(container), &options).await?;
            engine.report(&container.config.id, EventKind::Attach, []).await;
        }
        let (audience, hooks) = mpsc::unbounded_channel();
        Ok(Self {
            context,
            args,
            engine,
            services: project.services.keys().filter(|service| named(service)).cloned().collect(),
            attached,
            members,
            feeds,
            begun: now,
            ends: JoinSet::new(),
            watched: BTreeSet::new(),
            mourned: BTreeSet::new(),
            told: BTreeSet::new(),
            stopping: JoinSet::new(),
            hooks,
            audience,
            presses: 0,
            quits: false,
            watching: false,
            aborted: false,
            code: 0,
            code_known: false,
        })
    }

    /// Waits, from now on, for the end of every member that runs, or that was started: it may have ended before anybody
    /// heard of it, and only its supervisor knows how.
    pub(super) fn watch_started(&mut self) -> Result<(), Error> {
        for container in self.engine.containers()? {
            let started = lifecycle::is_active(&container) || container.state.started_at >= Some(self.begun);
            if started && self.members.contains(&container.config.id) {
                self.watch(container.config.id);
            }
        }
        Ok(())
    }

    fn watch(&mut self, id: Id) {
        if !self.watched.insert(id.clone()) {
            return;
        }
        let engine = Arc::clone(self.engine);
        self.ends.spawn(async move {
            engine.wait(&id, Condition::NotRunning).await?;
            Ok(id)
        });
    }

    /// Lets a container take part that was made meanwhile, in the place of another.
    async fn join(&mut self, event: &Event) -> Result<(), Error> {
        let Some(there) = store::load(&self.engine.root, &event.id)? else { return Ok(()) };
        let service = there.service();
        if there.is_oneoff() || there.is_hook() || !self.services.contains(service) {
            return Ok(());
        }
        self.members.insert(event.id.clone());
        if self.attached.contains(service) {
            let name = names::short(&self.engine.project, &there.config.name);
            self.feeds.add(&event.id, name, &log::Options::default()).await?;
        }
        Ok(())
    }

    pub(super) async fn event(&mut self, event: &Event) -> Result<(), Error> {
        if self.watching && event.kind == EventKind::Start && !self.members.contains(&event.id) {
            self.join(event).await?;
        }
        if !self.members.contains(&event.id) {
            return Ok(());
        }
        match event.kind {
            EventKind::Destroy => {
                self.members.remove(&event.id);
                self.feeds.end(&event.id).await;
            }
            EventKind::Start => {
                self.mourned.remove(&event.id);
                self.watch(event.id.clone());
            }
            EventKind::Die => {
                let code = event.attributes.get("exitCode").and_then(|code| code.parse().ok()).unwrap_or(0);
                match store::load(&self.engine.root, &event.id)? {
                    Some(there) if !lifecycle::is_active(&there) => {
                        self.dead(&event.id, &there, code).await?;
                    }
                    Some(_) => self.feeds.status(&event.id, &format!("exited with code {code} (restarting)")).await,
                    None if self.mourned.insert(event.id.clone()) => {
                        self.feeds.status(&event.id, &format!("exited with code {code}")).await;
                    }
                    None => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether everything is being stopped.
    pub(super) fn stops(&self) -> bool {
        self.presses > 0 || self.aborted
    }

    /// Ends everything if that is what the exit of this container was to lead to.
    fn exited(&mut self, service: &str, code: i32) -> Result<(), Error> {
        let on_exit = self.args.on_exit();
        if self.args.exit_code_from.as_deref() == Some(service) && !self.code_known {
            self.code = code;
            self.code_known = true;
        }
        let stops = match on_exit {
            OnExit::GoOn => false,
            OnExit::Stop => true,
            OnExit::StopOnFailure => code != 0,
        };
        if stops && !self.stops() {
            self.aborted = true;
            if self.args.exit_code_from.is_none() {
                self.code = code;
            }
            self.context.ui.say("Aborting on container exit...");
            self.stop()?;
        }
        Ok(())
    }

    pub(super) fn interrupted(&mut self) -> Result<(), Error> {
        self.presses += 1;
        if self.presses == 1 {
            self.context.ui.say("Gracefully Stopping... press Ctrl+C again to force");
            return self.stop();
        }
        let containers = self.engine.containers()?;
        let running = containers.iter().filter(|container| self.members.contains(&container.config.id));
        self.carry_out(lifecycle::kill(&running.collect::<Vec<_>>(), "SIGKILL"));
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Result<(), Error> {
        let containers = self.engine.containers()?;
        let is_asked = |container: &&Container| {
            let id = &container.config.id;
            self.members.contains(id) && !self.told.contains(id) && lifecycle::is_active(container)
        };
        let asked = containers.iter().filter(is_asked).collect::<Vec<_>>();
        let plan = lifecycle::stop(&asked, timeout(self.args.converge.timeout));
        self.told.extend(asked.into_iter().map(|container| container.config.id.clone()));
        self.carry_out(plan);
        Ok(())
    }

    fn carry_out(&mut self, plan: Plan) {
        let progress = self.context.ui.lines("Stopping");
        let engine = Arc::clone(self.engine);
        let options = Options { keep_going: true, audience: Some(self.audience.clone()), ..Options::default() };
        self.stopping.spawn(async move { apply::apply(&engine, plan, &progress, options).await });
    }

    pub(super) async fn ended(
        &mut self,
        ended: Result<Result<Id, Error>, tokio::task::JoinError>,
    ) -> Result<(), Error> {
        let id = match ended {
            Ok(id) => id?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.watched.remove(&id);
        // The event of it may be still to come, or lost with a supervisor that died.
        if let Some(there) = store::load(&self.engine.root, &id)? {
            self.dead(&id, &there, there.state.exit_code).await?;
        }
        Ok(())
    }

    /// Says once that a container has ended for good, and does what follows from that.
    async fn dead(&mut self, id: &Id, container: &Container, code: i32) -> Result<(), Error> {
        if self.mourned.insert(id.clone()) {
            let cause = if code == 137 && container.state.oom_killed { " (out of memory)" } else { "" };
            self.feeds.status(id, &format!("exited with code {code}{cause}")).await;
            self.exited(container.service(), code)?;
        }
        Ok(())
    }

    pub(super) fn stopped(
        &mut self,
        stopped: Result<Result<(), ApplyError>, tokio::task::JoinError>,
    ) -> Result<(), Error> {
        match stopped {
            // What was killed meanwhile could not be stopped.
            Ok(Err(_)) if self.presses > 1 => Ok(()),
            Ok(result) => Ok(result?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
