//! Watching: what the files and the containers do is told to the services' machines, and what those ask for is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rcompose_engine::container::files::FilesError;
use rcompose_engine::container::state::{ProcessStart, Status};
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::error::chain;
use rcompose_engine::id::Id;
use rcompose_engine::protocol::{Event, EventKind};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::work::Hands;
use crate::cli;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::follow::Voice;
use crate::compose::Project;
use crate::compose::model::Hook;
use crate::project::engine::Engine;
use crate::project::labels::{Labelled as _, SERVICE};
use crate::watch::machine::{Command, Item, Kind, Machine, Presence, Reason, Synced, Work};
use crate::watch::rules::Rules;
use crate::watch::source::{Found, Source};
use crate::watch::sync::{self, Outcome};
use crate::watch::words;

/// Something for services as a whole that is under way: ends with who it was for, and how.
type Doing<'a> = Pin<Box<dyn Future<Output = (BTreeSet<String>, Result<(), Error>)> + 'a>>;

/// Watches until it is told to end.
pub struct Session<'a> {
    hands: Hands<'a>,
    rules: Arc<Rules>,
    source: Source,
    services: BTreeMap<String, Watched>,
    syncs: JoinSet<Ended>,
    works: FuturesUnordered<Doing<'a>>,
}

/// One service.
struct Watched {
    machine: Machine<Id>,
    report: Option<Report>,
}

/// What was brought into a service's containers since changes were seen.
struct Report {
    begun: Instant,
    /// How many containers are still at it.
    open: usize,
    paths: BTreeSet<PathBuf>,
    containers: BTreeSet<Id>,
}

/// A container has got its files, or has not.
struct Ended {
    service: String,
    container: Id,
    items: BTreeSet<Item>,
    reason: Reason,
    /// `None`: it was gone, or ended meanwhile.
    outcome: Option<Result<Outcome, FilesError>>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    pub fn new(
        context: &'a Context,
        engine: &'a Arc<Engine>,
        project: &'a Project,
        options: Options,
        voice: Voice,
        rules: Arc<Rules>,
        source: Source,
    ) -> Self {
        let watched = |service: &str| {
            let own = rules.rules.iter().enumerate().filter(|(_, rule)| rule.service == service);
            let kind = |(number, rule): (usize, &crate::watch::rules::Rule)| {
                (number, Kind { action: rule.action, volatile: rule.volatile })
            };
            let machine = Machine::new(own.map(kind).collect());
            (service.to_owned(), Watched { machine, report: None })
        };
        let services = rules.services().into_iter().map(watched).collect();
        let turn = Arc::new(Mutex::new(()));
        let hands = Hands { context, engine, project, options, voice, turn };
        Self { hands, rules, source, services, syncs: JoinSet::new(), works: FuturesUnordered::new() }
    }

