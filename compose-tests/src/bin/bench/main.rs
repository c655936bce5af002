//! The same work on rcompose and, where it is there, Docker Compose, interleaved in one run; prints a table.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod build;
mod network;
mod pull;
mod start;
mod watch;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use compose_tests::{process, stack::Stack};

const USAGE: &str = "usage: bench [--only TEXT] [--iterations N] [--docker COMMAND | --no-docker]

--only TEXT        only what has TEXT in its name
--iterations N     how often each thing is measured (default 7; slow ones a third of it)
--docker COMMAND   how to call Docker Compose (default: docker compose); its engine needs the image busybox
--no-docker        rcompose alone
--runtime NAME     another OCI runtime to run a bundle by (default: crun and runc, where they are)";

/// What is measured of pulls.
const PULL: &str = "pull, 200 MB in 5 layers";

/// How the names of all rows about networks begin.
const TRAFFIC: &str = "network traffic: ";
const MANY_NETWORKS: &str = "many networks: ";
const NETWORK_COSTS: &str = "network: its part of ";

/// What the command line asked for.
struct Options {
    only: Option<String>,
    iterations: usize,
    docker: Option<Vec<String>>,
    runtimes: Vec<String>,
}

fn main() -> ExitCode {
    let options = match parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("bench: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let default = vec!["docker".to_owned(), "compose".to_owned()];
    let mut options = Options { only: None, iterations: 7, docker: Some(default), runtimes: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => options.only = Some(value()?),
            "--iterations" => options.iterations = value()?.parse().context("--iterations needs a number")?,
            "--docker" => options.docker = Some(value()?.split_whitespace().map(str::to_owned).collect()),
            "--no-docker" => options.docker = None,
            "--runtime" => options.runtimes.push(value()?),
            other => bail!("unknown argument {other}"),
        }
    }
    if options.runtimes.is_empty() {
        options.runtimes = ["crun", "runc"].map(str::to_owned).to_vec();
    }
    Ok(options)
}

/// One of the two programs, with everything it needs to know before its arguments.
struct Side<'a> {
    name: &'static str,
    stack: &'a Stack,
    docker: Option<&'a [String]>,
}

impl Side<'_> {
    /// Returns a command in the project's folder.
    fn command(&self, arguments: &[&str]) -> Command {
        match self.docker {
            None => self.stack.command(arguments),
            Some(words) => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).args(arguments).current_dir(self.stack.project_folder());
                command.env("COMPOSE_PROJECT_NAME", &self.stack.project);
                command
            }
        }
    }

    /// Likewise, with nothing to read and nobody who listens.
    fn quiet(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs one command to its end and returns how long it took.
    fn time(&self, arguments: &[&str]) -> anyhow::Result<Duration> {
        let mut command = self.command(arguments);
        let log = self.stack.project_folder().join("stderr");
        let stderr = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(fs::File::create(self.stdout())?).stderr(stderr);
        let started = Instant::now();
        let status = command.status().with_context(|| format!("cannot run {}", self.name))?;
        let took = started.elapsed();
        if !status.success() {
            bail!("{} {} ended with {status}: {}", self.name, arguments.join(" "), fs::read_to_string(&log)?);
        }
        Ok(took)
    }

    /// Returns where the output of the last command is.
    fn stdout(&self) -> PathBuf {
        self.stack.project_folder().join("stdout")
    }

    /// Returns the proportional set size of everything of this program, in KiB, some seconds after what it did last.
    fn memory_at_rest(&self) -> u64 {
        std::thread::sleep(Duration::from_secs(3));
        let pids: Vec<i32> = if self.docker.is_none() {
            self.stack.own_processes().iter().map(|process| process.pid).collect()
        } else {
            const NAMES: [&str; 5] = ["dockerd", "containerd", "containerd-shim", "docker-proxy", "docker-init"];
            let is_docker = |pid: &i32| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                NAMES.iter().any(|known| name.trim_end().starts_with(known))
            };
            process::pids().into_iter().filter(is_docker).collect()
        };
        pids.into_iter().filter_map(process::pss).sum()
    }
}

