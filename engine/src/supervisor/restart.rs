//! When a container that ended is started again.

use std::time::Duration;

use crate::container::config::RestartPolicy;

/// The pause before the first restart.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause between restarts.
const LONGEST: Duration = Duration::from_mins(1);
/// A container that ran this long has recovered: the next pause is the first one again.
const RECOVERED: Duration = Duration::from_secs(10);

/// A pause that is only reached by a container that ended eight times in a row, each time soon after its start: about a
/// quarter of a minute, in which what it may need has come up.
const HOPELESS: Duration = Duration::from_millis(12_800);

/// The pause that grows while a container keeps ending.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// Returns how long to wait before the next restart of a container that ran for `ran`.
    pub(super) fn next(&mut self, ran: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if ran < RECOVERED => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(pause);
        pause
    }

    /// Returns whether the container has kept ending for so long that whoever waits for it need not go on.
    pub(super) fn is_hopeless(&self) -> bool {
        self.last.is_some_and(|pause| pause >= HOPELESS)
    }
}

/// Returns whether a container that ended by itself is to be started again.
///
/// `count` is how often that has happened since it was last started by hand.
pub(super) fn again(policy: RestartPolicy, exit_code: i32, count: u32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { maximum } => exit_code != 0 && (maximum == 0 || count < maximum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_minute_and_starts_over_after_a_long_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..12).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert!(backoff.is_hopeless());
        assert_eq!(backoff.next(Duration::from_secs(10)).as_millis(), 100);
        assert!(!backoff.is_hopeless());
    }

    #[test]
    fn policies() {
        let limited = RestartPolicy::OnFailure { maximum: 2 };
        assert!(!again(RestartPolicy::No, 1, 0));
        assert!(again(RestartPolicy::Always, 0, 99));
        assert!(again(RestartPolicy::UnlessStopped, 0, 99));
        assert!(!again(limited, 0, 0));
        assert!(again(limited, 1, 1));
        assert!(!again(limited, 1, 2));
        assert!(again(RestartPolicy::OnFailure { maximum: 0 }, 1, 1000));
    }
}
