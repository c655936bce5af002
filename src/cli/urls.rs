//! The addresses of published ports, for people: after `up -d` and by a key of attached `up`.

use std::io::{self, IsTerminal as _};

use super::context::Context;
use super::error::Error;
use super::opener;
use crate::compose::Project;
use crate::project::engine::Engine;
use crate::project::urls::urls;
use crate::ui::progress::Form;

/// Says where published ports are reached, on a terminal only: what scripts read stays what Docker Compose says.
pub fn announce(context: &Context, engine: &Engine, project: &Project) -> Result<(), Error> {
    let wanted = matches!(context.ui.form, Form::Auto | Form::Tty) && io::stderr().is_terminal();
    if wanted { say(context, engine, project).map(drop) } else { Ok(()) }
}

/// Says where published ports are reached, or that there are none, and opens what a browser opens.
pub fn open(context: &Context, engine: &Engine, project: &Project) -> Result<(), Error> {
    let urls = say(context, engine, project)?;
    if urls.is_empty() {
        context.ui.say("no running container publishes a port");
    }
    // The logs go on.
    if let Err(error) = opener::open(urls.iter().map(String::as_str)) {
        context.ui.warn(&format!("cannot open a browser: {error}"));
    }
    Ok(())
}

/// Returns what it said.
fn say(context: &Context, engine: &Engine, project: &Project) -> Result<Vec<String>, Error> {
    let all = urls(project, &engine.containers()?);
    let width = all.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, urls) in &all {
        for url in urls {
            context.ui.say(&format!(" {name:width$}  {url}"));
        }
    }
    Ok(all.into_iter().flat_map(|(_, urls)| urls).collect())
}
