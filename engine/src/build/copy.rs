//! `COPY`, `ADD` and `WORKDIR`: files are put into a file system, as BuildKit puts them.
//!
//! The destination is resolved in the root of the file system that is built (a link to `/etc` is its own `/etc`); below
//! that, links are replaced and never followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use super::ignore::Patterns;
use super::mode::ModeChange;
use super::tree::{Found, Match, Tree, TreeError, kind};
use crate::container::beneath;
use crate::container::files::{self, LayError, Owner, Rules, lay};
use crate::image::{Decompressor, Reader, expand};
use crate::sys::xattr;

/// How many bytes are copied at once. Between two of these somebody may end it.
const PART: u64 = 256 << 20;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// What is to be copied cannot be had.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Something cannot be put into the file system.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file, in the file system that is built.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory is where a file is to be.
    #[error("cannot replace directory {} by a file", .0.display())]
    DirectoryInTheWay(PathBuf),
    /// A file is where a directory is to be.
    #[error("cannot copy to {}: it is no directory", .0.display())]
    FileInTheWay(PathBuf),
    /// An archive cannot be unpacked.
    #[error("cannot unpack {}", path.display())]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LayError,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> CopyError {
    let path = path.to_owned();
    move |errno| CopyError::File { action, path, source: errno.into() }
}

/// What copied files are like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes {
    /// The owner and group; `None`: as in the tree they come from.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<ModeChange>,
}

/// One copy: from where, and how.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) found: &'a Match,
    /// An archive is unpacked.
    pub(crate) unpack: bool,
}

/// Where to copy to.
#[derive(Debug)]
pub(crate) struct Destination<'a> {
    /// The root of the file system.
    pub(crate) root: BorrowedFd<'a>,
    /// The path, which ends with a slash where it is a directory in any case.
    pub(crate) path: &'a str,
    pub(crate) attributes: &'a Attributes,
}

