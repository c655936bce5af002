//! `exec`: a further process in a running container, on this terminal.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

use clap::Args;
use rcompose_engine::container::state::Status;
use rcompose_engine::container::store::Container;
use rcompose_engine::shim::client::{Client, ClientError};
use rcompose_engine::shim::protocol::Exec;

use super::context::Context;
use super::error::Error;
use super::shim;
use crate::project::engine::Engine;
use crate::project::labels::Labelled as _;
use crate::ui::lend;
use crate::ui::terminal::{Ended, Session};

/// The exit code of what was killed.
const KILLED: u8 = 137;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose exec web sh
  rcompose exec -T db pg_dump -U postgres shop > shop.sql
  rcompose exec --index 2 -u root web id")]
pub struct ExecArgs {
    /// Detached mode: Run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Keep standard input open, which it always is
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// Disable pseudo-TTY allocation
    #[arg(short = 'T', long = "no-tty", alias = "no-TTY")]
    no_tty: bool,
    /// Give extended privileges to the process
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY, which is done where there is a terminal
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Run the command as this user
    #[arg(short, long)]
    user: Option<String>,
    /// Path to workdir directory for this command
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    service: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub fn run(context: &Context, args: &ExecArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = context.own(&scope, &engine)?;
    let container = scope.running(&containers, &args.service, args.index)?;
    if container.state.status == Status::Paused {
        return Err(Error::with_hint(
            format!("container {} is paused, unpause the container before exec", container.config.name),
            format!("rcompose unpause {}", args.service),
        ));
    }
    let tty = !args.no_tty && !args.detach && io::stdin().is_terminal() && io::stdout().is_terminal();
    let request = Exec {
        exec: 0,
        args: args.command.clone(),
        env: environment(&args.env, tty),
        user: args.user.clone(),
        cwd: args.workdir.clone(),
        tty,
        // The session knows it.
        size: None,
        privileged: args.privileged,
    };
    let mut client = connect(context, &engine, container)?;
    let code = if tty {
        with_terminal(&mut client, request)?
    } else if args.detach {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        client.exec(request, &[null.as_fd(), null.as_fd(), null.as_fd()]).map_err(|error| failed(context, error))?;
        return Ok(());
    } else {
        lend::run(&mut client, request)?
    };
    match code {
        Ended::With(0) => Ok(()),
        Ended::With(code) => Err(Error::Exit(u8::try_from(code).unwrap_or(1))),
        Ended::Interrupted(signal) => Err(Error::Exit(u8::try_from(128 + signal).unwrap_or(1))),
        Ended::Untold if runs_on(&engine, container)? => Err(ClientError::Gone.into()),
        Ended::Untold => Err(Error::Exit(KILLED)),
        Ended::NeverBegan(error) => Err(failed(context, error)),
    }
}

/// Returns whether a container still has the same first process.
fn runs_on(engine: &Engine, before: &Container) -> Result<bool, Error> {
    let now = engine.containers()?.into_iter().find(|container| container.config.id == before.config.id);
    Ok(now.is_some_and(|now| now.state.status.is_running() && now.state.pid == before.state.pid))
}

fn with_terminal(client: &mut Client, request: Exec) -> Result<Ended, Error> {
    // Signals are taken over first: from here on the terminal is always restored.
    let session = Session::begin()?;
    Ok(session.run(client, request)?)
}

/// Connects to the shim of a running container.
fn connect(context: &Context, engine: &Engine, container: &Container) -> Result<Client, Error> {
    let run = engine.root.container_run(&container.config.id);
    let attempt = || match Client::connect(&run) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NotRunning(_)) => Ok(None),
        Err(error) => Err(error),
    };
    let client = context.block_on(shim::reach(engine, &container.config.id, attempt))?;
    client.ok_or_else(|| {
        let text = format!("container {} is not running", container.config.name);
        Error::with_hint(text, format!("rcompose start {}", container.service()))
    })
}

/// Says why the process could not be run, and returns Docker Compose's exit code for that.
fn failed(context: &Context, error: ClientError) -> Error {
    match error {
        ClientError::Failed(failure) => {
            context.ui.error(&format!("cannot run the command: {failure}"), None);
            match failure.code {
                // The program could not be executed, or was not found.
                126 | 127 => Error::Exit(u8::try_from(failure.code).unwrap_or(1)),
                _ => Error::Exit(1),
            }
        }
        error => error.into(),
    }
}

/// Returns the variables for the process: those that were given, whose value may be ours, and the kind of terminal.
fn environment(given: &[String], tty: bool) -> Vec<String> {
    let mut environment = Vec::new();
    if tty {
        environment.push("TERM=xterm".to_owned());
    }
    for variable in given {
        match std::env::var(variable) {
            Ok(value) if !variable.contains('=') => environment.push(format!("{variable}={value}")),
            // A name alone takes the variable away.
            _ => environment.push(variable.clone()),
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_a_value_is_ours() {
        let path = std::env::var("PATH").unwrap();
        let made = environment(&["A=b=c".into(), "PATH".into(), "RCOMPOSE_SURELY_UNSET".into()], false);
        assert_eq!(made, ["A=b=c".to_owned(), format!("PATH={path}"), "RCOMPOSE_SURELY_UNSET".to_owned()]);
        assert_eq!(environment(&[], true), ["TERM=xterm"]);
    }
}
