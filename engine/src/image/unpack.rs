//! Unpacks one layer's archive into a directory of its own, in the form that the kernel's overlay file system stacks.
//!
//! Layers are hostile (design: "Security", tar extraction). No path of theirs is ever handed to the kernel whole and
//! from the working directory: each is cut into components, a component is only opened relative to the descriptor of
//! its parent and without following links, and symbolic links in the way are resolved by us, within the layer's root.
//! Sizes, counts and name lengths are bounded by [`Limits`].
//!
//! Whiteouts of the image format become those of overlayfs: `.wh.NAME` a character device 0/0, `.wh..wh..opq` the
//! attribute `trusted.overlay.opaque` (OCI image specification, "Whiteouts"; Documentation/filesystems/overlayfs.rst).

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, major, makedev, minor,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, mkfifoat, symlinkat};

use super::remove::remove_tree;
use super::tar::{Entry, Kind, Reader, TarError};
use crate::sys::xattr::fsetxattr;

/// What marks a directory whose lower layers are hidden.
pub(crate) const OPAQUE_ATTRIBUTE: &CStr = c"trusted.overlay.opaque";
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// What the kernel accepts as one path (`PATH_MAX`, less the NUL).
const MAX_PATH: usize = 4095;
/// What the kernel accepts as one name.
const MAX_NAME: usize = 255;
/// How many links one path may go through, as in the kernel.
const MAX_LINKS: usize = 40;
/// How many parent directories are kept open.
const CACHED_DIRECTORIES: usize = 64;

/// What a layer may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes that remembering all directories may take (their times are set at the end).
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 256 << 30, entries: 4_000_000, names: 16 << 20 }
    }
}

impl Limits {
    /// Returns the limits for a layer of a compressed size: honest archives shrink to a tenth, seldom to a hundredth.
    #[must_use]
    pub fn for_compressed(self, size: u64) -> Self {
        Self { bytes: self.bytes.min(size.saturating_mul(250).saturating_add(1 << 30)), ..self }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of all regular files together.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive itself is unreadable.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// A name in the archive cannot be one: it would leave the root, or is too long.
    #[error("the layer has an invalid path {path:?}: {reason}")]
    Path {
        /// The offending name, shortened.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The layer exceeds a limit.
    #[error("the layer is too large: more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A file could not be made.
    #[error("cannot {action} {path:?} of the layer: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The name within the layer.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    /// Returns the system's error, if this is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::File { source, .. } | Self::Archive(TarError::Read(source)) => Some(source),
            _ => None,
        }
    }
}

