//! Configs and secrets: files that one container has, in memory, with an owner and mode of its own.
//!
//! They are kept below the run-time directory, in `files/<container>/`, and bound into the container read-only. Where that
//! directory is on a disk, a tmpfs of the container's own is mounted there: a secret never gets on a disk. What a command
//! provided stays there from one run of the container to the next, until the container is removed or the host restarts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sys::statfs::{FsType, TMPFS_MAGIC};

use super::config::{ContainerConfig, FileContent, MountSource};
use crate::id::Id;
use crate::image::Hasher;
use crate::root::{Root, make_directory};
use crate::sys::mount::is_filesystem;

/// The most that one of these files may have in it, in bytes.
pub const LIMIT: u64 = 8 << 20;

/// `statfs(2)`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Why a container cannot have its files.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("cannot {verb} {}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has more than {} MiB, which is the most for a config or secret", .0.display(), LIMIT >> 20)]
    TooLarge(PathBuf),
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error(
        "the content of {target} was never on a disk and is gone since the host was restarted: `up` provides it again"
    )]
    Forgotten { target: String },
    #[error("the container has no file at {target} that is provided")]
    Unknown { target: String },
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MemoryError {
    let path = path.to_owned();
    move |source| MemoryError::Io { verb, path, source }
}

/// Returns what is on record of a provided content: whether it has changed can be told from it, and nothing else.
pub fn digest(container: &Id, content: &[u8]) -> String {
    let mut hasher = Hasher::new();
    hasher.update(container.as_str().as_bytes());
    hasher.update(content);
    hasher.finish().hex()
}

/// Returns where a container's file is that stands at `target`.
pub(crate) fn path(root: &Root, container: &Id, target: &str) -> PathBuf {
    // Slashes become what no path can have in it otherwise.
    root.container_files(container).join(target.replace('%', "%25").replace('/', "%2f"))
}

/// Keeps a content for the container's runs from now on.
pub(crate) fn provide(root: &Root, config: &ContainerConfig, target: &str, content: &[u8]) -> Result<(), MemoryError> {
    let (uid, gid, mode) = wanted(config)
        .find_map(|(at, file, owner)| (at == target && matches!(file, FileContent::Provided { .. })).then_some(owner))
        .ok_or_else(|| MemoryError::Unknown { target: target.to_owned() })?;
    write(root, &config.id, target, content, (uid, gid, mode))
}

/// Has every file of the container ready for a run.
pub(crate) fn prepare(root: &Root, config: &ContainerConfig) -> Result<(), MemoryError> {
    for (target, content, owner) in wanted(config) {
        match content {
            FileContent::Host(source) => write(root, &config.id, target, &read(source)?, owner)?,
            FileContent::Provided { .. } => {
                let path = path(root, &config.id, target);
                if !path.try_exists().map_err(failed("look for", &path))? {
                    return Err(MemoryError::Forgotten { target: target.to_owned() });
                }
            }
        }
    }
    Ok(())
}

/// Forgets the files of a container that is removed.
pub(crate) fn remove(root: &Root, container: &Id) -> Result<(), MemoryError> {
    let directory = root.container_files(container);
    if !directory.try_exists().map_err(failed("look for", &directory))? {
        return Ok(());
    }
    match nix::mount::umount2(&directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // It is on a tmpfs anyway.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(failed("unmount", &directory)(error.into())),
    }
    fs::remove_dir_all(&directory).map_err(failed("remove", &directory))
}

/// The owner, group and mode of a file.
type Owner = (u32, u32, u32);

fn wanted(config: &ContainerConfig) -> impl Iterator<Item = (&str, &FileContent, Owner)> {
    config.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::File { content, uid, gid, mode } => Some((mount.target.as_str(), content, (*uid, *gid, *mode))),
        _ => None,
    })
}

/// Reads a file of the host. One that is no regular file could keep us waiting for ever.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, MemoryError> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("look at", path))?;
    if !metadata.is_file() {
        return Err(MemoryError::NotAFile(path.to_owned()));
    }
    let mut content = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut content).map_err(failed("read", path))?;
    if content.len() as u64 > LIMIT {
        return Err(MemoryError::TooLarge(path.to_owned()));
    }
    Ok(content)
}

/// Writes a file beside the one that is there, which an earlier run may still have, and puts it in its place.
fn write(
    root: &Root,
    container: &Id,
    target: &str,
    content: &[u8],
    (uid, gid, mode): Owner,
) -> Result<(), MemoryError> {
    memory(&root.container_files(container))?;
    let path = path(root, container, target);
    // A slash's replacement is never followed by a dot at the end of a name.
    let new = path.with_added_extension("%new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &new)(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed("create", &new))?;
    file.write_all(content).map_err(failed("write", &new))?;
    std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).map_err(failed("change the owner of", &new))?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("change the mode of", &new))?;
    fs::rename(&new, &path).map_err(failed("write", &path))
}

/// Makes a directory in memory.
fn memory(directory: &Path) -> Result<(), MemoryError> {
    make_directory(directory).map_err(failed("make", directory))?;
    let opened = File::open(directory).map_err(failed("open", directory))?;
    let is = |magic| is_filesystem(&opened, magic).map_err(|error| failed("look at", directory)(error.into()));
    if is(TMPFS_MAGIC)? || is(RAMFS_MAGIC)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("rcompose"), directory, Some("tmpfs"), flags, Some("mode=0700"))
        .map_err(|error| failed("mount a tmpfs at", directory)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_of_a_change_and_of_nothing_else() {
        let (one, other) = (Id::random(), Id::random());
        assert_eq!(digest(&one, b"x"), digest(&one, b"x"));
        assert_ne!(digest(&one, b"x"), digest(&one, b"y"));
        assert_ne!(digest(&one, b"x"), digest(&other, b"x"));
    }

    #[test]
    fn each_target_has_a_place_of_its_own() {
        let (root, id) = (Root::below(Path::new("/r")), Id::random());
        let name = |target| path(&root, &id, target).file_name().unwrap().to_owned();
        assert_eq!(name("/run/secrets/key"), "%2frun%2fsecrets%2fkey");
        assert_ne!(name("/a/b"), name("/a%2fb"));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(read(&fifo), Err(MemoryError::NotAFile(_))));
        assert!(matches!(read(directory.path()), Err(MemoryError::NotAFile(_))));
        let large = directory.path().join("large");
        File::create(&large).unwrap().set_len(LIMIT + 1).unwrap();
        assert!(matches!(read(&large), Err(MemoryError::TooLarge(_))));
    }
}
