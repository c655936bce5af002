//! Lines as instructions, and instructions as stages.

use std::ops::Range;

use super::fault::Fault;
use super::flags::{Flags, Takes};
use super::go;
use super::heredoc;
use super::instruction::{
    Argument, Command, CommandLine, Dockerfile, Instruction, Pair, RunCommand, Source, Stage, Transfer, Word,
};
use super::lines::{Line, Lines};
use super::mount;
use super::words::{self, Parts};
use crate::build::graph::{Position, RunNetwork, Span};
use crate::image::Healthcheck;

/// The instructions, in capitals.
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Times of a health check are not shorter than this many nanoseconds.
const SHORTEST_INTERVAL: i64 = 1_000_000;

impl Dockerfile {
    /// Reads a Dockerfile.
    pub fn parse(file: &[u8]) -> Result<Self, Fault> {
        let lines = Lines::read(file)?;
        let directive = |name| {
            let directive = lines.directives.iter().find(|directive| directive.name == name)?;
            Some(Word { text: directive.value.clone(), span: directive.span })
        };
        let mut dockerfile = Self {
            escape: lines.escape,
            syntax: directive("syntax"),
            check: directive("check"),
            arguments: Vec::new(),
            stages: Vec::new(),
            empty_continuations: Vec::new(),
        };
        for line in lines.instructions {
            dockerfile.add(&line)?;
        }
        Ok(dockerfile)
    }

    fn add(&mut self, line: &Line) -> Result<(), Fault> {
        if line.has_empty_continuation {
            // BuildKit names the line in which the instruction ends.
            let start = Position { line: line.span.end.line, column: 1 };
            self.empty_continuations.push(Span { start, ..line.span });
        }
        match parse(line, self.escape)? {
            Parsed::Stage(stage) => self.stages.push(*stage),
            Parsed::Command(command) => match (self.stages.last_mut(), *command) {
                (Some(stage), command) => stage.instructions.push(command),
                (None, (instruction, Command::Arg(arguments))) => self.arguments.push((instruction, arguments)),
                (None, _) => return Err(Fault::new("no build stage in current context").at(line.span)),
            },
        }
        Ok(())
    }
}

/// Reads an instruction that an image has for those that are built on it.
pub(crate) fn parse_trigger(text: &str, span: Span) -> Result<(Instruction, Command), Fault> {
    let mut lines = Lines::read(text.as_bytes())?.instructions;
    let line = match lines.pop() {
        Some(line) if lines.is_empty() => Line::at(&line.text, line.heredocs, span),
        _ => return Err(Fault::new("onbuild trigger should be a single expression").at(span)),
    };
    match parse(&line, '\\')? {
        Parsed::Command(command) => Ok(*command),
        Parsed::Stage(_) => Err(Fault::new("FROM isn't allowed as an ONBUILD trigger").at(span)),
    }
}

enum Parsed {
    Stage(Box<Stage>),
    Command(Box<(Instruction, Command)>),
}

/// An instruction that is being read.
struct Reader<'l> {
    line: &'l Line,
    escape: char,
    /// Its name, in capitals.
    name: String,
    flags: Vec<Word>,
    arguments: Range<usize>,
}

fn parse(line: &Line, escape: char) -> Result<Parsed, Fault> {
    let parts = Parts::of(line, 0);
    let name = parts.keyword.text.to_uppercase();
    let instruction = Instruction {
        keyword: parts.keyword.text.clone(),
        code: line.text.trim().to_owned(),
        comments: line.comments.clone(),
        span: line.span,
    };
    let reader = Reader { line, escape, name, flags: parts.flags, arguments: parts.arguments };
    let read = match reader.name.as_str() {
        "FROM" => reader.from(instruction).map(|stage| Parsed::Stage(Box::new(stage))),
        _ => reader.command(&parts.keyword).map(|command| Parsed::Command(Box::new((instruction, command)))),
    };
    read.map_err(|fault| fault.at(line.span))
}

