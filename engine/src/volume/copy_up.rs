//! Copies what an image has at a mount point into an empty volume, once.
//!
//! Runs in the container's init, before the volume covers the place. Both trees are hostile (the image by its author, the
//! volume by other containers that have it mounted already), so everything goes by descriptor and name, no link is
//! followed, and nothing is done through a path.
//!
//! A copy is whole and durable before any container has it: until then the volume has a mark, and whoever finds the mark
//! starts over. Else a power cut would leave a volume with content that is never completed.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchownat, linkat, symlinkat, syncfs};

use crate::container::beneath;
use crate::container::step::{Context, ExactModes, Step, fault};
use crate::image::remove::remove_tree;
use crate::sys::xattr;

/// How deep directories may be nested; the deepest path that the kernel resolves has 2048 levels (PATH_MAX).
const DEPTH: usize = 2048;

/// Extended attribute of a volume that is being filled.
const FILLING: &CStr = c"trusted.rcompose.filling";

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Copies the directory `path` of the image, seen at `root`, into `volume`, unless the volume has content already. What
/// the image does not have, or has as something else than a directory, leaves the volume as it is.
pub fn copy_up(root: BorrowedFd<'_>, path: &Path, volume: BorrowedFd<'_>) -> Step<()> {
    let describe = || format!("copy the image's {} into its volume", path.display());
    let source = match beneath::open(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
        result => result.step(describe)?,
    };
    let target = beneath::open(volume, "/", OFlag::O_RDONLY | OFlag::O_DIRECTORY).step(describe)?;
    // Two containers that get the same new volume: one copies, the other waits and then finds it filled.
    let lock = File::from(target);
    lock.lock().step(describe)?;
    if is_filling(lock.as_fd()).step(describe)? {
        // From a crash in the middle of it; no container has had it since.
        clear(lock.as_fd()).step(describe)?;
    } else if !is_empty(lock.as_fd()).step(describe)? {
        return Ok(());
    }
    if is_empty(source.as_fd()).step(describe)? {
        let status = fstat(&source).step(describe)?;
        return copy_attributes(source.as_fd(), lock.as_fd(), &status).step(describe);
    }
    let marked = mark(lock.as_fd()).step(describe)?;
    let status = fstat(&source).step(describe)?;
    let _exact = ExactModes::new();
    let mut links = HashMap::new();
    copy_directory(source.as_fd(), lock.as_fd(), lock.as_fd(), &mut Vec::new(), &mut links)
        .map_err(|(errno, name)| fault(format!("{}: {name}: {}", describe(), errno.desc())))?;
    copy_attributes(source.as_fd(), lock.as_fd(), &status).step(describe)?;
    if marked {
        // One by one would be a wait for the journal each, and an image may have thousands of files here.
        syncfs(&lock).step(describe)?;
        xattr::fremovexattr(&lock, FILLING).step(describe)?;
    }
    Ok(())
}

