//! A tar archive → files, below a directory that nothing in the archive leads out of.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use crate::image::{Entry, Kind, Reader, TarError};
use crate::sys::xattr::fsetxattr;

/// What the kernel accepts as one path (`PATH_MAX`, less the NUL).
const MAX_PATH: usize = 4095;

/// Who owns what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whoever owns it in the archive.
    Archive,
    /// This process. Nothing gets the rights of a user by that: set-user-id bits go.
    Ours,
    /// This user and group.
    These(u32, u32),
}

/// What is made of an archive.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub owner: Owner,
    /// Whether devices are made; else they are left out.
    pub devices: bool,
}

/// Why an archive could not be laid down.
#[derive(Debug, thiserror::Error)]
pub enum LayError {
    #[error(transparent)]
    Archive(#[from] TarError),
    #[error("the archive has an invalid path {path:?}: {reason}")]
    Path { path: String, reason: &'static str },
    #[error("cannot overwrite directory {path:?} with non-directory")]
    DirectoryInTheWay { path: String },
    #[error("cannot overwrite non-directory {path:?} with directory")]
    FileInTheWay { path: String },
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Makes what an archive has, in the directory `root`. Returns the paths of devices that were left out.
pub fn lay(root: BorrowedFd<'_>, archive: impl Read, rules: Rules) -> Result<Vec<String>, LayError> {
    let mut reader = Reader::new(archive);
    let mut layer =
        Layer { root, rules, directories: Vec::new(), names: 0, omitted: Vec::new(), buffer: vec![0; 128 << 10] };
    while let Some(entry) = reader.next()? {
        layer.add(&mut reader, &entry)?;
    }
    layer.finish()
}

struct Layer<'a> {
    root: BorrowedFd<'a>,
    rules: Rules,
    /// Modes and times of directories, which are set once nothing is added any more.
    directories: Vec<(Vec<CString>, u32, (i64, u32))>,
    /// Bytes of their names.
    names: usize,
    omitted: Vec<String>,
    buffer: Vec<u8>,
}

/// Bytes of names of directories that are remembered; further ones get their times at once, and later entries change them.
const REMEMBERED: usize = 32 << 20;

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

fn failed(action: &'static str, entry: &Entry) -> impl FnOnce(Errno) -> LayError {
    let path = PathBuf::from(text(&entry.path));
    move |errno| LayError::File { action, path, source: errno.into() }
}

fn written(action: &'static str, entry: &Entry) -> impl FnOnce(io::Error) -> LayError {
    let path = PathBuf::from(text(&entry.path));
    move |source| LayError::File { action, path, source }
}

/// Cuts a path into its components; one that leads up is refused.
fn components(path: &[u8]) -> Result<Vec<CString>, LayError> {
    let invalid = |reason| LayError::Path { path: text(path), reason };
    if path.len() > MAX_PATH {
        return Err(invalid("it is too long"));
    }
    let mut components = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(invalid("it leads up")),
            part => components.push(CString::new(part).map_err(|_| invalid("it contains a NUL"))?),
        }
    }
    Ok(components)
}

