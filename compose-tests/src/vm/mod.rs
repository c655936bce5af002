//! A virtual machine with Debian's kernel, for what this host's kernel cannot show: a pure cgroup v2 hierarchy, power
//! cuts, reboots.
//!
//! QEMU emulates the processor (no KVM is needed). [`guest`] makes what it boots, out of Debian packages and without
//! installing any of them; [`machine`] runs it and talks to it.

pub mod guest;
pub mod machine;
mod newc;
pub mod payload;
pub mod power;
