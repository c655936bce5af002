//! Waiting for something with a deadline, and saying what was seen when it passes.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for what should come within a second, and does in a minute where the processor is emulated.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Calls `look` until it answers `Ok`, and returns that; panics with the last `Err` when `deadline` has passed.
pub fn until<T, E: Debug>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if started.elapsed() > deadline => {
                panic!("waited {:.1} s for {what}; last seen: {seen:#?}", started.elapsed().as_secs_f64())
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
