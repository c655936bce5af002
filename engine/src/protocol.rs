//! What a command and a project's supervisor say to each other.
//!
//! Each message is a JSON document behind its length (four bytes, big-endian) on the Unix stream socket
//! `supervisor.sock` (mode 0600) in the project's run directory. A command numbers its requests and may have many under
//! way; each is answered by exactly one reply with the same number, in any order. Events come in between once they
//! were asked for. Types that cross this boundary, and their meaning, live here and nowhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::container::config::{ContainerConfig, Endpoint};
use crate::container::state::{ContainerState, HealthStatus};
use crate::id::Id;
use crate::network::config::NetworkConfig;

/// Grows with every change of these types that an older peer would misread.
pub const VERSION: u32 = 3;

/// The longest message that is read, in bytes.
pub const MAX_MESSAGE: u32 = 16 << 20;

/// From a command to the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    pub number: u32,
    pub request: Request,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// The first message on a connection. Answered by [`Reply::Hello`].
    Hello { version: u32 },
    /// Makes the network unless it is there. Answered by [`Reply::Network`].
    EnsureNetwork(NetworkConfig),
    /// Removes the network, which must have no endpoint. Answered by [`Reply::Done`].
    RemoveNetwork { name: String },
    /// Makes a container, which is not started yet. Its image, networks and volumes exist. Answered by [`Reply::Done`].
    Create(Box<ContainerConfig>),
    /// Gives a container the content of one of its files ([`FileContent::Provided`]) for the runs that begin from now on.
    /// Answered by [`Reply::Done`].
    ///
    /// [`FileContent::Provided`]: crate::container::config::FileContent::Provided
    Provide { id: Id, file: ProvidedFile },
    /// Starts a container that does not run. Answered by [`Reply::Done`] when PID 1 has executed its program.
    Start { id: Id },
    /// Likewise, for a client that attaches to the container's shim at once (`shim::protocol::ToShim::Attach`), with a
    /// terminal of this size (rows and columns): nothing of what the container writes passes before that.
    StartAttended { id: Id, size: Option<(u16, u16)> },
    /// Starts a container beside another one, whose place it is to take: it publishes no port, and its names lead nowhere,
    /// before [`Request::TakeOver`]. Answered by [`Reply::Done`] when PID 1 has executed its program.
    StartBeside { id: Id, other: Id },
    /// Leads the published ports and the names of `from` to another container, both of which run: from then on nothing new
    /// comes to `from`, and what is under way there goes on. Answered by [`Reply::Done`].
    TakeOver { id: Id, from: Id },
    /// Answered by [`Reply::Done`] when nobody is connected to the container any more, or when `limit` has passed.
    Drain { id: Id, limit: Duration },
    /// Stops every process of a running container where it is. Answered by [`Reply::Done`] when they stand still.
    Pause { id: Id },
    /// Lets the processes of a paused container go on. Answered by [`Reply::Done`].
    Unpause { id: Id },
    /// Sends the stop signal, and `SIGKILL` when `timeout` (or else the container's own grace period) has passed.
    /// Answered by [`Reply::Stopped`] when it has ended.
    Stop { id: Id, timeout: Option<Duration> },
    /// Stops the container and starts it again. Answered by [`Reply::Done`].
    Restart { id: Id, timeout: Option<Duration> },
    /// Sends a signal such as `SIGHUP` or `9` to PID 1. Answered by [`Reply::Done`].
    Kill { id: Id, signal: String },
    /// Removes a container; with `force` also one that runs (it is killed). `volumes`: also its anonymous volumes.
    Remove { id: Id, force: bool, volumes: bool },
    /// Answered by [`Reply::State`] when the condition holds, or can no longer come to hold.
    Wait { id: Id, condition: Condition },
    /// Answered by [`Reply::State`] at once.
    Inspect { id: Id },
    /// Gives a container another name.
    Rename { id: Id, name: String },
    /// A command says what it does to a container without the supervisor, so that there is an event of it. Answered by
    /// [`Reply::Done`].
    Report { id: Id, kind: EventKind, attributes: BTreeMap<String, String> },
    /// Connects a container to a network, now where it runs and else when it is started. Answered by [`Reply::Done`].
    Connect { id: Id, endpoint: Box<Endpoint> },
    /// Disconnects a container from a network. Answered by [`Reply::Done`].
    Disconnect { id: Id, network: String },
    /// From now on the supervisor's events come on this connection. Answered by [`Reply::Done`].
    Subscribe,
    /// Likewise, after those that it remembers from this time on.
    SubscribeSince { since: jiff::Timestamp },
    /// Says where the project is that containers are about to be made of, as long as the connection lasts. Answered by
    /// [`Reply::Claimed`] with the place that the first one said who is still connected, which may be another.
    Claim { place: String },
    /// Asks the supervisor to end. Answered by [`Reply::Done`] when another may take the project; it closes the connection
    /// when everything of it is gone. A [`FailureKind::Conflict`] where a container has a process.
    Shutdown,
}

