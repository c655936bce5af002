//! The only place that writes to the terminal.

pub mod attach;
pub mod below;
pub mod build;
pub mod colour;
pub mod diagnostics;
pub mod format;
pub mod human;
pub mod keyboard;
pub mod lend;
pub mod logs;
pub mod name;
pub mod plan;
pub mod ports;
pub mod progress;
pub mod table;
pub mod terminal;
pub mod timeline;
mod tty;

use std::io::{self, Write as _};

use crate::compose::{Diagnostic, Severity};
use colour::{Ansi, BOLD, GREEN, RED, YELLOW};
use logs::Stream;
use name::Name;
use progress::{Form, Progress};

/// Returns the items as text, one on each line.
pub fn lines(items: impl IntoIterator<Item: std::fmt::Display>) -> String {
    let mut text = String::new();
    for item in items {
        text.push_str(&item.to_string());
        text.push('\n');
    }
    text
}

/// How this command speaks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ui {
    pub ansi: Ansi,
    pub form: Form,
    /// Whether what is said to be done is not really done.
    pub pretends: bool,
    /// What this program was called, and calls itself.
    pub name: Name,
}

impl Ui {
    /// Returns whether data on standard output gets colours.
    pub fn colours_out(self) -> bool {
        self.ansi.on(&io::stdout())
    }

    /// Returns whether what we say on standard error gets colours.
    pub fn colours_err(self) -> bool {
        self.ansi.on(&io::stderr())
    }

    /// Prints data.
    pub fn out(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Prints a line for people beside the data.
    pub fn say(self, text: &str) {
        // Nobody may be there to read it, which is no reason to stop the work.
        let _ = below::write(Stream::Stderr, format!("{text}\n").as_bytes());
    }

    pub fn warn(self, text: &str) {
        let word = if self.colours_err() { YELLOW.paint("warning") } else { "warning".to_owned() };
        self.say(&format!("{word}: {}", self.name.in_text(text)));
    }

    /// Prints what went wrong, and below it what to do about it.
    pub fn error(self, message: &str, hint: Option<&str>) {
        let colours = self.colours_err();
        let word = if colours { RED.paint("error") } else { "error".to_owned() };
        self.say(&format!("{word}: {}", diagnostics::tame(&self.name.in_text(message))));
        if let Some(hint) = hint {
            let word = if colours { GREEN.paint("help") } else { "help".to_owned() };
            self.say(&format!("  {word}: {}", diagnostics::tame(&self.name.in_text(hint))));
        }
    }

    /// Shows faults of compose files, or remarks about them.
    pub fn diagnostics(self, found: &[Diagnostic]) {
        let colours = self.colours_err();
        for diagnostic in found {
            match self.form {
                Form::Json => self.say(&diagnostics::json(diagnostic)),
                _ => self.say(&diagnostics::render(diagnostic, colours)),
            }
        }
        let errors = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
        if errors > 1 && self.form != Form::Json {
            self.say(&format!("{errors} errors"));
        }
    }

    /// Asks a question on the terminal; anything but yes is no, and so is nobody there.
    pub fn confirm(self, question: &str) -> bool {
        let question = if self.colours_err() { BOLD.paint(question) } else { question.to_owned() };
        let asked = write!(io::stderr().lock(), "{question} [yN] ");
        let mut answer = String::new();
        asked.is_ok()
            && io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES")
    }

    /// Says what will be removed and asks whether it may, in Docker's words.
    pub fn confirm_removal(self, what: &str) -> bool {
        let asked = write!(io::stdout().lock(), "{what}\nAre you sure you want to continue? [y/N] ");
        let flushed = io::stdout().lock().flush();
        let mut answer = String::new();
        asked.is_ok()
            && flushed.is_ok()
            && io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// Returns a place that shows the steps of an operation one below the other, between lines of others.
    pub fn lines(self, title: &'static str) -> Progress {
        let form = match self.form {
            Form::Auto | Form::Tty => Form::Plain,
            form => form,
        };
        Progress::new(form, false, title)
    }

    /// Returns the place to show the steps of an operation, whose verb is `title`.
    pub fn progress(self, title: &'static str) -> Progress {
        let progress = Progress::new(self.form, self.colours_err(), title);
        if self.pretends { progress.pretended() } else { progress }
    }
}