impl Layer<'_> {
    fn add<R: Read>(&mut self, reader: &mut Reader<R>, entry: &Entry) -> Result<(), LayError> {
        let components = components(&entry.path)?;
        // `./`: what is there stays as it is.
        let Some((name, parents)) = components.split_last() else { return Ok(()) };
        let parent = self.parent(parents, entry)?;
        let parent = parent.as_fd();
        let there = match fstatat(parent, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(status) => Some(status.st_mode & libc::S_IFMT),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(failed("look at", entry)(errno)),
        };
        match (there, entry.kind) {
            (Some(libc::S_IFDIR), Kind::Directory) | (None, _) => {}
            (Some(libc::S_IFDIR), _) => return Err(LayError::DirectoryInTheWay { path: text(&entry.path) }),
            (Some(_), Kind::Directory) => return Err(LayError::FileInTheWay { path: text(&entry.path) }),
            (Some(_), Kind::HardLink) => {}
            (Some(_), _) => unlink(parent, name, entry)?,
        }
        match entry.kind {
            Kind::Directory => return self.directory(parent, &components, there.is_some(), entry),
            Kind::Regular => return self.regular(parent, name, reader, entry),
            Kind::HardLink => return self.hard_link(parent, name, entry),
            Kind::Symlink => {
                let invalid = |reason| LayError::Path { path: text(&entry.path), reason };
                if entry.link.is_empty() || entry.link.len() > MAX_PATH {
                    return Err(invalid("its link target is empty or too long"));
                }
                let target = CString::new(entry.link.clone()).map_err(|_| invalid("its link target has a NUL"))?;
                symlinkat(target.as_c_str(), parent, name.as_c_str()).map_err(failed("create the link", entry))?;
            }
            Kind::Fifo => mkfifoat(parent, name.as_c_str(), Mode::S_IRUSR | Mode::S_IWUSR)
                .map_err(failed("create the FIFO", entry))?,
            Kind::CharacterDevice | Kind::BlockDevice if !self.rules.devices => {
                self.omitted.push(text(&entry.path));
                return Ok(());
            }
            Kind::CharacterDevice | Kind::BlockDevice => {
                let kind = if entry.kind == Kind::BlockDevice { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                let device = makedev(entry.device.0.into(), entry.device.1.into());
                mknodat(parent, name.as_c_str(), kind, Mode::S_IRUSR | Mode::S_IWUSR, device)
                    .map_err(failed("create the device", entry))?;
            }
        }
        self.special(parent, name, entry)
    }

    /// Opens the directory that an entry lies in, making what is missing of it. A link in the way is an error.
    fn parent(&self, parents: &[CString], entry: &Entry) -> Result<OwnedFd, LayError> {
        let mut directory = self.root.try_clone_to_owned().map_err(written("open the directory of", entry))?;
        for name in parents {
            directory = match open_directory(directory.as_fd(), name) {
                Err(Errno::ENOENT) => {
                    mkdirat(&directory, name.as_c_str(), Mode::from_bits_truncate(0o755))
                        .map_err(failed("create the directory of", entry))?;
                    open_directory(directory.as_fd(), name)
                }
                opened => opened,
            }
            .map_err(failed("open the directory of", entry))?;
        }
        Ok(directory)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        components: &[CString],
        there: bool,
        entry: &Entry,
    ) -> Result<(), LayError> {
        let Some(name) = components.last() else { return Ok(()) };
        if !there {
            mkdirat(parent, name.as_c_str(), Mode::S_IRWXU).map_err(failed("create the directory", entry))?;
        }
        let directory = open_to_change(parent, name).map_err(failed("open the directory", entry))?;
        if let Some((uid, gid)) = self.owner(entry) {
            fchown(&directory, Some(uid), Some(gid)).map_err(failed("set the owner of", entry))?;
        }
        self.names += entry.path.len();
        if self.names > REMEMBERED {
            return settle(&directory, self.mode(entry), entry.mtime).map_err(failed("set the mode of", entry));
        }
        self.directories.push((components.to_vec(), self.mode(entry), entry.mtime));
        Ok(())
    }

    fn regular<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        reader: &mut Reader<R>,
        entry: &Entry,
    ) -> Result<(), LayError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file =
            openat(parent, name.as_c_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("create", entry))?;
        let mut file = File::from(file);
        match &entry.sparse {
            Some(segments) => {
                for &(mut offset, mut rest) in segments {
                    while rest > 0 {
                        let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(self.buffer.len());
                        let read = reader.read_data(&mut self.buffer[..wanted])?;
                        if read == 0 {
                            return Err(TarError::Truncated.into());
                        }
                        file.write_all_at(&self.buffer[..read], offset).map_err(written("write", entry))?;
                        offset += read as u64;
                        rest -= read as u64;
                    }
                }
                file.set_len(entry.size).map_err(written("set the length of", entry))?;
            }
            None => loop {
                let read = reader.read_data(&mut self.buffer)?;
                if read == 0 {
                    break;
                }
                file.write_all(&self.buffer[..read]).map_err(written("write", entry))?;
            },
        }
        // The owner first: changing it takes set-user-id bits and capabilities away.
        if let Some((uid, gid)) = self.owner(entry) {
            fchown(&file, Some(uid), Some(gid)).map_err(failed("set the owner of", entry))?;
        }
        fchmod(&file, Mode::from_bits_truncate(self.mode(entry))).map_err(failed("set the mode of", entry))?;
        if self.rules.owner != Owner::Ours {
            for (name, value) in entry.xattrs.iter().filter(|(name, _)| name == b"security.capability") {
                let name = CString::new(name.as_slice()).unwrap_or_default();
                fsetxattr(&file, &name, value).map_err(written("set the capabilities of", entry))?;
            }
        }
        let time = time(entry.mtime);
        futimens(&file, &time, &time).map_err(failed("set the time of", entry))
    }

    fn hard_link(&self, parent: BorrowedFd<'_>, name: &CString, entry: &Entry) -> Result<(), LayError> {
        let target = components(&entry.link)?;
        let Some((target_name, parents)) = target.split_last() else {
            return Err(LayError::Path { path: text(&entry.path), reason: "it is a hard link to the root" });
        };
        let mut directory = self.root.try_clone_to_owned().map_err(written("find the link target of", entry))?;
        for name in parents {
            directory = open_directory(directory.as_fd(), name).map_err(failed("find the link target of", entry))?;
        }
        let status = |directory: BorrowedFd<'_>, name: &CString| {
            fstatat(directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
        };
        let source = status(directory.as_fd(), target_name).map_err(failed("find the link target of", entry))?;
        // A link to itself is there already; making room for it would remove it.
        if status(parent, name).is_ok_and(|there| (there.st_dev, there.st_ino) == (source.st_dev, source.st_ino)) {
            return Ok(());
        }
        unlink(parent, name, entry)?;
        linkat(&directory, target_name.as_c_str(), parent, name.as_c_str(), AtFlags::empty())
            .map_err(failed("create the hard link", entry))
    }

    /// Gives what is no file and no directory its attributes.
    fn special(&self, parent: BorrowedFd<'_>, name: &CString, entry: &Entry) -> Result<(), LayError> {
        let name = name.as_c_str();
        if let Some((uid, gid)) = self.owner(entry) {
            fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(failed("set the owner of", entry))?;
        }
        if entry.kind != Kind::Symlink {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let made = openat(parent, name, flags, Mode::empty()).map_err(failed("open", entry))?;
            // By its descriptor: a container may have put a link in its place.
            let path = super::super::beneath::proc_path(&made);
            fchmodat(
                nix::fcntl::AT_FDCWD,
                &path,
                Mode::from_bits_truncate(self.mode(entry)),
                FchmodatFlags::FollowSymlink,
            )
            .map_err(failed("set the mode of", entry))?;
        }
        let time = time(entry.mtime);
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(failed("set the time of", entry))
    }

    fn owner(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        match self.rules.owner {
            Owner::Ours => None,
            Owner::Archive => Some((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))),
            Owner::These(uid, gid) => Some((Uid::from_raw(uid), Gid::from_raw(gid))),
        }
    }

    fn mode(&self, entry: &Entry) -> u32 {
        let mask = if self.rules.owner == Owner::Ours { 0o1777 } else { 0o7777 };
        entry.mode & mask
    }

    fn finish(self) -> Result<Vec<String>, LayError> {
        for (components, mode, time) in self.directories.iter().rev() {
            let settled = self.root.try_clone_to_owned().map_err(|_| Errno::EMFILE).and_then(|mut directory| {
                let (name, parents) = components.split_last().ok_or(Errno::ENOENT)?;
                for parent in parents {
                    directory = open_directory(directory.as_fd(), parent)?;
                }
                settle(&open_to_change(directory.as_fd(), name)?, *mode, *time)
            });
            match settled {
                // A container may have removed or replaced it meanwhile.
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => {
                    let name = components.last().map(|name| name.to_string_lossy().into_owned());
                    let path = PathBuf::from(name.unwrap_or_default());
                    return Err(LayError::File { action: "set the mode of", path, source: errno.into() });
                }
            }
        }
        Ok(self.omitted)
    }
}

/// Removes what is in the way and no directory.
fn unlink(parent: BorrowedFd<'_>, name: &CString, entry: &Entry) -> Result<(), LayError> {
    match unlinkat(parent, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed("replace", entry)(errno)),
    }
}

/// Gives a directory its mode and time.
fn settle(directory: &OwnedFd, mode: u32, mtime: (i64, u32)) -> nix::Result<()> {
    fchmod(directory, Mode::from_bits_truncate(mode))?;
    let time = time(mtime);
    futimens(directory, &time, &time)
}

/// Likewise, in order to change its attributes.
fn open_to_change(parent: BorrowedFd<'_>, name: &CString) -> nix::Result<OwnedFd> {
    let directory = open_directory(parent, name)?;
    openat(&directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Opens a directory by its name in another one, and no link.
fn open_directory(parent: BorrowedFd<'_>, name: &CString) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    loop {
        match openat2(parent, name.as_c_str(), how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            opened => return opened,
        }
    }
}

fn time((seconds, nanoseconds): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, nanoseconds.into())
}
