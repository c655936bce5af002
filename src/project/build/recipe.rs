//! What one image is built from, whoever asks for it: a service or a command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rcompose_engine::build::dispatch::NamedContext;
use rcompose_engine::build::dockerfile::{Fault, parse_bool};
use rcompose_engine::build::graph::{Git, RunNetwork};
use rcompose_engine::build::{Keyring, Secret};
use rcompose_engine::container::config::Ulimit;
use rcompose_engine::image::{CacheSource, Compression, Platform, PlatformError, Reference};

use super::agent::{Agent, AgentError};
use super::cache::{self, CachePlace, CacheTarget, Told};
use super::csv::fields;
use super::output::{Annotation, Output};

/// The argument that makes a build reproducible.
pub(super) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

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
    /// For what machines; none: for this one.
    pub platforms: Vec<String>,
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
    pub ssh: BTreeMap<String, Agent>,
    pub network: RunNetwork,
    pub hosts: Vec<(String, String)>,
    pub shm_size: Option<u64>,
    /// Bytes of memory that a command may use.
    pub memory: Option<u64>,
    pub ulimits: Vec<Ulimit>,
    pub cgroup_parent: Option<String>,
    /// `RUN --security=insecure` is allowed.
    pub insecure: bool,
    /// `RUN --network=host` is allowed.
    pub host_network: bool,
    /// Look at every stage, for the checks.
    pub all_stages: bool,
    /// What is made of it; none: an image of the store.
    pub outputs: Vec<Output>,
    /// The form of the image's layers, where no output says one.
    pub compression: Option<Compression>,
    pub annotations: Vec<Annotation>,
    pub cache_from: Vec<CacheSource>,
    pub cache_to: Vec<CacheTarget>,
    /// What is attested of where the image comes from.
    pub provenance: Attested,
    pub sbom: Sbom,
    /// Where it is said, after a command that failed, what image there is of the state before it.
    pub halted: Option<Arc<OnceLock<Reference>>>,
    /// What is to be said of what it asks for and does not get.
    pub notices: Vec<String>,
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

/// How much is attested of where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attested {
    None,
    Min,
    /// Also what the build was told.
    Max,
}

impl Attested {
    /// Reads `--provenance`: `true`, `false`, `mode=min`, `mode=max`, `disabled=true`.
    fn read(fields: &[(String, String)]) -> Result<Self, String> {
        let mut attested = Self::Min;
        for (key, value) in fields {
            match (key.as_str(), value.as_str()) {
                ("false", "") | ("disabled", "true") => attested = Self::None,
                ("true" | "", "") | ("mode", "min") | ("disabled", "false") => {}
                ("mode", "max") => attested = Self::Max,
                _ => {
                    return Err(format!(
                        "invalid provenance {key}={value}: true, false, mode=min and mode=max are known"
                    ));
                }
            }
        }
        Ok(attested)
    }
}

/// Who says what is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sbom {
    None,
    /// We do.
    Own,
    /// An image that looks at it, and its settings.
    Generator(String, BTreeMap<String, String>),
}

impl Sbom {
    /// Reads `--sbom`: `true`, `false`, `disabled=true`, `generator=IMAGE`, and settings of the generator.
    fn read(fields: &[(String, String)]) -> Result<Self, String> {
        let (mut wanted, mut generator, mut settings) = (true, None, BTreeMap::new());
        for (key, value) in fields {
            match (key.as_str(), value.as_str()) {
                ("false", "") | ("disabled", "true") => wanted = false,
                ("true" | "", "") | ("disabled", "false") => {}
                ("generator", image) => generator = Some(image.to_owned()),
                (key, value) => _ = settings.insert(key.to_uppercase(), value.to_owned()),
            }
        }
        match generator {
            _ if !wanted => Ok(Self::None),
            Some(image) => Ok(Self::Generator(image, settings)),
            None if settings.is_empty() => Ok(Self::Own),
            None => {
                Err("invalid sbom: true, false and generator=IMAGE are known; settings are a generator's".to_owned())
            }
        }
    }
}

impl Recipe {
    /// Takes up what is to be attested: `--provenance` and `--sbom`, or the attributes of a service.
    pub fn attest(&mut self, provenance: Option<&str>, sbom: Option<&str>) -> Result<(), String> {
        if let Some(text) = provenance {
            self.provenance = Attested::read(&fields(text)?)?;
        }
        if let Some(text) = sbom {
            self.sbom = Sbom::read(&fields(text)?)?;
        }
        Ok(())
    }

