//! Programs of the host that are run at points of a container's life (OCI runtime specification, "POSIX-platform Hooks").
//!
//! Each gets the container's state on its standard input. A file in memory takes what it says, so that neither side ever
//! waits for the other; of that the end is told where it fails.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use oci_spec::runtime::{ContainerState, Hook, Hooks, State, StateBuilder};

use super::step::{Context, Step, fault};
use crate::shim::protocol::Failure;
use crate::sys::pidfd;

/// How much of what a hook says is told where it fails, in bytes.
const TOLD: u64 = 2048;

/// What hooks are told of a container.
#[derive(Debug, Clone)]
pub struct Subject {
    pub version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub annotations: Option<HashMap<String, String>>,
}

impl Subject {
    /// Returns the container's state (OCI runtime specification, "State").
    pub fn state(&self, status: ContainerState, pid: Option<i32>) -> Step<State> {
        let mut state = StateBuilder::default().version(&*self.version).id(&*self.id).status(status);
        state = state.bundle(self.bundle.clone());
        if let Some(pid) = pid {
            state = state.pid(pid);
        }
        if let Some(annotations) = &self.annotations {
            state = state.annotations(annotations.clone());
        }
        state.build().map_err(|error| fault(format!("describe the container's state: {error}")))
    }

    /// Returns the same as hooks get it.
    pub fn text(&self, status: ContainerState, pid: Option<i32>) -> Step<String> {
        serde_json::to_string(&self.state(status, pid)?).step(|| "describe the container's state".into())
    }
}

/// Returns whether hooks have something to do while the container is made, up to its program.
pub fn belong_to_creation(hooks: &Hooks) -> bool {
    let lists = [hooks.prestart(), hooks.create_runtime(), hooks.create_container(), hooks.start_container()];
    lists.into_iter().flatten().any(|list| !list.is_empty())
}

/// Runs the hooks of the runtime's namespaces, before the container's root is entered.
pub fn before_start(hooks: &Hooks, state: &str) -> Step<()> {
    let prestart = hooks.prestart();
    run("prestart", prestart.as_deref(), state)?;
    run("createRuntime", hooks.create_runtime().as_deref(), state)
}

/// Runs hooks of one kind in their order, up to the first that fails.
pub fn run(kind: &str, hooks: Option<&[Hook]>, state: &str) -> Step<()> {
    hooks.unwrap_or_default().iter().try_for_each(|hook| run_one(kind, hook, state))
}

/// Runs all hooks after which nothing is undone. Returns what failed.
pub fn run_all(kind: &str, hooks: Option<&[Hook]>, state: &str) -> Vec<Failure> {
    hooks.unwrap_or_default().iter().filter_map(|hook| run_one(kind, hook, state).err()).collect()
}

fn run_one(kind: &str, hook: &Hook, state: &str) -> Step<()> {
    let describe = || format!("run {kind} hook {}", hook.path().display());
    if !hook.path().is_absolute() {
        return Err(fault(format!("{}: the path is not absolute", describe())));
    }
    let memory = || memfd_create(c"rcompose-hook", MFdFlags::MFD_CLOEXEC).map(std::fs::File::from).step(describe);
    let (mut input, mut output) = (memory()?, memory()?);
    input.write_all(state.as_bytes()).step(describe)?;
    input.seek(SeekFrom::Start(0)).step(describe)?;
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    let env = hook.env().iter().flatten();
    command.env_clear().envs(env.map(|variable| variable.split_once('=').unwrap_or((variable, ""))));
    let share = || output.try_clone().map(Stdio::from).step(describe);
    command.stdin(input).stdout(share()?).stderr(share()?);
    let mut child = command.spawn().step(describe)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let in_time = match hook.timeout() {
        Some(seconds) => ends_within(pid, Duration::from_secs(u64::try_from(seconds).unwrap_or(0))).step(describe)?,
        None => true,
    };
    if !in_time {
        child.kill().step(describe)?;
    }
    let status = child.wait().step(describe)?;
    if !in_time {
        return Err(fault(format!("{}: it did not end in {} s", describe(), hook.timeout().unwrap_or_default())));
    }
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let length = output.seek(SeekFrom::End(0)).unwrap_or_default();
    output.seek(SeekFrom::Start(length.saturating_sub(TOLD))).ok();
    let mut bytes = Vec::new();
    // Whatever can be read of it: the failure is told in any case.
    output.take(TOLD).read_to_end(&mut bytes).ok();
    said.push_str(String::from_utf8_lossy(&bytes).trim());
    let said = if said.is_empty() { said } else { format!(": {said}") };
    Err(fault(format!("{}: {status}{said}", describe())))
}

/// Waits for the end of a child.
fn ends_within(pid: Pid, time: Duration) -> nix::Result<bool> {
    pidfd::wait_ended(pidfd::open(pid)?.as_fd(), time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::HookBuilder;

    fn shell(script: &str) -> Hook {
        HookBuilder::default().path("/bin/sh").args(["sh", "-c", script].map(String::from).to_vec()).build().unwrap()
    }

    #[test]
    fn a_hook_gets_the_state_and_only_its_own_environment() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let mut hook = shell("cat > \"$OUT\"; env >> \"$OUT\"");
        hook.set_env(Some(vec![format!("OUT={}", out.display())]));
        run("poststop", Some(&[hook]), "{\"state\": 1}\n").unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.starts_with("{\"state\": 1}\n") && text.contains("OUT=") && !text.contains("PATH=/"), "{text}");
    }

    #[test]
    fn the_first_that_fails_ends_it_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let hooks = [shell("echo broken >&2; exit 3"), shell(&format!("touch {}", mark.display()))];
        let failure = run("prestart", Some(&hooks), "{}").unwrap_err();
        for part in ["prestart", "/bin/sh", "exit status: 3", "broken"] {
            assert!(failure.step.contains(part), "{}", failure.step);
        }
        assert!(!mark.exists());
        assert_eq!(run_all("poststop", Some(&hooks), "{}").len(), 1);
        assert!(mark.exists());
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        let mut hook = shell("exec sleep 1000");
        hook.set_timeout(Some(1));
        let failure = run("createRuntime", Some(&[hook]), "{}").unwrap_err();
        assert!(failure.step.contains("did not end in 1 s"), "{}", failure.step);
        assert!(run("createRuntime", Some(&[HookBuilder::default().path("sh").build().unwrap()]), "{}").is_err());
    }
}
