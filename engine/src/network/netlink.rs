//! A blocking netlink socket: what the link thread, the sandbox threads and the packet filter speak through.
//!
//! The kernel does the work of a request inside `sendmsg(2)`, so there is nothing to wait for that an asynchronous
//! socket could overlap; what takes time is the kernel's own lock, which is why this is never used on a runtime thread.

use std::cell::RefCell;
use std::io;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Bytes before a message's payload (`netlink(7)`).
pub(crate) const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The error message carries attributes (extended acknowledgement).
const ACK_TLVS: u16 = 0x200;
/// The error message does not repeat the request.
const CAPPED: u16 = 0x100;
/// `NLMSGERR_ATTR_MSG`: the kernel's words.
const ATTR_MESSAGE: u16 = 1;

/// What the kernel said to a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", errno.desc(), message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default())]
pub struct Refusal {
    pub errno: Errno,
    /// The kernel's own words, where it has any.
    pub message: Option<String>,
    /// Which message of the datagram it was, counted from 0.
    pub index: usize,
}

impl Refusal {
    fn bare(errno: Errno) -> Self {
        Self { errno, message: None, index: 0 }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::bare(errno)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::bare(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// One request: message type, flags besides request and acknowledgement, and payload.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
}

/// A message that the kernel sent.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) payload: Vec<u8>,
}

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

thread_local! {
    /// Where answers are received. One for all sockets of a thread: each container has a socket.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

impl Socket {
    /// Opens a socket to rtnetlink (`rtnetlink(7)`).
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// Opens a socket to nfnetlink, the packet filter.
    pub(crate) fn filter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    /// Opens a socket to sock_diag, which lists sockets (`sock_diag(7)`).
    pub(crate) fn diagnosis() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkSockDiag)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // The kernel answers inside the call; a deadline only keeps a lost answer (ENOBUFS) from hanging a thread.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(10, 0))?;
        // A batch with a few thousand port mappings must fit; the default of 208 KiB bounds it at half of that.
        let _too_old_or_unprivileged = setsockopt(&fd, sockopt::SndBufForce, &(4 << 20));
        let _too_old_or_unprivileged = setsockopt(&fd, sockopt::RcvBufForce, &(4 << 20));
        crate::sys::net::extended_ack(&fd)?;
        Ok(Self { fd, sequence: 1 })
    }

    /// Sends the requests as one datagram and waits until the kernel has answered each. The first refusal counts.
    pub(crate) fn execute(&mut self, requests: &[Request]) -> Result<(), Refusal> {
        let first = self.sequence;
        let mut datagram = Vec::with_capacity(requests.iter().map(|r| HEADER + r.payload.len() + 4).sum());
        for request in requests {
            self.put(&mut datagram, request, NLM_F_REQUEST | NLM_F_ACK | request.flags);
        }
        self.send(&datagram)?;
        let mut refusal = None;
        let mut open = requests.len();
        while open > 0 {
            for (sequence, answer) in self.answers()? {
                let index = sequence.wrapping_sub(first) as usize;
                let Answer::Status(status) = answer else { continue };
                if index >= requests.len() {
                    continue;
                }
                open -= 1;
                if let Err(error) = status
                    && refusal.is_none()
                {
                    refusal = Some(Refusal { index, ..error });
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends the requests as one transaction of nfnetlink: all of them happen or none.
    ///
    /// The first and the last request are the batch's begin and end, which the kernel does not acknowledge.
    pub(crate) fn transaction(&mut self, requests: &[Request]) -> Result<(), Refusal> {
        let first = self.sequence;
        let last = requests.len().saturating_sub(2);
        let mut datagram = Vec::with_capacity(requests.iter().map(|r| HEADER + r.payload.len() + 4).sum());
        for (index, request) in requests.iter().enumerate() {
            let ack = if index == last { NLM_F_ACK } else { 0 };
            self.put(&mut datagram, request, NLM_F_REQUEST | ack | request.flags);
        }
        self.send(&datagram)?;
        let mut refusal: Option<Refusal> = None;
        loop {
            let mut finished = false;
            for (sequence, answer) in self.answers()? {
                let index = sequence.wrapping_sub(first) as usize;
                let Answer::Status(status) = answer else { continue };
                if index >= requests.len() {
                    continue;
                }
                // An error of the begin message, or of the commit (which the kernel reports on the message after it),
                // is the whole transaction's, and nothing need follow it.
                finished |= index == last || (index <= 1 && status.is_err());
                if let Err(error) = status
                    && refusal.is_none()
                {
                    refusal = Some(Refusal { index, ..error });
                }
            }
            if finished {
                return refusal.map_or(Ok(()), Err);
            }
        }
    }

    /// Sends a dump request and returns everything that the kernel lists.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<Reply>, Refusal> {
        self.query(request, NLM_F_DUMP)
    }

    /// Sends one request that is answered by messages and an acknowledgement.
    pub(crate) fn get(&mut self, request: &Request) -> Result<Vec<Reply>, Refusal> {
        self.query(request, NLM_F_ACK)
    }

    fn query(&mut self, request: &Request, flags: u16) -> Result<Vec<Reply>, Refusal> {
        let first = self.sequence;
        let mut datagram = Vec::new();
        self.put(&mut datagram, request, NLM_F_REQUEST | flags | request.flags);
        self.send(&datagram)?;
        let mut replies = Vec::new();
        loop {
            for (sequence, answer) in self.answers()? {
                if sequence != first {
                    continue;
                }
                match answer {
                    Answer::Message(reply) => replies.push(reply),
                    Answer::Status(Ok(())) => return Ok(replies),
                    Answer::Status(Err(error)) => return Err(error),
                }
            }
        }
    }

    fn put(&mut self, datagram: &mut Vec<u8>, request: &Request, flags: u16) {
        let length = u32::try_from(HEADER + request.payload.len()).expect("a request is far smaller than 4 GiB");
        datagram.extend_from_slice(&length.to_ne_bytes());
        datagram.extend_from_slice(&request.kind.to_ne_bytes());
        datagram.extend_from_slice(&flags.to_ne_bytes());
        datagram.extend_from_slice(&self.sequence.to_ne_bytes());
        datagram.extend_from_slice(&0_u32.to_ne_bytes());
        datagram.extend_from_slice(&request.payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn send(&self, datagram: &[u8]) -> Result<(), Refusal> {
        let kernel = NetlinkAddr::new(0, 0);
        sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(datagram)], &[], MsgFlags::empty(), Some(&kernel))?;
        Ok(())
    }

    fn answers(&mut self) -> Result<Vec<(u32, Answer)>, Refusal> {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                    Err(Errno::EINTR) => {}
                    length => return Ok(parse(&buffer[..length?])),
                }
            }
        })
    }
}

