//! `run`: a container of its own for one command, beside those of the service.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rcompose_engine::id::Id;
use rcompose_engine::protocol::FailureKind;
use rcompose_engine::supervisor::client::ClientError;
use rcompose_engine::sys::terminal::{Size, window_size};

use super::build;
use super::context::Context;
use super::error::Error;
use super::pull::{self, Policy};
use super::streams::{self, Attachment};
use super::up;
use crate::compose::model::Project;
use crate::compose::{Loaded, dotenv, shell};
use crate::project::container::{discarded, unhonoured};
use crate::project::elements;
use crate::project::labels::Labels;
use crate::project::oneoff::{OneOff, Overrides};
use crate::project::plan::Named;
use crate::project::plan::up::Options;
use crate::ui::Ui;
use crate::ui::attach::{DETACH_KEYS, Keys};
use crate::ui::progress::Form;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose run --rm web sh
  rcompose run --rm --no-deps -e CI=1 web ./test --all")]
pub struct RunArgs {
    /// Build image before starting container
    #[arg(long)]
    build: bool,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the entrypoint of the image
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set environment variables from file
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    interactive: bool,
    /// Add or override a label
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Assign a name to the container
    #[arg(long)]
    name: Option<String>,
    /// Disable pseudo-TTY allocation (default: auto-detected)
    #[arg(short = 'T', long = "no-TTY", alias = "no-tty", conflicts_with = "tty")]
    no_tty: bool,
    /// Don't start linked services
    #[arg(long)]
    no_deps: bool,
    /// Publish a container's port(s) to the host
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Pull image before running
    #[arg(long, value_enum)]
    pull: Option<Policy>,
    /// Don't print anything to STDOUT
    #[arg(short, long)]
    quiet: bool,
    /// Suppress progress output from the build process
    #[arg(long)]
    quiet_build: bool,
    /// Pull without printing progress information
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    remove_orphans: bool,
    /// Automatically remove the container when it exits
    #[arg(long)]
    rm: bool,
    /// Run command with all service's ports enabled and mapped to the host
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Allocate a pseudo-TTY, which is done where there is a terminal
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Use the service's network aliases in the networks the container connects to
    #[arg(long)]
    use_aliases: bool,
    /// Run as specified username or uid
    #[arg(short, long)]
    user: Option<String>,
    /// Bind mount a volume
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    service: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl RunArgs {
    /// Returns whether the container gets a terminal.
    fn terminal(&self) -> Result<bool, Error> {
        let ours = io::stdout().is_terminal() && (!self.interactive || self.detach || io::stdin().is_terminal());
        if self.tty && self.interactive && !self.detach && !io::stdin().is_terminal() {
            return Err(Error::with_hint("the input device is not a TTY", "leave -t out, or use -T"));
        }
        Ok(!self.no_tty && (self.tty || ours))
    }
}

pub fn run(context: &Context, args: &RunArgs) -> Result<(), Error> {
    if args.quiet {
        let ui = Ui { form: Form::Quiet, ..context.ui };
        return begin(&Context::new(context.global.clone(), ui), args);
    }
    begin(context, args)
}

fn begin(context: &Context, args: &RunArgs) -> Result<(), Error> {
    if args.service_ports && !args.publish.is_empty() {
        return Err(Error::new("--service-ports and --publish are incompatible"));
    }
    let tty = args.terminal()?;
    let mut project = project(context, args, tty)?;
    let engine = Arc::new(context.engine(&project.name)?);
    context.refuse_elsewhere(&project, &engine.containers()?)?;
    engine.begin();
    let service = &project.services[&args.service];
    for sentence in unhonoured(&project, service).into_iter().chain(discarded(service)) {
        context.ui.warn(&sentence);
    }
    let options = Options {
        remove_orphans: args.remove_orphans,
        ignore_orphans: context.is_set("COMPOSE_IGNORE_ORPHANS"),
        one_off: Some(OneOff {
            service: args.service.clone(),
            slug: Id::random().as_str().to_owned(),
            name: args.name.clone(),
            use_aliases: args.use_aliases,
            auto_remove: args.rm,
            attached: args.interactive && !args.detach,
        }),
        ..Options::default()
    };
    context.block_on(async {
        up::provide(context, &mut project, &engine, false).await?;
        let project = project;
        build::provide(context, &engine, &project, args.build, args.quiet_build).await?;
        let mut images = pull::ensure(context, &engine, &project, args.pull, args.quiet_pull).await?;
        let plan = up::plan(context, &engine, &project, &images, &options)?;
        let Some(made) = plan.one_off() else { return Err(Error::new("there is no container to run")) };
        let container = Named::from(made);
        up::claim(context, &project, &engine, &plan).await?;
        context.apply_with(&engine, plan, "Running", images.hold.take(), None).await?;
        let client = engine.client().await?;
        if args.detach {
            client.start(&container.id).await.map_err(|error| not_started(context, error))?;
            return Ok(context.ui.out(&format!("{}\n", container.id))?);
        }
        let size = if tty { window_size(io::stdin()).ok().map(Size::rows_and_columns) } else { None };
        client.start_attended(&container.id, size).await.map_err(|error| not_started(context, error))?;
        let attachment = Attachment {
            id: &container.id,
            name: &container.name,
            tty,
            stdin: args.interactive,
            proxy: true,
            keys: Keys::parse(DETACH_KEYS).expect("these are keys"),
            auto_remove: args.rm,
            joins: false,
        };
        let outcome = streams::attend(&engine, attachment).await?;
        streams::exit(context, &container.name, &outcome)
    })
}

/// Says why the container could not be started, and returns Docker's exit code for that.
fn not_started(context: &Context, error: ClientError) -> Error {
    match error {
        ClientError::Failed(failure) => {
            context.ui.error(&failure.message, failure.hint.as_deref());
            match failure.kind {
                FailureKind::Start { code } => Error::Exit(u8::try_from(code).unwrap_or(1)),
                // The container could not be made as it is described.
                _ => Error::Exit(125),
            }
        }
        error => error.into(),
    }
}

/// Returns the service as the command line wants it, with what it depends on.
fn project(context: &Context, args: &RunArgs, tty: bool) -> Result<Project, Error> {
    let named = [args.service.clone()];
    let Loaded { mut project, resolved, .. } = context.load(&named)?;
    context.ui.diagnostics(&elements::unhonoured(&resolved));
    if args.no_deps {
        up::only(&mut project, &named);
    }
    let overrides = Overrides {
        command: args.command.clone(),
        entrypoint: match &args.entrypoint {
            Some(line) => Some(shell::split(line).map_err(Error::new)?),
            None => None,
        },
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
        environment: environment(args, &project)?,
        labels: labels(&args.label)?,
        cap_add: args.cap_add.clone(),
        cap_drop: args.cap_drop.clone(),
        volumes: args.volume.clone(),
        publish: (!args.service_ports).then(|| args.publish.clone()),
        tty,
        interactive: args.interactive,
    };
    let Some(service) = project.services.get_mut(&args.service) else {
        return Err(Error::no_such_service(&args.service, project.services.keys().map(String::as_str)));
    };
    overrides.apply(service, &std::env::current_dir()?).map_err(Error::new)?;
    Ok(project)
}

/// Returns the variables of the command line: those that were given, whose value may be ours, over those of files.
fn environment(args: &RunArgs, project: &Project) -> Result<BTreeMap<String, String>, Error> {
    let mut environment = BTreeMap::new();
    for variable in &args.env {
        match (variable.split_once('='), project.environment.get(variable)) {
            (Some((name, value)), _) => drop(environment.insert(name.to_owned(), value.to_owned())),
            (None, Some(value)) => drop(environment.insert(variable.clone(), value.clone())),
            // A variable without a value is none.
            (None, None) => {}
        }
    }
    for file in &args.env_from_file {
        for (name, value) in variables(file, &environment)? {
            environment.entry(name).or_insert(value);
        }
    }
    Ok(environment)
}

fn variables(file: &Path, known: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, Error> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::new(format!("cannot read the variables of {}: {error}", file.display())))?;
    let outer = |name: &str| known.get(name).cloned();
    let assignments = dotenv::parse(&text, &BTreeMap::new(), &outer, &mut |_, _| {})
        .map_err(|error| Error::new(format!("cannot read the variables of {}: {}", file.display(), error.message)))?;
    Ok(assignments.into_iter().map(|assignment| (assignment.key, assignment.value)).collect())
}

fn labels(given: &[String]) -> Result<Labels, Error> {
    let label = |text: &String| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    given
        .iter()
        .map(|text| label(text).ok_or_else(|| Error::new(format!("label must be set as KEY=VALUE: `{text}`"))))
        .collect()
}
