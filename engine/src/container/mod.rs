//! Containers: what was asked, what became of it, and how it is made.

pub mod apparmor;
pub mod beneath;
pub mod capabilities;
pub mod cdi;
pub mod cgroup;
pub mod config;
pub mod files;
pub mod hooks;
pub mod log;
pub mod memory;
pub mod mounts;
pub mod process;
pub mod processes;
mod resources;
pub mod rootfs;
pub mod seccomp;
pub mod signal;
pub mod spec;
pub mod state;
pub mod stats;
pub mod step;
pub mod store;
pub mod sysctl;
pub mod user;
