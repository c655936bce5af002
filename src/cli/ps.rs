//! `ps`: the containers of the project.

use std::collections::BTreeMap;

use clap::Args;
use rcompose_engine::container::config::{MountSource, NetworkMode};
use rcompose_engine::container::state::{ContainerState, HealthStatus, Status};
use rcompose_engine::container::store::Container;
use serde::Serialize;

use super::context::Context;
use super::error::Error;
use crate::project::labels::{Labelled as _, PROJECT};
use crate::project::plan::lifecycle;
use crate::ui::diagnostics::tame;
use crate::ui::format::{Column, Listing};
use crate::ui::ports::{self, Port};
use crate::ui::{human, lines};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose ps -a
  rcompose ps --status exited --format json
  rcompose ps --format '{{.Name}}: {{.Status}}'")]
pub struct PsArgs {
    /// Show all stopped containers (including those created by the run command)
    #[arg(short, long)]
    all: bool,
    /// Filter services by a property (supported filters: status)
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Format output: table, json, a Go template, or 'table' and a template
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: String,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Include orphaned services (not declared by project)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    orphans: bool,
    /// Only display IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display services
    #[arg(long)]
    services: bool,
    /// Filter services by status: paused, restarting, removing, running, dead, created, exited
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,
}

pub fn run(context: &Context, args: &PsArgs) -> Result<(), Error> {
    let mut statuses = args.status.clone();
    match args.filter.as_deref().map(|filter| filter.split_once('=')) {
        None => {}
        Some(Some(("status", status))) => statuses.push(status.to_owned()),
        Some(Some(("source", _))) => return Err(Error::new("source filter is not supported")),
        Some(_) => {
            return Err(Error::new("arguments to --filter should be in form KEY=VAL, and only status is known"));
        }
    }
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = engine.containers()?;
    let mut chosen = scope.select(&containers, &args.names)?;
    if args.all && args.names.is_empty() {
        // What ran for a hook of a service is none of its containers.
        chosen = containers.iter().filter(|container| !container.is_hook()).collect();
    }
    let declared = |container: &&Container| {
        args.orphans || scope.project.as_ref().is_none_or(|project| project.services.contains_key(container.service()))
    };
    chosen.retain(declared);
    // Whoever asks for a state wants to see it.
    chosen.retain(|container| args.all || !statuses.is_empty() || lifecycle::is_active(container));
    chosen.retain(|container| {
        statuses.is_empty() || statuses.iter().any(|status| status == container.state.status.as_str())
    });
    chosen.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    let text = if args.quiet {
        lines(chosen.iter().map(|container| &container.config.id))
    } else if args.services {
        let mut services = Vec::new();
        for container in &chosen {
            if !services.contains(&container.service()) {
                services.push(container.service());
            }
        }
        lines(services)
    } else {
        show(&chosen, args, jiff::Timestamp::now())?
    };
    Ok(context.ui.out(&text)?)
}

