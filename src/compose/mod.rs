//! Compose files → [`Project`].
//!
//! Implements the Compose Specification with the results of Docker Compose 2.40. Pure: no engine, no async, no
//! terminal, no process environment; files are read through [`Files`] only.
//!
//! The way of a value: `yaml` (events → tree with places, scalars as Go's YAML library reads them) → `interpolate` (per file) →
//! `extends`, `include` → `merge` onto the files before → `unique` → `schema` → `canonical` (short forms to long
//! ones) → `defaults`, `paths` → `normalize` → `shape` (every attribute to its type) → `consistency` → `model`.
//!
//! Faults are collected, not thrown: a stage that finds one reports it, removes what is wrong and goes on with the rest, so that
//! one run shows every independent fault.

mod canonical;
mod cast;
mod checks;
mod confine;
pub mod deep;
pub mod diagnostic;
mod discover;
pub mod dotenv;
pub mod environment;
mod faults;
pub mod files;
mod gopath;
pub mod interpolate;
pub mod key;
mod loader;
mod merge;
pub mod model;
pub mod node;
mod normalize;
mod path;
mod paths;
pub mod portable;
pub mod print;
pub mod remote;
mod resolve;
pub(crate) mod schema;
mod select;
pub mod shape;
pub mod shell;
pub mod short;
pub mod source;
pub(crate) mod suggest;
mod typed;
mod unique;
pub mod units;
pub mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use diagnostic::{Diagnostic, Label, Severity};
pub use discover::NAMES;
pub use environment::Environment;
use faults::Faults;
pub use files::{Disk, Files, NotFetched};
use key::{Key, KeyPath};
use loader::Outcome;
pub use model::{Project, Service};
use node::{Map, Node, Value};
pub use select::SelectError;
use serde::{Deserialize, Serialize};
use source::Sources;

/// What to load, and how.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The compose files (`-f`); `-` is standard input. Empty: `COMPOSE_FILE` of the environment, else the default
    /// names are looked for in the working directory and its parents.
    pub files: Vec<String>,
    /// `--project-directory`.
    pub project_directory: Option<PathBuf>,
    /// `--project-name`.
    pub project_name: Option<String>,
    /// `--profile`. Empty: `COMPOSE_PROFILES` of the environment or of `.env`.
    pub profiles: Vec<String>,
    /// `--env-file`. Empty: `COMPOSE_ENV_FILES`, else `.env` where there is one.
    pub env_files: Vec<PathBuf>,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// The directory that the command runs in, absolute.
    pub working_dir: PathBuf,
    /// Only these services and what they depend on, with their profiles active. Empty: all.
    pub services: Vec<String>,
    /// Keep networks, volumes, configs and secrets that no active service uses.
    pub all_resources: bool,
    /// Join the parts of names by `_` (`--compatibility`).
    pub compatibility: bool,
    /// Leave variables alone (`config --no-interpolate`).
    pub no_interpolate: bool,
    /// Do not fill in names and defaults (`config --no-normalize`).
    pub no_normalize: bool,
    /// Leave relative paths alone (`config --no-path-resolution`).
    pub no_path_resolution: bool,
    /// Do not check references (`config --no-consistency`).
    pub no_consistency: bool,
    /// Several services may have the same container name, as where a list of what is there is all that is wanted.
    pub names_may_clash: bool,
}

/// A loaded project and what it was made of.
#[derive(Debug)]
pub struct Loaded {
    /// The project.
    pub project: Project,
    /// What is odd but no fault.
    pub warnings: Vec<Diagnostic>,
    /// What it was made of.
    pub resolved: Resolved,
}

