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
    machine::{Hardware, Machine},
    payload::{self, Payload, Program},
};

/// How long a script may take. What hangs in the virtual machine is to be found by the deadlines of the tests.
const LIMIT: Duration = Duration::from_hours(3);

const USAGE: &str = "usage: vm prepare
       vm run [PROGRAM[:FILTER…]…]
       vm shell SCRIPT";

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
    let payload = payload::make(folder.path(), &Program::is_of_engine)?;
    let mut machine = boot(folder.path(), &payload)?;
    Ok(ExitCode::from(u8::try_from(show(&mut machine, script)?).unwrap_or(1)))
}

/// Runs test programs, each with the filters it was given; without any, those of the engine and the cases.
fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let wanted = |program: &Program| match arguments {
        [] => program.is_of_engine() || program.name == "cases",
        _ => arguments.iter().any(|argument| program_of(argument) == program.name),
    };
    let folder = working_folder()?;
    let payload = payload::make(folder.path(), &wanted)?;
    if let Some(unknown) =
        arguments.iter().find(|argument| !payload.tests.iter().any(|test| test.name == program_of(argument)))
    {
        bail!("there is no test program {}", program_of(unknown));
    }
    let mut machine = boot(folder.path(), &payload)?;
    let mut failed = Vec::new();
    for test in &payload.tests {
        let filters: Vec<&str> = arguments
            .iter()
            .filter(|argument| program_of(argument) == test.name)
            .flat_map(|argument| argument.split(':').skip(1))
            .collect();
        let threads = if test.name == "cases" { "" } else { "--test-threads 1" };
        eprintln!("vm: {} {}", test.name, filters.join(" "));
        let started = Instant::now();
        let script = format!(
            "cd /tmp && RCOMPOSE_TEST_CACHE=/payload/cache RCOMPOSE_BIN=/payload/bin/rcompose /payload/bin/{} {threads} {}",
            test.name,
            filters.join(" ")
        );
        let code = show(&mut machine, &script)?;
        eprintln!("vm: {} ended with {code} after {:.0} s", test.name, started.elapsed().as_secs_f64());
        if code != 0 {
            failed.push(&*test.name);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("vm: failed: {}", failed.join(" "));
    Ok(ExitCode::FAILURE)
}

fn program_of(argument: &str) -> &str {
    argument.split(':').next().unwrap_or(argument)
}

fn working_folder() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("rct-vm-").tempdir().context("cannot make a temporary folder")
}

fn boot(folder: &Path, payload: &Payload) -> anyhow::Result<Machine> {
    let guest = Guest::make(&|_| ())?;
    let hardware = Hardware { payload: payload.disk.clone(), data: None, memory_mb: 2048 };
    let started = Instant::now();
    let machine = Machine::boot(&guest, &hardware, folder)?;
    eprintln!("vm: booted after {:.1} s", started.elapsed().as_secs_f64());
    Ok(machine)
}

/// Runs a script with its output on standard output.
fn show(machine: &mut Machine, script: &str) -> anyhow::Result<i32> {
    let mut out = io::stdout();
    machine.run_showing(script, LIMIT, &mut |bytes| {
        // Nobody may be reading any more; the exit code still counts.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    })
}
