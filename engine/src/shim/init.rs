//! The container's init: the process that the shim clones into new namespaces, until it executes the container's program.
//!
//! It makes everything that only the container is to see (root, mounts, devices) in its own mount namespace, so that
//! nothing of it is left when it dies, wherever it gets to. What goes wrong it tells its shim, with the step and the errno.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use oci_spec::runtime::{Linux, Process, Spec};

use super::channel;
use super::config::{MountExtra, Namespace, Network, Seccomp, ShimConfig};
use crate::container::cgroup::Version;
use crate::container::mounts::device::{self, Terminal};
use crate::container::mounts::options::Options;
use crate::container::mounts::{Mounter, clone_source, mask};
use crate::container::process::{self as program, Program};
use crate::container::step::{Context, Step, fault};
use crate::container::{beneath, capabilities, rootfs, seccomp, sysctl};
use crate::sys::clone;
use crate::sys::mount::{self, Attributes};
use crate::sys::process::{self, Instruction};

/// What a process of the engine's in a container is called, as far as the container can see it.
pub(super) const PROGRAM: &str = "rcompose-init";

/// What the shim hands to the process that it has cloned.
#[derive(Debug)]
pub(super) struct Init<'a> {
    pub(super) bundle: &'a Path,
    /// The container's run directory. Init is done with it, so the root is put on top of it.
    pub(super) run: &'a Path,
    pub(super) config: &'a ShimConfig,
    /// Rows and columns of the terminal of somebody who attaches.
    pub(super) size: Option<(u16, u16)>,
    pub(super) channel: OwnedFd,
    /// Standard input, output and error; not used with a terminal. One that is not there is the container's null device.
    pub(super) stdio: [Option<OwnedFd>; 3],
}

impl Init<'_> {
    /// Becomes the container's PID 1.
    pub(super) fn become_container(mut self) -> ! {
        let failure = match self.prepare() {
            Ok(program) if self.config.init => super::pid1::run(&program, self),
            Ok(program) => channel::execute(&self.channel, &program),
            Err(failure) => failure,
        };
        channel::send_failure(&self.channel, &failure);
        clone::exit(failure.code)
    }

    fn prepare(&mut self) -> Step<Program> {
        // What the shim has open is none of the container's business. Its owners are in frames that are never returned to.
        let kept = self.stdio.iter().flatten().chain([&self.channel]).map(AsFd::as_fd).collect::<Vec<_>>();
        process::close_all_but(&kept).step(|| "close the shim's descriptors".into())?;
        let (process, filter) = self.make()?;
        // They have become the standard ones.
        self.stdio = [None, None, None];
        program::prepare(&process, filter.as_deref(), self.channel.as_fd())
    }

    /// Makes everything around the program; afterwards this process is in it. Returns what is to be executed.
    fn make(&self) -> Step<(Process, Option<Vec<Instruction>>)> {
        // Nothing of a container that is only half made outlives its shim.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step(|| "tie the container to its shim".into())?;
        nix::unistd::setsid().step(|| "begin a session".into())?;
        process::forget_origin(PROGRAM).step(|| "forget the engine's environment".into())?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        let spec = read_spec(self.bundle)?;
        let process = spec.process().as_ref().ok_or_else(|| fault("config.json has no process".into()))?;
        let linux = spec.linux().clone().unwrap_or_default();
        let score = process.oom_score_adj().unwrap_or(0);
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .step(|| format!("set the OOM score adjustment to {score}"))?;

        let early = self.isolate_mounts(&spec)?;
        // What exists may be a file.
        for path in self.config.create_host_paths.iter().filter(|path| !path.exists()) {
            std::fs::create_dir_all(path).step(|| format!("create host path {}", path.display()))?;
        }
        join(&self.config.namespaces.ipc, CloneFlags::CLONE_NEWIPC)?;
        join(&self.config.namespaces.uts, CloneFlags::CLONE_NEWUTS)?;

        let root = rootfs::assemble(&self.config.rootfs, self.run)?;
        let mut mounter = Mounter {
            root: root.as_fd(),
            extras: &self.config.mounts,
            cgroup: &self.config.cgroup,
            early,
            dev: None,
            devpts: None,
        };
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        // sysfs shows the network namespace of who mounts it, and cgroups their namespace: both come later.
        let late = |path: &Path| path.starts_with("/sys");
        for item in mounts.iter().filter(|item| !late(item.destination())) {
            let had_dev = mounter.dev.is_some();
            mounter.mount(item)?;
            if let (false, Some(dev)) = (had_dev, &mounter.dev) {
                device::fill(dev.as_fd())?;
                for item in linux.devices().iter().flatten() {
                    device::create(root.as_fd(), Some(dev.as_fd()), item)?;
                }
            }
        }
        let terminal = self.terminal(process, mounter.dev.as_ref(), mounter.devpts.as_ref())?;
        beneath::ensure_directory(&root, process.cwd())
            .step(|| format!("create working directory {}", process.cwd().display()))?;

        if self.config.network == Network::Sent {
            let namespace = channel::receive_network(&self.channel)?;
            setns(namespace, CloneFlags::CLONE_NEWNET).step(|| "join the network namespace".into())?;
        }
        if self.config.cgroup.version == Version::V1 {
            self.config.cgroup.enter()?;
            if self.config.namespaces.cgroup == Namespace::New {
                unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "make a cgroup namespace".into())?;
            }
        }
        join(&self.config.namespaces.cgroup, CloneFlags::CLONE_NEWCGROUP)?;
        for item in mounts.iter().filter(|item| late(item.destination())) {
            mounter.mount(item)?;
        }
        sysctl::set(linux.sysctl().as_ref())?;
        let null = device::null(mounter.dev.as_ref().map(AsFd::as_fd), self.bundle)?;
        finish_root(&spec, &linux, &root, &null)?;
        let null = nix::fcntl::open(&beneath::proc_path(&null), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .step(|| "open the container's null device".into())?;
        self.name_host(&spec)?;
        enter(&root)?;
        self.connect_stdio(terminal.as_ref(), &null)?;
        let filter = filter(self.config.seccomp, &linux, process)?;
        Ok((process.clone(), filter))
    }

    /// Makes this namespace's mounts private, so that nothing done here is seen by the host. Sources whose mounts the host
    /// is to share are cloned before.
    fn isolate_mounts(&self, spec: &Spec) -> Step<BTreeMap<std::path::PathBuf, OwnedFd>> {
        let mut early = BTreeMap::new();
        let none = MountExtra::default();
        for item in spec.mounts().iter().flatten() {
            let options = Options::parse(item.options().iter().flatten());
            let shared = options.propagation.is_some_and(|kind| kind == libc::MS_SHARED || kind == libc::MS_SLAVE);
            if options.bind && shared {
                let extra = self.config.mounts.get(&*item.destination().to_string_lossy()).unwrap_or(&none);
                early.insert(item.destination().clone(), clone_source(item, extra, &options)?);
            }
        }
        let describe = || "make the mounts private".to_owned();
        let host = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?;
        let attributes = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
        mount::mount_setattr(host.as_fd(), true, attributes).step(describe)?;
        Ok(early)
    }

    fn terminal(&self, process: &Process, dev: Option<&OwnedFd>, devpts: Option<&OwnedFd>) -> Step<Option<Terminal>> {
        if !self.config.tty {
            return Ok(None);
        }
        let devpts = devpts.ok_or_else(|| fault("allocate a terminal: the container has no devpts".into()))?;
        let terminal = Terminal::allocate(devpts.as_fd(), process.user().uid())?;
        let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
        let configured = || process.console_size().map(|size| (cells(size.height()), cells(size.width())));
        if let Some((rows, columns)) = self.size.or_else(configured) {
            process::set_terminal_size(terminal.master.as_fd(), rows, columns)
                .step(|| "set the size of the terminal".into())?;
        }
        if let Some(dev) = dev {
            terminal.mount_console(dev.as_fd())?;
        }
        channel::send_terminal(&self.channel, terminal.master.as_fd()).step(|| "hand over the terminal".into())?;
        Ok(Some(terminal))
    }

    fn name_host(&self, spec: &Spec) -> Step<()> {
        if self.config.namespaces.uts != Namespace::New {
            return Ok(());
        }
        if let Some(name) = spec.hostname() {
            nix::unistd::sethostname(name).step(|| format!("set the host name to {name}"))?;
        }
        if let Some(name) = spec.domainname() {
            process::set_domain_name(name).step(|| format!("set the domain name to {name}"))?;
        }
        Ok(())
    }

    fn connect_stdio(&self, terminal: Option<&Terminal>, null: &OwnedFd) -> Step<()> {
        let describe = || "connect the standard input, output and error".to_owned();
        for (number, own) in self.stdio.iter().enumerate() {
            let fd = match terminal {
                Some(terminal) => &terminal.peer,
                None => own.as_ref().unwrap_or(null),
            };
            process::dup_to_stdio(fd.as_fd(), i32::try_from(number).unwrap_or_default()).step(describe)?;
        }
        if let Some(terminal) = terminal {
            process::set_controlling_terminal(terminal.peer.as_fd())
                .step(|| "make the terminal the controlling one".into())?;
        }
        Ok(())
    }
}

