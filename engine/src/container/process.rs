//! From the engine's process to the container's program: limits, privileges, filter, user, working directory, `execve(2)`.
//!
//! Used by PID 1 of a container and by every further process. From here on nothing may be done that the container could
//! turn against the host: all descriptors but the standard ones are closed, and the process cannot be traced.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Uid};
use oci_spec::runtime::{IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType, Process};

use super::seccomp::Filter;
use super::step::{Context, Step, fault};
use super::{apparmor, beneath, capabilities};
use crate::shim::protocol::Failure;
use crate::sys::{capabilities as kernel, process};

/// A program ready to be executed.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Gives this process the limits, privileges and identity of `wanted`, and finds its program. The process is inside the
/// container's namespaces and root already.
///
/// Every descriptor from `first_closed` on but `channel` is closed, so nobody in this process may own one any more. It is
/// not enough that they close with the exec: both the working directory and the program may be named as
/// `/proc/self/fd/N/../..`, and a directory of the host's would lead out (CVE-2024-21626).
pub fn prepare(
    wanted: &Process,
    filter: Option<&Filter>,
    channel: BorrowedFd<'_>,
    first_closed: RawFd,
) -> Step<Program> {
    process::close_all_but_from(first_closed, &[channel]).step(|| "close the engine's descriptors".into())?;
    let c_strings = |texts: &Option<Vec<String>>| -> nix::Result<Vec<CString>> {
        texts.iter().flatten().map(beneath::c_string).collect()
    };
    let args = c_strings(wanted.args()).step(|| "read the arguments".into())?;
    let env = c_strings(wanted.env()).step(|| "read the environment".into())?;
    for limit in wanted.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        setrlimit(resource, limit.soft(), limit.hard()).step(|| format!("set limit {resource:?}"))?;
    }
    schedule(wanted)?;
    process::join_new_session_keyring().step(|| "begin a session keyring".into())?;
    change_directory(wanted.cwd())?;

    if let Some(profile) = wanted.apparmor_profile() {
        apparmor::confine_next(profile)?;
    }
    let sets = wanted.capabilities().clone().unwrap_or_default();
    let bounding = capabilities::from_oci(sets.bounding().as_ref());
    kernel::limit_bounding(bounding).step(|| "limit the bounding capabilities".into())?;
    let no_new_privileges = wanted.no_new_privileges().unwrap_or(false);
    let install = |filter: Option<&Filter>| match filter {
        Some(filter) => {
            process::install_seccomp_filter(&filter.code, filter.flags).step(|| "install the seccomp filter".into())
        }
        None => Ok(()),
    };
    // Without no_new_privs only the engine's own privileges allow it, and they go next.
    if !no_new_privileges {
        install(filter)?;
    }
    let user = wanted.user();
    nix::sys::prctl::set_keepcaps(true).step(|| "keep the capabilities".into())?;
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    process::set_user(user.uid(), user.gid(), groups).step(|| format!("become user {}:{}", user.uid(), user.gid()))?;
    nix::sys::prctl::set_keepcaps(false).step(|| "stop keeping capabilities".into())?;
    let (effective, permitted) =
        (capabilities::from_oci(sets.effective().as_ref()), capabilities::from_oci(sets.permitted().as_ref()));
    let inheritable = capabilities::from_oci(sets.inheritable().as_ref());
    kernel::capset(effective, permitted, inheritable).step(|| "set the capabilities".into())?;
    kernel::set_ambient(capabilities::from_oci(sets.ambient().as_ref()))
        .step(|| "set the ambient capabilities".into())?;
    if no_new_privileges {
        nix::sys::prctl::set_no_new_privs().step(|| "set no_new_privs".into())?;
        install(filter)?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
    let path = find(wanted)?;
    Ok(Program { path, args, env })
}

impl Program {
    /// Executes the program. Returns only on failure.
    pub fn exec(&self) -> Failure {
        process::reset_signals();
        // It served until here: a container that is being made does not outlive its shim.
        nix::sys::prctl::set_pdeathsig(None).ok();
        let errno = process::exec(&self.path, &self.args, &self.env);
        let step = format!("exec {}", self.path.to_string_lossy());
        // The words and codes of Docker; the file was there, so what is missing is its interpreter.
        let (words, code) = match errno {
            Errno::ENOENT => ("no such file or directory", 127),
            Errno::EACCES => ("permission denied", 126),
            Errno::ENOEXEC => ("exec format error", 126),
            _ => return Failure { step, errno: errno as i32, code: 126 },
        };
        Failure { step: format!("{step}: {words}"), errno: 0, code }
    }
}

