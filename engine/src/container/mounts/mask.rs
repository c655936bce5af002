//! Paths that a container must not see (`linux.maskedPaths`) or change (`linux.readonlyPaths`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::container::beneath;
use crate::container::step::{Context, Step};
use crate::sys::mount::{self, Attributes};

/// Covers a list of paths inside `root`: files by `null`, the container's own null device, directories by an empty
/// read-only filesystem. A path that does not exist needs no cover.
pub fn mask(root: BorrowedFd<'_>, paths: &[String], null: BorrowedFd<'_>) -> Step<()> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let describe = || format!("mask {path}");
        let target = match beneath::open(root, path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            result => result.step(describe)?,
        };
        let directory = beneath::is_directory(&target).step(describe)?;
        let cover = if !directory {
            mount::open_tree_clone(null, c"", false).step(describe)?
        } else if let Some(attached) = &empty {
            mount::open_tree_clone(attached.as_fd(), c"", false).step(describe)?
        } else {
            let context = mount::fsopen(c"tmpfs").step(describe)?;
            context.set(c"source", c"tmpfs").step(describe)?;
            context.set(c"nr_blocks", c"1").step(describe)?;
            context.set(c"nr_inodes", c"1").step(describe)?;
            context.mount(mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC).step(describe)?
        };
        mount::move_mount(cover.as_fd(), target.as_fd()).step(describe)?;
        if directory && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// Makes a list of paths inside `root`, with everything mounted below them, read-only.
pub fn read_only(root: BorrowedFd<'_>, paths: &[String]) -> Step<()> {
    for path in paths {
        let describe = || format!("make {path} read-only");
        let target = match beneath::open(root, path, OFlag::O_PATH) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            result => result.step(describe)?,
        };
        let tree = mount::open_tree_clone(target.as_fd(), c"", true).step(describe)?;
        let attributes = Attributes { set: mount::RDONLY, ..Attributes::default() };
        mount::mount_setattr(tree.as_fd(), true, attributes).step(describe)?;
        mount::move_mount(tree.as_fd(), target.as_fd()).step(describe)?;
    }
    Ok(())
}
