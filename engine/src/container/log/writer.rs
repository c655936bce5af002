//! Reads a container's FIFOs or terminal and writes its log, so that a `kill -9` between any two instructions loses
//! nothing and doubles nothing.
//!
//! Everything that matters is in a small file on tmpfs that is mapped into memory and that the next shim maps again:
//! - *Reading.* The end that a read will reach is recorded, and random bytes are left where its last bytes will land. A
//!   pipe gives exactly what it was found to hold (`FIONREAD`) in one call that no signal can cut short, so whether the
//!   random bytes are still there tells whether the read happened.
//! - *Writing.* Where a write begins in the log file, how long it is, and what of the buffer it covers is recorded
//!   before. If the file has that length the write happened; if not, it is cut off there and done again.
//! - *Rotating.* The renaming that comes next is recorded before it is done; a file that is not there was renamed already.
//!
//! Only the death of this process is guarded against, not that of the machine: nothing is synced.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::LogFile;
use super::entry::{self, Tail};
use super::forward::Forwarder;
use super::{Stream, rotated};
use crate::sys::shared::Shared;
use crate::sys::{self, process};

/// Bytes of output that a stream's buffer holds.
const BUFFER: usize = 64 << 10;
/// The longest line that is written as one entry, as Docker's.
const LINE: usize = 16 << 10;
/// About how much is written to the file at once.
const CHUNK: usize = 64 << 10;
/// Below this much room a buffer is tidied before it is read into.
const ROOM: usize = 16 << 10;
const SENTINEL: usize = 16;
const PAGE: usize = 4096;

/// Words of the state file's first page.
mod word {
    /// Number of the stream + 1 in the upper half, the end of its buffer after the read in the lower; 0: no read.
    pub(super) const READING: usize = 0;
    /// Number of the stream + 1 whose output is being written; 0: no write.
    pub(super) const WRITING: usize = 1;
    pub(super) const WRITE_OFFSET: usize = 2;
    pub(super) const WRITE_LENGTH: usize = 3;
    /// The start of the stream's buffer after the write.
    pub(super) const WRITE_START: usize = 4;
    /// The number that the next file of a rotation is renamed to; 0: no rotation.
    pub(super) const ROTATING: usize = 5;
    /// Two words: the part of each stream's buffer that is read but not written, start in the upper half.
    pub(super) const SPAN: usize = 8;
    /// Two words.
    pub(super) const SENTINEL: usize = 12;
}

/// Writes one container's log. Only one may exist for a container at a time.
#[derive(Debug)]
pub struct Writer {
    state: Shared,
    /// Opened when there is something to write: a silent container costs no file.
    file: Option<File>,
    path: PathBuf,
    size: u64,
    max_size: Option<u64>,
    max_file: u32,
    /// What every entry has of the container's attributes.
    attributes: String,
    /// Who gets the lines as well.
    forward: Option<Forwarder>,
    /// Whether reads come from a terminal, which may give less than it was found to hold.
    terminal: bool,
    /// Bytes that could not be written, because the disk was full or the like.
    pub dropped: u64,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// This many bytes were read and every full line of them was written.
    Bytes(usize),
    /// There was nothing to read.
    Nothing,
}

impl Writer {
    /// Opens the log at `path` and takes up where the writer before stopped, according to `state`.
    pub fn open(
        path: &Path,
        state: impl AsFd,
        config: &LogFile,
        terminal: bool,
        forward: Option<Forwarder>,
    ) -> io::Result<Self> {
        const LENGTH: NonZeroUsize = NonZeroUsize::new(PAGE + 2 * BUFFER).expect("it is not zero");
        let state = Shared::map(state, LENGTH)?;
        let mut writer = Self {
            state,
            file: None,
            path: path.to_owned(),
            size: 0,
            max_size: config.max_size.filter(|size| *size > 0),
            max_file: config.max_file.max(1),
            attributes: entry::attributes(&config.attributes),
            forward,
            terminal,
            dropped: 0,
        };
        writer.recover()?;
        Ok(writer)
    }