/// Something to measure: gets things ready, does the measured part, clears up.
struct Scenario {
    name: String,
    /// Whether one round takes seconds.
    slow: bool,
    setup: Vec<Vec<&'static str>>,
    /// Commands, one after another.
    measured: Vec<Vec<&'static str>>,
    /// How many lines the last of them must print.
    lines: Option<usize>,
    teardown: Vec<Vec<&'static str>>,
}

/// How many lines a container writes.
const LINES: usize = 1_000_000;

fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let down = |file| vec!["-f", file, "down", "-t", "0"];
    for (count, file) in [(1, "s1.yaml"), (10, "s10.yaml"), (50, "s50.yaml")] {
        all.push(Scenario {
            name: format!("up -d, {count} services"),
            slow: count == 50,
            setup: vec![],
            measured: vec![vec!["-f", file, "up", "-d"]],
            lines: None,
            teardown: vec![down(file)],
        });
        all.push(Scenario {
            name: format!("down -t 0, {count} services"),
            slow: count == 50,
            setup: vec![vec!["-f", file, "up", "-d"]],
            measured: vec![down(file)],
            lines: None,
            teardown: vec![],
        });
    }
    all.push(Scenario {
        name: "down, 10 services that cannot get the signal".to_owned(),
        slow: true,
        setup: vec![vec!["-f", "s10.yaml", "up", "-d"]],
        measured: vec![vec!["-f", "s10.yaml", "down"]],
        lines: None,
        teardown: vec![],
    });
    all.push(Scenario {
        name: "restart -t 0, 50 services".to_owned(),
        slow: true,
        setup: vec![vec!["-f", "s50.yaml", "up", "-d"]],
        measured: vec![vec!["-f", "s50.yaml", "restart", "-t", "0"]],
        lines: None,
        teardown: vec![down("s50.yaml")],
    });
    all.push(Scenario {
        name: "up -d, chain of 5 service_healthy".to_owned(),
        slow: true,
        setup: vec![],
        measured: vec![vec!["-f", "chain.yaml", "up", "-d"]],
        lines: None,
        teardown: vec![down("chain.yaml")],
    });
    for (name, measured) in [
        ("up -d with nothing to do, 10 services", vec!["-f", "s10.yaml", "up", "-d"]),
        ("exec true", vec!["-f", "s10.yaml", "exec", "-T", "s0", "true"]),
        ("run --rm true", vec!["-f", "s10.yaml", "run", "--rm", "-T", "s0", "true"]),
        ("ps, 10 services", vec!["-f", "s10.yaml", "ps"]),
        ("logs --tail 10, 10 services", vec!["-f", "s10.yaml", "logs", "--tail", "10"]),
    ] {
        all.push(Scenario {
            name: name.to_owned(),
            slow: false,
            setup: vec![vec!["-f", "s10.yaml", "up", "-d"]],
            measured: vec![measured],
            lines: None,
            teardown: vec![],
        });
    }
    let written = [vec!["-f", "lines.yaml", "up", "-d"], vec!["-f", "lines.yaml", "wait", "lines"]];
    all.push(Scenario {
        name: "a container that writes 1,000,000 lines, to its end".to_owned(),
        slow: true,
        setup: vec![],
        measured: written.to_vec(),
        lines: None,
        teardown: vec![down("lines.yaml")],
    });
    all.push(Scenario {
        name: "logs of 1,000,000 lines".to_owned(),
        slow: true,
        setup: written.to_vec(),
        measured: vec![vec!["-f", "lines.yaml", "logs", "lines"]],
        lines: Some(LINES),
        teardown: vec![down("lines.yaml")],
    });
    for (count, file) in [(10, "s10.yaml"), (100, "s100.yaml"), (1_000, "s1000.yaml")] {
        all.push(Scenario {
            name: format!("config, {count} services"),
            slow: false,
            setup: vec![],
            measured: vec![vec!["-f", file, "config"]],
            lines: None,
            teardown: vec![],
        });
    }
    all
}

