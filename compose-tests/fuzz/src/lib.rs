//! The loader, and what the fuzz targets do with it.

/// The loader alone: the whole program would take minutes to build for fuzzing.
#[path = "../../../src/compose/mod.rs"]
#[allow(clippy::all, clippy::pedantic, dead_code, reason = "checked where it belongs")]
pub mod compose;
pub mod targets;
