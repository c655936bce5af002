//! A container's files, seen and changed from outside (`cp`, `export`, `commit`, `watch`).
//!
//! Nothing of the container is executed, and no path of it is ever resolved by name on the host: its root is a descriptor,
//! and everything else is found below it (`RESOLVE_IN_ROOT`), one descriptor from the next. A container that runs may change
//! links and directories at any moment (CVE-2018-15664); what it gains by that is another file of its own.

mod lay;
mod pack;
mod place;
mod root;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

pub use lay::{LayError, Owner, Rules, lay};
pub use pack::{Content, PackError, Packed, pack, pack_layer, pack_nothing, pack_trees};
pub use place::{Attributes, PlaceError, Placer, Spot};
pub use root::{View, with_root};

use super::beneath;
use crate::shim::protocol::Failure;

/// Why a container's files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Its root could not be opened or assembled.
    #[error("cannot open the root of container {name}: {failure}")]
    Root { name: String, failure: Failure },
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Lay(#[from] LayError),
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
}

/// Packs on one side and lays down on the other, at the same time.
pub fn transfer<T: Send>(
    pack: impl FnOnce(io::PipeWriter) -> Result<(), FilesError> + Send,
    lay: impl FnOnce(io::PipeReader) -> Result<T, FilesError> + Send,
) -> Result<T, FilesError> {
    let (reader, writer) = io::pipe().map_err(FilesError::Pipe)?;
    thread::scope(|scope| {
        let packing = scope.spawn(move || pack(writer));
        let laid = lay(reader);
        let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (packed, laid) {
            // The other side stopped reading, and knows why.
            (Err(FilesError::Pack(error)), Err(cause)) if error.is_broken_pipe() => Err(cause),
            // An archive that was cut short is only what followed from it.
            (Err(error), _) => Err(error),
            (Ok(()), laid) => laid,
        }
    })
}

/// Something that was found.
#[derive(Debug)]
pub struct Found {
    /// Opened with `O_PATH`.
    pub fd: OwnedFd,
    pub directory: bool,
}

/// Finds a file below a container's root. The last component is followed with `follow`, or where a slash ends the path.
pub fn find(root: BorrowedFd<'_>, path: &Path, follow: bool) -> nix::Result<Found> {
    let fd = match (ends_with_slash(path) || follow, last(path)) {
        (false, Some(name)) => {
            let parent = beneath::open(root, parent(path), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            nix::fcntl::openat(&parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?
        }
        _ => beneath::open(root, path, OFlag::O_PATH)?,
    };
    found(fd, path)
}

/// Finds a file of the host, where the user's own path is followed as always.
pub fn find_here(path: &Path, follow: bool) -> nix::Result<Found> {
    let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    if !follow && !ends_with_slash(path) && last(path).is_some() {
        flags |= OFlag::O_NOFOLLOW;
    }
    found(nix::fcntl::open(path, flags, Mode::empty())?, path)
}

fn found(fd: OwnedFd, path: &Path) -> nix::Result<Found> {
    let directory = beneath::is_directory(&fd)?;
    if ends_with_slash(path) && !directory {
        return Err(Errno::ENOTDIR);
    }
    Ok(Found { fd, directory })
}

/// Returns whether a path says that it is a directory: `a/`, `a/.`.
pub fn ends_with_slash(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text.ends_with(b"/") || text == b"." || text.ends_with(b"/.") || text == b".." || text.ends_with(b"/..")
}

/// Returns whether a path means what is in a directory, and not the directory: `a/.`.
pub fn is_content(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text == b"." || text.ends_with(b"/.")
}

/// Returns the name of the last component of a path, if it has one.
pub fn last(path: &Path) -> Option<&OsStr> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => Some(name),
        _ => None,
    }
}

/// Returns the path without its last component.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Where something is to be put: a directory that exists, and the name that it gets there. Without a name what comes has
/// its own.
#[derive(Debug)]
pub struct Destination {
    pub directory: OwnedFd,
    pub name: Option<std::ffi::OsString>,
}

/// Why something cannot be put where it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    #[error("cannot copy directory")]
    DirectoryOverFile,
    #[error("no such directory")]
    NoSuchDirectory,
    /// The directory that it would be in.
    #[error("no such directory")]
    NoParent,
    #[error("{}", .0.desc())]
    Errno(Errno),
}

