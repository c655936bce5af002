//! The chain of steps that an `up` took its time for, for people to read.

use super::plan::sentence as plain;
use crate::project::plan::document::Verb;
use crate::project::timeline::{Timed, Timeline};

/// Steps that took less than this, in microseconds, are not worth a line.
const BRIEF: i64 = 500;

/// Returns the critical path as text.
pub fn render(timeline: &Timeline) -> String {
    let path = timeline.critical_path();
    let mut lines = vec![format!("up of {} took {}", timeline.project, seconds(timeline.took()))];
    for (n, timed) in path.iter().enumerate() {
        if timed.step.action != Verb::Join && timed.took() >= BRIEF {
            lines.push(format!("{:>9}  {}", seconds(timed.took()), sentence(timed, path.get(n + 1).copied())));
        }
    }
    super::lines(lines)
}

/// Returns what a step did, and for whom: who comes next is who waited.
fn sentence(timed: &Timed, next: Option<&Timed>) -> String {
    let came_to = match timed.step.action {
        Verb::WaitUntilHealthy => "to be healthy",
        Verb::WaitUntilRunning => "to be running",
        Verb::WaitUntilCompleted => "to finish",
        _ => return format!("{}: {}", plain(&timed.step), timed.step.cause.text),
    };
    let (service, took) = (&timed.step.name, seconds(timed.took()));
    match next.and_then(|next| next.step.service.as_ref()).filter(|user| *user != service) {
        Some(user) => format!("{user} waited {took} for {service} {came_to}"),
        None => format!("{service} took {took} {came_to}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
fn seconds(microseconds: i64) -> String {
    match microseconds {
        ..100_000 => format!("{:.1} ms", microseconds as f64 / 1e3),
        _ => format!("{:.2} s", microseconds as f64 / 1e6),
    }
}
