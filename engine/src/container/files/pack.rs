//! Files → a tar archive.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, major, minor};
use tar::{EntryType, Header};

use super::super::beneath;
use crate::image::OPAQUE_ATTRIBUTE;
use crate::sys::xattr::fgetxattr;

/// The attribute that gives a file capabilities; the only one that Docker's archives have.
const CAPABILITY: &std::ffi::CStr = c"security.capability";

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Just files.
    Files,
    /// The upper directory of an overlay: what it marks as removed is said as an image layer says it.
    Changes,
}

/// A file that could not be put into an archive.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct PackError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl PackError {
    /// Returns whether whoever was to read the archive has gone.
    pub fn is_broken_pipe(&self) -> bool {
        self.source.kind() == io::ErrorKind::BrokenPipe
    }
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> PackError {
    move |error| PackError { action, path: path.to_owned(), source: error.into() }
}

/// Writes an archive of the file that `fd` refers to, under the name `name`; of a directory called `.` only the content.
pub fn pack(fd: BorrowedFd<'_>, name: &Path, content: Content, out: impl Write) -> Result<(), PackError> {
    let mut builder = tar::Builder::new(out);
    let mut packer = Packer::new(&mut builder, content);
    packer.add(fd, name)?;
    builder.into_inner().and_then(|mut out| out.flush()).map_err(failed("write the archive of", name))
}

/// What a layer that was packed has in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of all regular files together.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Writes an image layer: what changed, in the upper directory of an overlay. The directory itself is only in it where it
/// is not to look as it did (`root`), so that a layer without changes is an empty archive. Nothing in it is younger than
/// `latest`, in seconds since the epoch.
pub fn pack_layer(fd: BorrowedFd<'_>, root: bool, latest: Option<u64>, out: impl Write) -> Result<Packed, PackError> {
    let here = Path::new(".");
    let mut builder = tar::Builder::new(out);
    let mut packer = Packer { latest, ..Packer::new(&mut builder, Content::Changes) };
    if root {
        packer.add(fd, here)?;
    } else {
        packer.children(fd, here)?;
    }
    let packed = packer.packed;
    builder.into_inner().and_then(|mut out| out.flush()).map_err(failed("write the archive of", here))?;
    Ok(packed)
}

