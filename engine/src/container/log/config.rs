//! What a container's log was asked to be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the output of PID 1 goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum LogConfig {
    /// Docker's json-file format, whatever the driver that was asked for.
    JsonFile(LogFile),
    None,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self::JsonFile(LogFile::default())
    }
}

/// A log, which is rotated when a file would exceed `max_size` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    pub max_size: Option<u64>,
    pub max_file: u32,
    /// What every entry says of the container.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Where the lines go as well.
    #[serde(default)]
    pub forward: Option<Forward>,
    /// The driver that was asked for, with its options; the engine keeps them and does not look into them.
    #[serde(default)]
    pub asked: Option<(String, BTreeMap<String, String>)>,
}

impl Default for LogFile {
    fn default() -> Self {
        Self { max_size: None, max_file: 1, attributes: BTreeMap::new(), forward: None, asked: None }
    }
}

/// Somebody who gets a container's lines as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    pub receiver: Receiver,
    /// How many bytes may wait for a receiver that takes no more, before the oldest lines are lost to it. `None`: the
    /// container waits.
    pub buffer: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Receiver {
    Syslog {
        address: SyslogAddress,
        /// `syslog(3)`, without the shift: 3 is that of daemons.
        facility: u8,
        format: SyslogFormat,
        tag: String,
    },
    Journald {
        /// Of every message.
        fields: BTreeMap<String, String>,
    },
}

/// Where a syslog listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogAddress {
    /// The host's own.
    Local,
    Unix(PathBuf),
    Unixgram(PathBuf),
    Udp(SocketAddr),
    Tcp(SocketAddr),
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("/dev/log"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Unixgram(path) => write!(f, "unixgram://{}", path.display()),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// What a message for syslog looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogFormat {
    /// As programs write to the host's own: without the host's name.
    Unix,
    Rfc3164,
    Rfc5424,
    /// The same with microseconds.
    Rfc5424Micro,
}