impl Reader<'_> {
    fn command(&self, keyword: &Word) -> Result<Command, Fault> {
        Ok(match self.name.as_str() {
            "ADD" => Command::Add(self.add()?),
            "ARG" => Command::Arg(self.arg()?),
            "CMD" => Command::Cmd(self.command_line()?),
            "COPY" => Command::Copy(self.copy()?),
            "ENTRYPOINT" => Command::Entrypoint(self.command_line()?),
            "ENV" => Command::Env(self.pairs()?),
            "EXPOSE" => Command::Expose(self.expose()?),
            "HEALTHCHECK" => Command::Healthcheck(self.healthcheck()?),
            "LABEL" => Command::Label(self.pairs()?),
            "MAINTAINER" => Command::Maintainer(self.only_argument()?.text),
            "ONBUILD" => Command::Onbuild(self.onbuild()?),
            "RUN" => Command::Run(self.run()?),
            "SHELL" => Command::Shell(self.shell()?),
            "STOPSIGNAL" => Command::Stopsignal(self.only_argument()?),
            "USER" => Command::User(self.only_argument()?),
            "VOLUME" => Command::Volume(self.volume()?),
            "WORKDIR" => Command::Workdir(self.only_argument()?),
            _ => {
                let fault = Fault::new(format!("unknown instruction: {}", keyword.text)).at(keyword.span);
                return Err(fault.suggest_in_any_case(&keyword.text, INSTRUCTIONS));
            }
        })
    }

    /// Returns the arguments as they were typed.
    fn text(&self) -> &str {
        &self.line.text[self.arguments.clone()]
    }

    fn flags(&self, known: &[(&'static str, Takes)]) -> Result<Flags, Fault> {
        Flags::read(&self.flags, known)
    }

    fn one_wanted(&self) -> Fault {
        Fault::new(format!("{} requires at least one argument", self.name))
    }

    fn only_argument(&self) -> Result<Word, Fault> {
        self.flags(&[])?;
        if self.arguments.is_empty() {
            return Err(Fault::new(format!("{} requires exactly one argument", self.name)));
        }
        Ok(words::word(self.line, self.arguments.clone()))
    }

    /// Returns what the comment right before says of a name.
    fn description(&self, name: &str) -> Option<String> {
        let say = |comment: &String| comment.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        self.line.comments.iter().find_map(say)
    }

    fn from(&self, instruction: Instruction) -> Result<Stage, Fault> {
        let flags = self.flags(&[("platform", Takes::Value)])?;
        let mut words = words::split(self.line, self.arguments.clone());
        let typed_name = match words.as_slice() {
            [_] => None,
            [_, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
                if !is_stage_name(&name.text.to_lowercase()) {
                    let quoted = go::quote(&name.text);
                    let message = format!(
                        "invalid name for build stage: {quoted}, name can't start with a number or contain symbols"
                    );
                    return Err(Fault::new(message).at(name.span));
                }
                Some((keyword.text.clone(), name.text.clone()))
            }
            _ => return Err(Fault::new("FROM requires either one or three arguments")),
        };
        let name = typed_name.as_ref().map(|(_, name)| name.to_lowercase());
        Ok(Stage {
            from: instruction,
            base: words.swap_remove(0),
            description: name.as_deref().and_then(|name| self.description(name)),
            name,
            typed_name,
            platform: flags.value("platform"),
            instructions: Vec::new(),
        })
    }

    fn arg(&self) -> Result<Vec<Argument>, Fault> {
        self.flags(&[])?;
        let words = words::split_quoted(self.line, self.arguments.clone(), self.escape);
        if words.is_empty() {
            return Err(self.one_wanted());
        }
        let argument = |word: Word| {
            let (name, default) = match word.text.split_once('=') {
                Some(("", _)) => return Err(Fault::new("ARG names can not be blank").at(word.span)),
                Some((name, value)) => (name.to_owned(), Some(Word { text: value.to_owned(), span: word.span })),
                None => (word.text.clone(), None),
            };
            Ok(Argument { description: self.description(&name), name, default, span: word.span })
        };
        words.into_iter().map(argument).collect()
    }

    fn pairs(&self) -> Result<Vec<Pair>, Fault> {
        let pairs = words::pairs(self.line, self.arguments.clone(), &self.name, self.escape)?;
        self.flags(&[])?;
        if pairs.is_empty() {
            return Err(self.one_wanted());
        }
        match pairs.iter().find(|pair| pair.name.text.is_empty()) {
            Some(pair) => Err(Fault::new(format!("{} names can not be blank", self.name)).at(pair.name.span)),
            None => Ok(pairs),
        }
    }

    fn command_line(&self) -> Result<CommandLine, Fault> {
        let json = words::json(self.line, self.arguments.clone())?;
        self.flags(&[])?;
        Ok(self.either_form(json))
    }

    fn either_form(&self, json: Option<Vec<Word>>) -> CommandLine {
        match json {
            Some(words) => CommandLine { arguments: words.into_iter().map(|word| word.text).collect(), shell: false },
            None if self.arguments.is_empty() => CommandLine { arguments: Vec::new(), shell: true },
            None => CommandLine { arguments: vec![self.text().to_owned()], shell: true },
        }
    }

    fn run(&self) -> Result<RunCommand, Fault> {
        let json = words::json(self.line, self.arguments.clone())?;
        let flags = self.flags(&[
            ("mount", Takes::Values),
            ("network", Takes::Value),
            ("security", Takes::Value),
            ("device", Takes::Values),
        ])?;
        let mounts = flags.values("mount");
        for given in &mounts {
            mount::check(given)?;
        }
        let network = match flags.value("network") {
            None => RunNetwork::Default,
            Some(word) => match word.text.as_str() {
                "default" => RunNetwork::Default,
                "none" => RunNetwork::None,
                "host" => RunNetwork::Host,
                other => {
                    let fault = Fault::new(format!("invalid network mode {}", go::quote(other))).at(word.span);
                    return Err(fault.suggest(other, ["default", "none", "host"]));
                }
            },
        };
        let insecure = match flags.value("security") {
            None => false,
            Some(word) => match word.text.as_str() {
                "sandbox" => false,
                "insecure" => true,
                other => {
                    let fault = Fault::new(format!("security {} is not valid", go::quote(other))).at(word.span);
                    return Err(fault.suggest(other, ["sandbox", "insecure"]));
                }
            },
        };
        Ok(RunCommand {
            line: self.either_form(json),
            heredocs: self.line.heredocs.clone(),
            mounts,
            network,
            insecure,
            devices: flags.values("device").into_iter().map(|word| word.text).collect(),
        })
    }

    fn copy(&self) -> Result<Transfer, Fault> {
        let flags = [
            ("from", Takes::Value),
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Bool),
            ("parents", Takes::Bool),
            ("exclude", Takes::Values),
        ];
        self.transfer(&flags)
    }

    fn add(&self) -> Result<Transfer, Fault> {
        let flags = [
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Bool),
            ("keep-git-dir", Takes::Bool),
            ("checksum", Takes::Value),
            ("unpack", Takes::Bool),
            ("exclude", Takes::Values),
        ];
        self.transfer(&flags)
    }

    fn transfer(&self, known: &[(&'static str, Takes)]) -> Result<Transfer, Fault> {
        let mut words = match words::json(self.line, self.arguments.clone())? {
            Some(words) => words,
            None => words::split(self.line, self.arguments.clone()),
        };
        if words.len() < 2 {
            let message = format!(
                "{} requires at least two arguments, but only one was provided. Destination could not be determined",
                self.name
            );
            return Err(Fault::new(message));
        }
        let flags = self.flags(known)?;
        let destination = words.remove(words.len() - 1);
        if heredoc::parse(&destination.text).is_some() {
            let message = format!("{} cannot accept a heredoc as a destination", self.name);
            return Err(Fault::new(message).at(destination.span));
        }
        let mut heredocs = self.line.heredocs.iter();
        let source = |word: Word| match heredoc::parse(&word.text) {
            Some(_) => heredocs.next().cloned().map_or(Source::Path(word), Source::Inline),
            None => Source::Path(word),
        };
        Ok(Transfer {
            sources: words.into_iter().map(source).collect(),
            destination,
            from: flags.value("from"),
            chown: flags.value("chown"),
            chmod: flags.value("chmod"),
            link: flags.bool("link").unwrap_or(false),
            parents: flags.bool("parents").unwrap_or(false),
            exclude: flags.values("exclude"),
            checksum: flags.value("checksum"),
            keep_git_dir: flags.bool("keep-git-dir"),
            unpack: flags.bool("unpack"),
        })
    }

    fn expose(&self) -> Result<Vec<Word>, Fault> {
        self.flags(&[])?;
        let mut ports = words::split(self.line, self.arguments.clone());
        if ports.is_empty() {
            return Err(self.one_wanted());
        }
        ports.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(ports)
    }

    fn volume(&self) -> Result<Vec<Word>, Fault> {
        let words = match words::json(self.line, self.arguments.clone())? {
            Some(words) => words,
            None => words::split(self.line, self.arguments.clone()),
        };
        if words.is_empty() {
            return Err(self.one_wanted());
        }
        self.flags(&[])?;
        let trim = |word: Word| match word.text.trim() {
            "" => Err(Fault::new("VOLUME specified can not be an empty string").at(word.span)),
            text => Ok(Word { text: text.to_owned(), span: word.span }),
        };
        words.into_iter().map(trim).collect()
    }

    fn shell(&self) -> Result<Vec<String>, Fault> {
        let json = words::json(self.line, self.arguments.clone())?;
        self.flags(&[])?;
        match json {
            Some(words) if !words.is_empty() => Ok(words.into_iter().map(|word| word.text).collect()),
            None if !self.arguments.is_empty() => {
                Err(Fault::new(format!("{} requires the arguments to be in JSON form", self.name)))
            }
            _ => Err(self.one_wanted()),
        }
    }

    fn onbuild(&self) -> Result<String, Fault> {
        if self.arguments.is_empty() {
            return Err(self.one_wanted());
        }
        self.flags(&[])?;
        let trigger = Parts::of(self.line, self.arguments.start);
        let name = trigger.keyword.text.to_uppercase();
        match name.as_str() {
            "ONBUILD" => {
                let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
                return Err(Fault::new(message).at(trigger.keyword.span));
            }
            "MAINTAINER" | "FROM" => {
                let message = format!("{name} isn't allowed as an ONBUILD trigger");
                return Err(Fault::new(message).at(trigger.keyword.span));
            }
            _ => {}
        }
        let reader =
            Reader { line: self.line, escape: self.escape, name, flags: trigger.flags, arguments: trigger.arguments };
        reader.check_form()?;
        let mut expression = self.text().to_owned();
        for heredoc in &self.line.heredocs {
            expression.extend(["\n", &heredoc.contents, &heredoc.name]);
        }
        Ok(expression)
    }

    /// Refuses a trigger whose words are not of its form. What is wrong with their meaning shows where it is triggered.
    fn check_form(&self) -> Result<(), Fault> {
        match self.name.as_str() {
            "ENV" | "LABEL" => words::pairs(self.line, self.arguments.clone(), &self.name, self.escape).map(drop),
            "ADD" | "CMD" | "COPY" | "ENTRYPOINT" | "RUN" | "SHELL" | "VOLUME" => {
                words::json(self.line, self.arguments.clone()).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn healthcheck(&self) -> Result<Healthcheck, Fault> {
        if self.arguments.is_empty() {
            return Err(self.one_wanted());
        }
        let text = self.text();
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let kind = text[..end].to_uppercase();
        let rest = self.arguments.start + end + (text[end..].len() - text[end..].trim_start().len());
        let command = rest..self.arguments.end;
        if kind == "NONE" {
            if !command.is_empty() {
                return Err(Fault::new("HEALTHCHECK NONE takes no arguments").at(self.line.span_of(command)));
            }
            self.flags(&[])?;
            return Ok(Healthcheck { test: Some(vec![kind]), ..Healthcheck::default() });
        }
        let json = words::json(self.line, command.clone())?;
        let flags = self.flags(&[
            ("interval", Takes::Value),
            ("timeout", Takes::Value),
            ("start-period", Takes::Value),
            ("start-interval", Takes::Value),
            ("retries", Takes::Value),
        ])?;
        if kind != "CMD" {
            let quoted = go::quote(&kind);
            let span = self.line.span_of(self.arguments.start..self.arguments.start + end);
            return Err(Fault::new(format!("Unknown type {quoted} in HEALTHCHECK (try CMD)")).at(span));
        }
        let test: Vec<String> = match json {
            Some(words) if !words.is_empty() => {
                std::iter::once(kind).chain(words.into_iter().map(|word| word.text)).collect()
            }
            None if !command.is_empty() => vec!["CMD-SHELL".to_owned(), self.line.text[command].to_owned()],
            _ => return Err(Fault::new("Missing command after HEALTHCHECK CMD")),
        };
        Ok(Healthcheck {
            test: Some(test),
            interval: interval(&flags, "interval")?,
            timeout: interval(&flags, "timeout")?,
            start_period: interval(&flags, "start-period")?,
            start_interval: interval(&flags, "start-interval")?,
            retries: retries(&flags)?,
        })
    }
}

fn is_stage_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_lowercase())
        && characters.all(|next| next.is_ascii_lowercase() || next.is_ascii_digit() || matches!(next, '-' | '_' | '.'))
}

fn interval(flags: &Flags, name: &str) -> Result<i64, Fault> {
    let Some(word) = flags.value(name) else { return Ok(0) };
    let nanoseconds = go::parse_duration(&word.text).map_err(|message| Fault::new(message).at(word.span))?;
    if nanoseconds != 0 && nanoseconds < SHORTEST_INTERVAL {
        let shortest = go::duration(SHORTEST_INTERVAL);
        let message = format!("Interval {} cannot be less than {shortest}", go::quote(name));
        return Err(Fault::new(message).at(word.span));
    }
    Ok(nanoseconds)
}

fn retries(flags: &Flags) -> Result<i64, Fault> {
    let Some(word) = flags.value("retries") else { return Ok(0) };
    let fault = |message: String| Fault::new(message).at(word.span);
    let retries: i32 = word
        .text
        .parse()
        .map_err(|_| fault(format!("strconv.ParseInt: parsing {}: invalid syntax", go::quote(&word.text))))?;
    if retries < 0 {
        return Err(fault(format!("--retries cannot be negative ({retries})")));
    }
    Ok(retries.into())
}
