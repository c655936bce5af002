//! When a container's health is checked, and what the results make of it (Compose Specification, `healthcheck`).
//!
//! Checks at the intervals that the specification asks for decide; while the container is starting, further checks
//! are made at once and then with a growing pause. An early failure counts for nothing, an early success counts: a
//! service is healthy as soon as it is, and not at the next tick of a 30 s interval.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::probe::{self, Outcome};
use crate::container::config::{HealthTest, Healthcheck};
use crate::container::state::{Health, HealthStatus};

/// The pause after the first early check; it doubles until it reaches the regular interval.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How many results `inspect` shows.
const LOG: usize = 5;

/// A health check with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    retries: u32,
    start_period: Duration,
    start_interval: Duration,
}

impl Plan {
    /// Returns the plan of a resolved health check; `None` where there is none.
    pub(super) fn new(check: &Healthcheck) -> Option<Self> {
        let args = match &check.test {
            HealthTest::Inherit | HealthTest::None => return None,
            HealthTest::Command(args) => args.clone(),
            HealthTest::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        };
        let or = |given: Option<Duration>, default| {
            given.filter(|duration| !duration.is_zero()).unwrap_or(Duration::from_secs(default))
        };
        Some(Self {
            args,
            interval: or(check.interval, 30),
            timeout: or(check.timeout, 30),
            retries: check.retries.filter(|retries| *retries > 0).unwrap_or(3),
            start_period: check.start_period.unwrap_or_default(),
            start_interval: or(check.start_interval, 5),
        })
    }
}

/// The health of one run of a container.
#[derive(Debug)]
pub(super) struct Monitor {
    plan: Plan,
    /// The container's run-time directory, where the shim listens.
    run: PathBuf,
    started: Instant,
    health: Health,
    /// When the next check that decides is due.
    regular: Instant,
    /// When the next early check is due, and the pause after it; `None` once they have grown into the regular ones.
    early: Option<(Instant, Duration)>,
    check: Option<Check>,
}

#[derive(Debug)]
struct Check {
    /// Whether a failure counts.
    regular: bool,
    task: JoinHandle<Outcome>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Monitor {
    /// Begins to watch a container that has just been started, or, with `known`, one whose health so far is known.
    pub(super) fn new(plan: Plan, run: PathBuf, known: Option<Health>) -> Self {
        let now = Instant::now();
        let health = known.unwrap_or(Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() });
        let starting = health.status == HealthStatus::Starting;
        let mut monitor = Self {
            plan,
            run,
            started: now,
            health,
            regular: now,
            early: starting.then_some((now, FIRST_PAUSE)),
            check: None,
        };
        monitor.regular = now + monitor.interval(now);
        monitor
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Waits for the next result, and returns the status before it. Cancel-safe: a check under way goes on.
    pub(super) async fn next(&mut self) -> HealthStatus {
        loop {
            if let Some(check) = &mut self.check {
                let outcome = (&mut check.task).await;
                let regular = check.regular;
                self.check = None;
                // Only a panic of ours ends the task without an outcome; then the check is simply due again.
                if let Ok(outcome) = outcome {
                    let before = self.health.status;
                    self.record(outcome, regular, Instant::now());
                    return before;
                }
            }
            let early = self.early.map_or(self.regular, |(due, _)| due.min(self.regular));
            tokio::time::sleep_until(early).await;
            let task = tokio::spawn(probe::run(self.run.clone(), self.plan.args.clone(), self.plan.timeout));
            self.check = Some(Check { regular: Instant::now() >= self.regular, task });
        }
    }

    fn interval(&self, now: Instant) -> Duration {
        let starting = self.health.status == HealthStatus::Starting && now < self.started + self.plan.start_period;
        if starting { self.plan.start_interval.min(self.plan.interval) } else { self.plan.interval }
    }

    /// Takes one result into account.
    fn record(&mut self, outcome: Outcome, regular: bool, now: Instant) {
        if outcome.healthy() {
            self.health.status = HealthStatus::Healthy;
            self.health.failing_streak = 0;
            self.early = None;
        } else if regular && !self.in_start_period(now) {
            self.health.failing_streak += 1;
            if self.health.failing_streak >= self.plan.retries {
                self.health.status = HealthStatus::Unhealthy;
                self.early = None;
            }
        }
        let interval = self.interval(now);
        if regular || outcome.healthy() {
            self.regular = now + interval;
        }
        self.early = match self.early {
            Some((_, pause)) if pause < interval => Some((now + pause, pause * 2)),
            _ => None,
        };
        if regular || outcome.healthy() {
            self.health.log.push(outcome.result);
            let surplus = self.health.log.len().saturating_sub(LOG);
            self.health.log.drain(..surplus);
        }
    }

    fn in_start_period(&self, now: Instant) -> bool {
        self.health.status == HealthStatus::Starting && now < self.started + self.plan.start_period
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::state::HealthResult;

    fn outcome(exit_code: i32) -> Outcome {
        let now = jiff::Timestamp::UNIX_EPOCH;
        Outcome { result: HealthResult { start: now, end: now, exit_code, output: String::new() } }
    }

    fn monitor(check: &Healthcheck) -> Monitor {
        Monitor::new(Plan::new(check).unwrap(), PathBuf::new(), None)
    }

    fn check() -> Healthcheck {
        Healthcheck {
            test: HealthTest::Shell("true".to_owned()),
            interval: Some(Duration::from_secs(10)),
            timeout: None,
            retries: Some(2),
            start_period: None,
            start_interval: None,
        }
    }

    #[test]
    fn failures_that_count_make_it_unhealthy_and_a_success_makes_it_healthy() {
        let mut monitor = monitor(&check());
        monitor.record(outcome(1), true, Instant::now());
        assert_eq!((monitor.health.status, monitor.health.failing_streak), (HealthStatus::Starting, 1));
        monitor.record(outcome(1), true, Instant::now());
        assert_eq!((monitor.health.status, monitor.health.failing_streak), (HealthStatus::Unhealthy, 2));
        monitor.record(outcome(0), true, Instant::now());
        assert_eq!((monitor.health.status, monitor.health.failing_streak), (HealthStatus::Healthy, 0));
    }

    #[test]
    fn early_failures_and_failures_in_the_start_period_do_not_count() {
        let mut early = monitor(&check());
        for _ in 0..9 {
            early.record(outcome(1), false, Instant::now());
        }
        assert_eq!((early.health.failing_streak, early.health.log.len()), (0, 0));

        let mut patient = monitor(&Healthcheck { start_period: Some(Duration::from_mins(1)), ..check() });
        let now = Instant::now();
        for _ in 0..9 {
            patient.record(outcome(1), true, now);
        }
        assert_eq!((patient.health.status, patient.health.failing_streak), (HealthStatus::Starting, 0));
        assert_eq!(patient.health.log.len(), LOG);
        assert_eq!(patient.regular, now + Duration::from_secs(5), "the start interval is used");
    }

    #[test]
    fn early_checks_grow_into_the_regular_ones() {
        let mut monitor = monitor(&check());
        let now = monitor.started;
        assert_eq!(monitor.early.unwrap().0, now);
        let mut pauses = Vec::new();
        while let Some((due, _)) = monitor.early {
            pauses.push((due - now).as_millis());
            monitor.record(outcome(1), false, now);
        }
        assert_eq!(pauses, [0, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120]);
    }

    #[test]
    fn a_disabled_check_is_no_plan() {
        assert_eq!(Plan::new(&Healthcheck { test: HealthTest::None, ..check() }), None);
    }
}
