//! Paths inside a container's root, resolved by the kernel and never beyond it (`openat2(2)`, `RESOLVE_IN_ROOT`).
//!
//! Images and volumes are hostile: any component may be a symbolic link, and may become one at any moment. So a path is
//! looked up once, into a descriptor, and everything else happens through that descriptor. Where something has to be
//! made, it is made by name within a directory that is itself a descriptor.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, fstat, mkdirat};

/// How many dangling links are followed while something is made, as the kernel follows (`path_resolution(7)`).
const LINKS: usize = 40;

/// Opens `path` as if `root` were the root directory: neither `..`, nor absolute links, nor links of `/proc` lead out.
pub fn open(root: impl AsFd, path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = path.as_ref();
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    loop {
        match openat2(&root, path, how) {
            // A rename or mount elsewhere at the same time may leave the kernel unsure of `..` (openat2(2)).
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Opens a directory below another one for reading. No component of the path may be a link.
pub fn open_directory(root: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let path = path.as_ref();
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match openat2(&root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Opens a directory inside `root`, making what is missing of it with mode 0755.
pub fn ensure_directory(root: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd> {
    ensure_directory_mode(root.as_fd(), path.as_ref(), Mode::from_bits_truncate(0o755), &mut LINKS.clone())
}

/// Opens a file of any type inside `root` as a target to mount on, making an empty regular file where there is none.
pub fn ensure_file(root: impl AsFd, path: impl AsRef<Path>) -> Result<OwnedFd> {
    let mut links = LINKS;
    let mut path = path.as_ref().to_owned();
    loop {
        match open(&root, &path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        let (parent, name) = split(&path)?;
        let parent_fd = ensure_directory_mode(root.as_fd(), &parent, Mode::from_bits_truncate(0o755), &mut links)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
        match nix::fcntl::openat(&parent_fd, name.as_os_str(), flags, Mode::from_bits_truncate(0o644)) {
            // Open it anew without following what may have taken its place.
            Ok(file) => {
                return nix::fcntl::openat(&file, "", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).or(Ok(file));
            }
            Err(Errno::EEXIST) => path = dangling(parent_fd.as_fd(), &parent, &name, &mut links)?,
            Err(error) => return Err(error),
        }
    }
}

fn ensure_directory_mode(root: BorrowedFd<'_>, path: &Path, mode: Mode, links: &mut usize) -> Result<OwnedFd> {
    let mut path = path.to_owned();
    loop {
        match open(root, &path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        let (parent, name) = split(&path)?;
        let parent_fd = ensure_directory_mode(root, &parent, mode, links)?;
        match mkdirat(&parent_fd, name.as_os_str(), mode) {
            Ok(()) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                return nix::fcntl::openat(&parent_fd, name.as_os_str(), flags, Mode::empty());
            }
            Err(Errno::EEXIST) => path = dangling(parent_fd.as_fd(), &parent, &name, links)?,
            Err(error) => return Err(error),
        }
    }
}

/// Returns where a link that leads nowhere yet points to; the caller makes that instead.
fn dangling(parent_fd: BorrowedFd<'_>, parent: &Path, name: &OsStr, links: &mut usize) -> Result<PathBuf> {
    *links = links.checked_sub(1).ok_or(Errno::ELOOP)?;
    match readlinkat(parent_fd, name) {
        // Relative to the link's directory; an absolute target replaces the whole (`Path::join`).
        Ok(target) => Ok(parent.join(target)),
        // Somebody else has just made it: look it up again.
        Err(Errno::EINVAL) => Ok(parent.join(name)),
        Err(error) => Err(error),
    }
}

/// Splits a path into its parent and its last component.
fn split(path: &Path) -> Result<(PathBuf, OsString)> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            Ok((parent.to_owned(), name.to_owned()))
        }
        // `..` of a directory that does not exist cannot be made.
        _ => Err(Errno::ENOENT),
    }
}

/// Returns whether the descriptor refers to a directory.
pub fn is_directory(fd: impl AsFd) -> Result<bool> {
    Ok(fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Returns the path by which the kernel finds what a descriptor of this process refers to.
pub fn proc_path(fd: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Returns a text as the kernel takes it; one with a zero byte in it is not a valid argument.
pub fn c_string(text: impl AsRef<OsStr>) -> Result<std::ffi::CString> {
    std::ffi::CString::new(text.as_ref().as_bytes()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let fd = nix::fcntl::open(directory.path(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        (directory, fd)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (directory, fd) = root();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        symlink("/etc", directory.path().join("absolute")).unwrap();
        symlink("../../../../..", directory.path().join("up")).unwrap();
        for path in ["/absolute/made/here", "up/etc/there", "../../etc/dots"] {
            ensure_directory(&fd, path).unwrap();
        }
        for made in ["etc/made/here", "etc/there", "etc/dots"] {
            assert!(directory.path().join(made).is_dir(), "{made}");
        }
    }

    #[test]
    fn what_a_dangling_link_points_to_is_made() {
        let (directory, fd) = root();
        symlink("/var/run/data", directory.path().join("link")).unwrap();
        symlink("../b", directory.path().join("b")).unwrap();
        ensure_file(&fd, "/link/file").unwrap();
        assert!(directory.path().join("var/run/data/file").is_file());
        assert_eq!(ensure_directory(&fd, "/b/c").unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn links_of_proc_are_refused() {
        let proc = nix::fcntl::open("/proc/self", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(open(&proc, "root/etc", OFlag::O_PATH).unwrap_err(), Errno::ELOOP);
    }
}
