//! Which system calls can fail for reasons that are not the caller's, and with which errors.
//!
//! Not here: what fails only for a programmer's mistake (`umask`, `rt_sigaction`, `sigprocmask`, …), `close`, which closes
//! whatever it returns, and what an allocator or a lock asks for (`brk`, anonymous `mmap`, `futex`): no program that uses
//! them can say what it was doing. That a process dies at any moment is tested elsewhere.

use nix::errno::Errno::{
    self, EACCES, EADDRINUSE, EAGAIN, EBUSY, EINTR, EIO, EMFILE, ENFILE, ENOBUFS, ENOLCK, ENOMEM, ENOSPC, EPERM, EROFS,
};

/// What the first arguments of a call are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A path.
    Path,
    /// A directory and a path in it.
    At,
    /// A descriptor.
    Descriptor,
    /// Two paths.
    Paths,
    /// Nothing to show.
    Other,
}

/// A system call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: i64,
    pub name: &'static str,
    pub shape: Shape,
    pub errors: &'static [Errno],
}

const OPEN: &[Errno] = &[EMFILE, EACCES, EIO, ENOMEM];
const LOOK: &[Errno] = &[EACCES, EIO, ENOMEM];
const CHANGE: &[Errno] = &[ENOSPC, EPERM, EIO, EROFS];
const DESCRIPTOR: &[Errno] = &[EMFILE, ENFILE, ENOMEM];
const READ: &[Errno] = &[EIO, EINTR];
const WRITE: &[Errno] = &[ENOSPC, EIO, EINTR];
const PERMISSION: &[Errno] = &[EPERM, ENOMEM];
const MOUNT: &[Errno] = &[EPERM, ENOMEM, ENOSPC];
const PROCESS: &[Errno] = &[EAGAIN, ENOMEM];
const SEND: &[Errno] = &[ENOBUFS, EPERM];
const RECEIVE: &[Errno] = &[ENOMEM, EINTR];

macro_rules! calls {
    ($($number:ident $shape:ident $errors:expr;)*) => {
        /// All of them.
        pub const CALLS: &[Call] = &[$(Call {
            number: libc::$number,
            name: call_name(stringify!($number)),
            shape: Shape::$shape,
            errors: $errors,
        },)*];
    };
}

