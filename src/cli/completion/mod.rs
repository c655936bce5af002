//! `completion`: a script that teaches a shell our commands, flags and names. The script asks this program at every press
//! of the key, by a variable of the environment, so that it offers what is there at that moment.

mod bash;
mod candidates;
mod cobra;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use clap_complete::env::{EnvCompleter, Fish, Zsh};

use super::context::Context;
use super::error::Error;
use crate::ui::name::Name;

/// Says to answer a shell, and which one.
pub const VARIABLE: &str = "_COMPOSE_COMPLETE";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose completion bash > /etc/bash_completion.d/rcompose
  source <(rcompose completion zsh)      (in ~/.zshrc, behind compinit)
  rcompose completion fish > ~/.config/fish/completions/rcompose.fish")]
pub struct CompletionArgs {
    /// The shell that the script is for
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    fn adapter(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &bash::Bash,
            Self::Zsh => &Zsh,
            Self::Fish => &Fish,
        }
    }
}

pub fn run(context: &Context, args: &CompletionArgs) -> Result<(), Error> {
    let name = context.ui.name.program();
    let mut script = Vec::new();
    args.shell.adapter().write_registration(VARIABLE, name, name, &program(name)?, &mut script)?;
    Ok(context.ui.out(&String::from_utf8_lossy(&script))?)
}

/// Returns how the script calls this program: as it was called, if that does not depend on the directory.
fn program(name: &str) -> io::Result<String> {
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).components().count() < 2 {
        return Ok(name.to_owned());
    }
    Ok(std::path::absolute(called)?.to_string_lossy().into_owned())
}

/// Answers a shell that asks in the way of Docker's programs; `None`: nothing is asked.
pub fn answer_docker(mut arguments: Vec<OsString>) -> Option<ExitCode> {
    let described = cobra::request(&arguments)?;
    arguments.remove(1);
    let (words, name) = super::arguments(arguments);
    let mut command = candidates::offer(super::command(name), words.clone());
    Some(print(|text, here| cobra::answer(&mut command, words, described, here, text)))
}

/// Answers a shell. What it asks is behind `--`.
pub fn answer(shell: &OsStr, name: Name, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(shell) = shell.to_str().and_then(|name| Shell::from_str(name, false).ok()) else {
        return ExitCode::FAILURE;
    };
    let words = arguments.skip_while(|word| word != "--").skip(1).collect::<Vec<_>>();
    let typed = match shell {
        Shell::Bash => words.first().map(|line| bash::words(&line.to_string_lossy())).unwrap_or_default(),
        Shell::Zsh | Shell::Fish => words.clone(),
    };
    let (typed, _) = super::arguments(typed);
    let mut command = candidates::offer(super::command(name), typed);
    print(|text, here| shell.adapter().write_complete(&mut command, words, here, text))
}

/// Prints an answer. A question that has none has no error either: it would stand in the middle of the line that is being typed.
fn print(answer: impl FnOnce(&mut Vec<u8>, Option<&Path>) -> io::Result<()>) -> ExitCode {
    let mut text = Vec::new();
    let here = std::env::current_dir().ok();
    match answer(&mut text, here.as_deref()).and_then(|()| io::stdout().lock().write_all(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
