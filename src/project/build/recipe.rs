//! What one image is built from, whoever asks for it: a service or a command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rcompose_engine::build::Secret;
use rcompose_engine::build::graph::RunNetwork;
use rcompose_engine::container::config::Ulimit;
use rcompose_engine::image::Reference;

/// Everything that says how an image is built.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What the build is called: the service.
    pub name: String,
    pub context: Contents,
    /// The Dockerfile, relative to the context.
    pub dockerfile: String,
    /// Its text, in place of the file.
    pub dockerfile_text: Option<String>,
    pub target: Option<String>,
    pub arguments: BTreeMap<String, String>,
    pub platform: Option<String>,
    /// Named contexts, as they are written.
    pub contexts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub tags: Vec<Reference>,
    pub no_cache: bool,
    pub no_cache_filter: BTreeSet<String>,
    /// Ask registries for the images that it is built on, even if they are there.
    pub pull: bool,
    /// Images that are built by the same command, and that no registry is asked for.
    pub built_here: BTreeSet<String>,
    pub secrets: BTreeMap<String, Secret>,
    pub ssh: BTreeMap<String, PathBuf>,
    pub network: RunNetwork,
    pub hosts: Vec<(String, String)>,
    pub shm_size: Option<u64>,
    pub ulimits: Vec<Ulimit>,
    pub cgroup_parent: Option<String>,
    /// `RUN --security=insecure` is allowed.
    pub insecure: bool,
    /// `RUN --network=host` is allowed.
    pub host_network: bool,
    /// Look at every stage, for the checks.
    pub all_stages: bool,
}

/// Where the files of a build are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    Directory(PathBuf),
}

impl Recipe {
    /// Returns the recipe of a directory with its Dockerfile.
    pub fn new(name: impl Into<String>, directory: PathBuf) -> Self {
        Self {
            name: name.into(),
            context: Contents::Directory(directory),
            dockerfile: "Dockerfile".to_owned(),
            dockerfile_text: None,
            target: None,
            arguments: BTreeMap::new(),
            platform: None,
            contexts: BTreeMap::new(),
            labels: BTreeMap::new(),
            tags: Vec::new(),
            no_cache: false,
            no_cache_filter: BTreeSet::new(),
            pull: false,
            built_here: BTreeSet::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            network: RunNetwork::Default,
            hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            cgroup_parent: None,
            insecure: false,
            host_network: false,
            all_stages: false,
        }
    }
}
