//! The command line: global flags and commands.

pub mod config;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::compose::{Diagnostic, LoadOptions, Severity};
use crate::ui::diagnostics;

/// Docker Compose without Docker.
#[derive(Debug, Parser)]
#[command(name = "rcompose", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// The flags that stand before the command.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// Compose configuration files; `-` is standard input
    #[arg(short, long, value_name = "FILE", global = false)]
    pub file: Vec<String>,
    /// Project name
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Alternate working directory (default: the directory of the first compose file)
    #[arg(long, value_name = "PATH")]
    pub project_directory: Option<PathBuf>,
    /// A profile to enable; `*` enables all
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// An alternate file of variables
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Include all resources, even those not used by services
    #[arg(long)]
    pub all_resources: bool,
    /// Run in backward compatibility mode
    #[arg(long)]
    pub compatibility: bool,
    /// How progress is shown
    #[arg(long, value_name = "TYPE", env = "COMPOSE_PROGRESS")]
    pub progress: Option<Progress>,
    /// When to print control characters
    #[arg(long, value_name = "WHEN", env = "COMPOSE_ANSI")]
    pub ansi: Option<Ansi>,
    /// The most things to do at the same time; -1: no limit
    #[arg(long, value_name = "N", env = "COMPOSE_PARALLEL_LIMIT", allow_negative_numbers = true)]
    pub parallel: Option<i32>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `--progress`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// What the output is for.
    Auto,
    /// Lines that change.
    Tty,
    /// Lines that stay.
    Plain,
    /// One JSON object a line.
    Json,
    /// Nothing.
    Quiet,
}

/// `--ansi`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ansi {
    /// Never.
    Never,
    /// Also where the output is no terminal.
    Always,
    /// What the output is for.
    Auto,
}

impl GlobalArgs {
    /// What to load, with the process environment and the working directory.
    pub fn load_options(&self) -> LoadOptions {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment: BTreeMap<String, String> =
            std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        let compatibility = self.compatibility
            || environment
                .get("COMPOSE_COMPATIBILITY")
                .is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "t" | "true"));
        LoadOptions {
            files: self.file.clone(),
            project_directory: self.project_directory.clone(),
            project_name: self.project_name.clone(),
            profiles: self.profile.clone(),
            env_files: self.env_file.clone(),
            environment,
            working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            all_resources: self.all_resources,
            no_normalize: compatibility,
            ..LoadOptions::default()
        }
    }

    /// Whether errors are drawn with colours.
    pub fn colours(&self) -> bool {
        match self.ansi {
            Some(Ansi::Always) => true,
            Some(Ansi::Never) => false,
            _ => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal(),
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Parse, resolve and render the compose files in canonical form
    #[command(visible_alias = "convert")]
    Config(config::ConfigArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Config(arguments) => config::run(&cli.global, &arguments),
    }
}

/// Shows diagnostics on standard error; with `json` one object a line.
pub fn show(found: &[Diagnostic], colours: bool, json: bool) {
    use std::fmt::Write as _;
    use std::io::Write as _;

    let mut text = String::new();
    for diagnostic in found {
        text.push_str(&if json { diagnostics::json(diagnostic) } else { diagnostics::render(diagnostic, colours) });
        text.push('\n');
    }
    let errors = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    if errors > 1 && !json {
        let _ = writeln!(text, "{errors} errors");
    }
    // Where standard error is closed there is nobody to tell.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
