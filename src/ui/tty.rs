//! Progress as a block that changes in place: a header with a count, and a line for each thing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::colour::{BLUE, Colour, GREEN, RED, YELLOW};
use super::progress::{Event, State};
use super::{human, table};

/// How often a spinner turns and times are counted on.
const TICK: Duration = Duration::from_millis(100);

/// How much of the width labels may take, in percent.
const LABELS: usize = 70;

/// How many characters a bar has.
const CELLS: u64 = 12;

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The block of one operation.
#[derive(Debug)]
pub(super) struct Block {
    shared: Arc<Shared>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    over: Condvar,
}

#[derive(Debug)]
struct Inner {
    title: &'static str,
    colours: bool,
    bars: MultiProgress,
    header: ProgressBar,
    lines: Vec<Line>,
    frame: usize,
    finished: bool,
}

#[derive(Debug)]
struct Line {
    id: String,
    parent: Option<String>,
    text: String,
    status: String,
    state: State,
    amount: Option<(u64, Option<u64>)>,
    started: Instant,
    /// How long it took; `None` while it goes on.
    took: Option<Duration>,
    bar: ProgressBar,
}

impl Block {
    pub(super) fn new(title: &'static str, colours: bool) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let header = ProgressBar::new_spinner().with_style(style());
        let inner = Inner { title, colours, bars, header, lines: Vec::new(), frame: 0, finished: false };
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), over: Condvar::new() }), ticker: Mutex::new(None) }
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        let mut inner = self.shared.lock();
        if inner.finished {
            return;
        }
        if inner.lines.is_empty() {
            let header = inner.header.clone();
            inner.header = inner.bars.add(header);
            let shared = Arc::clone(&self.shared);
            let mut ticker = self.ticker.lock().expect("no holder of this lock panics");
            ticker.get_or_insert_with(|| thread::spawn(move || shared.tick()));
        }
        inner.update(event);
        inner.draw();
    }

    pub(super) fn line(&self, text: &str) {
        // The terminal may be gone, which is no reason to stop the work.
        let _ = self.shared.lock().bars.println(text);
    }

    pub(super) fn finish(&self) {
        self.shared.lock().finish();
        self.shared.over.notify_all();
        let ticker = self.ticker.lock().expect("no holder of this lock panics").take();
        if let Some(ticker) = ticker {
            ticker.join().expect("drawing does not panic");
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Draws again and again until the operation is over.
    fn tick(&self) {
        let mut inner = self.lock();
        while !inner.finished {
            inner = self.over.wait_timeout(inner, TICK).expect("no holder of this lock panics").0;
            inner.frame += 1;
            inner.draw();
        }
    }
}

impl Inner {
    fn update(&mut self, event: &Event<'_>) {
        let line = if let Some(known) = self.lines.iter_mut().position(|line| line.id == event.id) {
            &mut self.lines[known]
        } else {
            // Parts stand below what they belong to.
            let place = event
                .parent
                .and_then(|parent| {
                    self.lines.iter().rposition(|line| line.id == parent || line.parent.as_deref() == Some(parent))
                })
                .map_or(self.lines.len(), |above| above + 1);
            let bar = self.bars.insert(place + 1, ProgressBar::new_spinner().with_style(style()));
            let line = Line {
                id: event.id.to_owned(),
                parent: event.parent.map(str::to_owned),
                text: String::new(),
                status: String::new(),
                state: State::Working,
                amount: None,
                started: Instant::now(),
                took: None,
                bar,
            };
            self.lines.insert(place, line);
            &mut self.lines[place]
        };
        event.text.clone_into(&mut line.text);
        event.status.clone_into(&mut line.status);
        line.state = event.state;
        line.measure(event.amount);
        if event.state == State::Working {
            line.took = None;
        } else {
            line.took.get_or_insert_with(|| line.started.elapsed());
        }
    }

    fn draw(&mut self) {
        if self.finished || self.lines.is_empty() {
            return;
        }
        let width = console::Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        let column = self.lines.iter().map(Line::label_width).max().unwrap_or(0).min(width * LABELS / 100);
        let moving = self.lines.iter().filter_map(|line| line.amount);
        let (current, total) = moving.fold((0, 0), |(current, total), (done, all)| {
            let all = all.unwrap_or(done);
            (current + done.min(all), total + all)
        });
        self.header.set_length(total);
        if self.header.position() != current {
            self.header.set_position(current);
        }
        for line in &self.lines {
            line.bar.set_message(line.render(column, width, SPINNER[self.frame % SPINNER.len()], self.colours));
        }
        self.header.set_message(self.head(width));
    }

    fn head(&self, width: usize) -> String {
        // Parts are not counted for themselves.
        let whole = || self.lines.iter().filter(|line| line.parent.is_none());
        let done = whole().filter(|line| line.state != State::Working).count();
        let all = whole().count();
        let mut text = format!("[+] {} {done}/{all}", self.title);
        if let Some(total) = self.header.length().filter(|total| *total > 0 && done < all) {
            let current = self.header.position();
            let whole = format!("{text}  {}", amount(&self.header, current, Some(total)));
            text = if whole.chars().count() < width { whole } else { format!("{text}  {}", percent(current, total)) };
        }
        if self.colours && done == all { BLUE.paint(&text) } else { text }
    }

    fn finish(&mut self) {
        if self.finished {
            return;
        }
        self.draw();
        self.finished = true;
        if self.lines.is_empty() {
            return;
        }
        self.header.abandon();
        for line in &self.lines {
            line.bar.abandon();
        }
    }
}

impl Line {
    /// Takes down how far it is; from that come its rate and the time that remains.
    fn measure(&mut self, amount: Option<(u64, Option<u64>)>) {
        match (self.amount, amount) {
            (None | Some((0, _)), Some((current, total))) => {
                self.bar.set_length(total.unwrap_or(current));
                // What was there when it began did not come now.
                self.bar.set_position(current);
                self.bar.reset_eta();
            }
            (Some((before, _)), Some((current, _))) if current != before => self.bar.set_position(current),
            _ => {}
        }
        self.amount = amount;
    }

    fn indent(&self) -> usize {
        if self.parent.is_some() { 3 } else { 1 }
    }

    /// Returns the characters up to the status.
    fn label_width(&self) -> usize {
        let text = self.text.chars().count();
        self.indent() + 2 + self.id.chars().count() + if text > 0 { text + 1 } else { 0 }
    }

    /// Returns the line for a terminal of `width` columns, with the status at `column` and the time at the right.
    fn render(&self, column: usize, width: usize, spinner: &str, colours: bool) -> String {
        let (icon, colour): (&str, Option<Colour>) = match self.state {
            State::Working => (spinner, Some(BLUE)),
            State::Done => ("✔", Some(GREEN)),
            State::Warning => ("!", Some(YELLOW)),
            State::Error => ("✘", Some(RED)),
        };
        let paint = |colour: Option<Colour>, text: &str| match colour {
            Some(colour) if colours => colour.paint(text),
            _ => text.to_owned(),
        };
        let took = self.took.unwrap_or_else(|| self.started.elapsed());
        let time = format!("{:.1}s ", took.as_secs_f64());
        let label = if self.text.is_empty() { self.id.clone() } else { format!("{} {}", self.id, self.text) };
        let label = table::cut(&label, column.saturating_sub(self.indent() + 2));
        let gap = (column + 2).saturating_sub(self.indent() + 2 + label.chars().count());
        let room = width.saturating_sub(column + 2 + time.len() + 1);
        let mut status = self.status.clone();
        if let Some((current, total)) = self.amount
            && self.state == State::Working
            && current > 0
            && total.is_none_or(|total| current < total)
        {
            let whole = format!("{status} {}", amount(&self.bar, current, total));
            let short = total.map_or_else(|| human::size(current), |total| percent(current, total));
            status = if whole.chars().count() <= room { whole } else { format!("{short} {status}") };
        }
        // What does not fit is cut, so that a line is one line.
        if status.chars().count() > room {
            status = status.chars().take(room).collect();
        }
        let filling = room - status.chars().count() + 1;
        let status = paint(colour.filter(|_| self.state != State::Working), &status);
        format!(
            "{:indent$}{} {label}{:gap$}{status}{:filling$}{}",
            "",
            paint(colour, icon),
            "",
            "",
            paint(Some(BLUE), &time),
            indent = self.indent(),
        )
    }
}

/// Returns how much is done, how fast it goes on, and how long it will take.
fn amount(bar: &ProgressBar, current: u64, total: Option<u64>) -> String {
    let Some(total) = total.filter(|total| *total > 0) else { return human::size(current) };
    let filled = usize::try_from(current.min(total) * CELLS / total).unwrap_or(0);
    let cells = usize::try_from(CELLS).unwrap_or(0);
    let drawn = format!("[{}{}]", "█".repeat(filled), "░".repeat(cells - filled));
    let mut text = format!("{drawn} {}/{}", human::size(current), human::size(total));
    let rate = bar.per_sec();
    if rate >= 1.0 && current < total {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "three digits are shown")]
        let shown = rate as u64;
        text = format!("{text} {}/s", human::size(shown));
        let left = bar.eta().as_secs();
        // A day or more is no estimate.
        if left < 24 * 60 * 60 {
            text = match left {
                0..60 => format!("{text} {left}s"),
                60..3600 => format!("{text} {}m{:02}s", left / 60, left % 60),
                _ => format!("{text} {}h{:02}m", left / 3600, left / 60 % 60),
            };
        }
    }
    text
}

