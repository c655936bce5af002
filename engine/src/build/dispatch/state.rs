//! What a stage has come to, instruction by instruction, and the steps that it takes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::environment::{Environment, proxies};
use super::outline::Outline;
use super::remote::NamedContext;
use super::stages::{Node, Origin, Stages, Step};
use super::{Options, expose};
use crate::build::check::{Checker, Rule};
use crate::build::dockerfile::instruction::{Argument, Command, CommandLine, Instruction, Pair, Word};
use crate::build::dockerfile::shell::{Expanded, Lexer, Variables};
use crate::build::dockerfile::{Fault, closest, go};
use crate::build::graph::{
    Base, Context, Graph, History, ImageRequest, ImageSource, MAIN_CONTEXT, MakeDirectory, MountKind, Operation, Span,
    Vertex, VertexId,
};
use crate::build::ignore::Patterns;
use crate::container::signal;
use crate::image::{Healthcheck, ImportedConfig, Platform, Reference};

/// The `PATH` of an image that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The shell of an image that has none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// No program can be given a longer variable (`MAX_ARG_STRLEN` of the kernel).
const MAX_VARIABLE: usize = 131_072;
/// Bytes that all steps, histories and copies of environments of one Dockerfile have together. A few lines could make more
/// than any memory holds.
const MAX_TEXT: usize = 256 << 20;

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
    author: Option<String>,
    base: Option<ImageSource>,
    pub(crate) history: Vec<History>,
    /// An instruction of this Dockerfile has set the working directory.
    has_workdir: bool,
}

/// Names in the order in which they came first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    pub(crate) names: Vec<String>,
    known: BTreeSet<String>,
}

impl Declared {
    fn add(&mut self, name: &str) {
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
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
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
        let mut state = self.states.remove(&target).expect("the target is needed by itself");
        for (name, value) in &self.options.labels {
            state.config.labels.insert(name.clone(), Value::String(value.clone()));
        }
        state.config.docker.on_build = state.config.docker.on_build.filter(|triggers| !triggers.is_empty());
        self.outline.finish(self.stages.nodes[target].name.clone());
        Ok((without_unneeded(self.vertices, state), self.outline))
    }

