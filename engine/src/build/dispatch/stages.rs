//! Which stages there are, what each is built on and copies from, and which of them are needed.

use std::collections::{BTreeMap, BTreeSet};

use super::environment::Environment;
use super::remote::NamedContext;
use super::state::{MAX_TEXT, too_much_text};
use super::{Asked, Options};
use crate::build::check::{Checker, Rule};
use crate::build::dockerfile::instruction::{Command, Instruction};
use crate::build::dockerfile::shell::{Expanded, Lexer, NoVariables, Variables};
use crate::build::dockerfile::{Dockerfile, Fault, Stage, Word, closest, go, mount, parse_trigger};
use crate::build::graph::{Base, ImageRequest, Span};
use crate::image::{Platform, Reference};

/// The name of the empty file system.
const SCRATCH: &str = "scratch";

/// The stages of a Dockerfile, and behind them what is copied or mounted from and is none.
#[derive(Debug)]
pub(crate) struct Stages {
    pub(crate) nodes: Vec<Node>,
    by_name: BTreeMap<String, usize>,
    /// How many of the nodes are stages.
    count: usize,
    /// A mount has no `from`. To BuildKit its source is one more stage.
    has_unnamed_source: bool,
}

/// A stage, or what is used like one.
#[derive(Debug)]
pub(crate) struct Node {
    /// The name, in lower case.
    pub(crate) name: Option<String>,
    /// What it is built on.
    pub(crate) origin: Origin,
    /// `--platform`.
    pub(crate) platform: Option<Platform>,
    /// Its instructions, those that its base triggers first.
    pub(crate) steps: Vec<Step>,
    pub(crate) span: Span,
    /// What its base triggers is among the instructions, or is not to be.
    has_triggers: bool,
}

/// What a stage is built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Stage(usize),
    Scratch,
    /// An image, as it stands there.
    Image(String),
    /// A named context.
    Context(String),
}

/// An instruction with what it takes files from.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) instruction: Instruction,
    pub(crate) command: Command,
    /// Of `COPY` the one source, of `RUN` one for each mount.
    pub(crate) from: Vec<Option<usize>>,
    /// The base triggers it.
    pub(crate) is_trigger: bool,
}

/// Makes the variables that `FROM` can use of those that are predefined and the `ARG`s before the first stage. Returns them
/// with all names that were declared.
pub(crate) fn global_arguments(
    dockerfile: &Dockerfile,
    lexer: Lexer,
    mut environment: Environment,
    given: &BTreeMap<String, String>,
) -> Result<(Environment, BTreeSet<String>), Fault> {
    let mut declared = BTreeSet::new();
    let mut text = 0;
    for argument in dockerfile.arguments.iter().flat_map(|(_, arguments)| arguments) {
        let value = match (given.get(&argument.name), &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => Some(expand(lexer, default, &environment)?.text),
            (None, None) => None,
        };
        if let Some(value) = value {
            text += value.len();
            if text > MAX_TEXT {
                return Err(too_much_text().at(argument.span));
            }
            environment.set(&argument.name, &value);
        }
        declared.insert(argument.name.clone());
    }
    Ok((environment, declared))
}

fn expand(lexer: Lexer, word: &Word, variables: &dyn Variables) -> Result<Expanded, Fault> {
    lexer.expand(&word.text, variables).map_err(|message| Fault::new(message).at(word.span))
}

/// Remarks where a base is no image when no argument is given.
pub(crate) fn check_default_arguments(
    dockerfile: &Dockerfile,
    lexer: Lexer,
    predefined: &Environment,
    checker: &mut Checker,
) {
    // What fails here fails again where it counts.
    let Ok((environment, _)) = global_arguments(dockerfile, lexer, predefined.clone(), &BTreeMap::new()) else {
        return;
    };
    let mut text = 0;
    for stage in &dockerfile.stages {
        let Ok(base) = expand(lexer, &stage.base, &environment) else { return };
        text += base.text.len();
        if text > MAX_TEXT {
            return;
        }
        if base.text.parse::<Reference>().is_err() {
            let typed = &stage.base.text;
            let message = format!("Default value for ARG {typed} results in empty or invalid base image name");
            checker.report(Rule::InvalidDefaultArgInFrom, stage.from.span, &stage.from.comments, message);
        }
    }
}

