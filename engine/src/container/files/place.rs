//! Single files, links and directories, put into a container's root while it runs (`watch`).
//!
//! Each is made aside, in the directory that it belongs to, and takes its name by `rename(2)`: whoever reads it in the
//! container sees the old one or the new one. It belongs to the owner of that directory. What is there already with the same
//! content is left alone. Paths are found below the root ([`beneath`]), where links lead nowhere else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat, readlinkat, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, getegid, geteuid, symlinkat, unlinkat};

use super::{last, parent};
use crate::container::beneath;
use crate::id::Id;

/// The longest part of two files that is compared at once.
const CHUNK: usize = 64 << 10;
/// How much of a file is copied through memory.
const SMALL: usize = 16 << 10;

/// Why something could not be put in its place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("cannot {action} {}: {}", path.display(), source.desc())]
    Step {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("cannot write {}", path.display())]
    Copy {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is a directory, which a file does not replace", .0.display())]
    Directory(PathBuf),
    #[error("{} is no path of a file", .0.display())]
    NoName(PathBuf),
}

impl PlaceError {
    /// Returns what the kernel said, if it was the kernel.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Step { source, .. } => Some(*source),
            Self::Copy { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Directory(_) | Self::NoName(_) => None,
        }
    }
}

/// What a file is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
}

/// Puts things into a container's root.
#[derive(Debug)]
pub struct Placer<'r> {
    root: BorrowedFd<'r>,
    /// The directory that was needed last: what follows is often in it too.
    last: Option<(PathBuf, Arc<Directory>)>,
}

/// Where a file is to be: a name in a directory that is there. It can be put there by any thread.
#[derive(Debug)]
pub struct Spot {
    directory: Arc<Directory>,
    path: PathBuf,
}

/// A directory, and who owns it.
#[derive(Debug)]
struct Directory {
    fd: OwnedFd,
    owner: (Uid, Gid),
}

impl<'r> Placer<'r> {
    pub fn new(root: BorrowedFd<'r>) -> Self {
        Self { root, last: None }
    }

    /// Finds the place of a file. Directories on the way are made.
    pub fn spot(&mut self, path: &Path) -> Result<Spot, PlaceError> {
        Ok(Spot { directory: Arc::clone(self.directory_of(path, true)?), path: path.to_owned() })
    }

