//! What a supervised container can be told, and the handle by which it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::stop::KILL;
use crate::container::config::{ContainerConfig, Endpoint};
use crate::container::signal;
use crate::container::state::ContainerState;
use crate::id::Id;
use crate::protocol::{Condition, EventKind, Failure, FailureKind, Stopped};
use crate::supervisor::run::Audience;

/// Commands that may wait for an actor before their senders wait too.
const COMMANDS: usize = 64;
/// How long a process may take to end that was sent `SIGKILL`. The kernel delays that only where it waits for a device.
const PATIENCE: Duration = Duration::from_secs(10);

/// A handle to a supervised container; cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Container {
    commands: mpsc::Sender<Command>,
}

impl Container {
    /// Returns a handle, and where what it is told comes out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        (Self { commands }, receiver)
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Failure> {
        let gone = || Failure {
            kind: FailureKind::NoSuchContainer,
            message: "the container has been removed meanwhile".to_owned(),
            hint: None,
        };
        let (sender, receiver) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    pub(in crate::supervisor) async fn start(&self, audience: Audience) -> Result<(), Failure> {
        self.ask(|answer| Command::Start(audience, answer)).await
    }

    /// Starts it beside another one, whose place it is to take.
    pub(in crate::supervisor) async fn start_beside(&self, other: Id) -> Result<(), Failure> {
        self.ask(|answer| Command::StartBeside(other, answer)).await
    }

    /// Leads to it what leads to `from`.
    pub(in crate::supervisor) async fn take_over(&self, from: Box<ContainerConfig>) -> Result<(), Failure> {
        self.ask(|answer| Command::TakeOver(from, answer)).await
    }

    /// Tells it that another one has taken over from it.
    pub(in crate::supervisor) async fn give_way(&self) -> Result<(), Failure> {
        self.ask(Command::GiveWay).await
    }

    pub(in crate::supervisor) async fn config(&self) -> Result<Box<ContainerConfig>, Failure> {
        self.ask(Command::Config).await
    }

    pub(in crate::supervisor) async fn pause(&self) -> Result<(), Failure> {
        self.ask(Command::Pause).await
    }

    pub(in crate::supervisor) async fn unpause(&self) -> Result<(), Failure> {
        self.ask(Command::Unpause).await
    }

    pub(in crate::supervisor) async fn stop(&self, timeout: Option<Duration>) -> Result<Stopped, Failure> {
        self.ask(|answer| Command::Stop(timeout, answer)).await
    }

    pub(in crate::supervisor) async fn restart(&self, timeout: Option<Duration>) -> Result<(), Failure> {
        self.ask(|answer| Command::Restart(timeout, answer)).await
    }

    /// Sends a signal. With one that nothing survives, waits for the end, as Docker does: the next command finds it ended.
    pub(in crate::supervisor) async fn kill(&self, signal: String) -> Result<(), Failure> {
        let is_certain = signal::parse(&signal) == Some(KILL);
        self.ask(|answer| Command::Kill(signal, answer)).await?;
        if !is_certain {
            return Ok(());
        }
        match tokio::time::timeout(PATIENCE, self.wait(Condition::NotRunning)).await {
            // It may even have been removed.
            Ok(_) => Ok(()),
            Err(_) => Err(Failure {
                kind: FailureKind::Other,
                message: format!("SIGKILL was sent, and {} s later it has not ended", PATIENCE.as_secs()),
                hint: Some(
                    "look for processes in state D by `rcompose top`: the kernel waits for something".to_owned(),
                ),
            }),
        }
    }

    pub(in crate::supervisor) async fn remove(&self, force: bool, volumes: bool) -> Result<(), Failure> {
        self.ask(|answer| Command::Remove { force, volumes, answer }).await
    }

    pub(in crate::supervisor) async fn rename(&self, name: String) -> Result<(), Failure> {
        self.ask(|answer| Command::Rename(name, answer)).await
    }

    pub(in crate::supervisor) async fn report(
        &self,
        kind: EventKind,
        attributes: BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        self.ask(|answer| Command::Report(kind, attributes, answer)).await
    }

    pub(in crate::supervisor) async fn connect(&self, endpoint: Box<Endpoint>) -> Result<(), Failure> {
        self.ask(|answer| Command::Connect(endpoint, answer)).await
    }

    pub(in crate::supervisor) async fn disconnect(&self, network: String) -> Result<(), Failure> {
        self.ask(|answer| Command::Disconnect(network, answer)).await
    }

    pub(in crate::supervisor) async fn wait(&self, condition: Condition) -> Result<Box<ContainerState>, Failure> {
        self.ask(|answer| Command::Wait(condition, answer)).await
    }

    pub(in crate::supervisor) async fn inspect(&self) -> Result<Box<ContainerState>, Failure> {
        self.ask(Command::Inspect).await
    }
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, Failure>>;

pub(super) enum Command {
    Start(Audience, Answer<()>),
    StartBeside(Id, Answer<()>),
    TakeOver(Box<ContainerConfig>, Answer<()>),
    GiveWay(Answer<()>),
    Config(Answer<Box<ContainerConfig>>),
    Pause(Answer<()>),
    Unpause(Answer<()>),
    Stop(Option<Duration>, Answer<Stopped>),
    Restart(Option<Duration>, Answer<()>),
    Kill(String, Answer<()>),
    Remove { force: bool, volumes: bool, answer: Answer<()> },
    Rename(String, Answer<()>),
    Report(EventKind, BTreeMap<String, String>, Answer<()>),
    Connect(Box<Endpoint>, Answer<()>),
    Disconnect(String, Answer<()>),
    Wait(Condition, Answer<Box<ContainerState>>),
    Inspect(Answer<Box<ContainerState>>),
}

pub(super) fn reply<T>(answer: Answer<T>, result: Result<T, Failure>) {
    // Whoever asked may be gone.
    let _ = answer.send(result);
}
