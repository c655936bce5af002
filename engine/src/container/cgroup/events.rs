//! What the kernel tells of a group of version 2: whether processes are in it, and whether they stand still.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::sys::readiness;

/// No process is in the group or below it.
pub(super) const EMPTY: &str = "populated 0";
/// All processes in the group and below it stand still.
pub(super) const FROZEN: &str = "frozen 1";

/// Waits until a line is in a group's `cgroup.events`, at most so long. Returns whether it came.
pub(super) fn wait(group: &Path, line: &str, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut file = File::open(group.join("cgroup.events"))?;
    let mut text = String::new();
    loop {
        // What changes after it was read is told by `POLLPRI` (cgroups(7)).
        text.clear();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if text.lines().any(|known| known == line) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !readiness::wait(file.as_fd(), PollFlags::POLLPRI, left)? {
            return Ok(false);
        }
    }
}
