//! Files between this host and a container (`cp`).

use std::ffi::OsStr;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rcompose_engine::container::beneath;
use rcompose_engine::container::files::{
    self, Content, Destination, DestinationError, FilesError, Found, Owner, Rules, View, lay, pack, with_root,
};
use rcompose_engine::container::store::Container;
use rcompose_engine::oci::{OciError, portable};
use rcompose_engine::root::Root;
use rcompose_engine::shim;

/// How to copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep the owners of what comes from a container; what goes into one belongs to its user.
    pub archive: bool,
    /// Copy what a link leads to.
    pub follow: bool,
}

/// Why nothing, or not everything, was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{}: {}", path.display(), source.desc())]
    Source {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("could not find the file {} in container {container}", path.display())]
    NotFound { path: PathBuf, container: String },
    #[error("cannot open {} in container {container}: {}", path.display(), source.desc())]
    Inside {
        path: PathBuf,
        container: String,
        #[source]
        source: Errno,
    },
    #[error("invalid output path: directory {:?} does not exist", .0.display().to_string())]
    NoOutput(PathBuf),
    #[error("destination \"{container}:{}\" must be a directory", path.display())]
    NoDirectory { path: PathBuf, container: String },
    #[error("{}: {source}", path.display())]
    Destination {
        path: PathBuf,
        #[source]
        source: DestinationError,
    },
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("cannot read what the container is: {0}")]
    Config(shim::protocol::Failure),
}

/// What is copied into a container.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    Path(&'a Path),
    /// A tar archive on standard input.
    Stdin,
}

/// Where what is copied out of a container goes.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Path(&'a Path),
    /// A tar archive on standard output.
    Stdout,
}

/// Copies something into a container.
pub fn copy_in(
    root: &Root,
    container: &Container,
    source: Source<'_>,
    path: &Path,
    options: Options,
) -> Result<(), CopyError> {
    let owner = if options.archive {
        let config = shim::read_config(&root.container(&container.config.id)).map_err(CopyError::Config)?;
        Owner::These(config.uid, config.gid)
    } else {
        Owner::Archive
    };
    let rules = Rules { owner, devices: true };
    with_root(root, container, View::Whole { write: true }, |inside| match source {
        Source::Stdin => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let directory = beneath::open(inside, absolute(path), flags).map_err(|errno| match errno {
                Errno::ENOENT | Errno::ENOTDIR => {
                    CopyError::NoDirectory { path: path.to_owned(), container: container.config.name.clone() }
                }
                errno => inaccessible(container, path, errno),
            })?;
            lay(directory.as_fd(), BufReader::new(io::stdin()), rules).map_err(FilesError::from)?;
            Ok(())
        }
        Source::Path(source) => {
            let found = files::find_here(source, options.follow)
                .map_err(|errno| CopyError::Source { path: source.to_owned(), source: errno })?;
            let open = |path: &Path, flags| beneath::open(inside, absolute(path), flags);
            let to = files::destination(path, found.directory, open).map_err(|error| match error {
                DestinationError::NoParent => {
                    let (path, container) = (files::parent(path), container.config.name.clone());
                    CopyError::NotFound { path, container }
                }
                source => CopyError::Destination { path: path.to_owned(), source },
            })?;
            put(&found, source, &to, rules).map(drop)
        }
    })?
}

/// Copies something out of a container. Returns the paths of devices, which are left out.
pub fn copy_out(
    root: &Root,
    container: &Container,
    path: &Path,
    target: Target<'_>,
    options: Options,
) -> Result<Vec<String>, CopyError> {
    let owner = if options.archive { Owner::Archive } else { Owner::Ours };
    with_root(root, container, View::Whole { write: false }, |inside| {
        let found = files::find(inside, &absolute(path), options.follow).map_err(|errno| match errno {
            Errno::ENOENT => CopyError::NotFound { path: path.to_owned(), container: container.config.name.clone() },
            errno => inaccessible(container, path, errno),
        })?;
        match target {
            Target::Stdout => {
                archive(found.fd.as_fd(), Path::new(own_name(path)), io::stdout().lock())?;
                Ok(Vec::new())
            }
            Target::Path(target) => {
                let open = |path: &Path, flags| nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty());
                let to = files::destination(target, found.directory, open).map_err(|error| match error {
                    DestinationError::NoParent => CopyError::NoOutput(files::parent(target)),
                    source => CopyError::Destination { path: target.to_owned(), source },
                })?;
                put(&found, path, &to, Rules { owner, devices: false })
            }
        }
    })?
}

