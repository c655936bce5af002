//! AppArmor: which profile confines a container's programs, where the kernel has AppArmor in use.
//!
//! Nothing is loaded: the profile of Docker's engine (`docker-default`) is taken where it is there, another one where it is
//! asked for (`security_opt: apparmor=NAME`).

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::PROC_SUPER_MAGIC;

use super::step::{Context, Step, fault};
use crate::sys::mount::is_filesystem;

/// What Docker's engine loads, and confines containers by where nothing else is said.
const DEFAULT: &str = "docker-default";

/// Whether the kernel has AppArmor in use.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// The loaded profiles, one a line: `NAME (MODE)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Why a container cannot have its profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppArmorError {
    #[error("apparmor={0}: the kernel of this host does not use AppArmor")]
    Disabled(String),
    #[error("apparmor={0}: no such profile is loaded; load it with apparmor_parser")]
    NotLoaded(String),
    #[error("cannot see whether the kernel uses AppArmor: {path}: {reason}", path = ENABLED)]
    Unknown { reason: String },
}

/// Returns the profile of a container; `None` where there is nothing to confine it by.
pub fn choose(asked: Option<&str>, privileged: bool) -> Result<Option<String>, AppArmorError> {
    let enabled = match std::fs::read_to_string(ENABLED) {
        Ok(text) => text.starts_with('Y'),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(AppArmorError::Unknown { reason: error.to_string() }),
    };
    match asked.filter(|name| !name.is_empty()) {
        Some("unconfined") => Ok(enabled.then(|| "unconfined".to_owned())),
        Some(name) if !enabled => Err(AppArmorError::Disabled(name.to_owned())),
        Some(name) if is_loaded(name) == Some(false) => Err(AppArmorError::NotLoaded(name.to_owned())),
        Some(name) => Ok(Some(name.to_owned())),
        None => Ok((enabled && !privileged && is_loaded(DEFAULT) == Some(true)).then(|| DEFAULT.to_owned())),
    }
}

/// Whether a profile is loaded; `None` where that cannot be seen.
fn is_loaded(name: &str) -> Option<bool> {
    let profiles = BufReader::new(File::open(PROFILES).ok()?);
    Some(profiles.lines().map_while(Result::ok).any(|line| line.rsplit_once(" (").is_some_and(|(own, _)| own == name)))
}

/// Has the program that this process executes next confined by a profile.
pub(crate) fn confine_next(profile: &str) -> Step<()> {
    let describe = || format!("apply the AppArmor profile {profile}");
    let open = |path: &str| nix::fcntl::open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
    // The second is what kernels before 5.8 have.
    let file = open("/proc/thread-self/attr/apparmor/exec").or_else(|_| open("/proc/thread-self/attr/exec"));
    let file = file.step(describe)?;
    // The file may be the image's, where the container has no /proc of its own.
    if !is_filesystem(&file, PROC_SUPER_MAGIC).step(describe)? {
        return Err(fault(format!("{}: the container has no /proc", describe())));
    }
    File::from(file).write_all(format!("exec {profile}").as_bytes()).step(describe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_applied_is_an_error() {
        assert!(choose(Some("surely-not-loaded"), false).is_err());
        assert_eq!(choose(None, true), Ok(None));
        assert!(choose(Some("unconfined"), false).is_ok());
    }
}
