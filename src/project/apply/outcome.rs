//! What comes of waiting for a container: what it became, or why it is not what is waited for.

use std::fmt::{self, Display};
use std::io;

use rcompose_engine::container::log;
use rcompose_engine::container::state::{ContainerState, HealthStatus, Status};
use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use rcompose_engine::root::Root;

use super::super::labels::Labelled as _;
use super::super::names;
use super::super::plan::{Until, Wait};

/// How many lines of its log are shown of a container that ended.
const LINES: usize = 5;

/// What a container became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its health check passed.
    Healthy,
    /// It runs, and has no health check.
    Running,
    /// It ended with status 0, which is what it was there for.
    Completed,
}

/// Why a container is not what is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NotStarted,
    /// Its health check has not passed yet.
    Starting,
    Unhealthy,
    /// There is nothing that could tell that it is healthy.
    NoHealthcheck,
    StillRunning,
    Exited {
        code: i32,
    },
    OutOfMemory,
    /// It did not do what it is for.
    Incomplete {
        code: i32,
    },
    /// It ends again and again, and its restart policy starts it again each time.
    CrashLoop {
        code: i32,
        restarts: u32,
    },
}

/// A container that is not what is waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unready {
    pub service: String,
    pub container: String,
    pub fault: Fault,
    /// What it was waited for.
    until: Until,
    /// Whether that is an error.
    required: bool,
    /// The last lines that it wrote, where it ended.
    log: Vec<String>,
}

impl Unready {
    /// Returns the command that shows why.
    pub fn hint(&self) -> String {
        match self.fault {
            Fault::Unhealthy | Fault::Starting => {
                let health = "{{json .State.Health}}";
                format!("rcompose inspect --format '{health}' {} shows what its health check says", self.service)
            }
            Fault::NoHealthcheck => format!("give service {} a healthcheck, or wait for service_started", self.service),
            Fault::NotStarted => "rcompose ps -a".to_owned(),
            _ => format!("rcompose logs {}", self.service),
        }
    }
}

/// In Docker Compose's words, where it has some.
impl Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, container, .. } = self;
        match (self.required, self.until) {
            (true, Until::Healthy) => write!(f, "dependency failed to start: ")?,
            (false, until) if until != Until::Completed => {
                write!(f, "optional dependency \"{service}\" failed to start: ")?;
            }
            _ => {}
        }
        match self.fault {
            Fault::NotStarted => write!(f, "container {container} was not started")?,
            Fault::Starting => write!(f, "container {container} is still starting: its health check has not passed")?,
            Fault::Unhealthy => write!(f, "container {container} is unhealthy")?,
            Fault::NoHealthcheck => write!(f, "container {container} has no healthcheck configured")?,
            Fault::StillRunning => write!(f, "container {container} is still running")?,
            Fault::Exited { code } => write!(f, "container {container} exited ({code})")?,
            Fault::OutOfMemory => write!(f, "container {container} exited (137): out of memory")?,
            Fault::Incomplete { code } if self.until == Until::Prepared => {
                write!(f, "pre_start of service \"{service}\" failed: container {container} exited ({code})")?;
            }
            Fault::Incomplete { code } => {
                let what = if self.required { "service" } else { "optional dependency" };
                write!(f, "{what} \"{service}\" didn't complete successfully: exit {code}")?;
            }
            Fault::CrashLoop { code, restarts } => {
                write!(f, "container {container} keeps ending: it exited ({code}) and was restarted {restarts} times")?;
            }
        }
        if !self.log.is_empty() {
            write!(f, "; the last it wrote:")?;
        }
        self.log.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl Unready {
    /// Returns what is wrong with a container, with what it wrote last where that may tell why.
    pub(super) fn new(root: &Root, project: &str, (id, name): (&Id, &str), wanted: &Wait, fault: Fault) -> Self {
        let ended = matches!(
            fault,
            Fault::Exited { .. } | Fault::OutOfMemory | Fault::Incomplete { .. } | Fault::CrashLoop { .. }
        );
        let short = names::short(project, name);
        // What was wrong counts, and not whether the log can be read as well.
        let lines = if ended { last_lines(root, id).unwrap_or_default() } else { Vec::new() };
        Self {
            service: wanted.service.clone(),
            container: name.to_owned(),
            fault,
            until: wanted.until,
            required: wanted.required,
            log: lines.into_iter().map(|line| format!("{short}  | {line}")).collect(),
        }
    }

    /// Returns those of these containers that do not run, or are not healthy, as `up --wait` has them.
    pub fn among<'a>(root: &Root, project: &str, containers: impl Iterator<Item = &'a Container>) -> Vec<Self> {
        let unready = containers.filter_map(|container| {
            let wanted = Wait {
                service: container.service().to_owned(),
                containers: Vec::new(),
                until: Until::RunningOrHealthy,
                required: true,
            };
            let fault = judge(wanted.until, &container.state).err()?;
            Some(Self::new(root, project, (&container.config.id, &container.config.name), &wanted, fault))
        });
        unready.collect()
    }
}

