//! The shim: one small blocking process per container.
//!
//! It creates the container, holds what must not be lost when the supervisor dies (standard streams, terminal, network
//! namespace, sockets), writes the log, starts further processes, reaps PID 1 and records how it ended. It has one thread
//! and no runtime, and is a clone of the [`launcher`], so that it costs next to no memory.

pub mod arrival;
mod audience;
pub(crate) mod channel;
pub mod client;
pub mod config;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod init;
pub mod launcher;
mod pid1;
pub mod protocol;
mod running;
pub mod sealed;
mod stdio;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use self::config::ShimConfig;
use self::protocol::{Failure, FromShim, Spawn, Task};
use self::running::Running;
use crate::container::step::{Context, Step};
use crate::sys::{clone, process};

/// The name of standard input's FIFO in a container's run directory (`stdin_open` without a terminal).
pub const STDIN: &str = stdio::STDIN;

/// The name of the record of how PID 1 ended (`protocol::Exit`), in the bundle.
pub const EXIT: &str = stdio::EXIT;

/// A shim's life: the launcher has just cloned it.
fn run(spawn: &Spawn, supervisor: OwnedFd, fds: Vec<OwnedFd>) -> ! {
    let mut keep = vec![supervisor.as_fd()];
    keep.extend(fds.iter().map(AsFd::as_fd));
    let ready = process::close_all_but(&keep).and_then(|()| {
        nix::sys::prctl::set_name(c"rcompose-shim")?;
        nix::unistd::setsid()?;
        nix::unistd::chdir("/")?;
        let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        // Standard error stays the supervisor's: it is where a panic would be told.
        process::dup_to_stdio(null.as_fd(), 0)?;
        process::dup_to_stdio(null.as_fd(), 1)
    });
    let result = ready.step(|| "prepare the shim".into()).and_then(|()| begin(spawn, &supervisor, fds));
    match result {
        Ok(running) => running.run(supervisor),
        Err(failure) => {
            // A supervisor that is gone finds out by looking: there is no container.
            protocol::send(&supervisor, &FromShim::Failed(failure), &[]).ok();
            clone::exit(1)
        }
    }
}

/// What a shim knows from the beginning.
#[derive(Debug)]
struct Shim {
    id: crate::id::Id,
    bundle: PathBuf,
    run: PathBuf,
    /// The run directory, whose path may be too long for a socket's address.
    directory: OwnedFd,
    config: ShimConfig,
    /// Whether somebody attaches from the first moment, with a terminal of this size.
    attended: Option<Attended>,
}

/// Somebody who is about to attach.
#[derive(Debug, Clone, Copy)]
struct Attended {
    size: Option<(u16, u16)>,
}

fn begin(spawn: &Spawn, supervisor: &OwnedFd, fds: Vec<OwnedFd>) -> Step<Running> {
    let config = read_config(&spawn.bundle)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(&spawn.run, flags, Mode::empty())
        .step(|| format!("open the run directory {}", spawn.run.display()))?;
    let attended = match spawn.task {
        Task::CreateAttended { size } => Some(Attended { size }),
        Task::Create | Task::Adopt { .. } => None,
    };
    let (bundle, run) = (spawn.bundle.clone(), spawn.run.clone());
    let shim = Shim { id: spawn.id.clone(), bundle, run, directory, config, attended };
    match spawn.task {
        Task::Create | Task::CreateAttended { .. } => create::create(shim, supervisor),
        Task::Adopt { pid } => {
            let running = Running::adopt(shim, pid, fds)?;
            running.introduce(supervisor)?;
            Ok(running)
        }
    }
}

/// Reads `shim.json` of a bundle.
pub fn read_config(bundle: &Path) -> Step<ShimConfig> {
    let path = bundle.join(config::FILE);
    let text = std::fs::read(&path).step(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).step(|| format!("parse {}", path.display()))
}

/// Returns the AppArmor profile that the programs of a bundle are confined by, if they are.
pub fn apparmor_profile(bundle: &Path) -> Step<Option<String>> {
    Ok(init::read_spec(bundle)?.process().as_ref().and_then(|process| process.apparmor_profile().clone()))
}

/// Returns the failure of a container whose maker died without a word.
fn died(what: &str) -> Failure {
    crate::container::step::fault(format!("{what} was killed"))
}
