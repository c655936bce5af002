//! The content of a container's `/dev` (OCI runtime specification, "Default Devices" and `linux.devices`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::container::beneath;
use crate::container::step::{Context, ExactModes, Step, fault};
use crate::sys::{mount, process};

/// Devices that every container has.
const DEFAULTS: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container has.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills a new, empty `/dev`.
pub fn fill(dev: BorrowedFd<'_>) -> Step<()> {
    let _exact = ExactModes::new();
    for (name, major, minor) in DEFAULTS {
        let describe = || format!("create device /dev/{name}");
        let mode = Mode::from_bits_truncate(0o666);
        match mknodat(dev, name, SFlag::S_IFCHR, mode, libc::makedev(major, minor)) {
            Err(Errno::EPERM) => bind(dev, Path::new(name), &Path::new("/dev").join(name)).step(describe)?,
            result => result.step(describe)?,
        }
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name).step(|| format!("create link /dev/{name}"))?;
    }
    Ok(())
}

/// Makes what is missing in the `/dev` of an image on which nothing is mounted.
pub fn fill_image(root: BorrowedFd<'_>, devices: &[LinuxDevice]) -> Step<()> {
    let dev = beneath::ensure_directory(root, "/dev").step(|| "create /dev".into())?;
    for (name, major, minor) in DEFAULTS {
        if beneath::open(&dev, name, OFlag::O_PATH | OFlag::O_NOFOLLOW).is_err() {
            let mut device = LinuxDevice::default();
            device.set_path(Path::new("/dev").join(name)).set_typ(LinuxDeviceType::C).set_file_mode(Some(0o666));
            device.set_major(major.into()).set_minor(minor.into());
            create(root, None, &device)?;
        }
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).step(|| format!("create link /dev/{name}")),
        }
    }
    devices.iter().try_for_each(|device| create(root, None, device))
}

/// Mounts a device of the host, for a process that may not make one: that of a user namespace.
fn bind(directory: BorrowedFd<'_>, path: &Path, source: &Path) -> nix::Result<()> {
    let source = nix::fcntl::open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let tree = mount::open_tree_clone(source.as_fd(), c"", false)?;
    let target = beneath::ensure_file(directory, path)?;
    mount::move_mount(tree.as_fd(), target.as_fd())
}

/// Finds the null device of a new `/dev`, or makes one in a filesystem of its own that is mounted at `place`, a directory
/// of the host that the container does not get to see.
///
/// A container never gets the host's `/dev/null`, neither as a stream nor mounted over what is masked: its root could
/// change the owner and mode of that file, and so take it away from everybody on the host.
pub fn null(dev: Option<BorrowedFd<'_>>, place: &Path) -> Step<OwnedFd> {
    let describe = || "open the container's null device".to_owned();
    let null = if let Some(dev) = dev {
        openat(dev, "null", OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
    } else {
        match private_null(OFlag::O_PATH) {
            // In a user namespace of its own no device can be made, and that of the host cannot be changed.
            Err(Errno::EPERM) => nix::fcntl::open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()),
            made => {
                let (filesystem, null) = made.step(describe)?;
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let at = nix::fcntl::open(place, flags, Mode::empty()).step(describe)?;
                // What is mounted nowhere could not be mounted over what is masked.
                mount::move_mount(filesystem.as_fd(), at.as_fd()).step(describe)?;
                Ok(null)
            }
        }
    };
    let null = null.step(describe)?;
    if is_null(&null).step(describe)? { Ok(null) } else { Err(fault(format!("{}: it is another one", describe()))) }
}

/// Returns whether a descriptor refers to a null device, whoever's it is.
pub fn is_null(fd: impl AsFd) -> nix::Result<bool> {
    let status = fstat(fd)?;
    Ok(status.st_mode & libc::S_IFMT == libc::S_IFCHR && status.st_rdev == libc::makedev(1, 3))
}

