//! Connections from commands: requests in, replies and events out.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use super::project::Project;
use super::run::Audience;
use super::wire;
use crate::protocol::{Call, Event, Failure, FailureKind, Message, Reply, Request, VERSION};

/// Replies that may wait for a slow reader before the requests behind them are held up.
const REPLIES: usize = 256;

/// Serves one connection until the command closes it.
pub(super) async fn serve(project: Arc<Project>, stream: UnixStream) {
    let (mut reader, writer) = stream.into_split();
    let (sender, receiver) = mpsc::channel(REPLIES);
    let writing = tokio::spawn(write(writer, receiver));
    let mut forwarding = JoinSet::new();
    let mut claims = 0;
    // A peer that breaks the protocol or disappears has ended its connection; what it asked for goes on.
    while let Ok(Some(Call { number, request })) = wire::read::<Call>(&mut reader).await {
        match request {
            Request::Hello { .. } => {
                let reply = Reply::Hello { version: VERSION, pid: std::process::id() };
                send(&sender, number, reply).await;
            }
            Request::Subscribe => {
                let events = project.events.subscribe();
                forwarding.spawn(forward(events, sender.clone()));
                send(&sender, number, Reply::Done).await;
            }
            Request::SubscribeSince { since } => {
                let (past, events) = project.events.subscribe_since(since);
                send(&sender, number, Reply::Done).await;
                for event in past {
                    // The peer may be gone.
                    let _ = sender.send(Message::Event(event)).await;
                }
                forwarding.spawn(forward(events, sender.clone()));
            }
            Request::Claim { place } => {
                let standing = project.claim(&place);
                claims += usize::from(standing == place);
                send(&sender, number, Reply::Claimed { place: standing }).await;
            }
            Request::Shutdown => match project.retire() {
                Ok(()) => {
                    let token = project.ending.token();
                    project.left.cancelled().await;
                    send(&sender, number, Reply::Done).await;
                    drop((forwarding, sender));
                    let writer = writing.await;
                    drop(token);
                    // The end of the process closes the connection: that everything is gone is what it tells.
                    std::future::pending::<()>().await;
                    drop((reader, writer));
                    return;
                }
                Err(failure) => send(&sender, number, Reply::Failed(failure)).await,
            },
            request => {
                let (project, sender) = (Arc::clone(&project), sender.clone());
                // What is only waited for is nobody's business when whoever waited is gone.
                let waits = matches!(request, Request::Wait { .. } | Request::Drain { .. });
                let work = (!waits).then(|| project.work());
                tokio::spawn(async move {
                    let reply = answer(&project, request).await.unwrap_or_else(Reply::Failed);
                    drop(work);
                    send(&sender, number, reply).await;
                });
            }
        }
    }
    project.disclaim(claims);
    drop((forwarding, sender));
    // The writer ends when the last request under way has been answered, or at the first write that fails.
    let _ = writing.await;
}

async fn answer(project: &Arc<Project>, request: Request) -> Result<Reply, Failure> {
    match request {
        Request::EnsureNetwork(config) => project.ensure_network(config).await,
        Request::RemoveNetwork { name } => project.remove_network(&name).await.map(|()| Reply::Done),
        Request::Create(config) => project.create(*config).await.map(|()| Reply::Done),
        Request::Provide { id, file } => project.provide(id, file).await.map(|()| Reply::Done),
        Request::Start { id } => project.container(&id)?.start(Audience::None).await.map(|()| Reply::Done),
        Request::StartAttended { id, size } => {
            project.container(&id)?.start(Audience::Attends { size }).await.map(|()| Reply::Done)
        }
        Request::StartBeside { id, other } => project.container(&id)?.start_beside(other).await.map(|()| Reply::Done),
        Request::TakeOver { id, from } => project.take_over(&id, &from).await.map(|()| Reply::Done),
        Request::Drain { id, limit } => project.drain(&id, limit).await.map(|()| Reply::Done),
        Request::Pause { id } => project.container(&id)?.pause().await.map(|()| Reply::Done),
        Request::Unpause { id } => project.container(&id)?.unpause().await.map(|()| Reply::Done),
        Request::Stop { id, timeout } => project.container(&id)?.stop(timeout).await.map(|how| Reply::Stopped { how }),
        Request::Restart { id, timeout } => project.container(&id)?.restart(timeout).await.map(|()| Reply::Done),
        Request::Kill { id, signal } => project.container(&id)?.kill(signal).await.map(|()| Reply::Done),
        Request::Remove { id, force, volumes } => {
            project.container(&id)?.remove(force, volumes).await.map(|()| Reply::Done)
        }
        Request::Report { id, kind, attributes } => {
            project.container(&id)?.report(kind, attributes).await.map(|()| Reply::Done)
        }
        Request::Rename { id, name } => project.container(&id)?.rename(name).await.map(|()| Reply::Done),
        Request::Connect { id, endpoint } => project.container(&id)?.connect(endpoint).await.map(|()| Reply::Done),
        Request::Disconnect { id, network } => project.container(&id)?.disconnect(network).await.map(|()| Reply::Done),
        Request::Wait { id, condition } => project.container(&id)?.wait(condition).await.map(Reply::State),
        Request::Inspect { id } => project.container(&id)?.inspect().await.map(Reply::State),
        Request::Hello { .. }
        | Request::Subscribe
        | Request::SubscribeSince { .. }
        | Request::Claim { .. }
        | Request::Shutdown => Err(Failure {
            kind: FailureKind::Other,
            message: "this request belongs to the connection itself".to_owned(),
            hint: None,
        }),
    }
}

async fn send(sender: &mpsc::Sender<Message>, number: u32, reply: Reply) {
    // The peer may be gone.
    let _ = sender.send(Message::Reply { number, reply }).await;
}

async fn forward(mut events: broadcast::Receiver<Event>, sender: mpsc::Sender<Message>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if sender.send(Message::Event(event)).await.is_err() {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Lagged(lost)) => tracing::warn!(lost, "a reader of events is too slow"),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Writes until there is nobody left to send, or to read; returns the stream, which dropping would close.
async fn write(mut writer: OwnedWriteHalf, mut messages: mpsc::Receiver<Message>) -> OwnedWriteHalf {
    while let Some(message) = messages.recv().await {
        if wire::write(&mut writer, &message).await.is_err() {
            // Whoever still waits for an answer hears that none comes.
            let _ = writer.shutdown().await;
            break;
        }
    }
    writer
}