/// Writes an archive of whole trees, each below a directory of its name; what is in one without a name stands at the top. Nothing
/// in it is younger than `latest`.
pub fn pack_trees(trees: &[(&Path, BorrowedFd<'_>)], latest: Option<u64>, out: impl Write) -> Result<(), PackError> {
    let mut builder = tar::Builder::new(out);
    for (name, tree) in trees {
        let mut packer = Packer { latest, ..Packer::new(&mut builder, Content::Files) };
        if name.as_os_str().is_empty() {
            packer.children(*tree, name)?;
        } else {
            packer.add(*tree, name)?;
        }
    }
    builder.into_inner().and_then(|mut out| out.flush()).map_err(failed("write", Path::new("the archive")))
}

/// Writes an archive without anything in it.
pub fn pack_nothing(out: impl Write) -> Result<(), PackError> {
    let finished = tar::Builder::new(out).into_inner().and_then(|mut out| out.flush());
    finished.map_err(failed("write", Path::new("an archive")))
}

struct Packer<'a, W: Write> {
    builder: &'a mut tar::Builder<W>,
    content: Content,
    /// The first name of each file with several.
    links: HashMap<(u64, u64), PathBuf>,
    /// The highest time that a file has.
    latest: Option<u64>,
    packed: Packed,
}

impl<'a, W: Write> Packer<'a, W> {
    fn new(builder: &'a mut tar::Builder<W>, content: Content) -> Self {
        Self { builder, content, links: HashMap::new(), latest: None, packed: Packed::default() }
    }

    fn add(&mut self, fd: BorrowedFd<'_>, path: &Path) -> Result<(), PackError> {
        let status = fstat(fd).map_err(failed("look at", path))?;
        let mut header = Header::new_gnu();
        header.set_status(&status, self.latest);
        self.packed.entries += 1;
        match status.st_mode & libc::S_IFMT {
            libc::S_IFDIR => return self.directory(fd, path, header),
            libc::S_IFREG => {
                if self.linked(path, &status, &mut header)? {
                    return Ok(());
                }
                return self.regular(fd, path, header, &status);
            }
            libc::S_IFLNK => {
                let target = readlinkat(fd, c"").map_err(failed("read the link", path))?;
                header.set_entry_type(EntryType::Symlink);
                return self.builder.append_link(&mut header, path, &target).map_err(failed("archive the link", path));
            }
            libc::S_IFCHR if self.content == Content::Changes && status.st_rdev == 0 => return self.whiteout(path),
            libc::S_IFCHR => header.set_entry_type(EntryType::Char),
            libc::S_IFBLK => header.set_entry_type(EntryType::Block),
            libc::S_IFIFO => header.set_entry_type(EntryType::Fifo),
            // A socket without the process that listens is nothing.
            _ => return Ok(()),
        }
        if status.st_mode & libc::S_IFMT != libc::S_IFIFO {
            let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            header.set_device_major(number(major(status.st_rdev))).map_err(failed("archive", path))?;
            header.set_device_minor(number(minor(status.st_rdev))).map_err(failed("archive", path))?;
        }
        self.append(&mut header, path, io::empty())
    }

    fn directory(&mut self, fd: BorrowedFd<'_>, path: &Path, mut header: Header) -> Result<(), PackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(fd, ".", flags, Mode::empty()).map_err(failed("open", path))?;
        header.set_entry_type(EntryType::Directory);
        let mut name = path.as_os_str().to_owned();
        name.push("/");
        self.append(&mut header, Path::new(&name), io::empty())?;
        if self.content == Content::Changes
            && fgetxattr(&opened, OPAQUE_ATTRIBUTE, 16).map_err(failed("look at", path))?.is_some()
        {
            self.mark(&path.join(".wh..wh..opq"))?;
        }
        self.entries(fd, opened, path)
    }

    fn children(&mut self, fd: BorrowedFd<'_>, path: &Path) -> Result<(), PackError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(fd, ".", flags, Mode::empty()).map_err(failed("open", path))?;
        self.entries(fd, opened, path)
    }

    /// Archives what is in a directory, which was opened to be read as well.
    fn entries(&mut self, fd: BorrowedFd<'_>, opened: OwnedFd, path: &Path) -> Result<(), PackError> {
        let mut names = Vec::<CString>::new();
        let mut directory = Dir::from_fd(opened).map_err(failed("read", path))?;
        for entry in directory.iter() {
            let entry = entry.map_err(failed("read", path))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        drop(directory);
        names.sort();
        for name in names {
            let path = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(fd, name.as_c_str(), flags, Mode::empty()) {
                Ok(child) => self.add(child.as_fd(), &path)?,
                // It has just been removed.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(failed("open", &path)(errno)),
            }
        }
        Ok(())
    }

    fn regular(
        &mut self,
        fd: BorrowedFd<'_>,
        path: &Path,
        mut header: Header,
        status: &FileStat,
    ) -> Result<(), PackError> {
        let file = reopen(fd).map_err(failed("open", path))?;
        let capability = fgetxattr(&file, CAPABILITY, 256).map_err(failed("look at", path))?;
        if let Some(value) = &capability {
            let records = [("SCHILY.xattr.security.capability", value.as_slice())];
            self.builder.append_pax_extensions(records).map_err(failed("archive", path))?;
        }
        let size = u64::try_from(status.st_size).unwrap_or(0);
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        self.packed.bytes += size;
        // A file that shrinks meanwhile is filled up, and one that grows is cut: the header has been written.
        let content = File::from(file).take(size).chain(io::repeat(0)).take(size);
        self.append(&mut header, path, content)
    }

    /// Archives a further name of a file that is in the archive already; returns whether it was one.
    fn linked(&mut self, path: &Path, status: &FileStat, header: &mut Header) -> Result<bool, PackError> {
        if status.st_nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.get(&(status.st_dev, status.st_ino)) else {
            self.links.insert((status.st_dev, status.st_ino), path.to_owned());
            return Ok(false);
        };
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        self.builder.append_link(header, path, first).map_err(failed("archive the link", path))?;
        Ok(true)
    }

    fn whiteout(&mut self, path: &Path) -> Result<(), PackError> {
        let mut name = std::ffi::OsString::from(".wh.");
        name.push(path.file_name().unwrap_or_default());
        self.mark(&path.with_file_name(name))
    }

    /// Adds an empty file that says something by its name.
    fn mark(&mut self, path: &Path) -> Result<(), PackError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.append(&mut header, path, io::empty())
    }

    fn append(&mut self, header: &mut Header, path: &Path, content: impl Read) -> Result<(), PackError> {
        self.builder.append_data(header, path, content).map_err(failed("archive", path))
    }
}

/// Opens a regular file to read it, by its descriptor: what has its name now may be anything.
fn reopen(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    nix::fcntl::open(&beneath::proc_path(fd), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Fills a header with what a file is like.
trait Status {
    fn set_status(&mut self, status: &FileStat, latest: Option<u64>);
}

impl Status for Header {
    fn set_status(&mut self, status: &FileStat, latest: Option<u64>) {
        self.set_mode(status.st_mode & 0o7777);
        self.set_uid(status.st_uid.into());
        self.set_gid(status.st_gid.into());
        // What is older than the format stays as old as it can say.
        let time = u64::try_from(status.st_mtime).unwrap_or(0);
        self.set_mtime(latest.map_or(time, |latest| time.min(latest)));
        self.set_size(0);
    }
}