/// Decides where a copy goes, as `cp` of Docker does. `open` finds a path on the side of the destination and follows links.
pub fn destination(
    path: &Path,
    directory: bool,
    open: impl Fn(&Path, OFlag) -> nix::Result<OwnedFd>,
) -> Result<Destination, DestinationError> {
    match open(path, OFlag::O_PATH) {
        Ok(there) if beneath::is_directory(&there).map_err(DestinationError::Errno)? => {
            return Ok(Destination { directory: there, name: None });
        }
        Ok(_) if directory => return Err(DestinationError::DirectoryOverFile),
        Ok(_) if ends_with_slash(path) => return Err(DestinationError::Errno(Errno::ENOTDIR)),
        Err(Errno::ENOENT) if ends_with_slash(path) && !directory => return Err(DestinationError::NoSuchDirectory),
        Ok(_) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(DestinationError::Errno(errno)),
    }
    let name = last(path).ok_or(DestinationError::NoSuchDirectory)?.to_owned();
    match open(&parent(path), OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Ok(directory) => Ok(Destination { directory, name: Some(name) }),
        Err(Errno::ENOENT) => Err(DestinationError::NoParent),
        Err(errno) => Err(DestinationError::Errno(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
    }

    fn archived(fd: BorrowedFd<'_>, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(fd, Path::new(name), Content::Files, &mut bytes).unwrap();
        bytes
    }

    const RULES: Rules = Rules { owner: Owner::Archive, devices: false };

    #[test]
    fn what_is_packed_can_be_laid_down() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let long = "n".repeat(150);
        fs::create_dir_all(from.join("sub/empty")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub").join(&long), "content").unwrap();
        fs::hard_link(from.join("sub").join(&long), from.join("hard")).unwrap();
        fs::set_permissions(from.join("hard"), fs::Permissions::from_mode(0o4640)).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        nix::unistd::mkfifo(&from.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        let bytes = archived(open(&from).as_fd(), "copy");
        lay(open(&to).as_fd(), &bytes[..], RULES).unwrap();
        let copy = to.join("copy");
        assert_eq!(fs::read_to_string(copy.join("hard")).unwrap(), "content");
        let there = fs::metadata(copy.join("sub").join(&long)).unwrap();
        assert_eq!((there.mode() & 0o7777, there.nlink()), (0o4640, 2));
        assert_eq!(there.mtime(), fs::metadata(from.join("hard")).unwrap().mtime());
        assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("/etc/passwd"));
        assert!(copy.join("sub/empty").is_dir());
        // Again, over what is there; and the content alone.
        lay(open(&to).as_fd(), &bytes[..], RULES).unwrap();
        lay(open(&to).as_fd(), &archived(open(&from).as_fd(), ".")[..], RULES).unwrap();
        assert!(to.join("sub/empty").is_dir());
    }

    #[test]
    fn links_lead_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let (outside, to) = (directory.path().join("outside"), directory.path().join("to"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, to.join("out")).unwrap();
        for (path, link) in [("out/new", None), ("../new", None), ("/../new", None), ("hard", Some("out/secret"))] {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            // The library refuses such names.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            if let Some(link) = link {
                header.set_entry_type(tar::EntryType::Link);
                header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            }
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
            let bytes = builder.into_inner().unwrap();
            assert!(lay(open(&to).as_fd(), &bytes[..], RULES).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        // A file in the place of a link replaces it.
        let file = directory.path().join("file");
        fs::File::create(&file).unwrap().write_all(b"mine").unwrap();
        lay(open(&to).as_fd(), &archived(open(&file).as_fd(), "out")[..], RULES).unwrap();
        assert_eq!(fs::read_to_string(to.join("out")).unwrap(), "mine");
        assert!(outside.join("secret").exists());
    }

    #[test]
    fn a_destination_is_what_cp_makes_of_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("dir")).unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let root = open(directory.path());
        let at = |path: &str, directory: bool| {
            let path = Path::new(path);
            destination(path, directory, |path, flags| beneath::open(&root, path, flags))
                .map(|destination| destination.name.map(|name| name.to_string_lossy().into_owned()))
        };
        assert_eq!(at("/dir", true), Ok(None));
        assert_eq!(at("/dir/", false), Ok(None));
        assert_eq!(at("/file", false), Ok(Some("file".into())));
        assert_eq!(at("/file", true), Err(DestinationError::DirectoryOverFile));
        assert_eq!(at("/new", false), Ok(Some("new".into())));
        assert_eq!(at("/new/", true), Ok(Some("new".into())));
        assert_eq!(at("/new/", false), Err(DestinationError::NoSuchDirectory));
        assert_eq!(at("/no/new", true), Err(DestinationError::NoParent));
        assert_eq!(at("/", true), Ok(None));
    }
}
