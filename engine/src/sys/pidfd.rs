//! Processes by descriptor: `pidfd_open(2)`, `pidfd_send_signal(2)`, waiting, and the exit status of a process that is
//! not ours.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::readiness;

/// Returns a descriptor of this process.
pub fn open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: both arguments are plain numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal by number, so that real-time signals can be sent too.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: no signal information is passed (null), the rest are plain numbers.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    Errno::result(result).map(drop)
}

/// Returns whether the process has ended (it may be a zombie still).
pub fn has_ended(pidfd: BorrowedFd<'_>) -> Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].any().unwrap_or(true))
}

/// Waits for the end of a process (it may be a zombie then), at most so long. Returns whether it came.
pub fn wait_ended(pidfd: BorrowedFd<'_>, patience: Duration) -> Result<bool> {
    readiness::wait(pidfd, PollFlags::POLLIN, patience)
}

/// Returns the exit code of a process that has ended, as a shell says it (128 + n after signal n), or `None` where it
/// still runs or nobody can tell any more.
///
/// A child of the caller is reaped by this. Of any other process the kernel tells since Linux 6.15, once its parent
/// has reaped it (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`).
pub fn exit_code(pidfd: BorrowedFd<'_>) -> Option<i32> {
    match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::__WALL) {
        Err(Errno::EINTR) => exit_code(pidfd),
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
        Ok(_) => None,
        Err(_) => exit_info(pidfd),
    }
}

/// Waits until the process is no longer even a zombie, at most `milliseconds`. Kernels before 6.9 do not tell.
pub fn wait_reaped(pidfd: BorrowedFd<'_>, milliseconds: u16) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::empty())];
    poll(&mut fds, PollTimeout::from(milliseconds)).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// `struct pidfd_info` of `linux/pidfd.h`, first version (64 bytes).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, then real, effective, saved and filesystem uid and gid.
    ids: [u32; 11],
    exit_code: i32,
}

fn exit_info(pidfd: BorrowedFd<'_>) -> Option<i32> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info)
    const PIDFD_GET_INFO: libc::Ioctl = 0xC000_FF0B | ((size_of::<PidfdInfo>() as libc::Ioctl) << 16);
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request carries the structure's size, which the kernel does not write beyond.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if result != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    Some(status_code(info.exit_code))
}

/// Returns the number of the process of a pidfd, while it is not reaped (`pidfd_open(2)`, `/proc/self/fdinfo`).
pub fn pid(pidfd: BorrowedFd<'_>) -> Option<Pid> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    // 0 is a process of a namespace that is not seen from here, -1 one that is gone.
    (number > 0).then(|| Pid::from_raw(number))
}

/// Returns the exit code within a wait status (`wait(2)`), as a shell says it.
pub fn status_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Returns the time at which a process was started, in clock ticks since boot (field 22 of `proc_pid_stat(5)`).
pub fn start_time(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may contain anything, also spaces and parentheses; the last `)` ends it.
    let rest = &stat[stat.rfind(')')? + 2..];
    rest.split(' ').nth(19)?.parse().ok()
}

/// Kills a process that this process started and waits for its end.
pub fn kill_and_reap(pidfd: BorrowedFd<'_>) {
    // Nothing to do about a process that is gone already.
    send_signal(pidfd, Signal::SIGKILL as i32).ok();
    while waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED | WaitPidFlag::__WALL) == Err(Errno::EINTR) {}
}