/// Unpacks an archive into the empty directory `root`. `trash` is another empty directory on the same file system.
///
/// The archive is read to its end marker; what follows it is left to the caller, who gets the reader back.
pub fn unpack<R: Read>(
    archive: R,
    root: BorrowedFd<'_>,
    trash: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<(Unpacked, R), UnpackError> {
    let mut unpacker = Unpacker {
        root,
        trash,
        parents: HashMap::new(),
        directories: DirectoryTimes::default(),
        // Files are born with our own ids, so setting them again would be a wasted call per file.
        own: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        buffer: vec![0; 256 * 1024],
    };
    let mut reader = Reader::new(archive);
    let mut done = Unpacked::default();
    while let Some(entry) = reader.next()? {
        done.entries += 1;
        if done.entries > limits.entries {
            return Err(UnpackError::TooLarge { what: "entries", limit: limits.entries });
        }
        done.bytes = done.bytes.saturating_add(entry.size);
        if done.bytes > limits.bytes {
            return Err(UnpackError::TooLarge { what: "bytes", limit: limits.bytes });
        }
        unpacker.add(&mut reader, &entry)?;
        if unpacker.directories.bytes.len() > limits.names {
            return Err(UnpackError::TooLarge { what: "bytes of directory names", limit: limits.names as u64 });
        }
    }
    unpacker.set_directory_times()?;
    Ok((done, reader.into_inner()))
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    trash: BorrowedFd<'a>,
    /// Parents that were opened lately, by the path that the archive gives them.
    parents: HashMap<Vec<u8>, Arc<OwnedFd>>,
    /// Times to set once nothing is added any more.
    directories: DirectoryTimes,
    own: (u32, u32),
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn add<R: Read>(&mut self, reader: &mut Reader<R>, entry: &Entry) -> Result<(), UnpackError> {
        let components = components(&entry.path)?;
        let Some((name, parents)) = components.split_last() else {
            // "./": the layer's root itself.
            if entry.kind == Kind::Directory {
                let root = reopen(self.root, entry)?;
                finish_directory(&root, entry)?;
                self.directories.push(b"", entry.mtime);
            }
            return Ok(());
        };
        let parent = self.parent(parents, entry)?;
        let parent = parent.as_fd();
        if name.starts_with(WHITEOUT_PREFIX) {
            return whiteout(parent, name, entry);
        }
        let c_name = CString::new(*name).map_err(|_| invalid(&entry.path, "it contains a NUL"))?;
        match entry.kind {
            Kind::Directory => {
                self.directory(parent, &c_name, entry)?;
                self.directories.push(&components.join(&b'/'), entry.mtime);
                return Ok(());
            }
            Kind::Regular => return self.regular(parent, &c_name, reader, entry),
            Kind::HardLink => return self.hard_link(parent, &c_name, entry),
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > MAX_PATH {
                    return Err(invalid(&entry.path, "its link target is empty or too long"));
                }
                let target =
                    CString::new(entry.link.clone()).map_err(|_| invalid(&entry.path, "its link target has a NUL"))?;
                self.replacing(parent, &c_name, entry, "create the link", || {
                    symlinkat(target.as_c_str(), parent, c_name.as_c_str())
                })?;
            }
            Kind::Fifo => self.replacing(parent, &c_name, entry, "create the FIFO", || {
                mkfifoat(parent, c_name.as_c_str(), Mode::S_IRUSR | Mode::S_IWUSR)
            })?,
            Kind::CharacterDevice | Kind::BlockDevice => {
                let kind = if entry.kind == Kind::BlockDevice { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                let device = makedev(entry.device.0.into(), entry.device.1.into());
                self.replacing(parent, &c_name, entry, "create the device", || {
                    mknodat(parent, c_name.as_c_str(), kind, Mode::S_IRUSR | Mode::S_IWUSR, device)
                })?;
            }
        }
        self.finish_special(parent, &c_name, entry)
    }

    /// Opens the directory that an entry lies in, making what is missing of it.
    fn parent(&mut self, parents: &[&[u8]], entry: &Entry) -> Result<Arc<OwnedFd>, UnpackError> {
        let path = parents.join(&b'/');
        if let Some(known) = self.parents.get(&path) {
            return Ok(Arc::clone(known));
        }
        let opened = if path.is_empty() {
            self.root.try_clone_to_owned().map_err(|source| failed("open", entry, source))?
        } else {
            let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
                ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV,
            );
            match openat2(self.root, path.as_slice(), how) {
                Ok(opened) => opened,
                // Missing, or hidden by a whiteout that came before it.
                Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_parents(parents, entry)?,
                Err(error) => return Err(failed("open the directory of", entry, error)),
            }
        };
        let opened = Arc::new(opened);
        if self.parents.len() >= CACHED_DIRECTORIES {
            self.parents.clear();
        }
        self.parents.insert(path, Arc::clone(&opened));
        Ok(opened)
    }

    /// Walks to a directory one component at a time, making what is missing and following links within the root.
    fn make_parents(&mut self, parents: &[&[u8]], entry: &Entry) -> Result<OwnedFd, UnpackError> {
        let mut rest: VecDeque<Vec<u8>> = parents.iter().map(|name| name.to_vec()).collect();
        let root = self.root.try_clone_to_owned().map_err(|source| failed("open", entry, source))?;
        // Links may lead back up; the stack knows the way, so that ".." never is asked of the kernel.
        let mut stack = vec![root];
        let mut links = 0;
        let mut steps = 0;
        while let Some(name) = rest.pop_front() {
            steps += 1;
            if steps > MAX_PATH || stack.len() > MAX_PATH / 2 {
                return Err(invalid(&entry.path, "its directory is too deep"));
            }
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            if name.len() > MAX_NAME {
                return Err(invalid(&entry.path, "a name in it is too long"));
            }
            let top = stack.last().expect("the root is never popped").as_fd();
            let c_name = CString::new(name).map_err(|_| invalid(&entry.path, "it contains a NUL"))?;
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let open = || openat(top, c_name.as_c_str(), flags, Mode::empty());
            let make = || {
                let mode = Mode::from_bits_truncate(0o755);
                mkdirat(top, c_name.as_c_str(), mode)?;
                // Whatever our umask is. What was just made is no link, and nobody else is here to change that.
                fchmodat(top, c_name.as_c_str(), mode, FchmodatFlags::FollowSymlink)
            };
            let next = match open() {
                Ok(next) => next,
                Err(Errno::ENOENT) => {
                    make().map_err(|error| failed("create the directory of", entry, error))?;
                    open().map_err(|error| failed("open the directory of", entry, error))?
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    let stat = stat(top, &c_name).map_err(|error| failed("look at the directory of", entry, error))?;
                    if is_whiteout(&stat) {
                        // The directory of the lower layers was removed, and a new one takes its place.
                        self.clear(top, &c_name, entry)?;
                        make().map_err(|error| failed("create the directory of", entry, error))?;
                        make_opaque(top, &c_name, entry)?;
                        open().map_err(|error| failed("open the directory of", entry, error))?
                    } else if kind_of(&stat) == SFlag::S_IFLNK {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(invalid(&entry.path, "it goes through too many links"));
                        }
                        let target = readlinkat(top, c_name.as_c_str())
                            .map_err(|error| failed("read a link in the path of", entry, error))?
                            .into_vec();
                        if target.starts_with(b"/") {
                            stack.truncate(1);
                        }
                        for name in target.rsplit(|b| *b == b'/') {
                            rest.push_front(name.to_vec());
                        }
                        continue;
                    } else {
                        return Err(failed("create the directory of", entry, Errno::ENOTDIR));
                    }
                }
                Err(error) => return Err(failed("open the directory of", entry, error)),
            };
            stack.push(next);
        }
        Ok(stack.pop().expect("the root is never popped"))
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, entry: &Entry) -> Result<(), UnpackError> {
        let make = || mkdirat(parent, name, Mode::S_IRWXU);
        match make() {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let stat = stat(parent, name).map_err(|error| failed("look at", entry, error))?;
                if kind_of(&stat) != SFlag::S_IFDIR {
                    self.clear(parent, name, entry)?;
                    make().map_err(|error| failed("create the directory", entry, error))?;
                    if is_whiteout(&stat) {
                        make_opaque(parent, name, entry)?;
                    }
                }
            }
            Err(error) => return Err(failed("create the directory", entry, error)),
        }
        let directory = open_directory(parent, name).map_err(|error| failed("open the directory", entry, error))?;
        finish_directory(&directory, entry)
    }

    fn regular<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        reader: &mut Reader<R>,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = self
            .replacing(parent, name, entry, "create", || openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        let mut file = File::from(file);
        if let Some(segments) = &entry.sparse {
            for (offset, length) in segments {
                let (mut offset, mut rest) = (*offset, *length);
                while rest > 0 {
                    let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(self.buffer.len());
                    let read = reader.read_data(&mut self.buffer[..wanted])?;
                    if read == 0 {
                        return Err(TarError::Truncated.into());
                    }
                    file.write_all_at(&self.buffer[..read], offset).map_err(|error| failed("write", entry, error))?;
                    offset += read as u64;
                    rest -= read as u64;
                }
            }
            file.set_len(entry.size).map_err(|error| failed("set the length of", entry, error))?;
        } else {
            loop {
                let read = reader.read_data(&mut self.buffer)?;
                if read == 0 {
                    break;
                }
                file.write_all(&self.buffer[..read]).map_err(|error| failed("write", entry, error))?;
            }
        }
        // The owner first: changing it takes setuid bits and capabilities away.
        if (entry.uid, entry.gid) != self.own {
            fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                .map_err(|error| failed("set the owner of", entry, error))?;
        }
        fchmod(&file, Mode::from_bits_truncate(entry.mode)).map_err(|error| failed("set the mode of", entry, error))?;
        set_xattrs(file.as_fd(), entry)?;
        let time = time_spec(entry.mtime);
        futimens(&file, &time, &time).map_err(|error| failed("set the time of", entry, error))
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, name: &CStr, entry: &Entry) -> Result<(), UnpackError> {
        let target = components(&entry.link)?;
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(invalid(&entry.path, "it is a hard link to the root"));
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        let directory = match target_parents.join(&b'/') {
            path if path.is_empty() => self.root.try_clone_to_owned().map_err(|error| failed("open", entry, error))?,
            path => openat2(self.root, path.as_slice(), how)
                .map_err(|error| failed("find the hard link target of", entry, error))?,
        };
        let target_name = CString::new(*target_name).map_err(|_| invalid(&entry.path, "its link target has a NUL"))?;
        let source = stat(directory.as_fd(), &target_name)
            .map_err(|error| failed("find the hard link target of", entry, error))?;
        if kind_of(&source) == SFlag::S_IFDIR {
            return Err(invalid(&entry.path, "it is a hard link to a directory"));
        }
        // A link to itself is there already; making room for it would remove it.
        if stat(parent, name).is_ok_and(|there| (there.st_dev, there.st_ino) == (source.st_dev, source.st_ino)) {
            return Ok(());
        }
        self.replacing(parent, name, entry, "create the hard link", || {
            linkat(&directory, target_name.as_c_str(), parent, name, AtFlags::empty())
        })
    }

    /// Runs something that makes a file where none may be, after removing one that is.
    fn replacing<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        entry: &Entry,
        action: &'static str,
        create: impl Fn() -> nix::Result<T>,
    ) -> Result<T, UnpackError> {
        match create() {
            Err(Errno::EEXIST) => {
                self.clear(parent, name, entry)?;
                create().map_err(|error| failed(action, entry, error))
            }
            result => result.map_err(|error| failed(action, entry, error)),
        }
    }

    /// Removes what is in the way. A parent that was opened through it may lead elsewhere now.
    fn clear(&mut self, parent: BorrowedFd<'_>, name: &CStr, entry: &Entry) -> Result<(), UnpackError> {
        self.parents.clear();
        remove_tree(parent, name, self.trash).map_err(|error| failed("replace", entry, error))
    }

    fn finish_special(&self, parent: BorrowedFd<'_>, name: &CStr, entry: &Entry) -> Result<(), UnpackError> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        if (entry.uid, entry.gid) != self.own {
            fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|error| failed("set the owner of", entry, error))?;
        }
        if entry.kind != Kind::Symlink {
            // What was just made under this name is no link, and nobody else is here to change that.
            fchmodat(parent, name, Mode::from_bits_truncate(entry.mode), FchmodatFlags::FollowSymlink)
                .map_err(|error| failed("set the mode of", entry, error))?;
        }
        let time = time_spec(entry.mtime);
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(|error| failed("set the time of", entry, error))
    }

    /// Sets the directories' times, now that no entry changes them any more.
    fn set_directory_times(&mut self) -> Result<(), UnpackError> {
        self.parents.clear();
        let mut path = Vec::new();
        let mut rest = self.directories.bytes.as_slice();
        while let Some(mtime) = DirectoryTimes::pop(&mut rest, &mut path) {
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .resolve(
                    ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV,
                );
            let path = if path.is_empty() { b"." } else { path.as_slice() };
            let directory = match openat2(self.root, path, how) {
                Ok(directory) => directory,
                // A later entry of the archive replaced it.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                Err(error) => return Err(failed_at("open the directory", path, error)),
            };
            let time = time_spec(mtime);
            futimens(&directory, &time, &time).map_err(|error| failed_at("set the time of", path, error))?;
        }
        Ok(())
    }
}

