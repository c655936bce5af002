//! `provider` (Compose Specification): services that another program provides.
//!
//! The program `docker-TYPE`, or TYPE itself, is called as `TYPE compose --project-name=NAME up --OPTION=VALUE… SERVICE`, and with
//! `down` when the project goes. It says on its standard output, one JSON object after the other, what it does and which
//! variables the services get that depend on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{graph, inject};
use crate::compose::model::Provider;
use crate::compose::{Project, Service};
use crate::ui::progress::Progress;

/// Where Docker's plugins lie, besides `~/.docker/cli-plugins` and the directories of `PATH`.
const PLUGINS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// What a provider is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Up,
    Down,
}

impl Request {
    fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Returns what is said while it is under way, and when it is done.
    fn progress(self) -> [&'static str; 2] {
        match self {
            Self::Up => ["Creating", "Created"],
            Self::Down => ["Removing", "Removed"],
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Up => "create",
            Self::Down => "remove",
        }
    }
}

/// Why a service was not provided.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error(
        "service \"{service}\": there is no provider `{kind}`: neither docker-{kind} nor {kind} is a program in PATH"
    )]
    Missing { service: String, kind: String },
    #[error("service \"{service}\": cannot run its provider {}", program.display())]
    Run {
        service: String,
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("service \"{service}\": {message}")]
    Said { service: String, message: String },
    #[error("service \"{service}\": invalid response from provider: {text}")]
    Nonsense { service: String, text: String },
    #[error("service \"{service}\": failed to {verb} service provider: {status}")]
    Ended { service: String, verb: &'static str, status: std::process::ExitStatus },
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Order(#[from] graph::Cycle),
}

/// One message of a provider.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

/// What a provider sets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Variables {
    /// Without the prefix that they get.
    prefixed: BTreeMap<String, String>,
    /// As they are.
    raw: BTreeMap<String, String>,
}

/// Has every service provided that has a provider, and gives those that depend on it the variables. They are not among the
/// services that containers are made for any more.
pub async fn up(
    project: &mut Project,
    progress: &Progress,
    interrupt: &CancellationToken,
) -> Result<(), ProviderError> {
    for name in graph::order(project)? {
        let Some(provider) = project.services[&name].provider.clone() else { continue };
        let variables = ask(project, &name, &provider, Request::Up, progress, interrupt).await?;
        settle(project, &name, &variables);
    }
    Ok(())
}

/// Gives everything back that providers provide for the project.
pub async fn down(project: &Project, progress: &Progress, interrupt: &CancellationToken) -> Result<(), ProviderError> {
    for name in graph::order(project)?.into_iter().rev() {
        if let Some(provider) = &project.services[&name].provider {
            ask(project, &name, provider, Request::Down, progress, interrupt).await?;
        }
    }
    Ok(())
}

/// Takes the services that are provided from those that containers are made for, without asking anybody. What a provider set is
/// taken from the containers that are there.
pub fn foresee(project: &mut Project, known: &dyn Fn(&str) -> BTreeMap<String, String>) {
    let provided = project.services.values().filter(|service| service.provider.is_some());
    for name in provided.map(|service| service.name.clone()).collect::<Vec<_>>() {
        let start = prefix(&name);
        let mut prefixed = BTreeMap::new();
        for user in project.services.values().filter(|service| service.depends_on.contains_key(&name)) {
            let there = known(&user.name).into_iter();
            prefixed.extend(there.filter_map(|(key, value)| Some((key.strip_prefix(&start)?.to_owned(), value))));
        }
        settle(project, &name, &Variables { prefixed, raw: BTreeMap::new() });
    }
}

/// Says what would be done.
pub fn pretend(project: &Project, request: Request, progress: &Progress) {
    for service in project.services.values().filter(|service| service.provider.is_some()) {
        let [working, done] = request.progress();
        progress.working(&service.name, working);
        progress.done(&service.name, done);
    }
}

fn prefix(service: &str) -> String {
    format!("{}_", service.to_uppercase())
}

fn settle(project: &mut Project, name: &str, variables: &Variables) {
    let depends = |service: &&mut Service| service.depends_on.contains_key(name);
    for service in project.services.values_mut().filter(depends) {
        for (key, value) in &variables.prefixed {
            inject::variable(service, &format!("{}{key}", prefix(name)), value);
        }
        for (key, value) in &variables.raw {
            inject::variable(service, key, value);
        }
    }
    if let Some(service) = project.services.remove(name) {
        project.disabled_services.insert(name.to_owned(), service);
    }
}

