//! Hints to the page cache and to the file system: `sync_file_range(2)`, `FS_IOC_SETFLAGS(2const)`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Asks the kernel to start writing a file's dirty pages to disk, without waiting (`sync_file_range(2)`).
///
/// It makes nothing durable: `fsync` still has to follow, it only finds less to do.
pub fn start_write_out(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, which takes no pointers.
    let result = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // File systems that have no such thing lose nothing.
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::ESPIPE) => Ok(()),
        _ => Err(error),
    }
}

/// Tells ext4 that what is below a directory's subdirectories is unrelated (`FS_TOPDIR_FL`, `chattr +T`), so that it spreads them
/// over the disk.
///
/// It is a hint: file systems that know no such thing are as good without.
pub fn keep_subdirectories_apart(directory: &Path) {
    const FS_TOPDIR_FL: libc::c_int = 0x0002_0000;
    let Ok(directory) = File::open(directory) else {
        return;
    };
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes an `int`, whatever the size in the request's number says.
    if unsafe { libc::ioctl(directory.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) } != 0 {
        return;
    }
    flags |= FS_TOPDIR_FL;
    // SAFETY: the kernel reads an `int`, as above.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "the file system takes no hint about directories");
    }
}
