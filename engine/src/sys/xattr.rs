//! Extended attributes of open files: `fsetxattr(2)`, `fgetxattr(2)`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets an extended attribute of an open file (`fsetxattr(2)`), replacing an earlier value.
pub fn fsetxattr(file: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, the name ends in NUL by its type, and the value's pointer and
    // length come from one slice; the kernel only reads them.
    let result =
        unsafe { libc::fsetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
