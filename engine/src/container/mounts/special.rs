//! `/sys/fs/cgroup`: what the container sees of the groups it is in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, mkdirat};

use super::options::Options;
use crate::container::beneath;
use crate::container::cgroup::{Plan, Version};
use crate::container::step::{Context, Step};
use crate::sys::mount::{self, Attributes};

/// Mounts the hierarchies that the container has groups in. Its cgroup namespace makes them look like the roots; without
/// one of its own (`private`), version 1 shows its groups alone.
pub(super) fn cgroup(
    root: BorrowedFd<'_>,
    destination: &Path,
    plan: &Plan,
    private: bool,
    options: &Options,
) -> Step<()> {
    let describe = || format!("mount cgroup at {}", destination.display());
    let target = beneath::ensure_directory(root, destination).step(describe)?;
    if plan.version == Version::V2 {
        let new = || {
            let context = mount::fsopen(c"cgroup2")?;
            context.set(c"source", c"cgroup")?;
            context.mount(options.attributes())
        };
        let mounted = match (new(), &plan.hierarchies[..]) {
            // The root of a user namespace of its own may not, if it sees the host's groups.
            (Err(Errno::EPERM), [hierarchy]) if !private => existing(&hierarchy.mount, options),
            (mounted, _) => mounted,
        };
        let mounted = mounted.step(describe)?;
        return mount::move_mount(mounted.as_fd(), target.as_fd()).step(describe);
    }
    let context = mount::fsopen(c"tmpfs").step(describe)?;
    context.set(c"source", c"tmpfs").step(describe)?;
    context.set(c"mode", c"755").step(describe)?;
    let base = context.mount(options.attributes() & !mount::RDONLY).step(describe)?;
    mount::move_mount(base.as_fd(), target.as_fd()).step(describe)?;
    for hierarchy in &plan.hierarchies {
        let name = hierarchy.mount.file_name().unwrap_or_default();
        mkdirat(&base, name, Mode::from_bits_truncate(0o755)).step(describe)?;
        let mounted = if private {
            let context = mount::fsopen(c"cgroup").step(describe)?;
            context.set(c"source", c"cgroup").step(describe)?;
            for controller in &hierarchy.controllers {
                let controller = beneath::c_string(controller).step(describe)?;
                context.set_flag(&controller).step(describe)?;
            }
            context.mount(options.attributes()).step(describe)?
        } else {
            existing(&hierarchy.mount.join(&plan.path), options).step(describe)?
        };
        let at = beneath::open(&base, name, nix::fcntl::OFlag::O_PATH).step(describe)?;
        mount::move_mount(mounted.as_fd(), at.as_fd()).step(describe)?;
        // `cpu,cpuacct` is also known as `cpu` and as `cpuacct`.
        for controller in hierarchy.controllers.iter().filter(|controller| *controller.as_str() != *name) {
            nix::unistd::symlinkat(name, &base, controller.as_str()).step(describe)?;
        }
    }
    if options.set & mount::RDONLY != 0 {
        let attributes = Attributes { set: mount::RDONLY, ..Attributes::default() };
        mount::mount_setattr(base.as_fd(), false, attributes).step(describe)?;
    }
    // Make sure that what is there is a directory of ours and not a link: the walk above never followed one out.
    nix::sys::stat::fstatat(&base, "", AtFlags::AT_EMPTY_PATH).step(describe).map(drop)
}

/// Returns a view of a part of what is mounted on the host.
fn existing(path: &Path, options: &Options) -> nix::Result<OwnedFd> {
    let tree = mount::open_tree_clone(mount::cwd(), &beneath::c_string(path)?, false)?;
    let attributes = Attributes { set: options.attributes(), propagation: libc::MS_PRIVATE, ..Attributes::default() };
    mount::mount_setattr(tree.as_fd(), false, attributes)?;
    Ok(tree)
}
