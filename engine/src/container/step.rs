//! From an error of a system call to the [`Failure`] that names the step.

use nix::errno::Errno;

use crate::shim::protocol::Failure;

/// The exit code of a failure of the engine itself, as Docker's `run` gives it.
pub const ENGINE: i32 = 125;

/// The result of a step of container creation.
pub type Step<T> = Result<T, Failure>;

/// Says which step failed.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] of the step that `step` describes.
    fn step(self, step: impl FnOnce() -> String) -> Step<T>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn step(self, step: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|errno| Failure { step: step(), errno: errno as i32, code: ENGINE })
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => Failure { step: step(), errno, code: ENGINE },
            None => fault(format!("{}: {error}", step())),
        })
    }
}

impl<T> Context<T> for serde_json::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|error| fault(format!("{}: {error}", step())))
    }
}

/// Returns a failure that no system call told of.
pub fn fault(step: String) -> Failure {
    Failure { step, errno: 0, code: ENGINE }
}

/// While it exists, files are made with exactly the mode that is asked for (`umask(2)`).
#[derive(Debug)]
pub(crate) struct ExactModes(nix::sys::stat::Mode);

impl ExactModes {
    pub(crate) fn new() -> Self {
        Self(nix::sys::stat::umask(nix::sys::stat::Mode::empty()))
    }
}

impl Drop for ExactModes {
    fn drop(&mut self) {
        nix::sys::stat::umask(self.0);
    }
}
