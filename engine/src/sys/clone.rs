//! `clone3(2)` without a shared address space: a fork that can also make namespaces and choose the parent.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::unistd::Pid;

/// Namespaces of `clone3(2)`, `unshare(2)` and `setns(2)`.
pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
/// The child's parent is the caller's parent.
pub const PARENT: u64 = libc::CLONE_PARENT as u64;

const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a clone this process is.
#[derive(Debug)]
pub enum Cloned {
    Parent { pid: Pid, pidfd: OwnedFd },
    Child,
}

/// Clones this process with these flags; the child begins in the cgroup of version 2 that `cgroup` refers to.
///
/// The process must have a single thread: the child has a copy of its memory as it is, so a lock that another thread
/// held would stay locked for ever.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` is a plain structure of integers, for which zero is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    // With CLONE_PARENT the signal is that of the caller, and asking for one is an error (clone(2)).
    args.exit_signal = if flags & PARENT == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    }
    // SAFETY: `args` outlives the call and its size is passed with it; without CLONE_VM the child returns here with a
    // copied address space, so no borrow of the parent's is shared. The caller promises a single thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    let pid = Errno::result(pid)?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?);
    // SAFETY: the kernel has just stored this descriptor (CLONE_PIDFD) and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid, pidfd })
}

/// Forks (`fork(3)`): unlike [`clone3`] this is usable while other threads exist, since the C library makes its
/// allocator usable in the child.
pub fn fork() -> Result<Option<Pid>> {
    // SAFETY: callers (the launcher, at the start of the supervisor) do nothing in the child that takes a lock
    // another thread could hold: the allocator is the C library's, which its fork handlers make safe.
    let result = unsafe { nix::unistd::fork() }?;
    Ok(match result {
        nix::unistd::ForkResult::Parent { child } => Some(child),
        nix::unistd::ForkResult::Child => None,
    })
}

/// Ends this process at once, without running destructors or exit handlers (`_exit(2)`).
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process; there is nothing to uphold.
    unsafe { libc::_exit(code) }
}
