//! Reads a container's log back: all of it or its end, over rotated files, and as it grows.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, Inotify};

use super::{Stream, rotated};

/// How much is read from a file at once, in bytes.
const BLOCK: usize = 256 << 10;

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only this many entries from the end.
    pub tail: Option<usize>,
    /// Only entries of this time and later.
    pub since: Option<jiff::Timestamp>,
    /// Only entries before or at this time.
    pub until: Option<jiff::Timestamp>,
}

/// One entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub stream: Stream,
    /// RFC 3339, as it is in the log.
    pub time: &'a str,
    /// With the line feed, unless the line goes on in the next entry of the same stream.
    pub text: &'a [u8],
}

impl Entry<'_> {
    /// Returns when the entry was written.
    pub fn timestamp(&self) -> Option<jiff::Timestamp> {
        self.time.parse().ok()
    }
}

/// Whether an emitter wants more.
pub type Emit<'a> = dyn FnMut(Entry<'_>) -> io::Result<()> + 'a;

/// Emits what is in the log at `path` (`container::log::path`) now. A log that does not exist is empty.
pub fn read(path: &Path, options: &Options, emit: &mut Emit<'_>) -> io::Result<()> {
    Follow::new(path, options, false)?.advance(emit).map(drop)
}

/// Emits what is in the log and what is added to it, until `gone` is readable or hung up and all that was written by then
/// is emitted, or `until` is reached.
///
/// A connection to the container's shim is the thing to pass as `gone`: the shim ends when the log is complete.
pub fn follow(path: &Path, options: &Options, gone: BorrowedFd<'_>, emit: &mut Emit<'_>) -> io::Result<()> {
    let mut follow = Follow::new(path, options, true)?;
    loop {
        if follow.advance(emit)? {
            return Ok(());
        }
        let mut fds = [PollFd::new(follow.as_fd(), PollFlags::POLLIN), PollFd::new(gone, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        if fds[1].any().unwrap_or(true) {
            return follow.advance(emit).map(drop);
        }
    }
}

/// A log that is being read. Its descriptor is readable when [`Follow::advance`] may have something new.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    inotify: Option<Inotify>,
    /// The files still to be read, the current one first.
    files: Vec<(File, u64)>,
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
    buffer: Vec<u8>,
    text: Vec<u8>,
}

impl Follow {
    /// Opens a log at the place that `options` ask for; `watch` where its growth is wanted too.
    pub fn new(path: &Path, options: &Options, watch: bool) -> io::Result<Self> {
        // Watch first, so that nothing is written between the reading and the watching.
        let inotify = if watch {
            let inotify = crate::host::inotify()?;
            let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            inotify.add_watch(path.parent().unwrap_or(Path::new("/")), flags)?;
            Some(inotify)
        } else {
            None
        };
        // From the newest on: a rotation meanwhile can show a file twice, but never hide one.
        let mut files: Vec<(File, u64)> = Vec::new();
        let mut seen: Vec<u64> = Vec::new();
        for index in 0.. {
            let file = match File::open(rotated(path, index)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound && index == 0 => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let inode = file.metadata()?.ino();
            if !seen.contains(&inode) {
                seen.push(inode);
                files.push((file, 0));
            }
        }
        if let Some(tail) = options.tail {
            seek_tail(&mut files, tail)?;
        }
        files.reverse();
        let (since, until) = (options.since, options.until);
        Ok(Self { path: path.to_owned(), inotify, files, since, until, buffer: vec![0; BLOCK], text: Vec::new() })
    }

    /// Emits every entry that is complete. Returns whether the end that was asked for is reached. Where `emit` fails, the next
    /// call goes on behind the entry that it was given.
    pub fn advance(&mut self, emit: &mut Emit<'_>) -> io::Result<bool> {
        if let Some(inotify) = &self.inotify {
            // Only that something happened matters. EAGAIN: nothing did, or all of it is read.
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        loop {
            if self.files.is_empty() {
                match File::open(&self.path) {
                    Ok(file) => self.files.push((file, 0)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            if self.read_current(emit)? {
                return Ok(true);
            }
            if self.files.len() > 1 {
                self.files.remove(0);
                continue;
            }
            let Some(next) = self.successor()? else { return Ok(false) };
            // What was written between the end we saw and the rotation.
            if self.read_current(emit)? {
                return Ok(true);
            }
            self.files = vec![(next, 0)];
        }
    }

    /// Returns the file that was begun after the current one, if that was rotated.
    fn successor(&self) -> io::Result<Option<File>> {
        let Some((current, _)) = self.files.first() else { return Ok(None) };
        let inode = current.metadata()?.ino();
        let mut newer = None;
        for index in 0.. {
            match File::open(rotated(&self.path, index)) {
                Ok(file) if file.metadata()?.ino() == inode => return Ok(newer),
                Ok(file) => newer = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound && index == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        // It was rotated away altogether: go on with the oldest there is.
        Ok(newer)
    }

    fn read_current(&mut self, emit: &mut Emit<'_>) -> io::Result<bool> {
        let Some((file, offset)) = self.files.first_mut() else { return Ok(false) };
        // With a single file, rotation means that it is emptied.
        if file.metadata()?.len() < *offset {
            *offset = 0;
        }
        loop {
            let count = file.read_at(&mut self.buffer, *offset)?;
            let Some(last) = self.buffer[..count].iter().rposition(|byte| *byte == b'\n') else {
                if count == self.buffer.len() {
                    // An entry longer than the buffer, which only others could have written.
                    self.buffer.resize(count * 2, 0);
                    continue;
                }
                return Ok(false);
            };
            for line in self.buffer[..=last].split_inclusive(|byte| *byte == b'\n') {
                *offset += line.len() as u64;
                let Some((stream, time)) = parse(line, &mut self.text) else { continue };
                let entry = Entry { stream, time, text: &self.text };
                if self.since.is_some() || self.until.is_some() {
                    let time = entry.timestamp();
                    if self.since.is_some_and(|since| time.is_some_and(|time| time < since)) {
                        continue;
                    }
                    if self.until.is_some_and(|until| time.is_some_and(|time| time > until)) {
                        return Ok(true);
                    }
                }
                emit(entry)?;
            }
        }
    }
}

impl AsFd for Follow {
    /// Returns the descriptor that becomes readable.
    ///
    /// # Panics
    /// Where the log was opened without `watch`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_ref().expect("the log was opened to watch it").as_fd()
    }
}

/// Sets the offsets of `files` (newest first) to the last `tail` entries and drops the files that hold none of them.
fn seek_tail(files: &mut Vec<(File, u64)>, mut tail: usize) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    for number in 0..files.len() {
        let (file, offset) = &mut files[number];
        let mut end = file.metadata()?.len();
        if tail == 0 {
            *offset = end;
            files.truncate(number + 1);
            return Ok(());
        }
        let mut first = true;
        while end > 0 {
            let start = end.saturating_sub(BLOCK as u64);
            let length = usize::try_from(end - start).unwrap_or(BLOCK);
            file.read_exact_at(&mut block[..length], start)?;
            for index in (0..length).rev() {
                if block[index] != b'\n' {
                    continue;
                }
                // The line feed at the very end closes the last entry and begins none.
                if std::mem::take(&mut first) && start + index as u64 + 1 == file.metadata()?.len() {
                    continue;
                }
                tail -= 1;
                if tail == 0 {
                    *offset = start + index as u64 + 1;
                    files.truncate(number + 1);
                    return Ok(());
                }
            }
            end = start;
        }
        // The first entry of the file has no line feed before it.
        if file.metadata()?.len() > 0 {
            tail -= 1;
        }
    }
    Ok(())
}

/// Reads one line of a log file: puts the text into `text`, and returns stream and time. `None` where it is no entry.
fn parse<'a>(line: &'a [u8], text: &mut Vec<u8>) -> Option<(Stream, &'a str)> {
    text.clear();
    let rest = line.strip_prefix(b"{\"log\":\"");
    // A quote inside the text has a backslash, so this can only be what follows it. The end is short: search from there.
    let window = line.len().saturating_sub(96);
    let at = line[window..].windows(MIDDLE.len()).position(|part| part == MIDDLE).map(|at| at + window);
    let (Some(rest), Some(at)) = (rest, at) else { return parse_slowly(line, text) };
    let escaped = &rest[..at - (line.len() - rest.len())];
    let (stream, time) = match &line[at + MIDDLE.len()..] {
        [b's', b't', b'd', b'o', b'u', b't', time @ ..] => (Stream::Stdout, time),
        [b's', b't', b'd', b'e', b'r', b'r', time @ ..] => (Stream::Stderr, time),
        _ => return parse_slowly(line, text),
    };
    let time = time.strip_prefix(b"\",\"time\":\"").and_then(|time| time.strip_suffix(b"\"}\n"));
    let time = time.and_then(|time| std::str::from_utf8(time).ok()).filter(|time| !time.contains('"'));
    match time {
        Some(time) if unescape(escaped, text) => Some((stream, time)),
        _ => parse_slowly(line, text),
    }
}

const MIDDLE: &[u8] = b"\",\"stream\":\"";

/// Undoes the escapes of the common kind; returns whether there were only such.
fn unescape(escaped: &[u8], text: &mut Vec<u8>) -> bool {
    let mut rest = escaped;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        text.extend_from_slice(&rest[..at]);
        let (byte, length) = match &rest[at + 1..] {
            [b'n', ..] => (b'\n', 2),
            [b'r', ..] => (b'\r', 2),
            [b't', ..] => (b'\t', 2),
            [byte @ (b'"' | b'\\' | b'/'), ..] => (*byte, 2),
            [b'u', b'0', b'0', high @ b'0'..=b'7', low, ..] => {
                let Some(low) = char::from(*low).to_digit(16) else { return false };
                ((high - b'0') << 4 | u8::try_from(low).unwrap_or_default(), 6)
            }
            _ => return false,
        };
        text.push(byte);
        rest = &rest[at + length..];
    }
    text.extend_from_slice(rest);
    true
}

/// Reads an entry that is valid but not of the form that is written here.
fn parse_slowly<'a>(line: &'a [u8], text: &mut Vec<u8>) -> Option<(Stream, &'a str)> {
    #[derive(serde::Deserialize)]
    struct Raw<'a> {
        #[serde(default)]
        log: String,
        stream: Stream,
        #[serde(borrow)]
        time: &'a str,
    }
    let raw: Raw<'a> = serde_json::from_slice(line).ok()?;
    text.clear();
    text.extend_from_slice(raw.log.as_bytes());
    Some((raw.stream, raw.time))
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Tail, append};
    use super::*;
    use std::io::Write;

    fn line(text: &str, second: u32) -> Vec<u8> {
        let time = format!("2026-11-21T09:30:{second:02}.25Z").parse().unwrap();
        let mut out = Vec::new();
        append(&mut out, text.as_bytes(), &Tail::new(Stream::Stdout, "", time));
        out
    }

    fn log(files: &[&[&str]]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut second = 0;
        for (age, texts) in files.iter().enumerate() {
            let index = u32::try_from(files.len() - age - 1).unwrap();
            let mut file = File::create(rotated(&path, index)).unwrap();
            for text in *texts {
                file.write_all(&line(text, second)).unwrap();
                second += 1;
            }
        }
        (directory, path)
    }

    fn texts(path: &Path, options: &Options) -> Vec<String> {
        let mut texts = Vec::new();
        read(path, options, &mut |entry| {
            texts.push(String::from_utf8_lossy(entry.text).into_owned());
            Ok(())
        })
        .unwrap();
        texts
    }

    #[test]
    fn what_was_written_is_read() {
        for text in ["plain\n", "", "\n", "\"\\ \t\r <&> é \u{2028} \u{1b}[1m\n", "a\",\"stream\":\"stderr\n"] {
            let mut out = Vec::new();
            let written = line(text, 1);
            assert_eq!(parse(&written, &mut out).unwrap(), (Stream::Stdout, "2026-11-21T09:30:01.25Z"), "{text}");
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
        let foreign = b"{\"log\":\"x\\n\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"b\"},\"time\":\"t\"}\n";
        let mut out = Vec::new();
        assert_eq!(parse(foreign, &mut out), Some((Stream::Stderr, "t")));
        assert_eq!(out, b"x\n");
        assert_eq!(parse(b"torn\n", &mut out), None);
    }

    #[test]
    fn the_end_is_found_across_files() {
        let (_directory, path) = log(&[&["1\n", "2\n"], &["3\n"], &["4\n", "5\n"]]);
        for (tail, want) in [(0, ""), (1, "5"), (2, "4 5"), (3, "3 4 5"), (4, "2 3 4 5"), (9, "1 2 3 4 5")] {
            let options = Options { tail: Some(tail), ..Options::default() };
            let got: Vec<String> = texts(&path, &options).iter().map(|text| text.trim().to_owned()).collect();
            assert_eq!(got.join(" "), want, "tail {tail}");
        }
    }

    #[test]
    fn times_are_bounds() {
        let (_directory, path) = log(&[&["0\n", "1\n"], &["2\n", "3\n"]]);
        let time = |second: u32| Some(format!("2026-11-21T09:30:{second:02}.25Z").parse().unwrap());
        let options = Options { since: time(1), until: time(2), tail: None };
        assert_eq!(texts(&path, &options), ["1\n", "2\n"]);
    }

    #[test]
    fn growth_and_rotation_are_followed() {
        let (_directory, path) = log(&[&["1\n"]]);
        let (gone, end) = std::io::pipe().unwrap();
        let copy = path.clone();
        let thread = std::thread::spawn(move || {
            let mut texts = String::new();
            let mut emit = |entry: Entry<'_>| {
                texts.push_str(&String::from_utf8_lossy(entry.text));
                Ok(())
            };
            follow(&copy, &Options::default(), gone.as_fd(), &mut emit).unwrap();
            texts
        });
        let mut want = String::from("1\n");
        for number in 2..200 {
            if number % 50 == 0 {
                for index in (0..number / 50).rev() {
                    std::fs::rename(rotated(&path, index), rotated(&path, index + 1)).unwrap();
                }
            }
            let text = format!("{number}\n");
            want.push_str(&text);
            let mut file = File::options().append(true).create(true).open(&path).unwrap();
            // In two parts, so that half an entry is seen sometimes.
            let (first, second) = (line(&text, 0), 20);
            file.write_all(&first[..second]).unwrap();
            file.write_all(&first[second..]).unwrap();
        }
        drop(end);
        let got = thread.join().unwrap();
        assert_eq!(got, want);
    }
}
