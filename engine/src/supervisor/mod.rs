//! The supervisor: one process per project that looks after its containers.

pub mod client;
pub mod spawn;
pub mod wire;
