//! Waiting for a service to be what others depend on.

use rcompose_engine::container::state::{ContainerState, HealthStatus, Status};
use rcompose_engine::container::store;
use rcompose_engine::protocol::Condition;

use super::super::engine::Engine;
use super::super::plan::{Named, Until, Wait};
use super::step::{StepError, title};
use crate::ui::progress::Progress;

/// Waits until every container of a service is what it should be, or until one of them cannot become it.
pub(super) async fn wait(engine: &Engine, progress: &Progress, wanted: &Wait) -> Result<(), StepError> {
    for container in &wanted.containers {
        progress.working(&title(container), "Waiting");
    }
    for container in &wanted.containers {
        let state = reached(engine, container, wanted.until).await?;
        let Err(fault) = judge(&container.name, wanted, &state) else { continue };
        for container in &wanted.containers {
            if wanted.required {
                progress.error(&title(container), "Error");
            } else {
                progress.warning(&title(container), &format!("Skipped: {fault}"));
            }
        }
        return if wanted.required { Err(StepError::Waited(fault)) } else { Ok(()) };
    }
    said(progress, wanted);
    Ok(())
}

/// Says what would be said where what is waited for comes.
pub(super) fn pretend(progress: &Progress, wanted: &Wait) {
    for container in &wanted.containers {
        progress.working(&title(container), "Waiting");
    }
    said(progress, wanted);
}

fn said(progress: &Progress, wanted: &Wait) {
    let said = if wanted.until == Until::Completed { "Exited" } else { "Healthy" };
    for container in &wanted.containers {
        progress.done(&title(container), said);
    }
}

/// Returns a container's state once it is settled. Where the disk tells that already, no supervisor is asked.
async fn reached(engine: &Engine, container: &Named, until: Until) -> Result<ContainerState, StepError> {
    let known = store::load(&engine.root, &container.id)
        .map_err(|source| StepError::State { name: container.name.clone(), source })?;
    if let Some(known) = known
        && is_settled(&known.state, until)
    {
        return Ok(known.state);
    }
    let condition = if until == Until::Completed { Condition::NotRunning } else { Condition::Healthy };
    engine.wait(&container.id, condition).await.map_err(StepError::container("wait for", container))
}

/// Returns whether waiting would change nothing any more. A container that ended may be about to be restarted.
fn is_settled(state: &ContainerState, until: Until) -> bool {
    let health = state.health.as_ref().map(|health| health.status);
    match until {
        Until::Completed => state.status == Status::Exited && state.exit_code == 0,
        Until::Healthy | Until::RunningOrHealthy => {
            state.status.is_running() && !matches!(health, Some(HealthStatus::Starting))
        }
    }
}

/// Returns what is wrong with the state that a container came to, in Docker Compose's words.
fn judge(name: &str, wanted: &Wait, state: &ContainerState) -> Result<(), String> {
    let service = &wanted.service;
    let health = state.health.as_ref().map(|health| health.status);
    let fault = match (wanted.until, health) {
        (Until::Completed, _) if state.status.is_running() => format!("container {name} is still running"),
        (Until::Completed, _) if state.exit_code == 0 => return Ok(()),
        (Until::Completed, _) => {
            let code = state.exit_code;
            let what = if wanted.required { "service" } else { "optional dependency" };
            return Err(format!("{what} \"{service}\" didn't complete successfully: exit {code}"));
        }
        _ if !state.status.is_running() && state.oom_killed && state.exit_code == 137 => {
            format!("container {name} exited (137): out of memory")
        }
        _ if !state.status.is_running() => format!("container {name} exited ({})", state.exit_code),
        (_, Some(HealthStatus::Healthy)) | (Until::RunningOrHealthy, None) => return Ok(()),
        (Until::Healthy, None) => format!("container {name} has no healthcheck configured"),
        (_, Some(_)) => format!("container {name} is unhealthy"),
    };
    Err(match (wanted.required, wanted.until) {
        (true, Until::Healthy) => format!("dependency failed to start: {fault}"),
        (true, _) => fault,
        (false, _) => format!("optional dependency \"{service}\" failed to start: {fault}"),
    })
}

#[cfg(test)]
mod tests {
    use rcompose_engine::container::state::Health;

    use super::*;

    fn state(status: Status, exit_code: i32, health: Option<HealthStatus>) -> ContainerState {
        let health = health.map(|status| Health { status, failing_streak: 0, log: Vec::new() });
        ContainerState { exit_code, health, ..ContainerState::new(status) }
    }

    fn judged(until: Until, required: bool, state: &ContainerState) -> Result<(), String> {
        judge("p-db-1", &Wait { service: "db".into(), containers: Vec::new(), until, required }, state)
    }

    #[test]
    fn health_is_judged_in_docker_composes_words() {
        use HealthStatus::{Healthy, Unhealthy};
        let running = |health| state(Status::Running, 0, health);
        assert_eq!(judged(Until::Healthy, true, &running(Some(Healthy))), Ok(()));
        assert_eq!(judged(Until::RunningOrHealthy, true, &running(None)), Ok(()));
        for (state, want) in [
            (running(Some(Unhealthy)), "dependency failed to start: container p-db-1 is unhealthy"),
            (running(None), "dependency failed to start: container p-db-1 has no healthcheck configured"),
            (state(Status::Exited, 3, None), "dependency failed to start: container p-db-1 exited (3)"),
        ] {
            assert_eq!(judged(Until::Healthy, true, &state), Err(want.to_owned()));
        }
        assert!(judged(Until::Healthy, false, &running(None)).unwrap_err().starts_with("optional dependency \"db\""));
    }

    #[test]
    fn completion_is_an_exit_with_zero() {
        assert_eq!(judged(Until::Completed, true, &state(Status::Exited, 0, None)), Ok(()));
        assert_eq!(
            judged(Until::Completed, true, &state(Status::Exited, 3, None)),
            Err("service \"db\" didn't complete successfully: exit 3".to_owned())
        );
    }

    #[test]
    fn what_may_still_change_is_waited_for() {
        assert!(!is_settled(&state(Status::Running, 0, Some(HealthStatus::Starting)), Until::Healthy));
        assert!(is_settled(&state(Status::Running, 0, Some(HealthStatus::Healthy)), Until::Healthy));
        assert!(!is_settled(&state(Status::Exited, 1, None), Until::Completed));
        assert!(!is_settled(&state(Status::Created, 0, None), Until::RunningOrHealthy));
    }
}