#[derive(Debug)]
enum Answer {
    Message(Reply),
    Status(Result<(), Refusal>),
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Splits a datagram into its messages: type, sequence number, flags and payload of each.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, u32, u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.len() < HEADER {
            return None;
        }
        let length = u32_at(rest, 0) as usize;
        if length < HEADER || length > rest.len() {
            return None;
        }
        let message = (u16_at(rest, 4), u32_at(rest, 8), u16_at(rest, 6), &rest[HEADER..length]);
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(message)
    })
}

fn parse(datagram: &[u8]) -> Vec<(u32, Answer)> {
    messages(datagram)
        .filter_map(|(kind, sequence, flags, payload)| {
            let answer = match kind {
                ERROR if payload.len() >= 4 => Answer::Status(status(flags, payload)),
                DONE => Answer::Status(if payload.len() >= 4 { errno_of(payload) } else { Ok(()) }),
                ERROR => return None,
                _ => Answer::Message(Reply { payload: payload.to_vec() }),
            };
            Some((sequence, answer))
        })
        .collect()
}

fn errno_of(payload: &[u8]) -> Result<(), Refusal> {
    match i32::from_ne_bytes([payload[0], payload[1], payload[2], payload[3]]) {
        0 => Ok(()),
        negative => Err(Refusal::bare(Errno::from_raw(negative.wrapping_neg()))),
    }
}

/// Reads `struct nlmsgerr` and its attributes.
fn status(flags: u16, payload: &[u8]) -> Result<(), Refusal> {
    let mut refusal = match errno_of(payload) {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    if flags & ACK_TLVS != 0 && payload.len() >= 4 + HEADER {
        let request = if flags & CAPPED != 0 { HEADER } else { (u32_at(payload, 4) as usize).next_multiple_of(4) };
        for (kind, value) in attributes(payload.get(4 + request..).unwrap_or_default()) {
            if kind == ATTR_MESSAGE {
                refusal.message = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
            }
        }
    }
    Err(refusal)
}

/// Splits attributes (`nlattr`) into type without flag bits, and value.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let length = usize::from(u16_at(rest, 0));
        if length < 4 || length > rest.len() {
            return None;
        }
        let attribute = (u16_at(rest, 2) & 0x3fff, &rest[4..length]);
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(attribute)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_datagram_ends_the_iteration() {
        assert_eq!(messages(&[0; 10]).count(), 0);
        let mut long = vec![0_u8; 16];
        long[0] = 200;
        assert_eq!(messages(&long).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 9]).collect::<Vec<_>>(), [(1, &[9][..])]);
    }

    #[test]
    fn the_kernel_names_an_unknown_link() {
        let mut socket = Socket::route().unwrap();
        // RTM_GETLINK of an index that does not exist.
        let mut payload = vec![0_u8; 16];
        payload[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = socket.get(&Request { kind: 18, flags: 0, payload }).unwrap_err();
        assert_eq!(error.errno, Errno::ENODEV);
    }
}
