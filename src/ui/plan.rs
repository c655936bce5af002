//! A plan for people to read.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value as Json;

use super::colour::{BOLD, Colour, GREEN, RED, YELLOW};
use crate::compose::Place;
use crate::project::plan::document::{Changed, Document, Entry, Rolling, Verb};

/// The longest value that is shown whole, in characters.
const LONGEST: usize = 60;

/// Returns what a plan does and why; places in files are shown as they are called from a directory.
pub fn render(document: &Document, directory: &Path, colours: bool) -> String {
    let paint = |colour: Colour, text: &str| if colours { colour.paint(text) } else { text.to_owned() };
    let mut text = paint(BOLD, &format!("{}: {}", document.project, summary(document))) + "\n";
    // Nobody waits for anything where nothing is done.
    let waits = document.changes().next().is_some();
    let shown = |step: &&Entry| is_shown(step) && (waits || step.action.changes());
    for step in document.steps.iter().filter(shown) {
        let (symbol, colour) = symbol(step.action);
        let _ = write!(text, "\n{} {}: {}", paint(colour, symbol), sentence(step), step.cause.text);
        if let Some(place) = &step.cause.place {
            let _ = write!(text, " ({})", place_in(place, directory));
        }
        for change in &step.cause.changes {
            let _ = write!(text, "\n    {}", describe(change));
            if let Some(place) = &change.place {
                let _ = write!(text, " ({})", place_in(place, directory));
            }
        }
        if let Some(rolling) = &step.rolling {
            let _ = write!(text, "\n    {}", replaced(rolling));
        }
        if step.interrupts {
            let _ = write!(text, "\n    {}", paint(YELLOW, "it does not run meanwhile"));
        }
        for loss in &step.loses {
            let _ = write!(text, "\n    {}", paint(RED, &format!("lost: {loss}")));
        }
    }
    if document.steps.iter().any(|step| shown(&step)) { text + "\n" } else { text }
}

/// Returns what a step does to what, such as `create container shop-web-1`.
pub fn sentence(step: &Entry) -> String {
    let verb = match step.action {
        Verb::Pull => "pull",
        Verb::Create => "create",
        Verb::Replace => "replace",
        Verb::Update => "update",
        Verb::Remove => "remove",
        Verb::Rename => "rename",
        Verb::Start => "start",
        Verb::Stop => "stop",
        Verb::Restart => "restart",
        Verb::Kill => "kill",
        Verb::Pause => "pause",
        Verb::Unpause => "unpause",
        Verb::Keep => "keep",
        Verb::WaitUntilHealthy => return format!("wait until {} is healthy", step.name),
        Verb::WaitUntilRunning => return format!("wait until {} is running or healthy", step.name),
        Verb::WaitUntilCompleted => return format!("wait until {} has ended well", step.name),
        Verb::Join => return "go on".to_owned(),
    };
    format!("{verb} {} {}", step.kind.word(), step.name)
}

/// Returns whether a step says anything that the others do not.
fn is_shown(step: &Entry) -> bool {
    match step.action {
        Verb::Keep | Verb::Join => false,
        // That what is made is started goes without saying.
        Verb::Start => step.cause.reason != "missing",
        _ => true,
    }
}

fn symbol(verb: Verb) -> (&'static str, Colour) {
    match verb {
        Verb::Pull | Verb::Create => ("+", GREEN),
        Verb::Replace | Verb::Update | Verb::Rename => ("~", YELLOW),
        Verb::Remove | Verb::Kill => ("-", RED),
        Verb::Stop | Verb::Pause => ("<", YELLOW),
        Verb::Start | Verb::Restart | Verb::Unpause => (">", GREEN),
        Verb::Keep | Verb::WaitUntilHealthy | Verb::WaitUntilRunning | Verb::WaitUntilCompleted | Verb::Join => {
            (".", BOLD)
        }
    }
}

fn summary(document: &Document) -> String {
    let count = |verbs: &[Verb]| document.steps.iter().filter(|step| verbs.contains(&step.action)).count();
    let started = document.steps.iter().filter(|step| step.action == Verb::Start && is_shown(step)).count();
    let counts = [
        (count(&[Verb::Pull]), "to pull"),
        (count(&[Verb::Create]), "to create"),
        (count(&[Verb::Replace]), "to replace"),
        (count(&[Verb::Update]), "to update"),
        (count(&[Verb::Remove]), "to remove"),
        (count(&[Verb::Stop]), "to stop"),
        (started, "to start"),
    ];
    let counts = counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
    let kept = match count(&[Verb::Keep]) {
        0 => None,
        1 => Some("1 stays as it is".to_owned()),
        n => Some(format!("{n} stay as they are")),
    };
    if document.changes().next().is_none() {
        return kept.map_or_else(|| "nothing to do".to_owned(), |kept| format!("nothing to do, {kept}"));
    }
    counts.chain(kept).collect::<Vec<_>>().join(", ")
}

fn replaced(rolling: &Rolling) -> String {
    let names = rolling.containers.join(", ");
    let how = match rolling.at_a_time {
        at_a_time if at_a_time >= rolling.containers.len() => String::new(),
        at_a_time => format!(", {at_a_time} at a time"),
    };
    let order = if rolling.start_first {
        "beside the old one, which stops when it has taken over"
    } else {
        "when the old one has stopped"
    };
    format!("replaced{how}, each new one started {order}: {names}")
}

fn describe(change: &Changed) -> String {
    let path = &change.path;
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("{path}: {} → {}", value(old), value(new)),
        (None, Some(new)) => format!("{path}: {} is new", value(new)),
        (Some(old), None) => format!("{path}: {} is gone", value(old)),
        (None, None) => path.clone(),
    }
}

/// Returns a value on one line, cut where it is long.
fn value(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn place_in(place: &Place, directory: &Path) -> String {
    let file = place.file.strip_prefix(directory).unwrap_or(&place.file);
    format!("{}:{}:{}", file.display(), place.line, place.column)
}