    /// Finishes what a writer before this one was doing when it was killed.
    fn recover(&mut self) -> io::Result<()> {
        if self.word(word::ROTATING) != 0 {
            self.rotate_from(self.word(word::ROTATING))?;
        }
        self.size = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        if let Some(stream) = index(self.word(word::WRITING)) {
            let (start, end) = self.span(stream);
            let (offset, length) = (self.word(word::WRITE_OFFSET), self.word(word::WRITE_LENGTH));
            let after = narrow(self.word(word::WRITE_START));
            if start != after {
                if self.size >= offset + length {
                    self.set_span(stream, after, end);
                } else {
                    self.file()?.set_len(offset)?;
                    self.size = offset;
                }
            }
            self.set_word(word::WRITING, 0);
        }
        let reading = self.word(word::READING);
        if let Some(stream) = index(reading >> 32) {
            let (start, end) = self.span(stream);
            let reached = narrow(reading & 0xFFFF_FFFF);
            if reached > end {
                let read = self.read_before_death(stream, end, reached);
                self.set_span(stream, start, end + read);
            }
            self.set_word(word::READING, 0);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.write_lines(stream, false);
        }
        Ok(())
    }

    /// Returns how many bytes the interrupted read got.
    fn read_before_death(&self, stream: Stream, end: usize, reached: usize) -> usize {
        let buffer = self.state.bytes(region(stream, end, reached));
        let sentinel = self.sentinel();
        if self.terminal {
            // The whole place was filled with the pattern: what was read ends where the pattern begins to hold.
            let kept = (0..buffer.len()).rev().take_while(|index| buffer[*index] == sentinel[index % SENTINEL]).count();
            return buffer.len() - kept;
        }
        let length = buffer.len().min(SENTINEL);
        let untouched = buffer[buffer.len() - length..] == sentinel[..length];
        if untouched { 0 } else { buffer.len() }
    }

    /// Reads what there is, shows it to `sink` and writes every full line. The descriptor must have no other reader.
    pub fn pump(
        &mut self,
        stream: Stream,
        fd: BorrowedFd<'_>,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> io::Result<Pumped> {
        let available = process::readable(fd)?;
        if available == 0 {
            return Ok(Pumped::Nothing);
        }
        self.tidy(stream);
        let (start, end) = self.span(stream);
        let length = available.min(BUFFER - end);
        self.leave_sentinel(stream, end, length);
        self.set_word(word::READING, (number(stream) << 32) | wide(end + length));
        let count = self.state.read(fd, region(stream, end, end + length));
        if let Ok(count) = count {
            self.set_span(stream, start, end + count);
        }
        self.set_word(word::READING, 0);
        let count = count?;
        sink(stream, self.state.bytes(region(stream, end, end + count)));
        self.write_lines(stream, false);
        Ok(Pumped::Bytes(count))
    }

