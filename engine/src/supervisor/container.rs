//! One container under supervision: an actor that alone changes the container's state, and the handle to it.
//!
//! The actor never waits for a container while it could hear a command: what takes long (a stop, a restart's pause, a
//! health check) is a state of the actor, not a place in its code.

mod commands;
mod connect;
mod remove;
mod stop;
mod succeed;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub(super) use self::commands::Container;
use self::commands::{Answer, Command, reply};
use self::remove::Removing;
use self::stop::Stopping;
use super::health::{Monitor, Plan};
use super::project::{Project, caused, other};
use super::restart::{self, Backoff};
use super::run::{self, Audience, News, Run};
use crate::container::config::ContainerConfig;
use crate::container::state::{ContainerState, Health, HealthStatus, Status};
use crate::container::store;
use crate::error::chain;
use crate::protocol::{Condition, EventKind, Failure, FailureKind};
use crate::shim::protocol::{ExecNews, Exit};

impl Container {
    /// Begins to supervise a container; with `running`, one whose process is there already.
    pub(super) fn supervise(project: Arc<Project>, container: store::Container, running: Option<Run>) -> Self {
        let (handle, receiver) = Self::new();
        let mut actor = Actor {
            project,
            config: container.config,
            state: container.state,
            run: None,
            health: None,
            stopping: None,
            restart_at: None,
            restarting: None,
            removing: None,
            unremoved: None,
            failed_start: None,
            backoff: Backoff::default(),
            waiting: Vec::new(),
        };
        let tasks = actor.project.tasks.clone();
        tasks.spawn(async move {
            if let Some(run) = running {
                actor.adopt(run);
                actor.save();
            } else if actor.state.status == Status::Restarting {
                // The supervisor before this one ended during the pause.
                actor.restart_at = Some(Instant::now());
            }
            actor.act(receiver).await;
        });
        handle
    }
}

struct Actor {
    project: Arc<Project>,
    config: ContainerConfig,
    state: ContainerState,
    run: Option<Run>,
    health: Option<Monitor>,
    stopping: Option<Stopping>,
    /// When the restart policy starts it again.
    restart_at: Option<Instant>,
    /// Those who asked for a restart and wait for the stop it begins with.
    restarting: Option<Vec<Answer<()>>>,
    removing: Option<Removing>,
    /// Why it is still there after it was to be removed.
    unremoved: Option<Failure>,
    /// Who asked for the start that failed of a container which is removed for that.
    failed_start: Option<(Answer<()>, Failure)>,
    backoff: Backoff,
    waiting: Vec<(Condition, Answer<Box<ContainerState>>)>,
}

/// What an actor wakes up for.
enum Wake {
    Command(Option<Command>),
    News(News),
    Deadline,
    Restart,
    Health(HealthStatus),
}

