//! Starting a supervisor.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::root::{Root, make_directory};

/// The first argument that makes this program a supervisor; see [`arguments`].
pub const FRONT_DOOR: &str = "__supervisor";

/// What a supervisor that is ready writes to its standard output. It closes that only when it ends, or nobody reads it any more.
pub const READY: &str = "ready\n";

/// Returns the arguments (without the program) of a project's supervisor.
pub fn arguments(root: &Root, project: &str) -> Vec<String> {
    [FRONT_DOOR.to_owned(), root.data().display().to_string(), root.run().display().to_string(), project.to_owned()]
        .into()
}

/// A supervisor that was started. It waits for a connection until this is dropped, and then ends unless it has work.
#[derive(Debug)]
pub struct Starting(PipeReader);

impl Starting {
    /// Starts a supervisor. The error says what failed.
    pub fn begin(root: &Root, project: &str) -> Result<Self, String> {
        let (reader, writer) = io::pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
        let log = open_log(&root.project_run(project))?;
        spawn(root, project, writer, log).map_err(|error| format!("cannot execute it: {error}"))?;
        Ok(Self(reader))
    }

    /// Waits until it accepts connections, or until it ended because another holds the lock.
    ///
    /// The error is what it said of its failure.
    pub async fn ready(&self) -> Result<(), String> {
        let said = read(&self.0).await.map_err(|error| format!("cannot hear from it: {error}"))?;
        match said.as_str() {
            READY => Ok(()),
            "" => Err("it ended without a word".to_owned()),
            reason => Err(reason.trim_end().to_owned()),
        }
    }
}

fn open_log(directory: &Path) -> Result<File, String> {
    let path = directory.join("supervisor.log");
    loop {
        make_directory(directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        match File::options().create(true).append(true).open(&path) {
            Ok(log) => return Ok(log),
            // The supervisor before it has just removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot open {}: {error}", path.display())),
        }
    }
}

fn spawn(root: &Root, project: &str, ready: PipeWriter, log: File) -> io::Result<()> {
    // Its own session, umask and directory are its own business (`supervisor::run`): without anything to do between
    // fork and exec the standard library uses posix_spawn, which costs the same however large this process is.
    Command::new("/proc/self/exe")
        .args(arguments(root, project))
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(ready))
        .stderr(log)
        .spawn()
        .map(drop)
}

/// Reads until it says that it is ready, or ends.
async fn read(reader: &PipeReader) -> io::Result<String> {
    let mut reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader.try_clone()?))?;
    let mut said = Vec::new();
    while reader.read_buf(&mut said).await? > 0 && said != READY.as_bytes() {}
    Ok(String::from_utf8_lossy(&said).into_owned())
}
