//! `lint`: what the project may do, and mostly should not.

use std::collections::BTreeMap;

use clap::Args;
use rcompose_engine::image::Store;

use super::context::Context;
use super::error::Error;
use crate::compose::{self, LoadOptions, Project};
use crate::lint::{self, CHECKS};
use crate::project::image::Image;
use crate::project::images;
use crate::remote::Reader;
use crate::ui::{diagnostics, lines};

#[derive(Debug, Args)]
#[command(after_help = "Exits with 0 if nothing was found, and with 1 otherwise. A project leaves checks out by\n\
                        `x-lint: {ignore: [NAME]}`, at its top or in a service.")]
pub struct LintArgs {
    /// List the checks, and look for nothing
    #[arg(long)]
    list: bool,
    /// Print an object for each finding, one a line
    #[arg(long)]
    json: bool,
    /// The services to look at, with what they depend on
    services: Vec<String>,
}

pub fn run(context: &Context, args: &LintArgs) -> Result<(), Error> {
    if args.list {
        return Ok(context.ui.out(&lines(CHECKS.map(|check| format!("{:<22} {}", check.name, check.about))))?);
    }
    let options = LoadOptions { services: args.services.clone(), all_resources: true, ..context.global.load_options() };
    let loaded = compose::load(&options, &Reader::of_host()).map_err(Error::Faults)?;
    let mut found = loaded.warnings.clone();
    found.extend(lint::lint(&loaded, &known(context, &loaded.project)?));
    let colours = context.ui.colours_out();
    let rendered = found
        .iter()
        .map(|finding| if args.json { diagnostics::json(finding) } else { diagnostics::render(finding, colours) });
    context.ui.out(&lines(rendered))?;
    if found.is_empty() { Ok(()) } else { Err(Error::Exit(1)) }
}

/// Returns the images of the services that are here. Who may not look sees none.
fn known(context: &Context, project: &Project) -> Result<BTreeMap<String, Image>, Error> {
    let Ok(root) = context.root() else { return Ok(BTreeMap::new()) };
    if !root.data().exists() {
        return Ok(BTreeMap::new());
    }
    Ok(images::look_up(&Store::open(root.data())?, project, false)?.services)
}