    /// Watches until `stop`, and brings to its end what is under way then.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let engine = self.hands.engine;
        let mut client = engine.client().await?;
        let mut events = client.subscribe().await?;
        self.observe()?;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                found = self.source.next() => match found {
                    Some(found) => self.found(found)?,
                    None => break,
                },
                event = events.recv() => {
                    // Where some were missed, everything may have happened.
                    if event.as_ref().map_or(true, |event| self.is_news(event)) {
                        self.observe()?;
                    }
                }
                // The supervisor has died, or `down` has ended it: another one sees what follows.
                () = client.ended() => {
                    engine.give_up(&client).await;
                    client = engine.client().await?;
                    events = client.subscribe().await?;
                    self.observe()?;
                }
                Some(ended) = self.syncs.join_next() => self.synced(joined(ended))?,
                Some((services, ended)) = self.works.next() => self.done(services, ended)?,
            }
        }
        while let Some(ended) = self.syncs.join_next().await {
            self.report(&joined(ended))?;
        }
        while self.works.next().await.is_some() {}
        Ok(())
    }

    fn found(&mut self, found: Found) -> Result<(), Error> {
        match found {
            Found::Ready { initial, files } => {
                tracing::debug!(files, "watching");
                let matched = self.matched(&initial, |rules, rule| rules.rules[rule].initial_sync);
                let all = matched.into_iter().map(|(service, items)| {
                    let commands = self.services.get_mut(&service).map(|watched| watched.machine.initial(items));
                    (service, commands.unwrap_or_default())
                });
                let all = all.collect();
                self.carry_out(all);
                Ok(self.hands.voice.say(words::ENABLED)?)
            }
            Found::Changes(paths) => self.changed(&paths),
            Found::Unreadable(path, error) => {
                let path = path.display();
                self.hands.context.ui.warn(&format!("{path} cannot be read ({error}), so it is not watched"));
                Ok(())
            }
            Found::Failed(error) => {
                self.hands.voice.say(words::DISABLED)?;
                match error.hint() {
                    Some(hint) => Err(Error::with_hint(chain(&error), hint)),
                    None => Err(error.into()),
                }
            }
        }
    }

    /// Returns which of the services' rules concern paths.
    fn matched(&self, paths: &[PathBuf], counts: impl Fn(&Rules, usize) -> bool) -> BTreeMap<String, Vec<Item>> {
        let mut matched = BTreeMap::<String, Vec<Item>>::new();
        for path in paths {
            for rule in self.rules.matching(path).filter(|rule| counts(&self.rules, *rule)) {
                let service = self.rules.rules[rule].service.clone();
                matched.entry(service).or_default().push(Item { rule, path: path.clone() });
            }
        }
        matched
    }

    fn changed(&mut self, paths: &[PathBuf]) -> Result<(), Error> {
        let begun = Instant::now();
        let mut all = Vec::new();
        for (service, items) in self.matched(paths, |_, _| true) {
            let synced = items.iter().filter(|item| self.rules.rules[item.rule].action.syncs());
            let count = synced.map(|item| &item.path).collect::<BTreeSet<_>>().len();
            let Some(watched) = self.services.get_mut(&service) else { continue };
            if count > 0 {
                self.hands.voice.say(&words::syncing(&service, count))?;
                watched.report.get_or_insert_with(|| Report::new(begun));
            }
            all.push((service, watched.machine.changed(items)));
        }
        self.carry_out(all);
        for watched in self.services.values_mut() {
            // There was no container to bring it into.
            watched.report.take_if(|report| report.open == 0);
        }
        Ok(())
    }

    /// Tells the machines where the containers are.
    fn observe(&mut self) -> Result<(), Error> {
        let mut seen = BTreeMap::<&str, BTreeMap<Id, Presence>>::new();
        let containers = self.hands.engine.containers()?;
        for container in containers.iter().filter(|container| !container.is_oneoff()) {
            if let Some(presence) = presence(container) {
                seen.entry(container.service()).or_default().insert(container.config.id.clone(), presence);
            }
        }
        let observed = self.services.iter_mut().map(|(service, watched)| {
            let there = seen.remove(service.as_str()).unwrap_or_default();
            (service.clone(), watched.machine.observed(there))
        });
        let all = observed.collect();
        self.carry_out(all);
        Ok(())
    }

    fn is_news(&self, event: &Event) -> bool {
        let of_watched = event.attributes.get(SERVICE).is_some_and(|service| self.services.contains_key(service));
        let counts = matches!(
            event.kind,
            EventKind::Create | EventKind::Start | EventKind::Die | EventKind::Stop | EventKind::Destroy
        );
        of_watched && counts
    }

    /// Begins what machines ask for; what several services ask for at once is done at once.
    fn carry_out(&mut self, all: Vec<(String, Vec<Command<Id>>)>) {
        let (mut rebuilds, mut restarts) = (BTreeSet::new(), BTreeSet::new());
        for (service, commands) in all {
            for command in commands {
                match command {
                    Command::Sync { container, items, reason } => self.sync(&service, container, items, reason),
                    Command::Work(Work::Rebuild) => _ = rebuilds.insert(service.clone()),
                    Command::Work(Work::Restart) => _ = restarts.insert(service.clone()),
                    Command::Work(Work::Exec(rules)) => self.execute(service.clone(), &rules),
                }
            }
        }
        if !rebuilds.is_empty() {
            let hands = self.hands.clone();
            self.works.push(Box::pin(async move {
                let ended = hands.rebuild(&rebuilds).await;
                (rebuilds, ended)
            }));
        }
        if !restarts.is_empty() {
            let hands = self.hands.clone();
            self.works.push(Box::pin(async move {
                let ended = hands.restart(&restarts).await;
                (restarts, ended)
            }));
        }
    }

    fn execute(&self, service: String, rules: &BTreeSet<usize>) {
        let hooks = rules.iter().map(|rule| self.rules.rules[*rule].exec.clone()).collect::<Vec<Hook>>();
        let hands = self.hands.clone();
        self.works.push(Box::pin(async move {
            let ended = hands.execute(&service, hooks).await;
            ([service].into(), ended)
        }));
    }

    fn sync(&mut self, service: &str, container: Id, items: BTreeSet<Item>, reason: Reason) {
        if let Some(watched) = self.services.get_mut(service) {
            watched.report.get_or_insert_with(|| Report::new(Instant::now())).open += 1;
        }
        let (root, rules) = (self.hands.engine.root.clone(), Arc::clone(&self.rules));
        let pretend = self.hands.context.global.dry_run;
        let service = service.to_owned();
        self.syncs.spawn_blocking(move || {
            let outcome = if pretend {
                Some(Ok(Outcome::default()))
            } else {
                let there = store::load(&root, &container).ok().flatten();
                there.map(|there| sync::sync(&root, &there, &rules, &items))
            };
            Ended { service, container, items, reason, outcome }
        });
    }

    fn synced(&mut self, ended: Ended) -> Result<(), Error> {
        self.report(&ended)?;
        let answer = match &ended.outcome {
            Some(Ok(outcome)) => Synced::Done { wrote: outcome.wrote.clone() },
            Some(Err(error)) if self.runs_on(&ended.container)? => {
                cli::report(self.hands.context.ui, &Error::new(chain(error)));
                Synced::Failed
            }
            Some(Err(_)) | None => Synced::Away,
        };
        let Some(watched) = self.services.get_mut(&ended.service) else { return Ok(()) };
        let commands = watched.machine.synced(&ended.container, &answer);
        let away = answer == Synced::Away;
        self.carry_out(vec![(ended.service, commands)]);
        // Nothing more may be told of it than what is known already.
        if away { self.observe() } else { Ok(()) }
    }

    /// Returns whether a container that could not be reached is there none the less.
    fn runs_on(&self, container: &Id) -> Result<bool, Error> {
        let there = store::load(&self.hands.engine.root, container)?;
        Ok(there.is_some_and(|there| match there.state.pid {
            Some(pid) => ProcessStart::of(pid).is_ok_and(|now| now == there.state.pid_started),
            None => true,
        }))
    }

    /// Says what was brought into containers when none of them is still at it.
    fn report(&mut self, ended: &Ended) -> Result<(), Error> {
        let Some(watched) = self.services.get_mut(&ended.service) else { return Ok(()) };
        let Some(report) = &mut watched.report else { return Ok(()) };
        report.open -= 1;
        if let Some(Ok(outcome)) = &ended.outcome {
            for error in &outcome.errors {
                self.hands.context.ui.error(&format!("service {:?}: {}", ended.service, chain(error)), error.hint());
            }
            // What a new container has anyway is no news.
            if outcome.errors.is_empty() && (ended.reason == Reason::Changed || outcome.count > 0) {
                report.containers.insert(ended.container.clone());
                report.paths.extend(ended.items.iter().map(|item| item.path.clone()));
            }
        }
        if report.open > 0 {
            return Ok(());
        }
        let Some(report) = watched.report.take().filter(|report| !report.containers.is_empty()) else { return Ok(()) };
        let paths = words::paths(&report.paths, &self.hands.project.working_dir);
        let line = words::synced(&ended.service, &paths, report.containers.len(), report.begun.elapsed());
        Ok(self.hands.voice.say(&line)?)
    }

    fn done(&mut self, services: BTreeSet<String>, ended: Result<(), Error>) -> Result<(), Error> {
        let succeeded = ended.is_ok();
        if let Err(error) = ended {
            cli::report(self.hands.context.ui, &error);
        }
        self.observe()?;
        let all = services.into_iter().filter_map(|service| {
            let commands = self.services.get_mut(&service)?.machine.done(succeeded);
            Some((service, commands))
        });
        let all = all.collect();
        self.carry_out(all);
        Ok(())
    }
}

impl Report {
    fn new(begun: Instant) -> Self {
        Self { begun, open: 0, paths: BTreeSet::new(), containers: BTreeSet::new() }
    }
}

fn joined(ended: Result<Ended, tokio::task::JoinError>) -> Ended {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Returns where a container is; `None`: it is going.
fn presence(container: &Container) -> Option<Presence> {
    match container.state.status {
        Status::Running | Status::Paused => Some(Presence::Running { since: container.state.started_at }),
        Status::Restarting => Some(Presence::Away),
        Status::Created | Status::Exited => Some(Presence::Stopped),
        Status::Removing | Status::Dead => None,
    }
}
