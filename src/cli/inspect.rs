//! `inspect`: everything that is known about containers, as Docker's documents have it.

use clap::Args;
use rcompose_engine::container::store::{self, Container};
use rcompose_engine::id::Id;
use rcompose_engine::image::Store;
use rcompose_engine::root::Root;
use rcompose_engine::shim;
use serde_json::json;

use super::context::Context;
use super::error::Error;
use crate::project::inspect;
use crate::project::labels::Labelled as _;
use crate::template::Template;
use crate::ui::format;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose inspect --format '{{.State.Status}}' web")]
pub struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Services, or names or ids of containers
    #[arg(required = true, value_name = "SERVICE|CONTAINER")]
    names: Vec<String>,
}

pub fn run(context: &Context, args: &InspectArgs) -> Result<(), Error> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let root = context.root()?;
    let images = Store::open(root.data())?;
    let mut documents = Vec::new();
    for container in containers(context, args)? {
        let bundle = root.container(&container.config.id);
        let read = shim::read_config(&bundle).and_then(|config| Ok((config, shim::apparmor_profile(&bundle)?)));
        let (config, profile) =
            read.map_err(|failure| Error::new(format!("cannot inspect {}: {failure}", container.config.name)))?;
        let image = match images.find(&container.config.image_id)? {
            Some(image) => images.raw_config(&image)?,
            // It was removed; what the container has of it is in its own configuration.
            None => json!({}),
        };
        documents.push(inspect::document(&root, &container, &config, profile.as_deref(), &image));
    }
    Ok(context.ui.out(&format::documents(&documents, template.as_ref(), args.format.is_some())?)?)
}

/// Returns the containers of these names: of a service of the project all, of any project by name or the beginning of an id.
fn containers(context: &Context, args: &InspectArgs) -> Result<Vec<Container>, Error> {
    let root = context.root()?;
    // Outside of a project names and ids are enough.
    let project = context.scope().ok().map(|scope| scope.name);
    let own = store::list(&root, project.as_deref())?;
    let mut found = Vec::new();
    for name in &args.names {
        let of_service = own.iter().filter(|container| {
            project.is_some()
                && container.service() == name
                && !container.is_oneoff()
                && args.index.is_none_or(|index| container.number() == index)
        });
        let before = found.len();
        found.extend(of_service.cloned());
        if found.len() > before {
            continue;
        }
        let there = by_name(&root, name)?;
        found.push(there.ok_or_else(|| Error::with_hint(format!("no such container or service: {name}"), LISTS))?);
    }
    Ok(found)
}

/// What to do where a container is not there.
const LISTS: &str = "rcompose ps -a lists those of this project, rcompose ls the projects";

/// Returns the container of any project that a name, an id or the beginning of one means.
pub fn find(root: &Root, name: &str) -> Result<Container, Error> {
    by_name(root, name)?.ok_or_else(|| Error::with_hint(format!("no such container: {name}"), LISTS))
}

fn by_name(root: &Root, name: &str) -> Result<Option<Container>, Error> {
    let there = match name.parse::<Id>() {
        Ok(id) => store::load(root, &id)?,
        Err(_) => store::find(root, name)?,
    };
    match there {
        Some(container) => Ok(Some(container)),
        None => by_beginning(&store::list(root, None)?, name),
    }
}

fn by_beginning(all: &[Container], name: &str) -> Result<Option<Container>, Error> {
    let mut matching = all.iter().filter(|container| container.config.id.as_str().starts_with(name));
    match (matching.next(), matching.next()) {
        (Some(_), Some(_)) => Err(Error::new(format!("several containers have an id that begins with {name}"))),
        (one, _) => Ok(one.cloned()),
    }
}