const fn call_name(constant: &'static str) -> &'static str {
    // Without `SYS_`.
    constant.split_at(4).1
}

calls! {
    SYS_open Path OPEN;
    SYS_openat At OPEN;
    SYS_openat2 At OPEN;
    SYS_stat Path LOOK;
    SYS_lstat Path LOOK;
    SYS_newfstatat At LOOK;
    SYS_statx At LOOK;
    SYS_fstat Descriptor &[EIO];
    SYS_statfs Path LOOK;
    SYS_fstatfs Descriptor &[EIO];
    SYS_access Path LOOK;
    SYS_faccessat At LOOK;
    SYS_readlink Path LOOK;
    SYS_readlinkat At LOOK;
    SYS_getdents64 Descriptor &[EIO];
    SYS_read Descriptor READ;
    SYS_pread64 Descriptor READ;
    SYS_readv Descriptor READ;
    SYS_write Descriptor WRITE;
    SYS_pwrite64 Descriptor WRITE;
    SYS_writev Descriptor WRITE;
    SYS_sendfile Descriptor WRITE;
    SYS_copy_file_range Descriptor WRITE;
    SYS_splice Descriptor WRITE;
    SYS_ftruncate Descriptor &[ENOSPC, EIO];
    SYS_fallocate Descriptor &[ENOSPC, EIO];
    SYS_fsync Descriptor &[EIO, ENOSPC];
    SYS_fdatasync Descriptor &[EIO, ENOSPC];
    SYS_syncfs Descriptor &[EIO];
    SYS_mkdir Path CHANGE;
    SYS_mkdirat At CHANGE;
    SYS_rmdir Path &[EBUSY, EIO, EPERM];
    SYS_unlink Path &[EIO, EPERM, EBUSY];
    SYS_unlinkat At &[EIO, EPERM, EBUSY];
    SYS_rename Paths CHANGE;
    SYS_renameat At CHANGE;
    SYS_renameat2 At CHANGE;
    SYS_link Paths CHANGE;
    SYS_linkat At CHANGE;
    SYS_symlink Paths CHANGE;
    SYS_symlinkat Path CHANGE;
    SYS_mknod Path CHANGE;
    SYS_mknodat At CHANGE;
    SYS_chmod Path &[EPERM, EIO];
    SYS_fchmod Descriptor &[EPERM, EIO];
    SYS_fchmodat At &[EPERM, EIO];
    SYS_chown Path &[EPERM, EIO];
    SYS_fchown Descriptor &[EPERM, EIO];
    SYS_fchownat At &[EPERM, EIO];
    SYS_utimensat At &[EPERM, EIO];
    SYS_fsetxattr Descriptor CHANGE;
    SYS_setxattr Path CHANGE;
    SYS_fgetxattr Descriptor &[EIO];
    SYS_getxattr Path &[EIO];
    SYS_flistxattr Descriptor &[EIO];
    SYS_listxattr Path &[EIO];
    SYS_flock Descriptor &[ENOLCK, EINTR];
    SYS_mount Paths MOUNT;
    SYS_umount2 Path &[EPERM, EBUSY];
    SYS_pivot_root Paths MOUNT;
    SYS_fsopen Path &[EPERM, EMFILE, ENOMEM];
    SYS_fsconfig Descriptor MOUNT;
    SYS_fsmount Descriptor MOUNT;
    SYS_move_mount Other MOUNT;
    SYS_open_tree At &[EPERM, EMFILE, ENOMEM];
    SYS_mount_setattr At PERMISSION;
    SYS_chroot Path PERMISSION;
    SYS_chdir Path LOOK;
    SYS_fchdir Descriptor &[EACCES, EIO];
    SYS_clone Other PROCESS;
    SYS_clone3 Other PROCESS;
    SYS_fork Other PROCESS;
    SYS_vfork Other PROCESS;
    SYS_execve Path &[EACCES, ENOMEM, EIO];
    SYS_execveat At &[EACCES, ENOMEM, EIO];
    SYS_setns Descriptor PERMISSION;
    SYS_unshare Other &[EPERM, ENOMEM, ENOSPC];
    SYS_setsid Other &[EPERM];
    SYS_setresuid Other &[EPERM, EAGAIN];
    SYS_setresgid Other &[EPERM, EAGAIN];
    SYS_setgroups Other &[EPERM, ENOMEM];
    SYS_capset Other &[EPERM];
    SYS_prctl Other &[EPERM];
    SYS_seccomp Other &[EACCES, ENOMEM];
    SYS_keyctl Other &[EPERM, ENOMEM];
    SYS_sethostname Other &[EPERM];
    SYS_setdomainname Other &[EPERM];
    SYS_prlimit64 Other &[EPERM];
    SYS_setrlimit Other &[EPERM];
    SYS_bpf Other &[EPERM, ENOMEM];
    SYS_pidfd_open Other DESCRIPTOR;
    SYS_pidfd_send_signal Descriptor &[EPERM];
    SYS_pidfd_getfd Descriptor DESCRIPTOR;
    SYS_kill Other &[EPERM];
    SYS_waitid Other &[EINTR];
    SYS_wait4 Other &[EINTR];
    SYS_poll Other &[EINTR];
    SYS_epoll_wait Descriptor &[EINTR];
    SYS_epoll_ctl Descriptor &[ENOMEM, ENOSPC];
    SYS_epoll_create1 Other DESCRIPTOR;
    SYS_eventfd2 Other DESCRIPTOR;
    SYS_signalfd4 Other DESCRIPTOR;
    SYS_timerfd_create Other DESCRIPTOR;
    SYS_inotify_init1 Other DESCRIPTOR;
    SYS_inotify_add_watch Other &[ENOSPC, ENOMEM];
    SYS_memfd_create Other DESCRIPTOR;
    SYS_pipe2 Other DESCRIPTOR;
    SYS_dup Descriptor &[EMFILE];
    SYS_dup2 Descriptor &[EMFILE, EBUSY];
    SYS_dup3 Descriptor &[EMFILE, EBUSY];
    SYS_socket Other &[EMFILE, ENOMEM, EPERM];
    SYS_socketpair Other DESCRIPTOR;
    SYS_connect Descriptor &[EPERM, ENOMEM, EAGAIN];
    SYS_bind Descriptor &[EADDRINUSE, EACCES, ENOMEM];
    SYS_listen Descriptor &[EADDRINUSE];
    SYS_accept4 Descriptor &[EMFILE, ENOMEM];
    SYS_sendto Descriptor SEND;
    SYS_sendmsg Descriptor SEND;
    SYS_recvfrom Descriptor RECEIVE;
    SYS_recvmsg Descriptor RECEIVE;
    SYS_setsockopt Descriptor PERMISSION;
    SYS_ioctl Descriptor &[EIO, ENOMEM];
    SYS_mmap Other &[ENOMEM];
}

/// Returns what is known of a call that can fail.
pub fn find(number: i64) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.number == number)
}
