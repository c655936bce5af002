//! Containers: what was asked, what became of it, and how it is made.

pub mod config;
pub mod state;
pub mod store;