    /// Puts a symbolic link, as [`Spot::file`] puts a file.
    pub fn link(&mut self, path: &Path, target: &OsStr, over: bool) -> Result<bool, PlaceError> {
        let name = name_of(path)?;
        let directory = self.directory_of(path, true)?;
        let there = status(directory, name, path)?;
        if there.as_ref().is_some_and(|there| is_a(there, libc::S_IFLNK))
            && readlinkat(&directory.fd, name).is_ok_and(|known| known == target)
        {
            return Ok(false);
        }
        clear_the_way(directory, name, there.as_ref(), over, path)?;
        let temporary = temporary();
        symlinkat(target, &directory.fd, temporary.as_os_str()).map_err(failed("make the link", path))?;
        let (uid, gid) = directory.owner;
        let made = fchownat(&directory.fd, temporary.as_os_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(failed("set the owner of", path))
            .and_then(|()| take_name(directory, &temporary, name, path));
        if made.is_err() {
            let _ = unlinkat(&directory.fd, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        made.map(|()| true)
    }

    /// Makes a directory, or gives one that is there this mode. A link to one counts as one.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Result<bool, PlaceError> {
        let (root, name) = (self.root, name_of(path)?);
        let directory = self.directory_of(path, true)?;
        match status(directory, name, path)? {
            Some(there) if is_a(&there, libc::S_IFDIR) => {
                if there.st_mode & 0o7777 == mode & 0o7777 {
                    return Ok(false);
                }
            }
            Some(there) if is_a(&there, libc::S_IFLNK) && leads_to_directory(root, path) => return Ok(false),
            there => {
                clear_the_way(directory, name, there.as_ref(), false, path)?;
                if there.is_some() {
                    unlinkat(&directory.fd, name, UnlinkatFlags::NoRemoveDir).map_err(failed("replace", path))?;
                }
                make_directory(directory, name, path)?;
            }
        }
        set_mode(directory, name, mode, path).map(|()| true)
    }

    /// Removes what is there, a directory with all that is in it; a directory only with `over`. Returns whether there was
    /// anything.
    pub fn remove(&mut self, path: &Path, over: bool) -> Result<bool, PlaceError> {
        let name = name_of(path)?;
        let directory = match self.directory_of(path, false) {
            Ok(directory) => directory,
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENOTDIR)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(there) = status(directory, name, path)? else { return Ok(false) };
        if !is_a(&there, libc::S_IFDIR) {
            unlinkat(&directory.fd, name, UnlinkatFlags::NoRemoveDir).map_err(failed("remove", path))?;
            return Ok(true);
        }
        if !over {
            return Ok(false);
        }
        remove_tree(directory, name, path)?;
        // It may be the directory that is remembered, or one above it.
        self.last = None;
        Ok(true)
    }

    /// Opens the directory that a path is in; with `make`, it is made where it is missing, and belongs to whom the one above
    /// belongs to.
    fn directory_of(&mut self, path: &Path, make: bool) -> Result<&Arc<Directory>, PlaceError> {
        let wanted = parent(path);
        if self.last.as_ref().is_none_or(|(known, _)| *known != wanted) {
            self.last = None;
            let directory = open(self.root, &wanted, make)?;
            self.last = Some((wanted, Arc::new(directory)));
        }
        let (_, directory) = self.last.as_ref().expect("it was set above");
        Ok(directory)
    }
}

impl Spot {
    /// Puts a file, with what is left to read of `source`. Returns whether anything changed.
    ///
    /// `over`: a directory that is in its place goes, with all that is in it.
    pub fn file(&self, source: &mut File, attributes: Attributes, over: bool) -> Result<bool, PlaceError> {
        let Self { directory, path } = self;
        let name = name_of(path)?;
        let there = status(directory, name, path)?;
        if let Some(there) = &there
            && is_a(there, libc::S_IFREG)
            && is_same(directory, name, there, source).unwrap_or(false)
        {
            return refresh(directory, name, there, attributes, path);
        }
        clear_the_way(directory, name, there.as_ref(), over, path)?;
        let (temporary, mut file) = aside(directory, path)?;
        if there.is_some() {
            make_room(&file, source);
        }
        let made = write(&mut file, source, directory.owner, attributes, path)
            .and_then(|()| take_name(directory, &temporary, name, path));
        if made.is_err() {
            // What went wrong is what counts.
            let _ = unlinkat(&directory.fd, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        made.map(|()| true)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> PlaceError {
    move |source| PlaceError::Step { action, path: path.to_owned(), source }
}

fn name_of(path: &Path) -> Result<&OsStr, PlaceError> {
    last(path).ok_or_else(|| PlaceError::NoName(path.to_owned()))
}

fn is_a(status: &FileStat, kind: libc::mode_t) -> bool {
    status.st_mode & libc::S_IFMT == kind
}

fn open(root: BorrowedFd<'_>, path: &Path, make: bool) -> Result<Directory, PlaceError> {
    match beneath::open(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Ok(fd) => {
            let status = fstat(&fd).map_err(failed("look at", path))?;
            Ok(Directory { fd, owner: (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid)) })
        }
        Err(Errno::ENOENT) if make => {
            let name = name_of(path)?;
            let above = open(root, &parent(path), true)?;
            let fd = make_directory(&above, name, path)?;
            set_mode(&above, name, 0o755, path)?;
            Ok(Directory { fd, owner: above.owner })
        }
        Err(errno) => Err(failed("open", path)(errno)),
    }
}

fn status(directory: &Directory, name: &OsStr, path: &Path) -> Result<Option<FileStat>, PlaceError> {
    match fstatat(&directory.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(failed("look at", path)(errno)),
    }
}

/// Makes a directory that only its owner may enter, and opens it.
fn make_directory(directory: &Directory, name: &OsStr, path: &Path) -> Result<OwnedFd, PlaceError> {
    mkdirat(&directory.fd, name, Mode::S_IRWXU).map_err(failed("make the directory", path))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(&directory.fd, name, flags, Mode::empty()).map_err(failed("open", path))?;
    let (uid, gid) = directory.owner;
    let empty = AtFlags::AT_EMPTY_PATH;
    fchownat(&made, "", Some(uid), Some(gid), empty).map_err(failed("set the owner of", path))?;
    Ok(made)
}

/// Sets the mode of what is there and is no link, by its descriptor: a container may put a link in its place at any moment.
fn set_mode(directory: &Directory, name: &OsStr, mode: u32, path: &Path) -> Result<(), PlaceError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let there = openat(&directory.fd, name, flags, Mode::empty()).map_err(failed("open", path))?;
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    fchmodat(nix::fcntl::AT_FDCWD, &beneath::proc_path(&there), mode, FchmodatFlags::FollowSymlink)
        .map_err(failed("set the mode of", path))
}

/// Removes what `rename` cannot replace.
fn clear_the_way(
    directory: &Directory,
    name: &OsStr,
    there: Option<&FileStat>,
    over: bool,
    path: &Path,
) -> Result<(), PlaceError> {
    match there {
        Some(there) if is_a(there, libc::S_IFDIR) && over => remove_tree(directory, name, path),
        Some(there) if is_a(there, libc::S_IFDIR) => Err(PlaceError::Directory(path.to_owned())),
        _ => Ok(()),
    }
}

fn remove_tree(directory: &Directory, name: &OsStr, path: &Path) -> Result<(), PlaceError> {
    // The library removes by descriptors from here on, and follows no link.
    match std::fs::remove_dir_all(beneath::proc_path(&directory.fd).join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let source = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            Err(failed("remove", path)(source))
        }
        _ => Ok(()),
    }
}

/// Returns a name that nobody else uses.
fn temporary() -> OsString {
    format!(".rcompose-{}", Id::random().short()).into()
}

/// Makes a file that nobody knows yet.
fn aside(directory: &Directory, path: &Path) -> Result<(OsString, File), PlaceError> {
    let temporary = temporary();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&directory.fd, temporary.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(failed("create", path))?;
    Ok((temporary, file.into()))
}

/// Gives a file its room on the disk. One that has none yet is sent there by ext4, at once, when it takes the place of another
/// (`auto_da_alloc`), which costs more than all the rest. A file system that cannot do it has no need to.
fn make_room(file: &File, source: &File) {
    if let Ok(length) = source.metadata().map(|found| found.len().cast_signed())
        && length > 0
    {
        let _ = fallocate(file, FallocateFlags::empty(), 0, length);
    }
}

fn write(
    file: &mut File,
    source: &mut File,
    (uid, gid): (Uid, Gid),
    attributes: Attributes,
    path: &Path,
) -> Result<(), PlaceError> {
    copy(source, file).map_err(|source| PlaceError::Copy { path: path.to_owned(), source })?;
    // The owner first: changing it takes set-user-id bits away. What is made belongs to whom it is to already, mostly.
    if (uid, gid) != (geteuid(), getegid()) {
        fchown(&*file, Some(uid), Some(gid)).map_err(failed("set the owner of", path))?;
    }
    fchmod(&*file, Mode::from_bits_truncate(attributes.mode & 0o7777)).map_err(failed("set the mode of", path))?;
    let time = time(attributes);
    futimens(&*file, &time, &time).map_err(failed("set the time of", path))
}

/// Copies what is left to read. Small files go through memory: the library would first ask for three ways of the kernel to do it,
/// none of which leads from one kind of file system to another.
fn copy(source: &mut File, file: &mut File) -> io::Result<()> {
    let mut buffer = [0; SMALL];
    let count = fill(source, &mut buffer)?;
    file.write_all(&buffer[..count])?;
    if count == SMALL {
        io::copy(source, file)?;
    }
    Ok(())
}

fn time(attributes: Attributes) -> TimeSpec {
    TimeSpec::new(attributes.modified.0, attributes.modified.1)
}

fn take_name(directory: &Directory, temporary: &OsStr, name: &OsStr, path: &Path) -> Result<(), PlaceError> {
    renameat(&directory.fd, temporary, &directory.fd, name).map_err(failed("replace", path))
}

/// Gives a file with the right content what else it is to have.
fn refresh(
    directory: &Directory,
    name: &OsStr,
    there: &FileStat,
    attributes: Attributes,
    path: &Path,
) -> Result<bool, PlaceError> {
    let mode = there.st_mode & 0o7777 != attributes.mode & 0o7777;
    let modified = (there.st_mtime, there.st_mtime_nsec) != attributes.modified;
    if mode {
        set_mode(directory, name, attributes.mode, path)?;
    }
    if modified {
        let time = time(attributes);
        let no_follow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(&directory.fd, name, &time, &time, no_follow)
            .map_err(failed("set the time of", path))?;
    }
    Ok(mode || modified)
}

/// Returns whether a file has what is left to read of `source`, which is at its beginning again if not.
fn is_same(directory: &Directory, name: &OsStr, there: &FileStat, source: &mut File) -> io::Result<bool> {
    let length = source.metadata()?.len();
    if u64::try_from(there.st_size).ok() != Some(length) {
        return Ok(false);
    }
    // It may be another one by now, which must not be waited for.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut known = File::from(openat(&directory.fd, name, flags, Mode::empty())?);
    let same = have_same(&mut known, source);
    if !matches!(same, Ok(true)) {
        io::Seek::rewind(source)?;
    }
    same
}

fn have_same(one: &mut File, other: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let count = fill(one, &mut left)?;
        if count != fill(other, &mut right)? || left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or nothing is left.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn leads_to_directory(root: BorrowedFd<'_>, path: &Path) -> bool {
    beneath::open(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    const PLAIN: Attributes = Attributes { mode: 0o644, modified: (1_000_000_000, 5) };

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&directory.path().join("root"), flags, Mode::empty()).unwrap();
        (directory, fd)
    }

    fn source(directory: &Path, content: &str) -> File {
        let path = directory.join("source");
        fs::write(&path, content).unwrap();
        File::open(path).unwrap()
    }

    fn file(placer: &mut Placer<'_>, path: &str, mut source: File, attributes: Attributes) -> Result<bool, PlaceError> {
        placer.spot(Path::new(path))?.file(&mut source, attributes, true)
    }

    #[test]
    fn long_files_come_whole() {
        let (directory, fd) = root();
        let mut placer = Placer::new(fd.as_fd());
        for length in [0, 1, SMALL - 1, SMALL, SMALL + 1, 3 * CHUNK + 7] {
            let content = "abcdefg".repeat(length / 7 + 1)[..length].to_owned();
            assert!(file(&mut placer, "/file", source(directory.path(), &content), PLAIN).unwrap());
            assert_eq!(fs::read_to_string(directory.path().join("root/file")).unwrap(), content);
            assert!(!file(&mut placer, "/file", source(directory.path(), &content), PLAIN).unwrap());
        }
    }

    #[test]
    fn a_file_comes_with_its_mode_and_time_and_the_directorys_owner() {
        let (directory, fd) = root();
        let inside = directory.path().join("root");
        fs::create_dir(inside.join("app")).unwrap();
        std::os::unix::fs::chown(inside.join("app"), Some(1234), Some(4321)).unwrap();
        let mut placer = Placer::new(fd.as_fd());
        let run = Attributes { mode: 0o750, ..PLAIN };
        assert!(file(&mut placer, "/app/new/run", source(directory.path(), "x"), run).unwrap());
        let made = fs::metadata(inside.join("app/new/run")).unwrap();
        assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o750, 1234, 4321));
        assert_eq!((made.mtime(), made.mtime_nsec()), (1_000_000_000, 5));
        let between = fs::metadata(inside.join("app/new")).unwrap();
        assert_eq!((between.mode() & 0o7777, between.uid()), (0o755, 1234));
        assert_eq!(fs::read_dir(inside.join("app/new")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_the_same_stays() {
        let (directory, fd) = root();
        let path = directory.path().join("root/file");
        let mut placer = Placer::new(fd.as_fd());
        let mut put = |content: &str, attributes| {
            let changed = file(&mut placer, "/file", source(directory.path(), content), attributes);
            (changed.unwrap(), fs::metadata(&path).unwrap().ino(), fs::read_to_string(&path).unwrap())
        };
        let first = put("one", PLAIN);
        assert!(first.0);
        assert_eq!(put("one", PLAIN), (false, first.1, "one".to_owned()));
        // Only its mode is another.
        assert_eq!(put("one", Attributes { mode: 0o600, ..PLAIN }), (true, first.1, "one".to_owned()));
        let third = put("two", PLAIN);
        assert!(third.0 && third.1 != first.1);
        assert_eq!(third.2, "two");
    }

    #[test]
    fn links_lead_nowhere_else() {
        let (directory, fd) = root();
        let inside = directory.path().join("root");
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "mine").unwrap();
        symlink(&outside, inside.join("out")).unwrap();
        symlink(outside.join("file"), inside.join("link")).unwrap();
        let mut placer = Placer::new(fd.as_fd());
        // The path of the link means something below the root, which is not there.
        let out = "/out/file";
        assert!(file(&mut placer, out, source(directory.path(), "x"), PLAIN).is_err());
        assert!(!placer.remove(Path::new(out), true).unwrap());
        // A file takes the place of a link.
        assert!(file(&mut placer, "/link", source(directory.path(), "new"), PLAIN).unwrap());
        assert!(placer.remove(Path::new("/out"), true).unwrap());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "mine");
        assert!(fs::symlink_metadata(inside.join("link")).unwrap().is_file());
    }

    #[test]
    fn kinds_take_each_others_place() {
        let (directory, fd) = root();
        let inside = directory.path().join("root");
        let path = Path::new("/a");
        let mut placer = Placer::new(fd.as_fd());
        assert!(placer.directory(path, 0o700).unwrap());
        assert!(!placer.directory(path, 0o700).unwrap());
        assert!(placer.directory(path, 0o711).unwrap());
        fs::write(inside.join("a/b"), "").unwrap();
        let refused = placer.spot(path).unwrap().file(&mut source(directory.path(), "x"), PLAIN, false).unwrap_err();
        assert_eq!(refused.to_string(), "/a is a directory, which a file does not replace");
        assert!(file(&mut placer, "/a", source(directory.path(), "x"), PLAIN).unwrap());
        assert!(placer.link(path, OsStr::new("elsewhere"), true).unwrap());
        assert!(!placer.link(path, OsStr::new("elsewhere"), true).unwrap());
        assert_eq!(fs::read_link(inside.join("a")).unwrap(), Path::new("elsewhere"));
        assert!(placer.directory(path, 0o755).unwrap());
        assert_eq!(fs::metadata(inside.join("a")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert!(!placer.remove(path, false).unwrap());
        assert!(placer.remove(path, true).unwrap());
        assert!(!placer.remove(path, true).unwrap());
    }
}
