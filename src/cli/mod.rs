//! The command line: one file per command, with its arguments and a short call into the project.

pub mod attach;
pub mod attached;
pub mod autostart;
pub mod blame;
pub mod build;
pub mod builder;
pub mod commit;
pub mod completion;
pub mod config;
pub mod context;
pub mod cp;
pub mod create;
pub mod debug;
pub mod doctor;
pub mod down;
pub mod error;
pub mod events;
pub mod exec;
pub mod export;
pub mod filter;
pub mod follow;
pub mod graph;
pub mod guise;
pub mod image;
pub mod images;
pub mod inspect;
pub mod kill;
mod late;
pub mod lint;
pub mod login;
pub mod logout;
pub mod logs;
pub mod ls;
pub mod man;
pub mod network;
pub mod opener;
pub mod pause;
pub mod plan;
pub mod port;
pub mod ps;
pub mod publish;
pub mod pull;
pub mod push;
pub mod restart;
pub mod rm;
pub mod run;
pub mod scale;
pub mod shim;
pub mod signals;
pub mod start;
pub mod stats;
pub mod stop;
pub mod streams;
pub mod system;
pub mod top;
pub mod unpause;
pub mod up;
pub mod urls;
pub mod version;
pub mod volumes;
pub mod wait;
pub mod watch;
pub mod with;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueHint};

use crate::compose::{Diagnostic, LoadOptions};
use crate::project::labels::COMPOSE_VERSION;
use crate::ui::Ui;
use crate::ui::colour::Ansi;
use crate::ui::name::Name;
use crate::ui::progress::Form;
use context::Context;
use error::Error;
use late::Late;

/// Run multi-container applications from compose files, without Docker
#[derive(Debug, Parser)]
#[command(name = "rcompose", disable_version_flag = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  rcompose up -d
  rcompose logs -f web
  rcompose exec web sh
  rcompose down --volumes")]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// What stands before the command.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// Compose configuration files
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Vec<String>,
    /// Project name
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Specify an alternate working directory (default: the path of the first compose file)
    #[arg(long, value_name = "DIR", alias = "workdir", value_hint = ValueHint::DirPath)]
    pub project_directory: Option<PathBuf>,
    /// Specify an alternate environment file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Specify a profile to enable
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Control max parallelism, -1 for unlimited
    #[arg(long, value_name = "N", env = "COMPOSE_PARALLEL_LIMIT", default_value_t = -1, allow_negative_numbers = true)]
    pub parallel: i64,
    /// Set type of progress output
    #[arg(long, value_enum, env = "COMPOSE_PROGRESS", default_value_t)]
    pub progress: Form,
    /// Control when to print ANSI control characters
    #[arg(long, value_enum, env = "COMPOSE_ANSI", default_value_t)]
    pub ansi: Ansi,
    /// Run a second copy of the project beside the first, with its ports on an address 127.x.y.z of its own
    #[arg(long, value_name = "NAME", global = true)]
    pub instance: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Include all resources, even those not used by services
    #[arg(long)]
    pub all_resources: bool,
    /// Run in backward compatibility mode
    #[arg(long, env = "COMPOSE_COMPATIBILITY", hide_env = true)]
    pub compatibility: bool,
    /// Say on standard error what is read and done; `RCOMPOSE_LOG` says of what
    #[arg(long, hide = true)]
    pub verbose: bool,
    /// Keep everything below this directory instead of in /var/lib/rcompose and /run/rcompose
    #[arg(long, value_name = "DIR", env = "RCOMPOSE_ROOT", hide = true)]
    pub root: Option<PathBuf>,
}

impl GlobalArgs {
    /// Returns what the loader is asked for, with the process environment and the working directory.
    pub fn load_options(&self) -> LoadOptions {
        let lossy = |text: OsString| text.to_string_lossy().into_owned();
        let environment =
            std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect::<BTreeMap<_, _>>();
        LoadOptions {
            files: self.file.clone(),
            project_directory: self.project_directory.clone(),
            project_name: self.project_name.clone(),
            profiles: self.profile.clone(),
            env_files: self.env_file.clone(),
            environment,
            working_dir: working_dir(),
            all_resources: self.all_resources,
            compatibility: self.compatibility,
            ..LoadOptions::default()
        }
    }

