//! How the containers of a service are replaced while the service goes on (`deploy.update_config`).

use std::time::Duration;

use rcompose_engine::container::config::ContainerConfig;

use super::{Named, New};
use crate::compose::model::UpdateConfig;
use crate::project::hooks::Hooks;

/// How long a container has to stop, and connections to it to come to their end, where nobody said.
const GRACE: Duration = Duration::from_secs(10);

/// The replacement of containers of one service, some at a time, and what is done where that fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub service: String,
    pub replacements: Vec<Replacement>,
    pub policy: Policy,
    /// How what was replaced is brought back (`deploy.rollback_config`).
    pub rollback: Policy,
    /// How long a container has to stop, instead of what it says itself.
    pub timeout: Option<Duration>,
}

/// A container that runs, and the one that takes its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    pub number: u32,
    pub old: Side,
    pub new: New,
}

/// What has to be known of a container to start and stop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    pub container: Named,
    pub hooks: Hooks,
    /// How long it has to stop, and connections to it to come to their end.
    pub grace: Duration,
}

impl From<&ContainerConfig> for Side {
    fn from(config: &ContainerConfig) -> Self {
        let grace = config.stop_grace_period.unwrap_or(GRACE);
        Self { container: config.into(), hooks: Hooks::of(config), grace }
    }
}

/// `deploy.update_config` or `deploy.rollback_config`, with the defaults of the Compose Specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub order: Order,
    /// How many containers are replaced at a time; 0: all.
    pub parallelism: usize,
    /// How long is waited between those and the next.
    pub delay: Duration,
    /// How long a new container is watched after it took over: it must neither end nor become unhealthy.
    pub monitor: Duration,
    pub on_failure: OnFailure,
    /// The part of the containers whose replacement may fail.
    pub max_failure_ratio: f32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The new container starts when the old one has stopped.
    #[default]
    StopFirst,
    /// The old container stops when the new one has taken over.
    StartFirst,
}

/// What is done when more replacements fail than may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The others stay as they are.
    #[default]
    Pause,
    /// The others are replaced all the same.
    Continue,
    /// Those that were replaced are brought back.
    Rollback,
}

impl Policy {
    /// Returns what a section says, or what of it says nothing.
    pub fn of(config: &UpdateConfig) -> Result<Self, String> {
        let order = match config.order.as_deref() {
            None | Some("" | "stop-first") => Order::StopFirst,
            Some("start-first") => Order::StartFirst,
            Some(order) => return Err(format!("order: `{order}` is neither start-first nor stop-first")),
        };
        let on_failure = match config.failure_action.as_deref() {
            None | Some("" | "pause") => OnFailure::Pause,
            Some("continue") => OnFailure::Continue,
            Some("rollback") => OnFailure::Rollback,
            Some(action) => return Err(format!("failure_action: `{action}` is not pause, continue or rollback")),
        };
        Ok(Self {
            order,
            parallelism: usize::try_from(config.parallelism.unwrap_or(1)).unwrap_or(usize::MAX),
            delay: config.delay,
            monitor: config.monitor,
            on_failure,
            max_failure_ratio: config.max_failure_ratio,
        })
    }

    /// Returns how many of so many containers are replaced at a time.
    pub fn at_a_time(&self, of: usize) -> usize {
        if self.parallelism == 0 { of } else { self.parallelism.min(of) }
    }

    /// Returns whether so many failures, of so many containers, are too many to go on.
    pub fn is_exceeded_by(&self, failures: usize, of: usize) -> bool {
        let number = |count: usize| f32::from(u16::try_from(count).unwrap_or(u16::MAX));
        self.on_failure != OnFailure::Continue && number(failures) > self.max_failure_ratio * number(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_specification_has_it() {
        let policy = Policy::of(&UpdateConfig::default()).unwrap();
        assert_eq!((policy.order, policy.parallelism, policy.on_failure), (Order::StopFirst, 1, OnFailure::Pause));
        assert_eq!((policy.delay, policy.monitor), (Duration::ZERO, Duration::ZERO));
        let unknown = UpdateConfig { failure_action: Some("cry".into()), ..UpdateConfig::default() };
        assert_eq!(Policy::of(&unknown).unwrap_err(), "failure_action: `cry` is not pause, continue or rollback");
    }

    #[test]
    fn none_at_a_time_is_all() {
        let at_a_time = |parallelism, of| {
            let config = UpdateConfig { parallelism: Some(parallelism), ..UpdateConfig::default() };
            Policy::of(&config).unwrap().at_a_time(of)
        };
        assert_eq!([at_a_time(0, 5), at_a_time(2, 5), at_a_time(9, 5)], [5, 2, 5]);
    }

    #[test]
    fn a_part_of_the_containers_may_fail() {
        let policy = |action: &str, max_failure_ratio| {
            let failure_action = Some(action.to_owned());
            Policy::of(&UpdateConfig { failure_action, max_failure_ratio, ..UpdateConfig::default() }).unwrap()
        };
        assert!(policy("pause", 0.0).is_exceeded_by(1, 4));
        assert!(!policy("rollback", 0.25).is_exceeded_by(1, 4));
        assert!(policy("rollback", 0.25).is_exceeded_by(2, 4));
        assert!(!policy("continue", 0.0).is_exceeded_by(4, 4));
        assert!(!policy("pause", 0.0).is_exceeded_by(0, 4));
    }
}