    /// Takes up `--attest`: `type=provenance` or `type=sbom`, and what their own options say.
    pub fn attest_as(&mut self, text: &str) -> Result<(), String> {
        let (kinds, rest): (Vec<_>, Vec<_>) = fields(text)?.into_iter().partition(|(key, _)| key == "type");
        match kinds.first().map(|(_, kind)| kind.as_str()) {
            Some("provenance") => self.provenance = Attested::read(&rest)?,
            Some("sbom") => self.sbom = Sbom::read(&rest)?,
            Some(other) => return Err(format!("unknown attestation type {other:?}: provenance and sbom are known")),
            None => return Err(format!("attestation type not specified in {text:?}")),
        }
        Ok(())
    }

    /// Returns whether anything is attested of the image.
    pub(super) fn is_attested(&self) -> bool {
        self.provenance != Attested::None || self.sbom != Sbom::None
    }

    /// Returns the form of layers: what is pushed or written into an archive is compressed, what is only kept is not. What is
    /// attested of an image names its digest, so that it is not compressed when it is pushed later, but at once.
    pub(super) fn form(&self, output: &Output) -> Compression {
        let usual = if output.goes_away() || self.is_attested() { Compression::USUAL } else { Compression::None };
        output.compression.unwrap_or(usual)
    }

    /// Returns whether layers are not compressed only because nobody has asked for it yet.
    pub(super) fn is_kept_plain(&self, output: &Output) -> bool {
        output.compression.is_none() && self.form(output) == Compression::None
    }

    /// Returns what the build may use and must not keep.
    pub(super) fn keyring(&self) -> Keyring {
        let socket = |(id, agent): (&String, &Agent)| (id.clone(), agent.socket().to_owned());
        Keyring { secrets: self.secrets.clone(), ssh: self.ssh.iter().map(socket).collect() }
    }

    /// Takes up `--ssh`: an id, and behind `=` the socket of an agent or files with keys.
    pub fn use_ssh(&mut self, text: &str) -> Result<(), AgentError> {
        let (id, given) = text.split_once('=').unwrap_or((text, ""));
        self.use_agent(id, given)
    }

    /// Takes up an agent, as `--ssh` says it behind `=`.
    pub(super) fn use_agent(&mut self, id: &str, given: &str) -> Result<(), AgentError> {
        self.ssh.insert(id.to_owned(), Agent::open(given)?);
        Ok(())
    }

    /// Takes up what it is told of caches: `--cache-from` and `--cache-to`, or the attributes of a service.
    pub fn use_caches(&mut self, from: &[String], to: &[String]) -> Result<(), String> {
        for text in from {
            match cache::source(text)? {
                Told::Known(source) => self.cache_from.push(source),
                Told::Unsupported(notice) => self.notices.push(notice),
            }
        }
        for text in to {
            match cache::target(text)? {
                Told::Known(target) => self.cache_to.push(target),
                Told::Unsupported(notice) => self.notices.push(notice),
            }
        }
        Ok(())
    }

    /// Returns whether the image is to be a cache for other builds.
    pub fn inline_cache(&self) -> bool {
        let asked = self.arguments.get("BUILDKIT_INLINE_CACHE").is_some_and(|value| value == "1");
        asked || self.cache_to.iter().any(|target| target.place == CachePlace::Inline)
    }

    /// Returns whether what is made of it has the form of what is for several machines.
    pub(super) fn is_for_several(&self) -> bool {
        let asked = self.arguments.get("BUILDKIT_MULTI_PLATFORM").and_then(|value| parse_bool(value));
        asked == Some(true) || self.platforms.len() > 1
    }

    /// Returns for what machines it is, each once; at least one.
    pub fn platforms(&self) -> Result<Vec<Platform>, PlatformError> {
        let mut platforms = Vec::new();
        for platform in &self.platforms {
            let platform = platform.parse()?;
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        if platforms.is_empty() {
            platforms.push(Platform::host());
        }
        Ok(platforms)
    }

    /// Returns the recipe of a context with its Dockerfile.
    pub fn new(name: impl Into<String>, context: Contents) -> Self {
        Self {
            name: name.into(),
            context,
            dockerfile: "Dockerfile".to_owned(),
            dockerfile_text: None,
            target: None,
            // Taken from the environment where nothing else says it, as Docker does it.
            arguments: std::env::var(SOURCE_DATE_EPOCH)
                .into_iter()
                .filter(|epoch| !epoch.is_empty())
                .map(|epoch| (SOURCE_DATE_EPOCH.to_owned(), epoch))
                .collect(),
            platforms: Vec::new(),
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
            memory: None,
            ulimits: Vec::new(),
            cgroup_parent: None,
            insecure: false,
            host_network: false,
            all_stages: false,
            outputs: Vec::new(),
            compression: None,
            annotations: Vec::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            provenance: Attested::None,
            sbom: Sbom::None,
            halted: None,
            notices: Vec::new(),
        }
    }
}