fn last_lines(root: &Root, id: &Id) -> io::Result<Vec<String>> {
    let options = log::Options { tail: Some(LINES), ..log::Options::default() };
    let mut lines = Vec::new();
    log::read(&log::path(&root.container(id), id), &options, &mut |entry| {
        lines.push(String::from_utf8_lossy(entry.text).trim_end().to_owned());
        Ok(())
    })?;
    Ok(lines)
}

/// Says whether a container is what is waited for.
pub(super) fn judge(until: Until, state: &ContainerState) -> Result<Outcome, Fault> {
    let health = state.health.as_ref().map(|health| health.status);
    let code = state.exit_code;
    match (until, state.status) {
        (_, Status::Created) => Err(Fault::NotStarted),
        (Until::Completed | Until::Prepared, status) if status.is_running() => Err(Fault::StillRunning),
        (Until::Completed | Until::Prepared, _) if code == 0 => Ok(Outcome::Completed),
        (Until::Completed | Until::Prepared, _) => Err(Fault::Incomplete { code }),
        (_, Status::Restarting) => Err(Fault::CrashLoop { code, restarts: state.restart_count }),
        (Until::RunningOrHealthy, Status::Exited) if code == 0 && !state.stopped => Ok(Outcome::Completed),
        (_, status) if !status.is_running() && state.oom_killed && code == 137 => Err(Fault::OutOfMemory),
        (_, status) if !status.is_running() => Err(Fault::Exited { code }),
        _ => match (until, health) {
            (_, Some(HealthStatus::Healthy)) => Ok(Outcome::Healthy),
            (_, Some(HealthStatus::Starting)) => Err(Fault::Starting),
            (_, Some(_)) => Err(Fault::Unhealthy),
            (Until::Healthy, None) => Err(Fault::NoHealthcheck),
            (_, None) => Ok(Outcome::Running),
        },
    }
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::state::Health;

    use super::*;

    fn state(status: Status, exit_code: i32, health: Option<HealthStatus>) -> ContainerState {
        let health = health.map(|status| Health { status, failing_streak: 0, log: Vec::new() });
        ContainerState { exit_code, health, ..ContainerState::new(status) }
    }

    fn said(until: Until, required: bool, state: &ContainerState) -> String {
        let fault = judge(until, state).unwrap_err();
        let wanted = Wait { service: "db".into(), containers: Vec::new(), until, required };
        let root = Root::below(std::path::Path::new("/surely/not/there"));
        Unready::new(&root, "p", (&Id::random(), "p-db-1"), &wanted, fault).to_string()
    }

    #[test]
    fn health_is_judged_in_docker_composes_words() {
        use HealthStatus::{Healthy, Unhealthy};
        let running = |health| state(Status::Running, 0, health);
        assert_eq!(judge(Until::Healthy, &running(Some(Healthy))), Ok(Outcome::Healthy));
        assert_eq!(judge(Until::RunningOrHealthy, &running(None)), Ok(Outcome::Running));
        for (state, want) in [
            (running(Some(Unhealthy)), "dependency failed to start: container p-db-1 is unhealthy"),
            (running(None), "dependency failed to start: container p-db-1 has no healthcheck configured"),
            (state(Status::Exited, 3, None), "dependency failed to start: container p-db-1 exited (3)"),
        ] {
            assert_eq!(said(Until::Healthy, true, &state), want);
        }
        assert!(said(Until::Healthy, false, &running(None)).starts_with("optional dependency \"db\" failed to start"));
    }

    #[test]
    fn completion_is_an_exit_with_zero() {
        assert_eq!(judge(Until::Completed, &state(Status::Exited, 0, None)), Ok(Outcome::Completed));
        let failed = state(Status::Exited, 3, None);
        assert_eq!(said(Until::Completed, true, &failed), "service \"db\" didn't complete successfully: exit 3");
    }

    #[test]
    fn what_has_finished_is_done_and_what_was_stopped_is_not() {
        let finished = state(Status::Exited, 0, None);
        assert_eq!(judge(Until::RunningOrHealthy, &finished), Ok(Outcome::Completed));
        let stopped = ContainerState { stopped: true, ..finished };
        assert_eq!(judge(Until::RunningOrHealthy, &stopped), Err(Fault::Exited { code: 0 }));
    }

    #[test]
    fn a_crash_loop_is_named() {
        let looping = ContainerState { restart_count: 7, ..state(Status::Restarting, 3, None) };
        assert_eq!(
            said(Until::RunningOrHealthy, true, &looping),
            "container p-db-1 keeps ending: it exited (3) and was restarted 7 times"
        );
    }
}