impl Actor {
    async fn act(mut self, mut commands: mpsc::Receiver<Command>) {
        if self.run.is_none() && self.state.status == Status::Exited {
            // It ended while nobody looked.
            self.remove_ended();
        }
        loop {
            if let Some(removing) = self.removing.take_if(|_| self.run.is_none())
                && self.end_removal(removing).await
            {
                return;
            }
            let deadline = self.stopping.as_ref().and_then(|stopping| stopping.deadline);
            let wake = tokio::select! {
                // What a shim tells comes before what follows from it: the end of a check's process before its result.
                biased;
                news = news(&mut self.run) => Wake::News(news),
                command = commands.recv() => Wake::Command(command),
                () = at(deadline) => Wake::Deadline,
                () = at(self.restart_at) => Wake::Restart,
                before = checked(&mut self.health) => Wake::Health(before),
            };
            match wake {
                Wake::Command(Some(command)) => self.obey(command).await,
                Wake::Command(None) => return,
                Wake::News(News::Ended(exit)) => self.ended(exit).await,
                Wake::News(News::Exec(news)) => {
                    self.tell_exec(news);
                    continue;
                }
                Wake::Deadline => self.stop_by_force(),
                Wake::Restart => self.restart_by_policy().await,
                Wake::Health(before) => self.health_changed(before),
            }
            // While a removal is under way, it is the removal that is waited for.
            if self.removing.is_none() || self.run.is_some() {
                self.answer_waiting(false);
                self.project.settle();
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start(audience, answer) => {
                let result = self.start_by_hand(audience).await;
                match result {
                    Err(failure) if self.run.is_none() && self.config.auto_remove => {
                        self.remove_ended();
                        // Whoever asked is told when nothing is left.
                        self.failed_start = Some((answer, failure));
                    }
                    result => reply(answer, result),
                }
            }
            Command::StartBeside(other, answer) => {
                let result = self.start_beside(other).await;
                reply(answer, result);
            }
            Command::TakeOver(from, answer) => {
                let result = self.take_over(&from).await;
                reply(answer, result);
            }
            Command::GiveWay(answer) => {
                self.give_way();
                reply(answer, Ok(()));
            }
            Command::Config(answer) => reply(answer, Ok(Box::new(self.config.clone()))),
            Command::Pause(answer) => {
                let result = self.pause().await;
                reply(answer, result);
            }
            Command::Unpause(answer) => {
                let result = match self.state.status {
                    Status::Paused => self.thaw(),
                    _ => Err(conflict(&self.config, "is not paused")),
                };
                reply(answer, result);
            }
            Command::Stop(timeout, answer) => self.stop(timeout, answer),
            Command::Restart(timeout, answer) => {
                if self.run.is_none() {
                    let result = self.start_by_hand(Audience::None).await;
                    reply(answer, result);
                } else {
                    // The stop's own outcome is nobody's business: the restart goes on when the container has ended.
                    self.stop(timeout, oneshot::channel().0);
                    self.restarting.get_or_insert_default().push(answer);
                }
            }
            Command::Kill(signal, answer) => {
                let result = self.kill(&signal);
                reply(answer, result);
            }
            Command::Remove { force, volumes, answer } => self.remove(force, volumes, answer),
            Command::Rename(name, answer) => {
                let result = self.rename(&name).await;
                reply(answer, result);
            }
            Command::Report(kind, attributes, answer) => {
                self.event(kind, attributes.iter().map(|(name, value)| (name.as_str(), value.clone())));
                reply(answer, Ok(()));
            }
            Command::Connect(endpoint, answer) => {
                let result = self.connect(*endpoint).await;
                reply(answer, result);
            }
            Command::Disconnect(network, answer) => {
                let result = self.disconnect(&network).await;
                reply(answer, result);
            }
            Command::Wait(condition, answer) => match &self.unremoved {
                Some(failure) if condition == Condition::Removed => reply(answer, Err(failure.clone())),
                _ => self.waiting.push((condition, answer)),
            },
            Command::Inspect(answer) => reply(answer, Ok(Box::new(self.state.clone()))),
        }
    }

    async fn start_by_hand(&mut self, audience: Audience) -> Result<(), Failure> {
        if self.removing.is_some() {
            return Err(conflict(&self.config, "is being removed"));
        }
        if self.run.is_some() {
            if self.state.status == Status::Paused {
                let hint = Some("unpause it instead".to_owned());
                return Err(Failure { hint, ..conflict(&self.config, "is paused") });
            }
            return if self.stopping.is_some() { Err(conflict(&self.config, "is being stopped")) } else { Ok(()) };
        }
        self.state.restart_count = 0;
        self.state.stopped = false;
        self.backoff = Backoff::default();
        self.start(audience).await
    }

    /// Starts it, whatever it did before.
    async fn start(&mut self, audience: Audience) -> Result<(), Failure> {
        self.restart_at = None;
        let before = self.state.clone();
        let failure = match Run::start(&self.project, &self.config, self.state.beside.is_some(), audience).await {
            Ok(run) => {
                self.state.error = None;
                self.adopt(run);
                match store::save(&self.project.root, &self.config.id, &self.state) {
                    Ok(()) => {
                        self.project.note(&self.config.id, self.state.status);
                        self.event(EventKind::Start, []);
                        return Ok(());
                    }
                    // A container that nobody would find again must not run.
                    Err(error) => {
                        self.health = None;
                        if let Some(run) = self.run.take() {
                            run.give_up(&self.config).await;
                        }
                        self.state = before;
                        other(format!("cannot start container {}: {}", self.config.name, chain(&error)))
                    }
                }
            }
            Err(failure) => failure,
        };
        self.state.status = if self.state.started_at.is_some() { Status::Exited } else { Status::Created };
        self.state.error = Some(failure.message.clone());
        if let FailureKind::Start { code } = failure.kind {
            self.state.exit_code = code;
        }
        self.save();
        Err(failure)
    }

    /// Takes a running container, new or known, under supervision.
    fn adopt(&mut self, run: Run) {
        let known = self.state.status.is_running().then(|| self.state.health.take()).flatten();
        if !self.state.status.is_running() {
            self.state.started_at = Some(jiff::Timestamp::now());
            self.state.status = Status::Running;
        }
        self.state.pid = Some(run.pid);
        self.state.pid_started.clone_from(&run.process);
        self.state.exit_code = 0;
        self.state.oom_killed = false;
        self.state.finished_at = None;
        self.state.endpoints.clone_from(&run.endpoints);
        self.state.ports.clone_from(&run.ports);
        self.watch_health(known);
        self.run = Some(run);
    }

    /// Begins to check its health, of which `known` is known; what stands still is not asked.
    fn watch_health(&mut self, known: Option<Health>) {
        let plan = self.config.healthcheck.as_ref().and_then(Plan::new);
        let monitor = plan.map(|plan| Monitor::new(plan, self.project.root.container_run(&self.config.id), known));
        self.state.health = monitor.as_ref().map(|monitor| monitor.health().clone());
        self.health = monitor.filter(|_| self.state.status != Status::Paused);
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        match self.state.status {
            Status::Running if self.run.is_some() => {}
            Status::Paused => return Err(conflict(&self.config, "is already paused")),
            _ => return Err(conflict(&self.config, "is not running")),
        }
        let cgroup = run::cgroup(&self.project, &self.config)?;
        let frozen = tokio::task::spawn_blocking(move || cgroup.freeze(true)).await.map_err(caused)?;
        frozen.map_err(|failure| other(format!("cannot pause container {}: {failure}", self.config.name)))?;
        self.health = None;
        self.state.status = Status::Paused;
        self.save();
        self.event(EventKind::Pause, []);
        Ok(())
    }

    /// Lets a container that is paused go on.
    fn thaw(&mut self) -> Result<(), Failure> {
        if self.state.status != Status::Paused {
            return Ok(());
        }
        let thawed = run::cgroup(&self.project, &self.config)?.freeze(false);
        thawed.map_err(|failure| other(format!("cannot unpause container {}: {failure}", self.config.name)))?;
        self.state.status = Status::Running;
        let known = self.state.health.take();
        self.watch_health(known);
        self.save();
        self.event(EventKind::Unpause, []);
        Ok(())
    }

    /// A further process was started, or has ended.
    fn tell_exec(&self, news: ExecNews) {
        match news {
            ExecNews::Began { id, args } => {
                // Docker has the program, a space, and the arguments, even where there are none.
                let (program, arguments) =
                    args.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
                let command = format!("{program} {}", arguments.join(" "));
                for kind in [EventKind::ExecCreate(command.clone()), EventKind::ExecStart(command)] {
                    self.event(kind, [("execID", id.to_string())]);
                }
            }
            ExecNews::Ended { id, code } => {
                self.event(EventKind::ExecDie, [("execID", id.to_string()), ("exitCode", code.to_string())]);
            }
        }
    }

    /// PID 1 has ended.
    async fn ended(&mut self, exit: Exit) {
        let Some(run) = self.run.take() else { return };
        self.health = None;
        let ran = run.started.elapsed();
        run.clean_up(&self.config).await;
        self.state.pid = None;
        self.state.pid_started = None;
        self.state.exit_code = exit.code;
        self.state.oom_killed = exit.oom_killed;
        self.state.finished_at = Some(exit.finished_at);
        self.state.endpoints.clear();
        self.state.ports.clear();
        if let Some(health) = &mut self.state.health {
            health.failing_streak = 0;
        }
        let wanted = !self.state.stopped && self.restarting.is_none() && self.removing.is_none();
        let again = wanted && restart::again(self.config.restart, exit.code, self.state.restart_count);
        self.state.status = if again { Status::Restarting } else { Status::Exited };
        if again {
            self.restart_at = Some(Instant::now() + self.backoff.next(ran));
        }
        self.save();
        if exit.oom_killed {
            self.event(EventKind::Oom, []);
        }
        let stopping = self.stopping.take();
        // Docker says first that it was stopped.
        if stopping.is_some() {
            self.event(EventKind::Stop, []);
        }
        let seconds = self.state.started_at.map_or(0, |began| exit.finished_at.duration_since(began).as_secs());
        let code = exit.code.to_string();
        self.event(EventKind::Die, [("exitCode", code), ("execDuration", seconds.to_string())]);
        if let Some(stopping) = stopping {
            for answer in stopping.answers {
                reply(answer, Ok(stopping.how.clone()));
            }
        }
        if let Some(answers) = self.restarting.take() {
            let result = self.start_by_hand(Audience::None).await;
            if result.is_ok() {
                self.event(EventKind::Restart, []);
            }
            for answer in answers {
                reply(answer, result.clone());
            }
        }
        if self.state.status == Status::Exited {
            self.remove_ended();
        }
    }

    async fn restart_by_policy(&mut self) {
        self.state.restart_count += 1;
        if let Err(failure) = self.start(Audience::None).await {
            tracing::warn!(container = %self.config.name, error = %failure, "cannot start it again");
            let code = self.state.exit_code;
            if restart::again(self.config.restart, code, self.state.restart_count) {
                self.state.status = Status::Restarting;
                self.save();
                self.restart_at = Some(Instant::now() + self.backoff.next(Duration::ZERO));
            }
        }
    }

    fn health_changed(&mut self, before: HealthStatus) {
        let Some(monitor) = &self.health else { return };
        let health = monitor.health().clone();
        let status = health.status;
        self.state.health = Some(health);
        self.save();
        if status != before {
            self.event(EventKind::Health(status), []);
        }
    }

    /// Answers those whose condition holds, or can no longer come to hold.
    fn answer_waiting(&mut self, removed: bool) {
        let running = self.state.status.is_running() || self.state.status == Status::Restarting;
        let healthy = self.state.health.as_ref().is_none_or(|health| health.status != HealthStatus::Starting);
        let crashes = self.state.status == Status::Restarting && self.backoff.is_hopeless();
        let state = &self.state;
        let over = |condition: Condition| match condition {
            Condition::NotRunning => !running,
            Condition::Healthy => !running || (healthy && state.status.is_running()) || crashes,
            Condition::Faulty => {
                let unhealthy = state.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unhealthy);
                !state.status.is_running() || state.restart_count > 0 || unhealthy
            }
            Condition::Removed => false,
        };
        let waiting = std::mem::take(&mut self.waiting);
        let (answered, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(condition, _)| removed || over(*condition));
        self.waiting = waiting;
        for (_, answer) in answered {
            reply(answer, Ok(Box::new(self.state.clone())));
        }
    }

