//! `autostart`: after a reboot, brings back the containers of all projects whose restart policy says so.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use rcompose_engine::container::store;

use super::context::Context;
use super::error::Error;
use crate::project::plan::autostart;

#[derive(Debug, Args)]
pub struct AutostartArgs {
    /// Print a systemd unit that runs this command at boot, and do nothing else
    #[arg(long)]
    print_unit: bool,
}

pub fn run(context: &Context, args: &AutostartArgs) -> Result<(), Error> {
    if args.print_unit {
        let program = std::env::current_exe()?;
        return Ok(context.ui.out(&unit(&program, context.global.root.as_deref()))?);
    }
    let root = context.root()?;
    let mut failed = Vec::new();
    for project in store::projects(&root)? {
        let engine = Arc::new(context.engine(&project)?);
        let plan = autostart::autostart(&engine.containers()?);
        if plan.is_empty() {
            continue;
        }
        // What is wrong with one project is no reason to leave the others down.
        match context.block_on(context.apply(&engine, plan, "Starting", true)) {
            Err(Error::Failed(messages)) => failed.extend(messages),
            done => done?,
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Failed(failed)) }
}

/// Returns the unit. What the command starts outlives it and is not the unit's to stop.
fn unit(program: &Path, root: Option<&Path>) -> String {
    let program = quoted(program);
    let root = root.map(|root| format!(" --root {}", quoted(root))).unwrap_or_default();
    format!(
        "[Unit]
Description=Containers of rcompose whose restart policy brings them back after a reboot
After=local-fs.target network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart={program}{root} autostart
RemainAfterExit=yes
KillMode=process

[Install]
WantedBy=multi-user.target
"
    )
}

/// Writes a path as a word of a unit's command line (`systemd.service(5)`, "Command lines").
fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for letter in path.to_string_lossy().chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            '%' | '$' => text.extend([letter, letter]),
            _ => text.push(letter),
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_this_program() {
        let unit = unit(Path::new("/opt/my tools/100%/rcompose"), Some(Path::new("/data")));
        assert!(unit.contains("\nExecStart=\"/opt/my tools/100%%/rcompose\" --root \"/data\" autostart\n"), "{unit}");
    }
}
