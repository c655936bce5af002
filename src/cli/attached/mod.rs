//! `up` without `-d`: starts the containers and shows what they write until all of them have ended, or until a key is pressed.

mod menu;
mod session;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::error::{Error, INTERRUPTED};
use super::signals::Interrupts;
use super::up::{self, UpArgs};
use super::{urls, watch};
use crate::compose::Project;
use crate::project::apply::{self, ApplyError, Options};
use crate::project::engine::Engine;
use crate::project::plan::Plan;
use crate::project::timeline::Recorder;
use crate::ui::progress::{Form, Progress};
use crate::watch::rules::Rules;
use crate::watch::source::Source;
use crate::watch::words;
use menu::{Choices, Heard, Key, Menu};
use session::Session;

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
            return Err(Error::no_such_service(name, project.services.keys().map(String::as_str)));
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
/// interrupted: what ended may be started again by a change. On a terminal it listens to keys ([`menu`]).
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
    let watches = Watches { context, args, engine, project };
    let mut watching = watched.map(|found| watches.begin(&session, found));
    let mut menu = if args.menu && !matches!(context.ui.form, Form::Json | Form::Quiet) {
        Menu::open(choices(context, project), watching.is_some())?
    } else {
        None
    };
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
    let mut detaching = false;
    let mut end = None;
    loop {
        session.watching = watching.is_some();
        let over = session.ends.is_empty() && session.stopping.is_empty() && (watching.is_none() || session.stops());
        if started && (over || detaching && !session.stops()) {
            break;
        }
        tokio::select! {
            result = &mut starting, if !started => {
                started = true;
                up::remember(args, engine, recorder)?;
                match result {
                    Ok(()) | Err(ApplyError::Interrupted) => {
                        session.watch_started()?;
                        if session.stops() {
                            // Those that were just being started when the others were stopped.
                            session.stop()?;
                        }
                    }
                    Err(error) => {
                        end = Some(Error::from(error));
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
            ended = ended(&mut watching), if started => {
                if let Some(Watching { stop, .. }) = watching.take()
                    && stop.is_cancelled()
                    && !session.stops()
                {
                    session.feeds.voice().say(words::DISABLED)?;
                }
                if let Err(error) = ended {
                    // The logs go on.
                    super::report(context.ui, &error);
                }
                if let Some(menu) = &mut menu {
                    menu.watches(false)?;
                }
            }
            heard = menu::heard(&mut menu) => match heard? {
                Heard::Key(Key::Detach) => detaching = true,
                Heard::Key(Key::Quit) if session.stops() => {}
                Heard::Key(Key::Quit) => {
                    session.quits = true;
                    end_all(&interrupt, watching.as_ref(), &mut session)?;
                }
                Heard::Key(Key::Open) => urls::open(context, engine, project)?,
                Heard::Key(Key::Blank) => context.ui.say(""),
                Heard::Key(Key::Watch) => {
                    watches.toggle(&mut watching, &session);
                    if let Some(menu) = &mut menu {
                        menu.watches(watching.is_some())?;
                    }
                }
                Heard::Deadly(signal) => {
                    end = Some(Error::Exit(128 + signal));
                    break;
                }
            },
            () = interrupts.next() => end_all(&interrupt, watching.as_ref(), &mut session)?,
            error = session.feeds.failure() => return Err(error),
        }
    }
    if let Some(Watching { session, stop }) = watching {
        stop.cancel();
        if started {
            session.await?;
        }
    }
    // Events that are on their way still belong to what was seen.
    while let Ok(event) = events.try_recv() {
        session.event(&event).await?;
    }
    drop(menu);
    let (code, interrupted) = (session.code, session.presses > 0 && !session.quits);
    session.feeds.finish().await?;
    match (end, interrupted, code) {
        (Some(error), ..) => Err(error),
        (None, true, _) => Err(Error::Exit(INTERRUPTED)),
        (None, false, 0) => Ok(()),
        (None, false, code) => Err(Error::Exit(u8::try_from(code).unwrap_or(1))),
    }
}

/// Stops the containers, or kills them when that was asked for before.
fn end_all(
    interrupt: &CancellationToken,
    watching: Option<&Watching<'_>>,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    interrupt.cancel();
    if let Some(watching) = watching {
        watching.stop.cancel();
    }
    session.interrupted()
}

/// Returns what the menu offers for a project.
fn choices(context: &Context, project: &Project) -> Choices {
    let mut services = project.services.values();
    Choices {
        watch: services
            .clone()
            .any(|service| service.develop.as_ref().is_some_and(|develop| !develop.watch.is_empty())),
        open: services.any(|service| !service.ports.is_empty()),
        colours: context.ui.colours_out(),
    }
}

/// Files that are watched beside the logs.
struct Watching<'a> {
    session: Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>,
    stop: CancellationToken,
}

/// Waits for the end of what is watched; for ever where nothing is.
async fn ended(watching: &mut Option<Watching<'_>>) -> Result<(), Error> {
    match watching {
        Some(watching) => (&mut watching.session).await,
        None => std::future::pending().await,
    }
}

/// What it takes to watch files.
#[derive(Clone, Copy)]
struct Watches<'a> {
    context: &'a Context,
    args: &'a UpArgs,
    engine: &'a Arc<Engine>,
    project: &'a Project,
}

impl<'a> Watches<'a> {
    fn begin(self, session: &Session<'_>, (rules, source): (Arc<Rules>, Source)) -> Watching<'a> {
        let options = watch::Options { quiet: self.args.quiet_build, prune: true };
        let voice = session.feeds.voice();
        let watch = watch::Session::new(self.context, self.engine, self.project, options, voice, rules, source);
        let stop = CancellationToken::new();
        Watching { session: Box::pin(watch.run(stop.clone())), stop }
    }

    /// Begins to watch, or ends it: what is being done then is done first. Says why it cannot begin.
    fn toggle(self, watching: &mut Option<Watching<'a>>, session: &Session<'_>) {
        match watching {
            Some(watching) => watching.stop.cancel(),
            None if session.stops() => {}
            None => match watch::files(self.context, self.project, self.args) {
                Ok(found) => *watching = Some(self.begin(session, found)),
                Err(error) => {
                    super::report(self.context.ui, &error);
                }
            },
        }
    }
}
