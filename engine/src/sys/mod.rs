//! Every `unsafe` of the crate and every raw system call, each behind a safe function with its man-page name.
#![allow(unsafe_code, reason = "this module is where system calls that nix lacks are made safe")]

pub mod bpf;
pub mod capabilities;
pub mod clone;
pub mod file;
pub mod mount;
pub mod net;
pub mod pidfd;
pub mod process;
pub mod readiness;
pub mod shared;
pub mod socket;
pub mod terminal;
pub mod xattr;

/// Fills `buffer` from the kernel's random source (`getrandom(2)`).
pub fn random(buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        // SAFETY: `rest` is valid for writes of its length for the duration of the call.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        // Only a signal before the pool is ready can interrupt it (getrandom(2)); then it is simply called again.
        filled += usize::try_from(n).unwrap_or(0);
    }
}
