//! What `with` writes down: events, logs, and what became of everything, for a CI server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitStatus;
use std::thread::JoinHandle;
use std::time::Instant;

use rcompose_engine::container::log;
use rcompose_engine::protocol::Event;
use rcompose_engine::root::Root;
use rcompose_engine::supervisor::client::Client;
use tokio::sync::broadcast;

use super::super::context::runtime;
use super::super::error::{Error, Message};
use super::super::events;
use super::code;
use crate::project::apply::Unready;
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::project::names;

/// Events that are written to a file as they come, until the supervisor of the project ends.
#[derive(Debug)]
pub(super) struct Events {
    thread: JoinHandle<Result<(), Error>>,
}

impl Events {
    /// Begins to write.
    pub(super) fn follow(engine: &Engine, path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
        let (root, project) = (engine.root.clone(), engine.project.clone());
        let runtime = runtime()?;
        // Nothing happens before somebody listens.
        let client = runtime.block_on(Client::connect_or_start(&root, &project, None))?;
        let events = runtime.block_on(client.subscribe())?;
        let name = path.to_owned();
        let follow = move || runtime.block_on(write(root, project, client, events, file, &name));
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(follow);
        let thread = thread.map_err(|error| Error::new(format!("cannot start the thread for events: {error}")))?;
        Ok(Self { thread })
    }

    /// Waits until everything is written.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

async fn write(
    root: Root,
    project: String,
    mut client: Client,
    mut stream: broadcast::Receiver<Event>,
    mut file: File,
    path: &Path,
) -> Result<(), Error> {
    let mut note = |event: &Event| {
        let line = events::as_json(event).unwrap_or_default();
        file.write_all(line.as_bytes()).map_err(|error| cannot_write(path, &error))
    };
    loop {
        tokio::select! {
            biased;
            // Some may be missed; the channel itself lasts as long as the client.
            event = stream.recv() => if let Ok(event) = event {
                note(&event)?;
            },
            () = client.ended() => match Client::connect(&root, &project).await? {
                // It was killed, and this is the next one.
                Some(next) => {
                    stream = next.subscribe().await?;
                    client = next;
                }
                None => return Ok(()),
            },
        }
    }
}

/// Writes the log of each container of a project to a file in a directory, which is made.
pub(super) fn logs(engine: &Engine, directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|error| cannot_write(directory, &error))?;
    for container in engine.containers()? {
        let (id, name) = (&container.config.id, names::short(&engine.project, &container.config.name));
        let path = directory.join(format!("{name}.log"));
        let mut file = io::BufWriter::new(File::create(&path).map_err(|error| cannot_write(&path, &error))?);
        log::read(&log::path(&engine.root.container(id), id), &log::Options::default(), &mut |entry| {
            file.write_all(entry.text)?;
            if entry.text.ends_with(b"\n") { Ok(()) } else { file.write_all(b"\n") }
        })
        .and_then(|()| file.flush())
        .map_err(|error| cannot_write(&path, &error))?;
    }
    Ok(())
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::new(format!("cannot write {}: {error}", path.display()))
}

/// What became of the services and of the command, in JUnit's form.
#[derive(Debug)]
pub(super) struct Report {
    project: String,
    begun: Instant,
    cases: Vec<Case>,
}

#[derive(Debug)]
struct Case {
    name: String,
    seconds: f64,
    failure: Option<String>,
}

impl Report {
    pub(super) fn new(project: &str) -> Self {
        Self { project: project.to_owned(), begun: Instant::now(), cases: Vec::new() }
    }

    /// Notes which services are ready, and why not all are.
    pub(super) fn is_up(&mut self, engine: &Engine, error: Option<&Error>) -> Result<(), Error> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let containers = engine.containers()?;
        let own = || containers.iter().filter(|container| !container.is_oneoff());
        let mut failures = BTreeMap::<String, String>::new();
        for unready in Unready::among(&engine.root, &engine.project, own()) {
            failures.entry(unready.service.clone()).or_insert_with(|| unready.to_string());
        }
        let mut services = own().map(|container| container.service().to_owned()).collect::<Vec<_>>();
        services.sort();
        services.dedup();
        let case =
            |name: String| Case { failure: failures.get(&name).cloned(), name: format!("service {name}"), seconds };
        self.cases.extend(services.into_iter().map(case));
        if let Some(error) = error {
            let text = match error {
                Error::Failed(messages) => {
                    messages.iter().map(|Message { text, .. }| text.as_str()).collect::<Vec<_>>().join("\n")
                }
                Error::Faults(_) => "the compose files have faults".to_owned(),
                Error::Exit(code) => format!("exit code {code}"),
            };
            self.cases.push(Case { name: "up".to_owned(), seconds, failure: Some(text) });
        }
        self.begun = Instant::now();
        Ok(())
    }

    /// Notes how the command ended.
    pub(super) fn ended(&mut self, command: &[OsString], status: ExitStatus) {
        let words = command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let failure = (!status.success()).then(|| format!("exit code {}", code(status)));
        self.cases.push(Case { name: words, seconds: self.begun.elapsed().as_secs_f64(), failure });
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        fs::write(path, self.text()).map_err(|error| cannot_write(path, &error))
    }

    fn text(&self) -> String {
        let failures = self.cases.iter().filter(|case| case.failure.is_some()).count();
        let seconds = self.cases.iter().map(|case| case.seconds).fold(0.0, f64::max);
        let name = escaped(&self.project);
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            text,
            "<testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" time=\"{seconds:.3}\">",
            self.cases.len()
        );
        for case in &self.cases {
            let _ = write!(
                text,
                "  <testcase classname=\"rcompose\" name=\"{}\" time=\"{:.3}\"",
                escaped(&case.name),
                case.seconds
            );
            let _ = match &case.failure {
                None => writeln!(text, "/>"),
                Some(failure) => {
                    let first = escaped(failure.lines().next().unwrap_or_default());
                    let all = escaped(failure);
                    writeln!(text, ">\n    <failure message=\"{first}\">{all}</failure>\n  </testcase>")
                }
            };
        }
        text.push_str("</testsuite>\n");
        text
    }
}

/// Returns text as XML takes it: what it has no way to say is left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_report_is_junits() {
        let mut report = Report::new("shop-1");
        report.ended(&["./run".into(), "a<b".into()], ExitStatus::from_raw(3 << 8));
        report.cases[0].seconds = 1.5;
        assert_eq!(
            report.text(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"shop-1\" tests=\"1\" failures=\"1\" errors=\"0\" time=\"1.500\">\n  \
             <testcase classname=\"rcompose\" name=\"./run a&lt;b\" time=\"1.500\">\n    \
             <failure message=\"exit code 3\">exit code 3</failure>\n  \
             </testcase>\n</testsuite>\n"
        );
        assert_eq!(escaped("a\u{1b}[1m\"&\n"), "a[1m&quot;&amp;\n");
    }
}
