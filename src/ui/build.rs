//! How builds go on, in BuildKit's forms: lines with the number of the step, or a block that changes in place.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rcompose_engine::build::graph::Span;
use rcompose_engine::build::{Event, Phase, seconds};

use super::progress::{Event as Line, Progress, State};

/// Lines of a Dockerfile that are shown before and after the one that is meant.
const AROUND: usize = 2;

/// Shows builds as they go on.
#[derive(Debug)]
pub struct BuildProgress {
    lines: Progress,
    several: bool,
    steps: Mutex<Steps>,
}

/// The steps that are known: by build, graph and vertex, the number and when it began.
type Steps = BTreeMap<(String, usize, usize), (usize, Instant)>;

impl BuildProgress {
    /// `several`: steps say which build they belong to.
    pub fn new(lines: Progress, several: bool) -> Self {
        Self { lines, several, steps: Mutex::default() }
    }

    /// Shows an event.
    pub fn event(&self, event: &Event) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let next = steps.len() + 1;
        let (number, begun) = *steps
            .entry((event.build.to_string(), event.graph, event.vertex))
            .or_insert_with(|| (next, Instant::now()));
        let name = self.name(event);
        if self.lines.is_plain() {
            self.plain(event, number, &name, begun);
        } else {
            self.in_place(event, number, &name);
        }
    }

    fn name(&self, event: &Event) -> String {
        match event.name.strip_prefix('[') {
            Some(rest) if self.several => format!("[{} {rest}", event.build),
            _ => event.name.to_string(),
        }
    }

    fn plain(&self, event: &Event, number: usize, name: &str, begun: Instant) {
        match &event.phase {
            Phase::Started => self.lines.line(&format!("#{number} {name}")),
            Phase::Cached => self.lines.line(&format!("#{number} {name}\n#{number} CACHED\n")),
            Phase::Output(line) => self.output(number, begun, line),
            Phase::Remark(lines) => lines.iter().for_each(|line| self.output(number, begun, line.as_bytes())),
            Phase::Done(time) => self.lines.line(&format!("#{number} DONE {}\n", seconds(*time))),
            Phase::Failed(_, why) => self.lines.line(&format!("#{number} ERROR: {why}\n")),
            Phase::Cancelled => self.lines.line(&format!("#{number} CANCELED\n")),
            // Lines would be many, and stay.
            Phase::Received(..) => {}
        }
    }

    fn output(&self, number: usize, begun: Instant, line: &[u8]) {
        self.lines.line(&format!("#{number} {:.3} {}", begun.elapsed().as_secs_f64(), tame(line)));
    }

    fn in_place(&self, event: &Event, number: usize, name: &str) {
        let id = format!("#{number} {name}");
        let show = |state, status: &str| self.lines.event(&Line::new(&id, state, status));
        match &event.phase {
            Phase::Started => show(State::Working, ""),
            Phase::Cached => show(State::Done, "CACHED"),
            Phase::Output(line) => show(State::Working, &tame(line)),
            Phase::Remark(lines) => {
                for line in lines {
                    self.lines.line(&tame(line.as_bytes()));
                }
                show(State::Working, &lines.first().map(|line| tame(line.as_bytes())).unwrap_or_default());
            }
            // How long it took stands at the end of every line.
            Phase::Done(_) => show(State::Done, "DONE"),
            Phase::Failed(..) => show(State::Error, "ERROR"),
            Phase::Cancelled => show(State::Warning, "CANCELED"),
            Phase::Received(received, of) => {
                let amount = Some((*received, *of));
                self.lines.event(&Line { amount, ..Line::new(&id, State::Working, "") });
            }
        }
    }
}

/// Makes a line of a command's output fit to be shown: what would move the cursor is left out.
fn tame(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    // Of what rewrites itself the last version.
    let last = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    last.split('\t').map(super::diagnostics::tame).collect::<Vec<_>>().join("\t")
}

/// Returns the lines of a Dockerfile around those that are meant, as BuildKit shows them.
pub fn excerpt(name: &str, text: &str, span: Span) -> String {
    let (first, last) = (span.start.line as usize, span.end.line as usize);
    let mut shown = format!("{name}:{first}\n--------------------\n");
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if number + AROUND < first || number > last + AROUND {
            continue;
        }
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let line = super::diagnostics::tame(line);
        let _ = writeln!(shown, "{number:4} | {mark} {line}");
    }
    shown + "--------------------"
}

/// Returns the last lines that a failed step wrote, as BuildKit repeats them.
pub fn repeated(name: &str, output: &[String]) -> String {
    let mut shown = format!("------\n > {name}:\n");
    for line in output {
        let _ = writeln!(shown, "{}", tame(line.as_bytes()));
    }
    shown + "------"
}
