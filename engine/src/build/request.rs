//! What is to be built, beside its steps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::fetched::Fetched;
use super::graph::{Graph, RunNetwork, VertexId};
use super::key::Surroundings;
use super::run::HOSTNAME;
use crate::container::config::Ulimit;
use crate::image::ImportedCache;

/// A secret of a build.
#[derive(Clone)]
pub enum Secret {
    /// The content of a file of the host.
    File(PathBuf),
    /// It is this.
    Value(Vec<u8>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value"),
        }
    }
}

/// What a build may use and must not keep.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    /// Secrets, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Sockets of SSH agents, by id.
    pub ssh: BTreeMap<String, PathBuf>,
}

/// The files of a build context.
#[derive(Debug, Clone)]
pub enum Files {
    /// A directory of the host.
    Directory(PathBuf),
    /// What was fetched for these builds.
    Fetched(Fetched),
}

/// One image that is to be built.
#[derive(Debug, Clone)]
pub struct Request {
    /// What events call this build.
    pub name: Arc<str>,
    /// What they call this graph of it.
    pub number: usize,
    /// The steps.
    pub graph: Graph,
    /// The step in which a generator looks at what the target has made ([`Graph::scan_with`]).
    pub scan: Option<VertexId>,
    /// Contexts, by name.
    pub contexts: BTreeMap<String, Files>,
    /// What it may use and must not keep.
    pub keyring: Keyring,
    /// What commands use that ask for nothing else.
    pub network: RunNetwork,
    /// Further lines of `/etc/hosts`: name and address, or `host-gateway`.
    pub hosts: Vec<(String, String)>,
    /// The host name of commands; `None`: as BuildKit's.
    pub hostname: Option<String>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Bytes of memory that a command may use.
    pub memory: Option<u64>,
    /// Limits of commands.
    pub ulimits: Vec<Ulimit>,
    /// The cgroup that the commands' are in.
    pub cgroup_parent: Option<String>,
    /// `SOURCE_DATE_EPOCH`: the time of the image and the highest of its files', in seconds.
    pub epoch: Option<u64>,
    /// `RUN --security=insecure` is allowed.
    pub insecure: bool,
    /// `RUN --network=host` is allowed.
    pub host_network: bool,
    /// Caches of other builds, in the order in which they are asked.
    pub caches: Vec<Arc<ImportedCache>>,
    /// Ends the build.
    pub interrupt: CancellationToken,
}

impl Request {
    pub(super) fn surroundings(&self) -> Surroundings {
        let ulimit = |limit: &Ulimit| (limit.name.clone(), limit.soft, limit.hard);
        Surroundings {
            epoch: self.epoch,
            hostname: self.hostname.clone().unwrap_or_else(|| HOSTNAME.to_owned()),
            hosts: self.hosts.clone(),
            network: self.network,
            shm_size: self.shm_size,
            ulimits: self.ulimits.iter().map(ulimit).collect(),
        }
    }
}
