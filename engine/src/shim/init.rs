//! The container's init: the process that the shim clones into new namespaces, until it executes the container's program.
//!
//! It makes everything that only the container is to see (root, mounts, devices) in its own mount namespace, so that
//! nothing of it is left when it dies, wherever it gets to. What goes wrong it tells its shim, with the step and the errno.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use oci_spec::runtime::{Linux, LinuxPersonality, LinuxPersonalityDomain, Process, Spec};

use super::channel::{self, Heard, Message};
use super::config::{Blueprint, MountExtra, Namespace, Network, RootSource, Seccomp};
use crate::container::cgroup::Version;
use crate::container::mounts::device::{self, Terminal};
use crate::container::mounts::options::{self, Options};
use crate::container::mounts::{Mounter, clone_source, mask};
use crate::container::process::{self as program, Program};
use crate::container::seccomp::Filter;
use crate::container::step::{Context, Step, fault};
use crate::container::{beneath, capabilities, hooks, rootfs, seccomp, sysctl};
use crate::sys::mount::{self, Attributes};
use crate::sys::{clone, process, socket};

/// What a process of the engine's in a container is called, as far as the container can see it.
pub(super) const PROGRAM: &str = "rcompose-init";

/// What the process that is cloned gets from the one that clones it.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    /// Where `config.json` is.
    pub(crate) bundle: &'a Path,
    pub(crate) config: Blueprint<'a>,
    /// Rows and columns of the terminal of somebody who attaches.
    pub(crate) size: Option<(u16, u16)>,
    pub(crate) channel: OwnedFd,
    /// Standard input, output and error; not used with a terminal. One that is not there is the container's null device.
    pub(crate) stdio: [Option<OwnedFd>; 3],
    /// Sources of mounts that were cloned by who may do more, by destination.
    pub(crate) sources: Sources,
    /// Where somebody will connect to say that the program is to be executed; without it, it is at once.
    pub(crate) start: Option<OwnedFd>,
    /// Descriptors from this on close with the exec.
    pub(crate) first_closed: RawFd,
}

/// Trees to be mounted, by destination.
pub(crate) type Sources = BTreeMap<PathBuf, OwnedFd>;

