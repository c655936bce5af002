//! What one image is built from, whoever asks for it: a service or a command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rcompose_engine::build::Secret;
use rcompose_engine::build::dispatch::NamedContext;
use rcompose_engine::build::dockerfile::{Fault, parse_bool};
use rcompose_engine::build::graph::{Git, RunNetwork};
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Contents {
    Directory(PathBuf),
    /// An archive on standard input, or a Dockerfile alone.
    Stdin,
    /// An archive or a Dockerfile that a web server has.
    Url(String),
    Git(Git),
}

impl Contents {
    /// Reads what a context is: `-`, the URL of a repository, an archive or a Dockerfile, or a path.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        // The short form of one server's repositories, unless there is such a directory.
        let short = text.starts_with("github.com/") && !Path::new(text).is_dir();
        let url = if short { format!("https://{text}") } else { text.to_owned() };
        match NamedContext::parse(&url)? {
            NamedContext::Git(git) => Ok(Self::Git(git)),
            NamedContext::Archive(url) => Ok(Self::Url(url)),
            NamedContext::Directory(path) => Ok(Self::Directory(PathBuf::from(path))),
            NamedContext::Image(_) => Err(Fault::new(format!("{text}: an image cannot be the build context"))),
        }
    }

    /// Keeps the `.git` of a repository if the arguments of the build say so.
    pub fn keep_git_directory(&mut self, arguments: &BTreeMap<String, String>) {
        let asked = arguments.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|value| parse_bool(value) == Some(true));
        if let Self::Git(git) = self {
            git.keep_git_dir |= asked;
        }
    }
}

impl Recipe {
    /// Returns the recipe of a context with its Dockerfile.
    pub fn new(name: impl Into<String>, context: Contents) -> Self {
        Self {
            name: name.into(),
            context,
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