/// Changes to the working directory and makes sure that it is inside the root (CVE-2024-21626).
fn change_directory(cwd: &Path) -> Step<()> {
    let describe = || format!("change to directory {}", cwd.display());
    // Docker's codes for it are those of a program.
    nix::unistd::chdir(cwd).map_err(|errno| Failure {
        step: describe(),
        errno: errno as i32,
        code: if errno == Errno::ENOENT { 127 } else { 126 },
    })?;
    let actual = nix::unistd::getcwd().step(describe)?;
    if actual.as_os_str().as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(fault(format!("{}: it is outside of the container", describe())))
    }
}

/// Sets how the process is scheduled, on processors and on disks.
fn schedule(wanted: &Process) -> Step<()> {
    if let Some(scheduler) = wanted.scheduler() {
        let flag = |flag: &LinuxSchedulerFlag| match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
        let policy = match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
            LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
            LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
            LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
            // Not in the C library's header: SCHED_ISO, which has no implementation, and SCHED_DEADLINE.
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        };
        let scheduling = process::Scheduling {
            policy: policy.cast_unsigned(),
            flags: scheduler.flags().iter().flatten().map(flag).sum(),
            nice: scheduler.nice().unwrap_or(0),
            priority: scheduler.priority().unwrap_or(0).cast_unsigned(),
            runtime: scheduler.runtime().unwrap_or(0),
            deadline: scheduler.deadline().unwrap_or(0),
            period: scheduler.period().unwrap_or(0),
            ..process::Scheduling::default()
        };
        process::set_scheduling(scheduling).step(|| format!("set the scheduler {policy}"))?;
    }
    if let Some(priority) = wanted.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = i32::try_from(priority.priority()).ok().filter(|level| (0..8).contains(level));
        let describe = || format!("set the I/O priority {} of class {class}", priority.priority());
        process::set_io_priority(class << 13 | level.ok_or(Errno::EINVAL).step(describe)?).step(describe)?;
    }
    Ok(())
}

/// Gives the pipes that are the standard streams, which somebody else has made, to the user of the program, since programs
/// open `/dev/stdout` anew. Files and terminals stay whose they are.
pub fn own_stdio(uid: u32) -> Step<()> {
    let describe = || format!("give the standard streams to user {uid}");
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let status = nix::sys::stat::fstat(stream).step(describe)?;
        if status.st_mode & libc::S_IFMT != libc::S_IFIFO {
            continue;
        }
        match nix::unistd::fchown(stream, Some(Uid::from_raw(uid)), None) {
            // In a user namespace of its own the pipe may be somebody else's.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM) => {}
            Err(errno) => return Err(errno).step(describe),
        }
    }
    Ok(())
}

/// Makes sure, as root inside the container, that there is a program to be executed, before anybody is told that the
/// container is made.
pub fn check(wanted: &Process) -> Step<()> {
    change_directory(wanted.cwd())?;
    find(wanted).map(drop)
}

/// Finds the program of the first argument, in the words and with the exit codes of Docker when it cannot be executed.
fn find(wanted: &Process) -> Step<CString> {
    let Some(name) = wanted.args().as_ref().and_then(|args| args.first()).filter(|name| !name.is_empty()) else {
        return Err(fault("no command specified".into()));
    };
    let failed = |code: i32, what: &str| Failure { step: format!("exec: \"{name}\": {what}"), errno: 0, code };
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => beneath::c_string(name).step(|| format!("exec: \"{name}\"")),
            Err(Errno::EISDIR) => Err(failed(126, "is a directory")),
            Err(Errno::EACCES) => Err(failed(126, "permission denied")),
            Err(Errno::ENOENT) => Err(failed(127, &format!("stat {name}: no such file or directory"))),
            Err(errno) => Err(failed(127, &format!("stat {name}: {}", errno.desc().to_lowercase()))),
        };
    }
    let path = wanted.env().iter().flatten().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let mut denied = false;
    let mut unknown = None;
    for directory in path.unwrap_or_default().split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&candidate) {
            Ok(()) => return beneath::c_string(&candidate).step(|| format!("exec: \"{name}\"")),
            Err(Errno::EACCES) => denied = true,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => {}
            Err(errno) => unknown = Some((candidate, errno)),
        }
    }
    // Whether it is there cannot be told.
    if let Some((candidate, errno)) = unknown {
        return Err(failed(127, &format!("stat {}: {}", candidate.display(), errno.desc().to_lowercase())));
    }
    if denied { Err(failed(126, "permission denied")) } else { Err(failed(127, "executable file not found in $PATH")) }
}

fn executable(path: &Path) -> nix::Result<()> {
    let status = nix::sys::stat::stat(path)?;
    if status.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    nix::unistd::eaccess(path, AccessFlags::X_OK)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}
