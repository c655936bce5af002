//! The OCI front door: the command line of runc and crun, as podman, conmon and containerd call it, over the engine's own
//! containers code. Also when the program is called as `rcompose-oci`, since some callers take only a path.

mod log;
mod output;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rcompose_engine::oci::{self, Create, Exec, OciError, Overrides, Runtime};
use rcompose_engine::root::Root;

use self::log::Log;
use self::output::print;

/// The command that leads here.
pub const COMMAND: &str = "oci";

/// What the program is called where it is this front door and nothing else.
pub const NAME: &str = "rcompose-oci";

/// Run containers from OCI bundles
#[derive(Debug, Parser)]
#[command(name = "rcompose oci", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Directory for the state of containers [default: /run/rcompose/oci]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// File for warnings and errors, besides standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Log more
    #[arg(long)]
    debug: bool,
    /// Not supported: cgroups are made directly
    #[arg(long)]
    systemd_cgroup: bool,
    /// Ignored: whether the caller is root decides
    #[arg(long, value_name = "MODE", hide = true)]
    rootless: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container, whose program is executed by `start`
    Create(CreateArgs),
    /// Execute the program of a created container
    Start { id: String },
    /// Create and start a container
    Run(RunArgs),
    /// Print the state of a container
    State { id: String },
    /// Send a signal to a container
    Kill(KillArgs),
    /// Delete a container that has ended
    Delete(DeleteArgs),
    /// Execute a further process in a container
    Exec(Box<ExecArgs>),
    /// List containers
    List(ListArgs),
    /// Let all processes of a container stand still
    Pause { id: String },
    /// Let a paused container go on
    Resume { id: String },
    /// List the processes of a container
    Ps(PsArgs),
    /// Change the limits of a container
    Update(UpdateArgs),
    /// Print what this runtime can do
    Features,
    /// Write a configuration to begin with
    Spec(SpecArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Directory of config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Socket that gets the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File that gets the number of the container's process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// How many descriptors from 3 on the container gets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Not supported: the root is always changed by pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// Not supported: a container always has a session keyring of its own
    #[arg(long)]
    no_new_keyring: bool,
    id: String,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    create: CreateArgs,
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Do not delete it when it has ended
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct KillArgs {
    /// Send the signal to all processes
    #[arg(short, long)]
    all: bool,
    id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// End it before, if it runs
    #[arg(short, long)]
    force: bool,
    #[arg(required = true)]
    id: Vec<String>,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// File with the description of the process
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[arg(short, long)]
    detach: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    user: Option<(u32, Option<u32>)>,
    /// Further groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Further capabilities
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    #[arg(long)]
    no_new_privs: bool,
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Also where the container is paused; the process then waits for it
    #[arg(long)]
    ignore_paused: bool,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// table or json
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Args)]
struct PsArgs {
    /// table or json
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    id: String,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// File with `linux.resources`; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    resources: PathBuf,
    id: String,
}

#[derive(Debug, Args)]
struct SpecArgs {
    /// Directory for config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
}

fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("`{text}` is not a number"));
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

/// Runs the front door. The first argument is the name that clap does without.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(std::iter::once(NAME.into()).chain(args)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let log = Log::new(cli.log.clone(), cli.log_format == LogFormat::Json);
    match run(cli, &log) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            log.error(&error);
            ExitCode::from(u8::try_from(error.code()).unwrap_or(u8::MAX))
        }
    }
}

/// Says what is wrong with the command line, or what it can be.
fn usage(error: &clap::Error) -> ExitCode {
    // Where not even that can be said there is nobody to hear it.
    let _ = error.print();
    ExitCode::from(u8::from(error.use_stderr()))
}