/// Directories and their times, in the order in which they came. Neighbours in an archive share most of their path,
/// which is written once, so that a million directories take some 30 MB.
#[derive(Default)]
struct DirectoryTimes {
    /// Per directory: length of what it shares with the one before it, length of what follows that, seconds,
    /// nanoseconds, what follows.
    bytes: Vec<u8>,
    last: Vec<u8>,
}

impl DirectoryTimes {
    fn push(&mut self, path: &[u8], (seconds, nanoseconds): (i64, u32)) {
        let shared = path.iter().zip(&self.last).take_while(|(one, other)| one == other).count();
        for length in [shared, path.len() - shared] {
            self.bytes.extend_from_slice(&u16::try_from(length).expect("paths are bounded").to_ne_bytes());
        }
        self.bytes.extend_from_slice(&seconds.to_ne_bytes());
        self.bytes.extend_from_slice(&nanoseconds.to_ne_bytes());
        self.bytes.extend_from_slice(&path[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
    }

    /// Takes the next directory from `rest`; `path` is the one before it and becomes its own.
    fn pop(rest: &mut &[u8], path: &mut Vec<u8>) -> Option<(i64, u32)> {
        let shared = u16::from_ne_bytes(*rest.split_off(..2)?.as_array()?);
        let length = u16::from_ne_bytes(*rest.split_off(..2)?.as_array()?);
        let seconds = i64::from_ne_bytes(*rest.split_off(..8)?.as_array()?);
        let nanoseconds = u32::from_ne_bytes(*rest.split_off(..4)?.as_array()?);
        path.truncate(shared.into());
        path.extend_from_slice(rest.split_off(..length.into())?);
        Some((seconds, nanoseconds))
    }
}

fn finish_directory(directory: &OwnedFd, entry: &Entry) -> Result<(), UnpackError> {
    fchown(directory, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
        .map_err(|error| failed("set the owner of", entry, error))?;
    fchmod(directory, Mode::from_bits_truncate(entry.mode)).map_err(|error| failed("set the mode of", entry, error))?;
    set_xattrs(directory.as_fd(), entry)
}

fn make_opaque(parent: BorrowedFd<'_>, name: &CStr, entry: &Entry) -> Result<(), UnpackError> {
    let directory = open_directory(parent, name).map_err(|error| failed("open the directory", entry, error))?;
    fsetxattr(&directory, OPAQUE_ATTRIBUTE, b"y").map_err(|error| failed("mark opaque", entry, error))
}

fn reopen(directory: BorrowedFd<'_>, entry: &Entry) -> Result<OwnedFd, UnpackError> {
    open_directory(directory, c".").map_err(|error| failed("open the directory of", entry, error))
}

fn whiteout(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
    if name == OPAQUE_MARKER {
        let directory = reopen(parent, entry)?;
        return fsetxattr(&directory, OPAQUE_ATTRIBUTE, b"y").map_err(|error| failed("mark opaque", entry, error));
    }
    let hidden = &name[WHITEOUT_PREFIX.len()..];
    if hidden.starts_with(WHITEOUT_PREFIX) {
        // Bookkeeping of aufs (`.wh..wh.plnk` and the like), which is about its own mounts.
        return Ok(());
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(invalid(&entry.path, "it is a whiteout of nothing"));
    }
    let hidden = CString::new(hidden).map_err(|_| invalid(&entry.path, "it contains a NUL"))?;
    match stat(parent, &hidden) {
        // Whiteouts are about lower layers: what this layer itself has stays, but hides what is below it.
        Ok(there) if kind_of(&there) == SFlag::S_IFDIR => make_opaque(parent, &hidden, entry),
        Ok(_) => Ok(()),
        Err(Errno::ENOENT) => mknodat(parent, hidden.as_c_str(), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))
            .map_err(|error| failed("create the whiteout", entry, error)),
        Err(error) => Err(failed("look at", entry, error)),
    }
}

/// Cuts a path into its components. Absolute paths are taken from the root; `..` is no honest archiver's.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    if path.len() > MAX_PATH {
        return Err(invalid(path, "it is too long"));
    }
    if path.is_empty() {
        return Err(invalid(path, "it is empty"));
    }
    let mut components = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(invalid(path, "it leads upwards")),
            _ if name.len() > MAX_NAME => return Err(invalid(path, "a name in it is too long")),
            _ if name.contains(&0) => return Err(invalid(path, "it contains a NUL")),
            _ => components.push(name),
        }
    }
    Ok(components)
}

