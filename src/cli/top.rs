//! `top`: the processes in the containers.

use std::collections::BTreeMap;
use std::fs;

use clap::Args;
use jiff::tz::TimeZone;
use rcompose_engine::container::processes::{self, Process};
use rcompose_engine::container::stats;
use rcompose_engine::container::store::Container;
use rcompose_engine::protocol::EventKind;
use rcompose_engine::shim;

use super::context::Context;
use super::error::Error;
use crate::project::labels::Labelled as _;
use crate::ui::table;

#[derive(Debug, Args)]
pub struct TopArgs {
    services: Vec<String>,
}

const HEADER: [&str; 10] = ["SERVICE", "#", "UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

pub fn run(context: &Context, args: &TopArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = engine.containers()?;
    let mut chosen = scope.select_all(&containers, &args.services)?;
    chosen.retain(|container| container.state.status.is_running());
    chosen.sort_by_key(|container| (container.service().to_owned(), container.is_oneoff(), container.number()));
    let (users, zone) = (users(), TimeZone::system());
    let now = jiff::Timestamp::now().to_zoned(zone.clone());
    let mut rows = Vec::new();
    for container in chosen {
        // One that ends at this moment has no processes.
        let Ok(config) = shim::read_config(&engine.root.container(&container.config.id)) else { continue };
        let processes = stats::pids(&config.cgroup).into_iter().filter_map(processes::read);
        rows.extend(processes.map(|process| row(container, &process, &users, &now)));
        context.report(&engine, &container.config.id, EventKind::Top)?;
    }
    if rows.is_empty() {
        return Ok(());
    }
    Ok(context.ui.out(&table::render(table::TOP, &HEADER, &rows))?)
}

fn row(container: &Container, process: &Process, users: &BTreeMap<u32, String>, now: &jiff::Zoned) -> Vec<String> {
    let number = if container.is_oneoff() { String::new() } else { container.number().to_string() };
    let started = process.started.to_zoned(now.time_zone().clone());
    let started = if started.date() == now.date() {
        started.strftime("%H:%M").to_string()
    } else if started.year() == now.year() {
        started.strftime("%b%d").to_string()
    } else {
        started.strftime("%Y").to_string()
    };
    let (days, seconds) = (process.seconds / 86_400, process.seconds % 86_400);
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    vec![
        container.service().to_owned(),
        number,
        users.get(&process.uid).cloned().unwrap_or_else(|| process.uid.to_string()),
        process.pid.to_string(),
        process.parent.to_string(),
        process.utilization.to_string(),
        started,
        process.terminal.clone(),
        if days > 0 { format!("{days}-{time}") } else { time },
        process.command.clone(),
    ]
}

/// Returns the names of this host's users.
fn users() -> BTreeMap<u32, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // Of several names of one number the first is the usual one.
    text.lines().rev().filter_map(user).collect()
}
