//! Hints to the page cache: `sync_file_range(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

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
