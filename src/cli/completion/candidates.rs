//! What may stand where a name is expected: services, profiles, projects, containers, images, networks.
//!
//! Nothing is said, asked of another host, or started for it. Where something cannot be read there are fewer candidates.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, OnceLock};

use clap::{CommandFactory as _, FromArgMatches as _};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _};
use rcompose_engine::container::state::Status;
use rcompose_engine::container::store::{self, Container};

use crate::cli::context::Context;
use crate::cli::image::local::Local as Images;
use crate::cli::network::local::Local as Networks;
use crate::cli::{Cli, GlobalArgs};
use crate::compose::{self, Disk, LoadOptions, Loaded};
use crate::project::labels::{Labelled as _, PROJECT};
use crate::ui::Ui;

/// Where the candidates for an argument come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The services of the files, also those of profiles that are not active.
    Services,
    /// Likewise, each with `=`.
    Scales,
    /// Likewise, each with `:`; or else a path of this host.
    Paths,
    /// The services that have a container in one of these states; where there is none, those of the files.
    InState(&'static [Status]),
    Profiles,
    Projects,
    /// Every container of this host.
    Containers,
    Images,
    Networks,
}

const RUNNING: Source = Source::InState(&[Status::Running, Status::Restarting]);
const PAUSED: Source = Source::InState(&[Status::Paused]);
const ACTIVE: Source = Source::InState(&[Status::Running, Status::Restarting, Status::Paused]);

/// Returns what an argument of a command is to be; `command` is its words without the program's.
fn source(command: &str, argument: &str) -> Option<Source> {
    let of_group = command.split(' ').next().unwrap_or_default();
    Some(match (of_group, argument) {
        (_, "profile") => Source::Profiles,
        (_, "project_name") => Source::Projects,
        (_, "scale") | ("scale", "services") => Source::Scales,
        ("exec" | "attach" | "port" | "pause" | "top" | "stats", "service" | "services") => RUNNING,
        ("unpause", "services") => PAUSED,
        ("stop" | "kill" | "wait", "services") => ACTIVE,
        (_, "service" | "services" | "exit_code_from" | "attach" | "no_attach") | ("ps", "names") => Source::Services,
        ("cp", "source" | "destination") => Source::Paths,
        ("inspect", "names") | ("network", "container") => Source::Containers,
        ("network", "network" | "networks" | "names") if command != "network create" => Source::Networks,
        ("image", "image" | "images" | "source" | "name") if !["image pull", "image import"].contains(&command) => {
            Source::Images
        }
        _ => return None,
    })
}

/// Returns the command line with candidates for what is expected, after `words` were typed.
pub(super) fn offer(command: clap::Command, words: Vec<OsString>) -> clap::Command {
    with_candidates(command, "", &Arc::new(Typed::of(words)))
}

fn with_candidates(command: clap::Command, path: &str, typed: &Arc<Typed>) -> clap::Command {
    let offered = command.mut_args(|argument| match source(path, argument.get_id().as_str()) {
        None => argument,
        Some(source) => {
            let typed = Arc::clone(typed);
            argument.add(ArgValueCompleter::new(move |begun: &OsStr| typed.candidates(source, begun)))
        }
    });
    offered.mut_subcommands(|command| {
        let path = format!("{path} {}", command.get_name());
        with_candidates(command, path.trim_start(), typed)
    })
}

/// What was typed, as far as it says which project is meant.
#[derive(Debug)]
struct Typed {
    context: Context,
    loaded: OnceLock<Option<Loaded>>,
}

impl Typed {
    fn of(words: Vec<OsString>) -> Self {
        // What is not finished has faults.
        let matches = Cli::command().ignore_errors(true).try_get_matches_from(words);
        let global = matches.and_then(|matches| GlobalArgs::from_arg_matches(&matches)).unwrap_or_default();
        Self { context: Context::new(global, Ui::default()), loaded: OnceLock::new() }
    }

