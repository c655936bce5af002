//! The container's root: an overlay of the image's layers, made detached in the container's own mount namespace.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::Mode;

use super::beneath;
use super::step::{Context, Step};
use crate::shim::config::Rootfs;
use crate::shim::protocol::Failure;
use crate::sys::mount::{self, FsContext};

/// Makes the overlay and attaches it at `target`, a directory of the host that only this mount namespace sees covered, and
/// that is there anyway: on ext4 a directory made for it would cost more than the mount, where many were removed lately.
/// Returns the root.
pub fn assemble(rootfs: &Rootfs, target: &Path) -> Step<OwnedFd> {
    // The upper directory is the container's `/`, which everybody may read; what is in it is behind the store's 0700.
    for (directory, mode) in [(&rootfs.upper, 0o755), (&rootfs.work, 0o700)] {
        match std::fs::DirBuilder::new().mode(mode).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).step(|| format!("create {}", directory.display()));
            }
            _ => {}
        }
    }
    if rootfs.volatile {
        // A volatile upper directory refuses to be mounted again, since a power cut may have torn it. A container that
        // is started anew on the same boot sees the page cache, which is whole.
        std::fs::remove_dir_all(rootfs.work.join("work/incompat")).ok();
    }
    let mut layers = rootfs.layers.clone();
    if let Some(places) = &rootfs.places {
        ensure_places(places).step(|| format!("create {}", places.display()))?;
        layers.insert(0, places.clone());
    }
    let root = overlay(&layers, Some(rootfs), 0)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let at = nix::fcntl::open(target, flags, Mode::empty()).step(|| format!("open {}", target.display()))?;
    mount::move_mount(root.as_fd(), at.as_fd()).step(|| format!("mount the root at {}", target.display()))?;
    Ok(root)
}

/// Puts a tree that was cloned beforehand on top of `target`, or of the host's root where this process may not go there:
/// that of a user namespace may not go everywhere. Only this mount namespace sees it covered. Returns the root.
pub fn attach(tree: BorrowedFd<'_>, target: &Path) -> Step<OwnedFd> {
    let describe = || format!("mount the root at {}", target.display());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let at = match nix::fcntl::open(target, flags, Mode::empty()) {
        Err(Errno::EACCES) => nix::fcntl::open("/", flags, Mode::empty()),
        result => result,
    };
    mount::move_mount(tree, at.step(describe)?.as_fd()).step(describe)?;
    tree.try_clone_to_owned().step(describe)
}

/// What every container has something mounted on: directories, then files.
const PLACES: ([&str; 4], [&str; 3]) =
    (["dev", "etc", "proc", "sys"], ["etc/hostname", "etc/hosts", "etc/resolv.conf"]);

/// Makes the directory of places to mount on, unless it is there. It is made aside and renamed, so it is whole.
fn ensure_places(directory: &Path) -> std::io::Result<()> {
    if directory.join("etc").exists() {
        return Ok(());
    }
    let mut name = directory.as_os_str().to_owned();
    name.push(format!(".{}", crate::id::Id::random().short()));
    let new = PathBuf::from(name);
    std::fs::create_dir_all(&new)?;
    for place in PLACES.0 {
        std::fs::create_dir(new.join(place))?;
    }
    for place in PLACES.1 {
        std::fs::write(new.join(place), "")?;
    }
    match std::fs::rename(&new, directory) {
        // Somebody else was faster.
        Err(_) if directory.join("etc").exists() => std::fs::remove_dir_all(&new),
        result => result,
    }
}

/// Returns a detached, read-only overlay of an image's layers.
pub fn image(layers: &[PathBuf]) -> Step<OwnedFd> {
    // An overlay without an upper directory needs two layers; a single one is simply shown.
    if let [layer] = layers {
        let path = beneath::c_string(layer).step(|| format!("open layer {}", layer.display()))?;
        let tree = mount::open_tree_clone(mount::cwd(), &path, false);
        return tree.step(|| format!("open layer {}", layer.display()));
    }
    overlay(layers, None, mount::RDONLY)
}

/// Returns a detached overlay that can be written, and whose changes are in its upper directory.
pub fn writable(rootfs: &Rootfs) -> Step<OwnedFd> {
    overlay(&rootfs.layers, Some(rootfs), 0)
}