/// Opens a null device for a process in a container that runs, below whose root it is: the container's own, or where that
/// has put something else in its place, a new one.
pub fn null_inside(root: BorrowedFd<'_>) -> Step<OwnedFd> {
    // Whatever is there must not make us wait.
    let own = beneath::open(root, "/dev/null", OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .and_then(|null| {
            fcntl(&null, FcntlArg::F_SETFL(OFlag::empty()))?;
            Ok(if is_null(&null)? { Some(null) } else { None })
        });
    match own {
        Ok(Some(null)) => Ok(null),
        Ok(None) | Err(_) => private_null(OFlag::O_RDWR).map(|(_, null)| null).step(|| "make a null device".into()),
    }
}

/// Makes a filesystem, mounted nowhere, with a null device in it, and opens that.
fn private_null(flags: OFlag) -> nix::Result<(OwnedFd, OwnedFd)> {
    let context = mount::fsopen(c"tmpfs")?;
    context.set(c"source", c"tmpfs")?;
    context.set(c"size", c"4k")?;
    let filesystem = context.mount(mount::NOSUID | mount::NOEXEC)?;
    let _exact = ExactModes::new();
    mknodat(&filesystem, "null", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), libc::makedev(1, 3))?;
    let null = openat(&filesystem, "null", flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok((filesystem, null))
}

/// Makes a device of the configuration. One that is there already is replaced.
pub fn create(root: BorrowedFd<'_>, dev: Option<BorrowedFd<'_>>, device: &LinuxDevice) -> Step<()> {
    let path = device.path();
    let describe = || format!("create device {}", path.display());
    let _exact = ExactModes::new();
    // Within our own `/dev` nobody else can have put links.
    let (base, path) = match (dev, path.strip_prefix("/dev")) {
        (Some(dev), Ok(relative)) => (dev, relative),
        _ => (root, path.as_path()),
    };
    let name = path.file_name().ok_or_else(|| fault(format!("{}: it has no name", describe())))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let parent = beneath::ensure_directory(base, parent).step(describe)?;
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        _ => SFlag::S_IFCHR,
    };
    let mode = Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777);
    let number = |number: i64| u32::try_from(number).map_err(|_| Errno::EINVAL);
    let number = libc::makedev(number(device.major()).step(describe)?, number(device.minor()).step(describe)?);
    match mknodat(&parent, name, kind, mode, number) {
        Err(Errno::EEXIST) => {
            nix::unistd::unlinkat(&parent, name, nix::unistd::UnlinkatFlags::NoRemoveDir).step(describe)?;
            mknodat(&parent, name, kind, mode, number).step(describe)?;
        }
        Err(Errno::EPERM) => return bind(parent.as_fd(), Path::new(name), device.path()).step(describe),
        result => result.step(describe)?,
    }
    let owner = device.uid().map(Uid::from_raw);
    let group = device.gid().map(Gid::from_raw);
    fchownat(&parent, name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW).step(describe)
}

/// A pseudo-terminal of the container's own `devpts`.
#[derive(Debug)]
pub struct Terminal {
    pub master: OwnedFd,
    pub peer: OwnedFd,
}

impl Terminal {
    /// Allocates a terminal that belongs to this user.
    pub fn allocate(devpts: BorrowedFd<'_>, uid: u32) -> Step<Self> {
        let describe = || "allocate a terminal".to_owned();
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = beneath::open(devpts, "ptmx", flags).step(describe)?;
        process::unlock_terminal(master.as_fd()).step(describe)?;
        let peer = process::terminal_peer(master.as_fd()).step(describe)?;
        nix::unistd::fchown(&peer, Some(Uid::from_raw(uid)), None).step(describe)?;
        Ok(Self { master, peer })
    }

    /// Shows the terminal as `/dev/console`, on a file that we have just made.
    pub fn mount_console(&self, dev: BorrowedFd<'_>) -> Step<()> {
        let describe = || "mount the terminal at /dev/console".to_owned();
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let target = openat(dev, "console", flags, Mode::from_bits_truncate(0o600)).step(describe)?;
        let tree = mount::open_tree_clone(self.peer.as_fd(), c"", false).step(describe)?;
        mount::move_mount(tree.as_fd(), target.as_fd()).step(describe)
    }
}