    /// Writes what is left of both streams: the last line may lack its line feed.
    pub fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.write_lines(stream, true);
        }
        if let Some(forward) = &mut self.forward {
            forward.finish();
        }
    }

    /// Returns who does not take what was forwarded, and whether the container has to wait for that.
    pub fn behind(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.forward.as_ref().and_then(Forwarder::behind)
    }

    /// Forwards what had to wait.
    pub fn flush(&mut self) {
        if let Some(forward) = &mut self.forward {
            forward.flush();
        }
    }

    /// Puts bytes that are hard to mistake for output where the read will end, and touches every page, so that the read
    /// cannot fail half-way for want of memory.
    fn leave_sentinel(&mut self, stream: Stream, end: usize, length: usize) {
        let mut sentinel = [0_u8; SENTINEL];
        sys::random(&mut sentinel);
        for byte in &mut sentinel {
            // None of these is part of a UTF-8 text.
            *byte |= 0xF8;
        }
        for (half, bytes) in sentinel.chunks_exact(8).enumerate() {
            let bytes = bytes.try_into().expect("the half has eight bytes");
            self.set_word(word::SENTINEL + half, u64::from_le_bytes(bytes));
        }
        let terminal = self.terminal;
        let buffer = self.state.bytes_mut(region(stream, end, end + length));
        if terminal {
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = sentinel[index % SENTINEL];
            }
            return;
        }
        for first in buffer.iter_mut().step_by(PAGE) {
            *first = 0;
        }
        let tail = length.min(SENTINEL);
        buffer[length - tail..].copy_from_slice(&sentinel[..tail]);
    }

    /// Moves what is left in a buffer to its beginning. Nothing overlaps, so it can be done again after a death half-way.
    fn tidy(&mut self, stream: Stream) {
        let (start, end) = self.span(stream);
        if start == end {
            self.set_span(stream, 0, 0);
        } else if BUFFER - end < ROOM && end - start <= start {
            let (front, back) = self.state.bytes_mut(region(stream, 0, end)).split_at_mut(start);
            front[..back.len()].copy_from_slice(back);
            self.set_span(stream, 0, end - start);
        }
    }

    /// Writes the lines of a stream's buffer; with `all` also what has no line feed yet.
    fn write_lines(&mut self, stream: Stream, all: bool) {
        let (first, last) = self.span(stream);
        if first == last {
            return;
        }
        let time = jiff::Timestamp::now();
        let tail = Tail::new(stream, &self.attributes, time);
        let mut out = Vec::new();
        loop {
            let (start, end) = self.span(stream);
            let room = self.max_size.map_or(usize::MAX, |max| narrow(max.saturating_sub(self.size)));
            out.clear();
            let covered = format(&mut out, self.state.bytes(region(stream, start, end)), &tail, all, room);
            if covered == 0 {
                return;
            }
            let fits = out.len() <= room || self.size == 0;
            if !fits && self.rotate().is_ok() {
                continue;
            }
            self.set_word(word::WRITE_OFFSET, self.size);
            self.set_word(word::WRITE_LENGTH, wide(out.len()));
            self.set_word(word::WRITE_START, wide(start + covered));
            self.set_word(word::WRITING, number(stream));
            let size = self.size;
            if self.file().and_then(|file| file.write_all_at(&out, size)).is_ok() {
                self.size += wide(out.len());
            } else {
                // As Docker: a service goes on when there is no room for its log. What was written in part is taken
                // back, so that the file stays readable.
                self.file().and_then(|file| file.set_len(size)).ok();
                self.dropped += wide(covered);
            }
            if let Some(forward) = &mut self.forward {
                let mut lines = self.state.bytes(region(stream, start, start + covered));
                while let Some(length) = first_line(lines, true) {
                    forward.line(stream, &lines[..length], time);
                    lines = &lines[length..];
                }
            }
            self.set_span(stream, start + covered, end);
            self.set_word(word::WRITING, 0);
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file == 1 {
            self.file()?.set_len(0)?;
        } else {
            let last = u64::from(self.max_file - 1);
            self.set_word(word::ROTATING, last);
            self.rotate_from(last)?;
            self.file = None;
        }
        self.size = 0;
        Ok(())
    }

    /// Renames the files, oldest first, beginning with the one that becomes number `next`.
    fn rotate_from(&mut self, next: u64) -> io::Result<()> {
        for index in (1..=next).rev() {
            self.set_word(word::ROTATING, index);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            match std::fs::rename(rotated(&self.path, index - 1), rotated(&self.path, index)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        self.set_word(word::ROTATING, 0);
        Ok(())
    }

    fn file(&mut self) -> io::Result<&File> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(open(&self.path)?)),
        }
    }

    fn word(&self, index: usize) -> u64 {
        self.atomic(index).load(Ordering::SeqCst)
    }

    /// Stores a word. The order in which words are stored is the order in which a successor can find them stored.
    fn set_word(&self, index: usize, value: u64) {
        self.atomic(index).store(value, Ordering::SeqCst);
    }

    fn atomic(&self, index: usize) -> &AtomicU64 {
        self.state.word(index)
    }

    fn span(&self, stream: Stream) -> (usize, usize) {
        let span = self.word(word::SPAN + position(stream));
        (narrow(span >> 32).min(BUFFER), narrow(span & 0xFFFF_FFFF).min(BUFFER))
    }

    fn set_span(&self, stream: Stream, start: usize, end: usize) {
        self.set_word(word::SPAN + position(stream), (wide(start) << 32) | wide(end));
    }

    fn sentinel(&self) -> [u8; SENTINEL] {
        let mut sentinel = [0; SENTINEL];
        for (half, bytes) in sentinel.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.word(word::SENTINEL + half).to_le_bytes());
        }
        sentinel
    }
}

