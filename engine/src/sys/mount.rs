//! The mount interface by descriptor: `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, `open_tree(2)`, `move_mount(2)`,
//! `mount_setattr(2)`. A mount is made detached and then moved onto a target that is itself a descriptor, so that no
//! path is looked up twice.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

const FSOPEN_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSMOUNT_CLOEXEC: u32 = 1;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC.cast_unsigned();
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// Attributes of a mount (`MOUNT_ATTR_*` of `mount_setattr(2)`).
pub const RDONLY: u64 = 0x1;
pub const NOSUID: u64 = 0x2;
pub const NODEV: u64 = 0x4;
pub const NOEXEC: u64 = 0x8;
pub const ATIME: u64 = 0x70;
pub const RELATIME: u64 = 0x0;
pub const NOATIME: u64 = 0x10;
pub const STRICTATIME: u64 = 0x20;
pub const NODIRATIME: u64 = 0x80;
pub const NOSYMFOLLOW: u64 = 0x20_0000;
/// The ids of files are translated by a user namespace ([`Attributes::userns_fd`]); since Linux 5.12.
pub const IDMAP: u64 = 0x10_0000;

/// A filesystem being configured (`fsopen(2)`).
#[derive(Debug)]
pub struct FsContext(OwnedFd);

/// Starts the configuration of a new filesystem of this type.
pub fn fsopen(fstype: &CStr) -> Result<FsContext> {
    // SAFETY: the type is a terminated string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
    owned(fd).map(FsContext)
}

impl FsContext {
    /// Sets an option with a value; an option such as `lowerdir+` may be set repeatedly.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.config(FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &CStr) -> Result<()> {
        self.config(FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Creates the filesystem and returns a detached mount of it. Descriptors of it count as `O_PATH` ones of its root.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd> {
        self.create()?;
        self.fsmount(attributes)
    }

    /// Creates the filesystem (`FSCONFIG_CMD_CREATE`).
    pub fn create(&self) -> Result<()> {
        self.config(FSCONFIG_CMD_CREATE, None, None)
    }

    /// Returns a detached mount of the filesystem that was created.
    pub fn fsmount(&self, attributes: u64) -> Result<OwnedFd> {
        // SAFETY: all arguments are plain numbers.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
        owned(fd)
    }

    /// Returns what the kernel had to say about the configuration so far, one line per message.
    pub fn messages(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0_u8; 512];
        // One message per read (fsopen(2)); ENODATA after the last.
        while let Ok(length) = nix::unistd::read(&self.0, &mut buffer) {
            if length == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&buffer[..length]);
            // The first letter is the severity: e(rror), w(arning), i(nformation).
            let line = line.trim_end().get(2..).unwrap_or_default();
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(line);
        }
        text
    }

    fn config(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> Result<()> {
        let key = key.map_or(std::ptr::null(), CStr::as_ptr);
        let value = value.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: the strings are terminated and outlive the call, or null where the command takes none.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        Errno::result(result).map(drop)
    }
}

/// Returns a detached copy of the mount at `path` below `directory`; an empty path means `directory` itself.
pub fn open_tree_clone(directory: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned();
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: the path is a terminated string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) };
    owned(fd)
}

/// Attaches the detached mount `from` on top of what `to` refers to.
pub fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: both paths are terminated and empty, which the flags allow.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
    pub userns_fd: u64,
}

/// Changes the attributes of the mount that `mount` refers to, or of all mounts of its tree.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attributes: Attributes) -> Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `attributes` has the layout of `struct mount_attr`, outlives the call, and its size is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Makes the directory that is the working directory the root and puts the old root on top of it (`pivot_root(2)`
/// with both arguments `.`), so that detaching `.` leaves only the new one.
pub fn pivot_root_here() -> Result<()> {
    // SAFETY: both paths are terminated string literals.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    Errno::result(result).map(drop)
}

/// Returns the working directory descriptor of the process (`AT_FDCWD`).
pub fn cwd() -> BorrowedFd<'static> {
    nix::fcntl::AT_FDCWD
}

/// Returns whether `fd` refers to a filesystem with this magic number (`statfs(2)`).
pub fn is_filesystem(fd: impl AsFd, magic: nix::sys::statfs::FsType) -> Result<bool> {
    Ok(nix::sys::statfs::fstatfs(fd)?.filesystem_type() == magic)
}

fn owned(result: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