impl Init<'_> {
    /// Becomes the container's PID 1.
    pub(crate) fn become_container(mut self) -> ! {
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
        let mut kept: Vec<BorrowedFd<'_>> = self.stdio.iter().flatten().map(AsFd::as_fd).collect();
        kept.extend(self.sources.values().chain(&self.start).chain([&self.channel]).map(AsFd::as_fd));
        if let RootSource::Tree(tree, _) = self.config.rootfs {
            kept.push(tree);
        }
        process::close_all_but_from(self.first_closed, &kept).step(|| "close the shim's descriptors".into())?;
        let mut heard = Heard::default();
        let (spec, mut state) = self.make(&mut heard)?;
        // They have become the standard ones.
        self.stdio = [None, None, None];
        let process = spec.process().as_ref().ok_or_else(|| fault("config.json has no process".into()))?;
        if let Some(listener) = self.start.take() {
            program::check(process)?;
            program::own_stdio(process.user().uid())?;
            state = self.wait_for_start(&mut heard, &listener)?;
        }
        if let Some(hooks) = spec.hooks().as_ref().filter(|_| self.config.hooks) {
            hooks::run("startContainer", hooks.start_container().as_deref(), &state)?;
        }
        let filter = filter(self.config.seccomp, &spec.linux().clone().unwrap_or_default(), process)?;
        program::prepare(process, filter.as_ref(), self.channel.as_fd(), self.first_closed)
    }

    /// Makes everything around the program; afterwards this process is in it. Returns the configuration, and the container's
    /// state if there are hooks.
    fn make(&mut self, heard: &mut Heard) -> Step<(Spec, String)> {
        // Nothing of a container that is only half made outlives its shim.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step(|| "tie the container to its shim".into())?;
        // The root of a user namespace of its own may not go there.
        let spec = read_spec(self.bundle)?;
        self.begin(heard)?;
        let process = spec.process().as_ref().ok_or_else(|| fault("config.json has no process".into()))?;
        let linux = spec.linux().clone().unwrap_or_default();
        if let Some(score) = process.oom_score_adj() {
            set_oom_score(score)?;
        }
        if let Some(personality) = linux.personality() {
            set_personality(personality)?;
        }

        self.isolate_mounts(&spec, &linux)?;
        // What exists may be a file.
        for path in self.config.create_host_paths.iter().filter(|path| !path.exists()) {
            std::fs::create_dir_all(path).step(|| format!("create host path {}", path.display()))?;
        }
        join(&self.config.namespaces.ipc, CloneFlags::CLONE_NEWIPC)?;
        join(&self.config.namespaces.uts, CloneFlags::CLONE_NEWUTS)?;

        let root = self.root()?;
        let sources = std::mem::take(&mut self.sources);
        let mut mounter = Mounter {
            root: root.as_fd(),
            extras: self.config.mounts,
            cgroup: self.config.cgroup,
            own_cgroups: self.config.namespaces.cgroup != Namespace::Host,
            early: sources,
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
        if mounts.iter().all(|item| item.destination() != Path::new("/dev")) {
            device::fill_image(root.as_fd(), linux.devices().as_deref().unwrap_or_default())?;
        }
        let terminal = self.terminal(process, mounter.dev.as_ref(), mounter.devpts.as_ref())?;
        beneath::ensure_directory(&root, process.cwd())
            .step(|| format!("create working directory {}", process.cwd().display()))?;

        self.enter_network(heard)?;
        // That of version 2 came with the clone, which was into the cgroup itself.
        if self.config.cgroup.version == Version::V1 && self.config.namespaces.cgroup == Namespace::New {
            unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "make a cgroup namespace".into())?;
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
        name_host(&spec)?;
        let hooks = spec.hooks().as_ref().filter(|_| self.config.hooks);
        let mut state = String::new();
        if let Some(hooks) = hooks {
            state = heard.hooks(&self.channel)?;
            hooks::run("createContainer", hooks.create_container().as_deref(), &state)?;
        }
        enter(&root)?;
        propagate(&linux)?;
        self.connect_stdio(terminal.as_ref(), &null)?;
        Ok((spec, state))
    }

    /// Enters its cgroups, becomes root of a user namespace of its own, if it has one, and the first of a session.
    fn begin(&mut self, heard: &mut Heard) -> Step<()> {
        if self.config.cgroup.version == Version::V1 {
            // While it is still the host's root.
            self.config.cgroup.enter()?;
        }
        if self.config.namespaces.user.is_some() {
            heard.mapped(&self.channel)?;
            process::set_user(0, 0, &[]).step(|| "become root of the user namespace".into())?;
            // Else its files in /proc would be those of the host's root, which it no longer is.
            nix::sys::prctl::set_dumpable(true).step(|| "become root of the user namespace".into())?;
            // Lost with the change of ids.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step(|| "tie the container to its shim".into())?;
        }
        nix::unistd::setsid().step(|| "begin a session".into())?;
        process::forget_origin(PROGRAM).step(|| "forget the engine's environment".into())?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        Ok(())
    }

    /// Puts the container's root where this mount namespace sees it.
    fn root(&self) -> Step<OwnedFd> {
        match self.config.rootfs {
            RootSource::Overlay(rootfs, at) => rootfs::assemble(rootfs, at),
            RootSource::Tree(tree, at) => rootfs::attach(tree, at),
        }
    }

    fn enter_network(&self, heard: &mut Heard) -> Step<()> {
        match self.config.network {
            Network::Host => Ok(()),
            Network::Sent => {
                let namespace = heard.network(&self.channel)?;
                setns(namespace, CloneFlags::CLONE_NEWNET).step(|| "join the network namespace".into())
            }
            Network::New => crate::sys::net::loopback_up().step(|| "bring the loopback interface up".into()),
            Network::Path(path) => join(&Namespace::Path(path.clone()), CloneFlags::CLONE_NEWNET),
        }
    }

    /// Lets go of who cloned this process, and waits for somebody to say that the program is to be executed; from then on
    /// it is told what goes wrong. Returns the container's state.
    fn wait_for_start(&mut self, heard: &mut Heard, listener: &OwnedFd) -> Step<String> {
        heard.released(&self.channel)?;
        nix::sys::prctl::set_pdeathsig(None).step(|| "outlive who made the container".into())?;
        // Seen by who made the container, which ends then.
        self.channel = socket::pair().step(|| "let go of who made the container".into())?.0;
        loop {
            let Some(connection) = socket::accept(listener.as_fd()).step(|| "wait for the start".into())? else {
                continue;
            };
            // Somebody who says anything else, or nothing, is not the one.
            if let Ok(Some(Message::Start(state))) = channel::receive(&connection) {
                self.channel = connection;
                return Ok(state);
            }
        }
    }

    /// Makes this namespace's mounts private, so that nothing done here is seen by the host. Sources whose mounts the host
    /// is to share are cloned before.
    fn isolate_mounts(&mut self, spec: &Spec, linux: &Linux) -> Step<()> {
        let none = MountExtra::default();
        for item in spec.mounts().iter().flatten() {
            let options = Options::parse(item.options().iter().flatten());
            let shared = options.propagation.is_some_and(|kind| kind == libc::MS_SHARED || kind == libc::MS_SLAVE);
            if options.bind && shared && !self.sources.contains_key(item.destination()) {
                let extra = self.config.mounts.get(&*item.destination().to_string_lossy()).unwrap_or(&none);
                self.sources.insert(item.destination().clone(), clone_source(item, extra, &options)?);
            }
        }
        let describe = || "make the mounts private".to_owned();
        let host = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?;
        // What the host mounts later is only seen by a container that is to see it.
        let follows = linux.rootfs_propagation().as_deref().and_then(options::propagation);
        let follows = follows.is_some_and(|(kind, _)| kind == libc::MS_SHARED || kind == libc::MS_SLAVE);
        let propagation = if follows { libc::MS_SLAVE } else { libc::MS_PRIVATE };
        let attributes = Attributes { propagation, ..Attributes::default() };
        mount::mount_setattr(host.as_fd(), true, attributes).step(describe)
    }

    fn terminal(&self, process: &Process, dev: Option<&OwnedFd>, devpts: Option<&OwnedFd>) -> Step<Option<Terminal>> {
        if process.terminal() != Some(true) {
            return Ok(None);
        }
        let devpts = devpts.ok_or_else(|| fault("allocate a terminal: the container has no devpts".into()))?;
        let terminal = Terminal::allocate(devpts.as_fd(), process.user().uid())?;
        if let Some((rows, columns)) = self.size.or_else(|| console_size(process)) {
            process::set_terminal_size(terminal.master.as_fd(), rows, columns)
                .step(|| "set the size of the terminal".into())?;
        }
        if let Some(dev) = dev {
            terminal.mount_console(dev.as_fd())?;
        }
        channel::send_terminal(&self.channel, terminal.master.as_fd()).step(|| "hand over the terminal".into())?;
        Ok(Some(terminal))
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

/// Gives the UTS namespace its names.
fn name_host(spec: &Spec) -> Step<()> {
    if let Some(name) = spec.hostname() {
        nix::unistd::sethostname(name).step(|| format!("set the host name to {name}"))?;
    }
    if let Some(name) = spec.domainname() {
        process::set_domain_name(name).step(|| format!("set the domain name to {name}"))?;
    }
    Ok(())
}

/// Returns the rows and columns that a process's terminal is to have.
pub(super) fn console_size(process: &Process) -> Option<(u16, u16)> {
    let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
    process.console_size().map(|size| (cells(size.height()), cells(size.width())))
}

/// Reads the OCI configuration of a bundle.
pub(crate) fn read_spec(bundle: &Path) -> Step<Spec> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).step(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).step(|| format!("parse {}", path.display()))
}