/// Returns a detached, read-only view of a container's root, as it is or was when it ran; with `places` something can be
/// mounted on what every container has something mounted on. It changes nothing on disk.
pub fn view(rootfs: &Rootfs, places: bool) -> Step<OwnedFd> {
    let mut layers = rootfs.layers.clone();
    for layer in rootfs.places.iter().filter(|_| places).chain([&rootfs.upper]) {
        if layer.try_exists().step(|| format!("look for {}", layer.display()))? {
            layers.insert(0, layer.clone());
        }
    }
    image(&layers)
}

/// Returns a detached overlay.
fn overlay(layers: &[PathBuf], writable: Option<&Rootfs>, attributes: u64) -> Step<OwnedFd> {
    match configured(layers, writable, attributes) {
        // Linux before 6.7 does not know `lowerdir+`, and says so at once or only at the end.
        Err(failure) if failure.errno == Errno::EINVAL as i32 => {
            // Where both find the same fault, the newer interface has more to say about it.
            mounted(layers, writable, attributes)
                .map_err(|second| if second.errno == failure.errno { failure } else { second })
        }
        result => result,
    }
}

fn configured(layers: &[PathBuf], writable: Option<&Rootfs>, attributes: u64) -> Step<OwnedFd> {
    let context = mount::fsopen(c"overlay").step(|| "open the overlay filesystem".into())?;
    let failed = |context: &FsContext, errno: Errno| Failure {
        step: format!("mount an overlay of {} layers ({})", layers.len(), context.messages()),
        errno: errno as i32,
        code: super::step::ENGINE,
    };
    let set = |key: &CStr, path: &Path| beneath::c_string(path).and_then(|path| context.set(key, &path));
    context.set(c"source", c"rcompose").map_err(|errno| failed(&context, errno))?;
    for layer in layers {
        set(c"lowerdir+", layer)
            .step(|| format!("add layer {} to the overlay ({})", layer.display(), context.messages()))?;
    }
    if let Some(rootfs) = writable {
        set(c"upperdir", &rootfs.upper).map_err(|errno| failed(&context, errno))?;
        set(c"workdir", &rootfs.work).map_err(|errno| failed(&context, errno))?;
        if rootfs.volatile {
            context.set_flag(c"volatile").map_err(|errno| failed(&context, errno))?;
        }
    }
    context.create().map_err(|errno| failed(&context, errno))?;
    context.fsmount(attributes).map_err(|errno| failed(&context, errno))
}

/// Does the same by `mount(2)`, which takes all layers as one option of a page at most: more than 200, as each is named by
/// its descriptor, which also has no character in it that means something there. The overlay is mounted on one of its own
/// layers, since that is a directory which is there and which nobody else sees covered, and taken off again.
fn mounted(layers: &[PathBuf], writable: Option<&Rootfs>, attributes: u64) -> Step<OwnedFd> {
    let mut held = Vec::new();
    let mut named = |path: &Path| -> Step<String> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(path, flags, Mode::empty())
            .step(|| format!("add layer {} to the overlay", path.display()))?;
        let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
        held.push(directory);
        Ok(name)
    };
    let lower = layers.iter().map(|layer| named(layer)).collect::<Step<Vec<_>>>()?.join(":");
    let mut options = format!("lowerdir={lower}");
    if let Some(rootfs) = writable {
        let (upper, work) = (named(&rootfs.upper)?, named(&rootfs.work)?);
        let _ = write!(options, ",upperdir={upper},workdir={work}");
        if rootfs.volatile {
            options += ",volatile";
        }
    }
    let describe = || format!("mount an overlay of {} layers", layers.len());
    let place = layers.last().ok_or(Errno::EINVAL).step(describe)?;
    let flags = if attributes & mount::RDONLY == 0 { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    nix::mount::mount(Some("rcompose"), place, Some("overlay"), flags, Some(options.as_str())).step(describe)?;
    let tree = beneath::c_string(place).and_then(|path| mount::open_tree_clone(mount::cwd(), &path, false));
    nix::mount::umount2(place, MntFlags::MNT_DETACH).step(describe)?;
    tree.step(describe)
}
