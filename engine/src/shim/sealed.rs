//! The engine's own program, out of reach of what runs in its containers (CVE-2019-5736).
//!
//! A process on its way into a container, and PID 1 with `init: true`, still has the engine's program behind
//! `/proc/<pid>/exe`; a container that gets hold of that file must not be able to write to it. So a supervisor, and with
//! it every shim, is executed from a view of the program that nobody can write: a read-only overlay of its directory,
//! which shares the program's pages with everybody else, or, where that cannot be made, a sealed copy in memory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::container::beneath;
use crate::sys::clone::{self, Cloned};
use crate::sys::{mount, process};

/// Opens a view of this process's program that cannot be written, to be executed (`exec_fd`).
pub fn sealed_exe() -> io::Result<OwnedFd> {
    let exe = std::fs::read_link("/proc/self/exe")?;
    match overlay(&exe) {
        Ok(fd) => Ok(fd),
        Err(_) => Ok(copy()?),
    }
}

/// Executes this process's program anew from a sealed view, with these arguments (the first being its name) and the
/// environment as it is. Returns only on failure.
///
/// For the process that is to become a supervisor, while it has a single thread.
pub fn exec_sealed(args: &[String]) -> io::Error {
    let sealed = match sealed_exe() {
        Ok(sealed) => sealed,
        Err(error) => return error,
    };
    let Ok(args) = args.iter().map(beneath::c_string).collect::<nix::Result<Vec<CString>>>() else {
        return Errno::EINVAL.into();
    };
    process::exec_fd(sealed.as_fd(), &args, &environment()).into()
}

/// Returns whether this process was executed from a sealed view.
pub fn is_sealed() -> bool {
    // Neither kind has a path that leads to the program's file.
    let Ok(own) = std::fs::metadata("/proc/self/exe") else { return false };
    let Ok(path) = std::fs::read_link("/proc/self/exe") else { return false };
    std::fs::metadata(path).map_or(true, |named| (named.dev(), named.ino()) != (own.dev(), own.ino()))
}

/// Makes a read-only overlay of the program's directory, mounted nowhere, and opens the program in it.
fn overlay(exe: &Path) -> nix::Result<OwnedFd> {
    let (directory, name) = (exe.parent().ok_or(Errno::ENOENT)?, exe.file_name().ok_or(Errno::ENOENT)?);
    // An overlay without an upper directory needs two lower ones, neither within the other. The second only adds names
    // beside the program's, in a directory that nobody can reach.
    let others = ["/dev/shm", "/run", "/var/lib", "/usr/share", "/tmp"].map(Path::new);
    let apart = |other: &&Path| !other.starts_with(directory) && !directory.starts_with(other) && other.is_dir();
    let other = others.into_iter().find(apart).ok_or(Errno::ENOENT)?;
    let context = mount::fsopen(c"overlay")?;
    context.set(c"source", c"rcompose")?;
    for lower in [directory, other] {
        let text = lower.to_string_lossy();
        if text.contains([':', '\\', ',']) {
            return Err(Errno::EINVAL);
        }
    }
    let both = beneath::c_string(format!("{}:{}", directory.display(), other.display()))?;
    context.set(c"lowerdir", &both)?;
    let view = context.mount(mount::RDONLY | mount::NOSUID | mount::NODEV)?;
    beneath::open(&view, name, OFlag::O_PATH)
}

/// Copies the program into memory and seals it.
fn copy() -> nix::Result<OwnedFd> {
    let io = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let memory = memfd_create(c"rcompose", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut memory = std::fs::File::from(memory);
    let mut program = std::fs::File::open("/proc/self/exe").map_err(io)?;
    io::copy(&mut program, &mut memory).map_err(io)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(memory.into())
}

/// Starts a supervisor as a child of this process's parent, from the program that this process runs, which is sealed.
pub(super) fn start_supervisor(command: &[String]) -> nix::Result<()> {
    let args = command.iter().map(beneath::c_string).collect::<nix::Result<Vec<CString>>>()?;
    if args.is_empty() {
        return Err(Errno::ENOENT);
    }
    let environment = environment();
    // Read before the clone; what is behind it is the sealed view still.
    match clone::clone3(clone::PARENT, None)? {
        Cloned::Parent { .. } => Ok(()),
        Cloned::Child => {
            nix::unistd::setsid().ok();
            process::close_on_exec_from(3).ok();
            process::reset_signals();
            process::exec(c"/proc/self/exe", &args, &environment);
            clone::exit(127)
        }
    }
}

fn environment() -> Vec<CString> {
    let variables = std::env::vars_os().map(|(name, value)| {
        let mut text = name.into_vec();
        text.push(b'=');
        text.extend(value.into_vec());
        text
    });
    variables.filter_map(|text| CString::new(text).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn neither_view_can_be_written() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let length = std::fs::metadata(&exe).unwrap().len();
        for view in [overlay(&exe).unwrap(), copy().unwrap()] {
            let path = beneath::proc_path(&view);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
            let written = std::fs::File::options().write(true).open(&path).and_then(|mut file| file.write(b"x"));
            assert!(written.is_err(), "{}", path.display());
        }
    }
}
