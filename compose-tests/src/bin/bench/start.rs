//! How soon a container's program runs: one with a network that is there already, and a bundle beside other runtimes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Side, row};

/// How the names of the rows begin.
pub(super) const START: &str = "container: ";

/// Its first instructions leave a trace on the host.
const PROJECT: &str = "services:
  first:
    image: busybox
    command: touch /seen/it
    volumes: ['./seen:/seen']
  beside: {image: busybox, command: sleep 100000}
";

/// What every runtime is given.
const BUNDLE: &str = "services:
  bundle: {image: busybox, command: 'true'}
";

/// How long a program may take to run until something is wrong.
const PATIENCE: Duration = Duration::from_mins(1);

/// Prints a row for each.
pub(super) fn measure(sides: &[Side<'_>], iterations: usize, others: &[String]) -> anyhow::Result<()> {
    first_instruction(sides, iterations)?;
    bundles(&sides[0], iterations, others)
}

/// From the command to what a created container's program does first.
fn first_instruction(sides: &[Side<'_>], iterations: usize) -> anyhow::Result<()> {
    let stack = sides[0].stack;
    stack.write("first.yaml", PROJECT);
    let seen = stack.project_folder().join("seen");
    fs::create_dir_all(&seen)?;
    let trace = seen.join("it");
    let mut times = vec![Vec::new(); sides.len()];
    for (side, times) in sides.iter().zip(&mut times) {
        // A project that is there has a network, and with us a process.
        side.time(&["-f", "first.yaml", "up", "-d", "beside"])?;
        for _ in 0..iterations {
            side.time(&["-f", "first.yaml", "create", "--force-recreate", "first"])?;
            let started = Instant::now();
            let mut child = side.quiet(&["-f", "first.yaml", "start", "first"]).spawn()?;
            while !trace.exists() {
                if started.elapsed() > PATIENCE {
                    bail!("{} did not start a container", side.name);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            times.push(started.elapsed());
            child.wait()?;
            fs::remove_file(&trace)?;
        }
        side.time(&["-f", "first.yaml", "down", "-t", "0"])?;
    }
    row(&format!("{START}start, until its program runs"), &mut times);
    engines_part(&sides[0], iterations)
}

/// Of that, what the engine takes from being asked until the container's PID 1 executes its program.
fn engines_part(ours: &Side<'_>, iterations: usize) -> anyhow::Result<()> {
    let trace = ours.stack.project_folder().join("trace.json");
    ours.time(&["-f", "first.yaml", "up", "-d", "beside"])?;
    let mut times = Vec::new();
    for _ in 0..iterations {
        ours.time(&["-f", "first.yaml", "create", "--force-recreate", "first"])?;
        ours.time(&["-f", "first.yaml", "up", "-d", "--trace", "trace.json", "first"])?;
        let trace: Value = serde_json::from_str(&fs::read_to_string(&trace)?)?;
        let steps = trace["traceEvents"].as_array().into_iter().flatten();
        let start = steps
            .filter(|step| step["name"].as_str().is_some_and(|name| name.starts_with("start ")))
            .find_map(|step| step["dur"].as_u64());
        times.push(Duration::from_micros(start.context("nothing was started")?));
    }
    ours.time(&["-f", "first.yaml", "down", "-t", "0"])?;
    row(&format!("{START}of that, from the engine being asked until PID 1 has executed it"), &mut [times]);
    Ok(())
}

/// A bundle to its end, by our front door and by other runtimes.
fn bundles(ours: &Side<'_>, iterations: usize, others: &[String]) -> anyhow::Result<()> {
    let stack = ours.stack;
    stack.write("bundle.yaml", BUNDLE);
    ours.time(&["-f", "bundle.yaml", "create"])?;
    ours.time(&["-f", "bundle.yaml", "export", "--bundle", "bundle", "bundle"])?;
    let bundle = stack.project_folder().join("bundle");
    let others = others.iter().filter_map(|name| Some((name.as_str(), program(name)?))).collect::<Vec<_>>();
    let mut times = vec![Vec::new(); 1 + others.len()];
    for round in 0..iterations {
        let id = format!("{}-{round}", stack.project);
        times[0].push(run(ours.quiet(&["oci"]), &bundle, &id)?);
        for ((name, path), times) in others.iter().zip(&mut times[1..]) {
            let mut command = Command::new(path);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            times.push(run(command, &bundle, &id).with_context(|| (*name).to_owned())?);
        }
    }
    // Its own files, such as `/etc/hosts`, are the container's.
    ours.time(&["-f", "bundle.yaml", "down", "-t", "0"])?;
    let (own, theirs) = times.split_at_mut(1);
    row(&format!("{START}a bundle that runs true, by rcompose oci"), own);
    for ((name, _), times) in others.iter().zip(theirs) {
        row(&format!("{START}the same by {name}"), std::slice::from_mut(times));
    }
    Ok(())
}

fn run(mut runtime: Command, bundle: &Path, id: &str) -> anyhow::Result<Duration> {
    runtime.args(["run", "-b"]).arg(bundle).arg(id);
    let started = Instant::now();
    let status = runtime.status()?;
    let took = started.elapsed();
    if !status.success() {
        bail!("{runtime:?} ended with {status}");
    }
    Ok(took)
}

/// Finds a program as a shell does.
fn program(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}
