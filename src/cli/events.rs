//! `events`: what happens to the containers, as it happens.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use rcompose_engine::container::store;
use rcompose_engine::protocol::{Event, EventKind};
use serde::Serialize;

use super::context::Context;
use super::error::Error;
use super::logs::parse_time;
use crate::project::labels::{ONEOFF, SERVICE};

/// How long events that happened before the end may be on their way.
const GRACE: Duration = Duration::from_millis(100);

/// What labels of our own begin with, which are no news.
const OURS: &str = "com.docker.compose.";

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose events --json --since 10m")]
pub struct EventsArgs {
    /// Output events as a stream of json objects
    #[arg(long)]
    json: bool,
    /// Show all events created since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
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
    let now = jiff::Timestamp::now();
    let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
    let (mut since, until) = (time(&args.since)?, time(&args.until)?);
    context.block_on(async {
        loop {
            let client = engine.client().await?;
            let mut events = match since {
                Some(since) => client.subscribe_since(since).await?,
                // What is over by then was before now.
                None if until.is_some_and(|until| until <= jiff::Timestamp::now()) => {
                    client.subscribe_since(jiff::Timestamp::MIN).await?
                }
                None => client.subscribe().await?,
            };
            let mut over = Box::pin(at(until));
            loop {
                let event = tokio::select! {
                    // What is there already comes before the end.
                    biased;
                    event = events.recv() => event,
                    () = &mut over => return Ok(()),
                    () = client.ended() => break,
                };
                match event {
                    Ok(event) if until.is_some_and(|until| event.time > until) => return Ok(()),
                    Ok(event) => context.ui.out(&line(&event, args).unwrap_or_default())?,
                    // Some were missed: the channel itself lasts as long as the client.
                    Err(_) => {}
                }
            }
            // The supervisor has died, and another one takes over, which remembers what it sees from its beginning.
            since = Some(jiff::Timestamp::now());
            engine.give_up(&client).await;
        }
    })
}

/// Waits until a time has come, and a little for what is on its way then.
async fn at(until: Option<jiff::Timestamp>) {
    match until {
        Some(until) => {
            let left = Duration::try_from(until.duration_since(jiff::Timestamp::now())).unwrap_or_default();
            tokio::time::sleep(left + GRACE).await;
        }
        None => std::future::pending().await,
    }
}

/// Returns an event as `--json` prints it, with its line end; other events than those of containers have no form.
pub fn as_json(event: &Event) -> Option<String> {
    line(event, &EventsArgs { json: true, since: None, until: None, services: Vec::new() })
}

/// Returns the line for an event of one of the services; other events have none.
fn line(event: &Event, args: &EventsArgs) -> Option<String> {
    let service = event.attributes.get(SERVICE)?;
    // As Docker Compose: what `run` makes is none of the service's business.
    if event.attributes.get(ONEOFF).is_some_and(|oneoff| oneoff == "True") {
        return None;
    }
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
    let (time, action) = (event.time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string(), action(&event.kind)?);
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
fn action(kind: &EventKind) -> Option<String> {
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
        EventKind::ExecCreate(command) => return Some(format!("exec_create: {command}")),
        EventKind::ExecStart(command) => return Some(format!("exec_start: {command}")),
        EventKind::ExecDie => "exec_die",
        EventKind::Attach => "attach",
        EventKind::Resize => "resize",
        EventKind::ArchivePath => "archive-path",
        EventKind::ExtractToDir => "extract-to-dir",
        EventKind::Export => "export",
        EventKind::Commit => "commit",
        EventKind::Top => "top",
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
        let all = EventsArgs { json: false, since: None, until: None, services: Vec::new() };
        let want = format!(
            "2026-11-21 10:00:00.500000 container die {} (exitCode=0, image=busybox, name=p-web-1)\n",
            event.id
        );
        assert_eq!(line(&event, &all), Some(want));
        assert_eq!(line(&event, &EventsArgs { services: vec!["db".into()], ..all }), None);
    }
}
