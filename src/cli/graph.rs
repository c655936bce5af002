//! `graph`: the project as a drawing.

use clap::{Args, ValueEnum};
use rcompose_engine::container::state::{HealthStatus, Status};
use rcompose_engine::container::store::Container;

use super::context::Context;
use super::error::Error;
use crate::compose::Project;
use crate::diagram::{self, Diagram, Live, State};
use crate::project::labels::Labelled as _;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose graph --format svg > shop.svg")]
pub struct GraphArgs {
    /// The language of the drawing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Show how the services are now
    #[arg(long)]
    live: bool,
    /// The services to show, with what they depend on
    services: Vec<String>,
}

/// Languages for drawings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Mermaid,
    Dot,
    Svg,
}

pub fn run(context: &Context, args: &GraphArgs) -> Result<(), Error> {
    let project = context.project(&args.services)?;
    let live = args.live.then(|| live(context, &project)).transpose()?;
    let diagram = Diagram::of(&project, live.as_ref());
    let text = match args.format {
        Format::Mermaid => diagram::mermaid(&diagram),
        Format::Dot => diagram::dot(&diagram),
        Format::Svg => diagram::svg(&diagram),
    };
    Ok(context.ui.out(&text)?)
}

/// Looks how the services of a project are.
fn live(context: &Context, project: &Project) -> Result<Live, Error> {
    let containers = context.engine(&project.name)?.containers()?;
    let of = |name: &str| {
        let own = containers.iter().filter(|container| container.service() == name && !container.is_oneoff());
        state(&own.collect::<Vec<_>>())
    };
    Ok(project.services.keys().map(|name| (name.clone(), of(name))).collect())
}

/// Returns how a service with these containers is.
fn state(containers: &[&Container]) -> (State, String) {
    let running = containers.iter().filter(|container| container.state.status == Status::Running).count();
    let health = |container: &&Container| container.state.health.as_ref().map(|health| health.status);
    let with = |status: HealthStatus| containers.iter().any(|container| health(container) == Some(status));
    let said = match (running, containers.len()) {
        (_, 0) => return (State::Down, "not created".to_owned()),
        (0, _) => return (State::Down, "stopped".to_owned()),
        (running, all) if running < all => return (State::Partly, format!("{running} of {all} run")),
        _ => "running",
    };
    if with(HealthStatus::Unhealthy) {
        (State::Partly, "unhealthy".to_owned())
    } else if with(HealthStatus::Starting) {
        (State::Partly, "starting".to_owned())
    } else {
        (State::Up, if with(HealthStatus::Healthy) { "healthy" } else { said }.to_owned())
    }
}