/// Sets the attributes that an image may bring. Those of overlayfs itself and of security modules are not its to set.
fn set_xattrs(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    for (name, value) in &entry.xattrs {
        let allowed = name == b"security.capability"
            || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
            || matches!(name.as_slice(), b"system.posix_acl_access" | b"system.posix_acl_default");
        if !allowed {
            continue;
        }
        let c_name =
            CString::new(name.as_slice()).map_err(|_| invalid(&entry.path, "an attribute's name has a NUL"))?;
        match fsetxattr(file, &c_name, value) {
            Ok(()) => {}
            // The file system has no such attributes, as with Docker; a capability must not be lost in silence.
            Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) && name != b"security.capability" => {}
            Err(error) => return Err(failed("set an extended attribute of", entry, error)),
        }
    }
    Ok(())
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn stat(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<FileStat> {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

pub(crate) fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

pub(crate) fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && major(stat.st_rdev) == 0 && minor(stat.st_rdev) == 0
}

fn time_spec((seconds, nanoseconds): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, nanoseconds.into())
}

fn invalid(path: &[u8], reason: &'static str) -> UnpackError {
    UnpackError::Path { path: String::from_utf8_lossy(path).chars().take(120).collect(), reason }
}

fn failed(action: &'static str, entry: &Entry, source: impl Into<io::Error>) -> UnpackError {
    failed_at(action, &entry.path, source)
}

fn failed_at(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> UnpackError {
    let path = &path[..path.len().min(500)];
    UnpackError::File { action, path: PathBuf::from(OsString::from_vec(path.to_vec())), source: source.into() }
}
