//! What a process does to itself on its way to `execve(2)`, and terminals.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

/// Sets the close-on-exec flag of every descriptor from `first` on (`close_range(2)`), also of ones that nobody here
/// knows of.
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    let first = u32::try_from(first).map_err(|_| Errno::EBADF)?;
    // SAFETY: closes nothing now; all arguments are plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes every descriptor but 0, 1, 2 and the given ones.
///
/// Only for a process that has just been forked and uses no other descriptor afterwards: whoever owned the closed
/// ones in the parent does not exist here any more.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    close_all_but_from(3, keep)
}

/// Likewise, but for every descriptor below `first`.
pub fn close_all_but_from(first: RawFd, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = u32::try_from(first).map_err(|_| Errno::EBADF)?;
    let start = first;
    for fd in keep.into_iter().filter(|fd| *fd >= start).chain([u32::MAX]) {
        if first < fd {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: by the contract above no owner of these descriptors exists in this process.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Makes `fd` the descriptor 0, 1 or 2, without close-on-exec.
pub fn dup_to_stdio(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    debug_assert!((0..=2).contains(&number));
    if fd.as_raw_fd() == number {
        return nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).map(drop);
    }
    // SAFETY: replaces one of the standard descriptors, which std never closes or takes for anything else.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Returns how many bytes can be read (`FIONREAD`).
pub fn readable(fd: BorrowedFd<'_>) -> Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Returns the other end of a pseudo-terminal without a path (`TIOCGPTPEER`), so that nothing in the container can
/// stand in its place.
pub fn terminal_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    const TIOCGPTPEER: libc::Ioctl = 0x5441;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let fd = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Unlocks the other end of a pseudo-terminal (`TIOCSPTLCK`).
pub fn unlock_terminal(master: BorrowedFd<'_>) -> Result<()> {
    let lock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const lock) }).map(drop)
}

/// Makes the terminal the controlling one of this session (`TIOCSCTTY`).
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number by value; 0 steals from nobody.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets the size of a terminal in characters (`TIOCSWINSZ`).
pub fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Sets user, group and supplementary groups of this process, real, effective and saved.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    // The raw calls change this thread only, which is the only one; the library's would signal all threads.
    // SAFETY: the list outlives the call and its length is passed with it.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: all arguments are plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: all arguments are plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Replaces this process by the program that `program` refers to (`execveat(2)` with an empty path). Returns only on
/// failure.
pub fn exec_fd(program: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> Errno {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both lists are null-terminated arrays of terminated strings that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// Replaces this process by the program at `path` (`execve(2)`). Returns only on failure.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: the path is terminated, both lists are null-terminated arrays of terminated strings; all outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Errno::last()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// One instruction of a seccomp filter (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Installs a seccomp filter (`seccomp(2)`). Needs `no_new_privs` or CAP_SYS_ADMIN.
pub fn install_seccomp_filter(filter: &[Instruction], flags: u32) -> Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const Instruction,
    }
    let length = u16::try_from(filter.len()).map_err(|_| Errno::E2BIG)?;
    let program = Program { length, filter: filter.as_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program has the layout of `struct sock_fprog` and outlives the call, as does the filter it points to.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) }).map(drop)
}

/// Makes every signal's action the default one and unblocks all, as a new program expects it.
pub fn reset_signals() {
    reset_signal_actions();
    nix::sys::signal::SigSet::empty().thread_set_mask().ok();
}

/// Makes every signal's action the default one.
pub fn reset_signal_actions() {
    /// `struct sigaction` as the kernel has it.
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let default = Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    for signal in 1..=64 {
        let none = std::ptr::null::<Action>();
        // The raw call, since the C library keeps 32 and 33 to itself, which its posix_spawn(3) leaves ignored.
        // SAFETY: sets the default action; signals that cannot be changed or do not exist are refused, which is fine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, none, size_of::<u64>()) };
    }
}

/// Makes the C library's allocator give back what is freed, for a small process that lives long: large buffers are mapped
/// for as long as they are used, and the heap is trimmed (`mallopt(3)`).
pub fn keep_heap_small() {
    // SAFETY: sets parameters of the allocator; the values are valid.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 10) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 10) };
}

