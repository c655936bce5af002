//! What is to be built, as steps: the seam between the language of Dockerfiles and what executes it.
//!
//! The language half makes a [`Graph`] of a Dockerfile and never touches a file; the executing half knows no Dockerfile.
//! Everything that can be said without looking at files is said here: names are expanded, paths are absolute, defaults
//! are filled in. Users and groups stay as they were typed, since only the file system they are looked up in knows them.

use std::collections::BTreeMap;

use crate::image::{Digest, ImportedConfig, Platform};

/// The image of one target for one platform, as steps.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The steps. What a step needs stands before it; only what the target needs is among them.
    pub vertices: Vec<Vertex>,
    /// Whose file system is the image's.
    pub target: VertexId,
    /// What machine the image is for.
    pub platform: Platform,
    /// What the image's containers run, and how: that of the base with what the Dockerfile changed.
    pub config: ImportedConfig,
    /// The author (`MAINTAINER`), if there is one.
    pub author: Option<String>,
    /// The image at the bottom of the target's stages, whose history and layers come first. None for `scratch`.
    pub base: Option<ImageSource>,
    /// What the instructions of the target's chain of stages did, those of the base left out.
    pub history: Vec<History>,
    /// What an SBOM tells of beside the target: the build's own context ([`MAIN_CONTEXT`]), and stages by their names.
    pub extras: BTreeMap<String, VertexId>,
}

/// The index of a vertex in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub usize);

/// A step: one operation, and one file system as its result.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What is done.
    pub operation: Operation,
    /// What progress and errors call it, as BuildKit does: `[build 2/5] RUN make`.
    pub name: String,
    /// The stage it belongs to, by name or else by number.
    pub stage: Option<String>,
    /// Where its instruction stands.
    pub at: Option<Span>,
    /// Its result is not taken from the cache (`--no-cache`, `--no-cache-filter`).
    pub no_cache: bool,
}

/// Where something stands in a Dockerfile. Both ends are within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Its first character.
    pub start: Position,
    /// Its last character.
    pub end: Position,
}

/// A character of a Dockerfile. Both numbers count from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// The file system of an image.
    Image(ImageSource),
    /// An empty file system.
    Scratch,
    /// The files of a build context.
    Context(Context),
    /// A file of a web server, the only one in its file system.
    Http(Http),
    /// A tree of a git repository.
    Git(Git),
    /// A file whose contents stand in the Dockerfile, the only one in its file system.
    Inline(Inline),
    /// `RUN`.
    Run(Run),
    /// `COPY` and `ADD`.
    Copy(Copy),
    /// `WORKDIR`.
    MakeDirectory(MakeDirectory),
}

/// An image that was resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// As it stands in the Dockerfile, its arguments expanded.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// What machine it is for.
    pub platform: Platform,
}

/// A build context: the build's own, or a named one that is a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its name; the build's own is called [`MAIN_CONTEXT`].
    pub name: String,
    /// The patterns of its `.dockerignore`, one per line, in their order.
    pub ignore: Vec<String>,
}

/// The name of the build's own context.
pub const MAIN_CONTEXT: &str = "context";

/// A file that is fetched from a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it is.
    pub url: String,
    /// What its contents must have.
    pub checksum: Option<Digest>,
    /// What it is called in the step's file system.
    pub name: String,
}

/// What is taken of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Git {
    /// Where it is.
    pub remote: String,
    /// A branch, tag or commit. None: what its HEAD names.
    pub reference: Option<String>,
    /// The directory in it whose contents are taken.
    pub subdirectory: Option<String>,
    /// `.git` is kept.
    pub keep_git_dir: bool,
    /// The first digits, or all, of the hash that the commit must have.
    pub checksum: Option<String>,
}

/// A file whose contents stand in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    /// What it is called in the step's file system.
    pub name: String,
    /// What is in it.
    pub contents: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

/// A command in a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The file system that it changes.
    pub on: VertexId,
    /// The program and its arguments; a shell form comes with its shell. A heredoc that is a program of its own (`RUN
    /// <<EOF` with `#!`) comes as a bind mount of an [`Operation::Inline`].
    pub arguments: Vec<String>,
    /// `NAME=value`, in the order in which they were set.
    pub environment: Vec<String>,
    /// Arguments of the build that reach the command but neither the cache key nor the history: those that are predefined
    /// for proxies.
    pub uncached: BTreeMap<String, String>,
    /// `user[:group]` as in `USER`; empty: root.
    pub user: String,
    /// The working directory, absolute.
    pub directory: String,
    /// `--mount`, in their order.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: RunNetwork,
    /// `--security=insecure`.
    pub insecure: bool,
    /// `--device`: names of CDI devices.
    pub devices: Vec<String>,
}

/// `--network` of `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    /// What the build was told, or else a network of its own with a way out.
    #[default]
    Default,
    /// Only a loopback interface.
    None,
    /// That of the host.
    Host,
}