fn run(options: &Options) -> anyhow::Result<()> {
    let stack = Stack::on_host("bench");
    for count in [1, 10, 50, 100, 1_000] {
        stack.write(&format!("s{count}.yaml"), &services(count));
    }
    stack.write("chain.yaml", &chain(5));
    let lines = format!("services:\n  lines:\n    image: busybox\n    command: seq {LINES}\n");
    stack.write("lines.yaml", &lines);
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let docker = options.docker.as_deref().filter(|words| has_docker(words));
    if options.docker.is_some() && docker.is_none() {
        eprintln!("bench: no Docker Compose with an engine and the image busybox here; measuring rcompose alone");
    }
    let mut sides = vec![Side { name: "rcompose", stack: &stack, docker: None }];
    sides.extend(docker.map(|words| Side { name: "Docker Compose", stack: &stack, docker: Some(words) }));
    // The image, and everything that only the first run does.
    for side in &sides {
        side.time(&["-f", "s1.yaml", "up", "-d"])?;
        side.time(&["-f", "s1.yaml", "down", "-t", "0"])?;
    }

    println!("| what | {} |", heading(&sides));
    println!("|---|{}", "---|".repeat(if sides.len() > 1 { 3 } else { 1 }));
    for scenario in scenarios().iter().filter(|scenario| wanted(&scenario.name)) {
        let rounds = if scenario.slow { options.iterations.div_ceil(3) } else { options.iterations };
        let mut times = vec![Vec::new(); sides.len()];
        for _ in 0..rounds {
            for (side, times) in sides.iter().zip(&mut times) {
                for arguments in &scenario.setup {
                    side.time(arguments)?;
                }
                let took = scenario.measured.iter().map(|arguments| side.time(arguments)).sum::<anyhow::Result<_>>()?;
                times.push(took);
                if let Some(wanted) = scenario.lines {
                    let printed = fs::read(side.stdout())?.split(|byte| *byte == b'\n').count() - 1;
                    if printed != wanted {
                        bail!("{} printed {printed} lines instead of {wanted}: {}", side.name, scenario.name);
                    }
                }
                for arguments in &scenario.teardown {
                    side.time(arguments)?;
                }
            }
        }
        row(&scenario.name, &mut times);
        for side in &sides {
            side.time(&["-f", "s10.yaml", "down", "-t", "0", "--remove-orphans"])?;
        }
    }
    if wanted(start::START) {
        start::measure(&sides, options.iterations, &options.runtimes)?;
    }
    if wanted(PULL) {
        pulls(&sides, options.iterations)?;
    }
    if wanted(build::BUILD) {
        build::measure(&sides, options.iterations)?;
    }
    if wanted(watch::WATCH) {
        watch::measure(&sides, options.iterations)?;
    }
    if wanted(TRAFFIC) {
        traffic(&sides, options.iterations)?;
    }
    if wanted(MANY_NETWORKS) {
        many_networks(&sides[0])?;
    }
    if wanted(NETWORK_COSTS) {
        network_costs(&sides, options.iterations)?;
    }
    if wanted("memory") {
        memory(&sides)?;
    }
    stack.finish();
    Ok(())
}

