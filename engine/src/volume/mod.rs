//! Local volumes.

pub mod copy_up;