/// Compiles the filter for a process of the container.
pub(crate) fn filter(kind: Seccomp, linux: &Linux, process: &Process) -> Step<Option<Filter>> {
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    match kind {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default => {
            Ok(Some(Filter { code: seccomp::default_filter(capabilities::from_oci(bounding)), flags: 0 }))
        }
        Seccomp::Profile => match linux.seccomp() {
            Some(profile) => seccomp::compile_profile(profile)
                .and_then(|code| Ok(Some(Filter { code, flags: seccomp::flags(profile)? })))
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

/// Gives the root, and with `r` in front all mounts, the propagation that the configuration says.
fn propagate(linux: &Linux) -> Step<()> {
    let Some(name) = linux.rootfs_propagation().as_deref().filter(|name| !name.is_empty()) else { return Ok(()) };
    let describe = || format!("make the root {name}");
    let (propagation, recursive) = options::propagation(name).ok_or(Errno::EINVAL).step(describe)?;
    let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?;
    mount::mount_setattr(root.as_fd(), recursive, Attributes { propagation, ..Attributes::default() }).step(describe)
}

/// Sets how early the kernel kills this process for want of memory. In a user namespace of its own it may not lower it,
/// and who cloned it has done that.
pub(crate) fn set_oom_score(score: i32) -> Step<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let describe = || format!("set the OOM score adjustment to {score}");
    if std::fs::read_to_string(FILE).step(describe)?.trim() == score.to_string() {
        return Ok(());
    }
    std::fs::write(FILE, score.to_string()).step(describe)
}

fn set_personality(personality: &LinuxPersonality) -> Step<()> {
    const PER_LINUX32: u64 = 8;
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    process::set_personality(domain).step(|| format!("set the personality {}", personality.domain()))
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
