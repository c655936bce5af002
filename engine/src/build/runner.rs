//! The process that runs one command of a build: a process of its own, since the builder has threads and may not clone.
//!
//! It makes a container with the code that makes all others, waits for its end and reports it. The container ends with
//! the builder: the kernel closes the socket between them however the builder ends. Everything that the container needs and
//! that may be secret is on a tmpfs that is mounted in this process's own mount namespace, and is gone with it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::container::rootfs;
use crate::container::step::{Context as _, Step, fault};
use crate::shim::channel::{self, Message};
use crate::shim::config::{Blueprint, Network, RootSource, Rootfs, ShimConfig};
use crate::shim::init::{Init, Sources};
use crate::shim::protocol::{self, Failure};
use crate::shim::{create, sealed};
use crate::sys::mount::{self, Attributes};
use crate::sys::{pidfd, process, socket};

/// The first argument that makes this program a runner.
pub const FRONT_DOOR: &str = "__build-step";

/// The directory of the bundle, within that of the step.
const BUNDLE: &str = "bundle";

/// The directory that the container's root is mounted on, within that of the step.
const ROOT: &str = "root";

/// What a runner is to run. It comes in a file in memory, beside the streams and the network.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// A directory that this process covers with a tmpfs of its own.
    pub(super) directory: PathBuf,
    pub(super) spec: Spec,
    pub(super) shim: ShimConfig,
    /// Files below the directory.
    pub(super) files: Vec<MemoryFile>,
    /// Overlays that are mounted on directories below the directory.
    pub(super) overlays: BTreeMap<PathBuf, Rootfs>,
}

/// A file that is only in memory.
#[derive(Serialize, Deserialize)]
pub(super) struct MemoryFile {
    /// Below the directory of the step.
    pub(super) path: PathBuf,
    pub(super) content: Vec<u8>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl std::fmt::Debug for MemoryFile {
    // Its content may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How it went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Report {
    /// The command has ended.
    Exited {
        /// As a shell says it: 128 + n after signal n.
        code: i32,
        oom_killed: bool,
    },
    /// The container could not be made.
    Failed(Failure),
}

/// What goes with a request: standard input (`None`: nothing to read), output and error, and the network namespace.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) output: OwnedFd,
    pub(super) network: Option<OwnedFd>,
}

/// Sends a request to a runner.
pub(super) fn request(control: BorrowedFd<'_>, request: &Request, attached: &Attached) -> Step<()> {
    let describe = || "tell the runner what to run".to_owned();
    let mut memory = File::from(memfd_create(c"rcompose", MFdFlags::MFD_CLOEXEC).step(describe)?);
    serde_json::to_writer(&mut memory, request).step(describe)?;
    memory.rewind().step(describe)?;
    let mut fds = vec![memory.as_fd(), attached.output.as_fd()];
    fds.extend(attached.network.as_ref().map(AsFd::as_fd));
    protocol::send(control, &(), &fds).step(describe)
}

/// Waits for the report of a runner. `None`: it was killed.
pub(super) fn report(control: BorrowedFd<'_>) -> Step<Option<Report>> {
    Ok(protocol::receive::<Report>(control).step(|| "hear the runner".into())?.map(|(report, _)| report))
}

/// Is a runner: the front door of a process whose standard input is the socket to its builder. Must be called before the
/// process has any thread. Returns the exit code.
pub fn run() -> i32 {
    if !sealed::is_sealed() {
        // Nobody is left to tell but the builder, which sees that it ended.
        drop(sealed::exec_sealed(&["rcompose".to_owned(), FRONT_DOOR.to_owned()]));
        return 1;
    }
    let Ok(control) = std::io::stdin().as_fd().try_clone_to_owned() else { return 1 };
    let report = match serve(&control) {
        Ok(report) => report,
        Err(failure) => Report::Failed(failure),
    };
    // A builder that is gone wants no report.
    i32::from(protocol::send(&control, &report, &[]).is_err())
}

fn serve(control: &OwnedFd) -> Step<Report> {
    let describe = || "hear the builder".to_owned();
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?;
    process::dup_to_stdio(null.as_fd(), 0).step(describe)?;
    nix::sys::prctl::set_name(c"rcompose-step").step(describe)?;
    // A signal of the terminal is for the builder, which then says what is to happen.
    nix::unistd::setsid().step(|| "begin a session".into())?;
    let ((), fds) =
        protocol::receive::<()>(control).step(describe)?.ok_or_else(|| fault("the builder is gone".into()))?;
    let mut fds = fds.into_iter();
    let (Some(memory), Some(output), network) = (fds.next(), fds.next(), fds.next()) else {
        return Err(fault("the builder sent too few descriptors".into()));
    };
    let mut text = Vec::new();
    File::from(memory).read_to_end(&mut text).step(describe)?;
    let request: Request = serde_json::from_slice(&text).step(describe)?;
    prepare(&request)?;
    let cgroup = request.shim.cgroup.clone();
    cgroup.create()?;
    let result = execute(&request, control, &output, network.as_ref());
    let oom_killed = cgroup.oom_killed();
    // The end of the command is what matters.
    cgroup.remove().ok();
    Ok(Report::Exited { code: result?, oom_killed })
}