/// `--mount` of `RUN`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// Where in the container, absolute. Empty for a secret that is only a variable.
    pub target: String,
    /// What is there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq)]
pub enum MountKind {
    /// A directory or file of another file system. Changes are thrown away.
    Bind {
        /// Whose.
        from: VertexId,
        /// The path in it, absolute.
        source: String,
        /// Whether it can be changed.
        writable: bool,
    },
    /// A directory that stays from one build to the next.
    Cache {
        /// Its name.
        id: String,
        /// What several commands at once do.
        sharing: Sharing,
        /// What it begins as.
        from: Option<VertexId>,
        /// The path in that, absolute.
        source: String,
        /// Of the directory when it is new.
        mode: u32,
        /// Likewise.
        uid: u32,
        /// Likewise.
        gid: u32,
        /// It cannot be changed.
        read_only: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Bytes that it can hold.
        size: Option<u64>,
    },
    /// A secret of the build.
    Secret {
        /// Its name.
        id: String,
        /// The variable that has it, instead of or beside the file.
        variable: Option<String>,
        /// The step fails without it.
        required: bool,
        /// Of the file.
        mode: u32,
        /// Likewise.
        uid: u32,
        /// Likewise.
        gid: u32,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Its name.
        id: String,
        /// The step fails without it.
        required: bool,
        /// Of the socket.
        mode: u32,
        /// Likewise.
        uid: u32,
        /// Likewise.
        gid: u32,
    },
}

/// What happens where several commands want one cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All have it at once.
    #[default]
    Shared,
    /// A second one gets one of its own.
    Private,
    /// A second one waits.
    Locked,
}

/// Files that are copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// The file system that they are copied to.
    pub on: VertexId,
    /// What is copied, in this order.
    pub sources: Vec<CopySource>,
    /// The path it is copied to, absolute. With a slash at its end it is a directory in any case.
    pub destination: String,
    /// `user[:group]`, as `--chown` has it. None: root.
    pub owner: Option<String>,
    /// `--chmod`: octal digits or a symbolic mode (`u=rwX,go=rX`).
    pub mode: Option<String>,
    /// A layer of its own, that does not depend on what is below it.
    pub link: bool,
    /// Keep the parents of each source, from a `/./` in it on.
    pub parents: bool,
    /// `--exclude`, in the syntax of `.dockerignore`.
    pub exclude: Vec<String>,
}

/// One source of a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct CopySource {
    /// Whose file.
    pub from: VertexId,
    /// A path in it, with wildcards as Go's `filepath.Match` has them.
    pub path: String,
    /// Whether the path is what it is, and has no wildcards.
    pub literal: bool,
    /// An archive is unpacked.
    pub unpack: bool,
}

/// A directory that is made where it is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct MakeDirectory {
    /// The file system it is made in.
    pub on: VertexId,
    /// Its path, absolute.
    pub path: String,
    /// `user[:group]` that it belongs to; empty: root.
    pub owner: String,
}

/// What one instruction did, as the image's history has it.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The instruction, as BuildKit writes it: `RUN /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// The step that made its layer. None: it made none.
    pub layer: Option<VertexId>,
}

/// What the language must know of an image before it can go on: its configuration, whose environment, user, `ONBUILD` and
/// so on are those that a stage begins with.
#[derive(Debug, Clone)]
pub struct Base {
    /// What to name in [`Operation::Image`].
    pub source: ImageSource,
    /// The configuration.
    pub config: ImportedConfig,
    /// Who made it.
    pub author: Option<String>,
}

/// An image that the language asks for: the reference as it stands in the Dockerfile, expanded, and for what machine.
///
/// The language is pure: where it needs images that it was not given, it returns their requests, and is called again with
/// them (an `ONBUILD` of a base can need more). What it gets are bases by request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRequest {
    /// As it stands in the Dockerfile, expanded, or what a named context `docker-image://` says instead.
    pub reference: String,
    /// What machine it is to be for.
    pub platform: String,
}

impl Operation {
    /// Returns the steps whose results this one needs.
    pub fn inputs(&self) -> Vec<VertexId> {
        match self {
            Self::Image(_) | Self::Scratch | Self::Context(_) | Self::Http(_) | Self::Git(_) | Self::Inline(_) => {
                Vec::new()
            }
            Self::Run(run) => std::iter::once(run.on).chain(run.mounts.iter().filter_map(Mount::from)).collect(),
            Self::Copy(copy) => std::iter::once(copy.on).chain(copy.sources.iter().map(|source| source.from)).collect(),
            Self::MakeDirectory(make) => vec![make.on],
        }
    }
}

impl Mount {
    fn from(&self) -> Option<VertexId> {
        match &self.kind {
            MountKind::Bind { from, .. } => Some(*from),
            MountKind::Cache { from, .. } => *from,
            MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => None,
        }
    }
}

impl Graph {
    /// Returns a vertex of the graph.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }
}
