//! What a stage has come to, instruction by instruction, and the steps that it takes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Options;
use super::environment::{Environment, proxies};
use super::outline::Outline;
use super::prune::without_unneeded;
use super::remote::NamedContext;
use super::scan::Scan;
use super::stages::{Node, Origin, Stages, Step};
use crate::build::check::{Checker, Rule};
use crate::build::dockerfile::instruction::{Command, Instruction, Word};
use crate::build::dockerfile::shell::{Expanded, Lexer};
use crate::build::dockerfile::{Fault, closest, go};
use crate::build::graph::{
    Base, Context, Copy, CopySource, Graph, History, ImageRequest, ImageSource, MAIN_CONTEXT, Operation, Span, Vertex,
    VertexId,
};
use crate::build::ignore::Patterns;
use crate::image::{ImportedConfig, Platform, Reference};

/// The `PATH` of an image that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes that all steps, histories and copies of environments of one Dockerfile have together. A few lines could make more
/// than any memory holds.
pub(crate) const MAX_TEXT: usize = 64 << 20;

/// Makes the steps of the stages.
pub(crate) struct Builder<'a> {
    pub(crate) options: &'a Options,
    bases: &'a BTreeMap<ImageRequest, Base>,
    pub(crate) lexer: Lexer,
    pub(crate) global: &'a Environment,
    /// The `.dockerignore` of the build's own context.
    pub(crate) ignore: &'a Patterns,
    pub(crate) checker: &'a mut Checker,
    pub(crate) stages: &'a Stages,
    pub(crate) proxies: BTreeMap<String, String>,
    vertices: Vec<Vertex>,
    /// The sources that several steps share.
    shared: Vec<(Operation, VertexId)>,
    states: BTreeMap<usize, State>,
    /// Contexts that are the first layer of a stage: the step that makes the layer, and the files.
    laid: BTreeMap<VertexId, VertexId>,
    text: usize,
    pub(crate) outline: Outline,
}

/// What a stage has come to.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Its file system.
    pub(crate) at: VertexId,
    /// The variables that instructions see: those of the image and the arguments.
    pub(crate) environment: Environment,
    pub(crate) config: ImportedConfig,
    pub(crate) platform: Platform,
    /// The names of the arguments that were declared.
    pub(crate) arguments: Declared,
    /// The working directory, absolute.
    pub(crate) directory: String,
    pub(crate) author: Option<String>,
    pub(crate) base: Option<ImageSource>,
    pub(crate) history: Vec<History>,
    /// An instruction of this Dockerfile has set the working directory.
    pub(crate) has_workdir: bool,
    /// What an SBOM is to tell of.
    pub(crate) scan: Scan,
}

/// Names in the order in which they came first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    pub(crate) names: Vec<String>,
    known: BTreeSet<String>,
}

impl Declared {
    /// Adds a name, unless it is there.
    pub(crate) fn add(&mut self, name: &str) {
        if self.known.insert(name.to_owned()) {
            self.names.push(name.to_owned());
        }
    }
}

impl State {
    /// Returns about how many bytes a copy takes.
    fn size(&self) -> usize {
        /// A name in one of the maps, with what it takes beside its text.
        const ENTRY: usize = 64;
        let labels = self.config.labels.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len));
        let entries = self.config.exposed_ports.len() + self.config.volumes.len() + self.config.labels.len();
        let history = self.history.iter().map(|entry| ENTRY + entry.created_by.len());
        2 * self.environment.size() + labels.sum::<usize>() + ENTRY * entries + history.sum::<usize>()
    }
}

