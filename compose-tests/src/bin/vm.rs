//! `vm prepare` makes the virtual machine; `vm run` runs tests in it; `vm shell` runs one script in it.

#![expect(clippy::print_stderr, reason = "a command line program")]

use std::{
    env,
    io::{self, Write},
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use compose_tests::vm::{
    guest::Guest,
    machine::{Hardware, Machine, Output},
    payload::{self, Payload, Wanted},
    power,
};

/// How often the power is cut where nobody says.
const CUTS: usize = 12;
/// How long a script may take. What hangs in the virtual machine is to be found by the deadlines of the tests.
const LIMIT: Duration = Duration::from_hours(3);

const USAGE: &str = "usage: vm prepare
       vm run [TEST…]
       vm shell SCRIPT

prepare  makes the virtual machine, if it is not in the cache
run      runs tests in it: PROGRAM[:FILTER…] (a test program of the workspace), reboot, power-cut[:COUNT]; all of them
         where none is named
shell    runs a shell script in it";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("prepare") if arguments.len() == 1 => prepare(),
        Some("run") => prepare_apart().and_then(|()| run(&arguments[1..])),
        Some("shell") if arguments.len() == 2 => prepare_apart().and_then(|()| shell(&arguments[1])),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("vm: {error:#}");
        ExitCode::FAILURE
    })
}

fn prepare() -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    Guest::make(&|line| eprintln!("vm: {line}"))?;
    eprintln!("vm: ready after {:.1} s", started.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Makes the guest in a process of its own, since that takes a mount namespace.
fn prepare_apart() -> anyhow::Result<()> {
    let status = Command::new(env::current_exe()?).arg("prepare").status().context("cannot run this program itself")?;
    if !status.success() {
        bail!("vm prepare ended with {status}");
    }
    Ok(())
}

fn shell(script: &str) -> anyhow::Result<ExitCode> {
    let folder = working_folder()?;
    let payload = payload::make(folder.path(), &Wanted::Named(Vec::new()))?;
    let mut machine = boot(folder.path(), &payload)?;
    Ok(ExitCode::from(u8::try_from(show(&mut machine, script)?.code).unwrap_or(1)))
}

/// Something that can be asked for.
#[derive(Debug)]
enum Asked<'a> {
    Program { name: &'a str, filters: Vec<&'a str> },
    PowerCut { count: usize },
    Reboot,
}

impl<'a> Asked<'a> {
    fn parse(word: &'a str) -> anyhow::Result<Asked<'a>> {
        let mut parts = word.split(':');
        let name = parts.next().unwrap_or(word);
        Ok(match name {
            "power-cut" => Asked::PowerCut {
                count: match parts.next() {
                    Some(count) => count.parse().with_context(|| format!("{count} is not a number of power cuts"))?,
                    None => CUTS,
                },
            },
            "reboot" => Asked::Reboot,
            _ => Asked::Program { name, filters: parts.collect() },
        })
    }
}

/// Runs what was asked for, or everything.
fn run(words: &[String]) -> anyhow::Result<ExitCode> {
    let mut asked = words.iter().map(|word| Asked::parse(word)).collect::<anyhow::Result<Vec<_>>>()?;
    let folder = working_folder()?;
    let all = words.is_empty();
    let named = asked.iter().filter_map(|asked| match asked {
        Asked::Program { name, .. } => Some(*name),
        _ => None,
    });
    let wanted = if all { Wanted::All } else { Wanted::Named(named.collect()) };
    let payload = payload::make(folder.path(), &wanted)?;
    if all {
        let programs = payload.tests.iter().filter_map(|test| Some((&test.name, test.for_machines()?)));
        asked.extend(programs.map(|(name, filters)| Asked::Program { name, filters: filters.to_vec() }));
        asked.extend([Asked::Reboot, Asked::PowerCut { count: CUTS }]);
    }
    let guest = Guest::make(&|_| ())?;
    let mut machine = None;
    let mut failed = Vec::new();
    for asked in asked {
        let started = Instant::now();
        let (name, result) = match &asked {
            Asked::Program { name, filters } => {
                if !payload.tests.iter().any(|test| test.name == *name) {
                    bail!("there is no test program {name}");
                }
                if machine.is_none() {
                    machine = Some(boot(folder.path(), &payload)?);
                }
                let machine = machine.as_mut().expect("it was just booted");
                (*name, run_program(machine, name, filters))
            }
            Asked::PowerCut { count } => {
                machine = None;
                let say = |line: &str| eprintln!("vm: {line}");
                ("power-cut", power::cuts(&guest, &payload, folder.path(), *count, &say))
            }
            Asked::Reboot => {
                machine = None;
                ("reboot", power::reboot(&guest, &payload, folder.path()))
            }
        };
        let outcome = result.as_ref().map_or_else(|error| format!("failed: {error:#}"), |()| "ok".to_owned());
        eprintln!("vm: {name} after {:.0} s: {outcome}", started.elapsed().as_secs_f64());
        if result.is_err() {
            failed.push(name.to_owned());
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("vm: failed: {}", failed.join(" "));
    Ok(ExitCode::FAILURE)
}

/// Runs a test program, of which no test may be skipped: the machine has what a host may lack.
fn run_program(machine: &mut Machine, name: &str, filters: &[&str]) -> anyhow::Result<()> {
    let options = if name == "cases" { "" } else { "--test-threads 1 --show-output" };
    let filters = filters.join(" ");
    let variables = "RCOMPOSE_TEST_CACHE=/payload/cache RCOMPOSE_BIN=/payload/bin/rcompose";
    let output = show(machine, &format!("cd /tmp && {variables} /payload/bin/{name} {options} {filters}"))?;
    if output.code != 0 {
        bail!("it ended with {}", output.code);
    }
    let skipped: Vec<&str> = output.text.lines().filter(|line| line.starts_with("skipped")).collect();
    if !skipped.is_empty() {
        bail!("not everything was tested: {}", skipped.join("; "));
    }
    Ok(())
}

fn working_folder() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("rct-vm-").tempdir().context("cannot make a temporary folder")
}

fn boot(folder: &Path, payload: &Payload) -> anyhow::Result<Machine> {
    let guest = Guest::make(&|_| ())?;
    let started = Instant::now();
    let machine = Machine::boot(&guest, &Hardware::new(payload), folder)?;
    eprintln!("vm: booted after {:.1} s", started.elapsed().as_secs_f64());
    Ok(machine)
}

/// Runs a script with its output on standard output.
fn show(machine: &mut Machine, script: &str) -> anyhow::Result<Output> {
    let mut out = io::stdout();
    let mut text = Vec::new();
    let code = machine.run_showing(script, LIMIT, &mut |bytes| {
        // Nobody may be reading any more; the exit code still counts.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
        text.extend_from_slice(bytes);
    })?;
    Ok(Output { code, text: String::from_utf8_lossy(&text).into_owned() })
}
