//! Networks as containers and the host's neighbours meet them.
//!
//! Every test is a host of its own: a thread in a network namespace that was just made, so the tests need nothing of
//! the machine, leave nothing on it and run side by side. What needs root and has none says so and passes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on ends, and says why it is skipped"
)]

mod addresses;
mod connect;
mod dns;
mod host;
mod isolation;
mod lifecycle;
mod options;
mod ports;
