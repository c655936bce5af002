//! `RUN`.

use super::metadata::with_shell;
use super::stages::Step;
use super::state::{Builder, Current, State};
use crate::build::dockerfile::heredoc::{self, Heredoc};
use crate::build::dockerfile::instruction::{RunCommand, Word};
use crate::build::dockerfile::mount::{self, TypedMount};
use crate::build::dockerfile::shell::{Lexer, Variables};
use crate::build::dockerfile::{Fault, go};
use crate::build::graph::{Inline, Mount, MountKind, Operation, Run, VertexId};

/// Where the file of a heredoc that is a program of its own is found.
const PIPES: &str = "/dev/pipes";

impl Builder<'_> {
    pub(crate) fn run(&mut self, current: &mut Current, step: &Step, run: &RunCommand) -> Result<(), Fault> {
        let mut mounts = self.mounts(current, step, run)?;
        let (mut code, mut arguments) = (step.instruction.code.clone(), run.line.arguments.clone());
        if let Some(first) = run.heredocs.first() {
            let line = run.line.arguments.first().map(String::as_str).unwrap_or_default();
            arguments = vec![if heredoc::parse(line).is_some() {
                code = format!("{code} ({})", summary(&first.contents));
                self.script(first, &mut mounts)
            } else {
                // The shell understands them itself.
                whole(line, run)
            }];
        }
        if run.line.shell {
            arguments = with_shell(&current.state, &arguments);
        }
        let lexer = Lexer { keep_quotes: true, keep_unset: true, ..self.lexer };
        let name = self.name(current, step, lexer, &code);
        let created_by = format!("RUN {} # buildkit", with_arguments(&current.state, &arguments));
        let operation = Operation::Run(Run {
            on: current.state.at,
            arguments,
            environment: current.state.environment.list(),
            uncached: self.proxies.clone(),
            user: current.state.config.user.clone(),
            directory: current.state.directory.clone(),
            mounts,
            network: run.network,
            insecure: run.insecure,
            devices: run.devices.clone(),
        });
        self.spend(current.state.environment.size() + created_by.len())?;
        let layer = self.push(current, step, name, operation)?;
        self.commit(&mut current.state, created_by, Some(layer))
    }

    /// Returns what executes a heredoc that is all there is: its contents, or the file of it where that is a program.
    fn script(&mut self, heredoc: &Heredoc, mounts: &mut Vec<Mount>) -> String {
        let contents = heredoc.stripped();
        if !contents.starts_with("#!") {
            return contents;
        }
        let file = Inline { name: heredoc.name.clone(), contents: contents.into_bytes(), mode: 0o755 };
        let from = self.share(Operation::Inline(file), "[internal] preparing inline document".to_owned(), None);
        let kind = MountKind::Bind { from, source: "/".to_owned(), writable: false };
        mounts.push(Mount { target: PIPES.to_owned(), kind });
        go::join_path(PIPES, &heredoc.name)
    }

    fn mounts(&mut self, current: &mut Current, step: &Step, run: &RunCommand) -> Result<Vec<Mount>, Fault> {
        let mut mounts = Vec::new();
        let mut agents = 0;
        for (given, from) in run.mounts.iter().zip(&step.from) {
            let typed = mount::parse(given, |value| {
                let word = Word { text: value.to_owned(), span: given.span };
                self.expand(&current.state, step, &word)
            })?;
            let from = match from {
                Some(stage) => Some(self.file_system(*stage).ok_or_else(|| {
                    let from = go::quote(&self.stages.label(*stage));
                    let to = go::quote(typed.target.as_deref().unwrap_or_default());
                    let message = format!(
                        "cannot mount from stage {from} to {to}, stage needs to be defined before current command"
                    );
                    Fault::new(message).at(given.span)
                })?),
                None => None,
            };
            let mount = match typed.kind.as_str() {
                "secret" => secret(&typed, &current.state),
                "ssh" => {
                    agents += 1;
                    ssh(&typed, &current.state, agents - 1)
                }
                _ => {
                    let from = match (from, typed.kind.as_str()) {
                        (None, "bind") => Some(self.main_context()),
                        (from, _) => from,
                    };
                    directory(&typed, &current.state, from, self.options.arguments.get("BUILDKIT_CACHE_MOUNT_NS"))
                }
            };
            let mount = mount.map_err(|message| Fault::new(message).at(given.span))?;
            match &mount.kind {
                MountKind::Secret { id, required, .. } | MountKind::Ssh { id, required, .. } => {
                    self.outline.add_mount(&typed.kind, id, *required, given.span);
                }
                MountKind::Cache { id, .. } => self.outline.add_mount(&typed.kind, id, false, given.span),
                MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }
}

/// Returns a path as it is seen in the working directory.
fn absolute(path: &str, state: &State) -> String {
    if path.starts_with('/') { go::clean_path(path) } else { go::join_path(&state.directory, path) }
}

fn directory(
    typed: &TypedMount,
    state: &State,
    from: Option<VertexId>,
    namespace: Option<&String>,
) -> Result<Mount, String> {
    let typed_target = typed.target.clone().unwrap_or_default();
    let target = absolute(&typed_target, state);
    if target == "/" {
        return Err(format!("invalid mount target {}", go::quote(&target)));
    }
    let source = go::join_path("/", typed.source.as_deref().unwrap_or_default());
    let kind = match (typed.kind.as_str(), from) {
        ("tmpfs", _) => MountKind::Tmpfs { size: typed.size.filter(|size| *size > 0) },
        ("bind", Some(from)) => MountKind::Bind { from, source, writable: !typed.read_only },
        _ => {
            let id = typed.id.clone().unwrap_or_else(|| go::clean_path(&typed_target));
            MountKind::Cache {
                id: format!("{}/{id}", namespace.map(String::as_str).unwrap_or_default()),
                sharing: typed.sharing.unwrap_or_default(),
                from,
                source,
                mode: typed.mode.unwrap_or(0o755),
                uid: typed.uid.unwrap_or(0),
                gid: typed.gid.unwrap_or(0),
                read_only: typed.read_only,
            }
        }
    };
    Ok(Mount { target, kind })
}

fn secret(typed: &TypedMount, state: &State) -> Result<Mount, String> {
    let base = |path: &str| path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default().to_owned();
    let named = typed.source.clone().or_else(|| typed.id.clone());
    let id = named.or_else(|| typed.target.as_deref().map(base)).filter(|id| !id.is_empty());
    let id = id.ok_or("one of source, target required")?;
    let target = match (&typed.target, &typed.env) {
        (Some(target), _) => absolute(target, state),
        (None, Some(_)) => String::new(),
        (None, None) => go::join_path("/run/secrets", &base(&id)),
    };
    let kind = MountKind::Secret {
        id,
        variable: typed.env.clone(),
        required: typed.required,
        mode: typed.mode.unwrap_or(0o400),
        uid: typed.uid.unwrap_or(0),
        gid: typed.gid.unwrap_or(0),
    };
    Ok(Mount { target, kind })
}

fn ssh(typed: &TypedMount, state: &State, number: usize) -> Result<Mount, String> {
    if typed.source.is_some() {
        return Err("ssh does not support source".to_owned());
    }
    let target = match &typed.target {
        Some(target) => absolute(target, state),
        None => format!("/run/buildkit/ssh_agent.{number}"),
    };
    let kind = MountKind::Ssh {
        id: typed.id.clone().unwrap_or_else(|| "default".to_owned()),
        required: typed.required,
        mode: typed.mode.unwrap_or(0o600),
        uid: typed.uid.unwrap_or(0),
        gid: typed.gid.unwrap_or(0),
    };
    Ok(Mount { target, kind })
}

/// Returns a line with its heredocs behind it, as a shell reads them.
fn whole(line: &str, run: &RunCommand) -> String {
    let mut text = line.to_owned();
    for heredoc in &run.heredocs {
        text.extend(["\n", &heredoc.contents, &heredoc.name]);
    }
    text
}

/// Returns the first line of a heredoc.
fn summary(contents: &str) -> String {
    let mut lines = contents.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}

/// Returns a command as it is in the history: with the arguments of the build that it sees in front, and how many.
fn with_arguments(state: &State, arguments: &[String]) -> String {
    let value = |name: &String| {
        let value = state.environment.get(name).or_else(|| state.scan.get(name));
        format!("{name}={}", value.unwrap_or_default())
    };
    let declared: Vec<String> = state.arguments.names.iter().map(value).collect();
    let count = (!declared.is_empty()).then(|| format!("|{}", declared.len()));
    let parts: Vec<String> = count.into_iter().chain(declared).chain(arguments.iter().cloned()).collect();
    parts.join(" ")
}
