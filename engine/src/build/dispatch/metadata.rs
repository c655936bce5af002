//! The instructions that change the configuration of the image, and `WORKDIR`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::expose;
use super::stages::Step;
use super::state::{Builder, Current, State};
use crate::build::check::Rule;
use crate::build::dockerfile::instruction::{Argument, Command, CommandLine, Pair, Word};
use crate::build::dockerfile::shell::Variables;
use crate::build::dockerfile::{Fault, go};
use crate::build::graph::{MakeDirectory, Operation, Span};
use crate::container::signal;
use crate::image::Healthcheck;

/// The shell of an image that has none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// No program can be given a longer variable (`MAX_ARG_STRLEN` of the kernel).
const MAX_VARIABLE: usize = 131_072;

/// Bytes that a port takes in a list.
const PORT_SIZE: usize = 64;

impl Builder<'_> {
    /// Does what an instruction says.
    pub(crate) fn step(&mut self, current: &mut Current, step: &Step) -> Result<(), Fault> {
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
                    return Err(Fault::new(format!("invalid signal: {name}")).at(word.span));
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
            created_by.extend([" ", name, "=", value]);
        }
        set_variables(&mut state.config.env, &expanded);
        self.commit(state, created_by, None)
    }

    fn label(&mut self, state: &mut State, step: &Step, pairs: &[Pair]) -> Result<(), Fault> {
        let mut created_by = "LABEL".to_owned();
        for (name, value) in self.pairs(state, step, pairs)? {
            created_by.extend([" ", &name, "=", &value]);
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
            created_by.extend([" ", name]);
            if let Some(value) = &value {
                check_variable(
                    name,
                    value,
                    argument.default.as_ref().unwrap_or(&Word { text: name.clone(), span: argument.span }),
                )?;
                created_by.extend(["=", value]);
                if !state.scan.take(name, value) {
                    state.environment.set(name, value);
                }
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
        for word in words {
            for typed in self.expand_with(self.lexer, state, step, word)?.words {
                let port = expose::parse(&typed).map_err(|message| Fault::new(message).at(word.span))?;
                if port.has_capitals {
                    let message = format!("Defined protocol '{typed}' in EXPOSE instruction should be lowercase");
                    self.report(Rule::ExposeProtoCasing, &step.instruction, message);
                }
                if port.is_mapping {
                    let message = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{typed}'"
                    );
                    self.report(Rule::ExposeInvalidFormat, &step.instruction, message);
                }
                // A few characters can name all ports there are.
                self.spend(port.ports.len() * PORT_SIZE)?;
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
            let name = self.name(current, step, self.lexer, &step.instruction.code);
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
        if let Some(at) = places.get(name) {
            list[*at] = variable;
        } else {
            places.insert(name.clone(), list.len());
            list.push(variable);
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