fn run(cli: Cli, log: &Log) -> Result<i32, OciError> {
    if cli.systemd_cgroup {
        return Err(OciError::Usage(
            "--systemd-cgroup is not supported: cgroups are made directly (podman: --cgroup-manager cgroupfs, \
             containerd: SystemdCgroup = false)",
        ));
    }
    let runtime = Runtime::new(cli.root.unwrap_or_else(|| {
        // As for the rest of the program; podman and containerd say it anyway.
        let root = std::env::var_os("RCOMPOSE_ROOT").filter(|root| !root.is_empty());
        root.map_or_else(Root::system, |root| Root::below(std::path::Path::new(&root))).run().join("oci")
    }));
    match cli.command {
        Command::Create(args) => {
            seal()?;
            log.warnings(&runtime.create(&create(args)?)?);
        }
        Command::Start { id } => runtime.start(&id)?,
        Command::Run(args) => {
            seal()?;
            let (code, warnings) = runtime.run(&create(args.create)?, args.detach, args.keep)?;
            log.warnings(&warnings);
            return Ok(code);
        }
        Command::State { id } => print(&output::indented(&runtime.state(&id)?)),
        Command::Kill(args) => runtime.kill(&args.id, &args.signal, args.all)?,
        Command::Delete(args) => {
            for id in &args.id {
                log.warnings(&runtime.delete(id, args.force)?);
            }
        }
        Command::Exec(args) => {
            seal()?;
            return runtime.exec(&exec(&runtime, *args)?);
        }
        Command::List(args) => {
            let list = runtime.list()?;
            print(&match (args.quiet, args.format) {
                (true, _) => list.iter().flat_map(|one| [&*one.id, "\n"]).collect(),
                (false, Format::Json) => output::line(&list),
                (false, Format::Table) => output::containers(&list),
            });
        }
        Command::Pause { id } => runtime.pause(&id, true)?,
        Command::Resume { id } => runtime.pause(&id, false)?,
        Command::Ps(args) => {
            let pids = runtime.processes(&args.id)?;
            print(&if args.format == Format::Json { output::line(&pids) } else { output::processes(&pids) });
        }
        Command::Update(args) => runtime.update(&args.id, &output::read_json(&args.resources)?)?,
        Command::Features => print(&output::indented(&oci::features::features())),
        Command::Spec(args) => output::write_new(&args.bundle.join("config.json"), &oci::default_spec())?,
    }
    Ok(0)
}

/// Makes sure that nobody in a container can write to the program that makes it (CVE-2019-5736).
fn seal() -> Result<(), OciError> {
    if rcompose_engine::shim::sealed::is_sealed() {
        return Ok(());
    }
    let args: Vec<String> = std::env::args().collect();
    let source = rcompose_engine::shim::sealed::exec_sealed(&args);
    Err(OciError::Read { path: "/proc/self/exe".into(), source })
}

fn create(args: CreateArgs) -> Result<Create, OciError> {
    if args.no_pivot {
        return Err(OciError::Usage("--no-pivot is not supported: the root is always changed by pivot_root"));
    }
    if args.no_new_keyring {
        return Err(OciError::Usage("--no-new-keyring is not supported: a container has a session keyring of its own"));
    }
    let CreateArgs { bundle, console_socket, pid_file, preserve_fds, id, .. } = args;
    Ok(Create { id, bundle, pid_file, console_socket, preserve_fds })
}

fn exec(runtime: &Runtime, args: ExecArgs) -> Result<Exec, OciError> {
    let process = if let Some(path) = &args.process {
        let mut process = Runtime::read_process(path)?;
        if args.tty {
            process.set_terminal(Some(true));
        }
        process
    } else {
        let overrides = Overrides {
            args: args.args,
            env: args.env,
            cwd: args.cwd,
            user: args.user,
            additional_gids: args.additional_gids,
            terminal: args.tty,
            capabilities: args.cap,
            no_new_privileges: args.no_new_privs,
        };
        runtime.process_like(&args.id, &overrides)?
    };
    let ExecArgs { id, pid_file, console_socket, detach, preserve_fds, ignore_paused, .. } = args;
    Ok(Exec { id, process, pid_file, console_socket, detach, preserve_fds, ignore_paused })
}