impl Stages {
    pub(crate) fn new(
        dockerfile: &Dockerfile,
        options: &Options,
        lexer: Lexer,
        global: &Environment,
        declared: &BTreeSet<String>,
        checker: &mut Checker,
    ) -> Result<Self, Fault> {
        if dockerfile.stages.is_empty() {
            return Err(Fault::new("dockerfile contains no stages to build"));
        }
        let mut stages = Self {
            nodes: Vec::new(),
            by_name: BTreeMap::new(),
            count: dockerfile.stages.len(),
            has_unnamed_source: false,
        };
        for stage in &dockerfile.stages {
            let mut from = FromExpander { stage, lexer, global, declared, checker };
            let base = from.base()?;
            let platform = from.platform()?;
            let mut node = Node {
                name: stage.name.clone(),
                origin: stages.origin(&base, options).map_err(|fault| fault.at(stage.base.span))?,
                platform,
                steps: Vec::new(),
                span: stage.from.span,
                has_triggers: false,
            };
            if let Some(name) = stage.name.as_deref().filter(|name| context_named(name, options).is_some()) {
                node.origin = Origin::Context(name.to_owned());
                node.has_triggers = true;
            }
            let at = stages.nodes.len();
            if let Some(name) = &stage.name {
                stages.by_name.insert(name.clone(), at);
            }
            stages.nodes.push(node);
        }
        for (at, stage) in dockerfile.stages.iter().enumerate() {
            // A context that has taken its name has taken its place.
            if matches!(&stages.nodes[at].origin, Origin::Context(name) if stage.name.as_ref() == Some(name)) {
                continue;
            }
            for (instruction, command) in &stage.instructions {
                let step = stages.step(instruction.clone(), command.clone(), options, lexer)?;
                stages.nodes[at].steps.push(step);
            }
        }
        Ok(stages)
    }

    /// Returns what a base name means: a stage before this one, nothing, a context, or an image.
    fn origin(&self, base: &str, options: &Options) -> Result<Origin, Fault> {
        if let Some(stage) = self.by_name.get(base) {
            return Ok(Origin::Stage(*stage));
        }
        if base == SCRATCH {
            return Ok(Origin::Scratch);
        }
        if let Some(name) = context_named(base, options) {
            return Ok(Origin::Context(name.to_owned()));
        }
        match base.parse::<Reference>() {
            Ok(_) => Ok(Origin::Image(base.to_owned())),
            Err(error) => Err(Fault::new(format!("failed to parse stage name {}: {error}", go::quote(base)))),
        }
    }

    fn step(
        &mut self,
        instruction: Instruction,
        command: Command,
        options: &Options,
        lexer: Lexer,
    ) -> Result<Step, Fault> {
        let mut from = Vec::new();
        match &command {
            Command::Copy(copy) => {
                if let Some(word) = &copy.from {
                    if expand(lexer, word, &NoVariables)?.text != word.text {
                        let message = "variable expansion is not supported for --from, define a new stage with FROM using \
                                       ARG from global scope as a workaround";
                        return Err(Fault::new(message).at(word.span));
                    }
                    from.push(Some(
                        self.source(&word.text, true, instruction.span, options)
                            .map_err(|fault| fault.at(word.span))?,
                    ));
                }
            }
            Command::Run(run) => {
                for given in &run.mounts {
                    let name = mount::check(given)?;
                    self.has_unnamed_source |= name.is_none();
                    let source = name.map(|name| self.source(&name, false, instruction.span, options));
                    from.push(source.transpose().map_err(|fault| fault.at(given.span))?);
                }
            }
            _ => {}
        }
        Ok(Step { instruction, command, from, is_trigger: false })
    }

    /// Returns the stage that is copied from, or what else has the name.
    fn source(&mut self, name: &str, by_number: bool, span: Span, options: &Options) -> Result<usize, Fault> {
        if let Some(number) = name.parse::<i64>().ok().filter(|_| by_number) {
            let number = usize::try_from(number).ok().filter(|number| *number < self.count);
            return number.ok_or_else(|| Fault::new(format!("invalid stage index {name}")));
        }
        if let Some(stage) = self.by_name.get(&name.to_lowercase()) {
            return Ok(*stage);
        }
        let origin = self.origin(name, options)?;
        if let Some(known) = self.nodes[self.count..].iter().position(|node| node.origin == origin) {
            return Ok(self.count + known);
        }
        self.nodes.push(Node { name: None, origin, platform: None, steps: Vec::new(), span, has_triggers: true });
        Ok(self.nodes.len() - 1)
    }

    /// Returns the stage that is wanted.
    pub(crate) fn target(&self, name: Option<&str>) -> Result<usize, Fault> {
        let Some(name) = name else { return Ok(self.count - 1) };
        self.by_name.get(&name.to_lowercase()).copied().ok_or_else(|| {
            let fault = Fault::new(format!("target stage {} could not be found", go::quote(name)));
            fault.suggest(name, self.by_name.keys().map(String::as_str))
        })
    }

