//! Images: pulls, pushes, the store, what kills it and what attacks it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_stack_arrays,
    clippy::needless_pass_by_value,
    clippy::format_push_string,
    reason = "helpers of tests fail by panicking, and say on the terminal what they skip"
)]

mod hostile;
#[cfg(target_arch = "x86_64")]
mod kill;
mod pull;
mod push;
mod registry;
mod speed;
mod store;
mod support;
