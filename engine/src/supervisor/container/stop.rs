//! A container is sent signals, and ended by them.

use std::time::Duration;

use nix::unistd::Pid;
use tokio::time::Instant;

use super::{Actor, Answer, conflict, reply};
use crate::container::signal;
use crate::container::state::Status;
use crate::protocol::{EventKind, Failure, FailureKind, Stopped};

/// How long a container has between its stop signal and `SIGKILL` where nobody said.
const GRACE: Duration = Duration::from_secs(10);
pub(super) const KILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// A stop under way.
pub(super) struct Stopping {
    /// When `SIGKILL` is sent; `None` once it was.
    pub(super) deadline: Option<Instant>,
    pub(super) how: Stopped,
    pub(super) answers: Vec<Answer<Stopped>>,
}

impl Actor {
    pub(super) fn stop(&mut self, timeout: Option<Duration>, answer: Answer<Stopped>) {
        self.restart_at = None;
        if !self.state.stopped {
            self.state.stopped = true;
            if self.state.status == Status::Restarting {
                self.state.status = Status::Exited;
            }
            self.save();
        }
        let Some(run) = &self.run else { return reply(answer, Ok(Stopped::NotRunning)) };
        let grace = timeout.or(self.config.stop_grace_period).unwrap_or(GRACE);
        if let Some(stopping) = &mut self.stopping {
            // A second, more impatient request shortens the first.
            stopping.deadline = stopping.deadline.map(|deadline| deadline.min(Instant::now() + grace));
            stopping.answers.push(answer);
            return;
        }
        let signal = run.stop_signal;
        let reachable = signal::can_receive(Pid::from_raw(run.pid), signal);
        let now = Instant::now();
        let (how, deadline) = if reachable {
            (Stopped::Signal, now + grace)
        } else {
            (Stopped::Unreachable { signal: signal::name(signal) }, now)
        };
        self.stopping = Some(Stopping { deadline: Some(deadline), how, answers: vec![answer] });
        // Also where there is no time for it, or the kernel drops it: listeners know a stop by it.
        self.signal(signal);
        if grace.is_zero() || !reachable {
            self.stop_by_force();
        } else {
            self.thaw_for_signal();
        }
    }

    pub(super) fn stop_by_force(&mut self) {
        let Some(stopping) = &mut self.stopping else { return };
        stopping.deadline = None;
        if stopping.how == Stopped::Signal {
            stopping.how = Stopped::Killed;
        }
        self.signal(KILL);
        self.thaw_for_signal();
    }

    pub(super) fn kill(&mut self, name: &str) -> Result<(), Failure> {
        let signal = signal::parse(name).ok_or_else(|| Failure {
            kind: FailureKind::Other,
            message: format!("`{name}` is not a signal"),
            hint: Some("use a name such as SIGTERM or a number".to_owned()),
        })?;
        if self.run.is_none() {
            return Err(conflict(&self.config, "is not running"));
        }
        // As Docker: who sends the container its end by hand does not want it back.
        let deadly = signal == KILL || self.run.as_ref().is_some_and(|run| signal == run.stop_signal);
        if deadly {
            self.state.stopped = true;
            self.save();
        }
        self.signal(signal);
        if deadly {
            self.thaw_for_signal();
        }
        Ok(())
    }

    pub(super) fn signal(&self, signal: i32) {
        if let Some(run) = &self.run {
            // A process that has just ended cannot be sent anything, and its end is on its way to this actor.
            if let Err(error) = run.signal(signal) {
                tracing::debug!(container = %self.config.name, %error, "cannot send {}", signal::name(signal));
            }
            self.event(EventKind::Kill, [("signal", signal.to_string())]);
        }
    }

    /// Lets a paused container take the signal that it was just sent.
    pub(super) fn thaw_for_signal(&mut self) {
        if let Err(failure) = self.thaw() {
            tracing::error!(container = %self.config.name, error = %failure, "cannot unpause it");
        }
    }
}
