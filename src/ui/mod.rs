//! The only place that writes to the terminal.

pub mod colour;
pub mod diagnostics;
pub mod human;
pub mod logs;
pub mod progress;
pub mod table;
mod tty;
