//! Extended attributes of open files: `fsetxattr(2)`, `fgetxattr(2)`, `fremovexattr(2)`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;

/// Sets an extended attribute of an open file (`fsetxattr(2)`), replacing an earlier value.
pub fn fsetxattr(file: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, the name ends in NUL by its type, and the value's pointer and
    // length come from one slice; the kernel only reads them.
    let result =
        unsafe { libc::fsetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes an extended attribute of an open file (`fremovexattr(2)`).
pub fn fremovexattr(file: impl AsFd, name: &CStr) -> Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and the name ends in NUL by its type.
    let result = unsafe { libc::fremovexattr(file.as_fd().as_raw_fd(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Reads an extended attribute of an open file (`fgetxattr(2)`). A file without it gives `None`.
///
/// At most `limit` bytes are read; a longer value is an error (`ERANGE`).
pub fn fgetxattr(file: impl AsFd, name: &CStr, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; limit];
    // SAFETY: the descriptor is borrowed for the call, the name ends in NUL by its type, and the kernel writes at most
    // `value.len()` bytes to the buffer that `value` owns.
    let length =
        unsafe { libc::fgetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENODATA | libc::ENOTSUP) => Ok(None),
            _ => Err(error),
        };
    };
    value.truncate(length);
    Ok(Some(value))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(fgetxattr(&file, c"user.rcompose", 16).unwrap(), None);
        fsetxattr(&file, c"user.rcompose", b"value").unwrap();
        assert_eq!(fgetxattr(&file, c"user.rcompose", 16).unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(fgetxattr(&file, c"user.rcompose", 2).unwrap_err().raw_os_error(), Some(libc::ERANGE));
    }
}