async fn ask(
    project: &Project,
    service: &str,
    provider: &Provider,
    request: Request,
    progress: &Progress,
    interrupt: &CancellationToken,
) -> Result<Variables, ProviderError> {
    let [working, done] = request.progress();
    progress.working(service, working);
    let work = converse(project, service, provider, request, progress);
    let result = tokio::select! {
        result = work => result,
        // The program goes with the future that runs it.
        () = interrupt.cancelled() => Err(ProviderError::Interrupted),
    };
    match &result {
        Ok(_) => progress.done(service, done),
        Err(_) => progress.error(service, "Error"),
    }
    result
}

async fn converse(
    project: &Project,
    service: &str,
    provider: &Provider,
    request: Request,
    progress: &Progress,
) -> Result<Variables, ProviderError> {
    let kind = &provider.kind;
    let program = find(kind, &project.working_dir)
        .ok_or_else(|| ProviderError::Missing { service: service.to_owned(), kind: kind.clone() })?;
    let failed = |source| ProviderError::Run { service: service.to_owned(), program: program.clone(), source };
    let mut child = Command::new(&program)
        .args(arguments(&project.name, service, provider, request))
        .env_clear()
        .envs(&project.environment)
        .current_dir(&project.working_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut variables = Variables::default();
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await.map_err(failed)? {
            if let Some(info) = hear(service, &line, &mut variables)? {
                progress.working(service, &info);
            }
        }
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        Ok(variables)
    } else {
        Err(ProviderError::Ended { service: service.to_owned(), verb: request.verb(), status })
    }
}

fn arguments(project: &str, service: &str, provider: &Provider, request: Request) -> Vec<String> {
    let mut arguments = vec!["compose".to_owned(), format!("--project-name={project}"), request.word().to_owned()];
    for (name, values) in &provider.options {
        arguments.extend(values.iter().map(|value| format!("--{name}={value}")));
    }
    arguments.push(service.to_owned());
    arguments
}

/// Takes one message into account; returns what is to be shown of it.
fn hear(service: &str, line: &str, variables: &mut Variables) -> Result<Option<String>, ProviderError> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let nonsense = || ProviderError::Nonsense { service: service.to_owned(), text: line.to_owned() };
    let Message { kind, message } = serde_json::from_str(line).map_err(|_| nonsense())?;
    let variable = || {
        let (name, value) = message.split_once('=').ok_or_else(nonsense)?;
        Ok::<_, ProviderError>((name.to_owned(), value.to_owned()))
    };
    match kind.as_str() {
        "info" => return Ok(Some(message.lines().next().unwrap_or_default().to_owned())),
        "debug" => tracing::debug!(service, "{message}"),
        "error" => return Err(ProviderError::Said { service: service.to_owned(), message }),
        "setenv" => variables.prefixed.extend([variable()?]),
        "rawsetenv" => variables.raw.extend([variable()?]),
        _ => return Err(nonsense()),
    }
    Ok(None)
}

/// Finds the program of a provider: a plugin of Docker's, or a program by its name or by its path from the project's directory.
fn find(kind: &str, directory: &Path) -> Option<PathBuf> {
    if kind.contains('/') {
        return Some(directory.join(kind)).filter(|path| is_program(path));
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker/cli-plugins"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).collect::<Vec<_>>();
    let plugins = home.into_iter().chain(PLUGINS.map(PathBuf::from)).chain(path.iter().cloned());
    let plugins = plugins.map(|directory| directory.join(format!("docker-{kind}")));
    plugins.chain(path.iter().map(|directory| directory.join(kind))).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_arguments() {
        let options = [("size".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into();
        let provider = Provider { kind: "cloud".into(), options };
        assert_eq!(
            arguments("shop", "db", &provider, Request::Up),
            ["compose", "--project-name=shop", "up", "--size=1", "--size=2", "db"]
        );
    }

    #[test]
    fn messages_are_understood_or_refused() {
        let mut variables = Variables::default();
        let mut hear = |line: &str| hear("db", line, &mut variables);
        assert_eq!(hear(r#"{"type":"info","message":"a\nb"}"#).unwrap().as_deref(), Some("a"));
        assert!(hear(r#"{"type":"setenv","message":"URL=x=y"}"#).unwrap().is_none());
        assert!(hear(r#"{"type":"rawsetenv","message":"PLAIN=1"}"#).unwrap().is_none());
        assert!(hear(r#"{"type":"debug","message":"b"}"#).unwrap().is_none());
        assert_eq!(hear(r#"{"type":"error","message":"no"}"#).unwrap_err().to_string(), "service \"db\": no");
        assert!(hear(r#"{"type":"setenv","message":"URL"}"#).is_err());
        assert!(hear("hello").is_err());
        assert_eq!(variables.prefixed["URL"], "x=y");
        assert_eq!(variables.raw["PLAIN"], "1");
    }
}
