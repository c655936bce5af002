//! This process's streams and signals connected to PID 1 of a container: what `run` and `attach` have in common.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::thread;

use rcompose_engine::id::Id;
use rcompose_engine::protocol::{Condition, EventKind, FailureKind};
use rcompose_engine::shim::client::{Client, ClientError as ShimError};
use rcompose_engine::shim::protocol::Exit;
use rcompose_engine::supervisor::client::ClientError;
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, oneshot};

use super::context::Context;
use super::error::Error;
use super::{shim, signals};
use crate::project::engine::Engine;
use crate::ui::attach::{AttachError, Keys, Left, Session};
use crate::ui::terminal::{self, Before};

/// How many signals to end make us end, whatever the container does.
const TERMINATIONS: u32 = 3;

/// Signals that the container gets in our place.
const PROXIED: [(SignalKind, &str); 6] = [
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::interrupt(), "SIGINT"),
    (SignalKind::quit(), "SIGQUIT"),
    (SignalKind::terminate(), "SIGTERM"),
    (SignalKind::user_defined1(), "SIGUSR1"),
    (SignalKind::user_defined2(), "SIGUSR2"),
];

/// How a command is connected to a container.
#[derive(Debug)]
pub struct Attachment<'a> {
    pub id: &'a Id,
    pub name: &'a str,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Whether our standard input is the container's.
    pub stdin: bool,
    /// Whether the container gets our signals.
    pub proxy: bool,
    /// The keys that leave it.
    pub keys: Keys,
    /// Whether the container is removed when it ends, which is waited for.
    pub auto_remove: bool,
    /// Whether it ran before: it is to draw its terminal anew, and others hear of whoever attached.
    pub joins: bool,
}

/// What became of the connection.
#[derive(Debug)]
pub enum Outcome {
    Exited { code: i32, oom_killed: bool },
    Detached,
}

/// Connects to a container that runs, until it ends or the user leaves it.
pub async fn attend(engine: &Arc<Engine>, attachment: Attachment<'_>) -> Result<Outcome, Error> {
    let Attachment { id, name, tty, stdin, proxy, keys, auto_remove, joins } = attachment;
    let (sender, mut signals) = mpsc::channel(16);
    if proxy {
        forward_signals(&sender)?;
    }
    drop(sender);
    let mut resized = signals::listen(SignalKind::window_change())?;
    // A terminal that is not ours to read from stays as it is.
    let raw = if tty && stdin && io::stdin().is_terminal() { Some(Before::take()?) } else { None };
    if let Some(raw) = &raw {
        raw.make_raw()?;
    }
    let mut terminations = 0;
    let exit = 'connected: loop {
        let Some((session, master)) = connect(engine, id, stdin, &keys).await? else { break None };
        if joins {
            engine.report(id, EventKind::Attach, []).await;
        }
        if let Some(master) = &master {
            // A program draws its terminal when that has another size than before.
            for more in [1, 0].into_iter().skip(usize::from(!joins)) {
                resize(engine, id, master, more, joins).await;
            }
        }
        let mut left = on_a_thread(session)?;
        loop {
            tokio::select! {
                left = &mut left => match left.map_err(|_| Error::new("the streams were given up"))?.map_err(uncopied)? {
                    Left::Detached => {
                        drop(raw);
                        return Ok(Outcome::Detached);
                    }
                    Left::Ended(Some(exit)) => break 'connected Some(exit),
                    // The shim was killed; where the container lives, another takes its place.
                    Left::Ended(None) => break,
                },
                _ = resized.recv() => if let Some(master) = &master {
                    resize(engine, id, master, 0, joins).await;
                },
                Some((number, word)) = signals.recv() => {
                    if number == SignalKind::interrupt() || number == SignalKind::terminate() {
                        terminations += 1;
                    }
                    if terminations == TERMINATIONS {
                        drop(raw);
                        return Err(Error::new(format!(
                            "got {TERMINATIONS} signals to end, which container {name} has not followed: leaving it"
                        )));
                    }
                    proxied(engine, id, word).await?;
                }
            }
        }
    };
    drop(raw);
    let condition = if auto_remove { Condition::Removed } else { Condition::NotRunning };
    let state = match engine.wait(id, condition).await {
        Ok(state) => Some(state),
        Err(ClientError::Failed(failure)) if failure.kind == FailureKind::NoSuchContainer => None,
        Err(error) => return Err(error.into()),
    };
    match (exit, state) {
        (Some(Exit { code, oom_killed, .. }), _) => Ok(Outcome::Exited { code, oom_killed }),
        (None, Some(state)) => Ok(Outcome::Exited { code: state.exit_code, oom_killed: state.oom_killed }),
        (None, None) => Err(Error::new(format!("container {name} was removed, and nobody knows how it ended"))),
    }
}

