//! `cp`: files between a container and this host.

use std::path::Path;

use clap::Args;
use rcompose_engine::container::store::Container;
use rcompose_engine::protocol::EventKind;

use super::context::{Context, Scope};
use super::error::Error;
use crate::project::copy::{self, CopyError, Options, Source, Target};
use crate::project::labels::Labelled as _;

/// Where the two paths may be.
pub const USAGE: &str =
    "rcompose cp [OPTIONS] SERVICE:SRC_PATH DEST_PATH|-\n       rcompose cp [OPTIONS] SRC_PATH|- SERVICE:DEST_PATH";

#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
#[command(after_help = "\
Examples:
  rcompose cp web:/var/log/app.log .
  rcompose cp ./seed.sql db:/tmp")]
pub struct CpArgs {
    /// Include containers created by the run command
    #[arg(long)]
    all: bool,
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    source: String,
    destination: String,
}

pub fn run(context: &Context, args: &CpArgs) -> Result<(), Error> {
    let options = Options { archive: args.archive, follow: args.follow_link };
    let sides = (split(&args.source), split(&args.destination));
    let scope = context.scope()?;
    let engine = context.engine(&scope.name)?;
    let containers = context.own(&scope, &engine)?;
    let progress = context.ui.progress("Copying");
    let said = |container: &Container, what: &str, copied: &mut dyn FnMut() -> Result<(), CopyError>| {
        let title = format!("{} copy {what}", container.config.name);
        progress.working(&title, "Copying");
        let result = copied();
        match &result {
            Ok(()) => progress.done(&title, "Copied"),
            Err(_) => progress.error(&title, "Error"),
        }
        result
    };
    let copied = match sides {
        ((Some(_), _), (Some(_), _)) => return Err(Error::new("copying between services is not supported")),
        ((None, _), (None, _)) => {
            return Err(Error::with_hint(
                "unknown copy direction",
                "one of the two paths must be that of a service, such as web:/etc/hosts",
            ));
        }
        ((Some(service), path), (None, target)) => {
            let chosen = chosen(&scope, &containers, service, args)?;
            let container = chosen[0];
            let target = if target == "-" { Target::Stdout } else { Target::Path(Path::new(target)) };
            let what = format!("{}:{path} to {}", container.config.name, args.destination);
            let mut omitted = Vec::new();
            let result = said(container, &what, &mut || {
                omitted = copy::copy_out(&engine.root, container, Path::new(path), target, options)?;
                Ok(())
            });
            if result.is_ok() {
                context.report(&engine, &container.config.id, EventKind::ArchivePath)?;
            }
            for path in omitted {
                context.ui.warn(&format!("{path} is a device, which is not copied to the host"));
            }
            result
        }
        ((None, source), (Some(service), path)) => {
            let chosen = chosen(&scope, &containers, service, args)?;
            let source = match source {
                "-" if chosen.len() > 1 => {
                    return Err(Error::with_hint(
                        format!(
                            "service \"{service}\" has {} containers, and standard input is there once",
                            chosen.len()
                        ),
                        "choose one with --index",
                    ));
                }
                "-" => Source::Stdin,
                path => Source::Path(Path::new(path)),
            };
            let mut result = Ok(());
            for container in chosen {
                let what = format!("{} to {}:{path}", args.source, container.config.name);
                result = said(container, &what, &mut || {
                    copy::copy_in(&engine.root, container, source, Path::new(path), options)
                });
                if result.is_err() {
                    break;
                }
                context.report(&engine, &container.config.id, EventKind::ExtractToDir)?;
            }
            result
        }
    };
    progress.finish();
    Ok(copied?)
}

/// Returns the containers of a service that take part: when something comes out of them, the first.
fn chosen<'a>(
    scope: &Scope,
    containers: &'a [Container],
    service: &str,
    args: &CpArgs,
) -> Result<Vec<&'a Container>, Error> {
    if args.index.is_some() {
        return Ok(vec![scope.one(containers, service, args.index)?]);
    }
    let own = |container: &&Container| container.service() == service && (args.all || !container.is_oneoff());
    let mut chosen = containers.iter().filter(own).collect::<Vec<_>>();
    chosen.sort_by_key(|container| (container.is_oneoff(), container.number()));
    if chosen.is_empty() {
        let hint = format!("rcompose create {service}");
        return Err(Error::with_hint(format!("no container found for service \"{service}\""), hint));
    }
    Ok(chosen)
}

/// Splits `SERVICE:PATH`; what begins like a path is one of this host.
fn split(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((service, path)) if !text.starts_with(['/', '.']) && !service.is_empty() => (Some(service), path),
        _ => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_container_has_its_service_in_front() {
        for (text, want) in [
            ("web:/etc", (Some("web"), "/etc")),
            ("web:etc:x", (Some("web"), "etc:x")),
            ("./a:b", (None, "./a:b")),
            ("/a:b", (None, "/a:b")),
            ("file", (None, "file")),
            ("-", (None, "-")),
        ] {
            assert_eq!(split(text), want);
        }
    }
}