/// Pulls into stores that have nothing of the image yet, beside what decompression alone costs.
fn pulls(sides: &[Side<'_>], iterations: usize) -> anyhow::Result<()> {
    let served = pull::Served::new(5, 40)?;
    let stack = sides[0].stack;
    stack.write("pull.yaml", &served.project());
    let (mut alone, mut least) = (Vec::new(), Vec::new());
    let mut times = vec![Vec::new(); sides.len()];
    // Stores are kept to the end: ext4 looks at every inode that was deleted within the last seconds before it takes
    // another one, so that clearing up would be paid for by what is measured next.
    let mut stores = Vec::new();
    for _ in 0..iterations {
        alone.push(served.decompress()?);
        let memory = tempfile::Builder::new().prefix("rct-bench-").tempdir_in("/dev/shm")?;
        least.push(served.take_in(memory.path())?);
        for (side, times) in sides.iter().zip(&mut times) {
            if side.docker.is_none() {
                let store = tempfile::Builder::new().prefix("rct-bench-").tempdir()?;
                times.push(pull::measure(stack, "pull.yaml", store.path())?.time);
                stores.push(store);
            } else {
                times.push(side.time(&["-f", "pull.yaml", "pull", "-q"])?);
                side.time(&["-f", "pull.yaml", "down", "--rmi", "all"])?;
            }
        }
    }
    row(PULL, &mut times);
    row("decompression of that alone, on all cores", std::slice::from_mut(&mut alone));
    row("that, the digests of both forms, and both written to memory", std::slice::from_mut(&mut least));
    let store = tempfile::Builder::new().prefix("rct-bench-").tempdir()?;
    let pulled = pull::measure(stack, "pull.yaml", store.path())?;
    println!("| memory at most, {PULL} | {} KiB |", pulled.memory);
    let large = pull::Served::new(1, 1000)?;
    stack.write("large.yaml", &large.project());
    let store = tempfile::Builder::new().prefix("rct-bench-").tempdir()?;
    let pulled = pull::measure(stack, "large.yaml", store.path())?;
    println!("| memory at most, pull, 1000 MB in one layer | {} KiB |", pulled.memory);
    Ok(())
}

/// One of the figures of a measurement.
type Part = fn(&network::Speed) -> f64;

/// Measures what networks carry.
fn traffic(sides: &[Side<'_>], iterations: usize) -> anyhow::Result<()> {
    sides[0].stack.write("network.yaml", &network::project());
    let mut speeds = vec![Vec::new(); sides.len()];
    for _ in 0..iterations.div_ceil(2) {
        for (side, speeds) in sides.iter().zip(&mut speeds) {
            side.time(&["-f", "network.yaml", "up", "-d"])?;
            speeds.push(network::measure().with_context(|| side.name)?);
            side.time(&["-f", "network.yaml", "down", "-t", "0"])?;
        }
    }
    let rates: [(&str, &str, Part); 4] = [
        ("names asked for at 127.0.0.11, 20 at once", "a second", |speed| speed.names),
        ("the slowest hundredth of them took", "ms", |speed| speed.slow_name),
        ("HTTP requests by a port published at 127.0.0.1, 20 at once", "a second", |speed| speed.requests),
        ("bytes from container to container", "Gbit/s", |speed| speed.bytes),
    ];
    for (name, unit, part) in rates {
        let values = speeds.iter().map(|speeds| speeds.iter().map(part).collect()).collect::<Vec<_>>();
        rate(&format!("{TRAFFIC}{name}"), unit, values);
    }
    Ok(())
}

/// Measures many networks at once; ours alone, because Docker's own pools are used up by 31.
fn many_networks(ours: &Side<'_>) -> anyhow::Result<()> {
    const NETWORKS: u32 = 500;
    let mut times = [vec![Duration::ZERO], vec![Duration::ZERO]];
    for (words, times) in [["network", "create"], ["network", "rm"]].iter().zip(&mut times) {
        for number in 0..NETWORKS {
            times[0] += ours.time(&[words[0], words[1], &format!("bench{number}")])?;
        }
    }
    row(&format!("{MANY_NETWORKS}{NETWORKS} of them made, a command each"), &mut times[..1]);
    row(&format!("{MANY_NETWORKS}{NETWORKS} of them removed, a command each"), &mut times[1..]);
    Ok(())
}

/// Measures what networks cost when containers start and go.
fn network_costs(sides: &[Side<'_>], iterations: usize) -> anyhow::Result<()> {
    const CONTAINERS: u32 = 50;
    sides[0].stack.write("n50.yaml", &network::without_network(CONTAINERS as usize));
    let (mut starts, mut ends) = (vec![Vec::new(); sides.len()], vec![Vec::new(); sides.len()]);
    for _ in 0..iterations.div_ceil(2) {
        for (index, side) in sides.iter().enumerate() {
            let mut times = [Duration::ZERO; 4];
            for (file, times) in ["s50.yaml", "n50.yaml"].iter().zip(times.chunks_mut(2)) {
                times[0] = side.time(&["-f", file, "up", "-d"])?;
                times[1] = side.time(&["-f", file, "down", "-t", "0"])?;
            }
            starts[index].push(times[0].saturating_sub(times[2]) / CONTAINERS);
            ends[index].push(times[1].saturating_sub(times[3]) / CONTAINERS);
        }
    }
    row(&format!("{NETWORK_COSTS}up -d, each of {CONTAINERS} services"), &mut starts);
    row(&format!("{NETWORK_COSTS}down -t 0, each of {CONTAINERS} services"), &mut ends);
    Ok(())
}

/// Prints a line of what is no time to wait: each side's median, and how ours compares.
fn rate(name: &str, unit: &str, mut sides: Vec<Vec<f64>>) {
    let mut medians = Vec::new();
    for values in &mut sides {
        values.sort_by(f64::total_cmp);
        medians.push(values[(values.len() - 1) / 2]);
    }
    let mut cells: Vec<String> = medians.iter().map(|median| format!("{} {unit}", short(*median))).collect();
    if let [ours, theirs] = medians[..] {
        cells.push(format!("{} times", short(ours / theirs)));
    }
    println!("| {name} | {} |", cells.join(" | "));
}

fn heading(sides: &[Side<'_>]) -> String {
    let names: Vec<String> = sides.iter().map(|side| format!("{}: median (p10–p90)", side.name)).collect();
    let ratio = if sides.len() > 1 { " | ratio" } else { "" };
    names.join(" | ") + ratio
}

/// Prints one line of the table.
fn row(name: &str, times: &mut [Vec<Duration>]) {
    let mut cells = Vec::new();
    let mut medians = Vec::new();
    for times in times {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        medians.push(at(50));
        cells.push(format!("{} ms ({}–{})", short(at(50)), short(at(10)), short(at(90))));
    }
    if let [ours, theirs] = medians[..] {
        cells.push(format!("1/{}", short(theirs / ours)));
    }
    println!("| {name} | {} |", cells.join(" | "));
}

/// Three digits that count.
fn short(number: f64) -> String {
    if number >= 100.0 {
        format!("{number:.0}")
    } else if number >= 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.2}")
    }
}

/// Everything of either side while 50 containers run, and what one container adds.
fn memory(sides: &[Side<'_>]) -> anyhow::Result<()> {
    const CONTAINERS: u64 = 50;
    let mut totals = Vec::new();
    let mut each = Vec::new();
    for side in sides {
        side.time(&["-f", "s1.yaml", "up", "-d"])?;
        let one = side.memory_at_rest();
        side.time(&["-f", "s50.yaml", "up", "-d"])?;
        let all = side.memory_at_rest();
        side.time(&["-f", "s50.yaml", "down", "-t", "0"])?;
        totals.push(all);
        each.push(all.saturating_sub(one) / (CONTAINERS - 1));
    }
    let line = |name: &str, values: &[u64]| {
        let mut cells: Vec<String> = values.iter().map(|kib| format!("{kib} KiB")).collect();
        if let [ours, theirs] = values[..] {
            #[expect(clippy::cast_precision_loss, reason = "a ratio is rounded anyway")]
            cells.push(format!("1/{}", short(theirs as f64 / ours.max(1) as f64)));
        }
        println!("| {name} | {} |", cells.join(" | "));
    };
    line("memory (PSS) of all its processes, 50 containers", &totals);
    line("of that, each further container", &each);
    Ok(())
}

fn services(count: usize) -> String {
    let service = |number| format!("  s{number}:\n    image: busybox\n    command: sleep 100000\n");
    format!("services:\n{}", (0..count).map(service).collect::<Vec<_>>().concat())
}

fn chain(length: usize) -> String {
    let service = |number: usize| {
        let depends = match number.checked_sub(1) {
            Some(before) => format!("    depends_on: {{h{before}: {{condition: service_healthy}}}}\n"),
            None => String::new(),
        };
        format!(
            "  h{number}:\n    image: busybox\n    command: sleep 100000\n    \
             healthcheck: {{test: [CMD, \"true\"], interval: 1s, retries: 3}}\n{depends}"
        )
    };
    format!("services:\n{}", (0..length).map(service).collect::<Vec<_>>().concat())
}

/// Whether these words call a Docker Compose whose engine answers and has the image.
fn has_docker(words: &[String]) -> bool {
    let folder = Path::new("/tmp");
    let answers = |arguments: &[&str]| {
        Command::new(&words[0])
            .args(&words[1..])
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let probe = tempfile::Builder::new().suffix(".yaml").tempfile();
    let Ok(probe) = probe else { return false };
    if fs::write(probe.path(), services(1)).is_err() {
        return false;
    }
    let file = probe.path().display().to_string();
    let up = ["-p", "rcbenchprobe", "-f", &file, "up", "-d", "--pull", "never"];
    let down = ["-p", "rcbenchprobe", "-f", &file, "down", "-t", "0"];
    let works = answers(&up);
    works & answers(&down)
}
