//! The only place that writes to the terminal.

pub mod diagnostics;
