//! `up` without `-d`: starts the containers and shows what they write until all of them have ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use rcompose_engine::container::log;
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::id::Id;
use rcompose_engine::protocol::{Condition, Event, EventKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::context::{Context, timeout};
use super::error::{Error, INTERRUPTED};
use super::follow::Feeds;
use super::signals::Interrupts;
use super::up::{self, UpArgs};
use super::watch;
use crate::compose::Project;
use crate::project::apply::{self, ApplyError, Options, Said};
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::names;
use crate::project::plan::{Plan, lifecycle};
use crate::project::timeline::Recorder;
use crate::ui::logs::{Printer, Style};
use crate::ui::progress::Progress;
use crate::watch::rules::Rules;
use crate::watch::source::Source;

/// What the exit of a container leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    GoOn,
    /// All others are stopped.
    Stop,
    /// All others are stopped if it failed.
    StopOnFailure,
}

/// What is seen of a project that is attached to.
#[derive(Debug)]
pub struct Attached {
    /// The services whose logs are shown.
    pub services: BTreeSet<String>,
    /// What is watched of its files.
    pub watched: Option<(Arc<Rules>, Source)>,
}

/// Returns the services whose logs are shown.
pub fn services(args: &UpArgs, project: &Project) -> Result<BTreeSet<String>, Error> {
    for name in args.attach.iter().chain(&args.no_attach).chain(&args.exit_code_from) {
        if !project.services.contains_key(name) {
            return Err(Error::new(format!("no such service: {name}")));
        }
    }
    if !args.attach.is_empty() {
        return Ok(args.attach.iter().filter(|name| !args.no_attach.contains(name)).cloned().collect());
    }
    let named = |name: &String| {
        args.converge.services.is_empty() || args.attach_dependencies || args.converge.services.contains(name)
    };
    let shown = |(name, service): &(&String, &crate::compose::Service)| {
        named(name) && !args.no_attach.contains(name) && service.attach != Some(false)
    };
    Ok(project.services.iter().filter(shown).map(|(name, _)| name.clone()).collect())
}

/// Carries out `plan`, which starts the containers, and stays until all have ended; where files are watched, until it is
/// interrupted: what ended may be started again by a change.
pub async fn run(
    context: &Context,
    args: &UpArgs,
    (engine, project): (&Arc<Engine>, &Project),
    attached: Attached,
    plan: Plan,
    recorder: &Recorder,
) -> Result<(), Error> {
    let mut interrupts = Interrupts::new()?;
    let client = engine.client().await?;
    let Attached { services, watched } = attached;
    let mut session = Session::begin(context, args, engine, project, services).await?;
    let watches = watched.is_some();
    let unwatch = CancellationToken::new();
    let watching = watched.map(|(rules, source)| {
        let options = watch::Options { quiet: args.quiet_build, prune: true };
        watch::Session::new(context, engine, project, options, session.feeds.voice(), rules, source)
    });
    let mut watching = Box::pin(watch::beside(watching, unwatch.clone()));
    let mut unwatched = false;
    let mut events = client.subscribe().await?;
    let interrupt = CancellationToken::new();
    let audience = Some(session.audience.clone());
    let options = Options {
        parallel: context.parallel(),
        interrupt: interrupt.clone(),
        audience,
        recorder: Some(recorder.clone()),
        ..Options::default()
    };
    let quiet = Progress::quiet();
    let mut starting = Box::pin(apply::apply(engine, plan, &quiet, options));
    let mut started = false;
    let mut failed = None;
    loop {
        let goes_on = watches && !unwatched && session.presses == 0 && !session.aborted;
        if started && session.ends.is_empty() && session.stopping.is_empty() && !goes_on {
            break;
        }
        tokio::select! {
            result = &mut starting, if !started => {
                started = true;
                up::remember(args, engine, recorder)?;
                match result {
                    Ok(()) | Err(ApplyError::Interrupted) => {
                        session.watch_started()?;
                        if session.presses > 0 || session.aborted {
                            // Those that were just being started when the others were stopped.
                            session.stop()?;
                        }
                    }
                    Err(error) => {
                        failed = Some(Error::from(error));
                        break;
                    }
                }
            }
            // Some may be missed. The client connects to the next supervisor for those who wait for containers.
            event = events.recv() => if let Ok(event) = event {
                session.event(&event).await?;
            },
            Some(said) = session.hooks.recv() => session.feeds.status(&said.container, &format!("-> {}", said.line)).await,
            Some(ended) = session.ends.join_next() => session.ended(ended).await?,
            Some(stopped) = session.stopping.join_next() => session.stopped(stopped)?,
            ended = &mut watching, if started && !unwatched => {
                unwatched = true;
                if let Err(error) = ended {
                    // The logs go on.
                    super::report(context.ui, &error);
                }
            }
            () = interrupts.next() => {
                interrupt.cancel();
                unwatch.cancel();
                session.interrupted()?;
            }
            error = session.feeds.failure() => return Err(error),
        }
    }
    unwatch.cancel();
    if started && !unwatched {
        watching.await?;
    }
    // Events that are on their way still belong to what was seen.
    while let Ok(event) = events.try_recv() {
        session.event(&event).await?;
    }
    let (code, presses) = (session.code, session.presses);
    session.feeds.finish().await?;
    match (failed, presses, code) {
        (Some(error), ..) => Err(error),
        (None, 1.., _) => Err(Error::Exit(INTERRUPTED)),
        (None, 0, 0) => Ok(()),
        (None, 0, code) => Err(Error::Exit(u8::try_from(code).unwrap_or(1))),
    }
}

