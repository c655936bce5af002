//! What every command begins with: the project, the engine, the runtime.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcompose_engine::container::store::Container;
use rcompose_engine::id::Id;
use rcompose_engine::image::Hold;
use rcompose_engine::protocol::EventKind;
use rcompose_engine::root::Root;

use super::error::Error;
use super::{GlobalArgs, signals};
use crate::compose::{self, LoadOptions, Loaded, Project};
use crate::project::apart::{self, Ports};
use crate::project::apply::{self, Options};
use crate::project::engine::Engine;
use crate::project::labels::{Labelled as _, ProjectLabels};
use crate::project::place::{claim, claimed, elsewhere};
use crate::project::plan::Plan;
use crate::project::timeline::Recorder;
use crate::remote::{self, Reader};
use crate::ui::Ui;
use crate::ui::progress::Progress;

/// The command line's first half, and what follows from it.
#[derive(Debug)]
pub struct Context {
    pub global: GlobalArgs,
    pub ui: Ui,
    /// `None`: the command is about the project itself.
    pub copy: Option<Copy>,
}

/// A copy of a project beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What its name has behind that of the project.
    pub suffix: String,
    /// `None`: the ports that the files name, on an address of the copy's own.
    pub ports: Option<Ports>,
}

impl Copy {
    fn name(&self, project: &str) -> String {
        format!("{project}-{}", self.suffix)
    }
}

/// The project that a command is about: its files where they are read, and else its name only.
#[derive(Debug)]
pub struct Scope {
    pub name: String,
    pub project: Option<Project>,
}

impl Context {
    pub fn new(global: GlobalArgs, ui: Ui) -> Self {
        let copy = global.instance.clone().map(|suffix| Copy { suffix, ports: None });
        Self { global, ui, copy }
    }

    /// Loads the project with these services and what they depend on; no services: all.
    pub fn project(&self, services: &[String]) -> Result<Project, Error> {
        Ok(self.load(services)?.project)
    }

    /// Likewise, with what it was made of.
    pub fn load(&self, services: &[String]) -> Result<Loaded, Error> {
        self.load_with(LoadOptions { services: services.to_vec(), ..self.global.load_options() })
    }

    /// Loads the project with the services of all profiles.
    pub fn load_all(&self) -> Result<Loaded, Error> {
        self.load_with(LoadOptions { profiles: vec!["*".to_owned()], ..self.global.load_options() })
    }

    fn load_with(&self, mut options: LoadOptions) -> Result<Loaded, Error> {
        let reader = Reader::of_host();
        let mut loaded = compose::load(&options, &reader).map_err(Error::Faults)?;
        if let Some(copy) = &self.copy {
            // Names of what it has follow from its own.
            options.project_name = Some(copy.name(&loaded.project.name));
            loaded = compose::load(&options, &reader).map_err(Error::Faults)?;
            let address = || Ports::At(apart::address(&loaded.project.name));
            let ports = copy.ports.unwrap_or_else(address);
            apart::set_apart(&mut loaded.project, ports);
        }
        self.ui.diagnostics(&loaded.warnings);
        tracing::debug!(name = loaded.project.name, services = loaded.project.services.len(), "loaded the project");
        Ok(loaded)
    }

    /// Returns the project that a command on what is there is about. Its files are not looked for where its name is given.
    pub fn scope(&self) -> Result<Scope, Error> {
        if let (Some(name), true) = (&self.global.project_name, self.global.file.is_empty()) {
            return Ok(Scope { name: self.named(name), project: None });
        }
        match self.project(&[]) {
            Ok(project) => Ok(Scope { name: project.name.clone(), project: Some(project) }),
            // Whoever names both a project and its file does not mean another project.
            Err(error) if self.global.project_name.is_some() => Err(error),
            Err(error) => match std::env::var("COMPOSE_PROJECT_NAME") {
                Ok(name) if !name.is_empty() => Ok(Scope { name: self.named(&name), project: None }),
                _ => Err(error),
            },
        }
    }

    /// Returns what the project with this name, or the copy of it that is meant, is called.
    pub fn named(&self, project: &str) -> String {
        self.copy.as_ref().map_or_else(|| project.to_owned(), |copy| copy.name(project))
    }

