//! Trees of files that are copied from: found, walked, digested.
//!
//! They are hostile: contexts may change at any moment, and images have any link they like. So a path is resolved
//! component by component within the root, and what was found is opened without following any link; what is no longer as it
//! was found is an error and not another file.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use tokio_util::sync::CancellationToken;

use super::ignore::Patterns;
use super::seen::Seen;
use crate::container::files;
use crate::image::{Digest, Hasher};
use crate::sys::xattr::fgetxattr;

/// How many links one path may lead through, as the kernel has it (`path_resolution(7)`).
const LINKS: usize = 40;

/// The attribute that gives a file capabilities.
const CAPABILITY: &std::ffi::CStr = c"security.capability";

/// Why files cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// There is nothing at a path.
    #[error("{path:?}: not found{}", if *left_out { " (.dockerignore leaves it out)" } else { "" })]
    NotFound {
        /// The path, as it was asked for.
        path: String,
        /// It is there, but not in the build context.
        left_out: bool,
    },
    /// It cannot be read.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file, within its tree.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A context has something in it that is no file.
    #[error("{} is a {kind}, which a build context cannot have", path.display())]
    Special {
        /// The file, within the context.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file was written to meanwhile.
    #[error("{} changed while it was being copied", path.display())]
    Changed {
        /// The file, within its tree.
        path: PathBuf,
    },
    /// A pattern that is none.
    #[error("{pattern:?} is not a valid pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// Nobody waits for it any more.
    #[error("interrupted")]
    Stopped,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> TreeError {
    let path = path.to_owned();
    move |errno| TreeError::File { action, path, source: errno.into() }
}

/// Where files come from.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// Of a context: what is left out of it, and which digests of its files are known.
    context: Option<(Arc<Patterns>, Arc<Seen>)>,
    /// Ends what takes long.
    stop: CancellationToken,
}

/// A file, directory or link that is copied.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The path below what was asked for; empty: that itself.
    pub(crate) path: PathBuf,
    pub(crate) stat: FileStat,
}

impl Found {
    /// Returns the path in the tree.
    pub(crate) fn below(&self, base: &Path) -> PathBuf {
        // Joined with nothing, a path would get a slash, and be that of a directory.
        if self.path.as_os_str().is_empty() { base.to_owned() } else { base.join(&self.path) }
    }
}

/// What one source of a copy stands for.
#[derive(Debug, Clone)]
pub(crate) struct Match {
    /// The path in the tree, without links in it.
    pub(crate) base: PathBuf,
    /// The path by which it was asked for, without leading slashes.
    pub(crate) asked: PathBuf,
    /// What there is, parents first; the first is `base` itself.
    pub(crate) found: Vec<Found>,
}

impl Match {
    pub(crate) fn is_directory(&self) -> bool {
        self.found.first().is_some_and(|found| kind(&found.stat) == libc::S_IFDIR)
    }
}

/// Returns the type of a file (`S_IFMT`).
pub(crate) fn kind(stat: &FileStat) -> u32 {
    stat.st_mode & libc::S_IFMT
}

impl Tree {
    /// A tree that is taken as it is.
    pub(crate) fn plain(root: OwnedFd) -> Self {
        Self { root, context: None, stop: CancellationToken::new() }
    }

    /// A build context: its patterns leave files out, everything belongs to root, and there are no devices.
    pub(crate) fn context(root: OwnedFd, ignore: Arc<Patterns>, seen: Arc<Seen>) -> Self {
        Self { root, context: Some((ignore, seen)), stop: CancellationToken::new() }
    }

