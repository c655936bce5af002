//! One health check: a process in the container, its output, and an end to it when its time is up.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::shims::Connection;
use crate::container::state::HealthResult;
use crate::shim::protocol::{Exec, FromShim, ToShim};

/// How much of a check's output is kept, in bytes.
const OUTPUT: usize = 4096;

/// What a check came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: HealthResult,
}

impl Outcome {
    pub(super) fn healthy(&self) -> bool {
        self.result.exit_code == 0
    }
}

/// Runs one check in the container whose shim listens in `run`; it is killed after `timeout`.
pub(super) async fn run(run: PathBuf, args: Vec<String>, timeout: Duration) -> Outcome {
    let start = jiff::Timestamp::now();
    let (exit_code, output) = match check(&run, args, timeout).await {
        Ok(ended) => ended,
        Err(error) => (-1, format!("cannot run the health check: {error}")),
    };
    Outcome { result: HealthResult { start, end: jiff::Timestamp::now(), exit_code, output } }
}

async fn check(run: &Path, args: Vec<String>, timeout: Duration) -> io::Result<(i32, String)> {
    let mut shim = Connection::connect(run)?;
    let (reader, writer) = io::pipe()?;
    let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
    let exec = Exec { args, ..Exec::default() };
    shim.send(&ToShim::Exec(Box::new(exec)), &[null.as_fd(), writer.as_fd(), writer.as_fd()]).await?;
    drop(writer);
    let mut output = Output { reader: pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?, kept: Vec::new() };
    let ended = tokio::time::timeout(timeout, async {
        loop {
            tokio::select! {
                biased;
                // What it printed before it ended is read first, and a child that holds the pipe does not hold this up.
                () = output.read() => {}
                message = shim.receive() => match message?.map(|(message, _)| message) {
                    Some(FromShim::ExecExited { code, .. }) => return Ok((code, None)),
                    Some(FromShim::ExecFailed { failure, .. }) => return Ok((failure.code, Some(failure.to_string()))),
                    Some(_) => {}
                    None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the container has ended")),
                },
            }
        }
    })
    .await;
    let Ok(ended) = ended else {
        shim.send(&ToShim::KillExec { exec: 0 }, &[]).await?;
        output.rest();
        let seconds = timeout.as_secs_f64();
        return Ok((-1, format!("Health check exceeded timeout ({seconds}s): {}", output.text())));
    };
    let (code, failure) = ended?;
    output.rest();
    Ok((code, failure.unwrap_or_else(|| output.text())))
}

/// The output of a check, of which the first [`OUTPUT`] bytes are kept and the rest is read away.
struct Output {
    reader: pipe::Receiver,
    kept: Vec<u8>,
}

impl Output {
    /// Reads what comes next; pending for ever at the end of the stream. Cancel-safe.
    async fn read(&mut self) {
        let mut buffer = [0; 4096];
        match self.reader.read(&mut buffer).await {
            Ok(n) if n > 0 => self.keep(&buffer[..n]),
            _ => std::future::pending().await,
        }
    }

    /// Takes what is in the pipe now.
    fn rest(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = self.reader.try_read(&mut buffer) {
            self.keep(&buffer[..n]);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = OUTPUT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}
