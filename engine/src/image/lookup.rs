//! Finds files in a stack of layer directories without mounting it.
//!
//! This is what the overlay file system would show: upper before lower, whiteouts and opaque directories obeyed,
//! directories of all layers merged. Symbolic links are resolved here and within the root, never by the kernel, so
//! that nothing in a layer, nor a container that changes its upper directory meanwhile, can lead out of the stack.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::unpack::{OPAQUE_ATTRIBUTE, is_whiteout, kind_of};
use crate::sys::xattr::fgetxattr;

/// Largest file that is read, in bytes.
pub(crate) const MAX_FILE: u64 = 16 * 1024 * 1024;
/// How many links one path may go through, as in the kernel.
const MAX_LINKS: usize = 40;
/// How many components one path may have, links included.
const MAX_STEPS: usize = 4096;

/// Why a file could not be looked up. That it does not exist is none of them.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// A layer's directory cannot be opened.
    #[error("cannot open the layer {}: {source}", path.display())]
    Layer {
        /// The layer's directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something on the way cannot be read.
    #[error("cannot {action} {path:?} of the image: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The path that was asked for.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path goes through too many links.
    #[error("cannot find {path:?} of the image: too many levels of symbolic links")]
    Links {
        /// The path that was asked for.
        path: String,
    },
    /// It is there, but it is no regular file.
    #[error("{path:?} of the image is not a regular file")]
    NotAFile {
        /// The path that was asked for.
        path: String,
    },
    /// It is larger than any honest one.
    #[error("{path:?} of the image is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// The path that was asked for.
        path: String,
    },
}

/// A stack of layers, opened once for several look-ups.
#[derive(Debug)]
pub struct LayerStack {
    /// Topmost first.
    layers: Vec<Arc<OwnedFd>>,
}

/// One directory as it appears merged: those of the layers that have it, topmost first.
type Merged = Vec<Arc<OwnedFd>>;

/// What a name in a merged directory is.
enum Found {
    Nothing,
    Directory(Merged),
    /// Anything else: the directory of the layer it is in, and its attributes.
    Other(Arc<OwnedFd>, Box<FileStat>),
}

