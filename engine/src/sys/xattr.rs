//! Extended attributes by descriptor (`xattr(7)`).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;

/// The longest list, and the longest value, that the kernel knows (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAXIMUM: usize = 65_536;

/// Copies all extended attributes of a file. A filesystem that has none, or not these, is no error.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut names = vec![0_u8; MAXIMUM];
    // SAFETY: the buffer is valid for writes of its length for the duration of the call.
    let length = unsafe { libc::flistxattr(from.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let length = match Errno::result(length) {
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        result => result?.cast_unsigned(),
    };
    if length == 0 {
        return Ok(());
    }
    let mut value = vec![0_u8; MAXIMUM];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // The overlay's own marks mean something else outside of its layers.
        if name.to_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        // SAFETY: the name is terminated; the buffer is valid for writes of its length; both outlive the call.
        let length =
            unsafe { libc::fgetxattr(from.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        let length = Errno::result(length)?.cast_unsigned();
        // SAFETY: the name is terminated; the value is valid for reads of its length; both outlive the call.
        let result = unsafe { libc::fsetxattr(to.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), length, 0) };
        match Errno::result(result) {
            Ok(_) | Err(Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
