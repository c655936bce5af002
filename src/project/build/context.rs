//! What a recipe is built from, there to be read: directories of the host as they are, everything else fetched, once for
//! all builds of a command.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rcompose_engine::build::dispatch::NamedContext;
use rcompose_engine::build::graph::MAIN_CONTEXT;
use rcompose_engine::build::ignore::read_lines;
use rcompose_engine::build::{Files, Received, StepError};
use rcompose_engine::error::chain;
use tokio::sync::OnceCell;

use super::recipe::{Contents, Recipe};
use super::{FailedBuild, Workshop};

/// The longest Dockerfile and `.dockerignore`, in bytes.
const LONGEST: u64 = 16 << 20;

/// What a directory of a web server's Dockerfile is called where it has no other name.
const DOCKERFILE: &str = "Dockerfile";

/// What a named context begins with that is a target of a bake file.
const TARGET: &str = "target:";

/// What was fetched for the builds of one command.
pub(super) type Kept = Arc<Mutex<HashMap<Contents, Arc<OnceCell<Source>>>>>;

/// Something that a recipe names as a context.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Files(Files),
    /// A Dockerfile alone.
    Text(Arc<Vec<u8>>),
}

/// What a recipe is built from.
#[derive(Debug)]
pub(super) struct Gathered {
    /// What the Dockerfile is called, and its text.
    pub(super) dockerfile: (String, Vec<u8>),
    /// The patterns of what is left out of the build's own context.
    pub(super) ignore: Vec<String>,
    /// The files of all contexts, the build's own among them.
    pub(super) files: BTreeMap<String, Files>,
    /// The named contexts.
    pub(super) named: BTreeMap<String, NamedContext>,
    /// The patterns of those that are directories of the host.
    pub(super) context_ignore: BTreeMap<String, Vec<String>>,
}

impl Workshop {
    /// Has everything that a recipe is built from, but images.
    pub(super) async fn gather(&self, recipe: &Recipe) -> Result<Gathered, FailedBuild> {
        let main = self.source(recipe, &recipe.context).await?;
        let mut gathered = Gathered {
            dockerfile: self.dockerfile(recipe, &main).await?,
            ignore: Vec::new(),
            files: BTreeMap::new(),
            named: BTreeMap::new(),
            context_ignore: BTreeMap::new(),
        };
        let files = match main {
            Source::Files(files) => files,
            Source::Text(_) => Files::Fetched(self.builder.empty().map_err(|error| failed("-", error))?),
        };
        if let Files::Directory(directory) = &files {
            gathered.ignore = ignore_of(recipe, directory)?;
        }
        gathered.files.insert(MAIN_CONTEXT.to_owned(), files);
        for (name, value) in &recipe.contexts {
            let context = named(name, value)?;
            match &context {
                NamedContext::Directory(path) => {
                    if let Some(target) = path.strip_prefix(TARGET) {
                        return Err(FailedBuild::NoTarget { name: name.clone(), target: target.to_owned() });
                    }
                    let directory = PathBuf::from(path);
                    if !directory.is_dir() {
                        return Err(FailedBuild::NoNamedContext { name: name.clone(), path: directory });
                    }
                    let ignore = read_ignore(&directory.join(".dockerignore"))?.unwrap_or_default();
                    gathered.context_ignore.insert(name.clone(), ignore);
                    gathered.files.insert(name.clone(), Files::Directory(directory));
                }
                NamedContext::Archive(url) => match self.source(recipe, &Contents::Url(url.clone())).await? {
                    Source::Files(files) => drop(gathered.files.insert(name.clone(), files)),
                    Source::Text(_) => return Err(FailedBuild::NoArchive(url.clone())),
                },
                // They belong to the graph.
                NamedContext::Image(_) | NamedContext::Git(_) => {}
            }
            gathered.named.insert(name.clone(), context);
        }
        Ok(gathered)
    }

