//! AppArmor: which profile confines a container's programs, where the kernel has AppArmor in use.
//!
//! As with Docker's engine it is `docker-default` unless another one is asked for (`security_opt: apparmor=NAME`): the profile
//! that is loaded under this name, or else our own (`apparmor.profile`), which the host's `apparmor_parser` loads. Where the
//! host has none, or this process may not change what is loaded, a container without a profile of its own is not confined.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::PROC_SUPER_MAGIC;

use super::capabilities;
use super::step::{Context, Step, fault};
use crate::sys::mount::is_filesystem;

/// What containers are confined by where nothing else is said.
const DEFAULT: &str = "docker-default";
/// The profile of that name, as it is written.
const PROFILE: &str = include_str!("apparmor.profile");
/// What compiles profiles and loads them. Docker's engine looks for it at the same place.
const PARSER: &str = "/sbin/apparmor_parser";

/// Whether the kernel has AppArmor in use.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// The loaded profiles, one a line: `NAME (MODE)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Why a container cannot have its profile.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    #[error("apparmor={0}: the kernel of this host does not use AppArmor")]
    Disabled(String),
    #[error("apparmor={0}: no such profile is loaded; load it with apparmor_parser")]
    NotLoaded(String),
    #[error("cannot run apparmor_parser to load the AppArmor profile docker-default")]
    Parser(#[source] io::Error),
    #[error(
        "apparmor_parser does not load the AppArmor profile docker-default (apparmor=unconfined does without it): {0}"
    )]
    Rejected(String),
    #[error("cannot see whether the kernel uses AppArmor: {path}: {reason}", path = ENABLED)]
    Unknown { reason: String },
}

/// Returns the profile of a container, which is loaded now; `None` where there is nothing to confine it by.
pub fn choose(asked: Option<&str>, privileged: bool) -> Result<Option<String>, AppArmorError> {
    let enabled = match std::fs::read_to_string(ENABLED) {
        Ok(text) => text.starts_with('Y'),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(AppArmorError::Unknown { reason: error.to_string() }),
    };
    match asked.filter(|name| !name.is_empty()) {
        Some("unconfined") => Ok(enabled.then(|| "unconfined".to_owned())),
        Some(name) if !enabled => Err(AppArmorError::Disabled(name.to_owned())),
        Some(name) if provide(name)? == Some(false) => Err(AppArmorError::NotLoaded(name.to_owned())),
        Some(name) => Ok(Some(name.to_owned())),
        None if !enabled || privileged => Ok(None),
        None => Ok((provide(DEFAULT)? == Some(true)).then(|| DEFAULT.to_owned())),
    }
}

/// Returns whether a profile is loaded, and loads it before if it is ours and can be; `None` where that cannot be seen.
fn provide(name: &str) -> Result<Option<bool>, AppArmorError> {
    /// Who comes while it is being loaded need not do it again.
    static LOADING: Mutex<()> = Mutex::new(());
    let found = is_loaded(name);
    if name != DEFAULT || found != Some(false) || !capabilities::has("MAC_ADMIN") {
        return Ok(found);
    }
    let _turn = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_loaded(name) == Some(false) {
        load()?;
    }
    Ok(is_loaded(name))
}

/// Whether a profile is loaded; `None` where that cannot be seen.
fn is_loaded(name: &str) -> Option<bool> {
    let profiles = BufReader::new(File::open(PROFILES).ok()?);
    Some(profiles.lines().map_while(Result::ok).any(|line| line.rsplit_once(" (").is_some_and(|(own, _)| own == name)))
}

/// Has the host's parser load our profile, where there is one.
fn load() -> Result<(), AppArmorError> {
    let mut command = Command::new(PARSER);
    command.args(["--replace", "--skip-cache"]).env_clear().env("LC_ALL", "C");
    let mut parser = match command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        started => started.map_err(AppArmorError::Parser)?,
    };
    let (input, said) = (parser.stdin.take(), parser.stderr.take());
    // A parser that reads no further says why.
    drop(input.expect("it was asked for").write_all(PROFILE.as_bytes()));
    let said = io::read_to_string(said.expect("it was asked for")).map_err(AppArmorError::Parser)?;
    // A supervisor collects all its children, and may have been first with this one. What counts is what the kernel has now.
    drop(parser.wait());
    if is_loaded(DEFAULT) == Some(true) { Ok(()) } else { Err(AppArmorError::Rejected(said.trim().to_owned())) }
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
        assert!(matches!(choose(None, true), Ok(None)));
        assert!(choose(Some("unconfined"), false).is_ok());
    }
}
