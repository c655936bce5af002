//! Data-driven cases: `cases/<name>/case.json` says what to run and what must come out; the other files of the folder
//! are the project's.

use std::{collections::BTreeMap, fs, path::Path};

use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::{
    expect::Expect,
    http::{self, Body},
    stack::{self, Stack},
    wait,
};

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub about: String,
    /// Which text or program says that it must be so.
    pub source: String,
    /// Whether the case is about what only rcompose does: not run when another program is tested.
    #[serde(default)]
    pub rcompose_only: bool,
    /// Whether the case uses the network of the host instead of one of its own.
    #[serde(default)]
    pub host_network: bool,
    /// Further variables of all commands.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub steps: Vec<Step>,
}

/// One thing to do or to look at. Exactly one of `run`, `http`, `write`, `remove`, `kill` is set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Arguments of rcompose.
    pub run: Option<Vec<String>>,
    /// The exit code of `run`.
    pub exit: i32,
    /// `run` must fail, with whatever code.
    pub fails: bool,
    pub stdout: Expect,
    pub stderr: Expect,
    pub stdin: String,
    pub env: BTreeMap<String, String>,
    /// Repeat the step until it is as expected (or patience ends).
    pub until: bool,
    /// At most this long, in seconds.
    pub within: Option<f64>,

    pub http: Option<Http>,
    /// Files to write, by path in the project.
    pub write: Option<BTreeMap<String, String>>,
    /// A file of the project to delete.
    pub remove: Option<String>,
    /// `supervisor`, or `shim SERVICE`: gets SIGKILL.
    pub kill: Option<String>,
}

/// A request to a published port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub service: String,
    pub port: u16,
    pub path: String,
    #[serde(default)]
    pub post: Option<String>,
    #[serde(default = "ok")]
    pub status: u16,
    #[serde(default)]
    pub body: Expect,
}

fn ok() -> u16 {
    200
}

/// Runs the case in a folder; panics when something is not as expected.
pub fn run(folder: &Path) {
    let name = folder.file_name().expect("a case has a name").to_string_lossy().into_owned();
    let text = fs::read_to_string(folder.join("case.json")).expect("a case has a case.json");
    let case: Case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("bad case.json of {name}: {error}"));
    if case.rcompose_only && stack::is_peer() {
        return;
    }
    let mut stack = if case.host_network { Stack::on_host(&name) } else { Stack::new(&name) };
    stack.copy(folder);
    for (key, value) in &case.env {
        let value = stack.fill(value);
        stack.set(key, &value);
    }
    for (index, step) in case.steps.iter().enumerate() {
        let attempt = || attempt(&stack, step);
        let patience = if step.until { wait::PATIENCE } else { std::time::Duration::ZERO };
        if step.until {
            wait::until(patience, &format!("step {} of {name}", index + 1), attempt);
        } else if let Err(error) = attempt() {
            panic!("step {} of {name} ({}): {error}", index + 1, case.about);
        }
    }
    stack.finish();
}

fn attempt(stack: &Stack, step: &Step) -> Result<(), String> {
    let fill = |text: &str| stack.fill(text);
    if let Some(arguments) = &step.run {
        let arguments: Vec<String> = arguments.iter().map(|argument| fill(argument)).collect();
        let output = stack.run_with(&arguments, &step.env, &fill(&step.stdin));
        if step.fails {
            if output.code == 0 || output.code == 101 || output.code >= 128 {
                return Err(format!("it must fail in an orderly way\n{output:?}"));
            }
        } else if output.code != step.exit {
            return Err(format!("the exit code must be {}\n{output:?}", step.exit));
        }
        step.stdout.check(&output.stdout, &fill).map_err(|error| format!("stdout: {error}\n{output:?}"))?;
        step.stderr.check(&output.stderr, &fill).map_err(|error| format!("stderr: {error}\n{output:?}"))?;
        if let Some(limit) = step.within
            && output.took.as_secs_f64() > limit
        {
            return Err(format!("it must take less than {limit} s\n{output:?}"));
        }
    } else if let Some(request) = &step.http {
        ask(stack, request)?;
    } else if let Some(files) = &step.write {
        for (path, text) in files {
            stack.write(path, &fill(text));
        }
    } else if let Some(path) = &step.remove {
        fs::remove_file(stack.project_folder().join(path)).map_err(|error| error.to_string())?;
    } else if let Some(what) = &step.kill {
        let process = match what.split_once(' ') {
            Some(("shim", service)) => stack.shim(service),
            None if what == "supervisor" => stack.supervisor(),
            _ => return Err(format!("{what:?} cannot be killed")),
        };
        process.signal(Signal::SIGKILL);
        wait::until(wait::PATIENCE, "its death", || if process.is_alive() { Err(&process) } else { Ok(()) });
    } else {
        return Err("the step does nothing".to_owned());
    }
    Ok(())
}

fn ask(stack: &Stack, request: &Http) -> Result<(), String> {
    let address = stack.published(&request.service, request.port);
    let method = if request.post.is_some() { "POST" } else { "GET" };
    let body = request.post.clone().unwrap_or_default();
    let mut reader = body.as_bytes();
    let answer = http::request(
        address,
        method,
        &stack.fill(&request.path),
        &[("Content-Type", "application/json")],
        request.post.as_ref().map(|body| Body { length: body.len() as u64, reader: &mut reader }),
        wait::PATIENCE,
    )
    .map_err(|error| format!("{error:#}"))?;
    let text = answer.text();
    if answer.status != request.status {
        return Err(format!("status {} instead of {}: {text}", answer.status, request.status));
    }
    request.body.check(&text, &|text| stack.fill(text)).map_err(|error| format!("body: {error}\n{text}"))
}
