//! `logs`: what the containers wrote.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use clap::Args;
use rcompose_engine::container::log::{self, Options};
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::protocol::{Condition, EventKind};
use rcompose_engine::root::Root;
use tokio::task::JoinSet;

use super::context::Context;
use super::error::Error;
use super::follow::{self, Feeds};
use crate::compose::units;
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::names;
use crate::project::plan::lifecycle;
use crate::ui::logs::{Printer, Source, Stream, Style};

/// How many lines of a container are read ahead while another one's are printed.
const AHEAD: usize = 4096;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose logs -f --tail 20 web
  rcompose logs --since 10m -t")]
pub struct LogsArgs {
    /// Follow log output
    #[arg(short, long)]
    pub follow: bool,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Produce monochrome output
    #[arg(long)]
    no_color: bool,
    /// Don't print prefix in logs
    #[arg(long)]
    no_log_prefix: bool,
    /// Show logs since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs for each container
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_negative_numbers = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    pub services: Vec<String>,
}

pub fn run(context: &Context, args: &LogsArgs) -> Result<(), Error> {
    let now = jiff::Timestamp::now();
    let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
    let options = Options { tail: parse_tail(&args.tail)?, since: time(&args.since)?, until: time(&args.until)? };
    let scope = context.scope()?;
    let engine = Arc::new(context.engine(&scope.name)?);
    let containers = engine.containers()?;
    let mut chosen = scope.select(&containers, &args.services)?;
    chosen.retain(|container| args.index.is_none_or(|index| container.number() == index));
    if let (Some(index), Some(service), true) = (args.index, args.services.first(), chosen.is_empty()) {
        let hint = format!("rcompose ps -a {service}");
        return Err(Error::with_hint(format!("service \"{service}\" is not running container #{index}"), hint));
    }
    chosen.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    let mut printer = Printer::new(Style {
        colours: !args.no_color && context.ui.colours_out(),
        prefix: !args.no_log_prefix,
        timestamps: args.timestamps,
    });
    if args.follow {
        return context.block_on(follow(&engine, args, &chosen, printer, &options));
    }
    let sources = chosen.iter().map(|container| {
        let source = printer.source(names::short(&engine.project, &container.config.name));
        (source, *container)
    });
    let sources = sources.collect::<Vec<_>>();
    if let [(source, container)] = sources.as_slice() {
        let path = log::path(&engine.root.container(&container.config.id), &container.config.id);
        log::read(&path, &options, &mut |entry| follow::show(&mut printer, *source, false, entry))?;
        printer.end(*source)?;
    } else {
        merged(&engine.root, &sources, &options, &mut printer)?;
    }
    Ok(printer.flush()?)
}

/// One entry of a log.
struct Line {
    time: String,
    text: Vec<u8>,
}

/// Prints the logs of several containers in the order of time.
fn merged(
    root: &Root,
    sources: &[(Source, &Container)],
    options: &Options,
    printer: &mut Printer,
) -> Result<(), Error> {
    let mut logs = Vec::new();
    for (source, container) in sources {
        let path = log::path(&root.container(&container.config.id), &container.config.id);
        let options = options.clone();
        let (sender, receiver) = sync_channel(AHEAD);
        let reader = thread::Builder::new().name("log".to_owned()).spawn(move || {
            log::read(&path, &options, &mut |entry| {
                let line = Line { time: entry.time.to_owned(), text: entry.text.to_owned() };
                // Whoever printed has given up.
                sender.send(line).map_err(|_| io::ErrorKind::BrokenPipe.into())
            })
        })?;
        logs.push((*source, receiver, reader));
    }
    let mut heads = BTreeMap::new();
    for (n, (_, receiver, _)) in logs.iter().enumerate() {
        advance(&mut heads, n, receiver);
    }
    while let Some(((_, n), line)) = heads.pop_first() {
        let (source, receiver, _) = &logs[n];
        printer.entry(*source, Stream::Stdout, &line.time, &line.text)?;
        advance(&mut heads, n, receiver);
    }
    for (source, _, reader) in logs {
        printer.end(source)?;
        reader.join().map_err(|_| Error::new("a thread that read a log stopped unexpectedly"))??;
    }
    Ok(())
}

/// Puts a container's next line among those that may be the next to print.
fn advance(heads: &mut BTreeMap<(jiff::Timestamp, usize), Line>, n: usize, receiver: &Receiver<Line>) {
    if let Ok(line) = receiver.recv() {
        let time = line.time.parse().unwrap_or(jiff::Timestamp::MIN);
        heads.insert((time, n), line);
    }
}

