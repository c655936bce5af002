//! Watching: how soon a saved file is in a container, bursts of new and of changed files, and how watching many files begins.

use std::{
    fs,
    io::{BufRead, BufReader, PipeReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use compose_tests::process;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Side, row};

/// How the names of all rows about watching begin.
pub(super) const WATCH: &str = "watch: ";

/// What the watched container sleeps for, by which it is known.
const SLEEPER: &str = "3101977";
/// How many files come at once.
const BURST: usize = 5_000;
/// What comes at once: files that were not there, and then other content in the same.
const BURSTS: [&str; 2] = ["new", "changed"];
/// How many files are there when watching begins.
const MANY: usize = 50_000;
/// How long a change may take until something is wrong.
const PATIENCE: Duration = Duration::from_mins(1);

fn project(rules: &str) -> String {
    format!(
        "services:\n  app:\n    image: busybox\n    command: sleep {SLEEPER}\n    stop_grace_period: 0s\n    \
         develop:\n      watch:\n{rules}"
    )
}

/// Prints a row for each.
pub(super) fn measure(sides: &[Side<'_>], iterations: usize) -> anyhow::Result<()> {
    let stack = sides[0].stack;
    let folder = stack.project_folder();
    let live = "        - {path: ./live, action: sync, target: /live}\n";
    let burst = "        - {path: ./burst, action: sync+restart, target: /burst}\n";
    stack.write("watch.yaml", &project(&format!("{live}{burst}")));
    stack.write("watch-many.yaml", &project("        - {path: ./files, action: sync, target: /files}\n"));
    fs::create_dir_all(folder.join("live"))?;
    fill(&folder.join("files"), MANY, "many")?;
    let mut saved = vec![Vec::new(); sides.len()];
    let mut starts = saved.clone();
    let mut bursts = BURSTS.map(|_| [saved.clone(), saved.clone()]);
    let mut restarts = vec![Vec::new(); sides.len()];
    let mut alone = vec![Vec::new()];
    let mut memory = vec![0; sides.len()];
    for _ in 0..iterations.div_ceil(3) {
        for (number, side) in sides.iter().enumerate() {
            let started = Instant::now();
            fill(&folder.join("alone"), BURST, "alone")?;
            alone[0].push(started.elapsed());
            fs::remove_dir_all(folder.join("alone"))?;
            fs::create_dir_all(folder.join("burst"))?;
            let watch = Watching::start(side, "watch.yaml")?;
            for round in 0..iterations {
                saved[number].push(save(&folder.join("live/file"), &format!("{round} {:?}", Instant::now()))?);
                // Each is a change of its own.
                thread::sleep(Duration::from_secs(1));
            }
            for (what, [from_last, from_first]) in BURSTS.iter().zip(&mut bursts) {
                let [last, first] = burst_of_files(&folder.join("burst"), what)?;
                from_last[number].push(last);
                from_first[number].push(first);
                thread::sleep(Duration::from_secs(1));
            }
            let said = watch.end()?;
            restarts[number].push(said.lines().filter(|line| line.contains("restarted")).count());
            side.time(&["-f", "watch.yaml", "down", "-t", "0"])?;
            fs::remove_dir_all(folder.join("burst"))?;
            let watch = Watching::start(side, "watch-many.yaml")?;
            starts[number].push(watch.began);
            memory[number] = memory[number].max(watch.memory()?);
            watch.end()?;
            side.time(&["-f", "watch-many.yaml", "down", "-t", "0"])?;
        }
    }
    row(&format!("{WATCH}a saved file is in the container"), &mut saved);
    for (what, [from_last, from_first]) in BURSTS.iter().zip(&mut bursts) {
        let burst = format!("{WATCH}{BURST} {what} files are there and the service is restarted");
        row(&format!("{burst}, from the last save"), from_last);
        row(&format!("{burst}, from the first"), from_first);
    }
    row(&format!("{WATCH}of that, writing {BURST} new files where nobody watches"), &mut alone);
    println!("| restarts by two bursts | {restarts:?} |");
    row(&format!("{WATCH}from the command to watching {MANY} files"), &mut starts);
    let cells = memory.iter().map(|kib| format!("{kib} KiB")).collect::<Vec<_>>();
    println!("| memory at most, the command that watches {MANY} files | {} |", cells.join(" | "));
    Ok(())
}

/// Writes files, fifty in a directory, each with its number and this text.
fn fill(folder: &Path, count: usize, text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let path = |number: usize| Path::new(&(number / 50).to_string()).join(format!("file{number}"));
    let files = (0..count).map(path).collect::<Vec<_>>();
    for (number, file) in files.iter().enumerate() {
        let path = folder.join(file);
        if number % 50 == 0 {
            fs::create_dir_all(path.parent().expect("it is in a folder"))?;
        }
        fs::write(path, content(number, text))?;
    }
    Ok(files)
}

/// Writes a file and returns how long it takes until it is so in the container.
fn save(path: &Path, text: &str) -> anyhow::Result<Duration> {
    let root = PathBuf::from(format!("/proc/{}/root", container()?));
    let there = root.join("live/file");
    let started = Instant::now();
    fs::write(path, text)?;
    until(started, "the file", || fs::read(&there).is_ok_and(|bytes| bytes == text.as_bytes()))
}

fn content(number: usize, text: &str) -> String {
    format!("{number} {text}\n")
}

/// Writes many files and returns how long it takes, from the last and from the first save, until all are in a container that was
/// started after that.
fn burst_of_files(folder: &Path, text: &str) -> anyhow::Result<[Duration; 2]> {
    let before = container()?;
    let first = Instant::now();
    let files = fill(folder, BURST, text)?;
    let last = Instant::now();
    // Asked by its number, since looking through all processes again and again takes a processor by itself.
    until(first, "the end of the container", || kill(Pid::from_raw(before), None).is_err())?;
    let (mut pid, mut seen) = (before, 0);
    let came = until(first, "the last file", || {
        if kill(Pid::from_raw(pid), None).is_err() {
            let Ok(after) = container() else { return false };
            (pid, seen) = (after, 0);
        }
        let root = PathBuf::from(format!("/proc/{pid}/root/burst"));
        let is_there = |number: usize| {
            files.get(number).is_some_and(|file| {
                fs::read(root.join(file)).is_ok_and(|bytes| bytes == content(number, text).as_bytes())
            })
        };
        while is_there(seen) {
            seen += 1;
        }
        seen == files.len()
    });
    came.with_context(|| format!("{seen} of {BURST} came"))?;
    Ok([last.elapsed(), first.elapsed()])
}

fn until(started: Instant, what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    while !is_so() {
        if started.elapsed() > PATIENCE {
            bail!("{what} did not come");
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(started.elapsed())
}

/// Returns the first process of the container.
fn container() -> anyhow::Result<i32> {
    process::that_runs(&["sleep", SLEEPER]).with_context(|| format!("no container sleeps for {SLEEPER}"))
}

/// A command that watches.
struct Watching {
    child: Child,
    output: BufReader<PipeReader>,
    /// How long it took until it said that it watches.
    began: Duration,
}

impl Watching {
    fn start(side: &Side<'_>, file: &str) -> anyhow::Result<Self> {
        side.time(&["-f", file, "up", "-d"])?;
        let (output, writer) = std::io::pipe()?;
        let started = Instant::now();
        let mut command = side.command(&["-f", file, "watch", "--no-up"]);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn()?;
        drop(command);
        let mut output = BufReader::new(output);
        let mut line = String::new();
        while !line.contains("Watch enabled") {
            line.clear();
            if output.read_line(&mut line)? == 0 {
                bail!("{} does not watch", side.name);
            }
        }
        Ok(Self { child, output, began: started.elapsed() })
    }

    /// Returns what it needed at most so far, in KiB (`VmHWM` of `proc_pid_status(5)`).
    fn memory(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim_end_matches("kB").trim().parse()?)
    }

    /// Returns what it said since it watches.
    fn end(mut self) -> anyhow::Result<String> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?;
        let mut said = String::new();
        self.output.read_to_string(&mut said)?;
        self.child.wait()?;
        Ok(said)
    }
}