/// Appends entries for the lines of `data`, until `out` is long enough or would exceed `room`, and returns how much of
/// `data` they cover. The first entry is made whatever the room.
fn format(out: &mut Vec<u8>, data: &[u8], tail: &Tail, all: bool, room: usize) -> usize {
    let mut covered = 0;
    while covered < data.len() && out.len() < CHUNK {
        let rest = &data[covered..];
        let Some(length) = first_line(rest, all) else { break };
        let before = out.len();
        entry::append(out, &rest[..length], tail);
        if out.len() > room && before > 0 {
            out.truncate(before);
            break;
        }
        covered += length;
    }
    covered
}

/// Returns how long the first line of a text is, or the part of it that an entry holds; with `all` also without its end.
fn first_line(text: &[u8], all: bool) -> Option<usize> {
    let window = &text[..text.len().min(LINE)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(feed) => Some(feed + 1),
        None if window.len() == LINE => Some(character_boundary(window)),
        None => (all && !text.is_empty()).then_some(text.len()),
    }
}

/// Returns where to cut a line that is too long, so that no character is cut in two.
fn character_boundary(text: &[u8]) -> usize {
    let back = text.iter().rev().take(4).position(|byte| byte & 0xC0 != 0x80);
    match back {
        // The last character's first byte, unless the character is whole.
        Some(back) if std::str::from_utf8(&text[text.len() - back - 1..]).is_err() && back < 3 => text.len() - back - 1,
        _ => text.len(),
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).mode(0o640).open(path)
}

fn region(stream: Stream, start: usize, end: usize) -> std::ops::Range<usize> {
    let base = PAGE + position(stream) * BUFFER;
    base + start..base + end
}