fn percent(current: u64, total: u64) -> String {
    format!("{}%", current.min(total) * 100 / total.max(1))
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").expect("the template is a constant and valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, status: &str, state: State) -> Line {
        Line {
            id: id.to_owned(),
            parent: None,
            text: String::new(),
            status: status.to_owned(),
            state,
            amount: None,
            started: Instant::now(),
            took: Some(Duration::from_millis(340)),
            bar: ProgressBar::hidden(),
        }
    }

    #[test]
    fn statuses_and_times_stand_below_each_other() {
        let (a, b) =
            (line("Network p_default", "Created", State::Done), line("Container p-web-1", "Starting", State::Working));
        let column = a.label_width().max(b.label_width());
        assert_eq!(a.render(column, 50, "⠋", false), " ✔ Network p_default  Created                0.3s ");
        assert_eq!(b.render(column, 50, "⠋", false), " ⠋ Container p-web-1  Starting               0.3s ");
    }

    #[test]
    fn what_comes_has_a_bar_until_it_is_there() {
        let mut line = line("7b97c3e76b80", "Downloading", State::Working);
        line.measure(Some((0, Some(2_000_000))));
        assert!(!line.render(20, 80, "⠋", false).contains('█'));
        line.measure(Some((500_000, Some(2_000_000))));
        let drawn = line.render(20, 80, "⠋", false);
        assert!(drawn.contains("Downloading [███░░░░░░░░░] 500kB/2MB"), "{drawn}");
        assert!(line.render(20, 44, "⠋", false).contains("25% Downloading"), "a bar has no room there");
        line.measure(Some((2_000_000, Some(2_000_000))));
        assert!(!line.render(20, 80, "⠋", false).contains('█'));
    }

    #[test]
    fn a_long_label_leaves_room_for_the_status() {
        let long =
            line("#4 [web 1/2] FROM docker.io/library/busybox:latest@sha256:241d7e623d0d", "CACHED", State::Done);
        assert_eq!(long.render(30, 50, "⠋", false), " ✔ #4 [web 1/2] FROM docker.i…  CACHED       0.3s ");
    }

    #[test]
    fn a_narrow_terminal_gets_a_cut_status() {
        let a = line("Container p-web-1", "Skipped: something long", State::Warning);
        assert_eq!(a.render(a.label_width(), 36, "⠋", false).chars().count(), 36);
        assert!(a.render(a.label_width(), 5, "⠋", false).ends_with("0.3s "));
    }
}