    /// Returns what begins as it was typed.
    fn candidates(&self, source: Source, begun: &OsStr) -> Vec<CompletionCandidate> {
        let names = match source {
            Source::Services => self.services(),
            Source::Scales => self.services().into_iter().map(|service| format!("{service}=")).collect(),
            Source::Paths => self.services().into_iter().map(|service| format!("{service}:")).collect(),
            Source::InState(states) => self.in_state(states),
            Source::Profiles => self.profiles(),
            Source::Projects => {
                let own =
                    |container: &Container| container.label(PROJECT).unwrap_or(&container.config.project).to_owned();
                self.containers(None).iter().map(own).collect()
            }
            Source::Containers => self.containers(None).into_iter().map(|container| container.config.name).collect(),
            Source::Images => {
                let images = Images::open(&self.context).map(|local| local.images).unwrap_or_default();
                let named = images.iter().filter(|image| !image.dangling);
                named.map(|image| image.reference.familiar()).collect()
            }
            Source::Networks => {
                let networks = Networks::open(&self.context).map(|local| local.networks).unwrap_or_default();
                networks.into_iter().map(|network| network.config.name).collect()
            }
        };
        let begun_text = begun.to_string_lossy();
        let fitting = names.into_iter().filter(|name| name.starts_with(&*begun_text)).map(CompletionCandidate::new);
        let paths = if source == Source::Paths { PathCompleter::any().complete(begun) } else { Vec::new() };
        fitting.chain(paths).collect()
    }

    /// Returns the project with all its profiles, if its files are on this host and have no faults.
    fn loaded(&self) -> Option<&Loaded> {
        let load = || {
            let options = LoadOptions { profiles: vec!["*".to_owned()], ..self.context.global.load_options() };
            compose::load(&options, &Disk).ok()
        };
        self.loaded.get_or_init(load).as_ref()
    }

    fn services(&self) -> BTreeSet<String> {
        match self.loaded() {
            Some(loaded) => loaded.project.services.keys().cloned().collect(),
            None => self.own().iter().map(|container| container.service().to_owned()).collect(),
        }
    }

    fn in_state(&self, states: &[Status]) -> BTreeSet<String> {
        let own = self.own();
        let there = own.iter().filter(|container| !container.is_oneoff() && states.contains(&container.state.status));
        let there = there.map(|container| container.service().to_owned()).collect::<BTreeSet<_>>();
        if there.is_empty() { self.services() } else { there }
    }

    fn profiles(&self) -> BTreeSet<String> {
        let services = self.loaded().into_iter().flat_map(|loaded| loaded.project.services.values());
        services.flat_map(|service| service.profiles.iter().cloned()).collect()
    }

    /// Returns the containers of the project.
    fn own(&self) -> Vec<Container> {
        let global = &self.context.global;
        let name = global.project_name.clone().or_else(|| self.loaded().map(|loaded| loaded.project.name.clone()));
        name.map(|name| self.containers(Some(&self.context.named(&name)))).unwrap_or_default()
    }

    fn containers(&self, project: Option<&str>) -> Vec<Container> {
        let root = self.context.root();
        root.ok().and_then(|root| store::list(&root, project).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the ids of the arguments of all commands that are told as `path id`.
    fn arguments(command: &clap::Command, path: &str, all: &mut BTreeSet<String>) {
        all.extend(command.get_arguments().map(|argument| format!("{path} {}", argument.get_id()).trim().to_owned()));
        for command in command.get_subcommands() {
            arguments(command, format!("{path} {}", command.get_name()).trim(), all);
        }
    }

    #[test]
    fn every_name_of_a_service_has_candidates() {
        let mut all = BTreeSet::new();
        arguments(&Cli::command(), "", &mut all);
        for argument in &all {
            let (command, id) = argument.rsplit_once(' ').unwrap_or(("", argument));
            if ["service", "services"].contains(&id) {
                assert!(source(command, id).is_some(), "{argument}");
            }
        }
        for wanted in [
            "profile",
            "project_name",
            "up scale",
            "up attach",
            "up no_attach",
            "up exit_code_from",
            "scale services",
            "cp source",
            "cp destination",
            "ps names",
            "inspect names",
            "image rm images",
            "image tag source",
            "network rm networks",
            "network connect network",
            "network connect container",
        ] {
            assert!(all.contains(wanted), "there is no {wanted}: {all:#?}");
            let (command, id) = wanted.rsplit_once(' ').unwrap_or(("", wanted));
            assert!(source(command, id).is_some(), "{wanted}");
        }
    }

    #[test]
    fn what_was_typed_says_which_project() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect();
        let global = Typed::of(words("rcompose -p shop --profile debug -f a.yaml exec ")).context.global;
        assert_eq!(global.project_name.as_deref(), Some("shop"));
        assert_eq!((global.profile, global.file), (vec!["debug".to_owned()], vec!["a.yaml".to_owned()]));
        assert_eq!(Typed::of(words("rcompose -p shop --profile")).context.global.project_name.as_deref(), Some("shop"));
    }
}