/// Makes the threads of this process share two heaps: what one frees another can use, and less stays unused.
///
/// To be called before the first thread.
pub fn share_heaps() {
    // SAFETY: sets a parameter of the allocator; the value is valid.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// Gives the kernel every page back in which nothing is allocated any more (`malloc_trim(3)`).
pub fn trim_heap() {
    // SAFETY: only pages that hold nothing are given back.
    unsafe { libc::malloc_trim(0) };
}

/// Begins a new, empty session keyring (`keyctl(2)`), so that the one of the engine's session is not inherited. A kernel
/// without keyrings has none to hide.
pub fn join_new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    match Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) }) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Overwrites the command line and the environment that this process was started with (`/proc/<pid>/cmdline`, `environ`)
/// and gives it `name` as its command line. They are those of whoever started the engine, and a process on its way into a
/// container, or PID 1 of one, would show them there.
///
/// Reads `/proc`, so it comes before the process enters a container. Afterwards `std::env` knows neither arguments nor
/// variables.
pub fn forget_origin(name: &str) -> std::io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the program may have anything in it. What follows begins with field 3 (proc_pid_stat(5)).
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let [arguments, arguments_end, variables, variables_end] = fields
        .skip(48 - 3)
        .take(4)
        .filter_map(|field| field.parse::<usize>().ok())
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))?;
    for (start, end) in [(arguments, arguments_end), (variables, variables_end)] {
        // Hidden by the kernel, or empty.
        if start != 0 && start < end {
            // SAFETY: the kernel has put the strings of execve(2) here, at the end of the stack, and says where they are.
            // Nobody holds a reference to them: what reads them (`std::env`, getenv(3)) does so anew each time, finds empty
            // strings from now on, and this process has a single thread.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
        }
    }
    let length = name.len().min(arguments_end.saturating_sub(arguments).saturating_sub(1));
    if arguments != 0 && length > 0 {
        // SAFETY: as above; the name fits, and a zero byte is left behind it.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), arguments as *mut u8, length) };
    }
    Ok(())
}

/// Waits for any signal; all must be blocked (`sigwaitinfo(2)`). Returns its number, which may be a real-time one.
pub fn wait_signal() -> Result<i32> {
    // SAFETY: an all-zero set is a valid value to be filled.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid for writes.
    unsafe { libc::sigfillset(&raw mut set) };
    // SAFETY: the set outlives the call; no information is asked for (null).
    Errno::result(unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) })
}

/// Sends a signal by number, which may be a real-time one.
pub fn kill(pid: nix::unistd::Pid, signal: i32) {
    // SAFETY: both arguments are plain numbers. A process that is gone needs no signal.
    unsafe { libc::kill(pid.as_raw(), signal) };
}

/// Sets the NIS domain name of this UTS namespace (`setdomainname(2)`).
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: the name is valid for reads of its length, which is passed with it.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Ignores a signal.
pub fn ignore_signal(signal: nix::sys::signal::Signal) {
    // SAFETY: an ignored signal runs no code of ours.
    unsafe { libc::signal(signal as i32, libc::SIG_IGN) };
}

/// Sets the execution domain (`personality(2)`).
pub fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: the argument is a plain number.
    Errno::result(unsafe { libc::personality(domain) }).map(drop)
}

/// Sets the class and priority of this process's disk access (`ioprio_set(2)`): the class in the upper bits.
pub fn set_io_priority(value: i32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: all arguments are plain numbers; 0 is this process.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// How a process is scheduled (`struct sched_attr` of `sched_setattr(2)`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Scheduling {
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// Sets how this process is scheduled (`sched_setattr(2)`).
pub fn set_scheduling(mut scheduling: Scheduling) -> Result<()> {
    scheduling.size = u32::try_from(size_of::<Scheduling>()).unwrap_or_default();
    // SAFETY: the structure has the layout of the kernel's first version, whose size it carries, and outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const scheduling, 0) }).map(drop)
}

/// Enters a time namespace, which nix has no flag for (`setns(2)`).
pub fn join_time_namespace(namespace: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: both arguments are plain numbers.
    Errno::result(unsafe { libc::setns(namespace.as_raw_fd(), CLONE_NEWTIME) }).map(drop)
}

/// Makes a time namespace for the children of this process (`unshare(2)`).
pub fn new_time_namespace() -> Result<()> {
    // SAFETY: the argument is a plain number.
    Errno::result(unsafe { libc::unshare(CLONE_NEWTIME) }).map(drop)
}

/// A time namespace, which neither nix nor the C library's header has a name for.
pub const CLONE_NEWTIME: libc::c_int = 0x80;

/// Keeps descriptors from `first` up to `end` open across `execve(2)`. Fails with `EBADF` where one is not open.
pub fn keep_on_exec(first: RawFd, end: RawFd) -> Result<()> {
    for number in first..end {
        // SAFETY: F_SETFD takes a number and changes nothing but the close-on-exec flag.
        Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
    }
    Ok(())
}
