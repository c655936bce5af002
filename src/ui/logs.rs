//! Lines of many containers on one terminal: prefixes, colours, times.

use std::io;

use super::below;
use super::colour::{BRIGHT_GREEN, Colour};

/// How much is written at once, in bytes.
const AT_ONCE: usize = 1 << 16;

/// How log lines are shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub colours: bool,
    /// Begin each line with the name of its source.
    pub prefix: bool,
    pub timestamps: bool,
}

/// Which of our own streams a line goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A source of lines, as [`Printer::source`] numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(usize);

/// Writes log lines to standard output and error. Lines are kept back until [`Printer::flush`].
#[derive(Debug)]
pub struct Printer {
    style: Style,
    names: Vec<String>,
    prefixes: Vec<String>,
    /// What is to be written, and where to.
    written: Vec<u8>,
    stream: Stream,
    /// Lines whose end is still to come, by source and stream, with the time of their beginning.
    begun: Vec<(Source, Stream, String, Vec<u8>)>,
}

impl Printer {
    pub fn new(style: Style) -> Self {
        Self {
            style,
            names: Vec::new(),
            prefixes: Vec::new(),
            written: Vec::with_capacity(AT_ONCE),
            stream: Stream::Stdout,
            begun: Vec::new(),
        }
    }

    /// Returns the source of this name; a new one gets the next colour, and all prefixes its width.
    pub fn source(&mut self, name: &str) -> Source {
        if let Some(known) = self.names.iter().position(|known| known == name) {
            return Source(known);
        }
        self.names.push(name.to_owned());
        self.prefixes = prefixes(self.style, &self.names);
        Source(self.names.len() - 1)
    }

    /// Prints an entry of a log: a line with its newline, or a part of one that goes on in the next entry.
    pub fn entry(&mut self, source: Source, stream: Stream, time: &str, text: &[u8]) -> io::Result<()> {
        let begun = self.begun.iter().position(|(of, on, ..)| (*of, *on) == (source, stream));
        let Some(line) = text.strip_suffix(b"\n") else {
            match begun {
                Some(begun) => self.begun[begun].3.extend_from_slice(text),
                None => self.begun.push((source, stream, time.to_owned(), text.to_vec())),
            }
            return Ok(());
        };
        match begun.map(|begun| self.begun.swap_remove(begun)) {
            None => self.line(source, stream, time, line),
            Some((_, _, time, mut whole)) => {
                whole.extend_from_slice(line);
                self.line(source, stream, &time, &whole)
            }
        }
    }

    /// Prints what a source left without a newline: nothing more of it will come.
    pub fn end(&mut self, source: Source) -> io::Result<()> {
        let (ended, begun) = std::mem::take(&mut self.begun).into_iter().partition(|(of, ..)| *of == source);
        self.begun = begun;
        let ended: Vec<(Source, Stream, String, Vec<u8>)> = ended;
        ended.into_iter().try_for_each(|(source, stream, time, line)| self.line(source, stream, &time, &line))
    }

    fn line(&mut self, source: Source, stream: Stream, time: &str, line: &[u8]) -> io::Result<()> {
        self.turn_to(stream)?;
        self.written.extend_from_slice(self.prefixes[source.0].as_bytes());
        if self.style.timestamps {
            self.written.extend_from_slice(fixed(time).as_bytes());
            self.written.push(b' ');
        }
        self.written.extend_from_slice(line);
        self.written.push(b'\n');
        if self.written.len() < AT_ONCE { Ok(()) } else { self.flush() }
    }

    /// Prints what became of a source, such as `exited with code 0`.
    pub fn status(&mut self, source: Source, text: &str) -> io::Result<()> {
        let line = format!("{} {text}", self.names[source.0]);
        let line = if self.style.colours { Colour::of_prefix(source.0).paint(&line) } else { line };
        self.say(&line)
    }

    /// Prints a line of our own below those of the sources, marked as ours where those have their names.
    pub fn announce(&mut self, text: &str) -> io::Result<()> {
        if !self.style.prefix {
            return self.say(text);
        }
        let mark = format!("{:1$} ⦿ ", "", width(&self.names));
        let mark = if self.style.colours { BRIGHT_GREEN.paint(&mark) } else { mark };
        self.say(&format!("{mark}{text}"))
    }

    /// Prints a line of our own on standard output.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.turn_to(Stream::Stdout)?;
        self.written.extend_from_slice(text.as_bytes());
        self.written.push(b'\n');
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        let written = below::write(self.stream, &self.written);
        self.written.clear();
        written
    }

    /// Lets out what was written to the other stream, so that lines keep their order where both are the same terminal
    /// or file.
    fn turn_to(&mut self, stream: Stream) -> io::Result<()> {
        if stream != self.stream {
            self.flush()?;
            self.stream = stream;
        }
        Ok(())
    }
}

/// Returns a time with all nine digits of its second, as Docker prints it, so that lines stand below each other.
fn fixed(time: &str) -> String {
    let Some(whole) = time.strip_suffix('Z') else { return time.to_owned() };
    let (second, fraction) = whole.split_once('.').unwrap_or((whole, ""));
    format!("{second}.{fraction:0<9}Z")
}

/// Returns how wide the names of sources are printed.
fn width(names: &[String]) -> usize {
    names.iter().map(String::len).max().unwrap_or(0) + 1
}

fn prefixes(style: Style, names: &[String]) -> Vec<String> {
    let width = width(names);
    let prefix = |(n, name): (usize, &String)| {
        if !style.prefix {
            return String::new();
        }
        let text = format!("{name:width$} | ");
        if style.colours { Colour::of_prefix(n).paint(&text) } else { text }
    };
    names.iter().enumerate().map(prefix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colours: false, prefix: true, timestamps: false };

    #[test]
    fn prefixes_are_as_wide_as_the_longest_name_and_one_blank() {
        let names = ["web-1".to_owned(), "database-1".to_owned()];
        assert_eq!(prefixes(PLAIN, &names), ["web-1       | ", "database-1  | "]);
    }

    #[test]
    fn each_source_has_its_colour() {
        let names = ["a-1".to_owned(), "b-1".to_owned()];
        let painted = prefixes(Style { colours: true, ..PLAIN }, &names);
        assert_eq!(painted, ["\x1b[36ma-1  | \x1b[0m", "\x1b[33mb-1  | \x1b[0m"]);
        assert_eq!(prefixes(Style { prefix: false, ..PLAIN }, &names), ["", ""]);
    }

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(fixed("2026-11-21T09:30:01.25Z"), "2026-11-21T09:30:01.250000000Z");
        assert_eq!(fixed("2026-11-21T09:30:01Z"), "2026-11-21T09:30:01.000000000Z");
        assert_eq!(fixed("whenever"), "whenever");
    }

    #[test]
    fn a_name_is_one_source() {
        let mut printer = Printer::new(PLAIN);
        let web = printer.source("web-1");
        assert_ne!(web, printer.source("db-1"));
        assert_eq!(web, printer.source("web-1"));
    }
}