fn position(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

/// Returns the number of a stream in the state file, which is never 0.
fn number(stream: Stream) -> u64 {
    wide(position(stream)) + 1
}

fn index(number: u64) -> Option<Stream> {
    match number {
        1 => Some(Stream::Stdout),
        2 => Some(Stream::Stderr),
        _ => None,
    }
}

fn wide(number: usize) -> u64 {
    number as u64
}

fn narrow(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Log {
        directory: tempfile::TempDir,
        state: File,
        max_size: Option<u64>,
        max_file: u32,
    }

    impl Log {
        fn new(max_size: Option<u64>, max_file: u32) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let state = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(directory.path().join("log.state"))
                .unwrap();
            Self { directory, state, max_size, max_file }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("log")
        }

        fn writer(&self) -> Writer {
            let config = LogFile { max_size: self.max_size, max_file: self.max_file, ..LogFile::default() };
            Writer::open(&self.path(), &self.state, &config, false, None).unwrap()
        }

        /// Returns the texts of a file's entries.
        fn texts(&self, index: u32) -> Vec<String> {
            let text = std::fs::read_to_string(rotated(&self.path(), index)).unwrap_or_default();
            let text = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            text.map(|entry| entry["log"].as_str().unwrap().to_owned()).collect()
        }
    }

    fn ignore(_: Stream, _: &[u8]) {}

    fn pipe(content: &[u8]) -> std::io::PipeReader {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(content).unwrap();
        reader
    }

    #[test]
    fn lines_are_split_and_joined_as_docker_does() {
        let log = Log::new(None, 1);
        let mut writer = log.writer();
        writer.pump(Stream::Stdout, pipe(b"one\ntw").as_fd(), &mut ignore).unwrap();
        writer.pump(Stream::Stderr, pipe(b"other\n").as_fd(), &mut ignore).unwrap();
        writer.pump(Stream::Stdout, pipe(b"o\n\nlast").as_fd(), &mut ignore).unwrap();
        assert_eq!(log.texts(0), ["one\n", "other\n", "two\n", "\n"]);
        writer.finish();
        assert_eq!(log.texts(0)[4], "last");
    }

    #[test]
    fn a_long_line_becomes_several_entries() {
        let log = Log::new(None, 1);
        let mut writer = log.writer();
        let mut text = "x".repeat(LINE - 1);
        text.push_str("é and more\n");
        writer.pump(Stream::Stdout, pipe(text.as_bytes()).as_fd(), &mut ignore).unwrap();
        let texts = log.texts(0);
        assert_eq!((texts.len(), texts[0].len()), (2, LINE - 1));
        assert_eq!(texts.concat(), text);
    }

    #[test]
    fn files_are_rotated_at_line_ends() {
        let log = Log::new(Some(400), 3);
        let mut writer = log.writer();
        for number in 0..20 {
            writer.pump(Stream::Stdout, pipe(format!("line {number}\n").as_bytes()).as_fd(), &mut ignore).unwrap();
        }
        let all: Vec<String> = (0..4).rev().flat_map(|index| log.texts(index)).collect();
        assert!(log.texts(3).is_empty() && all.len() < 20, "{all:?}");
        assert_eq!(all.last().unwrap(), "line 19\n");
        let first: usize = all[0].trim_start_matches("line ").trim().parse().unwrap();
        assert_eq!(all.len(), 20 - first);
    }

    /// What a killed writer can leave behind at each step of a read and of a write.
    #[test]
    fn a_successor_finishes_what_was_interrupted() {
        // Killed before the read: the sentinel is untouched, the data still in the pipe.
        let log = Log::new(None, 1);
        let mut writer = log.writer();
        writer.leave_sentinel(Stream::Stdout, 0, 5);
        writer.set_word(word::READING, (1 << 32) | 5);
        drop(writer);
        let mut writer = log.writer();
        writer.pump(Stream::Stdout, pipe(b"one\n\n").as_fd(), &mut ignore).unwrap();
        assert_eq!(log.texts(0), ["one\n", "\n"]);

        // Killed after the read: the data is in the buffer only.
        writer.tidy(Stream::Stdout);
        writer.leave_sentinel(Stream::Stdout, 0, 4);
        writer.set_word(word::READING, (1 << 32) | 4);
        writer.state.bytes_mut(region(Stream::Stdout, 0, 4)).copy_from_slice(b"two\n");
        drop(writer);
        let mut writer = log.writer();
        assert_eq!(log.texts(0), ["one\n", "\n", "two\n"]);

        // Killed in the middle of a write, then just after one.
        for complete in [false, true] {
            writer.tidy(Stream::Stdout);
            writer.state.bytes_mut(region(Stream::Stdout, 0, 6)).copy_from_slice(b"three\n");
            writer.set_span(Stream::Stdout, 0, 6);
            let mut out = Vec::new();
            entry::append(&mut out, b"three\n", &Tail::new(Stream::Stdout, "", jiff::Timestamp::now()));
            writer.set_word(word::WRITE_OFFSET, writer.size);
            writer.set_word(word::WRITE_LENGTH, wide(out.len()));
            writer.set_word(word::WRITE_START, 6);
            writer.set_word(word::WRITING, 1);
            let written = if complete { out.len() } else { out.len() / 2 };
            let size = writer.size;
            writer.file().unwrap().write_all_at(&out[..written], size).unwrap();
            drop(writer);
            writer = log.writer();
        }
        assert_eq!(log.texts(0), ["one\n", "\n", "two\n", "three\n", "three\n"]);
    }

    #[test]
    fn an_interrupted_rotation_is_finished() {
        let log = Log::new(Some(100), 3);
        std::fs::write(log.path(), "b").unwrap();
        std::fs::write(rotated(&log.path(), 2), "a").unwrap();
        let state = Shared::map(&log.state, NonZeroUsize::new(PAGE).unwrap()).unwrap();
        state.word(word::ROTATING).store(2, Ordering::SeqCst);
        drop(state);
        let mut writer = log.writer();
        assert_eq!(std::fs::read_to_string(rotated(&log.path(), 1)).unwrap(), "b");
        assert_eq!(std::fs::read_to_string(rotated(&log.path(), 2)).unwrap(), "a");
        assert_eq!((writer.size, writer.word(word::ROTATING)), (0, 0));
        writer.pump(Stream::Stdout, pipe(b"c\n").as_fd(), &mut ignore).unwrap();
        assert_eq!(log.texts(0), ["c\n"]);
    }
}
