//! The state directory: one directory per container, which only root can read.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held (`fcntl(2)`) by who changes the container |
//! | `config.json` | the configuration as it was when the container was created |
//! | `record.json` | [`Record`]: where its cgroups are and the like; there before anything is made |
//! | `process.json` | its process, once everything is made |
//! | `start.sock` | until it is started: its process listens there for the start |
//!
//! A runtime that is killed at any moment leaves a directory that `delete --force` can make sense of.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{Spec, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::OciError;
use crate::container::cgroup::Plan;
use crate::container::hooks::Subject;
use crate::root::make_directory;
use crate::shim::config::{Namespaces, Network, Seccomp};
use crate::sys::pidfd;

/// The largest configuration that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// The socket that a container's process waits at.
pub(super) const START: &str = "start.sock";
const LOCK: &str = "lock";
const RECORD: &str = "record.json";
const PROCESS: &str = "process.json";
pub(super) const CONFIG: &str = "config.json";

/// What is known of a container apart from its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub created: jiff::Timestamp,
    pub annotations: Option<HashMap<String, String>>,
    pub cgroup: Plan,
    pub namespaces: Namespaces,
    pub network: Network,
    pub seccomp: Seccomp,
}

impl Record {
    pub(super) fn subject(&self) -> Subject {
        Subject {
            version: self.oci_version.clone(),
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// A container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// In clock ticks since boot: with it the number means the same process for ever.
    pub(super) start_time: u64,
}

impl Process {
    /// Returns whether it runs still; a zombie does not.
    fn is_alive(self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().next());
        !matches!(state, Some("Z" | "X") | None) && pidfd::start_time(Pid::from_raw(self.pid)) == Some(self.start_time)
    }

    /// Opens it, where it runs still.
    pub(super) fn open(self) -> Option<OwnedFd> {
        let opened = pidfd::open(Pid::from_raw(self.pid)).ok()?;
        self.is_alive().then_some(opened)
    }
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    /// It runs, and its processes stand still. Not of the specification, which allows more.
    Paused,
    Stopped,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The containers of one state directory.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
}

impl Runtime {
    /// Returns the containers whose state is in `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns a container of this name.
    pub(super) fn find(&self, id: &str) -> Result<Container, OciError> {
        check_id(id)?;
        let container = Container { id: id.to_owned(), directory: self.root.join(id) };
        if container.directory.is_dir() { Ok(container) } else { Err(OciError::Unknown(id.to_owned())) }
    }

    /// Makes the directory of a new container, and locks it.
    pub(super) fn add(&self, id: &str) -> Result<(Container, Lock), OciError> {
        check_id(id)?;
        let directory = self.root.join(id);
        let failed = |source| OciError::Write { path: directory.clone(), source };
        make_directory(&self.root).map_err(failed)?;
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(OciError::Exists(id.to_owned()));
            }
            result => result.map_err(failed)?,
        }
        let container = Container { id: id.to_owned(), directory };
        let lock = container.lock()?;
        Ok((container, lock))
    }

    /// Returns the names of all containers, in order.
    pub(super) fn names(&self) -> Result<Vec<String>, OciError> {
        let failed = |source| OciError::Read { path: self.root.clone(), source };
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.into_string().ok().filter(|name| check_id(name).is_ok()));
        }
        names.sort();
        Ok(names)
    }
}

/// A container's id becomes the name of a directory, and part of that of a cgroup.
fn check_id(id: &str) -> Result<(), OciError> {
    let letter = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    let valid = !id.is_empty() && id.len() <= 255 && id.chars().all(letter) && !matches!(id, "." | "..");
    if valid { Ok(()) } else { Err(OciError::Id(id.to_owned())) }
}

/// A container in the state directory.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) directory: PathBuf,
}

/// While it exists, nobody else changes the container. A process that is forked meanwhile does not have it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it lets go of the lock")] File);