impl Destination<'_> {
    /// Copies a source. `several`: it is not the only one, so that the destination is a directory.
    pub(crate) fn copy(&self, source: &Source<'_>, several: bool) -> Result<(), CopyError> {
        let path = Path::new(self.path);
        let Match { base, found, asked } = source.found;
        if source.found.is_directory() {
            // What is copied is what is in it: one that is made has nothing of its owner and mode.
            let directory = self.directory(path)?;
            return self.below(source, &directory, path);
        }
        if source.unpack && self.unpack(source, path)? {
            return Ok(());
        }
        let into = several
            || files::ends_with_slash(path)
            || beneath::open(self.root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok();
        let name = asked.file_name().or_else(|| base.file_name()).unwrap_or(OsStr::new(""));
        let target = if into { path.join(name) } else { path.to_owned() };
        let name = files::last(&target).unwrap_or(name).to_owned();
        let parent = self.directory(&files::parent(&target))?;
        self.put(source, &found[0], parent.as_fd(), &name, &target)
    }

    /// Makes a directory and those above it that are missing. What is made belongs to root and has the usual mode, unless
    /// something else is asked for.
    pub(crate) fn directory(&self, path: &Path) -> Result<OwnedFd, CopyError> {
        let failed_open = |errno| match errno {
            Errno::ENOTDIR | Errno::EEXIST => CopyError::FileInTheWay(path.to_owned()),
            errno => failed("create", path)(errno),
        };
        if let Ok(directory) = beneath::open(self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            return Ok(directory);
        }
        let (uid, gid) = self.attributes.owner.unwrap_or_default();
        let mode = match self.attributes.mode {
            Some(ModeChange::Absolute(mode)) => mode,
            _ => 0o755,
        };
        if (uid, gid, mode) == (0, 0, 0o755) {
            let made = beneath::ensure_directory(self.root, path).map_err(failed_open)?;
            return openat(&made, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(failed("open", path));
        }
        // Those that are missing, from the top.
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        for directory in above {
            if beneath::open(self.root, directory, OFlag::O_PATH).is_ok() {
                continue;
            }
            beneath::ensure_directory(self.root, directory).map_err(failed_open)?;
            let made =
                beneath::open(self.root, directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed_open)?;
            fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(failed("set the owner of", directory))?;
            fchmod(&made, Mode::from_bits_truncate(mode)).map_err(failed("set the mode of", directory))?;
        }
        beneath::open(self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed_open)
    }

    /// Copies everything below a directory into one.
    fn below(&self, source: &Source<'_>, top: &OwnedFd, path: &Path) -> Result<(), CopyError> {
        // Modes and times of directories come last: what is put into them changes the times.
        let mut directories: Vec<(PathBuf, &FileStat)> = Vec::new();
        let mut parent: Option<(PathBuf, OwnedFd)> = None;
        // A file with several names is one file here too.
        let mut first_names: HashMap<(u64, u64), &Path> = HashMap::new();
        for found in &source.found.found[1..] {
            let above = found.path.parent().unwrap_or(Path::new(""));
            if parent.as_ref().is_none_or(|(open, _)| open != above) {
                let opened = beneath::open_directory(top, above).map_err(failed("open", &path.join(above)))?;
                parent = Some((above.to_owned(), opened));
            }
            let Some((_, opened)) = &parent else { continue };
            let name = found.path.file_name().unwrap_or_default();
            let target = path.join(&found.path);
            if kind(&found.stat) == libc::S_IFDIR {
                match mkdirat(opened, name, Mode::S_IRWXU) {
                    Err(Errno::EEXIST) => {
                        let there = fstatat(opened, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                        if kind(&there.map_err(failed("look at", &target))?) != libc::S_IFDIR {
                            return Err(CopyError::FileInTheWay(target));
                        }
                    }
                    result => result.map_err(failed("create", &target))?,
                }
                directories.push((found.path.clone(), &found.stat));
                continue;
            }
            let has_names = kind(&found.stat) == libc::S_IFREG && found.stat.st_nlink > 1;
            let identity = (found.stat.st_dev, found.stat.st_ino);
            if let Some(first) = first_names.get(&identity).filter(|_| has_names) {
                link(top, first, opened.as_fd(), name, &target)?;
                continue;
            }
            self.put(source, found, opened.as_fd(), name, &target)?;
            if has_names {
                first_names.insert(identity, &found.path);
            }
        }
        for (below, stat) in directories.iter().rev() {
            let target = path.join(below);
            let directory = beneath::open_directory(top, below).map_err(failed("open", &target))?;
            self.finish_directory(&directory, &target, source.tree, stat)?;
        }
        Ok(())
    }

    fn finish_directory(
        &self,
        directory: &OwnedFd,
        path: &Path,
        tree: &Tree,
        stat: &FileStat,
    ) -> Result<(), CopyError> {
        let (uid, gid) = self.attributes.owner.unwrap_or_else(|| tree.owner(stat));
        fchown(directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(failed("set the owner of", path))?;
        fchmod(directory, self.mode(stat)).map_err(failed("set the mode of", path))?;
        let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
        futimens(directory, &time, &time).map_err(failed("set the time of", path))
    }

    fn mode(&self, stat: &FileStat) -> Mode {
        let mode = match &self.attributes.mode {
            Some(change) => change.apply(stat.st_mode & 0o7777, kind(stat) == libc::S_IFDIR),
            None => stat.st_mode & 0o7777,
        };
        Mode::from_bits_truncate(mode)
    }

    /// Copies what is no directory.
    fn put(
        &self,
        source: &Source<'_>,
        found: &Found,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), CopyError> {
        make_room(parent, name, path)?;
        let stat = &found.stat;
        match kind(stat) {
            libc::S_IFREG => return self.regular(source, found, parent, name, path),
            libc::S_IFLNK => {
                let target = source.tree.read_link(&source.found.base, found)?;
                symlinkat(target.as_os_str(), parent, name).map_err(failed("create the link", path))?;
            }
            other => {
                let kind = SFlag::from_bits_truncate(other);
                mknodat(parent, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, stat.st_rdev)
                    .map_err(failed("create", path))?;
            }
        }
        let (uid, gid) = self.attributes.owner.unwrap_or_else(|| source.tree.owner(stat));
        fchownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(failed("set the owner of", path))?;
        if kind(stat) != libc::S_IFLNK {
            // What was just made is no link, and nobody else is here to change that.
            fchmodat(parent, name, self.mode(stat), FchmodatFlags::FollowSymlink)
                .map_err(failed("set the mode of", path))?;
        }
        let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(failed("set the time of", path))
    }

    fn regular(
        &self,
        source: &Source<'_>,
        found: &Found,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), CopyError> {
        let mut from = source.tree.open_file(&source.found.base, found)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let to = openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("create", path))?;
        let mut to = File::from(to);
        let written = |source| CopyError::File { action: "write", path: path.to_owned(), source };
        // The standard library shares or copies within the kernel where the file systems can.
        while io::copy(&mut (&mut from).take(PART), &mut to).map_err(written)? > 0 {
            source.tree.check()?;
        }
        let now = fstat(&from).map_err(failed("look at", path))?;
        Tree::check_unchanged(&found.below(&source.found.base), &found.stat, &now)?;
        // The owner first: changing it takes setuid bits and capabilities away.
        let (uid, gid) = self.attributes.owner.unwrap_or_else(|| source.tree.owner(&found.stat));
        if (uid, gid) != (0, 0) {
            fchown(&to, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(failed("set the owner of", path))?;
        }
        fchmod(&to, self.mode(&found.stat)).map_err(failed("set the mode of", path))?;
        if let Some(value) = xattr::fgetxattr(&from, c"security.capability", 256).map_err(written)? {
            xattr::fsetxattr(&to, c"security.capability", &value).map_err(written)?;
        }
        let time = TimeSpec::new(found.stat.st_mtime, found.stat.st_mtime_nsec);
        futimens(&to, &time, &time).map_err(failed("set the time of", path))
    }

    /// Unpacks a source into the destination, if it is an archive. Returns whether it was.
    fn unpack(&self, source: &Source<'_>, path: &Path) -> Result<bool, CopyError> {
        let found = &source.found.found[0];
        if kind(&found.stat) != libc::S_IFREG {
            return Ok(false);
        }
        let open = || source.tree.open_file(&source.found.base, found);
        if !is_archive(open()?) {
            return Ok(false);
        }
        let directory = self.directory(path)?;
        let name = &source.found.asked;
        let read = |source| CopyError::File { action: "read", path: name.clone(), source };
        let plain = expand(open()?).map_err(read)?;
        let owner = match self.attributes.owner {
            Some((uid, gid)) => Owner::These(uid, gid),
            None => Owner::Archive,
        };
        lay(directory.as_fd(), plain, Rules { owner, devices: true })
            .map_err(|source| CopyError::Unpack { path: name.clone(), source })?;
        Ok(true)
    }
}

/// Removes what is in the way of a file.
fn make_room(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), CopyError> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => Err(CopyError::DirectoryInTheWay(path.to_owned())),
        Err(errno) => Err(failed("replace", path)(errno)),
    }
}

/// Gives a file that was just copied below `top` another name.
fn link(top: &OwnedFd, first: &Path, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), CopyError> {
    make_room(parent, name, path)?;
    let above = first.parent().unwrap_or(Path::new(""));
    let above = beneath::open_directory(top, above).map_err(failed("open", path))?;
    let first = first.file_name().unwrap_or_default();
    linkat(&above, first, parent, name, AtFlags::empty()).map_err(failed("link", path))
}

/// Returns whether a file is an archive, compressed or not.
pub(super) fn is_archive(file: File) -> bool {
    Decompressor::new(file).is_ok_and(|plain| matches!(Reader::new(plain).next(), Ok(Some(_))))
}

/// Leaves out of a match what `--exclude` names; paths count from what was asked for.
pub(crate) fn exclude(found: &mut Match, exclude: &Patterns) {
    let directory = found.is_directory();
    let asked = found.asked.file_name().map(PathBuf::from).unwrap_or_default();
    found.found.retain(|file| {
        let path = if directory { &file.path } else { &asked };
        path.as_os_str().is_empty() || !exclude.matches(path.as_os_str().as_encoded_bytes())
    });
}
