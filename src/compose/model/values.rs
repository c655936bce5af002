//! Small enumerations: values that are a word or a short form in the file.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Serialises an enumeration as the word that the file has for it.
macro_rules! as_word {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::parse(&String::deserialize(deserializer)?))
            }
        }
    };
}

/// What a dependency must have reached before its dependent starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The container runs.
    #[default]
    #[serde(rename = "service_started")]
    Started,
    /// The health check passed.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// The container ended with status 0.
    #[serde(rename = "service_completed_successfully")]
    CompletedSuccessfully,
}

/// `restart`: when a container that ended is started again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Restart {
    /// Never (`no`, and the default).
    #[default]
    No,
    /// Always, also when the engine starts.
    Always,
    /// After a status other than 0, at most this many times where a number is given.
    OnFailure(Option<u32>),
    /// Always, unless somebody stopped it.
    UnlessStopped,
    /// Not a policy that the engine knows; loading takes it, as Docker Compose does, and starting must refuse it.
    Other(String),
}

impl Restart {
    /// Reads `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`.
    pub fn parse(text: &str) -> Self {
        match text {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure(None),
            _ => match text.strip_prefix("on-failure:").and_then(|times| times.parse().ok()) {
                Some(times) => Self::OnFailure(Some(times)),
                None => Self::Other(text.to_owned()),
            },
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Always => f.write_str("always"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(times)) => write!(f, "on-failure:{times}"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
as_word!(Restart);

/// `network_mode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// No network but loopback.
    None,
    /// The host's network namespace.
    Host,
    /// The engine's default bridge.
    Bridge,
    /// The namespace of another service of this project.
    Service(String),
    /// The namespace of a container, by name or id.
    Container(String),
    /// The name of a network that exists in the engine.
    Other(String),
}

impl NetworkMode {
    /// Reads the attribute's text.
    pub fn parse(text: &str) -> Self {
        match text {
            "none" => Self::None,
            "host" => Self::Host,
            "bridge" => Self::Bridge,
            _ => {
                if let Some(service) = text.strip_prefix("service:") {
                    Self::Service(service.to_owned())
                } else if let Some(container) = text.strip_prefix("container:") {
                    Self::Container(container.to_owned())
                } else {
                    Self::Other(text.to_owned())
                }
            }
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Bridge => f.write_str("bridge"),
            Self::Service(service) => write!(f, "service:{service}"),
            Self::Container(container) => write!(f, "container:{container}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
as_word!(NetworkMode);

/// `pull_policy`, with the age of the refreshing forms resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Pull on every start.
    Always,
    /// Never pull.
    Never,
    /// Pull what is not there (the default).
    #[default]
    Missing,
    /// Build, do not pull.
    Build,
    /// Pull when the last pull is older than this (`daily`, `weekly`, `every_12h`).
    Refresh(Duration),
}

impl PullPolicy {
    /// Reads the attribute's text; an unknown word means `missing`, as in Docker Compose.
    pub fn parse(text: &str) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        match text {
            "always" => Self::Always,
            "never" => Self::Never,
            "build" => Self::Build,
            "daily" => Self::Refresh(Duration::from_secs(DAY)),
            "weekly" => Self::Refresh(Duration::from_secs(7 * DAY)),
            _ => text
                .strip_prefix("every_")
                .and_then(|age| crate::compose::units::parse_duration(age).ok())
                .and_then(|nanos| u64::try_from(nanos).ok())
                .map_or(Self::Missing, |nanos| Self::Refresh(Duration::from_nanos(nanos))),
        }
    }
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Never => f.write_str("never"),
            Self::Missing => f.write_str("missing"),
            Self::Build => f.write_str("build"),
            Self::Refresh(age) => write!(f, "every_{}s", age.as_secs()),
        }
    }
}
as_word!(PullPolicy);

/// The kind of a mount (`volumes[].type`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A directory or file of the host.
    Bind,
    /// A volume: named, or anonymous where the source is empty.
    #[default]
    Volume,
    /// A file system in memory.
    Tmpfs,
    /// The file system of an image.
    Image,
    /// A Windows named pipe.
    Npipe,
    /// A cluster volume.
    Cluster,
}

/// The command that tells whether a container is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthTest {
    /// Run this program with its arguments.
    Command(Vec<String>),
    /// Run this line by the image's shell.
    Shell(String),
    /// No check, also not the image's.
    None,
}

/// What happens when a watched file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchAction {
    /// Build the image and recreate.
    #[serde(rename = "rebuild")]
    Rebuild,
    /// Copy the file.
    #[serde(rename = "sync")]
    Sync,
    /// Restart the container.
    #[serde(rename = "restart")]
    Restart,
    /// Copy, then restart.
    #[serde(rename = "sync+restart")]
    SyncRestart,
    /// Copy, then run a command.
    #[serde(rename = "sync+exec")]
    SyncExec,
}

/// The host side of a published port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostPorts {
    /// Any free port.
    #[default]
    Ephemeral,
    /// This port, or the first free one of this range (both ends included).
    Range(u16, u16),
    /// Not a port; loading takes it, as Docker Compose does, and starting must refuse it.
    Other(String),
}

impl HostPorts {
    /// Reads `""`, `8080` or `8080-8090`.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() || text == "0" {
            return Self::Ephemeral;
        }
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if low <= high => Self::Range(low, high),
            _ => Self::Other(text.to_owned()),
        }
    }
}

impl fmt::Display for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ephemeral => Ok(()),
            Self::Range(low, high) if low == high => write!(f, "{low}"),
            Self::Range(low, high) => write!(f, "{low}-{high}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
as_word!(HostPorts);
