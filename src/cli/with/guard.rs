//! A process that takes a stack away when the command that it is for does not: it may have been killed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, Stdio};

use clap::Args;

use super::super::context::Context;
use super::super::down::{self, DownArgs};
use super::super::error::Error;

/// The command of the guard.
pub const COMMAND: &str = "__with-guard";
/// What tells the guard that the stack is gone.
const DISMISSED: &[u8] = b"x";

/// The guard of a stack. It acts when this is dropped, or the process ends, unless it is dismissed.
#[derive(Debug)]
pub struct Guard {
    /// Its other end is read by the guard; nobody else has this one.
    pipe: ChildStdin,
}

impl Guard {
    /// Starts the guard of a project's stack.
    pub fn start(context: &Context, project: &str) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::new(format!("cannot start the guard of the stack: {error}"));
        let mut command = Command::new("/proc/self/exe");
        // Not in our process group: who kills that must not kill the guard.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(root) = &context.global.root {
            command.arg("--root").arg(root);
        }
        let mut child = command.args(["--project-name", project, COMMAND]).spawn().map_err(failed)?;
        let pipe = child.stdin.take().ok_or_else(|| Error::new("the guard of the stack has no standard input"))?;
        Ok(Self { pipe })
    }

    /// Tells the guard that nothing is left to do.
    pub fn dismiss(mut self) {
        // One that was killed has nothing to do either.
        let _ = self.pipe.write_all(DISMISSED);
    }
}

#[derive(Debug, Args)]
pub struct GuardArgs {}

/// Is the guard: waits for the end of the command, and takes away what it left.
pub fn run(context: &Context, _: &GuardArgs) -> Result<(), Error> {
    let mut told = Vec::new();
    // Whatever is wrong with the pipe, the command is not there any more.
    let _ = File::open("/proc/self/fd/0").and_then(|mut pipe| pipe.read_to_end(&mut told));
    if told == DISMISSED { Ok(()) } else { down::run(context, &DownArgs::everything(Some(0))) }
}
