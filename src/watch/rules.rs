//! What is watched, and what follows from a change (Compose Specification, "Develop").

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rcompose_engine::build::ignore::{DirectoryMatch, PatternError, Patterns};

use crate::compose::model::{Hook, MountKind, Project, Service, WatchAction};
use crate::project::build::{FailedBuild, ignored_of};

/// What editors and version control leave behind for a moment, which nobody wants to see in a container. Most are Docker
/// Compose's.
const EPHEMERAL: [&str; 11] = [
    "**/.git",
    "**/*___jb_old___",
    "**/*___jb_tmp___",
    "**/.idea/**",
    "**/.#*",
    "**/4913",
    "**/*~",
    "**/.*.swp",
    "**/.*.swx",
    "**/.*.swo",
    "**/.*.swn",
];

/// Why a project cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("none of the selected services is configured for watch, consider setting a 'develop' section")]
    Nothing,
    #[error("can't watch service {service:?} with action rebuild without a build context")]
    NoBuild { service: String },
    #[error("can't watch service {service:?} with action sync+exec without a command")]
    NoCommand { service: String },
    #[error("invalid pattern in develop.watch of service {service:?}")]
    Pattern {
        service: String,
        #[source]
        source: PatternError,
    },
    #[error(transparent)]
    Ignored(#[from] FailedBuild),
}

/// One entry of `develop.watch`.
#[derive(Debug, Clone)]
pub struct Rule {
    pub service: String,
    pub action: WatchAction,
    /// A file or directory of this host, without links on the way.
    pub root: PathBuf,
    /// What that is in the container; a rule that does not sync has none.
    pub target: Option<PathBuf>,
    pub exec: Hook,
    pub initial_sync: bool,
    /// Whether what is there is gone when the container starts again: it is in memory.
    pub volatile: bool,
    include: Option<Patterns>,
    ignores: Vec<Ignores>,
}

/// Patterns of paths that do not count, and what they are relative to.
#[derive(Debug, Clone)]
struct Ignores {
    root: PathBuf,
    patterns: Patterns,
}

/// All that is watched.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// What is to be said of rules that are not what they seem.
    pub warnings: Vec<String>,
}

impl Rules {
    /// Returns the rules of a project's services.
    pub fn of(project: &Project) -> Result<Self, RuleError> {
        let mut rules = Self::default();
        for service in project.services.values() {
            rules.add(service)?;
        }
        Ok(rules)
    }

    fn add(&mut self, service: &Service) -> Result<(), RuleError> {
        let Some(develop) = &service.develop else { return Ok(()) };
        let name = &service.name;
        let failed = |source| RuleError::Pattern { service: name.clone(), source };
        let mut common = Vec::new();
        if let Some(build) = &service.build {
            // It is a directory: what is fetched from elsewhere has no files here.
            if let Ok(root) = fs::canonicalize(&build.context) {
                let dockerfile = build.dockerfile_inline.is_none().then_some(build.dockerfile.as_str());
                let mut lines = ignored_of(&root, dockerfile.filter(|path| !path.is_empty()))?;
                // Whoever builds of nothing at all watches something none the less: as Docker Compose.
                if lines.iter().any(|line| line == "*") {
                    lines.clear();
                }
                common.push(Ignores { root, patterns: Patterns::new(&lines).map_err(failed)? });
            }
        }
        for trigger in &develop.watch {
            match trigger.action {
                WatchAction::Rebuild if service.build.is_none() => {
                    return Err(RuleError::NoBuild { service: name.clone() });
                }
                WatchAction::SyncExec if trigger.exec.command.as_ref().is_none_or(Vec::is_empty) => {
                    return Err(RuleError::NoCommand { service: name.clone() });
                }
                _ => {}
            }
            let root = resolved(Path::new(&trigger.path));
            let only_syncs = matches!(trigger.action, WatchAction::Sync | WatchAction::SyncRestart);
            if only_syncs && is_bind_mounted(&root, service) {
                let path = &trigger.path;
                self.warnings
                    .push(format!("path '{path}' also declared by a bind mount volume, this path won't be monitored!"));
                continue;
            }
            let mut ignores = common.clone();
            for patterns in [Patterns::new(&EPHEMERAL), Patterns::new(&trigger.ignore)] {
                ignores.push(Ignores { root: root.clone(), patterns: patterns.map_err(failed)? });
            }
            let include = match trigger.include.as_slice() {
                [] => None,
                given => Some(Patterns::new(given).map_err(failed)?),
            };
            let target = trigger.target.as_ref().filter(|_| trigger.action.syncs()).map(PathBuf::from);
            let rule = Rule {
                service: name.clone(),
                action: trigger.action,
                volatile: target.as_ref().is_some_and(|target| is_in_memory(target, service)),
                target,
                exec: trigger.exec.clone(),
                initial_sync: trigger.initial_sync && trigger.action.syncs(),
                include,
                ignores,
                root,
            };
            if rule.is_ignored(&rule.root) {
                let path = &trigger.path;
                self.warnings.push(format!("path '{path}' is left out by a .dockerignore, so it is not watched"));
            }
            self.rules.push(rule);
        }
        Ok(())
    }

