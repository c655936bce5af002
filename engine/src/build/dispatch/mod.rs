//! A Dockerfile and the options of a build as a [`Graph`]: which stages are needed, on what they are built, what each
//! instruction does to the file system, to the configuration of the image and to its history.
//!
//! This is pure: no file is looked at, no registry asked, nothing executed. The images that stages are built on come with
//! the call; where one is missing, it is asked for ([`Dispatched::Needs`]) and the call is repeated with it, until nothing
//! is missing (the `ONBUILD` of an image can need another one).

mod copy;
mod environment;
mod expose;
mod metadata;
mod outline;
mod prune;
mod remote;
mod run;
mod scan;
mod stages;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::check::{CheckOptions, Checker, Warning, check_stages};
use super::dockerfile::shell::Lexer;
use super::dockerfile::{Dockerfile, Fault};
use super::graph::{Base, Graph, ImageRequest, Span};
use super::ignore::Patterns;
use crate::image::Platform;
use environment::Environment;
use stages::Stages;
use state::Builder;

pub use outline::{Outline, OutlineArgument, OutlineMount, Target, targets};
pub use remote::NamedContext;

/// What a build is told beside its Dockerfile.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name of the stage that is wanted. None: the last one.
    pub target: Option<String>,
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    /// What machine the image is for.
    pub platform: Platform,
    /// The images are built for several machines, so that steps say for which they are.
    pub several_platforms: bool,
    /// What machine the build runs on.
    pub build_platform: Platform,
    /// `--build-context`: a name that stands for something else than what it says.
    pub contexts: BTreeMap<String, NamedContext>,
    /// The `.dockerignore` of the build's own context, in lines.
    pub ignore: Vec<String>,
    /// The `.dockerignore` of named contexts that are directories.
    pub context_ignore: BTreeMap<String, Vec<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: stages whose steps are not taken from the cache.
    pub no_cache_filter: BTreeSet<String>,
    /// Look at every stage, needed or not, as `--check` does without a target.
    pub all_stages: bool,
    /// An SBOM is made, and may tell of more than the target.
    pub sbom: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            arguments: BTreeMap::new(),
            platform: Platform::host(),
            several_platforms: false,
            build_platform: Platform::host(),
            contexts: BTreeMap::new(),
            ignore: Vec::new(),
            context_ignore: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            no_cache_filter: BTreeSet::new(),
            all_stages: false,
            sbom: false,
        }
    }
}

/// What became of a Dockerfile.
#[derive(Debug)]
pub enum Dispatched {
    /// The steps.
    Graph(Box<Plan>),
    /// Images that must be known first.
    Needs(BTreeMap<ImageRequest, Asked>),
}

/// Where an image is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The instruction that does it.
    pub at: Span,
    /// A stage whose name is nearly the same, which may be what is meant.
    pub meant: Option<String>,
}

/// The steps, and remarks about the Dockerfile.
#[derive(Debug)]
pub struct Plan {
    /// The steps.
    pub graph: Graph,
    /// The remarks, by their places.
    pub warnings: Vec<Warning>,
    /// What the build can be told.
    pub outline: Outline,
}

/// A fault, and the remarks that were made before it.
#[derive(Debug)]
pub struct Refused {
    /// What is wrong.
    pub fault: Fault,
    /// The remarks, by their places.
    pub warnings: Vec<Warning>,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { fault, warnings: Vec::new() }
    }
}

/// Makes steps of a Dockerfile.
pub fn dispatch(
    dockerfile: &Dockerfile,
    options: &Options,
    bases: &BTreeMap<ImageRequest, Base>,
) -> Result<Dispatched, Refused> {
    let mut checker = Checker::new(check_options(dockerfile, options)?);
    check_stages(dockerfile, &mut checker);
    let built = build(dockerfile, options, bases, &mut checker);
    let (warnings, violation) = checker.finish();
    match (built, violation) {
        (Ok(Built::Needs(requests)), _) => Ok(Dispatched::Needs(requests)),
        (Ok(Built::Graph(graph, outline)), None) => {
            Ok(Dispatched::Graph(Box::new(Plan { graph: *graph, warnings, outline })))
        }
        (Ok(Built::Graph(..)), Some(fault)) | (Err(fault), _) => Err(Refused { fault, warnings }),
    }
}

/// Returns which checks are made: what the build says has precedence over what the Dockerfile says.
fn check_options(dockerfile: &Dockerfile, options: &Options) -> Result<CheckOptions, Fault> {
    match (options.arguments.get("BUILDKIT_DOCKERFILE_CHECK"), &dockerfile.check) {
        (Some(given), _) => CheckOptions::parse(given),
        (None, Some(directive)) => CheckOptions::parse(&directive.text).map_err(|fault| fault.at(directive.span)),
        (None, None) => Ok(CheckOptions::default()),
    }
}

enum Built {
    Graph(Box<Graph>, Outline),
    Needs(BTreeMap<ImageRequest, Asked>),
}

fn build(
    dockerfile: &Dockerfile,
    options: &Options,
    bases: &BTreeMap<ImageRequest, Base>,
    checker: &mut Checker,
) -> Result<Built, Fault> {
    let lexer = Lexer::new(dockerfile.escape);
    let stage = options.target.as_deref().or(dockerfile.stages.last().and_then(|stage| stage.name.as_deref()));
    let predefined = Environment::predefined(&options.build_platform, &options.platform, stage, &options.arguments);
    stages::check_default_arguments(dockerfile, lexer, &predefined, checker);
    let (global, declared) = stages::global_arguments(dockerfile, lexer, predefined, &options.arguments)?;
    let mut stages = Stages::new(dockerfile, options, lexer, &global, &declared, checker)?;
    let target = stages.target(options.target.as_deref())?;
    let needed = loop {
        stages.check_cycles()?;
        let needed = stages.needed(target, options.all_stages);
        let requests = stages.requests(&needed, options);
        let missing: BTreeMap<ImageRequest, Asked> =
            requests.into_iter().filter(|(request, _)| !bases.contains_key(request)).collect();
        if !missing.is_empty() {
            return Ok(Built::Needs(missing));
        }
        if !stages.add_triggers(&needed, options, bases, lexer)? {
            break needed;
        }
    };
    let ignore = Patterns::new(&options.ignore).map_err(|error| Fault::new(error.to_string()))?;
    let mut builder = Builder::new(options, bases, lexer, &global, &ignore, checker, &stages);
    builder.outline.add_global(dockerfile, &global);
    let (graph, outline) = builder.build(&needed, target)?;
    Ok(Built::Graph(Box::new(graph), outline))
}
