//! The disk with what is under test: rcompose, the test programs, their data, and the images of the factory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::guest::{make_disk, run};
use crate::factory::cache;

/// The workspace's folder.
fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A test program of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// `container_start`, `cases`, …; the unit tests of a library have its name.
    pub name: String,
    pub path: PathBuf,
}

/// What was put on the disk.
#[derive(Debug)]
pub struct Payload {
    pub disk: PathBuf,
    pub tests: Vec<Program>,
}

impl Program {
    /// Returns filters for those of its tests that show something in a virtual machine which they do not show on any host;
    /// `None` if there are no such.
    pub fn for_machines(&self) -> Option<&'static [&'static str]> {
        match &*self.name {
            "image" => Some(&["store::"]),
            "build_outputs" => Some(&["another_machine"]),
            "network" | "attributes" | "terminals" | "cases" => Some(&[]),
            name if name.starts_with("container_") => Some(&[]),
            _ => None,
        }
    }
}

/// Which test programs a machine is to have.
#[derive(Debug)]
pub enum Wanted<'a> {
    /// Those that show something in a virtual machine ([`Program::for_machines`]).
    All,
    Named(Vec<&'a str>),
}

/// Builds rcompose and test programs by cargo and puts them on a disk in `folder`.
pub fn make(folder: &Path, wanted: &Wanted<'_>) -> anyhow::Result<Payload> {
    let programs = build(&["build", "--bins"])?;
    let mut tests = match wanted {
        Wanted::Named(names) if names.is_empty() => Vec::new(),
        Wanted::Named(names) => {
            let mut arguments = vec!["test", "--no-run"];
            arguments.extend(names.iter().flat_map(|name| ["--test", name]));
            build(&arguments)?
        }
        Wanted::All => build(&["test", "--no-run"])?,
    };
    tests.retain(|test| match wanted {
        Wanted::Named(names) => names.contains(&&*test.name),
        Wanted::All => test.for_machines().is_some(),
    });
    let tree = folder.join("payload");
    let bin = tree.join("bin");
    fs::create_dir_all(&bin)?;
    for program in tests.iter().chain(programs.iter().filter(|program| program.name == "rcompose")) {
        // Nobody reads the symbols in there, and they are most of a program.
        run(Command::new("strip").arg("-o").arg(bin.join(&program.name)).arg(&program.path))?;
    }
    let manifest = fs::canonicalize(env!("CARGO_MANIFEST_DIR"))?;
    for (name, source) in [
        ("compose-tests/cases", manifest.join("cases")),
        ("compose-tests/loader-cases", manifest.join("loader-cases")),
        ("vm", manifest.join("vm/guest-files")),
        ("examples", workspace().join("examples")),
        ("cache/registry", cache::cache_root()?.join("registry")),
        ("cache/tools", cache::cache_root()?.join("tools")),
    ] {
        let target = tree.join(name);
        fs::create_dir_all(target.parent().context("a path of the payload has a folder")?)?;
        run(Command::new("cp").arg("--archive").arg(&source).arg(&target))?;
    }
    // Test programs look for their data where they were compiled.
    fs::write(tree.join("links"), format!("{} /payload/compose-tests\n", manifest.display()))?;
    let disk = folder.join("payload.disk");
    make_disk(&tree, &disk, "3G")?;
    fs::remove_dir_all(&tree)?;
    Ok(Payload { disk, tests })
}

/// Runs cargo and returns the programs it made.
fn build(arguments: &[&str]) -> anyhow::Result<Vec<Program>> {
    let output = Command::new("cargo")
        .args(arguments)
        .args(["--workspace", "--quiet", "--message-format", "json-render-diagnostics"])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} ended with {}", arguments.join(" "), output.status);
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).with_context(|| format!("cannot parse {line}"))?;
        if let (Some(path), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
            programs.push(Program { name: name.to_owned(), path: PathBuf::from(path) });
        }
    }
    programs.sort();
    Ok(programs)
}
