//! A container's output on its way to syslog or the journal, line by line, beside its log.
//!
//! Lines that the receiver does not take at once wait here, and until they are gone the shim reads no more of the
//! container's output; or, where that was asked for, the oldest of too many are lost. A receiver that goes away is looked
//! for again; what is written meanwhile is lost to it, as with Docker, but not to the log.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use super::Stream;
use crate::container::config::{Forward, Receiver, SyslogAddress, SyslogFormat};

/// Where the host's syslog listens.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// Where the journal listens (`systemd-journald.service(8)`).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// How long a receiver over TCP may take to answer when the container starts, and later, when others wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(1);
/// How long a receiver that is gone is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// What may wait while a receiver is gone, in bytes, where nothing else was said.
const BUFFER: usize = 64 << 10;

/// Sends a container's lines to one receiver.
#[derive(Debug)]
pub struct Forwarder {
    forward: Forward,
    /// What every message has of its sender.
    sender: String,
    socket: Option<Socket>,
    /// Messages that were not taken yet, and their length in all.
    pending: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How much of the first one was taken.
    taken: usize,
    /// How often the first one was refused.
    refused: u32,
    /// When a receiver that is gone is looked for again.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    /// Whether it takes a part of a message.
    stream: bool,
}

/// Why there is nobody to send to.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("syslog is not there: neither of {} takes connections", LOCAL.join(", "))]
    NoSyslog,
    #[error("journald is not there: cannot connect to {JOURNAL}")]
    NoJournal(#[source] io::Error),
    #[error("cannot connect to syslog at {address}")]
    Syslog {
        address: SyslogAddress,
        #[source]
        source: io::Error,
    },
}