/// Every field of [`Json`], and its heading in a table.
const COLUMNS: [Column; 19] = [
    ("Name", "NAME"),
    ("Names", "NAMES"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("Project", "PROJECT"),
    ("Service", "SERVICE"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Health", "HEALTH"),
    ("ExitCode", "EXIT CODE"),
    ("Ports", "PORTS"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("Size", "SIZE"),
];
const DEFAULT: [&str; 7] = ["Name", "Image", "Command", "Service", "RunningFor", "Status", "Ports"];

fn show(containers: &[&Container], args: &PsArgs, now: jiff::Timestamp) -> Result<String, Error> {
    let row = |container: &&Container| {
        serde_json::to_value(Json::new(container, args.no_trunc, now))
            .expect("a structure of texts and numbers always serialises")
    };
    let rows = containers.iter().map(row).collect::<Vec<_>>();
    let format = if args.format == "pretty" { "table" } else { &args.format };
    Ok(Listing { columns: &COLUMNS, default: &DEFAULT, rows: &rows, whole: args.no_trunc }.render(format)?)
}

/// Returns the command in quotes, cut to twenty characters unless all of it is wanted.
pub fn command(container: &Container, whole: bool) -> String {
    let config = &container.config;
    let words = config.entrypoint.iter().chain(&config.command).flatten();
    // As Docker has it: the program as it is, and arguments with blanks in quotes.
    let quoted = |(n, word): (usize, &String)| {
        if word.contains(' ') && n > 0 { format!("'{word}'") } else { word.clone() }
    };
    let command = tame(&words.enumerate().map(quoted).collect::<Vec<_>>().join(" ")).replace('\n', "\\n");
    if whole || command.chars().count() <= 20 {
        return format!("\"{command}\"");
    }
    let cut = command.chars().take(19).collect::<String>();
    format!("\"{cut}…\"")
}

/// Returns the state in Docker's words.
pub fn status(state: &ContainerState, now: jiff::Timestamp) -> String {
    let ago = |then: Option<jiff::Timestamp>| human::since(then.unwrap_or(now), now);
    match state.status {
        Status::Running => {
            let up = format!("Up {}", ago(state.started_at));
            match state.health.as_ref().map(|health| health.status) {
                None => up,
                Some(HealthStatus::Starting) => format!("{up} (health: starting)"),
                Some(health) => format!("{up} ({})", health.as_str()),
            }
        }
        Status::Paused => format!("Up {} (Paused)", ago(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Created => "Created".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished_at)),
    }
}

/// Returns the ports of a running container: those that are published, and those that are only declared.
fn published(container: &Container) -> Vec<Port> {
    let networked = matches!(container.config.network, NetworkMode::Networks(_));
    if !container.state.status.is_running() || !networked {
        return Vec::new();
    }
    let bound = container.state.ports.iter().map(|port| Port {
        container: port.container_port,
        host: Some((port.host_ip, port.host_port)),
        protocol: port.protocol.as_str().to_owned(),
    });
    let mut ports = bound.collect::<Vec<_>>();
    for declared in &container.config.expose {
        let (range, protocol) = declared.split_once('/').unwrap_or((declared, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { continue };
        for number in first..=last {
            if !ports.iter().any(|port| port.container == number && port.protocol == protocol) {
                ports.push(Port { container: number, host: None, protocol: protocol.to_owned() });
            }
        }
    }
    ports.sort();
    ports
}

/// A container as `--format json` shows it, with Docker Compose's keys in its order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Json<'a> {
    command: String,
    created_at: String,
    exit_code: i32,
    health: &'static str,
    #[serde(rename = "ID")]
    id: &'a str,
    image: &'a str,
    /// For templates alone (`format::LABEL`).
    label: &'a BTreeMap<String, String>,
    labels: String,
    local_volumes: String,
    mounts: String,
    name: &'a str,
    names: &'a str,
    networks: String,
    ports: String,
    project: &'a str,
    publishers: Vec<Publisher>,
    running_for: String,
    service: &'a str,
    size: &'static str,
    state: &'static str,
    status: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Publisher {
    #[serde(rename = "URL")]
    url: String,
    target_port: u16,
    published_port: u16,
    protocol: String,
}

impl<'a> Json<'a> {
    fn new(container: &'a Container, whole: bool, now: jiff::Timestamp) -> Self {
        let (config, state) = (&container.config, &container.state);
        let ports = published(container);
        let mounts = config.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } => Some(name.clone()),
            MountSource::Bind { source, .. } => Some(source.display().to_string()),
            MountSource::Tmpfs { .. } | MountSource::Image { .. } | MountSource::File { .. } => None,
        });
        // Docker cuts these at fifteen characters.
        let short = |name: String| match name.chars().count() {
            16.. if !whole => format!("{}…", name.chars().take(14).collect::<String>()),
            _ => name,
        };
        let volumes = config.mounts.iter().filter(|mount| matches!(mount.source, MountSource::Volume { .. }));
        let networks = match &config.network {
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Host => "host".to_owned(),
            NetworkMode::Container(_) => String::new(),
            NetworkMode::Networks(endpoints) => {
                endpoints.iter().map(|endpoint| endpoint.network.as_str()).collect::<Vec<_>>().join(",")
            }
        };
        let labels = config.labels.iter().map(|(name, value)| format!("{name}={value}"));
        Self {
            command: command(container, whole),
            created_at: config.created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
            exit_code: state.exit_code,
            health: state.health.as_ref().map_or("", |health| health.status.as_str()),
            id: if whole { config.id.as_str() } else { config.id.short() },
            image: &config.image,
            label: &config.labels,
            labels: labels.collect::<Vec<_>>().join(","),
            local_volumes: volumes.count().to_string(),
            mounts: mounts.map(short).collect::<Vec<_>>().join(","),
            name: &config.name,
            names: &config.name,
            networks,
            ports: ports::display(&ports),
            project: container.label(PROJECT).unwrap_or_default(),
            publishers: ports.into_iter().map(Publisher::from).collect(),
            running_for: format!("{} ago", human::since(config.created, now)),
            service: container.service(),
            size: "0B",
            state: state.status.as_str(),
            status: status(state, now),
        }
    }
}

impl From<Port> for Publisher {
    fn from(port: Port) -> Self {
        Self {
            url: port.host.map(|(address, _)| address.to_string()).unwrap_or_default(),
            target_port: port.container,
            published_port: port.host.map_or(0, |(_, port)| port),
            protocol: port.protocol,
        }
    }
}