    fn build_stage(&mut self, at: usize) -> Result<State, Fault> {
        let stages = self.stages;
        let node = &stages.nodes[at];
        let label = if stages.is_only_one() { String::new() } else { stages.label(at) };
        let is_numbered = |step: &&Step| {
            matches!(step.command, Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_))
        };
        let from_step = usize::from(matches!(node.origin, Origin::Image(_) | Origin::Context(_)));
        let no_cache =
            self.options.no_cache || node.name.as_ref().is_some_and(|name| self.options.no_cache_filter.contains(name));
        let total = from_step + node.steps.iter().filter(is_numbered).count();
        let mut current = Current {
            stage: at,
            state: self.begin(at, node, &label, total)?,
            label,
            no_cache,
            total,
            number: from_step,
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
        };
        let options = self.options;
        match &node.origin {
            Origin::Context(name) => match &options.contexts[name] {
                NamedContext::Image(_) => self.begin_image(&mut state, node, label, total, stage)?,
                NamedContext::Directory(_) => {
                    let ignore = options.context_ignore.get(name).cloned().unwrap_or_default();
                    let context = Context { name: name.clone(), ignore };
                    let shown = format!("[context {name}] load from client");
                    state.at = self.share(Operation::Context(context), shown, None);
                }
                NamedContext::Git(git) => {
                    let shown = format!("[context {name}] {}", git.remote);
                    state.at = self.share(Operation::Git(git.clone()), shown, None);
                }
            },
            Origin::Image(_) => self.begin_image(&mut state, node, label, total, stage)?,
            Origin::Scratch | Origin::Stage(_) => {
                state.at = self.share(Operation::Scratch, "[internal] scratch".to_owned(), None);
            }
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

    fn begin_image(
        &mut self,
        state: &mut State,
        node: &Node,
        label: &str,
        total: usize,
        stage: Option<String>,
    ) -> Result<(), Fault> {
        let request = node.request(self.options).expect("it is built on an image");
        let base = self.bases.get(&request).expect("what is missing was asked for");
        let canonical = match request.reference.parse::<Reference>() {
            Ok(reference) if reference.digest().is_none() => format!("{reference}@{}", base.source.digest),
            Ok(reference) => reference.to_string(),
            Err(_) => request.reference.clone(),
        };
        let shown = match stage {
            Some(_) => format!("{}FROM {canonical}", numbered(self.options, &state.platform, label, 1, total)),
            None => format!("FROM {canonical}"),
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
        Ok(())
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
        self.states.get(&stage).map(|state| state.at)
    }

    /// Counts text that is kept.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.text += bytes;
        if self.text > MAX_TEXT {
            return Err(Fault::new(format!("the Dockerfile expands to more than {MAX_TEXT} bytes of text")));
        }
        Ok(())
    }

    /// Returns what a step is called: its stage and number, and the instruction as people read it.
    pub(crate) fn name(&mut self, current: &mut Current, step: &Step, lexer: &Lexer, code: &str) -> String {
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
        let lexer = self.lexer;
        self.expand_with(&lexer, state, step, word).map(|expanded| expanded.text)
    }

    pub(crate) fn expand_with(
        &mut self,
        lexer: &Lexer,
        state: &State,
        step: &Step,
        word: &Word,
    ) -> Result<Expanded, Fault> {
        let expanded =
            lexer.expand(&word.text, &state.environment).map_err(|message| Fault::new(message).at(word.span))?;
        for name in &expanded.missing {
            if state.arguments.known.contains(name) {
                continue;
            }
            let mut message = format!("Usage of undefined variable '${name}'");
            if let Some(meant) = closest(name, state.environment.names(), true) {
                message.push_str(&format!(" (did you mean ${meant}?)"));
            }
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

    fn step(&mut self, current: &mut Current, step: &Step) -> Result<(), Fault> {
        match &step.command {
            Command::Run(run) => return self.run(current, step, run),
            Command::Copy(copy) => return self.copy(current, step, copy, false),
            Command::Add(add) => return self.copy(current, step, add, true),
            Command::Workdir(path) => return self.workdir(current, step, path),
            _ => {}
        }
        let state = &mut current.state;
        match &step.command {
            Command::Env(pairs) => self.env(state, step, pairs),
            Command::Label(pairs) => self.label(state, step, pairs),
            Command::Arg(arguments) => self.arg(state, step, arguments),
            Command::Expose(ports) => self.expose(state, step, ports),
            Command::Volume(paths) => self.volume(state, step, paths),
            Command::Maintainer(author) => {
                state.author = Some(author.clone());
                self.commit(state, format!("MAINTAINER {author}"), None)
            }
            Command::Onbuild(trigger) => {
                self.spend(trigger.len())?;
                state.config.docker.on_build.get_or_insert_default().push(trigger.clone());
                Ok(())
            }
            Command::Shell(shell) => {
                state.config.docker.shell = Some(shell.clone());
                self.commit(state, format!("SHELL {}", go::list(shell)), None)
            }
            Command::User(user) => {
                state.config.user = self.expand(state, step, user)?;
                let created_by = format!("USER {}", state.config.user);
                self.commit(state, created_by, None)
            }
            Command::Stopsignal(word) => {
                let name = self.expand(state, step, word)?;
                if signal::parse(&name).is_none() {
                    return Err(Fault::new(format!("Invalid signal: {name}")).at(word.span));
                }
                let created_by = format!("STOPSIGNAL {name}");
                state.config.stop_signal = name;
                self.commit(state, created_by, None)
            }
            Command::Healthcheck(check) => {
                used_once(self, "HEALTHCHECK", &mut current.healthcheck, step);
                state.config.docker.healthcheck = Some(check.clone());
                self.commit(state, format!("HEALTHCHECK {}", show_healthcheck(check)), None)
            }
            Command::Cmd(line) => {
                used_once(self, "CMD", &mut current.cmd, step);
                let arguments = self.command_line(state, step, line);
                let created_by = format!("CMD {}", go::quoted_list(&arguments));
                state.config.cmd = Some(arguments);
                self.commit(state, created_by, None)
            }
            Command::Entrypoint(line) => {
                used_once(self, "ENTRYPOINT", &mut current.entrypoint, step);
                let arguments = self.command_line(state, step, line);
                let created_by = format!("ENTRYPOINT {}", go::quoted_list(&arguments));
                state.config.entrypoint = Some(arguments);
                // A command of the base was for the entry point of the base.
                if current.cmd.is_none() {
                    state.config.cmd = None;
                }
                self.commit(state, created_by, None)
            }
            Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_) => Ok(()),
        }
    }

    /// Returns the arguments of `CMD` and `ENTRYPOINT`, with the shell where it is for one.
    fn command_line(&mut self, state: &State, step: &Step, line: &CommandLine) -> Vec<String> {
        if !line.shell {
            return line.arguments.clone();
        }
        if state.config.docker.shell.is_none() {
            let keyword = &step.instruction.keyword;
            let message = format!(
                "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            );
            self.report(Rule::JSONArgsRecommended, &step.instruction, message);
        }
        with_shell(state, &line.arguments)
    }

    fn pairs(&mut self, state: &State, step: &Step, pairs: &[Pair]) -> Result<Vec<(String, String)>, Fault> {
        let mut expanded = Vec::new();
        for pair in pairs {
            if pair.is_legacy {
                let keyword = &step.instruction.keyword;
                let message =
                    format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
                self.report(Rule::LegacyKeyValueFormat, &step.instruction, message);
            }
            let name = self.expand(state, step, &pair.name)?;
            let value = self.expand(state, step, &pair.value)?;
            expanded.push((name, value));
        }
        Ok(expanded)
    }

    fn env(&mut self, state: &mut State, step: &Step, pairs: &[Pair]) -> Result<(), Fault> {
        let mut created_by = "ENV".to_owned();
        let expanded = self.pairs(state, step, pairs)?;
        for ((name, value), pair) in expanded.iter().zip(pairs) {
            self.check_secret("ENV", name, step);
            check_variable(name, value, &pair.value)?;
            state.environment.set(name, value);
            self.spend(name.len() + value.len())?;
            created_by.push_str(&format!(" {name}={value}"));
        }
        set_variables(&mut state.config.env, &expanded);
        self.commit(state, created_by, None)
    }

    fn label(&mut self, state: &mut State, step: &Step, pairs: &[Pair]) -> Result<(), Fault> {
        let mut created_by = "LABEL".to_owned();
        for (name, value) in self.pairs(state, step, pairs)? {
            created_by.push_str(&format!(" {name}={value}"));
            state.config.labels.insert(name, Value::String(value));
        }
        self.commit(state, created_by, None)
    }

    fn arg(&mut self, state: &mut State, step: &Step, arguments: &[Argument]) -> Result<(), Fault> {
        let mut created_by = "ARG".to_owned();
        for argument in arguments {
            let name = &argument.name;
            self.check_secret("ARG", name, step);
            let value = match (self.options.arguments.get(name), &argument.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(state, step, default)?),
                (None, None) => self.global.get(name).map(str::to_owned),
            };
            let is_inherited =
                argument.default.is_none() && !self.options.arguments.contains_key(name) && value.is_some();
            self.outline.add_argument(argument, value.as_deref(), is_inherited);
            created_by.push_str(&format!(" {name}"));
            if let Some(value) = &value {
                check_variable(
                    name,
                    value,
                    argument.default.as_ref().unwrap_or(&Word { text: name.clone(), span: argument.span }),
                )?;
                created_by.push_str(&format!("={value}"));
                state.environment.set(name, value);
            }
            state.arguments.add(name);
        }
        self.commit(state, created_by, None)
    }

    fn check_secret(&mut self, kind: &str, name: &str, step: &Step) {
        const SECRET: [&str; 10] =
            ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
        const HARMLESS: [&str; 3] = ["public", "file", "version"];
        let lower = name.to_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&SECRET) && !has(&HARMLESS) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({kind} {})", go::quote(name));
            self.report(Rule::SecretsUsedInArgOrEnv, &step.instruction, message);
        }
    }