impl Forwarder {
    /// Connects to the receiver.
    pub fn connect(forward: &Forward) -> Result<Self, ForwardError> {
        let socket = connect(&forward.receiver, PATIENCE)?;
        let sender = match &forward.receiver {
            Receiver::Syslog { .. } => nix::unistd::gethostname()
                .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned()),
            Receiver::Journald { fields } => fields.iter().fold(String::new(), |mut text, (name, value)| {
                // A value of several lines has its length in front, which no text can have here; its lines are joined.
                let _ = writeln!(text, "{name}={}", value.replace('\n', " "));
                text
            }),
        };
        Ok(Self {
            forward: forward.clone(),
            sender,
            socket: Some(socket),
            pending: VecDeque::new(),
            bytes: 0,
            taken: 0,
            refused: 0,
            next: None,
        })
    }

    /// Sends one line, with its line feed unless it goes on.
    pub fn line(&mut self, stream: Stream, line: &[u8], time: jiff::Timestamp) {
        let (text, whole) = match line {
            [text @ .., b'\n'] => (text, true),
            text => (text, false),
        };
        if text.is_empty() {
            return;
        }
        let message = match &self.forward.receiver {
            Receiver::Syslog { facility, format, tag, .. } => {
                let priority = u32::from(*facility) * 8 + severity(stream);
                syslog(*format, priority, time, &self.sender, tag, text)
            }
            Receiver::Journald { .. } => journal(&self.sender, stream, time, text, whole),
        };
        self.bytes += message.len();
        self.pending.push_back(message);
        self.flush();
        let limit = self.forward.buffer.map_or(BUFFER, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if self.forward.buffer.is_some() || self.socket.is_none() {
            while self.bytes > limit && self.pending.len() > 1 {
                self.drop_first();
            }
        }
    }

    /// Sends what waits, as far as it is taken.
    pub fn flush(&mut self) {
        while let Some(message) = self.pending.front() {
            let Some(socket) = &self.socket else {
                if self.find_again() {
                    continue;
                }
                return;
            };
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(socket.fd.as_raw_fd(), &message[self.taken..], flags) {
                Ok(count) if socket.stream && self.taken + count < message.len() => self.taken += count,
                // Too long for a receiver is too long for ever.
                Ok(_) | Err(Errno::EMSGSIZE) => self.drop_first(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return,
                Err(_) => {
                    self.refused += 1;
                    let torn = self.taken > 0;
                    if torn || self.refused > 1 {
                        self.drop_first();
                    }
                    self.socket = None;
                }
            }
        }
    }

    /// Returns the receiver while it does not take what waits, and whether the container has to wait for it.
    pub fn behind(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let socket = self.socket.as_ref().filter(|_| !self.pending.is_empty())?;
        Some((socket.fd.as_fd(), self.forward.buffer.is_none()))
    }

    /// Gives the receiver a last chance to take what waits.
    pub fn finish(&mut self) {
        let deadline = Instant::now() + LATER;
        self.flush();
        while let Some((fd, _)) = self.behind() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
                Ok(0) => return,
                Ok(_) => self.flush(),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some(message) = self.pending.pop_front() {
            self.bytes -= message.len();
        }
        (self.taken, self.refused) = (0, 0);
        if self.pending.is_empty() {
            // A shim is to stay small, however much went through it.
            self.pending = VecDeque::new();
        }
    }

    /// Connects to a receiver that went away, unless that failed a moment ago; returns whether it is there.
    fn find_again(&mut self) -> bool {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.socket = connect(&self.forward.receiver, LATER).ok();
        self.next = self.socket.is_none().then(|| now + PAUSE);
        self.socket.is_some()
    }
}

fn severity(stream: Stream) -> u32 {
    match stream {
        // Informational, and error.
        Stream::Stdout => 6,
        Stream::Stderr => 3,
    }
}

/// Returns a message for syslog, in one of Docker's forms.
fn syslog(format: SyslogFormat, priority: u32, time: jiff::Timestamp, host: &str, tag: &str, text: &[u8]) -> Vec<u8> {
    let time = time.to_zoned(TimeZone::system());
    let process = std::process::id();
    let stamp = |form: &str| time.strftime(form).to_string();
    let head = match format {
        SyslogFormat::Unix => format!("<{priority}>{} {tag}[{process}]: ", stamp("%b %e %H:%M:%S")),
        SyslogFormat::Rfc3164 => format!("<{priority}>{} {host} {tag}[{process}]: ", stamp("%b %e %H:%M:%S")),
        SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro => {
            let fraction = if format == SyslogFormat::Rfc5424 { "" } else { "%.6f" };
            let zone = if time.offset().is_zero() { "Z".to_owned() } else { stamp("%:z") };
            let stamp = stamp(&format!("%Y-%m-%dT%H:%M:%S{fraction}"));
            format!("<{priority}>1 {stamp}{zone} {host} {tag} {process} {tag} - ")
        }
    };
    [head.as_bytes(), text, b"\n"].concat()
}

/// Returns a message for the journal ([native protocol](https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)).
fn journal(sender: &str, stream: Stream, time: jiff::Timestamp, text: &[u8], whole: bool) -> Vec<u8> {
    let partial = if whole { "" } else { "CONTAINER_PARTIAL_MESSAGE=true\n" };
    let head = format!("{sender}PRIORITY={}\nSYSLOG_TIMESTAMP={time}\n{partial}MESSAGE=", severity(stream));
    [head.as_bytes(), text, b"\n"].concat()
}

fn connect(receiver: &Receiver, patience: Duration) -> Result<Socket, ForwardError> {
    match receiver {
        Receiver::Journald { .. } => datagram(Path::new(JOURNAL)).map_err(ForwardError::NoJournal),
        Receiver::Syslog { address: SyslogAddress::Local, .. } => {
            let sockets = LOCAL.iter().map(Path::new);
            let mut connected = sockets.map(|path| datagram(path).or_else(|_| stream(path)));
            connected.find_map(Result::ok).ok_or(ForwardError::NoSyslog)
        }
        Receiver::Syslog { address, .. } => {
            let socket = match address {
                SyslogAddress::Local => return Err(ForwardError::NoSyslog),
                SyslogAddress::Unix(path) => stream(path),
                SyslogAddress::Unixgram(path) => datagram(path),
                SyslogAddress::Udp(to) => udp(*to),
                SyslogAddress::Tcp(to) => {
                    TcpStream::connect_timeout(to, patience).map(|socket| Socket { fd: socket.into(), stream: true })
                }
            };
            socket.map_err(|source| ForwardError::Syslog { address: address.clone(), source })
        }
    }
}

fn datagram(path: &Path) -> io::Result<Socket> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(Socket { fd: socket.into(), stream: false })
}

fn stream(path: &Path) -> io::Result<Socket> {
    Ok(Socket { fd: UnixStream::connect(path)?.into(), stream: true })
}

