//! The standard streams of a container: named FIFOs in its run directory.
//!
//! The container has them open for reading and writing, so that it neither waits for ever nor gets SIGPIPE while no shim
//! reads. They belong to its user, since programs open `/dev/stdout` anew.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, mkfifoat, unlinkat};

use super::Shim;
use crate::container::config::LogConfig;
use crate::container::log::{Stream, forward::Forwarder, writer::Writer};
use crate::container::step::{Context, Step, fault};
use crate::error::chain;

/// The name of standard input's FIFO in the run directory: whoever attaches writes to it.
pub(super) const STDIN: &str = "stdin";

/// The size that the kernel is asked to give each FIFO, in bytes, so that a container that writes much rarely waits.
const PIPE: i32 = 256 << 10;

/// The container's standard streams while it is made.
#[derive(Debug, Default)]
pub(super) struct Stdio {
    /// The container's ends: standard input, output, error. Where there is none it is the terminal, or else the container's
    /// null device.
    pub(super) container: [Option<OwnedFd>; 3],
    /// The writing end of a standard input that ends when its writers are gone: kept until somebody attaches.
    pub(super) input: Option<OwnedFd>,
}

/// Makes the FIFOs anew.
pub(super) fn create(shim: &Shim) -> Step<Stdio> {
    // Leftovers of a start before this one.
    for name in [STDIN, "stdout", "stderr", STATE, super::protocol::SOCKET, EXIT] {
        match unlinkat(&shim.directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).step(|| format!("remove {}", shim.run.join(name).display())),
        }
    }
    if shim.config.tty {
        return Ok(Stdio::default());
    }
    let mut writer = None;
    let input = match (shim.config.stdin_open, shim.config.stdin_once) {
        (true, false) => Some(fifo(shim, STDIN)?),
        (true, true) => {
            // Open for both, so that neither end has to wait for the other.
            let both = fifo(shim, STDIN)?;
            writer = Some(open_fifo(shim, STDIN, OFlag::O_WRONLY)?);
            let reader = open_fifo(shim, STDIN, OFlag::O_RDONLY)?;
            drop(both);
            Some(reader)
        }
        (false, _) => None,
    };
    // Also where no log is kept: somebody may attach.
    let [output, error] = [fifo(shim, Stream::Stdout.as_str())?, fifo(shim, Stream::Stderr.as_str())?];
    Ok(Stdio { container: [input, Some(output), Some(error)], input: writer })
}

/// Opens the writing end of the container's standard input.
pub(super) fn open_input(shim: &Shim) -> Step<OwnedFd> {
    // Without a reader, as when the container has closed it, there is nobody to write to.
    open_fifo(shim, STDIN, OFlag::O_WRONLY | OFlag::O_NONBLOCK)
}

fn open_fifo(shim: &Shim, name: &str, flags: OFlag) -> Step<OwnedFd> {
    openat(&shim.directory, name, flags | OFlag::O_CLOEXEC, Mode::empty())
        .step(|| format!("open {}", shim.run.join(name).display()))
}

fn fifo(shim: &Shim, name: &str) -> Step<OwnedFd> {
    let describe = || format!("create FIFO {}", shim.run.join(name).display());
    mkfifoat(&shim.directory, name, Mode::from_bits_truncate(0o600)).step(describe)?;
    let fd = open_fifo(shim, name, OFlag::O_RDWR)?;
    fchown(&fd, Some(Uid::from_raw(shim.config.uid)), Some(Gid::from_raw(shim.config.gid))).step(describe)?;
    // Refused where the user has too many pipes; the default size will do then.
    fcntl(&fd, FcntlArg::F_SETPIPE_SZ(PIPE)).ok();
    Ok(fd)
}

/// The reading ends of a container's output.
#[derive(Debug)]
pub(super) enum Output {
    /// The terminal is not there yet.
    None,
    Fifos {
        output: OwnedFd,
        error: OwnedFd,
    },
    Terminal {
        master: OwnedFd,
        _peer: Option<OwnedFd>,
    },
}

impl Output {
    /// Opens the FIFOs' reading ends.
    pub(super) fn open(shim: &Shim) -> Step<Self> {
        if shim.config.tty {
            return Ok(Self::None);
        }
        // For writing too: without a writer the descriptor would be readable for ever.
        let open = |name: &str| open_fifo(shim, name, OFlag::O_RDWR | OFlag::O_NONBLOCK);
        Ok(Self::Fifos { output: open(Stream::Stdout.as_str())?, error: open(Stream::Stderr.as_str())? })
    }

    /// Takes the master of a terminal. The other end stays open here too, so that the master never tells of an end while
    /// the container lives, whatever its processes do.
    pub(super) fn terminal(master: OwnedFd) -> Self {
        let peer = crate::sys::process::terminal_peer(master.as_fd()).ok();
        Self::Terminal { master, _peer: peer }
    }

    /// Returns what there is to read.
    pub(super) fn sources(&self) -> Vec<(Stream, &OwnedFd)> {
        match self {
            Self::None => Vec::new(),
            Self::Fifos { output, error } => vec![(Stream::Stdout, output), (Stream::Stderr, error)],
            Self::Terminal { master, .. } => vec![(Stream::Stdout, master)],
        }
    }
}

/// The name of the log writer's state in the run directory.
const STATE: &str = "log.state";

/// The name of the record of how PID 1 ended, in the bundle; also removed from the run directory.
pub(super) const EXIT: &str = "exit.json";

/// Opens the log.
pub(super) fn log(shim: &Shim) -> Step<Option<Writer>> {
    let LogConfig::JsonFile(config) = &shim.config.log else { return Ok(None) };
    let forward = config.forward.as_ref().map(Forwarder::connect).transpose();
    let forward = forward.map_err(|error| fault(format!("forward the log: {}", chain(&error))))?;
    let path = crate::container::log::path(&shim.bundle, &shim.id);
    let describe = || format!("open the log {}", path.display());
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let state = openat(&shim.directory, STATE, flags, Mode::from_bits_truncate(0o600)).step(describe)?;
    Writer::open(&path, state, config, shim.config.tty, forward).map(Some).step(describe)
}