    fn event<'a>(&self, kind: EventKind, more: impl IntoIterator<Item = (&'a str, String)>) {
        self.project.events.container(&self.config, kind, more);
    }

    fn save(&self) {
        // The state in memory is the one that counts while this supervisor lives; a disk that is full must not take
        // a running container down.
        if let Err(error) = store::save(&self.project.root, &self.config.id, &self.state) {
            tracing::error!(container = %self.config.name, %error, "cannot save the state");
        }
        self.project.note(&self.config.id, self.state.status);
    }
}

async fn news(run: &mut Option<Run>) -> News {
    match run {
        Some(run) => run.news().await,
        None => std::future::pending().await,
    }
}

async fn checked(monitor: &mut Option<Monitor>) -> HealthStatus {
    match monitor {
        Some(monitor) => monitor.next().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn conflict(config: &ContainerConfig, what: &str) -> Failure {
    Failure { kind: FailureKind::Conflict, message: format!("container {} {what}", config.name), hint: None }
}

/// Says what is wrong with a name.
pub(super) fn name_failure(error: store::StoreError) -> Failure {
    match error {
        store::StoreError::NameInUse { .. } => Failure {
            kind: FailureKind::NameInUse,
            message: error.to_string(),
            hint: Some("remove or rename that container, or choose another `container_name`".to_owned()),
        },
        error => caused(error),
    }
}
