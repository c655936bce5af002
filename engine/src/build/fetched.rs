//! Contexts that are no directories of the host: archives, repositories, what web servers have.
//!
//! They are taken as they are: `.dockerignore` leaves nothing out of them, and files of an archive keep their owners, as
//! with BuildKit. They are hostile: paths in them lead nowhere outside, devices are not made, and what an archive may
//! expand to has a bound.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use super::copy::is_archive;
use super::error::StepError;
use super::execute::{Builder, Shop, Temporary};
use super::graph::{Git, Http};
use super::request::Keyring;
use super::tree::{Tree, TreeError, kind};
use super::{repository, web};
use crate::container::files::{Owner, Rules, lay};
use crate::image::{expand, on_thread};

/// The longest archive that is taken, in bytes.
const LARGEST: u64 = 32 << 30;

/// A build context that was fetched. It goes away with its last clone.
#[derive(Debug, Clone)]
pub struct Fetched(pub(super) Arc<Temporary>);

/// What came in place of a directory.
#[derive(Debug)]
pub enum Received {
    /// The files of an archive.
    Archive(Fetched),
    /// Something else, which should be a Dockerfile.
    Text(Vec<u8>),
}

impl Fetched {
    /// Reads a file, if it is there. A link in its path is one within the context.
    ///
    /// # Errors
    /// Where it cannot be read, or has more than `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StepError> {
        let root = File::open(&self.0.0).map_err(failed("open", &self.0.0))?;
        let tree = Tree::plain(root.into());
        let found = match tree.find(path, true) {
            Err(TreeError::NotFound { .. }) => return Ok(None),
            found => found?,
        };
        let Some(found) = found.first().filter(|found| kind(&found.found[0].stat) == libc::S_IFREG) else {
            return Ok(None);
        };
        let file = tree.open_file(&found.base, &found.found[0])?;
        short(file, limit, Path::new(path)).map(Some)
    }
}

impl Builder {
    /// Takes a context from a stream: an archive, compressed or not, or else a text of at most `longest` bytes.
    pub async fn receive(&self, mut input: impl Read + Send + 'static, longest: u64) -> Result<Received, StepError> {
        let builder = self.clone();
        // A thread of its own, since nothing ends one that waits for standard input.
        let receiving = on_thread("build-context", move || {
            let shop = builder.shop();
            let temporary = shop.temporary()?;
            let path = temporary.0.join("stream");
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            let mut file = file.map_err(failed("create", &path))?;
            let copied = io::copy(&mut input.by_ref().take(LARGEST + 1), &mut file).map_err(failed("write", &path))?;
            if copied > LARGEST {
                return Err(StepError::LargeContext { limit: LARGEST });
            }
            file.flush().and_then(|()| file.rewind()).map_err(failed("read", &path))?;
            unpack(shop, file, longest)
        });
        receiving.await.map_err(|_| StepError::Worker)?
    }

    /// Takes a context from a web server, as [`Builder::receive`] takes it. `progress` hears how many bytes have come.
    pub async fn download(&self, url: &str, longest: u64, progress: impl Fn(u64)) -> Result<Received, StepError> {
        let http = Http { url: url.to_owned(), checksum: None, name: String::new() };
        let (file, _) = web::fetch(self.shop(), &http, progress).await?;
        let builder = self.clone();
        let unpacking = on_thread("build-context", move || unpack(builder.shop(), file, longest));
        unpacking.await.map_err(|_| StepError::Worker)?
    }

    /// Fetches the tree of a repository.
    pub async fn clone_repository(&self, git: &Git, keyring: &Keyring) -> Result<Fetched, StepError> {
        let keys = repository::keys(keyring, &git.remote)?;
        Ok(Fetched(Arc::new(repository::fetch(self.shop(), git, keys).await?)))
    }

    /// Returns a context with nothing in it.
    pub fn empty(&self) -> Result<Fetched, StepError> {
        Ok(Fetched(Arc::new(open_to_read(self.shop().temporary()?)?)))
    }
}

/// Unpacks an archive, or reads what is none.
fn unpack(shop: &Shop, mut file: File, longest: u64) -> Result<Received, StepError> {
    let again = |file: &mut File| file.rewind().map_err(failed("read", Path::new("the build context")));
    let same = |file: &File| file.try_clone().map_err(failed("read", Path::new("the build context")));
    let archive = is_archive(same(&file)?);
    again(&mut file)?;
    if !archive {
        return Ok(Received::Text(short(file, longest, Path::new("the build context"))?));
    }
    let directory = open_to_read(shop.temporary()?)?;
    let root = File::open(&directory.0).map_err(failed("open", &directory.0))?;
    let plain = expand(file).map_err(failed("read", Path::new("the build context")))?;
    let omitted =
        lay(root.as_fd(), plain, Rules { owner: Owner::Archive, devices: false }).map_err(StepError::Unpack)?;
    match omitted.into_iter().next() {
        Some(path) => Err(TreeError::Special { path: path.into(), kind: "device" }.into()),
        None => Ok(Received::Archive(Fetched(Arc::new(directory)))),
    }
}

/// Gives a directory the mode that one of a context usually has.
pub(super) fn open_to_read(directory: Temporary) -> Result<Temporary, StepError> {
    let set = fs::set_permissions(&directory.0, Permissions::from_mode(0o755));
    set.map_err(failed("set the mode of", &directory.0))?;
    Ok(directory)
}

fn short(file: File, limit: u64, path: &Path) -> Result<Vec<u8>, StepError> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(StepError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StepError {
    let path = path.to_owned();
    move |source| StepError::Io { action, path, source }
}