/// What is shown and waited for.
struct Session<'a> {
    context: &'a Context,
    args: &'a UpArgs,
    engine: &'a Arc<Engine>,
    /// The services of the project, and those whose logs are shown.
    services: BTreeSet<String>,
    attached: BTreeSet<String>,
    /// The containers that take part.
    members: BTreeSet<Id>,
    feeds: Feeds,
    begun: jiff::Timestamp,
    /// Which containers have not ended for good.
    ends: JoinSet<Result<Id, Error>>,
    watched: BTreeSet<Id>,
    /// Which containers were said to have ended for good.
    mourned: BTreeSet<Id>,
    /// Which containers were told to stop.
    told: BTreeSet<Id>,
    /// Stops that are under way.
    stopping: JoinSet<Result<(), ApplyError>>,
    /// What hooks write, and where they are to send it.
    hooks: mpsc::UnboundedReceiver<Said>,
    audience: mpsc::UnboundedSender<Said>,
    /// How often the user asked for the end.
    presses: u32,
    /// Whether a container's exit has led to the end of all.
    aborted: bool,
    code: i32,
    code_known: bool,
}

impl<'a> Session<'a> {
    async fn begin(
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
            feeds.add(&container.config.id, &name(container), &options)?;
            engine.report(&container.config.id, EventKind::Attach, []).await;
        }
        // The tasks open the logs before anything is started.
        tokio::task::yield_now().await;
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
            aborted: false,
            code: 0,
            code_known: false,
        })
    }

    /// Waits, from now on, for the end of every member that runs, or that was started: it may have ended before anybody
    /// heard of it, and only its supervisor knows how.
    fn watch_started(&mut self) -> Result<(), Error> {
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
    fn join(&mut self, event: &Event) -> Result<(), Error> {
        let Some(there) = store::load(&self.engine.root, &event.id)? else { return Ok(()) };
        let service = there.service();
        if there.is_oneoff() || there.is_hook() || !self.services.contains(service) {
            return Ok(());
        }
        self.members.insert(event.id.clone());
        if self.attached.contains(service) {
            let name = names::short(&self.engine.project, &there.config.name);
            self.feeds.add(&event.id, name, &log::Options::default())?;
        }
        Ok(())
    }

    async fn event(&mut self, event: &Event) -> Result<(), Error> {
        if self.args.watch && event.kind == EventKind::Start && !self.members.contains(&event.id) {
            self.join(event)?;
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
        if stops && !self.aborted && self.presses == 0 {
            self.aborted = true;
            if self.args.exit_code_from.is_none() {
                self.code = code;
            }
            self.context.ui.say("Aborting on container exit...");
            self.stop()?;
        }
        Ok(())
    }

    fn interrupted(&mut self) -> Result<(), Error> {
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

    fn stop(&mut self) -> Result<(), Error> {
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

    async fn ended(&mut self, ended: Result<Result<Id, Error>, tokio::task::JoinError>) -> Result<(), Error> {
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

    fn stopped(&mut self, stopped: Result<Result<(), ApplyError>, tokio::task::JoinError>) -> Result<(), Error> {
        match stopped {
            // What was killed meanwhile could not be stopped.
            Ok(Err(_)) if self.presses > 1 => Ok(()),
            Ok(result) => Ok(result?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
