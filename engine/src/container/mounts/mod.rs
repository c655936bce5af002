//! The mounts of a container, made in its own mount namespace (OCI runtime specification, "Mounts").
//!
//! Each is made detached, given its attributes, and moved onto a descriptor that was resolved inside the root, so that
//! no symbolic link of an image or of a shared volume, not even one that changes at this moment, decides where it lands.

pub mod device;
pub mod mask;
pub mod options;
mod special;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::PROC_SUPER_MAGIC;
use oci_spec::runtime::Mount;

use self::options::Options;
use super::beneath;
use super::step::{Context, Step, fault};
use crate::container::cgroup::Plan;
use crate::shim::config::MountExtra;
use crate::shim::protocol::Failure;
use crate::sys::mount::{self, Attributes};
use crate::volume::copy_up;

/// Files of `/proc` that may be covered, since tools that show a container its own limits do so; what runc allows.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Makes the mounts of one container.
#[derive(Debug)]
pub struct Mounter<'a> {
    /// The container's root.
    pub root: BorrowedFd<'a>,
    pub extras: &'a BTreeMap<String, MountExtra>,
    pub cgroup: &'a Plan,
    /// Bind sources that were cloned before this namespace's mounts were made private, by destination.
    pub early: BTreeMap<PathBuf, OwnedFd>,
    /// The container's own `/dev`, while it is being filled.
    pub dev: Option<OwnedFd>,
    /// The container's own `devpts`.
    pub devpts: Option<OwnedFd>,
}

impl Mounter<'_> {
    /// Makes one mount.
    pub fn mount(&mut self, item: &Mount) -> Step<()> {
        let options = Options::parse(item.options().iter().flatten());
        let destination = item.destination();
        let kind = item.typ().as_deref().unwrap_or("none");
        if options.bind || kind == "bind" {
            return self.bind(item, &options);
        }
        match kind {
            "cgroup" => special::cgroup(self.root, destination, self.cgroup, &options),
            _ => self.filesystem(kind, destination, &options),
        }
    }

    fn bind(&mut self, item: &Mount, options: &Options) -> Step<()> {
        let destination = item.destination();
        let none = MountExtra::default();
        let extra = self.extras.get(&*destination.to_string_lossy()).unwrap_or(&none);
        let tree = match self.early.remove(destination) {
            Some(tree) => tree,
            None => clone_source(item, extra, options)?,
        };
        let describe = || format!("mount {} at {}", source(item).display(), destination.display());
        let directory = beneath::is_directory(&tree).step(describe)?;
        if extra.copy_up && directory {
            copy_up::copy_up(self.root, destination, tree.as_fd())?;
        }
        let attributes = Attributes {
            set: options.set,
            clear: options.clear,
            // Without this the copy of a shared mount would hear of mounts that the host makes below it.
            propagation: options.propagation.unwrap_or(libc::MS_PRIVATE),
            userns_fd: 0,
        };
        // Read-only means the whole tree, as Docker has it since version 25.
        mount::mount_setattr(tree.as_fd(), options.recursive, attributes).step(describe)?;
        let target = self.target(destination, directory).step(describe)?;
        refuse_proc(&target, destination, &tree)?;
        mount::move_mount(tree.as_fd(), target.as_fd()).step(describe)
    }

    /// Mounts a new filesystem.
    fn filesystem(&mut self, kind: &str, destination: &Path, options: &Options) -> Step<()> {
        let describe = || format!("mount {kind} at {}", destination.display());
        let existing = beneath::open(self.root, destination, OFlag::O_PATH);
        let target = self.target(destination, true).step(describe)?;
        if kind != "proc" {
            refuse_proc(&target, destination, &target)?;
        }
        let name = beneath::c_string(kind).step(describe)?;
        let context = mount::fsopen(&name).step(describe)?;
        let failed = |errno: Errno| Failure {
            step: format!("{} ({})", describe(), context.messages()),
            errno: errno as i32,
            code: super::step::ENGINE,
        };
        context.set(c"source", &name).map_err(failed)?;
        for (key, value) in &options.data {
            let key = beneath::c_string(key).step(describe)?;
            match value {
                Some(value) => {
                    let value = beneath::c_string(value).step(describe)?;
                    context.set(&key, &value).map_err(failed)?;
                }
                None => context.set_flag(&key).map_err(failed)?,
            }
        }
        // A tmpfs over a directory of the image looks like that directory, unless told.
        let mode_is_open = kind == "tmpfs" && options.data.iter().all(|(key, _)| key != "mode");
        if let (true, Ok(existing)) = (mode_is_open, existing) {
            let mode = fstat(&existing).step(describe)?.st_mode & 0o7777;
            let mode = beneath::c_string(format!("{mode:o}")).step(describe)?;
            context.set(c"mode", &mode).map_err(failed)?;
        }
        context.create().map_err(failed)?;
        let mounted = context.fsmount(options.attributes()).map_err(failed)?;
        mount::move_mount(mounted.as_fd(), target.as_fd()).step(describe)?;
        match kind {
            "tmpfs" if destination == Path::new("/dev") => self.dev = Some(mounted),
            "devpts" => self.devpts = Some(mounted),
            _ => {}
        }
        Ok(())
    }

    fn target(&self, destination: &Path, directory: bool) -> nix::Result<OwnedFd> {
        if directory {
            beneath::ensure_directory(self.root, destination)
        } else {
            beneath::ensure_file(self.root, destination)
        }
    }
}

