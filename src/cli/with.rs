//! `with`: a command beside a stack of its own, which is there before the command and gone after it.

mod addresses;
pub mod guard;
mod report;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use rcompose_engine::id::Id;
use rcompose_engine::sys::{pidfd, readiness};
use tokio::process::Child;
use tokio::signal::unix::SignalKind;

use super::context::{Context, Copy};
use super::error::Error;
use super::pull::Policy;
use super::signals::listen;
use super::up::{ConvergeArgs, UpArgs};
use super::{down, stop, up};
use crate::project::apart::Ports;
use crate::project::engine::Engine;
use crate::ui::progress::Form;
use guard::Guard;
use report::{Events, Report};

/// How long a command that was asked to end has for that.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose with --junit stack.xml -- ./run-tests\n\n\
    For each published port the command finds SERVICE_HOST, SERVICE_PORT and SERVICE_ADDRESS in its environment \
    (of the lowest one), and SERVICE_PORT_80 and so on of each; COMPOSE_PROJECT_NAME is that of its stack.")]
pub struct WithArgs {
    /// Write what happens to containers to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Write what became of the services and of the command to this file, for a CI server
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the log of each container to a file in this directory
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Pull images before
    #[arg(long, value_enum)]
    pull: Option<Policy>,
    /// Use this timeout in seconds for the containers' shutdown
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Maximum duration in seconds to wait for the services to be running|healthy
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
    /// The services that are needed; none: all
    services: Vec<String>,
    /// The command, with its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Makes the stack, runs the command, and takes the stack away, whatever becomes of both.
pub fn run(context: &Context, args: &WithArgs) -> Result<(), Error> {
    let copy = Copy { suffix: Id::random().short()[..8].to_owned(), ports: Some(Ports::Free) };
    let context = context.of_copy(copy);
    let name = context.project(&args.services)?.name;
    // The name is the stack's own from here on, also for those who do not know the files.
    let guard = Guard::start(&context, &name)?;
    let engine = context.engine(&name)?;
    let events = args.events.as_deref().map(|path| Events::follow(&engine, path)).transpose()?;
    let mut report = Report::new(&name);
    let outcome = match bring_up(&context, args) {
        Ok(()) => {
            report.is_up(&engine, None)?;
            command(&context, args, &engine)
        }
        Err(error) => {
            report.is_up(&engine, Some(&error))?;
            Err(error)
        }
    };
    if let Ok(status) = &outcome {
        report.ended(&args.command, *status);
    }
    let gone = take_down(&context, args, &engine);
    if gone.is_ok() {
        guard.dismiss();
    }
    if let Some(events) = events {
        events.finish()?;
    }
    if let Some(path) = &args.junit {
        report.write(path)?;
    }
    let status = outcome?;
    gone?;
    match code(status) {
        0 => Ok(()),
        code => Err(Error::Exit(code)),
    }
}

fn bring_up(context: &Context, args: &WithArgs) -> Result<(), Error> {
    let converge =
        ConvergeArgs { wait: true, pull: args.pull, services: args.services.clone(), ..ConvergeArgs::default() };
    up::run(context, &UpArgs { converge, wait_timeout: args.wait_timeout, ..UpArgs::default() })
}

/// Takes everything away. Logs are written when the containers have ended, and so have written everything.
fn take_down(context: &Context, args: &WithArgs, engine: &Engine) -> Result<(), Error> {
    if let Some(directory) = &args.logs {
        stop::run(context, &stop::StopArgs { timeout: args.timeout, services: Vec::new() })?;
        report::logs(engine, directory)?;
    }
    down::run(context, &down::DownArgs::everything(args.timeout))
}

/// Runs the command to its end, or to that of whoever called us.
fn command(context: &Context, args: &WithArgs, engine: &Engine) -> Result<ExitStatus, Error> {
    let mut command = tokio::process::Command::new(&args.command[0]);
    command.args(&args.command[1..]).env("COMPOSE_PROJECT_NAME", &engine.project);
    command.envs(addresses::variables(&engine.containers()?));
    context.block_on(async {
        let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let caller = caller()?;
        let name = args.command[0].to_string_lossy();
        let mut child = command.spawn().map_err(|error| Error::new(format!("cannot run {name}: {error}")))?;
        loop {
            tokio::select! {
                status = child.wait() => return Ok(status?),
                // A terminal sends it to the command as well, and what else sends it means us both.
                _ = interrupt.recv() => tell(&child, Signal::SIGINT),
                _ = terminate.recv() => tell(&child, Signal::SIGTERM),
                () = gone(caller.as_ref()) => return end(child).await,
            }
        }
    })
}

/// Returns what becomes readable when the process that called us has ended; `None` where nobody waits for us.
fn caller() -> io::Result<Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>> {
    let caller = getppid();
    if caller.as_raw() <= 1 {
        return Ok(None);
    }
    match pidfd::open(caller) {
        Ok(caller) => readiness::watch_reading(caller).map(Some),
        // It has ended by now.
        Err(_) => Err(io::Error::other("whoever called has ended")),
    }
}

async fn gone(caller: Option<&tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>) {
    match caller {
        // An error is no end, and nothing else would come of trying again.
        Some(caller) if caller.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

fn tell(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It is not reaped yet, so the number is its own.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Ends a command that nobody waits for any more.
async fn end(mut child: Child) -> Result<ExitStatus, Error> {
    tell(&child, Signal::SIGTERM);
    if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
        return Ok(status?);
    }
    child.start_kill()?;
    Ok(child.wait().await?)
}

/// Returns the exit code that a shell would give.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

impl Context {
    /// Returns the same command line for a copy of the project.
    fn of_copy(&self, copy: Copy) -> Self {
        let mut context = Self::new(self.global.clone(), self.ui);
        if context.ui.form == Form::Auto {
            // The command may write to the terminal as well.
            context.ui.form = Form::Plain;
        }
        context.copy = Some(copy);
        context
    }
}