    /// Returns whether a node is a stage.
    pub(crate) fn is_stage(&self, at: usize) -> bool {
        at < self.count
    }

    /// Returns whether there is only one stage and nothing that is used like one, so that steps need not name it.
    pub(crate) fn is_only_one(&self) -> bool {
        self.nodes.len() == 1 && !self.has_unnamed_source
    }

    /// Returns what a stage is called: its name, or its number.
    pub(crate) fn label(&self, at: usize) -> String {
        self.nodes[at].name.clone().unwrap_or_else(|| format!("stage-{at}"))
    }

    fn inputs(&self, at: usize) -> impl Iterator<Item = usize> {
        let node = &self.nodes[at];
        let base = if let Origin::Stage(base) = node.origin { Some(base) } else { None };
        base.into_iter().chain(node.steps.iter().flat_map(|step| step.from.iter().copied().flatten()))
    }

    /// Refuses stages that need each other. What one needs must have been there before it, but is refused for that only
    /// where it is used.
    pub(crate) fn check_cycles(&self) -> Result<(), Fault> {
        let mut done = vec![false; self.nodes.len()];
        for start in 0..self.nodes.len() {
            // A walk in depth, with a stack of its own: there can be thousands of stages.
            let mut path: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut on_path = BTreeSet::new();
            if !done[start] {
                path.push((start, self.inputs(start).collect()));
                on_path.insert(start);
            }
            while let Some((at, left)) = path.last_mut() {
                let at = *at;
                let Some(next) = left.pop() else {
                    done[at] = true;
                    on_path.remove(&at);
                    path.pop();
                    continue;
                };
                if on_path.contains(&next) {
                    let message = format!("circular dependency detected on stage: {}", self.label(start));
                    return Err(Fault::new(message).at(self.place_of(at, next)));
                }
                if !done[next] {
                    path.push((next, self.inputs(next).collect()));
                    on_path.insert(next);
                }
            }
        }
        Ok(())
    }

    /// Returns which instruction of a node takes something from another.
    fn place_of(&self, at: usize, source: usize) -> Span {
        let step = self.nodes[at].steps.iter().find(|step| step.from.contains(&Some(source)));
        step.map_or(self.nodes[at].span, |step| step.instruction.span)
    }

    /// Returns the stage and all that it needs.
    pub(crate) fn needed(&self, target: usize, all: bool) -> BTreeSet<usize> {
        let mut needed: BTreeSet<usize> = BTreeSet::new();
        let mut left: Vec<usize> = if all { (0..self.nodes.len()).collect() } else { vec![target] };
        while let Some(at) = left.pop() {
            if needed.insert(at) {
                left.extend(self.inputs(at));
            }
        }
        needed
    }

    /// Returns the images that nodes are built on, each with the place where it is asked for.
    pub(crate) fn requests(&self, needed: &BTreeSet<usize>, options: &Options) -> BTreeMap<ImageRequest, Asked> {
        let mut requests = BTreeMap::new();
        for node in needed.iter().map(|at| &self.nodes[*at]) {
            let Some(request) = node.request(options) else { continue };
            let meant = closest(&request.reference, self.by_name.keys().map(String::as_str), false).map(str::to_owned);
            requests.entry(request).or_insert(Asked { at: node.span, meant });
        }
        requests
    }

    /// Puts the instructions that bases trigger in front, once. Returns whether there were any.
    pub(crate) fn add_triggers(
        &mut self,
        needed: &BTreeSet<usize>,
        options: &Options,
        bases: &BTreeMap<ImageRequest, Base>,
        lexer: Lexer,
    ) -> Result<bool, Fault> {
        let mut any = false;
        for at in needed.iter().copied() {
            if std::mem::replace(&mut self.nodes[at].has_triggers, true) {
                continue;
            }
            let of_image = |request: ImageRequest| bases.get(&request)?.config.docker.on_build.clone();
            let triggers: Vec<String> = match self.nodes[at].origin {
                Origin::Stage(base) => {
                    let triggers = self.nodes[base].steps.iter().filter_map(|step| match &step.command {
                        Command::Onbuild(trigger) => Some(trigger.clone()),
                        _ => None,
                    });
                    triggers.collect()
                }
                _ => self.nodes[at].request(options).and_then(of_image).unwrap_or_default(),
            };
            let span = self.nodes[at].span;
            let mut steps = Vec::new();
            for trigger in triggers {
                let (instruction, command) = parse_trigger(&trigger, span).map_err(|fault| fault.at(span))?;
                let mut step = self.step(instruction, command, options, lexer)?;
                step.is_trigger = true;
                steps.push(step);
            }
            any |= !steps.is_empty();
            self.nodes[at].steps.splice(0..0, steps);
        }
        Ok(any)
    }
}