/// Returns the exit code for how a container ended, and names the cause where the code alone does not tell.
pub fn exit(context: &Context, name: &str, outcome: &Outcome) -> Result<(), Error> {
    match *outcome {
        Outcome::Detached | Outcome::Exited { code: 0, .. } => Ok(()),
        Outcome::Exited { code, oom_killed } => {
            if oom_killed && code == 137 {
                context.ui.error(
                    &format!("container {name} was killed: out of memory"),
                    Some("raise its memory limit (`mem_limit`, `deploy.resources.limits.memory`)"),
                );
            }
            Err(Error::Exit(u8::try_from(code).unwrap_or(1)))
        }
    }
}

/// Attaches to the container's shim; `None`: the container has ended.
async fn connect(
    engine: &Arc<Engine>,
    id: &Id,
    stdin: bool,
    keys: &Keys,
) -> Result<Option<(Session, Option<File>)>, Error> {
    let run = engine.root.container_run(id);
    let attach = || match Client::connect(&run) {
        Ok(client) => Session::attach(client, stdin, keys.clone()),
        Err(error) => Err(AttachError::Client(error)),
    };
    let attached = shim::reach(engine, id, || match attach() {
        Ok(attached) => Ok(Some(Some(attached))),
        // It attends to a container that has ended.
        Err(AttachError::Client(ShimError::Failed(_))) => Ok(Some(None)),
        Err(AttachError::Client(ShimError::NotRunning(_) | ShimError::Gone | ShimError::Talk(_))) => Ok(None),
        Err(error) => Err(error),
    });
    Ok(attached.await?.flatten())
}

/// Gives the container's terminal the size of ours, and this many rows and columns more.
async fn resize(engine: &Arc<Engine>, id: &Id, master: &File, more: u16, report: bool) {
    if let Some((rows, columns)) = terminal::resize(master, more)
        && report
    {
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        engine.report(id, EventKind::Resize, size).await;
    }
}

/// Copies the streams on a thread of its own: standard input may be anything, and reading it may take for ever.
fn on_a_thread(session: Session) -> Result<oneshot::Receiver<io::Result<Left>>, Error> {
    let (sender, receiver) = oneshot::channel();
    // Nobody waits for it in the end: it may hang in a read.
    let thread = thread::Builder::new().name("streams".to_owned()).spawn(move || drop(sender.send(session.run())));
    thread.map_err(|error| Error::new(format!("cannot start the thread that copies streams: {error}")))?;
    Ok(receiver)
}

fn uncopied(error: io::Error) -> Error {
    match error.kind() {
        // Whoever read our output has seen enough.
        io::ErrorKind::BrokenPipe => error.into(),
        _ => Error::new(format!("cannot copy the container's streams: {error}")),
    }
}

fn forward_signals(sender: &mpsc::Sender<(SignalKind, &'static str)>) -> Result<(), Error> {
    for (kind, word) in PROXIED {
        let mut signals = signals::listen(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if sender.send((kind, word)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

async fn proxied(engine: &Arc<Engine>, id: &Id, word: &str) -> Result<(), Error> {
    match engine.client().await?.kill(id, word).await {
        // It has just ended, which is about to be heard.
        Err(ClientError::Failed(failure))
            if matches!(failure.kind, FailureKind::Conflict | FailureKind::NoSuchContainer) =>
        {
            Ok(())
        }
        result => Ok(result?),
    }
}