    /// Returns the same tree, of which nothing is read any more once this says so.
    pub(crate) fn until(self, stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), ..self }
    }

    /// Returns an error if nothing of it is to be read any more.
    pub(crate) fn check(&self) -> Result<(), TreeError> {
        if self.stop.is_cancelled() { Err(TreeError::Stopped) } else { Ok(()) }
    }

    /// Returns whether this is a build context.
    pub(crate) fn is_context(&self) -> bool {
        self.context.is_some()
    }

    /// Returns the owner and group that a file of this tree counts as having.
    pub(crate) fn owner(&self, stat: &FileStat) -> (u32, u32) {
        if self.context.is_some() { (0, 0) } else { (stat.st_uid, stat.st_gid) }
    }

    /// Finds what a source stands for: one path, or with wildcards any number.
    pub(crate) fn find(&self, source: &str, literal: bool) -> Result<Vec<Match>, TreeError> {
        let wild = !literal && source.contains(['*', '?', '[', '\\']);
        if !wild {
            if let Some(found) = self.one(Path::new(source))? {
                return Ok(vec![found]);
            }
            let is_there = self.context.is_some().then(|| self.real(Path::new(source))).transpose()?.flatten();
            let left_out = is_there.is_some_and(|base| self.is_ignored(&base));
            return Err(TreeError::NotFound { path: source.to_owned(), left_out });
        }
        let components: Vec<&str> = source.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let mut paths = vec![PathBuf::new()];
        for (index, pattern) in components.iter().enumerate() {
            let mut next = Vec::new();
            for path in &paths {
                if !pattern.contains(['*', '?', '[', '\\']) {
                    next.push(path.join(pattern));
                    continue;
                }
                // What is not a directory has nothing in it.
                let Some(real) = self.real(path)? else { continue };
                let Ok(names) = self.names(&real) else { continue };
                for name in names {
                    let matched = super::wildcard::matches(pattern, &name.to_string_lossy());
                    if matched.map_err(|()| TreeError::Pattern { pattern: source.to_owned() })? {
                        next.push(path.join(name));
                    }
                }
            }
            paths = next;
            if index + 1 < components.len() {
                paths.sort();
            }
        }
        paths.sort();
        paths.iter().filter_map(|path| self.one(path).transpose()).collect()
    }

    fn one(&self, asked: &Path) -> Result<Option<Match>, TreeError> {
        let Some(base) = self.real(asked)? else { return Ok(None) };
        let stat = match self.open(&base, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
            Ok(opened) => fstat(&opened).map_err(failed("look at", &base))?,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(failed("look at", &base)(errno)),
        };
        let directory = kind(&stat) == libc::S_IFDIR;
        if !directory && (self.is_ignored(&base) || files::ends_with_slash(asked)) {
            return Ok(None);
        }
        let mut found = vec![Found { path: PathBuf::new(), stat }];
        if directory {
            let below = self.walk(&base)?;
            // A directory that is left out, with everything in it, is not there.
            if below.is_empty() && self.is_ignored(&base) {
                return Ok(None);
            }
            found.extend(below);
        } else {
            self.refuse_special(&base, &stat)?;
        }
        let asked = asked.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        Ok(Some(Match { base, asked, found }))
    }

    /// Lists everything below a directory, parents first and in the order of names.
    fn walk(&self, base: &Path) -> Result<Vec<Found>, TreeError> {
        let mut found = Vec::new();
        let mut waiting = VecDeque::from([PathBuf::new()]);
        while let Some(directory) = waiting.pop_front() {
            let real = base.join(&directory);
            let opened = self.open(&real, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed("open", &real))?;
            for name in names(opened.as_fd()).map_err(failed("read", &real))? {
                let path = directory.join(&name);
                let stat = match fstatat(&opened, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    // It has just been removed.
                    Err(Errno::ENOENT) => continue,
                    Err(errno) => return Err(failed("look at", &real.join(&name))(errno)),
                };
                let inner = base.join(&path);
                let ignored = self.is_ignored(&inner);
                if kind(&stat) == libc::S_IFDIR {
                    if !ignored || self.has_exceptions() {
                        waiting.push_back(path.clone());
                    }
                } else if !ignored {
                    self.refuse_special(&inner, &stat)?;
                }
                found.push((ignored, Found { path, stat }));
            }
        }
        found.sort_by(|(_, one), (_, other)| one.path.cmp(&other.path));
        Ok(without_ignored(found))
    }

    fn names(&self, real: &Path) -> nix::Result<Vec<OsString>> {
        names(self.open(real, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?.as_fd())
    }

    /// Opens what is at a path without links in it.
    pub(crate) fn open(&self, real: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let path = if real.as_os_str().is_empty() { Path::new(".") } else { real };
        loop {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// Opens a regular file that was found, if it still is what was found.
    pub(crate) fn open_file(&self, base: &Path, found: &Found) -> Result<File, TreeError> {
        let path = found.below(base);
        // What was replaced by a FIFO meanwhile must not block us.
        let file = self.open(&path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK);
        let file = file.map_err(failed("open", &path))?;
        Self::check_unchanged(&path, &found.stat, &fstat(&file).map_err(failed("look at", &path))?)?;
        Ok(File::from(file))
    }

    /// Returns where a link that was found points to.
    pub(crate) fn read_link(&self, base: &Path, found: &Found) -> Result<OsString, TreeError> {
        let path = found.below(base);
        let link = self.open(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(failed("open", &path))?;
        readlinkat(&link, c"").map_err(failed("read the link", &path))
    }

    /// Makes sure that a file is what it was when it was found.
    pub(crate) fn check_unchanged(path: &Path, before: &FileStat, now: &FileStat) -> Result<(), TreeError> {
        let identity = |stat: &FileStat| {
            (
                stat.st_dev,
                stat.st_ino,
                stat.st_mode,
                stat.st_size,
                stat.st_mtime,
                stat.st_mtime_nsec,
                stat.st_ctime,
                stat.st_ctime_nsec,
            )
        };
        if identity(before) == identity(now) { Ok(()) } else { Err(TreeError::Changed { path: path.to_owned() }) }
    }

    /// Returns a digest of what matters of these files: names, kinds, modes, owners, capabilities, contents, and no times.
    pub(crate) fn digest(&self, found: &Match) -> Result<Digest, TreeError> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        for file in &found.found {
            let (uid, gid) = self.owner(&file.stat);
            field(&mut hasher, file.path.as_os_str().as_bytes());
            for number in [file.stat.st_mode, uid, gid] {
                hasher.update(&number.to_le_bytes());
            }
            match kind(&file.stat) {
                libc::S_IFREG => {
                    hasher.update(self.file_digest(&found.base, file, &mut buffer)?.hex().as_bytes());
                }
                libc::S_IFLNK => field(&mut hasher, self.read_link(&found.base, file)?.as_bytes()),
                libc::S_IFCHR | libc::S_IFBLK => hasher.update(&file.stat.st_rdev.to_le_bytes()),
                _ => {}
            }
        }
        Ok(hasher.finish())
    }

    /// Returns the digest of a file's content and capabilities.
    fn file_digest(&self, base: &Path, file: &Found, buffer: &mut [u8]) -> Result<Digest, TreeError> {
        let path = file.below(base);
        if let Some((_, seen)) = &self.context
            && let Some(digest) = seen.get(&path, &file.stat)
        {
            return Ok(digest);
        }
        let opened = self.open_file(base, file)?;
        let io = |source| TreeError::File { action: "read", path: path.clone(), source };
        let mut hasher = Hasher::new();
        field(&mut hasher, &fgetxattr(&opened, CAPABILITY, 256).map_err(io)?.unwrap_or_default());
        let mut reader = &opened;
        loop {
            self.check()?;
            match std::io::Read::read(&mut reader, buffer).map_err(io)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let digest = hasher.finish();
        Self::check_unchanged(&path, &file.stat, &fstat(&opened).map_err(failed("look at", &path))?)?;
        if let Some((_, seen)) = &self.context {
            seen.put(&path, &file.stat, digest);
        }
        Ok(digest)
    }

    /// Resolves a path within the tree: no component of what is returned is a link. `None`: it leads nowhere.
    fn real(&self, path: &Path) -> Result<Option<PathBuf>, TreeError> {
        let mut rest: VecDeque<OsString> = normal(path).collect();
        let mut real = PathBuf::new();
        let mut links = LINKS;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            let opened = match self.open(&next, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Ok(opened) => opened,
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
                Err(errno) => return Err(failed("look at", &next)(errno)),
            };
            let stat = fstat(&opened).map_err(failed("look at", &next))?;
            if kind(&stat) != libc::S_IFLNK {
                real = next;
                continue;
            }
            links = links.checked_sub(1).ok_or(Errno::ELOOP).map_err(failed("follow", &next))?;
            let target = PathBuf::from(readlinkat(&opened, c"").map_err(failed("read the link", &next))?);
            if target.is_absolute() {
                real = PathBuf::new();
            }
            for name in normal(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(Some(real))
    }

    fn is_ignored(&self, real: &Path) -> bool {
        self.context
            .as_ref()
            .is_some_and(|(ignore, _)| !real.as_os_str().is_empty() && ignore.matches(real.as_os_str().as_bytes()))
    }

    /// Returns whether something may be there in a directory that is left out.
    fn has_exceptions(&self) -> bool {
        self.context.as_ref().is_some_and(|(ignore, _)| ignore.has_exceptions())
    }

    fn refuse_special(&self, path: &Path, stat: &FileStat) -> Result<(), TreeError> {
        let kind = match kind(stat) {
            libc::S_IFIFO => "FIFO",
            libc::S_IFSOCK => "socket",
            libc::S_IFCHR | libc::S_IFBLK => "device",
            _ => return Ok(()),
        };
        if self.context.is_none() { Ok(()) } else { Err(TreeError::Special { path: path.to_owned(), kind }) }
    }
}

/// Leaves out what is ignored, but for directories on the way to what is not.
fn without_ignored(found: Vec<(bool, Found)>) -> Vec<Found> {
    let mut kept: Vec<Found> = Vec::new();
    // From the end, so that what is in a directory comes before it.
    for (ignored, found) in found.into_iter().rev() {
        let needed = || kept.last().is_some_and(|below| below.path.starts_with(&found.path));
        if !ignored || needed() {
            kept.push(found);
        }
    }
    kept.reverse();
    kept
}

/// Adds a value of any length so that its end is known.
pub(crate) fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn normal(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

/// Returns the names in a directory, in their order.
fn names(directory: BorrowedFd<'_>) -> nix::Result<Vec<OsString>> {
    let again =
        nix::fcntl::openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again)?.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(OsString::from_vec(name.as_bytes().to_vec()));
        }
    }
    names.sort();
    Ok(names)
}