/// Marks a volume as being filled; `false` where the file system cannot remember it.
fn mark(volume: BorrowedFd<'_>) -> nix::Result<bool> {
    match xattr::fsetxattr(volume, FILLING, b"1") {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

fn is_filling(volume: BorrowedFd<'_>) -> nix::Result<bool> {
    let mark = xattr::fgetxattr(volume, FILLING, 16);
    Ok(mark.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?.is_some())
}

/// Removes everything in a directory.
fn clear(directory: BorrowedFd<'_>) -> nix::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(reopen(directory)?)?.iter() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    // What is moved out of the way is moved to where it is going to be removed as well.
    names.iter().try_for_each(|name| remove_tree(directory, name, directory))
}

/// An error and the name it is about.
type Fault = (Errno, String);

fn at<T>(result: nix::Result<T>, name: &CStr) -> Result<T, Fault> {
    result.map_err(|errno| (errno, name.to_string_lossy().into_owned()))
}

/// Copies the content of a directory. `links` knows the first name of each file with several, as a path below `top`.
fn copy_directory(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    path: &mut Vec<CString>,
    links: &mut HashMap<(u64, u64), Vec<CString>>,
) -> Result<(), Fault> {
    if path.len() > DEPTH {
        return Err((Errno::ENAMETOOLONG, "too many nested directories".into()));
    }
    let mut directory = at(reopen(source).and_then(Dir::from_fd), c".")?;
    for entry in directory.iter() {
        let entry = at(entry, c".")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let status = at(fstatat(source, name, AtFlags::AT_SYMLINK_NOFOLLOW), name)?;
        if status.st_nlink > 1 && status.st_mode & libc::S_IFMT != libc::S_IFDIR {
            let key = (status.st_dev, status.st_ino);
            if let Some(first) = links.get(&key) {
                at(link(top, first, target, name), name)?;
                continue;
            }
            let mut first = path.clone();
            first.push(name.to_owned());
            links.insert(key, first);
        }
        match entry.file_type() {
            Some(Type::Directory) => {
                let from = at(openat(source, name, DIRECTORY, Mode::empty()), name)?;
                at(mkdirat(target, name, Mode::from_bits_truncate(0o700)), name)?;
                let to = at(openat(target, name, DIRECTORY, Mode::empty()), name)?;
                path.push(name.to_owned());
                copy_directory(from.as_fd(), to.as_fd(), top, path, links)?;
                path.pop();
                at(copy_attributes(from.as_fd(), to.as_fd(), &status), name)?;
            }
            Some(Type::File) => at(copy_file(source, target, name, &status), name)?,
            Some(Type::Symlink) => at(copy_link(source, target, name, &status), name)?,
            _ => at(copy_node(target, name, &status), name)?,
        }
    }
    Ok(())
}

fn copy_file(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr, status: &FileStat) -> nix::Result<()> {
    // A file that was replaced by a FIFO meanwhile must not block us.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let from = openat(source, name, flags, Mode::empty())?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let to = openat(target, name, flags, Mode::from_bits_truncate(0o600))?;
    let (mut from, mut to) = (std::fs::File::from(from), std::fs::File::from(to));
    // The standard library shares or copies within the kernel where the filesystems can.
    std::io::copy(&mut from, &mut to).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    copy_attributes(from.as_fd(), to.as_fd(), status)
}

fn copy_link(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr, status: &FileStat) -> nix::Result<()> {
    let value = nix::fcntl::readlinkat(source, name)?;
    symlinkat(value.as_os_str(), target, name)?;
    fchownat(target, name, owner(status), group(status), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (accessed, modified) = times(status);
    utimensat(target, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
}

/// Makes a FIFO, socket or device anew.
fn copy_node(target: BorrowedFd<'_>, name: &CStr, status: &FileStat) -> nix::Result<()> {
    let kind = SFlag::from_bits_truncate(status.st_mode & libc::S_IFMT);
    mknodat(target, name, kind, Mode::from_bits_truncate(status.st_mode & 0o7777), status.st_rdev)?;
    fchownat(target, name, owner(status), group(status), AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Links `name` in `target` to the file first copied as `path` below `top`, one component at a time.
fn link(top: BorrowedFd<'_>, path: &[CString], target: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let (file, parents) = path.split_last().ok_or(Errno::ENOENT)?;
    let mut directory: Option<OwnedFd> = None;
    for parent in parents {
        let at = directory.as_ref().map_or(top, AsFd::as_fd);
        directory = Some(openat(at, parent.as_c_str(), DIRECTORY, Mode::empty())?);
    }
    let at = directory.as_ref().map_or(top, AsFd::as_fd);
    linkat(at, file.as_c_str(), target, name, LinkatFlags::empty())
}

/// Owner first, since changing it clears bits of the mode; times last, since everything else changes them.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, status: &FileStat) -> nix::Result<()> {
    nix::unistd::fchown(to, owner(status), group(status))?;
    xattr::copy(from, to)?;
    fchmod(to, Mode::from_bits_truncate(status.st_mode & 0o7777))?;
    let (accessed, modified) = times(status);
    nix::sys::stat::futimens(to, &accessed, &modified)
}

fn times(status: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(status.st_atime, status.st_atime_nsec), TimeSpec::new(status.st_mtime, status.st_mtime_nsec))
}

#[expect(clippy::unnecessary_wraps, reason = "the calls it is for take an option")]
fn owner(status: &FileStat) -> Option<Uid> {
    Some(Uid::from_raw(status.st_uid))
}

#[expect(clippy::unnecessary_wraps, reason = "the calls it is for take an option")]
fn group(status: &FileStat) -> Option<Gid> {
    Some(Gid::from_raw(status.st_gid))
}

fn is_empty(directory: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut directory = Dir::from_fd(reopen(directory)?)?;
    for entry in directory.iter() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens a directory again, with an offset of its own.
fn reopen(directory: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    openat(directory, ".", DIRECTORY, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn open(path: &Path) -> OwnedFd {
        nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn content_is_copied_once_with_its_attributes() {
        let directory = tempfile::tempdir().unwrap();
        let (root, volume) = (directory.path().join("root"), directory.path().join("volume"));
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(root.join("data/sub/file"), "content").unwrap();
        fs::hard_link(root.join("data/sub/file"), root.join("data/other")).unwrap();
        fs::set_permissions(root.join("data/sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", root.join("data/link")).unwrap();
        let (root, target) = (open(&root), open(&volume));
        copy_up(root.as_fd(), Path::new("/data"), target.as_fd()).unwrap();
        assert_eq!(fs::read_to_string(volume.join("other")).unwrap(), "content");
        let status = fs::metadata(volume.join("sub/file")).unwrap();
        assert_eq!((status.mode() & 0o7777, status.nlink()), (0o640, 2));
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(volume.join("link")).unwrap(), Path::new("/etc/passwd"));
        // A volume with content is left alone.
        fs::remove_file(volume.join("other")).unwrap();
        copy_up(root.as_fd(), Path::new("/data"), target.as_fd()).unwrap();
        assert!(!volume.join("other").exists());
        // One that a crash left half filled is filled anew.
        let volume_fd = fs::File::open(&volume).unwrap();
        if mark(volume_fd.as_fd()).unwrap() {
            fs::write(volume.join("half"), "").unwrap();
            copy_up(root.as_fd(), Path::new("/data"), target.as_fd()).unwrap();
            assert!(volume.join("other").exists() && !volume.join("half").exists());
            assert!(!is_filling(volume_fd.as_fd()).unwrap());
        }
    }

    #[test]
    fn a_path_that_leads_out_of_the_image_copies_nothing_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let (root, volume) = (directory.path().join("root"), directory.path().join("volume"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&volume).unwrap();
        symlink("/../../../../etc", root.join("data")).unwrap();
        let (root, target) = (open(&root), open(&volume));
        copy_up(root.as_fd(), Path::new("/data"), target.as_fd()).unwrap();
        copy_up(root.as_fd(), Path::new("/../../etc"), target.as_fd()).unwrap();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    }
}