impl Node {
    /// Returns the image that it is built on.
    pub(crate) fn request(&self, options: &Options) -> Option<ImageRequest> {
        let reference = match &self.origin {
            Origin::Image(reference) => reference,
            Origin::Context(name) => match options.contexts.get(name) {
                Some(NamedContext::Image(reference)) => reference,
                _ => return None,
            },
            Origin::Stage(_) | Origin::Scratch => return None,
        };
        let platform = self.platform.as_ref().unwrap_or(&options.platform);
        Some(ImageRequest { reference: reference.clone(), platform: platform.to_string() })
    }
}

/// Returns the named context that a stage or an image is overridden by: the name as it is, or in the short form that people
/// type. `scratch` and `context` stay what they are.
fn context_named<'o>(name: &str, options: &'o Options) -> Option<&'o str> {
    if name.eq_ignore_ascii_case(SCRATCH) || name.eq_ignore_ascii_case("context") {
        return None;
    }
    let find = |name: &str| options.contexts.get_key_value(name).map(|(name, _)| name.as_str());
    find(name).or_else(|| {
        let familiar = name.parse::<Reference>().ok()?.familiar();
        find(&familiar).or_else(|| find(familiar.strip_suffix(":latest")?))
    })
}

/// Expands the parts of a `FROM`.
struct FromExpander<'a> {
    stage: &'a Stage,
    lexer: Lexer,
    global: &'a Environment,
    declared: &'a BTreeSet<String>,
    checker: &'a mut Checker,
}

impl FromExpander<'_> {
    fn base(&mut self) -> Result<String, Fault> {
        let word = &self.stage.base;
        let base = expand(self.lexer, word, self.global)?;
        self.check_declared(&base);
        if base.text.is_empty() {
            return Err(Fault::new(format!("base name ({}) should not be blank", word.text)).at(word.span));
        }
        Ok(base.text)
    }

    fn platform(&mut self) -> Result<Option<Platform>, Fault> {
        let Some(word) = &self.stage.platform else { return Ok(None) };
        let platform = self.lexer.expand(&word.text, self.global).map_err(|message| {
            Fault::new(format!("failed to process arguments for platform : {message}")).at(word.span)
        })?;
        self.check_declared(&platform);
        self.check_platform(word, &platform);
        let suggest = |fault: Fault| match platform.missing.first() {
            Some(name) => fault.suggest(name, self.global.names()),
            None => fault,
        };
        if platform.text.is_empty() {
            let fault = Fault::new(format!("empty platform value from expression {}", word.text)).at(word.span);
            return Err(suggest(fault));
        }
        let parsed = platform.text.parse().map_err(|error| {
            suggest(Fault::new(format!("failed to parse platform {}: {error}", word.text)).at(word.span))
        })?;
        Ok(Some(parsed))
    }

    fn check_declared(&mut self, expanded: &Expanded) {
        let is_known = |name: &String| self.global.get(name).is_some() || self.declared.contains(name);
        for name in expanded.missing.iter().filter(|name| !is_known(name)) {
            if self.checker.is_full() {
                return;
            }
            let known = self.global.names().chain(self.declared.iter().map(String::as_str));
            let meant = closest(name, known, true);
            let meant = meant.map_or_else(String::new, |meant| format!(" (did you mean {meant}?)"));
            let message = format!("FROM argument '{name}' is not declared{meant}");
            self.report(Rule::UndefinedArgInFrom, message);
        }
    }

    fn check_platform(&mut self, word: &Word, expanded: &Expanded) {
        let target = "TARGETPLATFORM";
        let is_target = expanded.used.len() == 1 && expanded.used.contains(target);
        if is_target && expanded.missing.is_empty() && self.global.get(target) == Some(&expanded.text) {
            let typed = &word.text;
            let message =
                format!("Setting platform to predefined {typed} in FROM is redundant as this is the default behavior");
            self.report(Rule::RedundantTargetPlatform, message);
        }
        if !expanded.used.is_empty() || !expanded.missing.is_empty() {
            return;
        }
        let Ok(platform) = expanded.text.parse::<Platform>() else { return };
        let name = self.stage.name.as_deref().unwrap_or_default();
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let quoted = go::quote(&expanded.text);
            let message = format!("FROM --platform flag should not use constant value {quoted}");
            self.report(Rule::FromPlatformFlagConstDisallowed, message);
        }
    }

    fn report(&mut self, rule: Rule, message: String) {
        self.checker.report(rule, self.stage.from.span, &self.stage.from.comments, message);
    }
}