    fn expose(&mut self, state: &mut State, step: &Step, words: &[Word]) -> Result<(), Fault> {
        let mut exposed = Vec::new();
        let lexer = self.lexer;
        for word in words {
            for typed in self.expand_with(&lexer, state, step, word)?.words {
                let port = expose::parse(&typed).map_err(|message| Fault::new(message).at(word.span))?;
                if port.has_capitals {
                    let lower = typed.to_lowercase();
                    let message =
                        format!("Defined protocol '{typed}' in EXPOSE instruction should be lowercase ('{lower}')");
                    self.report(Rule::ExposeProtoCasing, &step.instruction, message);
                }
                if port.is_mapping {
                    let message = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{typed}'"
                    );
                    self.report(Rule::ExposeInvalidFormat, &step.instruction, message);
                }
                exposed.extend(port.ports);
            }
        }
        let created_by = format!("EXPOSE {}", go::list(&exposed));
        add_keys(&mut state.config.exposed_ports, exposed);
        self.commit(state, created_by, None)
    }

    fn volume(&mut self, state: &mut State, step: &Step, words: &[Word]) -> Result<(), Fault> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(state, step, word)?;
            if volume.is_empty() {
                return Err(Fault::new("VOLUME specified can not be an empty string").at(word.span));
            }
            volumes.push(volume);
        }
        let created_by = format!("VOLUME {}", go::list(&volumes));
        add_keys(&mut state.config.volumes, volumes);
        self.commit(state, created_by, None)
    }

    fn workdir(&mut self, current: &mut Current, step: &Step, word: &Word) -> Result<(), Fault> {
        let path = self.expand(&current.state, step, word)?;
        if !current.state.has_workdir && !path.starts_with('/') {
            let quoted = go::quote(&path);
            let message = format!("Relative workdir {quoted} can have unexpected results if the base image changes");
            self.report(Rule::WorkdirRelativePath, &step.instruction, message);
        }
        let state = &mut current.state;
        state.has_workdir = true;
        let directory =
            if path.starts_with('/') { go::clean_path(&path) } else { go::join_path(&state.directory, &path) };
        state.directory.clone_from(&directory);
        state.config.working_dir.clone_from(&directory);
        let mut layer = None;
        if directory != "/" {
            let lexer = self.lexer;
            let name = self.name(current, step, &lexer, &step.instruction.code);
            let make = MakeDirectory {
                on: current.state.at,
                path: directory.clone(),
                owner: current.state.config.user.clone(),
            };
            layer = Some(self.push(current, step, name, Operation::MakeDirectory(make))?);
        }
        self.commit(&mut current.state, format!("WORKDIR {directory}"), layer)
    }
}