    /// Has one context, which is fetched only once.
    async fn source(&self, recipe: &Recipe, contents: &Contents) -> Result<Source, FailedBuild> {
        if let Contents::Directory(directory) = contents {
            if !directory.is_dir() {
                return Err(FailedBuild::NoContext(directory.clone()));
            }
            return Ok(Source::Files(Files::Directory(directory.clone())));
        }
        let cell = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(kept.entry(contents.clone()).or_default())
        };
        cell.get_or_try_init(|| self.fetch(recipe, contents)).await.cloned()
    }

    async fn fetch(&self, recipe: &Recipe, contents: &Contents) -> Result<Source, FailedBuild> {
        let (shown, label) = match contents {
            Contents::Git(git) => {
                let reference = git.reference.as_ref().map(|reference| format!("#{reference}")).unwrap_or_default();
                (git.remote.clone(), format!("[internal] load git source {}{reference}", git.remote))
            }
            Contents::Url(url) => (url.clone(), "[internal] load remote build context".to_owned()),
            Contents::Directory(_) | Contents::Stdin => {
                ("-".to_owned(), "[internal] load remote build context".to_owned())
            }
        };
        let aside = self.builder.aside(&recipe.name, &label);
        let work = async {
            match contents {
                Contents::Git(git) => {
                    let fetched = self.builder.clone_repository(git, &recipe.keyring()).await?;
                    Ok(Source::Files(Files::Fetched(fetched)))
                }
                Contents::Url(url) => {
                    let told = |received| aside.received(received, None);
                    Ok(self.builder.download(url, LONGEST, told).await?.into())
                }
                Contents::Directory(_) | Contents::Stdin => {
                    Ok(self.builder.receive(io::stdin(), LONGEST).await?.into())
                }
            }
        };
        let fetched = tokio::select! {
            fetched = work => fetched,
            () = self.interrupt.cancelled() => Err(StepError::Interrupted),
        };
        aside.end(fetched.as_ref().err().map(|error| chain(error)));
        fetched.map_err(|error| failed(&shown, error))
    }

    /// Returns what the Dockerfile is called, and its text.
    async fn dockerfile(&self, recipe: &Recipe, main: &Source) -> Result<(String, Vec<u8>), FailedBuild> {
        let typed = &recipe.dockerfile;
        let name = Path::new(typed).file_name();
        let name = name.map_or_else(|| typed.clone(), |name| name.to_string_lossy().into_owned());
        if let Some(text) = &recipe.dockerfile_text {
            return Ok((DOCKERFILE.to_owned(), text.clone().into_bytes()));
        }
        if typed.starts_with("http://") || typed.starts_with("https://") {
            return match self.source(recipe, &Contents::Url(typed.clone())).await? {
                Source::Text(text) => Ok((name, text.to_vec())),
                Source::Files(_) => Err(FailedBuild::NoText(typed.clone())),
            };
        }
        let found = match main {
            Source::Text(_) if typed != DOCKERFILE => return Err(FailedBuild::Ambiguous),
            Source::Text(text) => return Ok((name, text.to_vec())),
            Source::Files(Files::Directory(directory)) => read(&directory.join(typed))?,
            Source::Files(Files::Fetched(fetched)) => {
                fetched.read(typed, LONGEST).map_err(|error| failed(typed, error))?
            }
        };
        found.map(|bytes| (name.clone(), bytes)).ok_or(FailedBuild::NoDockerfile(name))
    }
}

impl From<Received> for Source {
    fn from(received: Received) -> Self {
        match received {
            Received::Archive(fetched) => Self::Files(Files::Fetched(fetched)),
            Received::Text(text) => Self::Text(Arc::new(text)),
        }
    }
}

fn failed(context: &str, source: StepError) -> FailedBuild {
    match source {
        StepError::Interrupted => FailedBuild::Interrupted,
        source => FailedBuild::Context { context: context.to_owned(), source: Box::new(source) },
    }
}

fn named(name: &str, value: &str) -> Result<NamedContext, FailedBuild> {
    NamedContext::parse(value)
        .map_err(|source| FailedBuild::NamedContext { name: name.to_owned(), source: Box::new(source) })
}

fn ignore_of(recipe: &Recipe, directory: &Path) -> Result<Vec<String>, FailedBuild> {
    ignored_of(directory, recipe.dockerfile_text.is_none().then_some(recipe.dockerfile.as_str()))
}

/// Returns the patterns of files that are left out of a context: those of the Dockerfile, else those of the context.
pub fn ignored_of(directory: &Path, dockerfile: Option<&str>) -> Result<Vec<String>, FailedBuild> {
    if let Some(dockerfile) = dockerfile {
        let own = directory.join(format!("{dockerfile}.dockerignore"));
        if let Some(lines) = read_ignore(&own)? {
            return Ok(lines);
        }
    }
    Ok(read_ignore(&directory.join(".dockerignore"))?.unwrap_or_default())
}

fn read_ignore(path: &Path) -> Result<Option<Vec<String>>, FailedBuild> {
    Ok(read(path)?.map(read_lines))
}

/// Reads a file of the host if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, FailedBuild> {
    let failed = |source| FailedBuild::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(FailedBuild::TooLong { path: path.to_owned(), limit: LONGEST >> 20 });
    }
    Ok(Some(bytes))
}
