//! Waiting for a service to be what others depend on.

use std::time::Duration;

use rcompose_engine::container::state::{ContainerState, HealthStatus, Status};
use rcompose_engine::container::store;
use rcompose_engine::protocol::Condition;

use super::super::engine::Engine;
use super::super::plan::{Named, Until, Wait};
use super::outcome::{Fault, Unready, judge};
use super::step::{StepError, title};
use crate::ui::progress::Progress;

/// A container without a health check counts as running once it has run this long: one that cannot work has ended by then
/// as a rule. Docker Compose looks for the first time after half a second.
const STEADY: Duration = Duration::from_millis(300);

/// Waits until every container of a service is what it should be, or until one of them cannot become it.
pub(super) async fn wait(engine: &Engine, progress: &Progress, wanted: &Wait) -> Result<(), StepError> {
    for container in &wanted.containers {
        progress.working(&title(container), "Waiting");
    }
    for container in &wanted.containers {
        let unready = match ready(engine, wanted, container).await {
            Ok(()) => continue,
            Err(StepError::Waited(unready)) => unready,
            Err(error) => return Err(error),
        };
        for container in &wanted.containers {
            if wanted.required {
                progress.error(&title(container), "Error");
            } else {
                progress.warning(&title(container), &format!("Skipped: {unready}"));
            }
        }
        return if wanted.required { Err(unready.into()) } else { Ok(()) };
    }
    said(progress, wanted);
    Ok(())
}

/// Waits until one container is what is wanted; an error where it cannot become that.
pub(super) async fn ready(engine: &Engine, wanted: &Wait, container: &Named) -> Result<(), StepError> {
    let state = reached(engine, container, wanted.until).await?;
    match judge(wanted.until, &state) {
        Ok(_) => Ok(()),
        Err(fault) => Err(unready(engine, wanted, container, fault)),
    }
}

/// Watches a container that is ready for so long; an error where it ends or becomes unhealthy meanwhile.
pub(super) async fn steady(
    engine: &Engine,
    wanted: &Wait,
    container: &Named,
    monitor: Duration,
) -> Result<(), StepError> {
    let state = tokio::select! {
        state = engine.wait(&container.id, Condition::Faulty), if !monitor.is_zero() => state,
        () = tokio::time::sleep(monitor) => return Ok(()),
    };
    let state = state.map_err(StepError::container("watch", container))?;
    let code = state.exit_code;
    let fault = match judge(wanted.until, &state) {
        Err(fault) => fault,
        Ok(_) if state.status.is_running() => Fault::CrashLoop { code, restarts: state.restart_count },
        Ok(_) => Fault::Exited { code },
    };
    Err(unready(engine, wanted, container, fault))
}

fn unready(engine: &Engine, wanted: &Wait, container: &Named, fault: Fault) -> StepError {
    let names = (&container.id, container.name.as_str());
    Unready::new(&engine.root, &engine.project, names, wanted, fault).into()
}

/// Says what would be said where what is waited for comes.
pub(super) fn pretend(progress: &Progress, wanted: &Wait) {
    for container in &wanted.containers {
        progress.working(&title(container), "Waiting");
    }
    said(progress, wanted);
}

fn said(progress: &Progress, wanted: &Wait) {
    let said = if is_of_end(wanted.until) { "Exited" } else { "Healthy" };
    for container in &wanted.containers {
        progress.done(&title(container), said);
    }
}

/// Returns a container's state once it is settled. Where the disk tells that already, no supervisor is asked.
async fn reached(engine: &Engine, container: &Named, until: Until) -> Result<ContainerState, StepError> {
    loop {
        let known = load(engine, container)?;
        let state = match known {
            Some(state) if is_settled(&state, until) => state,
            _ => {
                let condition = if is_of_end(until) { Condition::NotRunning } else { Condition::Healthy };
                engine.wait(&container.id, condition).await.map_err(StepError::container("wait for", container))?
            }
        };
        if until != Until::RunningOrHealthy || !state.status.is_running() || state.health.is_some() {
            return Ok(state);
        }
        let ran = state.started_at.map_or(Duration::ZERO, |started| {
            Duration::try_from(jiff::Timestamp::now().duration_since(started)).unwrap_or_default()
        });
        let Some(rest) = STEADY.checked_sub(ran) else { return Ok(state) };
        tokio::select! {
            ended = engine.wait(&container.id, Condition::NotRunning) => {
                return ended.map_err(StepError::container("wait for", container));
            }
            () = tokio::time::sleep(rest) => {}
        }
        // It may have been restarted meanwhile; then that run is the one that counts.
        if load(engine, container)?.is_some_and(|now| now.started_at == state.started_at && now.status.is_running()) {
            return Ok(state);
        }
    }
}

/// Returns whether it is the end of containers that is waited for.
fn is_of_end(until: Until) -> bool {
    matches!(until, Until::Completed | Until::Prepared)
}

fn load(engine: &Engine, container: &Named) -> Result<Option<ContainerState>, StepError> {
    let known = store::load(&engine.root, &container.id);
    let known = known.map_err(|source| StepError::State { name: container.name.clone(), source })?;
    Ok(known.map(|known| known.state))
}

/// Returns whether waiting would change nothing any more. A container that ended may be about to be restarted.
fn is_settled(state: &ContainerState, until: Until) -> bool {
    let health = state.health.as_ref().map(|health| health.status);
    match until {
        Until::Completed | Until::Prepared => state.status == Status::Exited && state.exit_code == 0,
        Until::Healthy | Until::RunningOrHealthy => {
            state.status.is_running() && !matches!(health, Some(HealthStatus::Starting))
        }
    }
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::state::Health;

    use super::*;

    #[test]
    fn what_may_still_change_is_waited_for() {
        let state = |status, exit_code| ContainerState { exit_code, ..ContainerState::new(status) };
        let health = Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() };
        let starting = ContainerState { health: Some(health), ..state(Status::Running, 0) };
        assert!(!is_settled(&starting, Until::Healthy));
        assert!(is_settled(&ContainerState { health: None, ..starting }, Until::Healthy));
        assert!(!is_settled(&state(Status::Exited, 1), Until::Completed));
        assert!(!is_settled(&state(Status::Created, 0), Until::RunningOrHealthy));
    }
}
