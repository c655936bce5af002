//! The shim: one small blocking process per container.

pub mod protocol;
