//! A command's connection to a project's supervisor.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use super::spawn::Starting;
use super::wire;
use crate::container::config::{ContainerConfig, Endpoint};
use crate::container::state::ContainerState;
use crate::id::Id;
use crate::network::config::NetworkConfig;
use crate::protocol::{
    Call, Condition, Event, EventKind, Failure, FailureKind, Message, ProvidedFile, Reply, Request, Stopped, VERSION,
};
use crate::root::Root;

/// Events that a slow reader may be behind before it loses the oldest.
const EVENTS: usize = 4096;
/// How often a supervisor that ends at once, or is killed, is followed by another before that is an error.
const ATTEMPTS: u32 = 20;

/// A connection to the supervisor of one project. Requests may be made from many tasks at once.
///
/// A supervisor that is killed is followed by another, and what was asked of it and not answered is asked again: every
/// request is such that a supervisor that finds it done already says so.
#[derive(Debug)]
pub struct Client {
    root: Root,
    project: String,
    link: Mutex<Arc<Link>>,
    /// Held by the task that makes a new connection.
    relinking: tokio::sync::Mutex<()>,
    subscribed: AtomicBool,
    events: broadcast::Sender<Event>,
}

/// Why a request was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to the supervisor at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the supervisor of project {project}: {reason}")]
    Start { project: String, reason: String },
    #[error("the supervisor of project {project} speaks version {theirs} of the protocol, this program {VERSION}")]
    Version { project: String, theirs: u32 },
    #[error("the supervisor ended before it answered")]
    Ended,
    #[error("the supervisor answered with something else")]
    Unexpected,
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Client {
    /// Connects to the project's supervisor; `None` if none runs.
    pub async fn connect(root: &Root, project: &str) -> Result<Option<Self>, ClientError> {
        let events = broadcast::channel(EVENTS).0;
        let link = Link::connect(root, project, &events).await?;
        Ok(link.map(|link| Self::on(root, project, link, events)))
    }

    /// Connects to the project's supervisor, which is started if none runs, and none was started already.
    pub async fn connect_or_start(root: &Root, project: &str, starting: Option<Starting>) -> Result<Self, ClientError> {
        let events = broadcast::channel(EVENTS).0;
        let link = Link::connect_or_start(root, project, &events, starting).await?;
        Ok(Self::on(root, project, link, events))
    }

    fn on(root: &Root, project: &str, link: Link, events: broadcast::Sender<Event>) -> Self {
        Self {
            root: root.clone(),
            project: project.to_owned(),
            link: Mutex::new(Arc::new(link)),
            relinking: tokio::sync::Mutex::default(),
            subscribed: AtomicBool::new(false),
            events,
        }
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link.lock().expect("no holder of this lock panics"))
    }

    /// Connects anew after `dead` has ended, once for all who find it dead.
    async fn relink(&self, dead: &Arc<Link>) -> Result<Arc<Link>, ClientError> {
        let _only_one = self.relinking.lock().await;
        let link = self.link();
        if !Arc::ptr_eq(&link, dead) {
            return Ok(link);
        }
        let link = Arc::new(Link::connect_or_start(&self.root, &self.project, &self.events, None).await?);
        if self.subscribed.load(Ordering::Relaxed) {
            link.ask(Request::Subscribe).await?;
        }
        *self.link.lock().expect("no holder of this lock panics") = Arc::clone(&link);
        Ok(link)
    }

    /// Sends a request and waits for its reply; a refusal is an error.
    pub async fn ask(&self, request: Request) -> Result<Reply, ClientError> {
        let mut link = self.link();
        let mut repeated = false;
        for _ in 0..ATTEMPTS {
            match link.ask(request.clone()).await {
                Err(ClientError::Ended) => {}
                // The first attempt got as far as removing it.
                Err(ClientError::Failed(Failure { kind: FailureKind::NoSuchContainer, .. }))
                    if repeated && matches!(request, Request::Remove { .. }) =>
                {
                    return Ok(Reply::Done);
                }
                answer => return answer,
            }
            link = self.relink(&link).await?;
            repeated = true;
        }
        Err(ClientError::Ended)
    }

    async fn done(&self, request: Request) -> Result<(), ClientError> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Makes a network unless it is there; returns whether it was made.
    pub async fn ensure_network(&self, config: NetworkConfig) -> Result<bool, ClientError> {
        match self.ask(Request::EnsureNetwork(config)).await? {
            Reply::Network { created, .. } => Ok(created),
            _ => Err(ClientError::Unexpected),
        }
    }

    pub async fn remove_network(&self, name: &str) -> Result<(), ClientError> {
        self.done(Request::RemoveNetwork { name: name.to_owned() }).await
    }

    pub async fn create(&self, config: ContainerConfig) -> Result<(), ClientError> {
        self.done(Request::Create(Box::new(config))).await
    }

    pub async fn provide(&self, id: &Id, file: ProvidedFile) -> Result<(), ClientError> {
        self.done(Request::Provide { id: id.clone(), file }).await
    }

    pub async fn start(&self, id: &Id) -> Result<(), ClientError> {
        self.done(Request::Start { id: id.clone() }).await
    }

    /// Starts a container that this process attaches to at once, with a terminal of this size (rows and columns).
    pub async fn start_attended(&self, id: &Id, size: Option<(u16, u16)>) -> Result<(), ClientError> {
        self.done(Request::StartAttended { id: id.clone(), size }).await
    }

    /// Starts a container beside another one, whose place it is to take ([`Self::take_over`]).
    pub async fn start_beside(&self, id: &Id, other: &Id) -> Result<(), ClientError> {
        self.done(Request::StartBeside { id: id.clone(), other: other.clone() }).await
    }

    /// Leads to a running container what leads to another one: its published ports and its names.
    pub async fn take_over(&self, id: &Id, from: &Id) -> Result<(), ClientError> {
        self.done(Request::TakeOver { id: id.clone(), from: from.clone() }).await
    }

    /// Waits until nobody is connected to a container any more, at most this long.
    pub async fn drain(&self, id: &Id, limit: Duration) -> Result<(), ClientError> {
        self.done(Request::Drain { id: id.clone(), limit }).await
    }

    pub async fn pause(&self, id: &Id) -> Result<(), ClientError> {
        self.done(Request::Pause { id: id.clone() }).await
    }

    pub async fn unpause(&self, id: &Id) -> Result<(), ClientError> {
        self.done(Request::Unpause { id: id.clone() }).await
    }

    pub async fn stop(&self, id: &Id, timeout: Option<Duration>) -> Result<Stopped, ClientError> {
        match self.ask(Request::Stop { id: id.clone(), timeout }).await? {
            Reply::Stopped { how } => Ok(how),
            _ => Err(ClientError::Unexpected),
        }
    }

    pub async fn restart(&self, id: &Id, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.done(Request::Restart { id: id.clone(), timeout }).await
    }

    pub async fn kill(&self, id: &Id, signal: &str) -> Result<(), ClientError> {
        self.done(Request::Kill { id: id.clone(), signal: signal.to_owned() }).await
    }

    pub async fn remove(&self, id: &Id, force: bool, volumes: bool) -> Result<(), ClientError> {
        self.done(Request::Remove { id: id.clone(), force, volumes }).await
    }

    pub async fn rename(&self, id: &Id, name: &str) -> Result<(), ClientError> {
        self.done(Request::Rename { id: id.clone(), name: name.to_owned() }).await
    }

    /// Says what this process does to a container without the supervisor, in the words of an event.
    pub async fn report(
        &self,
        id: &Id,
        kind: EventKind,
        attributes: BTreeMap<String, String>,
    ) -> Result<(), ClientError> {
        self.done(Request::Report { id: id.clone(), kind, attributes }).await
    }

    /// Connects a container to a network.
    pub async fn connect_network(&self, id: &Id, endpoint: Endpoint) -> Result<(), ClientError> {
        self.done(Request::Connect { id: id.clone(), endpoint: Box::new(endpoint) }).await
    }

    /// Disconnects a container from a network.
    pub async fn disconnect_network(&self, id: &Id, network: &str) -> Result<(), ClientError> {
        self.done(Request::Disconnect { id: id.clone(), network: network.to_owned() }).await
    }

    /// Waits until the condition holds or can no longer come to hold, and returns the state then.
    pub async fn wait(&self, id: &Id, condition: Condition) -> Result<ContainerState, ClientError> {
        match self.ask(Request::Wait { id: id.clone(), condition }).await? {
            Reply::State(state) => Ok(*state),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Says where the project is that containers are about to be made of, as long as this connection lasts; returns the
    /// place that counts, which is another one where somebody else came first.
    pub async fn claim(&self, place: String) -> Result<String, ClientError> {
        match self.ask(Request::Claim { place }).await? {
            Reply::Claimed { place } => Ok(place),
            _ => Err(ClientError::Unexpected),
        }
    }

    pub async fn inspect(&self, id: &Id) -> Result<ContainerState, ClientError> {
        match self.ask(Request::Inspect { id: id.clone() }).await? {
            Reply::State(state) => Ok(*state),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Returns the supervisor's events from now on.
    ///
    /// Those of the moment between the death of a supervisor and the next request on this connection are lost.
    pub async fn subscribe(&self) -> Result<broadcast::Receiver<Event>, ClientError> {
        let receiver = self.events.subscribe();
        self.subscribed.store(true, Ordering::Relaxed);
        self.done(Request::Subscribe).await?;
        Ok(receiver)
    }

    /// Returns the supervisor's events from a time on, as far back as it remembers, and those to come.
    pub async fn subscribe_since(&self, since: jiff::Timestamp) -> Result<broadcast::Receiver<Event>, ClientError> {
        let receiver = self.events.subscribe();
        self.subscribed.store(true, Ordering::Relaxed);
        self.done(Request::SubscribeSince { since }).await?;
        Ok(receiver)
    }

    /// Waits until the supervisor that this is connected to has ended. All its events have come by then. Cancel-safe.
    pub async fn ended(&self) {
        self.link().closed.cancelled().await;
    }

    /// Asks the supervisor to end, and waits until the project is free for another one. Refused where a container has a process.
    ///
    /// The process itself ends when the kernel is through with the bridges of removed networks, some 50 ms later.
    pub async fn shutdown(self) -> Result<(), ClientError> {
        match self.link().ask(Request::Shutdown).await {
            // It was killed: with nothing running nobody starts another.
            Ok(Reply::Done) | Err(ClientError::Ended) => Ok(()),
            Ok(_) => Err(ClientError::Unexpected),
            Err(error) => Err(error),
        }
    }
}

/// One connection, which ends with the supervisor at its other end.
#[derive(Debug)]
struct Link {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    next: AtomicU32,
    waiting: Arc<Mutex<Waiting>>,
    closed: CancellationToken,
}

/// Who waits for which reply; `None` once the supervisor has closed the connection.
type Waiting = Option<HashMap<u32, oneshot::Sender<Reply>>>;

impl Link {
    async fn connect(
        root: &Root,
        project: &str,
        events: &broadcast::Sender<Event>,
    ) -> Result<Option<Self>, ClientError> {
        let directory = root.project_run(project);
        let path = directory.join("supervisor.sock");
        let stream = match connect_in(&directory).await {
            Ok(stream) => stream,
            // The last of these: it stopped listening before it took the connection on, on which nothing was said yet.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(None);
            }
            Err(source) => return Err(ClientError::Connect { path, source }),
        };
        let link = Self::on(stream, events.clone());
        match link.ask(Request::Hello { version: VERSION }).await {
            Ok(Reply::Hello { version: VERSION, .. }) => Ok(Some(link)),
            Ok(Reply::Hello { version: theirs, .. }) => {
                Err(ClientError::Version { project: project.to_owned(), theirs })
            }
            // It was on its way out.
            Err(ClientError::Ended) => Ok(None),
            Ok(_) => Err(ClientError::Unexpected),
            Err(error) => Err(error),
        }
    }

    async fn connect_or_start(
        root: &Root,
        project: &str,
        events: &broadcast::Sender<Event>,
        mut starting: Option<Starting>,
    ) -> Result<Self, ClientError> {
        let failed = |reason| ClientError::Start { project: project.to_owned(), reason };
        // One that is just ending, or that lost the race for the lock, is simply followed by the next.
        for _ in 0..ATTEMPTS {
            if let Some(starting) = &starting {
                starting.ready().await.map_err(failed)?;
            }
            // What was started is let go of when it has answered.
            if let Some(link) = Self::connect(root, project, events).await? {
                return Ok(link);
            }
            starting = Some(Starting::begin(root, project).map_err(failed)?);
        }
        Err(failed("it ends as soon as it is started".to_owned()))
    }

    fn on(stream: UnixStream, events: broadcast::Sender<Event>) -> Self {
        let (reader, writer) = stream.into_split();
        let waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let closed = CancellationToken::new();
        tokio::spawn(receive(reader, Arc::clone(&waiting), events, closed.clone()));
        Self { writer: tokio::sync::Mutex::new(writer), next: AtomicU32::new(0), waiting, closed }
    }

    async fn ask(&self, request: Request) -> Result<Reply, ClientError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match self.waiting.lock().expect("no holder of this lock panics").as_mut() {
            Some(waiting) => drop(waiting.insert(number, sender)),
            None => return Err(ClientError::Ended),
        }
        // A supervisor that is gone is noticed by the reader, which drops every sender.
        let sent = wire::write(&mut *self.writer.lock().await, &Call { number, request }).await;
        if sent.is_err() {
            return Err(ClientError::Ended);
        }
        match receiver.await {
            Ok(Reply::Failed(failure)) => Err(failure.into()),
            Ok(reply) => Ok(reply),
            Err(_) => Err(ClientError::Ended),
        }
    }
}

/// Reads replies and events until the supervisor closes the connection.
async fn receive(
    mut stream: OwnedReadHalf,
    waiting: Arc<Mutex<Waiting>>,
    events: broadcast::Sender<Event>,
    closed: CancellationToken,
) {
    loop {
        match wire::read::<Message>(&mut stream).await {
            Ok(Some(Message::Reply { number, reply })) => {
                let sender = waiting
                    .lock()
                    .expect("no holder of this lock panics")
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&number));
                // Whoever asked may have lost interest.
                if let Some(sender) = sender {
                    let _ = sender.send(reply);
                }
            }
            // Nobody may be listening.
            Ok(Some(Message::Event(event))) => drop(events.send(event)),
            Ok(None) | Err(_) => break,
        }
    }
    waiting.lock().expect("no holder of this lock panics").take();
    closed.cancel();
}

/// Connects to `supervisor.sock` in a directory whose path may be longer than a socket's address can be (108 bytes).
async fn connect_in(directory: &Path) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd as _;
    let directory = fs::File::open(directory)?;
    UnixStream::connect(format!("/proc/self/fd/{}/supervisor.sock", directory.as_raw_fd())).await
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_stops_listening_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        let project = root.project_run("p");
        fs::create_dir_all(&project).unwrap();
        let listener = UnixListener::bind(project.join("supervisor.sock")).unwrap();
        // In this order: the connection waits to be taken on when the listener is gone.
        let (connected, ()) = tokio::join!(Client::connect(&root, "p"), async { drop(listener) });
        assert!(connected.unwrap().is_none());
        assert!(Client::connect(&root, "p").await.unwrap().is_none());
    }
}
