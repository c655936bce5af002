//! The line that stands below everything else on the terminal, such as the keys of attached `up`. Whatever is written while it
//! is there goes above it, so everything of ours that is no data goes this way to standard output and error.

use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::logs::Stream;

/// To the beginning of the line, and away with what is on it and below it (ECMA-48, 8.3.39).
const ERASE: &str = "\r\x1b[J";

static LINE: Mutex<Line> = Mutex::new(Line { parts: None, drawn: 0 });

#[derive(Debug)]
struct Line {
    parts: Option<Vec<String>>,
    /// How many columns of the terminal it takes now.
    drawn: usize,
}

/// Shows a line of parts below everything else from now on, of which those are left out that the terminal has no room for.
/// `None`: no longer.
pub fn set(parts: Option<Vec<String>>) -> io::Result<()> {
    let mut line = lock();
    if line.parts.is_none() && parts.is_none() {
        return Ok(());
    }
    line.parts = parts;
    line.write(Stream::Stdout, b"")
}

/// Writes whole lines to standard output or error, in one piece.
pub fn write(to: Stream, lines: &[u8]) -> io::Result<()> {
    let mut line = lock();
    if line.parts.is_some() { line.write(to, lines) } else { send(to, lines) }
}

impl Line {
    /// Takes it away, writes these lines, and shows it again.
    fn write(&mut self, to: Stream, lines: &[u8]) -> io::Result<()> {
        let columns = console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        let mut all = Vec::with_capacity(lines.len() + 128);
        // A window that became narrower has broken it into several.
        if let Some(above @ 1..) = self.drawn.saturating_sub(1).checked_div(columns) {
            all.extend_from_slice(format!("\x1b[{above}A").as_bytes());
        }
        all.extend_from_slice(ERASE.as_bytes());
        all.extend_from_slice(lines);
        let shown = self.parts.as_deref().map(|parts| fitting(parts, columns)).unwrap_or_default();
        self.drawn = console::measure_text_width(&shown);
        all.extend_from_slice(shown.as_bytes());
        send(to, &all)
    }
}

fn send(to: Stream, bytes: &[u8]) -> io::Result<()> {
    match to {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes),
    }
}

/// Returns as many parts as there is room for. The last column stays free: a terminal may begin another line behind it.
fn fitting(parts: &[String], columns: usize) -> String {
    let mut shown = String::new();
    let mut width = 0;
    for part in parts {
        let gap = if shown.is_empty() { 0 } else { GAP.len() };
        width += gap + console::measure_text_width(part);
        if width >= columns {
            break;
        }
        shown.push_str(&GAP[..gap]);
        shown.push_str(part);
    }
    shown
}

const GAP: &str = "   ";

fn lock() -> MutexGuard<'static, Line> {
    // Whoever panics has the line as it was.
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_fit_are_left_out() {
        let parts = ["\x1b[1md\x1b[0m Detach".to_owned(), "w Enable Watch".to_owned(), "q Stop".to_owned()];
        assert_eq!(console::strip_ansi_codes(&fitting(&parts, 80)), "d Detach   w Enable Watch   q Stop");
        assert_eq!(console::strip_ansi_codes(&fitting(&parts, 34)), "d Detach   w Enable Watch");
        assert_eq!(console::strip_ansi_codes(&fitting(&parts, 9)), "d Detach");
        assert_eq!(fitting(&parts, 8), "");
    }
}