/// Shows logs until no container of them runs.
async fn follow(
    engine: &Arc<Engine>,
    args: &LogsArgs,
    chosen: &[&Container],
    printer: Printer,
    options: &Options,
) -> Result<(), Error> {
    let mut feeds = Feeds::new(engine.root.clone(), printer, false);
    for container in chosen {
        feeds.add(&container.config.id, names::short(&engine.project, &container.config.name), options).await?;
    }
    let mut ends = JoinSet::new();
    let running = chosen.iter().filter(|container| lifecycle::is_active(container)).collect::<Vec<_>>();
    if running.is_empty() {
        return feeds.finish().await;
    }
    let client = engine.client().await?;
    let mut events = client.subscribe().await?;
    for container in running {
        ends.spawn(end(Arc::clone(engine), container.config.id.clone()));
    }
    let wanted = |container: &Container| {
        !container.is_oneoff()
            && (args.services.is_empty() || args.services.iter().any(|name| name == container.service()))
            && args.index.is_none_or(|index| index == container.number())
    };
    let later = Options { tail: None, ..options.clone() };
    loop {
        tokio::select! {
            ended = ends.join_next() => match ended {
                None => return feeds.finish().await,
                Some(Ok(result)) => { feeds.end(&result?).await; }
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            // Some may be missed. The client connects to the next supervisor for those who wait for containers.
            event = events.recv() => {
                let Some(event) = event.ok().filter(|event| event.kind == EventKind::Start) else { continue };
                let Some(started) = store::load(&engine.root, &event.id)?.filter(&wanted) else { continue };
                if !feeds.has(&event.id) {
                    let name = names::short(&engine.project, &started.config.name);
                    let since = Options { since: started.state.started_at.or(later.since), ..later.clone() };
                    feeds.add(&event.id, name, &since).await?;
                    ends.spawn(end(Arc::clone(engine), event.id));
                }
            }
            error = feeds.failure() => return Err(error),
        }
    }
}

/// Waits until a container has ended for good, and returns its id.
async fn end(engine: Arc<Engine>, id: rcompose_engine::id::Id) -> Result<rcompose_engine::id::Id, Error> {
    engine.wait(&id, Condition::NotRunning).await?;
    Ok(id)
}

fn parse_tail(text: &str) -> Result<Option<usize>, Error> {
    match text {
        "all" => Ok(None),
        _ if text.starts_with('-') => Ok(None),
        _ => text.parse().map(Some).map_err(|_| Error::new(format!("invalid --tail \"{text}\": a number, or all"))),
    }
}

/// Reads a time (RFC 3339, with less of it than all), seconds since 1970, or how long ago.
pub(super) fn parse_time(text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp, Error> {
    let ago = || {
        let nanoseconds = units::parse_duration(text).ok()?;
        now.checked_sub(jiff::SignedDuration::from_nanos(nanoseconds)).ok()
    };
    let seconds = || {
        let seconds = text.parse::<f64>().ok()?;
        jiff::Timestamp::from_duration(jiff::SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
    };
    let local = || {
        let time = text.parse::<jiff::civil::DateTime>().ok()?;
        time.to_zoned(jiff::tz::TimeZone::system()).ok().map(|time| time.timestamp())
    };
    let time = text.parse().ok().or_else(seconds).or_else(ago).or_else(local);
    time.ok_or_else(|| Error::new(format!("invalid time \"{text}\": such as 2013-01-02T13:23:37Z or 42m")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let read = |text| parse_time(text, now).ok().map(|time| time.to_string());
        assert_eq!(read("2026-11-21T09:00:00Z").as_deref(), Some("2026-11-21T09:00:00Z"));
        assert_eq!(read("10m").as_deref(), Some("2026-11-21T09:50:00Z"));
        assert_eq!(read("1h30m").as_deref(), Some("2026-11-21T08:30:00Z"));
        assert_eq!(read("0").as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(read("yesterday"), None);
    }

    #[test]
    fn tail_is_a_number_or_all() {
        assert!(matches!(parse_tail("all"), Ok(None)));
        assert!(matches!(parse_tail("-1"), Ok(None)));
        assert!(matches!(parse_tail("0"), Ok(Some(0))));
        assert!(parse_tail("some").is_err());
    }
}