    /// Returns the services that have rules.
    pub fn services(&self) -> BTreeSet<&str> {
        self.rules.iter().map(|rule| rule.service.as_str()).collect()
    }

    /// Returns the rules that a path concerns, by number.
    pub fn matching<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = usize> + 'a {
        self.rules.iter().enumerate().filter(move |(_, rule)| rule.matches(path)).map(|(number, _)| number)
    }

    /// Returns whether a change of this path is one for any rule.
    pub fn concern(&self, path: &Path) -> bool {
        self.rules.iter().any(|rule| rule.matches(path))
    }

    /// Returns whether a rule may have to do with something in a directory.
    pub fn looks_into(&self, directory: &Path) -> bool {
        self.rules.iter().any(|rule| directory.starts_with(&rule.root) && !rule.skips(directory))
    }

    /// Returns the files and directories that are watched, none inside another.
    pub fn roots(&self) -> BTreeSet<&Path> {
        // One that another rule leaves out of its directory is watched on its own.
        let covered = |root: &Path| {
            let above = root.parent().unwrap_or(root);
            self.rules.iter().any(|other| other.root != root && root.starts_with(&other.root)) && self.looks_into(above)
        };
        self.rules.iter().map(|rule| rule.root.as_path()).filter(|root| !covered(root)).collect()
    }
}

impl Rule {
    /// Returns whether a change of this path is what the rule is for.
    pub fn matches(&self, path: &Path) -> bool {
        let Ok(relative) = path.strip_prefix(&self.root) else { return false };
        let relative = bytes(relative, path);
        self.include.as_ref().is_none_or(|include| include.matches(relative)) && !self.is_ignored(path)
    }

    fn is_ignored(&self, path: &Path) -> bool {
        let matches = |ignores: &Ignores| {
            let relative = path.strip_prefix(&ignores.root).ok();
            // The root of a rule is ignored by nothing that is relative to it.
            relative.is_some_and(|relative| {
                !relative.as_os_str().is_empty() && ignores.patterns.matches(relative_bytes(relative))
            })
        };
        self.ignores.iter().any(matches)
    }

    /// Returns whether nothing in a directory below the root matches.
    fn skips(&self, directory: &Path) -> bool {
        let skips = |ignores: &Ignores| {
            let Ok(relative) = directory.strip_prefix(&ignores.root) else { return false };
            let mut matched = DirectoryMatch::default();
            let mut prefix = PathBuf::new();
            for part in relative {
                prefix.push(part);
                matched = ignores.patterns.enter(relative_bytes(&prefix), &matched);
            }
            !relative.as_os_str().is_empty() && ignores.patterns.can_skip(relative_bytes(relative), &matched)
        };
        self.ignores.iter().any(skips)
    }

    /// Returns where a path that matches is in the container.
    pub fn target_of(&self, path: &Path) -> Option<PathBuf> {
        let target = self.target.as_ref()?;
        match path.strip_prefix(&self.root).ok()? {
            itself if itself.as_os_str().is_empty() => Some(target.clone()),
            below => Some(target.join(below)),
        }
    }
}

impl WatchAction {
    /// Returns whether files are brought into containers.
    pub fn syncs(self) -> bool {
        matches!(self, Self::Sync | Self::SyncRestart | Self::SyncExec)
    }

    /// Returns the word that the files have.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Sync => "sync",
            Self::Restart => "restart",
            Self::SyncRestart => "sync+restart",
            Self::SyncExec => "sync+exec",
        }
    }
}

fn relative_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Returns the path that patterns match; a single file has its name.
fn bytes<'p>(relative: &'p Path, whole: &'p Path) -> &'p [u8] {
    if relative.as_os_str().is_empty() {
        whole.file_name().map_or(&[], OsStr::as_bytes)
    } else {
        relative_bytes(relative)
    }
}

/// Returns a path without links on the way, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    }
}

fn is_bind_mounted(path: &Path, service: &Service) -> bool {
    let mut mounts = service.volumes.iter().filter(|mount| mount.kind == MountKind::Bind);
    mounts.any(|mount| path.starts_with(resolved(Path::new(&mount.source))))
}

fn is_in_memory(target: &Path, service: &Service) -> bool {
    let mounts = service.volumes.iter().filter(|mount| mount.kind == MountKind::Tmpfs);
    let short = service.tmpfs.iter().map(|entry| entry.split_once(':').map_or(entry.as_str(), |(path, _)| path));
    mounts.map(|mount| mount.target.as_str()).chain(short).any(|mount| target.starts_with(mount))
}