/// Makes what the container needs, where only this process and its children see it.
fn prepare(request: &Request) -> Step<()> {
    let directory = &request.directory;
    unshare(CloneFlags::CLONE_NEWNS).step(|| "make a mount namespace".into())?;
    let host = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(|| "open /".into())?;
    let private = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    mount::mount_setattr(host.as_fd(), true, private).step(|| "make the mounts private".into())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("rcompose"), directory, Some("tmpfs"), flags, Some("mode=0700"))
        .step(|| format!("mount a tmpfs at {}", directory.display()))?;
    for name in [BUNDLE, ROOT] {
        let path = directory.join(name);
        fs::create_dir(&path).step(|| format!("create {}", path.display()))?;
    }
    let spec = directory.join(BUNDLE).join("config.json");
    let text = serde_json::to_vec(&request.spec).step(|| format!("write {}", spec.display()))?;
    fs::write(&spec, text).step(|| format!("write {}", spec.display()))?;
    for file in &request.files {
        write(&directory.join(&file.path), file)?;
    }
    for (place, overlay) in &request.overlays {
        let place = directory.join(place);
        fs::create_dir_all(&place).step(|| format!("create {}", place.display()))?;
        rootfs::assemble(overlay, &place)?;
    }
    Ok(())
}

fn write(path: &Path, file: &MemoryFile) -> Step<()> {
    let describe = || format!("write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).step(describe)?;
    let mut made = File::options().write(true).create_new(true).mode(0o600).open(path).step(describe)?;
    made.write_all(&file.content).step(describe)?;
    fchown(&made, Some(file.uid), Some(file.gid)).step(describe)?;
    made.set_permissions(fs::Permissions::from_mode(file.mode)).step(describe)
}

/// Runs the command and returns its exit code. If the builder goes away, the command is killed.
fn execute(request: &Request, control: &OwnedFd, output: &OwnedFd, network: Option<&OwnedFd>) -> Step<i32> {
    let (ours, theirs) = socket::pair().step(|| "make a socket pair for init".into())?;
    let stream = || output.try_clone().step(|| "hand over the output".into());
    let root = request.directory.join(ROOT);
    let bundle = request.directory.join(BUNDLE);
    let shim = &request.shim;
    let init = Init {
        bundle: &bundle,
        config: Blueprint { rootfs: RootSource::Overlay(&shim.rootfs, &root), ..shim.blueprint(&root) },
        size: None,
        channel: theirs,
        stdio: [None, Some(stream()?), Some(stream()?)],
        sources: Sources::new(),
        start: None,
        first_closed: 3,
    };
    let (_, pidfd) = create::clone(init, &ours)?;
    let ended = watch(shim, &ours, control, pidfd.as_fd(), network);
    if ended.is_err() {
        pidfd::kill_and_reap(pidfd.as_fd());
    }
    ended
}

fn watch(
    shim: &ShimConfig,
    init: &OwnedFd,
    control: &OwnedFd,
    pidfd: BorrowedFd<'_>,
    network: Option<&OwnedFd>,
) -> Step<i32> {
    if let (Network::Sent, Some(namespace)) = (&shim.network, network) {
        match channel::send_network(init, namespace.as_fd()) {
            // An init that has ended has said why.
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {}
            sent => sent.step(|| "hand the network to init".into())?,
        }
    }
    let mut executing = false;
    let mut making = true;
    loop {
        let mut fds = vec![PollFd::new(control.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd, PollFlags::POLLIN)];
        if making {
            fds.push(PollFd::new(init.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.step(|| "wait for the command".into())?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        if ready[0] {
            return Err(fault("the build was interrupted".into()));
        }
        if ready.get(2) == Some(&true) {
            match channel::receive(init).step(|| "hear init".into())? {
                Some(Message::Failed(failure)) => return Err(failure),
                Some(Message::Executing) => executing = true,
                Some(_) => {}
                None => making = false,
            }
            continue;
        }
        if ready[1] {
            return match pidfd::exit_code(pidfd) {
                Some(code) if executing => Ok(code),
                _ => Err(fault("the command's container was killed before it began".into())),
            };
        }
    }
}