/// The content of a config or secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvidedFile {
    /// Where it stands in the container.
    pub target: String,
    pub content: String,
}

/// Everything but the content, which must not get into a log.
impl std::fmt::Debug for ProvidedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProvidedFile").field("target", &self.target).finish_non_exhaustive()
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// It has ended and the restart policy leaves it so.
    NotRunning,
    /// Its health check passed; also fulfilled, as far as it goes, by a container that ended, became unhealthy, or keeps
    /// ending although its restart policy starts it again.
    Healthy,
    /// It has ended at least once since it was last started by hand, or it became unhealthy.
    Faulty,
    /// It is gone.
    Removed,
}

/// From the supervisor to a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Message {
    Reply { number: u32, reply: Reply },
    Event(Event),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    Hello { version: u32, pid: u32 },
    Done,
    Network { id: Id, created: bool },
    Stopped { how: Stopped },
    State(Box<ContainerState>),
    Claimed { place: String },
    Failed(Failure),
}

/// How a container came to its end when it was asked to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stopped {
    NotRunning,
    /// It ended after the signal.
    Signal,
    /// It did not end within its grace period and was killed.
    Killed,
    /// PID 1 neither handles nor blocks this signal, so that the kernel drops it; it was killed without waiting.
    Unreachable {
        signal: String,
    },
}

/// A request that could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// What and where.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    NoSuchContainer,
    NoSuchNetwork,
    NameInUse,
    PortInUse,
    /// The image is not in the store.
    NoSuchImage,
    /// The container's program could not be executed (126) or found (127), or its creation failed otherwise (125).
    Start {
        code: i32,
    },
    /// The request does not fit the state that things are in.
    Conflict,
    Other,
}

/// Something that happened to a container or network, in the words of `docker events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub time: jiff::Timestamp,
    pub kind: EventKind,
    /// The id of the container or network.
    pub id: Id,
    pub name: String,
    /// The container's labels, and what the action adds (`exitCode`, `signal`, …).
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Create,
    Start,
    Kill,
    Die,
    Stop,
    Restart,
    Oom,
    Pause,
    Unpause,
    Rename,
    Destroy,
    Health(HealthStatus),
    /// A further process is about to be made: its arguments, with spaces between them.
    ExecCreate(String),
    /// It was started.
    ExecStart(String),
    ExecDie,
    /// Somebody attached to PID 1.
    Attach,
    /// The terminal of PID 1 has another size.
    Resize,
    /// Files were copied out of the container.
    ArchivePath,
    /// Files were copied into the container.
    ExtractToDir,
    Export,
    Commit,
    /// Its processes were listed.
    Top,
    NetworkCreate,
    NetworkConnect,
    NetworkDisconnect,
    NetworkDestroy,
}
