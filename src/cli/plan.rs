//! `plan`: what `up` would do and why, without doing it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use rcompose_engine::id::Id;
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::error::Error;
use super::up::{self, ConvergeArgs};
use crate::compose::key::KeyPath;
use crate::compose::model::PullPolicy;
use crate::compose::{Place, Project};
use crate::project::engine::Engine;
use crate::project::images::is_builtin;
use crate::project::plan::Plan;
use crate::project::plan::document::{Document, Facts, Fetched, VERSION};
use crate::project::{disk, pull};
use crate::ui;

/// The exit code of `--detailed-exitcode` where something would change.
const CHANGES: u8 = 2;
/// Most that a plan on disk may be, in bytes.
const MAX_PLAN: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose plan --out plan.json && rcompose up -d --plan plan.json")]
pub struct PlanArgs {
    #[command(flatten)]
    converge: ConvergeArgs,
    /// Exit with 0 if nothing would change, with 2 if something would, and with 1 if that cannot be told
    #[arg(long)]
    detailed_exitcode: bool,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
    /// Write the plan to this file, for `up --plan`
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A plan on disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// What `up` is asked for.
    pub options: ConvergeArgs,
    #[serde(flatten)]
    pub document: Document,
}

pub fn run(context: &Context, args: &PlanArgs) -> Result<(), Error> {
    let loaded = context.load(&args.converge.services)?;
    let mut project = up::chosen(loaded.project, &args.converge)?;
    let engine = context.engine(&project.name)?;
    context.refuse_elsewhere(&project, &engine.containers()?)?;
    context.block_on(up::provide(context, &mut project, &engine, true))?;
    let (images, due) = pull::foresee(&engine, &project, args.converge.pull.map(PullPolicy::from).as_ref())?;
    let mut options = up::options(context, &args.converge);
    if args.converge.yes {
        options.replaced_volumes = up::redefined(&project, &engine)?;
    }
    let plan = up::plan(context, &engine, &project, &images, &options)?;
    let mut fetched = Vec::<Fetched>::new();
    for due in due {
        // One that is made of this program comes from nowhere, and one for several services comes once.
        if !is_builtin(&due.reference) && fetched.iter().all(|other| other.reference != due.reference) {
            fetched.push(Fetched { service: due.service, reference: due.reference, again: due.force });
        }
    }
    let place = |path: &KeyPath| loaded.resolved.place(path);
    let document = describe(&project, &engine, &plan, &fetched, &place)?;
    let changes = document.changes().next().is_some();
    let kept = Kept { options: args.converge.clone(), document };
    if let Some(path) = &args.out {
        write(path, &kept).map_err(|error| Error::new(format!("cannot write {}: {error}", path.display())))?;
    }
    context.ui.out(&if args.json {
        json(&kept)?
    } else {
        for warning in &kept.document.warnings {
            context.ui.warn(warning);
        }
        ui::plan::render(&kept.document, &std::env::current_dir()?, context.ui.colours_out())
    })?;
    if args.detailed_exitcode && changes { Err(Error::Exit(CHANGES)) } else { Ok(()) }
}

/// Describes a plan.
pub fn describe(
    project: &Project,
    engine: &Engine,
    plan: &Plan,
    fetched: &[Fetched],
    place: &dyn Fn(&KeyPath) -> Option<Place>,
) -> Result<Document, Error> {
    let observed = engine.observe(&std::collections::BTreeSet::new())?;
    // What cannot be looked at now is not there any more.
    let written = |id: &Id| disk::used(&engine.root.container(id).join("upper")).unwrap_or(0);
    Ok(Document::of(plan, &project.name, fetched, &Facts { observed: &observed, place, written: &written }))
}

/// Reads a plan that was written before; `-` is standard input.
pub fn read(path: &Path) -> Result<Kept, Error> {
    let failed = |reason: &dyn std::fmt::Display| {
        Error::with_hint(
            format!("cannot read the plan {}: {reason}", path.display()),
            "make it with `rcompose plan --out FILE`",
        )
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_PLAN).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_PLAN).read_to_string(&mut text))
    };
    read.map_err(|error| failed(&error))?;
    let kept = serde_json::from_str::<Kept>(&text).map_err(|error| failed(&error))?;
    if kept.document.version != VERSION {
        return Err(failed(&format!("it has version {}, and this program writes {VERSION}", kept.document.version)));
    }
    Ok(kept)
}

/// Refuses what is not the plan that was kept.
pub fn compare(kept: &Kept, now: &Document) -> Result<(), Error> {
    let hint = "look at what has changed with `rcompose plan`, and make the plan again";
    if kept.document.project != now.project {
        let message = format!("the plan is for project {}, and this is {}", kept.document.project, now.project);
        return Err(Error::with_hint(message, hint));
    }
    let Some((then, now)) = kept.document.difference(now) else { return Ok(()) };
    let [then, mut now] = [then, now].map(|entry| entry.map_or_else(|| "nothing more".to_owned(), ui::plan::sentence));
    if then == now {
        now.push_str(" with another definition");
    }
    Err(Error::with_hint(format!("the plan is out of date: it says \"{then}\", and what is to do is \"{now}\""), hint))
}

fn json(kept: &Kept) -> Result<String, Error> {
    Ok(serde_json::to_string_pretty(kept)? + "\n")
}

/// Writes a plan to a file that only its owner reads: values of the project are in it.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let text = json(kept).map_err(|_| io::Error::other("it has no form as JSON"))?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}
