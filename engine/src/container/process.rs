//! From the engine's process to the container's program: limits, privileges, filter, user, working directory, `execve(2)`.
//!
//! Used by PID 1 of a container and by every further process. From here on nothing may be done that the container could
//! turn against the host: all descriptors but the standard ones are closed, and the process cannot be traced.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::AccessFlags;
use oci_spec::runtime::{PosixRlimitType, Process};

use super::step::{Context, Step, fault};
use super::{beneath, capabilities};
use crate::shim::protocol::Failure;
use crate::sys::process::Instruction;
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
/// Every descriptor but the standard ones and `channel` is closed, so nobody in this process may own one any more. It is
/// not enough that they close with the exec: both the working directory and the program may be named as
/// `/proc/self/fd/N/../..`, and a directory of the host's would lead out (CVE-2024-21626).
pub fn prepare(wanted: &Process, filter: Option<&[Instruction]>, channel: BorrowedFd<'_>) -> Step<Program> {
    process::close_all_but(&[channel]).step(|| "close the engine's descriptors".into())?;
    let c_strings = |texts: &Option<Vec<String>>| -> nix::Result<Vec<CString>> {
        texts.iter().flatten().map(beneath::c_string).collect()
    };
    let args = c_strings(wanted.args()).step(|| "read the arguments".into())?;
    let env = c_strings(wanted.env()).step(|| "read the environment".into())?;
    for limit in wanted.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        setrlimit(resource, limit.soft(), limit.hard()).step(|| format!("set limit {resource:?}"))?;
    }
    process::join_new_session_keyring().step(|| "begin a session keyring".into())?;
    change_directory(wanted.cwd())?;

    let sets = wanted.capabilities().clone().unwrap_or_default();
    let bounding = capabilities::from_oci(sets.bounding().as_ref());
    kernel::limit_bounding(bounding).step(|| "limit the bounding capabilities".into())?;
    let no_new_privileges = wanted.no_new_privileges().unwrap_or(false);
    let install = |filter: Option<&[Instruction]>| match filter {
        Some(filter) => process::install_seccomp_filter(filter, 0).step(|| "install the seccomp filter".into()),
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
    nix::unistd::chdir(cwd).step(describe)?;
    let actual = nix::unistd::getcwd().step(describe)?;
    if actual.as_os_str().as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(fault(format!("{}: it is outside of the container", describe())))
    }
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
