//! Lines of many containers on one terminal: prefixes, colours, times.

use std::io::{self, BufWriter, Stderr, Stdout, Write as _};

use super::colour::Colour;

/// How log lines are shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub colours: bool,
    /// Begin each line with the name of its source.
    pub prefix: bool,
    pub timestamps: bool,
}

/// Which of the container's streams a line came from, as far as it decides where it goes.
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
    stdout: BufWriter<Stdout>,
    stderr: BufWriter<Stderr>,
    last: Stream,
}

impl Printer {
    pub fn new(style: Style) -> Self {
        Self {
            style,
            names: Vec::new(),
            prefixes: Vec::new(),
            stdout: BufWriter::with_capacity(1 << 16, io::stdout()),
            stderr: BufWriter::new(io::stderr()),
            last: Stream::Stdout,
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

    /// Prints one line, which has no newline at its end.
    pub fn line(&mut self, source: Source, stream: Stream, time: jiff::Timestamp, line: &[u8]) -> io::Result<()> {
        let prefix = self.prefixes[source.0].clone();
        let timestamps = self.style.timestamps;
        let out = self.to(stream)?;
        out.write_all(prefix.as_bytes())?;
        if timestamps {
            write!(out, "{time:.9} ")?;
        }
        out.write_all(line)?;
        out.write_all(b"\n")
    }

    /// Prints what became of a source, such as `exited with code 0`.
    pub fn status(&mut self, source: Source, text: &str) -> io::Result<()> {
        let line = format!("{} {text}", self.names[source.0]);
        let line = if self.style.colours { Colour::of_prefix(source.0).paint(&line) } else { line };
        writeln!(self.to(Stream::Stdout)?, "{line}")
    }

    /// Prints a line of our own on standard output.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to(Stream::Stdout)?, "{text}")
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }

    /// Returns where a stream's lines go. What was written to the other one goes out first, so that lines keep their
    /// order where both are the same terminal or file.
    fn to(&mut self, stream: Stream) -> io::Result<&mut dyn io::Write> {
        if stream != self.last {
            self.flush()?;
            self.last = stream;
        }
        Ok(match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        })
    }
}

fn prefixes(style: Style, names: &[String]) -> Vec<String> {
    let width = names.iter().map(String::len).max().unwrap_or(0) + 1;
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
    fn a_name_is_one_source() {
        let mut printer = Printer::new(PLAIN);
        let web = printer.source("web-1");
        assert_ne!(web, printer.source("db-1"));
        assert_eq!(web, printer.source("web-1"));
    }
}
