//! `factory build` makes the images; `factory run COMMAND…` makes them, serves them from a registry, and runs a command
//! whose rcompose finds them under their usual names.

#![expect(clippy::print_stderr, reason = "a command line program")]

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, bail};
use compose_tests::factory::{self, cache::Cache, image::BuiltImage, recipe, registry, tree};

const USAGE: &str = "usage: factory build
       factory run COMMAND [ARGUMENT…]

build  makes every image of compose-tests/images that is not in the cache and puts it into the cache's registry
run    the same, then runs COMMAND while that registry is served on a loopback port, with RCOMPOSE_REGISTRIES set so
       that rcompose takes docker.io images from it and RCOMPOSE_TEST_REGISTRY holding its address";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("build") if arguments.len() == 1 => build().map(|()| ExitCode::SUCCESS),
        Some("run") if arguments.len() > 1 => build_apart().and_then(|()| run(&arguments[1..])),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("factory: {error:#}");
        ExitCode::FAILURE
    })
}

fn build() -> anyhow::Result<()> {
    let started = Instant::now();
    let recipes = recipe::load_all(factory::recipes_dir())?;
    let cache = Cache::open()?;
    let say = |line: &str| eprintln!("factory: {line}");
    tree::private_mounts()?;
    let images = factory::build_all(&recipes, &cache, &say)?;
    push(&images, &cache)?;
    eprintln!("factory: {} images ready after {:.1} s", images.len(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Builds in a process of its own: what `run` starts must see the host's mounts, and a process that had threads cannot
/// return to another mount namespace.
fn build_apart() -> anyhow::Result<()> {
    let status = Command::new(env::current_exe()?).arg("build").status().context("cannot run the factory itself")?;
    if !status.success() {
        bail!("factory build ended with {status}");
    }
    Ok(())
}

/// Puts the images into the cache's registry.
fn push(images: &BTreeMap<String, BuiltImage>, cache: &Cache) -> anyhow::Result<()> {
    registry::fetch(cache)?;
    let registry = registry::Registry::start(&registry::storage()?)?;
    images.values().try_for_each(|image| registry.push(image, cache))
}

fn run(command: &[String]) -> anyhow::Result<ExitCode> {
    let registry = registry::Registry::start(&registry::storage()?)?;
    let folder = tempfile::tempdir()?;
    let settings = registry::write_settings(folder.path(), registry.address())?;
    run_with(command, &settings, &registry)
}

fn run_with(command: &[String], settings: &Path, registry: &registry::Registry) -> anyhow::Result<ExitCode> {
    let status = Command::new(&command[0])
        .args(&command[1..])
        .env("RCOMPOSE_REGISTRIES", settings)
        .env("RCOMPOSE_TEST_REGISTRY", registry.address().to_string())
        .status()
        .with_context(|| format!("cannot run {}", command[0]))?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => bail!("{} ended with {status}", command[0]),
    }
}