/// Reads the OCI configuration of a bundle.
pub(super) fn read_spec(bundle: &Path) -> Step<Spec> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).step(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).step(|| format!("parse {}", path.display()))
}

/// Compiles the filter for a process of the container.
pub(super) fn filter(kind: Seccomp, linux: &Linux, process: &Process) -> Step<Option<Vec<Instruction>>> {
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    match kind {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default => Ok(Some(seccomp::default_filter(capabilities::from_oci(bounding)))),
        Seccomp::Profile => match linux.seccomp() {
            Some(profile) => seccomp::compile_profile(profile)
                .map(Some)
                .map_err(|error| fault(format!("compile the seccomp profile: {error}"))),
            None => Ok(None),
        },
    }
}

/// Makes `root` the root of this mount namespace and lets go of the host's.
fn enter(root: &OwnedFd) -> Step<()> {
    let describe = || "change to the container's root".to_owned();
    nix::unistd::fchdir(root).step(describe)?;
    mount::pivot_root_here().step(describe)?;
    umount2(".", MntFlags::MNT_DETACH).step(|| "let go of the host's root".into())?;
    nix::unistd::chdir("/").step(describe)
}

/// Joins a namespace of another container.
fn join(namespace: &Namespace, kind: CloneFlags) -> Step<()> {
    let Namespace::Path(path) = namespace else { return Ok(()) };
    let describe = || format!("join namespace {}", path.display());
    let fd = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?;
    setns(fd, kind).step(describe)
}

/// Makes read-only and hides what the container must not change or see.
fn finish_root(spec: &Spec, linux: &Linux, root: &OwnedFd, null: &OwnedFd) -> Step<()> {
    mask::read_only(root.as_fd(), linux.readonly_paths().as_deref().unwrap_or_default())?;
    mask::mask(root.as_fd(), linux.masked_paths().as_deref().unwrap_or_default(), null.as_fd())?;
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        let attributes = Attributes { set: mount::RDONLY, ..Attributes::default() };
        mount::mount_setattr(root.as_fd(), false, attributes).step(|| "make the root read-only".into())?;
    }
    Ok(())
}
