//! Kernel parameters of a container (`linux.sysctl`): only those that belong to its namespaces, and only through a procfs
//! that nothing in the container can have touched (CVE-2025-52881).

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::step::{Context, Step};
use crate::sys::mount;

/// Parameters of an IPC namespace.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// A parameter that a container must not set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SysctlError {
    #[error("sysctl `{0}` is not a name")]
    Name(String),
    #[error("sysctl `{0}`: the value has a line feed or zero byte in it")]
    Value(String),
    #[error("sysctl `{0}` is not in a namespace of the container's own: it would change the host")]
    Host(String),
}

/// Makes sure that a parameter is one of the container's own namespaces.
pub fn check(name: &str, value: &str, own_ipc: bool, own_network: bool) -> Result<(), SysctlError> {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
    if name.is_empty() || !name.chars().all(letters) || name.split(['.', '/']).any(str::is_empty) {
        return Err(SysctlError::Name(name.to_owned()));
    }
    if value.contains(['\n', '\0']) {
        return Err(SysctlError::Value(name.to_owned()));
    }
    let ipc = IPC.contains(&name) || name.starts_with("fs.mqueue.");
    if (ipc && own_ipc) || (name.starts_with("net.") && own_network) {
        Ok(())
    } else {
        Err(SysctlError::Host(name.to_owned()))
    }
}

/// Sets parameters of this process's namespaces.
pub(crate) fn set(parameters: Option<&HashMap<String, String>>) -> Step<()> {
    let Some(parameters) = parameters.filter(|parameters| !parameters.is_empty()) else { return Ok(()) };
    let context = mount::fsopen(c"proc").step(|| "open a procfs for sysctls".into())?;
    context.set(c"source", c"proc").step(|| "open a procfs for sysctls".into())?;
    let proc =
        context.mount(mount::NOSUID | mount::NODEV | mount::NOEXEC).step(|| "mount a procfs for sysctls".into())?;
    for (name, value) in parameters {
        let describe = || format!("set sysctl {name} to {value}");
        // With a slash in it the name is a path already, and dots belong to interface names (sysctl(8)).
        let relative = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_XDEV
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_SYMLINKS,
        );
        let file = openat2(&proc, &PathBuf::from("sys").join(relative), how).step(describe)?;
        std::fs::File::from(file).write_all(value.as_bytes()).step(describe)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_own_namespaces_pass() {
        assert_eq!(check("net.core.somaxconn", "1024", true, true), Ok(()));
        assert_eq!(check("kernel.shmmax", "1", true, false), Ok(()));
        for (name, value, ipc, network) in [
            ("net.core.somaxconn", "1", true, false),
            ("kernel.shmmax", "1", false, true),
            ("kernel.core_pattern", "|/bin/sh", true, true),
            ("vm.swappiness", "1", true, true),
            ("net/../kernel/core_pattern", "x", true, true),
            ("net.ipv4.ip_forward", "1\n+x", true, true),
            ("net.ipv4+x", "1", true, true),
            ("", "1", true, true),
        ] {
            assert!(check(name, value, ipc, network).is_err(), "{name}");
        }
    }
}