/// Returns a command line for the shell with that in front.
pub(crate) fn with_shell(state: &State, arguments: &[String]) -> Vec<String> {
    let shell = state.config.docker.shell.clone().filter(|shell| !shell.is_empty());
    let mut line = shell.unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec());
    line.push(arguments.join(" "));
    line
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

/// Remarks on an instruction of which only the last counts; the place is that of the one that does not.
fn used_once(builder: &mut Builder<'_>, name: &str, before: &mut Option<Span>, step: &Step) {
    if let Some(before) = before.replace(step.instruction.span) {
        let keyword =
            if step.instruction.keyword.eq_ignore_ascii_case(name) { &step.instruction.keyword } else { name };
        let message = format!(
            "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
        );
        builder.checker.report(Rule::MultipleInstructionsDisallowed, before, &step.instruction.comments, message);
    }
}

fn check_variable(name: &str, value: &str, word: &Word) -> Result<(), Fault> {
    if name.len() + value.len() + 2 > MAX_VARIABLE {
        let message = format!("the variable {name} has more than {MAX_VARIABLE} bytes, which no program can be given");
        return Err(Fault::new(message).at(word.span));
    }
    Ok(())
}

/// Sets variables of an image, each where it stands already.
fn set_variables(list: &mut Vec<String>, pairs: &[(String, String)]) {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (at, variable) in list.iter().enumerate() {
        places.entry(variable.split('=').next().unwrap_or_default().to_owned()).or_insert(at);
    }
    for (name, value) in pairs {
        let variable = format!("{name}={value}");
        match places.get(name) {
            Some(at) => list[*at] = variable,
            None => {
                places.insert(name.clone(), list.len());
                list.push(variable);
            }
        }
    }
}