impl Container {
    /// Waits until nobody else changes the container.
    pub(super) fn lock(&self) -> Result<Lock, OciError> {
        let path = self.directory.join(LOCK);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => OciError::Unknown(self.id.clone()),
            _ => OciError::Write { path: path.clone(), source },
        };
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
        while let Err(errno) = fcntl(&file, FcntlArg::F_SETLKW(&whole_file())) {
            if errno != Errno::EINTR {
                return Err(failed(errno.into()));
            }
        }
        // Whoever had it may have deleted the container.
        let (locked, named) = (file.metadata().map_err(failed)?, fs::metadata(&path).map_err(failed)?);
        if (locked.dev(), locked.ino()) == (named.dev(), named.ino()) {
            Ok(Lock(file))
        } else {
            Err(OciError::Unknown(self.id.clone()))
        }
    }

    /// Returns whether somebody changes the container at this moment.
    fn is_locked(&self) -> bool {
        let Ok(file) = File::options().write(true).open(self.directory.join(LOCK)) else { return false };
        matches!(fcntl(&file, FcntlArg::F_SETLK(&whole_file())), Err(Errno::EAGAIN | Errno::EACCES))
    }

    pub(super) fn spec(&self) -> Result<Spec, OciError> {
        read(&self.directory.join(CONFIG))
    }

    /// Returns what is known of it; `None`: it was only just begun.
    pub(super) fn record(&self) -> Result<Option<Record>, OciError> {
        read_if_there(&self.directory.join(RECORD))
    }

    pub(super) fn known(&self) -> Result<Record, OciError> {
        self.record()?.ok_or_else(|| OciError::Unknown(self.id.clone()))
    }

    pub(super) fn process(&self) -> Result<Option<Process>, OciError> {
        read_if_there(&self.directory.join(PROCESS))
    }

    pub(super) fn write(&self, spec: &Spec, record: &Record) -> Result<(), OciError> {
        write(&self.directory.join(CONFIG), spec)?;
        write(&self.directory.join(RECORD), record)
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<(), OciError> {
        write(&self.directory.join(RECORD), record)
    }

    pub(super) fn write_process(&self, process: Process) -> Result<(), OciError> {
        write(&self.directory.join(PROCESS), &process)
    }

    /// Opens the directory, whose path may be too long for a socket's address.
    pub(super) fn open(&self) -> Result<OwnedFd, OciError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(&self.directory, flags, Mode::empty())
            .map_err(|errno| OciError::Read { path: self.directory.clone(), source: errno.into() })
    }

    /// Returns what the container does, and its process where that lives.
    pub(super) fn status(&self) -> Result<(Status, Option<Process>), OciError> {
        match self.process()? {
            // Being made, or what somebody left who was killed.
            None if self.is_locked() => Ok((Status::Creating, None)),
            _ => self.status_locked(),
        }
    }

    /// Likewise, for who has the container's lock: to look whether it is held would let go of it.
    pub(super) fn status_locked(&self) -> Result<(Status, Option<Process>), OciError> {
        let Some(process) = self.process()? else { return Ok((Status::Stopped, None)) };
        if !process.is_alive() {
            return Ok((Status::Stopped, None));
        }
        if self.directory.join(START).exists() {
            return Ok((Status::Created, Some(process)));
        }
        let frozen = self.record()?.is_some_and(|record| record.cgroup.is_frozen());
        Ok((if frozen { Status::Paused } else { Status::Running }, Some(process)))
    }

    /// Returns the state as the specification has it.
    pub(super) fn state(&self) -> Result<State, OciError> {
        let (status, process) = self.status()?;
        // One that was killed before it wrote anything down has no more than its name.
        let Some(record) = self.record()? else {
            let subject = Subject {
                version: super::VERSION.into(),
                id: self.id.clone(),
                bundle: PathBuf::new(),
                annotations: None,
            };
            return Ok(subject.state(status.into(), None)?);
        };
        Ok(record.subject().state(status.into(), process.map(|process| process.pid))?)
    }

    /// Removes the directory. Its files go in an order in which it can be deleted again.
    pub(super) fn remove(&self) -> Result<(), OciError> {
        let failed = |source| OciError::Write { path: self.directory.clone(), source };
        fs::remove_dir_all(&self.directory).map_err(failed)
    }
}

fn whole_file() -> libc::flock {
    let kind = |kind: libc::c_int| libc::c_short::try_from(kind).unwrap_or_default();
    libc::flock { l_type: kind(libc::F_WRLCK), l_whence: kind(libc::SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 }
}

/// Reads a JSON file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, OciError> {
    let failed = |source| OciError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(LIMIT + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LIMIT {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    serde_json::from_slice(&text).map_err(|source| OciError::Parse { path: path.to_owned(), source })
}

fn read_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, OciError> {
    match read(path) {
        Err(OciError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Replaces a JSON file as a whole.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), OciError> {
    let failed = |source| OciError::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories() {
        for id in ["a", "web-1", "A_b+c.d", &"x".repeat(255)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ü", "a\n", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn an_id_is_taken_once_and_what_is_left_counts_as_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(directory.path().join("state"));
        assert!(matches!(runtime.find("x"), Err(OciError::Unknown(_))));
        let (container, lock) = runtime.add("x").unwrap();
        assert_eq!(fs::metadata(&container.directory).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(runtime.add("x"), Err(OciError::Exists(_))));
        drop(lock);
        assert_eq!(container.status().unwrap(), (Status::Stopped, None));
        assert_eq!(runtime.names().unwrap(), ["x"]);
        container.remove().unwrap();
        assert!(matches!(container.lock(), Err(OciError::Unknown(_))));
    }
}
