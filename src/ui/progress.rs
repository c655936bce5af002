//! What is being done and what is done, in Docker Compose's words and forms.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use serde::Serialize;

use super::logs::Stream;
use super::{below, tty};

/// What `--progress` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// A block that changes in place on a terminal, and lines elsewhere
    #[default]
    Auto,
    /// The block, wherever it goes
    Tty,
    /// A line for each event
    Plain,
    /// Likewise, as JSON
    Json,
    /// Nothing
    Quiet,
}

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Working,
    Done,
    Warning,
    Error,
}

/// One thing came to another state.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// What it is about, such as `Container shop-web-1`. Events with the same id belong together.
    pub id: &'a str,
    /// What this is a part of, by its id.
    pub parent: Option<&'a str>,
    /// What it is or does, such as `Pulling`; between the id and the status.
    pub text: &'a str,
    /// The state in a word, such as `Started`.
    pub status: &'a str,
    pub state: State,
    /// Bytes done and, as far as it is known, in all.
    pub amount: Option<(u64, Option<u64>)>,
}

impl<'a> Event<'a> {
    pub fn new(id: &'a str, state: State, status: &'a str) -> Self {
        Self { id, parent: None, text: "", status, state, amount: None }
    }
}

/// What stands before everything that is not really done, in Docker Compose's words.
pub const PRETENDED: &str = "DRY-RUN MODE - ";

/// Where events go. Clones show in the same place.
#[derive(Debug, Clone)]
pub struct Progress {
    sink: Sink,
    /// Whether nothing is really done.
    pretended: bool,
}

#[derive(Debug, Clone)]
enum Sink {
    Quiet,
    Plain,
    Json,
    Tty(Arc<tty::Block>),
}

impl Progress {
    /// Returns the place for events of one operation; `title` is its verb, such as `Running`.
    pub fn new(form: Form, colours: bool, title: &'static str) -> Self {
        let tty = match form {
            Form::Auto => io::stderr().is_terminal() && colours,
            Form::Tty => true,
            Form::Plain | Form::Json | Form::Quiet => false,
        };
        let sink = match form {
            _ if tty => Sink::Tty(Arc::new(tty::Block::new(title, colours))),
            Form::Quiet => Sink::Quiet,
            Form::Json => Sink::Json,
            Form::Auto | Form::Tty | Form::Plain => Sink::Plain,
        };
        Self { sink, pretended: false }
    }

    /// Returns the same place for what is not really done.
    #[must_use]
    pub fn pretended(self) -> Self {
        Self { pretended: true, ..self }
    }

    /// Returns a place that shows nothing.
    pub fn quiet() -> Self {
        Self { sink: Sink::Quiet, pretended: false }
    }

    /// Returns whether events are lines for people, one below the other.
    pub fn is_plain(&self) -> bool {
        matches!(self.sink, Sink::Plain)
    }

    pub fn event(&self, event: &Event<'_>) {
        if !self.pretended {
            self.show(event);
            return;
        }
        let id =
            if matches!(self.sink, Sink::Json) { event.id.to_owned() } else { format!("{PRETENDED} {}", event.id) };
        self.show(&Event { id: &id, ..*event });
    }

    fn show(&self, event: &Event<'_>) {
        match &self.sink {
            Sink::Quiet => {}
            Sink::Plain => {
                if let Some(line) = plain(event) {
                    say(&line);
                }
            }
            Sink::Json => say(&json(event, self.pretended)),
            Sink::Tty(block) => block.event(event),
        }
    }

    pub fn working(&self, id: &str, status: &str) {
        self.event(&Event::new(id, State::Working, status));
    }

    pub fn done(&self, id: &str, status: &str) {
        self.event(&Event::new(id, State::Done, status));
    }

    pub fn warning(&self, id: &str, status: &str) {
        self.event(&Event::new(id, State::Warning, status));
    }

    pub fn error(&self, id: &str, status: &str) {
        self.event(&Event::new(id, State::Error, status));
    }

    /// Prints a line that stays, above whatever changes in place.
    pub fn line(&self, text: &str) {
        match &self.sink {
            Sink::Quiet | Sink::Json => {}
            Sink::Plain => say(&format!("{text}\n")),
            Sink::Tty(block) => block.line(text),
        }
    }

    /// Leaves what is shown as it is: the operation is over.
    pub fn finish(&self) {
        if let Sink::Tty(block) = &self.sink {
            block.finish();
        }
    }
}

/// Returns the line for an event. That something begins is news, and not how much of it is done.
fn plain(event: &Event<'_>) -> Option<String> {
    if event.amount.is_some_and(|(current, total)| current > 0 && total != Some(current))
        && event.state == State::Working
    {
        return None;
    }
    let Event { id, text, status, .. } = event;
    Some(format!(" {id} {text} {status}\n"))
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(rename = "dry-run", skip_serializing_if = "std::ops::Not::not")]
    pretended: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u64>,
}

fn json(event: &Event<'_>, pretended: bool) -> String {
    let current = event.amount.map(|(current, _)| current);
    let total = event.amount.and_then(|(_, total)| total);
    let percent = current.zip(total).map(|(current, total)| current.min(total) * 100 / total.max(1));
    let message = Json {
        pretended,
        id: event.id,
        parent_id: event.parent,
        text: event.text,
        status: event.status,
        current,
        total,
        percent,
    };
    let mut line = serde_json::to_string(&message).expect("a structure of texts and numbers always serialises");
    line.push('\n');
    line
}

/// Writes to standard error in one piece. Nobody may be there to read it, which is no reason to stop the work.
fn say(text: &str) {
    let _ = below::write(Stream::Stderr, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_docker_composes() {
        let event = Event::new("Container shop-web-1", State::Done, "Started");
        assert_eq!(plain(&event).as_deref(), Some(" Container shop-web-1  Started\n"));
        let event = Event { text: "Pulling", ..Event::new("web", State::Working, "") };
        assert_eq!(plain(&event).as_deref(), Some(" web Pulling \n"));
    }

    #[test]
    fn an_amount_is_no_line_of_its_own() {
        let event = Event { amount: Some((1, Some(2))), ..Event::new("web", State::Working, "Downloading") };
        assert_eq!(plain(&event), None);
        let begins = Event { amount: Some((0, Some(2))), ..event };
        assert_eq!(plain(&begins).as_deref(), Some(" web  Downloading\n"));
        assert_eq!(
            json(&event, false),
            "{\"id\":\"web\",\"status\":\"Downloading\",\"current\":1,\"total\":2,\"percent\":50}\n"
        );
    }
}