fn add_keys(map: &mut Map<String, Value>, keys: Vec<String>) {
    map.extend(keys.into_iter().map(|key| (key, Value::Object(Map::new()))));
}

/// Returns a health check as it is in the history.
fn show_healthcheck(check: &Healthcheck) -> String {
    let test = check.test.clone().unwrap_or_default();
    let duration = |nanoseconds| go::quote(&go::duration(nanoseconds));
    format!(
        "&{{{} {} {} {} {} {}}}",
        go::quoted_list(&test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        go::quote_number(check.retries),
    )
}

/// Returns the graph of what the target needs, numbered anew.
fn without_unneeded(vertices: Vec<Vertex>, state: State) -> Graph {
    let mut needed = vec![false; vertices.len()];
    let mut left = vec![state.at];
    while let Some(at) = left.pop() {
        if !std::mem::replace(&mut needed[at.0], true) {
            left.extend(vertices[at.0].operation.inputs());
        }
    }
    let mut numbers = Vec::with_capacity(vertices.len());
    let mut kept = 0;
    for is_needed in &needed {
        numbers.push(VertexId(kept));
        kept += usize::from(*is_needed);
    }
    let number = |id: VertexId| numbers[id.0];
    let mut vertices: Vec<Vertex> =
        vertices.into_iter().zip(&needed).filter_map(|(vertex, is_needed)| is_needed.then_some(vertex)).collect();
    for vertex in &mut vertices {
        renumber(&mut vertex.operation, number);
    }
    let renumbered = |entry: History| History { layer: entry.layer.map(number), ..entry };
    Graph {
        vertices,
        target: number(state.at),
        platform: state.platform,
        config: state.config,
        author: state.author,
        base: state.base,
        history: state.history.into_iter().map(renumbered).collect(),
    }
}

/// Gives the inputs of an operation other numbers.
fn renumber(operation: &mut Operation, number: impl Fn(VertexId) -> VertexId) {
    match operation {
        Operation::Run(run) => {
            run.on = number(run.on);
            for mount in &mut run.mounts {
                match &mut mount.kind {
                    MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => *from = number(*from),
                    MountKind::Cache { from: None, .. }
                    | MountKind::Tmpfs { .. }
                    | MountKind::Secret { .. }
                    | MountKind::Ssh { .. } => {}
                }
            }
        }
        Operation::Copy(copy) => {
            copy.on = number(copy.on);
            for source in &mut copy.sources {
                source.from = number(source.from);
            }
        }
        Operation::MakeDirectory(make) => make.on = number(make.on),
        Operation::Image(_)
        | Operation::Scratch
        | Operation::Context(_)
        | Operation::Http(_)
        | Operation::Git(_)
        | Operation::Inline(_) => {}
    }
}