    /// Returns whether errors are drawn with colours.
    pub fn colours(&self) -> bool {
        self.ansi.on(&std::io::stderr())
    }
}

/// Returns the directory that this process works in, by the path that the shell knows it by: a symbolic link on the way is
/// a part of it, and of the project's name and labels.
fn working_dir() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let said = std::env::var_os("PWD").map(PathBuf::from).filter(|said| said.is_absolute());
    said.filter(|said| identity(said).is_some_and(|found| identity(&here) == Some(found))).unwrap_or(here)
}

/// Returns whether the value of a variable of the environment means yes.
fn is_yes(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "y" | "yes")
}

/// Shows faults of compose files, or remarks about them; with `json` one object a line.
pub fn show(found: &[Diagnostic], colours: bool, json: bool) {
    let ansi = if colours { Ansi::Always } else { Ansi::Never };
    let ui = Ui { ansi, form: if json { Form::Json } else { Form::Plain }, ..Ui::default() };
    ui.diagnostics(found);
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring back containers after a reboot, as their restart policies say
    Autostart(Late<autostart::AutostartArgs>),
    /// Attach local standard input, output, and error streams to a service's running container
    Attach(Late<attach::AttachArgs>),
    /// Show what the last `up` took its time for
    Blame(Late<blame::BlameArgs>),
    /// Build or rebuild services
    Build(Late<build::BuildArgs>),
    /// Manage builds
    Builder(Late<builder::BuilderArgs>),
    /// Parse, resolve and render compose file in canonical format
    #[command(visible_alias = "convert")]
    Config(Late<config::ConfigArgs>),
    /// Create a new image from a service container's changes
    Commit(Late<commit::CommitArgs>),
    /// Generate the completion script for a shell
    Completion(Late<completion::CompletionArgs>),
    /// Copy files/folders between a service container and the local filesystem
    Cp(Late<cp::CpArgs>),
    /// Creates containers for a service
    Create(Late<create::CreateArgs>),
    /// Look at what this host has and lacks
    Doctor(Late<doctor::DoctorArgs>),
    /// Stop and remove containers, networks
    Down(Late<down::DownArgs>),
    /// Receive real time events from containers
    Events(Late<events::EventsArgs>),
    /// Execute a command in a running container
    Exec(Late<exec::ExecArgs>),
    /// Draw the project: services, dependencies, networks, volumes, ports
    Graph(Late<graph::GraphArgs>),
    /// Manage images
    Image(Late<image::ImageArgs>),
    /// Export a service container's filesystem as a tar archive
    Export(Late<export::ExportArgs>),
    /// List images used by the created containers
    Images(Late<images::ImagesArgs>),
    /// Return low-level information on containers
    Inspect(Late<inspect::InspectArgs>),
    /// Force stop service containers
    Kill(Late<kill::KillArgs>),
    /// Look for what is allowed, and mostly a mistake
    Lint(Late<lint::LintArgs>),
    /// Authenticate to a registry
    Login(Late<login::LoginArgs>),
    /// Log out from a registry
    Logout(Late<logout::LogoutArgs>),
    /// View output from containers
    Logs(Late<logs::LogsArgs>),
    /// List running compose projects
    Ls(Late<ls::LsArgs>),
    /// Write the manual pages of all commands
    Man(Late<man::ManArgs>),
    /// Manage networks
    Network(Late<network::NetworkArgs>),
    /// Run containers from OCI bundles, in the manner of runc
    #[command(disable_help_flag = true)]
    Oci {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Pause services
    Pause(Late<pause::PauseArgs>),
    /// Show what `up` would do, and why
    Plan(Late<plan::PlanArgs>),
    /// Print the public port for a port binding
    Port(Late<port::PortArgs>),
    /// List containers
    Ps(Late<ps::PsArgs>),
    /// Publish compose application
    Publish(Late<publish::PublishArgs>),
    /// Pull service images
    Pull(Late<pull::PullArgs>),
    /// Push service images
    Push(Late<push::PushArgs>),
    /// Restart service containers
    Restart(Late<restart::RestartArgs>),
    /// Removes stopped service containers
    Rm(Late<rm::RmArgs>),
    /// Run a one-off command on a service
    Run(Late<run::RunArgs>),
    /// Scale services
    Scale(Late<scale::ScaleArgs>),
    /// Start services
    Start(Late<start::StartArgs>),
    /// Display a live stream of container(s) resource usage statistics
    Stats(Late<stats::StatsArgs>),
    /// Stop services
    Stop(Late<stop::StopArgs>),
    /// Manage what this host keeps
    System(Late<system::SystemArgs>),
    /// Display the running processes
    Top(Late<top::TopArgs>),
    /// Unpause services
    Unpause(Late<unpause::UnpauseArgs>),
    /// Create and start containers
    Up(Late<up::UpArgs>),
    /// Show the version information
    Version(Late<version::VersionArgs>),
    /// List volumes
    Volumes(Late<volumes::VolumesArgs>),
    /// Block until containers of all (or specified) services stop
    Wait(Late<wait::WaitArgs>),
    /// Watch build context for service and rebuild/refresh containers when files are updated
    Watch(Late<watch::WatchArgs>),
    /// Run a command beside a stack of its own, which is there before it and gone after it
    With(Late<with::WithArgs>),
    /// Take away what `with` leaves when it is killed
    #[command(name = with::guard::COMMAND, hide = true)]
    WithGuard(Late<with::guard::GuardArgs>),
}

impl Command {
    /// Returns whether the command can say what it would do, or does nothing anyway but look.
    fn can_pretend(&self) -> bool {
        !matches!(
            self,
            Self::Autostart(_)
                | Self::Attach(_)
                | Self::Build(_)
                | Self::Builder(_)
                | Self::Commit(_)
                | Self::Cp(_)
                | Self::Exec(_)
                | Self::Export(_)
                | Self::Image(_)
                | Self::Login(_)
                | Self::Logout(_)
                | Self::Network(_)
                | Self::Pull(_)
                | Self::Push(_)
                | Self::Run(_)
                | Self::System(_)
                | Self::With(_)
        )
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let (arguments, name) = arguments(std::env::args_os().collect());
    if let Some(shell) = std::env::var_os(completion::VARIABLE) {
        return completion::answer(&shell, name, std::env::args_os());
    }
    if let Some(answered) = completion::answer_docker(std::env::args_os().collect()) {
        return answered;
    }
    if name.is_dockers() && arguments.get(1).is_some_and(|first| first == guise::METADATA) {
        let said = Ui::default().out(&guise::metadata(COMPOSE_VERSION));
        return ExitCode::from(u8::from(said.is_err()));
    }
    // In Docker's place all texts are changed, for which they must be there.
    let known = if name.is_dockers() { command(name) } else { late::wait(Cli::command) };
    let parsed = known.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // The terminal may be gone; the exit code is not.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    if cli.global.verbose {
        log_to_stderr();
    }
    let ui = Ui { ansi: cli.global.ansi, form: cli.global.progress, pretends: cli.global.dry_run, name };
    if ui.pretends && !cli.command.can_pretend() {
        let text = "--dry-run is for commands that make, change or remove what the project has";
        ui.error(text, Some("rcompose plan shows what `up` would do"));
        return ExitCode::FAILURE;
    }
    let context = Context::new(cli.global, ui);
    let done = match cli.command {
        Command::Config(args) => return config::run(&context.global, &args),
        Command::Autostart(args) => autostart::run(&context, &args),
        Command::Attach(args) => attach::run(&context, &args),
        Command::Blame(args) => blame::run(&context, &args),
        Command::Build(args) => build::run(&context, &args),
        Command::Builder(args) => builder::run(&context, &args),
        Command::Commit(args) => commit::run(&context, &args),
        Command::Completion(args) => completion::run(&context, &args),
        Command::Cp(args) => cp::run(&context, &args),
        Command::Create(args) => create::run(&context, &args),
        Command::Doctor(args) => doctor::run(&context, &args),
        Command::Down(args) => down::run(&context, &args),
        Command::Events(args) => events::run(&context, &args),
        Command::Exec(args) => exec::run(&context, &args),
        Command::Graph(args) => graph::run(&context, &args),
        Command::Image(args) => image::run(&context, &args),
        Command::Export(args) => export::run(&context, &args),
        Command::Images(args) => images::run(&context, &args),
        Command::Inspect(args) => inspect::run(&context, &args),
        Command::Kill(args) => kill::run(&context, &args),
        Command::Login(args) => login::run(&context, &args),
        Command::Logout(args) => logout::run(&context, &args),
        Command::Logs(args) => logs::run(&context, &args),
        Command::Lint(args) => lint::run(&context, &args),
        Command::Ls(args) => ls::run(&context, &args),
        Command::Man(args) => man::run(command(name), &args),
        Command::Network(args) => network::run(&context, &args),
        Command::Oci { args } => return crate::oci::main(args),
        Command::Pause(args) => pause::run(&context, &args),
        Command::Plan(args) => plan::run(&context, &args),
        Command::Port(args) => port::run(&context, &args),
        Command::Ps(args) => ps::run(&context, &args),
        Command::Publish(args) => publish::run(&context, &args),
        Command::Pull(args) => pull::run(&context, &args),
        Command::Push(args) => push::run(&context, &args),
        Command::Restart(args) => restart::run(&context, &args),
        Command::Rm(args) => rm::run(&context, &args),
        Command::Run(args) => run::run(&context, &args),
        Command::Scale(args) => scale::run(&context, &args),
        Command::Start(args) => start::run(&context, &args),
        Command::Stats(args) => stats::run(&context, &args),
        Command::Stop(args) => stop::run(&context, &args),
        Command::System(args) => system::run(&context, &args),
        Command::Top(args) => top::run(&context, &args),
        Command::Unpause(args) => unpause::run(&context, &args),
        Command::Up(args) => up::run(&context, &args),
        Command::Version(args) => version::run(&context, &args),
        Command::Volumes(args) => volumes::run(&context, &args),
        Command::Wait(args) => wait::run(&context, &args),
        Command::Watch(args) => watch::run(&context, &args),
        Command::With(args) => with::run(&context, &args),
        Command::WithGuard(args) => with::guard::run(&context, &args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(report(ui, &error)),
    }
}

/// Says why this process cannot go on, where nobody is left to return an error to.
pub fn refuse(reason: &str) {
    Ui::default().error(reason, None);
}

/// Writes what this process notes about its work to standard error.
fn log_to_stderr() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_env("RCOMPOSE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,rcompose=debug,rcompose_engine=debug"));
    fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// Says what went wrong and returns the exit code for it.
fn report(ui: Ui, error: &Error) -> u8 {
    match error {
        Error::Failed(messages) => {
            for message in messages {
                ui.error(&message.text, message.hint.as_deref());
            }
            1
        }
        Error::Faults(faults) => {
            ui.diagnostics(faults);
            1
        }
        Error::Exit(code) => *code,
    }
}

/// Returns the command line that this program has under a name.
fn command(name: Name) -> clap::Command {
    guise::command(Cli::command(), name)
}

/// Returns the arguments without a `compose` in front, which is how Docker's command has them, and what we are called.
fn arguments(mut arguments: Vec<OsString>) -> (Vec<OsString>, Name) {
    let called = arguments.first().map(PathBuf::from).and_then(|path| path.file_name().map(OsString::from));
    let mut name = Name::Own;
    if called.is_some_and(|called| called == Name::DockerCompose.program()) {
        name = Name::DockerCompose;
    }
    if arguments.get(1).is_some_and(|argument| argument == "compose") {
        arguments.remove(1);
        name = Name::DockerPlugin;
    }
    if let Some(first) = arguments.get_mut(1)
        && (first == "-v" || first == "--version")
    {
        *first = "version".into();
    }
    (arguments, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn it_answers_to_dockers_names() {
        let given = |words: &[&str]| arguments(words.iter().map(OsString::from).collect());
        assert_eq!(given(&["rcompose", "up"]), (vec!["rcompose".into(), "up".into()], Name::Own));
        assert_eq!(given(&["rcompose", "-v"]).0, ["rcompose", "version"]);
        assert_eq!(given(&["rcompose", "compose", "up"]), (vec!["rcompose".into(), "up".into()], Name::DockerPlugin));
        assert_eq!(
            given(&["/usr/bin/docker-compose", "up"]),
            (vec!["/usr/bin/docker-compose".into(), "up".into()], Name::DockerCompose)
        );
    }

    #[test]
    fn a_flag_belongs_to_where_it_stands() {
        let cli = Cli::try_parse_from(["rcompose", "-f", "a.yaml", "-f", "b.yaml", "logs", "-f", "web"]).unwrap();
        assert_eq!(cli.global.file, ["a.yaml", "b.yaml"]);
        assert!(matches!(cli.command, Command::Logs(args) if args.follow && args.services == ["web"]));
    }
}