/// Refuses to cover the container's `/proc`: writes to it, such as those of security labels, must reach the kernel.
fn refuse_proc(target: &OwnedFd, destination: &Path, tree: &OwnedFd) -> Step<()> {
    let describe = || format!("mount at {}", destination.display());
    // By its name too: what is mounted at `/proc` itself takes the place of the procfs.
    if !destination.starts_with("/proc") && !mount::is_filesystem(target, PROC_SUPER_MAGIC).step(describe)? {
        return Ok(());
    }
    let whole_proc = destination == Path::new("/proc") && mount::is_filesystem(tree, PROC_SUPER_MAGIC) == Ok(true);
    let allowed = PROC_FILES.iter().any(|path| Path::new(path) == destination);
    if whole_proc || allowed {
        return Ok(());
    }
    Err(fault(format!("mount at {}: a mount inside /proc is not allowed", destination.display())))
}

/// Clones the source of a bind mount.
pub fn clone_source(item: &Mount, extra: &MountExtra, options: &Options) -> Step<OwnedFd> {
    let source = source(item);
    let describe = || format!("open {}, the source of {}", source.display(), item.destination().display());
    if let Some(namespace) = &extra.namespace {
        return clone_elsewhere(namespace, source).step(describe);
    }
    let whole = if extra.layers.is_empty() {
        nix::fcntl::open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?
    } else {
        super::rootfs::image(&extra.layers)?
    };
    let Some(subpath) = &extra.subpath else {
        if !extra.layers.is_empty() {
            return Ok(whole);
        }
        return mount::open_tree_clone(whole.as_fd(), c"", options.recursive).step(describe);
    };
    // A part of a mount can only be cloned where that is attached (before Linux 6.15): over one of its own layers, in this
    // process's mount namespace.
    let layer = extra.layers.first();
    if let Some(layer) = layer {
        let place = nix::fcntl::open(layer, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(describe)?;
        mount::move_mount(whole.as_fd(), place.as_fd()).step(describe)?;
    }
    let part = beneath::open(&whole, subpath, OFlag::O_PATH)
        .step(|| format!("open {} of {}", subpath.display(), source.display()))?;
    let tree = mount::open_tree_clone(part.as_fd(), c"", options.recursive).step(describe)?;
    if let Some(layer) = layer {
        umount2(layer, MntFlags::MNT_DETACH).step(describe)?;
    }
    Ok(tree)
}

/// Clones a mount of another container, whose paths are only resolved inside its root.
pub(crate) fn clone_elsewhere(namespace: &Path, path: &Path) -> nix::Result<OwnedFd> {
    let open = |path: &Path| nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    let (own, other) = (open(Path::new("/proc/self/ns/mnt"))?, open(namespace)?);
    setns(other, CloneFlags::CLONE_NEWNS)?;
    let tree = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|root| beneath::open(root, path, OFlag::O_PATH))
        .and_then(|found| mount::open_tree_clone(found.as_fd(), c"", false));
    // Whatever happened there, this process goes on here.
    setns(own, CloneFlags::CLONE_NEWNS)?;
    tree
}

fn source(item: &Mount) -> &Path {
    item.source().as_deref().unwrap_or(Path::new(""))
}
