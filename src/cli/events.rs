//! `events`: what happens to the containers, as it happens.

use std::collections::BTreeMap;

use clap::Args;
use rcompose_engine::container::store;
use rcompose_engine::protocol::{Event, EventKind};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use super::context::Context;
use super::error::Error;
use crate::project::labels::SERVICE;

/// What labels of our own begin with, which are no news.
const OURS: &str = "com.docker.compose.";

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Output events as a stream of json objects
    #[arg(long)]
    json: bool,
    services: Vec<String>,
}

/// An event with Docker Compose's keys.
#[derive(Serialize)]
struct Json<'a> {
    action: &'a str,
    attributes: &'a BTreeMap<&'a str, &'a str>,
    id: &'a str,
    service: &'a str,
    time: String,
    r#type: &'static str,
}

pub fn run(context: &Context, args: &EventsArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    scope.select(&store::list(&engine.root, Some(&scope.name))?, &args.services)?;
    context.block_on(async {
        loop {
            let client = engine.client().await?;
            let mut events = client.subscribe().await?;
            loop {
                match events.recv().await {
                    Ok(event) => context.ui.out(&line(&event, args).unwrap_or_default())?,
                    Err(RecvError::Lagged(_)) => {}
                    // The supervisor has died, and another one takes over.
                    Err(RecvError::Closed) => break,
                }
            }
            engine.give_up(&client).await;
        }
    })
}

/// Returns the line for an event of one of the services; other events have none.
fn line(event: &Event, args: &EventsArgs) -> Option<String> {
    let service = event.attributes.get(SERVICE)?;
    if !args.services.is_empty() && !args.services.contains(service) {
        return None;
    }
    let mut attributes = event
        .attributes
        .iter()
        .filter(|(name, _)| !name.starts_with(OURS))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect::<BTreeMap<_, _>>();
    attributes.insert("name", &event.name);
    let (time, action) = (event.time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string(), action(event.kind)?);
    let id = event.id.as_str();
    if args.json {
        let json = Json { action: &action, attributes: &attributes, id, service, time, r#type: "container" };
        let line = serde_json::to_string(&json).expect("a structure of texts always serialises");
        return Some(format!("{line}\n"));
    }
    let attributes = attributes.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    Some(format!("{time} container {action} {id} ({})\n", attributes.join(", ")))
}

/// Returns Docker's word for what happened to a container.
fn action(kind: EventKind) -> Option<String> {
    let word = match kind {
        EventKind::Create => "create",
        EventKind::Start => "start",
        EventKind::Kill => "kill",
        EventKind::Die => "die",
        EventKind::Stop => "stop",
        EventKind::Restart => "restart",
        EventKind::Oom => "oom",
        EventKind::Pause => "pause",
        EventKind::Unpause => "unpause",
        EventKind::Rename => "rename",
        EventKind::Destroy => "destroy",
        EventKind::Health(status) => return Some(format!("health_status: {}", status.as_str())),
        EventKind::NetworkCreate
        | EventKind::NetworkConnect
        | EventKind::NetworkDisconnect
        | EventKind::NetworkDestroy => return None,
    };
    Some(word.to_owned())
}

#[cfg(test)]
mod tests {
    use rcompose_engine::id::Id;

    use super::*;

    #[test]
    fn an_event_is_said_in_docker_composes_form() {
        let attributes =
            [(SERVICE, "web"), ("image", "busybox"), ("exitCode", "0"), ("com.docker.compose.project", "p")];
        let event = Event {
            time: "2026-11-21T10:00:00.5Z".parse().unwrap(),
            kind: EventKind::Die,
            id: Id::random(),
            name: "p-web-1".into(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        let all = EventsArgs { json: false, services: Vec::new() };
        let want = format!(
            "2026-11-21 10:00:00.500000 container die {} (exitCode=0, image=busybox, name=p-web-1)\n",
            event.id
        );
        assert_eq!(line(&event, &all), Some(want));
        assert_eq!(line(&event, &EventsArgs { json: false, services: vec!["db".into()] }), None);
    }
}
