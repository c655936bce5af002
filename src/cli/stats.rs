//! `stats`: what the containers use.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use rcompose_engine::container::config::NetworkMode;
use rcompose_engine::container::stats::Sample;
use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use rcompose_engine::root::Root;
use rcompose_engine::shim;
use serde_json::{Value, json};

use super::context::{Context, Scope};
use super::error::{Error, INTERRUPTED};
use super::signals::Interrupts;
use crate::project::engine::Engine;
use crate::ui::format::{Column, Listing};
use crate::ui::human;

/// The time between two looks at the containers.
const INTERVAL: Duration = Duration::from_secs(1);
/// Likewise where only one result is wanted.
const ONCE: Duration = Duration::from_millis(250);

const COLUMNS: [Column; 9] = [
    ("BlockIO", "BLOCK I/O"),
    ("CPUPerc", "CPU %"),
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("MemPerc", "MEM %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("Name", "NAME"),
    ("NetIO", "NET I/O"),
    ("PIDs", "PIDS"),
];
const DEFAULT: [&str; 8] = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose stats --no-stream --format '{{.Name}}: {{.MemUsage}}'")]
pub struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output using a custom template: table, json, a Go template, or 'table TEMPLATE'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: String,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    service: Option<String>,
}

pub fn run(context: &Context, args: &StatsArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let mut before = look(&engine, &scope, args)?;
    if args.no_stream {
        std::thread::sleep(ONCE);
        let now = look(&engine, &scope, args)?;
        return Ok(context.ui.out(&render(args, &now, &before)?)?);
    }
    context.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let redraw = io::stdout().is_terminal() && args.format.trim().starts_with("table");
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = interrupts.next() => return Err(Error::Exit(INTERRUPTED)),
            }
            let now = look(&engine, &scope, args)?;
            let text = render(args, &now, &before)?;
            let text = if redraw { over(&text) } else { text };
            context.ui.out(&text)?;
            before = now;
        }
    })
}

/// Returns a table that is drawn over the one before, as far as the terminal has lines for it.
fn over(table: &str) -> String {
    let rows = console::Term::stdout().size_checked().map_or(usize::MAX, |(rows, _)| usize::from(rows));
    let lines = table.lines().take(rows.saturating_sub(1)).map(|line| format!("{line}\x1b[K\n"));
    format!("\x1b[H{}\x1b[J", lines.collect::<String>())
}

/// The containers at one moment, with what those that run have used.
type Look = Vec<(Container, Option<Sample>)>;

fn look(engine: &Engine, scope: &Scope, args: &StatsArgs) -> Result<Look, Error> {
    let containers = engine.containers()?;
    let chosen = scope.select_all(&containers, args.service.as_slice())?.into_iter();
    let shown = chosen.filter(|container| args.all || container.state.status.is_running());
    Ok(shown.map(|container| (container.clone(), sample(&engine.root, container))).collect())
}

fn sample(root: &Root, container: &Container) -> Option<Sample> {
    let pid = container.state.pid.filter(|_| container.state.status.is_running())?;
    let config = shim::read_config(&root.container(&container.config.id)).ok()?;
    Sample::take(&config.cgroup, pid, container.config.network != NetworkMode::Host)
}

fn render(args: &StatsArgs, now: &Look, before: &Look) -> Result<String, Error> {
    let before = before.iter().filter_map(|(container, sample)| Some((&container.config.id, sample.as_ref()?)));
    let before = before.collect::<BTreeMap<_, _>>();
    let rows = now.iter().map(|(container, sample)| row(args, container, sample.as_ref(), &before)).collect::<Vec<_>>();
    Ok(Listing { columns: &COLUMNS, default: &DEFAULT, rows: &rows, whole: args.no_trunc }.render(&args.format)?)
}

fn row(args: &StatsArgs, container: &Container, sample: Option<&Sample>, before: &BTreeMap<&Id, &Sample>) -> Value {
    let id = &container.config.id;
    let cpu = match (sample, before.get(id)) {
        (Some(sample), Some(before)) => sample.cpu_percent(before),
        _ => 0.0,
    };
    let (memory, limit) = sample.map_or((0, 0), |sample| (sample.memory, sample.memory_limit));
    #[expect(clippy::cast_precision_loss, reason = "two decimals of a percentage are printed")]
    let percent = if limit > 0 { memory as f64 / limit as f64 * 100.0 } else { 0.0 };
    let pair = |(first, second): (u64, u64)| format!("{} / {}", human::size(first), human::size(second));
    json!({
        "BlockIO": pair(sample.map_or((0, 0), |sample| sample.block)),
        "CPUPerc": format!("{cpu:.2}%"),
        "Container": id.as_str(),
        "ID": if args.no_trunc { id.as_str() } else { id.short() },
        "MemPerc": format!("{percent:.2}%"),
        "MemUsage": format!("{} / {}", human::binary_size(memory), human::binary_size(limit)),
        "Name": container.config.name,
        "NetIO": pair(sample.map_or((0, 0), |sample| sample.network)),
        "PIDs": sample.map_or(0, |sample| sample.pids).to_string(),
    })
}
