//! `autostart`: which containers a reboot must not end, and the plan that brings them back.

use rcompose_engine::container::config::RestartPolicy;
use rcompose_engine::container::state::Status;
use rcompose_engine::container::store::Container;

use super::Plan;
use super::lifecycle::{self, is_active};

/// Returns the plan that brings back those of a project's containers whose restart policy says so.
pub fn autostart(containers: &[Container]) -> Plan {
    let chosen = containers.iter().filter(|container| comes_back(container)).collect::<Vec<_>>();
    lifecycle::start(&chosen)
}

/// Returns whether a container is to run again after a reboot, as Docker's does when its daemon starts: `always` even if
/// it was stopped by hand, `unless-stopped` unless, `on-failure` where it failed, as one did that the reboot ended.
fn comes_back(container: &Container) -> bool {
    let state = &container.state;
    // One that was never started is nobody's loss; one in the pause before a restart is started by its supervisor, once
    // it has one.
    let ended = !is_active(container) || state.status == Status::Restarting;
    ended
        && state.status != Status::Created
        && match container.config.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !state.stopped,
            RestartPolicy::OnFailure { maximum } => {
                !state.stopped && state.exit_code != 0 && (maximum == 0 || state.restart_count < maximum)
            }
        }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{container, edges, steps};
    use super::*;

    fn ended(name: &str, restart: RestartPolicy, exit_code: i32, stopped: bool) -> Container {
        let mut container = container(name, name, 1, "", Status::Exited);
        container.config.restart = restart;
        container.state.exit_code = exit_code;
        container.state.stopped = stopped;
        container
    }

    #[test]
    fn policies_decide() {
        let failing = RestartPolicy::OnFailure { maximum: 2 };
        let mut exhausted = ended("exhausted", failing, 1, false);
        exhausted.state.restart_count = 2;
        let mut created = ended("created", RestartPolicy::Always, 0, false);
        created.state.status = Status::Created;
        let mut running = ended("running", RestartPolicy::Always, 0, false);
        running.state.status = Status::Running;
        let all = vec![
            ended("no", RestartPolicy::No, 255, false),
            ended("always", RestartPolicy::Always, 0, false),
            ended("always-stopped", RestartPolicy::Always, 0, true),
            ended("unless", RestartPolicy::UnlessStopped, 255, false),
            ended("unless-stopped", RestartPolicy::UnlessStopped, 0, true),
            ended("failed", failing, 255, false),
            ended("succeeded", failing, 0, false),
            exhausted,
            created,
            running,
        ];
        assert_eq!(
            steps(&autostart(&all)),
            ["start always (Asked)", "start always-stopped (Asked)", "start unless (Asked)", "start failed (Asked)"]
        );
    }

    #[test]
    fn what_others_depend_on_comes_first() {
        let mut all = [
            container("shop-db-1", "db", 1, "", Status::Exited),
            container("shop-web-1", "web", 1, "db:service_healthy:false", Status::Exited),
        ];
        for container in &mut all {
            container.config.restart = RestartPolicy::Always;
        }
        assert_eq!(edges(&autostart(&all)), ["start shop-db-1 → start shop-web-1"]);
    }
}