    /// Returns the directories that everything is kept in.
    pub fn root(&self) -> Result<Root, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::with_hint("this needs root", "run it with sudo"));
        }
        Ok(match &self.global.root {
            Some(directory) => Root::below(&std::path::absolute(directory)?),
            None => Root::system(),
        })
    }

    /// Returns the engine for a project.
    pub fn engine(&self, project: &str) -> Result<Engine, Error> {
        Ok(Engine::new(self.root()?, project.to_owned()))
    }

    /// Returns the project's containers to a command that changes them, unless they are those of another place.
    pub fn own(&self, scope: &Scope, engine: &Engine) -> Result<Vec<Container>, Error> {
        let containers = engine.containers()?;
        // Whoever says the name only means what there is, wherever it comes from.
        if let Some(project) = &scope.project {
            self.refuse_elsewhere(project, &containers)?;
        }
        Ok(containers)
    }

    /// Refuses a project whose name belongs to what was started from another place.
    pub fn refuse_elsewhere(&self, project: &Project, containers: &[Container]) -> Result<(), Error> {
        match elsewhere(&self.labels(project), containers, remote::cache().as_deref()) {
            Some(elsewhere) => Err(Error::with_hint(elsewhere.to_string(), elsewhere.hint())),
            None => Ok(()),
        }
    }

    /// Makes sure that nobody makes containers under the project's name from another place, now or meanwhile.
    pub async fn claim(&self, project: &Project, engine: &Engine) -> Result<(), Error> {
        let labels = self.labels(project);
        let standing = engine.client().await?.claim(claim(&labels)).await?;
        if let Some(elsewhere) = claimed(&labels, &standing, remote::cache().as_deref()) {
            return Err(Error::with_hint(elsewhere.to_string(), elsewhere.hint()));
        }
        // Whoever was faster may have finished in between.
        self.refuse_elsewhere(project, &engine.containers()?)
    }

    /// Returns what is written on everything that the project makes.
    pub fn labels(&self, project: &Project) -> ProjectLabels {
        let text = |path: &Path| path.display().to_string();
        let directory = &project.working_dir;
        let environment_files = match self.global.env_file.as_slice() {
            [] => Some(directory.join(".env")).filter(|path| path.is_file()).into_iter().collect::<Vec<PathBuf>>(),
            given => given.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())).collect(),
        };
        ProjectLabels {
            name: project.name.clone(),
            working_dir: text(directory),
            config_files: project.compose_files.iter().map(|path| text(path)).collect(),
            environment_files: environment_files.iter().map(|path| text(path)).collect(),
        }
    }

    /// Carries out a plan and shows its steps. The first interrupt ends it.
    pub async fn apply(
        &self,
        engine: &Arc<Engine>,
        plan: Plan,
        title: &'static str,
        keep_going: bool,
    ) -> Result<(), Error> {
        self.apply_on(engine, plan, &self.ui.progress(title), keep_going).await
    }

    /// Carries out a plan and shows its steps in this place.
    pub async fn apply_on(
        &self,
        engine: &Arc<Engine>,
        plan: Plan,
        progress: &Progress,
        keep_going: bool,
    ) -> Result<(), Error> {
        self.carry_out(engine, plan, progress, Options { keep_going, ..Options::default() }).await
    }

    /// Carries out a plan that makes containers of images that are kept until then, and notes its steps.
    pub async fn apply_with(
        &self,
        engine: &Arc<Engine>,
        plan: Plan,
        title: &'static str,
        hold: Option<Hold>,
        recorder: Option<Recorder>,
    ) -> Result<(), Error> {
        self.carry_out(engine, plan, &self.ui.progress(title), Options { recorder, hold, ..Options::default() }).await
    }

    async fn carry_out(
        &self,
        engine: &Arc<Engine>,
        plan: Plan,
        progress: &Progress,
        options: Options,
    ) -> Result<(), Error> {
        for warning in &plan.warnings {
            self.ui.warn(warning);
        }
        let pretend = self.global.dry_run;
        let options = Options { parallel: self.parallel(), interrupt: signals::interrupt()?, pretend, ..options };
        let applied = apply::apply(engine, plan, progress, options).await;
        progress.finish();
        Ok(applied?)
    }

    /// Returns whether a variable of the environment says yes.
    pub fn is_set(&self, variable: &str) -> bool {
        std::env::var(variable).is_ok_and(|value| super::is_yes(&value))
    }

    pub fn parallel(&self) -> Option<usize> {
        usize::try_from(self.global.parallel).ok().filter(|limit| *limit > 0)
    }

    /// Runs a future to its end on this thread.
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        runtime()?.block_on(future)
    }

    /// Lets those who listen to events know what was done to a container ([`Engine::report`]).
    pub fn report(&self, engine: &Engine, id: &Id, kind: EventKind) -> Result<(), Error> {
        self.block_on(async {
            engine.report(id, kind, []).await;
            Ok(())
        })
    }
}