/// A loaded project as a tree, which is all that printing it takes.
#[derive(Debug)]
pub struct Resolved {
    /// The tree: every value with its type and its place. Services that are not active are not in it.
    pub tree: deep::Tree,
    /// How deep the tree is nested; above [`deep::SHALLOW`] walk it with [`deep::run`].
    pub depth: usize,
    /// The project's name.
    pub name: String,
    /// What is odd but no fault.
    pub warnings: Vec<Diagnostic>,
    /// The variables and where they come from.
    pub environment: Environment,
    /// The files that places refer to.
    pub sources: Sources,
    compatibility: bool,
    disabled: Map,
    profiles: Vec<String>,
    directory: String,
    files: Vec<String>,
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file as it was opened.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Resolved {
    /// Returns where an attribute stands; where it does not, what it would stand in.
    pub fn place(&self, path: &KeyPath) -> Option<Place> {
        let span = self.span(path);
        let file = self.sources.of(span)?;
        let (line, column) = file.position(span.start as usize);
        Some(Place { file: file.path.clone(), line, column })
    }

    /// Returns the text that [`Resolved::place`] is the beginning of: the attribute's key, where it has one.
    pub fn span(&self, path: &KeyPath) -> source::Span {
        let places = self.nodes(path).filter_map(|node| Some(node?.place()).filter(|span| span.is_some()));
        places.last().unwrap_or(source::Span::NONE)
    }

    /// Returns the text of an attribute's value.
    pub fn value_span(&self, path: &KeyPath) -> source::Span {
        self.node(path).map_or(source::Span::NONE, |node| node.span)
    }

    /// Returns an attribute.
    pub fn node(&self, path: &KeyPath) -> Option<&Node> {
        self.nodes(path).last().unwrap_or(Some(&self.tree.0))
    }

    /// Returns what is at each step of a path, as far as it leads; None where it leads no further.
    fn nodes(&self, path: &KeyPath) -> impl Iterator<Item = Option<&Node>> {
        let mut node = Some(&self.tree.0);
        path.0.iter().map(move |key| {
            node = node.and_then(|node| match (key, &node.value) {
                (Key::Name(name), Value::Map(map)) => map.get(name),
                (Key::Index(index), Value::List(list)) => list.get(*index),
                _ => None,
            });
            node
        })
    }
}

/// A project before types are given to it, as `config --no-interpolate` and `--variables` show it.
#[derive(Debug)]
pub struct Untyped {
    /// The tree.
    pub tree: deep::Tree,
    /// How deep the tree is nested; above [`deep::SHALLOW`] walk it with [`deep::run`].
    pub depth: usize,
    /// What is odd but no fault.
    pub warnings: Vec<Diagnostic>,
}

/// Loads a project: finds, reads, merges, checks and resolves its compose files.
///
/// # Errors
/// All faults that were found; warnings come with them, before the errors.
pub fn load(options: &LoadOptions, files: &dyn Files) -> Result<Loaded, Vec<Diagnostic>> {
    let mut resolved = load_resolved(options, files)?;
    if resolved.warnings.iter().any(|warning| warning.code == resolve::NUL) {
        // A tree with it can be printed, as Docker Compose does; nothing can be run with it.
        let mut found = resolved.warnings;
        for warning in found.iter_mut().filter(|warning| warning.code == resolve::NUL) {
            warning.severity = Severity::Error;
        }
        found.sort_by_key(|diagnostic| diagnostic.severity);
        return Err(found);
    }
    let mut faults = Faults::default();
    std::mem::swap(&mut faults.sources, &mut resolved.sources);
    let project = typed::project(&resolved, &mut faults);
    std::mem::swap(&mut faults.sources, &mut resolved.sources);
    if faults.errors() > 0 {
        return Err(faults.take());
    }
    let warnings = std::mem::take(&mut resolved.warnings);
    Ok(Loaded { project, warnings, resolved })
}

/// Loads a project as a tree.
///
/// # Errors
/// All faults that were found; warnings come with them, before the errors.
pub fn load_resolved(options: &LoadOptions, files: &dyn Files) -> Result<Resolved, Vec<Diagnostic>> {
    with_stack(|deep_stack| {
        let mut faults = Faults::default();
        match loader::load(options, files, &mut faults, deep_stack, true) {
            Outcome::NeedsStack => None,
            Outcome::Failed => Some(Err(faults.take())),
            Outcome::Model(model) => Some(finish(*model, options, files, faults)),
        }
    })
}

/// Loads a project as a tree in its long form, whose values have not got their types.
///
/// # Errors
/// All faults that were found; warnings come with them, before the errors.
pub fn load_untyped(options: &LoadOptions, files: &dyn Files) -> Result<Untyped, Vec<Diagnostic>> {
    with_stack(|deep_stack| {
        let mut faults = Faults::default();
        // Nothing is taken from the environment here, not even by variables without a value.
        match loader::load(options, files, &mut faults, deep_stack, false) {
            Outcome::NeedsStack => None,
            Outcome::Model(model) if faults.errors() == 0 => {
                Some(Ok(Untyped { tree: deep::Tree(model.root), depth: model.depth, warnings: faults.take() }))
            }
            Outcome::Model(_) | Outcome::Failed => Some(Err(faults.take())),
        }
    })
}

/// Runs a function on this thread, and again on one with a large stack if it says that it needs that.
fn with_stack<T: Send>(
    function: impl Fn(bool) -> Option<Result<T, Vec<Diagnostic>>> + Sync,
) -> Result<T, Vec<Diagnostic>> {
    function(false).unwrap_or_else(|| deep::run(|| function(true)).unwrap_or_else(|| Err(Vec::new())))
}

/// Gives a loaded tree its types, checks it, and makes the project of it.
fn finish(
    model: loader::Model,
    options: &LoadOptions,
    files: &dyn Files,
    mut faults: Faults,
) -> Result<Resolved, Vec<Diagnostic>> {
    let loader::Model { mut root, name, discovered, depth } = model;
    if options.no_normalize
        && let Some(map) = root.as_map_mut()
    {
        map.insert("name".to_owned(), Node::string(name.clone(), source::Span::NONE));
    }
    shape::decode(&mut root, &mut faults);
    let mut selection = select::Selection::new(&mut root, discovered.profiles.clone());
    if !options.no_consistency {
        checks::consistency(&mut root, &selection.disabled, &mut faults);
    }
    selection.select(&mut root, &options.services, &mut faults);
    if !options.no_consistency && !options.names_may_clash {
        checks::container_names(&root, &mut faults);
    }
    let confines = confine::Confines { directory: &discovered.directory, home: &discovered.home };
    confines.check_services(&root, files, &mut faults);
    if faults.errors() > 0 {
        // Nothing is read any more: what is read may be shown.
        return Err(faults.take());
    }
    for service in root.get_mut("services").and_then(Node::as_map_mut).into_iter().flat_map(Map::values_mut) {
        resolve::env_files(service, &discovered.environment, files, &mut faults);
        resolve::label_files(service, files, &mut faults);
    }
    for (name, service) in root.get("services").and_then(Node::as_map).into_iter().flatten() {
        resolve::find_nul(name, service, &mut faults);
    }
    if !options.all_resources {
        select::drop_unused(&mut root);
    }
    if faults.errors() > 0 {
        return Err(faults.take());
    }
    let warnings = faults.take();
    Ok(Resolved {
        tree: deep::Tree(root),
        depth,
        name,
        warnings,
        compatibility: options.compatibility,
        environment: discovered.environment,
        sources: faults.sources,
        disabled: selection.disabled,
        profiles: selection.profiles,
        directory: discovered.directory,
        files: discovered.files,
    })
}