/// Writes a container's own files as a tar archive.
pub fn export(root: &Root, container: &Container, out: impl Write + Send) -> Result<(), FilesError> {
    with_root(root, container, View::Layers, |inside| archive(inside, Path::new("."), out))??;
    Ok(())
}

/// Writes a container as an OCI bundle, in a directory that is made: its own files as `rootfs`, and a `config.json` that
/// any OCI runtime understands. Volumes and other mounts stay where they are on this host.
pub fn bundle(root: &Root, container: &Container, directory: &Path) -> Result<(), CopyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CopyError::Write { path, source }
    };
    let spec = portable::of_container(root, &container.config.id, Path::new("rootfs"))?;
    let rootfs = directory.join("rootfs");
    std::fs::create_dir(directory).map_err(failed(directory))?;
    std::fs::create_dir(&rootfs).map_err(failed(&rootfs))?;
    let open = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let inside = nix::fcntl::open(&rootfs, open, Mode::empty()).map_err(|errno| failed(&rootfs)(errno.into()))?;
    files::transfer(
        |writer| export(root, container, BufWriter::with_capacity(1 << 16, writer)),
        |reader| {
            let rules = Rules { owner: Owner::Archive, devices: true };
            Ok(lay(inside.as_fd(), BufReader::with_capacity(1 << 16, reader), rules)?)
        },
    )?;
    let path = directory.join("config.json");
    let text = serde_json::to_vec_pretty(&spec).map_err(|error| failed(&path)(error.into()))?;
    std::fs::write(&path, text).map_err(failed(&path))
}

/// Gives `work` what a container has changed of its image, as the archive of a layer.
pub fn changes<T: Send>(
    root: &Root,
    container: &Container,
    work: impl FnOnce(io::PipeReader) -> T + Send,
) -> Result<T, FilesError> {
    let config = shim::read_config(&root.container(&container.config.id))
        .map_err(|failure| FilesError::Root { name: container.config.name.clone(), failure })?;
    let upper = config.rootfs.upper;
    files::transfer(
        |writer| {
            let out = BufWriter::with_capacity(1 << 16, writer);
            match files::find_here(&upper, false) {
                Ok(upper) => Ok(pack(upper.fd.as_fd(), Path::new("."), Content::Changes, out)?),
                // It never ran.
                Err(Errno::ENOENT) => Ok(files::pack_nothing(out)?),
                Err(errno) => Err(FilesError::Pipe(errno.into())),
            }
        },
        |reader| Ok(work(reader)),
    )
}

fn archive(fd: BorrowedFd<'_>, name: &Path, out: impl Write) -> Result<(), FilesError> {
    Ok(pack(fd, name, Content::Files, BufWriter::with_capacity(1 << 16, out))?)
}

/// Puts what was found where it is to go.
fn put(found: &Found, source: &Path, to: &Destination, rules: Rules) -> Result<Vec<String>, CopyError> {
    let name = match &to.name {
        Some(name) => name.as_os_str(),
        None if files::is_content(source) => OsStr::new("."),
        None => own_name(source),
    };
    let laid = files::transfer(
        |writer| archive(found.fd.as_fd(), Path::new(name), writer),
        |reader: io::PipeReader| {
            let mut reader = BufReader::with_capacity(1 << 16, reader);
            let omitted = lay(to.directory.as_fd(), &mut reader, rules)?;
            // What follows the end of an archive is padding, which the other side is not to choke on.
            io::copy(&mut reader.take(u64::MAX), &mut io::sink()).map_err(FilesError::Pipe)?;
            Ok(omitted)
        },
    );
    Ok(laid?)
}

/// Returns what a copy is called where nobody says.
fn own_name(path: &Path) -> &OsStr {
    files::last(path).unwrap_or(OsStr::new("."))
}

fn inaccessible(container: &Container, path: &Path, source: Errno) -> CopyError {
    CopyError::Inside { path: path.to_owned(), container: container.config.name.clone(), source }
}

/// Returns a path of a container from its root.
fn absolute(path: &Path) -> PathBuf {
    // `join` would drop a final slash or dot, and they say something.
    let mut whole = std::ffi::OsString::from("/");
    whole.push(path.as_os_str());
    whole.into()
}