/// The stage that is being built.
pub(crate) struct Current {
    pub(crate) stage: usize,
    pub(crate) state: State,
    /// Its name as steps show it; empty where there is only one stage.
    label: String,
    pub(crate) no_cache: bool,
    /// How many of its steps have a number, and which was the last.
    total: usize,
    number: usize,
    /// Where these stand, of which only the last counts.
    pub(crate) cmd: Option<Span>,
    pub(crate) entrypoint: Option<Span>,
    pub(crate) healthcheck: Option<Span>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        options: &'a Options,
        bases: &'a BTreeMap<ImageRequest, Base>,
        lexer: Lexer,
        global: &'a Environment,
        ignore: &'a Patterns,
        checker: &'a mut Checker,
        stages: &'a Stages,
    ) -> Self {
        Self {
            options,
            bases,
            lexer,
            global,
            ignore,
            checker,
            stages,
            proxies: proxies(&options.arguments),
            vertices: Vec::new(),
            shared: Vec::new(),
            states: BTreeMap::new(),
            laid: BTreeMap::new(),
            text: 0,
            outline: Outline::default(),
        }
    }

    /// Makes the steps of all stages that are needed.
    pub(crate) fn build(mut self, needed: &BTreeSet<usize>, target: usize) -> Result<(Graph, Outline), Fault> {
        // What is no stage has no instructions, and stages can need it.
        let (stages, others): (Vec<usize>, Vec<usize>) = needed.iter().partition(|at| self.stages.is_stage(**at));
        for at in others.into_iter().chain(stages) {
            let state = self.build_stage(at).map_err(|fault| fault.at(self.stages.nodes[at].span))?;
            self.states.insert(at, state);
        }
        let extras = self.extras(target);
        let mut state = self.states.remove(&target).expect("the target is needed by itself");
        for (name, value) in &self.options.labels {
            state.config.labels.insert(name.clone(), Value::String(value.clone()));
        }
        state.config.docker.on_build = state.config.docker.on_build.filter(|triggers| !triggers.is_empty());
        self.outline.finish(self.stages.nodes[target].name.clone());
        Ok((without_unneeded(self.vertices, state, extras), self.outline))
    }

    /// Returns what an SBOM tells of beside the target, by name.
    fn extras(&mut self, target: usize) -> BTreeMap<String, VertexId> {
        let mut extras = BTreeMap::new();
        if !self.options.sbom {
            return extras;
        }
        let stages = self.stages;
        if self.states.get(&target).is_some_and(|state| state.scan.has_context(&stages.label(target))) {
            extras.insert(MAIN_CONTEXT.to_owned(), self.main_context());
        }
        for at in stages.needed(target, false).into_iter().filter(|at| *at != target && stages.is_stage(*at)) {
            let label = stages.label(at);
            if let Some(state) = self.states.get(&at).filter(|state| state.scan.has_stage(&label)) {
                extras.insert(label, state.at);
            }
        }
        extras
    }

    fn build_stage(&mut self, at: usize) -> Result<State, Fault> {
        let stages = self.stages;
        let node = &stages.nodes[at];
        let label = if stages.is_only_one() { String::new() } else { stages.label(at) };
        let is_numbered = |step: &&Step| {
            matches!(step.command, Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_))
        };
        let has_base = matches!(node.origin, Origin::Image(_) | Origin::Context(_));
        let (triggers, own): (Vec<&Step>, Vec<&Step>) = node.steps.iter().partition(|step| step.is_trigger);
        // What a base triggers is counted where it is done, whatever it is; the base itself does not know of it.
        let own = usize::from(has_base) + own.into_iter().filter(is_numbered).count();
        let no_cache =
            self.options.no_cache || node.name.as_ref().is_some_and(|name| self.options.no_cache_filter.contains(name));
        let mut current = Current {
            stage: at,
            state: self.begin(at, node, &label, own)?,
            label,
            no_cache,
            total: own + triggers.len(),
            number: usize::from(matches!(node.origin, Origin::Image(_))),
            cmd: None,
            entrypoint: None,
            healthcheck: None,
        };
        for step in &node.steps {
            self.step(&mut current, step).map_err(|fault| fault.at(step.instruction.span))?;
        }
        Ok(current.state)
    }

    /// Returns what a stage begins as.
    fn begin(&mut self, at: usize, node: &Node, label: &str, total: usize) -> Result<State, Fault> {
        if let Origin::Stage(base) = node.origin {
            let size = self.states.get(&base).map_or(0, State::size);
            self.spend(size)?;
            let mut state = self.states.get(&base).expect("a base stands before what is built on it").clone();
            state.config.docker.on_build = None;
            return Ok(state);
        }
        let stage = self.stages.is_stage(at).then(|| self.stages.label(at));
        let platform = node.platform.clone().unwrap_or_else(|| self.options.platform.clone());
        let mut state = State {
            at: VertexId(0),
            environment: Environment::default(),
            config: ImportedConfig::default(),
            platform,
            arguments: Declared::default(),
            directory: "/".to_owned(),
            author: None,
            base: None,
            history: Vec::new(),
            has_workdir: false,
            scan: Scan::of(self.global),
        };
        let options = self.options;
        match &node.origin {
            Origin::Context(name) => match &options.contexts[name] {
                NamedContext::Image(_) => self.begin_image(&mut state, node, label, total, stage),
                NamedContext::Directory(_) | NamedContext::Archive(_) => {
                    let ignore = options.context_ignore.get(name).cloned().unwrap_or_default();
                    let context = Context { name: name.clone(), ignore };
                    let shown = format!("[context {name}] load from client");
                    state.at = self.share(Operation::Context(context), shown, None);
                    self.lay(&mut state, name, stage)?;
                }
                NamedContext::Git(git) => {
                    let shown = format!("[context {name}] {}", git.remote);
                    state.at = self.share(Operation::Git(git.clone()), shown, None);
                    self.lay(&mut state, name, stage)?;
                }
            },
            Origin::Image(_) => self.begin_image(&mut state, node, label, total, stage),
            Origin::Scratch | Origin::Stage(_) => {
                state.at = self.share(Operation::Scratch, "[internal] scratch".to_owned(), None);
            }
        }
        if state.base.is_none() {
            "/".clone_into(&mut state.config.working_dir);
        }
        // There is always a PATH, and the variables of the image come first.
        if !state.config.env.iter().any(|variable| variable.starts_with("PATH=")) {
            state.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for variable in &state.config.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            state.environment.set(name, value);
        }
        if !state.config.working_dir.is_empty() {
            state.directory = go::join_path("/", &state.config.working_dir);
            state.config.working_dir.clone_from(&state.directory);
        }
        Ok(state)
    }

    /// Has the files of a context be the first layer of a stage. What is no stage only copies from it.
    fn lay(&mut self, state: &mut State, name: &str, stage: Option<String>) -> Result<(), Fault> {
        if stage.is_none() {
            return Ok(());
        }
        let from = state.at;
        let copy = Copy {
            on: self.share(Operation::Scratch, "[internal] scratch".to_owned(), None),
            sources: vec![CopySource { from, path: "/".to_owned(), literal: true, unpack: false }],
            destination: "/".to_owned(),
            owner: None,
            mode: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
        };
        state.at = self.share(Operation::Copy(copy), format!("[context {name}] lay out"), stage);
        self.laid.insert(state.at, from);
        self.commit(state, format!("local source for {name}"), Some(state.at))
    }

    fn begin_image(&mut self, state: &mut State, node: &Node, label: &str, total: usize, stage: Option<String>) {
        let request = node.request(self.options).expect("it is built on an image");
        let base = self.bases.get(&request).expect("what is missing was asked for");
        let canonical = match request.reference.parse::<Reference>() {
            Ok(reference) if reference.digest().is_none() => format!("{reference}@{}", base.source.digest),
            Ok(reference) => reference.to_string(),
            Err(_) => request.reference.clone(),
        };
        let shown = match (&node.origin, &stage) {
            (Origin::Context(name), _) => format!("[context {name}] {}", request.reference),
            (_, Some(_)) => format!("{}FROM {canonical}", numbered(self.options, &state.platform, label, 1, total)),
            (_, None) => format!("FROM {canonical}"),
        };
        if base.source.platform.os != state.platform.os
            || base.source.platform.architecture != state.platform.architecture
        {
            let (expected, actual) =
                (go::quote(&state.platform.to_string()), go::quote(&base.source.platform.to_string()));
            let message = format!(
                "Base image {} was pulled with platform {actual}, expected {expected} for current build",
                request.reference
            );
            self.checker.report(Rule::InvalidBaseImagePlatform, node.span, &[], message);
        }
        state.config = base.config.clone();
        state.config.docker.on_build = None;
        state.author.clone_from(&base.author);
        state.base = Some(base.source.clone());
        let at = self.share(Operation::Image(base.source.clone()), shown, stage);
        self.vertices[at.0].at.get_or_insert(node.span);
        state.at = at;
    }

    /// Returns the vertex of a source, which is made once.
    pub(crate) fn share(&mut self, operation: Operation, name: String, stage: Option<String>) -> VertexId {
        if let Some((_, known)) = self.shared.iter().find(|(known, _)| *known == operation) {
            return *known;
        }
        let id = VertexId(self.vertices.len());
        self.shared.push((operation.clone(), id));
        self.vertices.push(Vertex { operation, name, stage, at: None, no_cache: false });
        id
    }

    /// Returns the vertex of the build's own context.
    pub(crate) fn main_context(&mut self) -> VertexId {
        let context = Context { name: MAIN_CONTEXT.to_owned(), ignore: self.options.ignore.clone() };
        self.share(Operation::Context(context), "[internal] load build context".to_owned(), None)
    }

    /// Adds the step of an instruction, whose result is the stage's file system from here on.
    pub(crate) fn push(
        &mut self,
        current: &mut Current,
        step: &Step,
        name: String,
        operation: Operation,
    ) -> Result<VertexId, Fault> {
        self.spend(name.len())?;
        let id = VertexId(self.vertices.len());
        self.vertices.push(Vertex {
            operation,
            name,
            stage: Some(self.stages.label(current.stage)),
            at: Some(step.instruction.span),
            no_cache: current.no_cache,
        });
        current.state.at = id;
        Ok(id)
    }

    /// Returns the file system of another stage, as it is now.
    pub(crate) fn file_system(&self, stage: usize) -> Option<VertexId> {
        // A context need not be a layer to be copied from.
        self.states.get(&stage).map(|state| *self.laid.get(&state.at).unwrap_or(&state.at))
    }

    /// Counts text that is kept.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.text += bytes;
        if self.text > MAX_TEXT { Err(too_much_text()) } else { Ok(()) }
    }

    /// Returns what a step is called: its stage and number, and the instruction as people read it.
    pub(crate) fn name(&mut self, current: &mut Current, step: &Step, lexer: Lexer, code: &str) -> String {
        let expanded = lexer.expand(code, &current.state.environment);
        let shown = expanded.map_or_else(|_| code.to_owned(), |expanded| expanded.text);
        let (keyword, rest) = shown.split_once(' ').unwrap_or((&shown, ""));
        current.number += 1;
        let prefix = numbered(self.options, &current.state.platform, &current.label, current.number, current.total);
        let trigger = if step.is_trigger { "ONBUILD " } else { "" };
        let blank = if rest.is_empty() { "" } else { " " };
        format!("{prefix}{trigger}{}{blank}{rest}", keyword.to_uppercase())
    }

    /// Expands a text and remarks what is not defined.
    pub(crate) fn expand(&mut self, state: &State, step: &Step, word: &Word) -> Result<String, Fault> {
        self.expand_with(self.lexer, state, step, word).map(|expanded| expanded.text)
    }

    pub(crate) fn expand_with(
        &mut self,
        lexer: Lexer,
        state: &State,
        step: &Step,
        word: &Word,
    ) -> Result<Expanded, Fault> {
        let expanded =
            lexer.expand(&word.text, &state.environment).map_err(|message| Fault::new(message).at(word.span))?;
        self.spend(expanded.text.len())?;
        for name in &expanded.missing {
            if state.arguments.known.contains(name) || self.checker.is_full() {
                continue;
            }
            let meant = closest(name, state.environment.names(), true);
            let meant = meant.map_or_else(String::new, |meant| format!(" (did you mean ${meant}?)"));
            let message = format!("Usage of undefined variable '${name}'{meant}");
            self.report(Rule::UndefinedVar, &step.instruction, message);
        }
        Ok(expanded)
    }

    pub(crate) fn expand_some(
        &mut self,
        state: &State,
        step: &Step,
        word: Option<&Word>,
    ) -> Result<Option<String>, Fault> {
        let expanded = word.map(|word| self.expand(state, step, word)).transpose()?;
        Ok(expanded.filter(|text| !text.is_empty()))
    }

    pub(crate) fn report(&mut self, rule: Rule, instruction: &Instruction, message: String) {
        self.checker.report(rule, instruction.span, &instruction.comments, message);
    }

    /// Adds an instruction to the history.
    pub(crate) fn commit(
        &mut self,
        state: &mut State,
        created_by: String,
        layer: Option<VertexId>,
    ) -> Result<(), Fault> {
        self.spend(created_by.len())?;
        state.history.push(History { created_by, layer });
        Ok(())
    }
}

/// Returns `[linux/amd64 stage 2/5] `.
fn numbered(options: &Options, platform: &Platform, label: &str, number: usize, total: usize) -> String {
    if total == 0 {
        return String::new();
    }
    let platform = if options.several_platforms { format!("{platform} ") } else { String::new() };
    let label = if label.is_empty() { String::new() } else { format!("{label} ") };
    let width = total.to_string().len();
    format!("[{platform}{label}{number:>width$}/{total}] ")
}

pub(crate) fn too_much_text() -> Fault {
    Fault::new(format!("the Dockerfile expands to more than {MAX_TEXT} bytes of text"))
}