impl Scope {
    /// Returns those of the containers that belong to these services (none: all), one-off ones left out.
    ///
    /// A service that neither the project nor any container knows is an error.
    pub fn select<'a>(&self, containers: &'a [Container], services: &[String]) -> Result<Vec<&'a Container>, Error> {
        let mut selected = self.select_all(containers, services)?;
        selected.retain(|container| !container.is_oneoff());
        Ok(selected)
    }

    /// Returns those of the containers that belong to these services (none: all of the active profiles), one-off ones left out.
    pub fn select_active<'a>(
        &self,
        containers: &'a [Container],
        services: &[String],
    ) -> Result<Vec<&'a Container>, Error> {
        let mut selected = self.select(containers, services)?;
        selected.retain(|container| !services.is_empty() || self.is_active(container));
        Ok(selected)
    }

    /// Returns whether a container is of a service that the files do not have; those of inactive profiles they have.
    pub fn is_orphan(&self, container: &Container) -> bool {
        self.project.as_ref().is_some_and(|project| {
            let service = container.service();
            !project.services.contains_key(service) && !project.disabled_services.contains_key(service)
        })
    }

    /// Returns whether a container is of a service that takes part: one of the active profiles. Without files, all do.
    pub fn is_active(&self, container: &Container) -> bool {
        self.project.as_ref().is_none_or(|project| project.services.contains_key(container.service()))
    }

    /// Likewise with those that `run` made.
    pub fn select_all<'a>(
        &self,
        containers: &'a [Container],
        services: &[String],
    ) -> Result<Vec<&'a Container>, Error> {
        let known = containers.iter().map(Container::service).collect::<BTreeSet<_>>();
        for service in services {
            let declared = self.project.as_ref().is_some_and(|project| {
                project.services.contains_key(service) || project.disabled_services.contains_key(service)
            });
            if !declared && !known.contains(service.as_str()) {
                let files = self.project.iter();
                let files = files.flat_map(|project| project.services.keys().chain(project.disabled_services.keys()));
                return Err(Error::no_such_service(service, files.map(String::as_str).chain(known)));
            }
        }
        let chosen =
            |container: &&Container| services.is_empty() || services.iter().any(|name| name == container.service());
        Ok(containers.iter().filter(chosen).collect())
    }

    /// Returns the running container with this number of a service, or its first one.
    pub fn running<'a>(
        &self,
        containers: &'a [Container],
        service: &str,
        index: Option<u32>,
    ) -> Result<&'a Container, Error> {
        let container = self.one(containers, service, index)?;
        let running = |container: &&Container| container.state.status.is_running();
        if running(&container) {
            return Ok(container);
        }
        let mut own = self.select(containers, &[service.to_owned()])?.into_iter().filter(running);
        match (index, own.next()) {
            (None, Some(container)) => Ok(container),
            _ => Err(Error::with_hint(
                format!("service \"{service}\" is not running"),
                format!("rcompose start {service}"),
            )),
        }
    }

    /// Returns the container with this number of a service, or its first one.
    pub fn one<'a>(
        &self,
        containers: &'a [Container],
        service: &str,
        index: Option<u32>,
    ) -> Result<&'a Container, Error> {
        let mut own = self.select(containers, &[service.to_owned()])?;
        own.sort_by_key(|container| container.number());
        let found = own.into_iter().find(|container| index.is_none_or(|index| container.number() == index));
        found.ok_or_else(|| match index {
            Some(index) => Error::with_hint(
                format!("service \"{service}\" has no container #{index}"),
                format!("rcompose ps -a {service}"),
            ),
            None => {
                Error::with_hint(format!("service \"{service}\" is not running"), format!("rcompose up -d {service}"))
            }
        })
    }
}

/// As good as for ever: a century.
const UNLIMITED: Duration = Duration::from_hours(100 * 365 * 24);

/// Reads a number of seconds, as `--timeout` has it; less than none is no limit, as Docker has it.
pub fn timeout(seconds: Option<i64>) -> Option<Duration> {
    seconds.map(|seconds| u64::try_from(seconds).map_or(UNLIMITED, Duration::from_secs))
}

/// Makes the runtime of a command, which waits on the thread that asks it to.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::new(format!("cannot start the runtime: {error}")))
}
