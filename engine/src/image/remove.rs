//! Removes directory trees of any depth and with any names, without following anything out of them.
//!
//! A hostile layer can nest directories deeper than there are file descriptors and than the stack is long, so neither
//! recursion nor `std::fs::remove_dir_all` will do: directories that are not empty are moved up into a trash directory
//! and emptied there one by one.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Several threads and processes may share one trash.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Removes `name` in `parent`, whatever it is. `trash` is a directory on the same file system, in which nothing of ours is
/// left afterwards. What is not there is no error.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr, trash: BorrowedFd<'_>) -> nix::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error),
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => return Ok(()),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
        Err(error) => return Err(error),
    }
    let mut moved = Vec::new();
    let move_to_trash = |from: BorrowedFd<'_>, name: &CStr, moved: &mut Vec<CString>| -> nix::Result<()> {
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let number = CString::new(format!("trash-{}-{count}", std::process::id())).expect("digits have no NUL");
            match renameat(from, name, trash, number.as_c_str()) {
                // A process with our id died here and left its own.
                Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    moved.push(number);
                    return Ok(());
                }
            }
        }
    };
    move_to_trash(parent, name, &mut moved)?;
    while let Some(name) = moved.pop() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut directory = Dir::openat(trash, name.as_c_str(), flags, Mode::empty())?;
        let mut children = Vec::new();
        for entry in directory.iter() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                children.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        for (child, kind) in children {
            let is_directory = if let Some(kind) = kind {
                kind == Type::Directory
            } else {
                let stat = fstatat(&directory, child.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
            };
            if !is_directory {
                unlinkat(&directory, child.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
                continue;
            }
            match unlinkat(&directory, child.as_c_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) => {}
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => move_to_trash(directory.as_fd(), &child, &mut moved)?,
                Err(error) => return Err(error),
            }
        }
        drop(directory);
        unlinkat(trash, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
    }
    Ok(())
}

/// Removes the tree at a path, with its own parent directory for the trash.
pub(crate) fn remove_path(path: &Path) -> io::Result<()> {
    let parent = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = c_string(path.file_name().unwrap_or_default())?;
    remove_tree(parent.as_fd(), &name, parent.as_fd())?;
    Ok(())
}

fn c_string(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::openat;
    use nix::sys::stat::mkdirat;
    use std::os::fd::OwnedFd;

    #[test]
    fn trees_deeper_than_descriptors_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let sentinel = directory.path().join("sentinel");
        std::fs::write(&sentinel, "here").unwrap();
        let top = directory.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(&sentinel, top.join("link")).unwrap();
        std::os::unix::fs::symlink(directory.path(), top.join("up")).unwrap();
        let mut at: OwnedFd = std::fs::File::open(&top).unwrap().into();
        let name = "d".repeat(200);
        for _ in 0..3000 {
            mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            at = openat(&at, name.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        remove_path(&top).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(&sentinel).unwrap(), "here");
        remove_path(&top).unwrap();
    }
}