fn udp(to: SocketAddr) -> io::Result<Socket> {
    let from: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    Ok(Socket { fd: socket.into(), stream: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(path: &Path, buffer: Option<u64>) -> Forward {
        let address = SyslogAddress::Unixgram(path.to_owned());
        let receiver = Receiver::Syslog { address, facility: 3, format: SyslogFormat::Unix, tag: "tag".into() };
        Forward { receiver, buffer }
    }

    fn texts(receiver: &UnixDatagram) -> Vec<String> {
        receiver.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let text = |count: usize, buffer: &[u8]| String::from_utf8_lossy(&buffer[..count]).trim_end().to_owned();
        let mut texts = Vec::new();
        while let Ok(count) = receiver.recv(&mut buffer) {
            texts.push(text(count, &buffer));
        }
        texts
    }

    #[test]
    fn messages_look_as_docker_sends_them() {
        let time: jiff::Timestamp = "2026-11-01T09:05:07.25Z".parse().unwrap();
        let process = std::process::id();
        let local = time.to_zoned(TimeZone::system());
        let message = |format| String::from_utf8(syslog(format, 27, time, "host", "tag", b"text")).unwrap();
        let stamp = local.strftime("%b %e %H:%M:%S");
        assert_eq!(message(SyslogFormat::Unix), format!("<27>{stamp} tag[{process}]: text\n"));
        assert_eq!(message(SyslogFormat::Rfc3164), format!("<27>{stamp} host tag[{process}]: text\n"));
        let micro = message(SyslogFormat::Rfc5424Micro);
        assert!(
            micro.contains(":07.250000") && micro.ends_with(&format!(" host tag {process} tag - text\n")),
            "{micro}"
        );
        let journal = String::from_utf8(journal("A=b\n", Stream::Stderr, time, b"text", false)).unwrap();
        let want =
            "A=b\nPRIORITY=3\nSYSLOG_TIMESTAMP=2026-11-01T09:05:07.25Z\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=text\n";
        assert_eq!(journal, want);
    }

    #[test]
    fn a_receiver_that_takes_no_more_is_waited_for_or_loses_the_oldest() {
        let folder = tempfile::tempdir().unwrap();
        for (buffer, waits) in [(None, true), (Some(200), false)] {
            let path = folder.path().join(format!("socket{waits}"));
            let receiver = UnixDatagram::bind(&path).unwrap();
            let mut forwarder = Forwarder::connect(&forward(&path, buffer)).unwrap();
            let now = jiff::Timestamp::now();
            let mut sent = 0;
            while forwarder.pending.len() < 20 && sent < 100_000 {
                forwarder.line(Stream::Stdout, format!("line {sent}\n").as_bytes(), now);
                sent += 1;
                if !waits && forwarder.bytes > 150 {
                    break;
                }
            }
            assert_eq!(forwarder.behind().unwrap().1, waits);
            for more in 0..50 {
                forwarder.line(Stream::Stdout, format!("more {more}\n").as_bytes(), now);
            }
            assert_eq!(forwarder.bytes <= 200, !waits);
            let mut seen = texts(&receiver);
            while forwarder.behind().is_some() {
                forwarder.flush();
                seen.extend(texts(&receiver));
            }
            seen.extend(texts(&receiver));
            assert!(seen.last().unwrap().ends_with(": more 49"), "{seen:?}");
            assert_eq!(seen.len() == sent + 50, waits);
        }
    }

    #[test]
    fn a_receiver_that_comes_again_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = UnixDatagram::bind(&path).unwrap();
        let mut forwarder = Forwarder::connect(&forward(&path, None)).unwrap();
        let now = jiff::Timestamp::now();
        forwarder.line(Stream::Stderr, b"one\n", now);
        forwarder.line(Stream::Stderr, b"\n", now);
        assert_eq!(texts(&first).len(), 1);
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        forwarder.line(Stream::Stdout, b"two\n", now);
        forwarder.finish();
        let seen = texts(&second);
        assert!(seen.len() == 1 && seen[0].starts_with("<30>") && seen[0].ends_with(": two"), "{seen:?}");
        std::fs::remove_file(&path).unwrap();
        assert!(Forwarder::connect(&forward(&path, None)).is_err());
    }
}