impl LayerStack {
    /// Opens layer directories, topmost first (a container's upper directory may be the first of them).
    pub fn open<P: AsRef<Path>>(layers: &[P]) -> Result<Self, LookupError> {
        let layers = layers
            .iter()
            .map(|path| match File::open(path) {
                Ok(file) => Ok(Arc::new(OwnedFd::from(file))),
                Err(source) => Err(LookupError::Layer { path: path.as_ref().to_owned(), source }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }

    /// Reads a regular file, links resolved. What does not exist gives `None`.
    pub fn read_file(&self, path: &str) -> Result<Option<Vec<u8>>, LookupError> {
        let Some((directory, name, stat)) = self.find(path)? else {
            return Ok(None);
        };
        let no_file = || LookupError::NotAFile { path: path.to_owned() };
        let (Some(name), true) = (name, kind_of(&stat) == SFlag::S_IFREG) else {
            return Err(no_file());
        };
        let failed = |action, source| LookupError::File { action, path: path.to_owned(), source };
        // Not blocking: a container may have put a FIFO in the place meanwhile.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = match openat(&*directory, name.as_c_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(failed("open", error.into())),
        };
        if !file.metadata().map_err(|error| failed("look at", error))?.is_file() {
            return Err(no_file());
        }
        let mut content = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(|error| failed("read", error))?;
        if content.len() as u64 > MAX_FILE {
            return Err(LookupError::TooLarge { path: path.to_owned() });
        }
        Ok(Some(content))
    }

    /// Returns the type and permissions (`st_mode`), owner and group of what a path leads to, links resolved.
    pub fn stat(&self, path: &str) -> Result<Option<(u32, u32, u32)>, LookupError> {
        let found = self.find(path)?;
        Ok(found.map(|(_, _, stat)| (stat.st_mode, stat.st_uid, stat.st_gid)))
    }

    /// Follows a path. A directory is found as its topmost layer's one, without a name.
    #[expect(clippy::type_complexity, reason = "three values that only this module takes apart")]
    fn find(&self, path: &str) -> Result<Option<(Arc<OwnedFd>, Option<CString>, Box<FileStat>)>, LookupError> {
        let failed = |action, source: io::Error| LookupError::File { action, path: path.to_owned(), source };
        let mut rest: VecDeque<Vec<u8>> = path.as_bytes().split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        let mut stack: Vec<Merged> = vec![self.layers.clone()];
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = rest.pop_front() {
            steps += 1;
            if steps > MAX_STEPS {
                return Err(LookupError::Links { path: path.to_owned() });
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
            let Ok(name) = CString::new(name) else {
                return Ok(None);
            };
            let here = stack.last().expect("the root is never popped");
            match look_up(here, &name).map_err(|error| failed("look up", error.into()))? {
                Found::Nothing => return Ok(None),
                Found::Directory(merged) => stack.push(merged),
                Found::Other(directory, stat) if kind_of(&stat) == SFlag::S_IFLNK => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(LookupError::Links { path: path.to_owned() });
                    }
                    let target = match readlinkat(&*directory, name.as_c_str()) {
                        Ok(target) => target.into_vec(),
                        // It went away or became something else just now, or leads nowhere, as `/proc/self` of another
                        // PID namespace does.
                        Err(Errno::ENOENT | Errno::EINVAL) => return Ok(None),
                        Err(error) => return Err(failed("read a link on the way to", error.into())),
                    };
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    for name in target.rsplit(|b| *b == b'/') {
                        rest.push_front(name.to_vec());
                    }
                }
                Found::Other(directory, stat) => {
                    // Something below a file does not exist; `file/` is left to be the file.
                    let ends_here = rest.iter().all(|name| matches!(name.as_slice(), b"" | b"."));
                    return Ok(ends_here.then_some((directory, Some(name), stat)));
                }
            }
        }
        let Some(top) = stack.last().and_then(|merged| merged.first()) else {
            return Ok(None);
        };
        let stat = nix::sys::stat::fstat(&**top).map_err(|error| failed("look at", error.into()))?;
        Ok(Some((Arc::clone(top), None, Box::new(stat))))
    }
}

/// Looks a name up in a merged directory, as overlayfs does.
fn look_up(directory: &Merged, name: &CString) -> nix::Result<Found> {
    let mut merged = Merged::new();
    for layer in directory {
        let stat = match fstatat(&**layer, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => continue,
            Err(error) => return Err(error),
        };
        if is_whiteout(&stat) {
            break;
        }
        if kind_of(&stat) != SFlag::S_IFDIR {
            if merged.is_empty() {
                return Ok(Found::Other(Arc::clone(layer), Box::new(stat)));
            }
            // A directory above hides a file below, and all that is below that.
            break;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = match openat(&**layer, name.as_c_str(), flags, Mode::empty()) {
            Ok(opened) => opened,
            // It went away or became a link just now.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            Err(error) => return Err(error),
        };
        let opaque = is_opaque(opened.as_fd())?;
        merged.push(Arc::new(opened));
        if opaque {
            break;
        }
    }
    Ok(if merged.is_empty() { Found::Nothing } else { Found::Directory(merged) })
}

/// Tells whether a layer's directory hides those below it.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> nix::Result<bool> {
    match fgetxattr(directory, OPAQUE_ATTRIBUTE, 8) {
        Ok(value) => Ok(value.as_deref() == Some(b"y")),
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => Ok(false),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::xattr::fsetxattr;
    use nix::sys::stat::{makedev, mknod};
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Fixture {
        directory: tempfile::TempDir,
    }

    impl Fixture {
        fn layer(&self, name: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        }
    }

    fn write(layer: &Path, path: &str, content: &str) {
        let path = layer.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_merged_view_is_that_of_overlayfs() {
        let fixture = Fixture { directory: tempfile::tempdir().unwrap() };
        let (top, middle, bottom) = (fixture.layer("top"), fixture.layer("middle"), fixture.layer("bottom"));
        write(&bottom, "etc/passwd", "bottom");
        write(&bottom, "etc/only-bottom", "bottom");
        write(&bottom, "opaque/hidden", "bottom");
        write(&bottom, "was-dir/below", "bottom");
        write(&bottom, "gone/file", "bottom");
        write(&bottom, "usr/lib/x", "lib");
        write(&middle, "etc/passwd", "middle");
        write(&middle, "opaque/shown", "middle");
        write(&middle, "was-dir", "now a file");
        write(&top, "was-dir/above", "top");
        symlink("usr/lib", bottom.join("lib")).unwrap();
        symlink("/etc/passwd", top.join("absolute")).unwrap();
        symlink("../../../../../etc/passwd", top.join("up")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        // Device nodes need privilege, as overlayfs itself does.
        if let Err(error) = mknod(&top.join("gone"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
            eprintln!("skipped: cannot make a whiteout here: {error}");
            return;
        }
        fsetxattr(File::open(middle.join("opaque")).unwrap(), OPAQUE_ATTRIBUTE, b"y").unwrap();
        let stack = LayerStack::open(&[top, middle, bottom]).unwrap();
        let read = |path: &str| stack.read_file(path).unwrap().map(|bytes| String::from_utf8(bytes).unwrap());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("/etc/passwd"), some("middle"));
        assert_eq!(read("etc//./only-bottom"), some("bottom"));
        assert_eq!(read("/etc/../etc/only-bottom"), some("bottom"));
        assert_eq!(read("/opaque/hidden"), None);
        assert_eq!(read("/opaque/shown"), some("middle"));
        assert_eq!(read("/was-dir/above"), some("top"));
        assert_eq!(read("/was-dir/below"), None);
        assert_eq!(read("/gone/file"), None);
        assert_eq!(read("/lib/x"), some("lib"));
        assert_eq!(read("/absolute"), some("middle"));
        assert_eq!(read("/up"), some("middle"));
        assert_eq!(read("/../../../etc/passwd"), some("middle"));
        assert_eq!(read("/etc/passwd/x"), None);
        assert_eq!(read("/nowhere"), None);
        assert!(matches!(stack.read_file("/loop"), Err(LookupError::Links { .. })));
        assert!(matches!(stack.read_file("/etc"), Err(LookupError::NotAFile { .. })));
        assert!(stack.stat("/etc").unwrap().is_some());
    }
}
