//! `build` of services → recipes, in an order in which each finds what it is built on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rcompose_engine::build::Secret;
use rcompose_engine::build::graph::RunNetwork;
use rcompose_engine::container::config::Ulimit;
use rcompose_engine::error::chain;
use rcompose_engine::image::{Compression, Platform, Reference, ReferenceError};

use super::recipe::{Contents, Recipe};
use crate::compose::model::{Build, Project, Service};
use crate::project::names;

/// What a named context begins with that is another service's image.
const SERVICE: &str = "service:";

/// Why a service cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("service \"{service}\": invalid image name \"{reference}\"")]
    Reference {
        service: String,
        reference: String,
        #[source]
        source: ReferenceError,
    },
    #[error("service \"{service}\": build.{attribute}: {reason}")]
    Invalid { service: String, attribute: &'static str, reason: String },
    #[error("services are built on one another in a circle: {}", .0.join(", "))]
    Circle(Vec<String>),
}

/// What the command line says of all builds.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub arguments: BTreeMap<String, String>,
    pub no_cache: bool,
    pub pull: bool,
    /// What is built goes to registries.
    pub push: bool,
    /// It is built for all platforms that services list, and not only for the one that they run on.
    pub all_platforms: bool,
    /// Bytes of memory that a command may use.
    pub memory: Option<u64>,
    /// What is attested, as it is written, in place of what services say.
    pub provenance: Option<String>,
    pub sbom: Option<String>,
    /// Where it is said what there was before a command that failed.
    pub halted: Option<Arc<OnceLock<Reference>>>,
    /// `--ssh`, as it is written.
    pub ssh: Vec<String>,
}

/// Recipes that can be worked on at once.
pub type Round = Vec<Recipe>;

/// Returns the recipes of these services and of what they are built on, in rounds: each needs only rounds before it.
pub fn rounds(
    project: &Project,
    services: &BTreeSet<String>,
    overrides: &Overrides,
) -> Result<Vec<Round>, RecipeError> {
    let mut wanted = BTreeSet::new();
    let mut open: Vec<&str> = services.iter().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        let Some(build) = find(project, name).and_then(|service| service.build.as_ref()) else { continue };
        if wanted.insert(name) {
            open.extend(bases(build));
        }
    }
    let mut rounds = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while !wanted.is_empty() {
        let ready: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|name| {
                let build = find(project, name).and_then(|service| service.build.as_ref());
                build.is_none_or(|build| bases(build).all(|base| done.contains(base) || !wanted.contains(base)))
            })
            .collect();
        if ready.is_empty() {
            return Err(RecipeError::Circle(wanted.iter().map(|name| (*name).to_owned()).collect()));
        }
        let mut round = Vec::new();
        for name in ready {
            wanted.remove(name);
            done.insert(name);
            if let Some((service, build)) =
                find(project, name).and_then(|service| Some((service, service.build.as_ref()?)))
            {
                round.push(recipe(project, service, build, overrides)?);
            }
        }
        rounds.push(round);
    }
    Ok(rounds)
}

fn find<'a>(project: &'a Project, name: &str) -> Option<&'a Service> {
    project.services.get(name).or_else(|| project.disabled_services.get(name))
}

/// Returns the services that a build names as contexts.
fn bases(build: &Build) -> impl Iterator<Item = &str> {
    build.additional_contexts.values().filter_map(|context| context.strip_prefix(SERVICE))
}

fn recipe(project: &Project, service: &Service, build: &Build, overrides: &Overrides) -> Result<Recipe, RecipeError> {
    let invalid = |attribute, reason: String| RecipeError::Invalid { service: service.name.clone(), attribute, reason };
    let name = names::image(project, service);
    let mut context = Contents::parse(&build.context).map_err(|fault| invalid("context", fault.to_string()))?;
    let arguments: BTreeMap<String, String> = build
        .args
        .iter()
        // One without a value anywhere is as if it were not there.
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
        .chain(overrides.arguments.clone())
        .collect();
    context.keep_git_directory(&arguments);
    let mut recipe = Recipe::new(&service.name, context);
    if !build.dockerfile.is_empty() {
        recipe.dockerfile.clone_from(&build.dockerfile);
    }
    recipe.dockerfile_text.clone_from(&build.dockerfile_inline);
    recipe.target = build.target.clone().filter(|target| !target.is_empty());
    recipe.arguments.extend(arguments);
    recipe.platforms =
        platforms(service, build, overrides.all_platforms).map_err(|reason| invalid("platforms", reason))?;
    recipe.compression = overrides.push.then_some(Compression::USUAL);
    for (context, value) in &build.additional_contexts {
        let value = match value.strip_prefix(SERVICE) {
            Some(base) => {
                let base = find(project, base)
                    .ok_or_else(|| invalid("additional_contexts", format!("there is no service {base:?}")))?;
                let image = names::image(project, base);
                recipe.built_here.insert(reference(service, &image)?.familiar());
                format!("docker-image://{image}")
            }
            None => value.clone(),
        };
        recipe.contexts.insert(context.clone(), value);
    }
    recipe.use_caches(&build.cache_from, &build.cache_to).map_err(|reason| invalid("cache_from, cache_to", reason))?;
    let provenance = overrides.provenance.as_ref().or(build.provenance.as_ref());
    let sbom = overrides.sbom.as_ref().or(build.sbom.as_ref());
    recipe
        .attest(provenance.map(String::as_str), sbom.map(String::as_str))
        .map_err(|reason| invalid("provenance", reason))?;
    recipe.memory = overrides.memory;
    recipe.halted.clone_from(&overrides.halted);
    recipe.labels.clone_from(&build.labels);
    for name in std::iter::once(&name).chain(&build.tags) {
        recipe.tags.push(reference(service, name)?);
    }
    recipe.no_cache = build.no_cache || overrides.no_cache;
    recipe.pull = build.pull || overrides.pull;
    recipe.secrets = secrets(project, build);
    for key in &build.ssh {
        recipe
            .use_agent(&key.id, key.path.as_deref().unwrap_or_default())
            .map_err(|error| invalid("ssh", chain(&error)))?;
    }
    for text in &overrides.ssh {
        recipe.use_ssh(text).map_err(|error| invalid("ssh", chain(&error)))?;
    }
    recipe.network = match build.network.as_deref() {
        None | Some("" | "default") => RunNetwork::Default,
        Some("none") => RunNetwork::None,
        Some("host") => RunNetwork::Host,
        Some(other) => return Err(invalid("network", format!("network mode {other:?} is not supported by buildkit"))),
    };
    for host in &build.extra_hosts {
        let (name, address) =
            host.split_once('=').ok_or_else(|| invalid("extra_hosts", format!("{host:?} has no address")))?;
        recipe.hosts.push((name.to_owned(), address.to_owned()));
    }
    recipe.shm_size = u64::try_from(build.shm_size).ok().filter(|size| *size > 0);
    let limit = |(name, limit): (&String, &crate::compose::model::Ulimit)| Ulimit {
        name: name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    };
    recipe.ulimits = build.ulimits.iter().map(limit).collect();
    let entitled = |what: &str| build.entitlements.iter().any(|given| given == what);
    recipe.insecure = build.privileged || entitled("security.insecure");
    recipe.host_network = entitled("network.host") || recipe.network == RunNetwork::Host;
    Ok(recipe)
}

/// Returns the secrets of a build, by their ids.
fn secrets(project: &Project, build: &Build) -> BTreeMap<String, Secret> {
    let mut secrets = BTreeMap::new();
    for secret in &build.secrets {
        let Some(known) = project.secrets.get(&secret.source) else { continue };
        let value = match (&known.file, &known.content) {
            (Some(file), _) => Secret::File(PathBuf::from(file)),
            (None, Some(content)) => Secret::Value(content.clone().into_bytes()),
            (None, None) => continue,
        };
        let id = secret.target.clone().filter(|target| !target.is_empty());
        secrets.insert(id.unwrap_or_else(|| secret.source.clone()), value);
    }
    secrets
}

/// Returns for what machines a service's image is built.
fn platforms(service: &Service, build: &Build, all: bool) -> Result<Vec<String>, String> {
    let own = service.platform.as_ref().filter(|platform| !platform.is_empty());
    let listed = |platform: &String| build.platforms.iter().any(|listed| same(listed, platform));
    if let Some(own) = own.filter(|own| !build.platforms.is_empty() && !listed(own)) {
        return Err(format!("they lack the service's platform {own:?}"));
    }
    if all && !build.platforms.is_empty() {
        return Ok(build.platforms.clone());
    }
    let host = Platform::host().to_string();
    let usual = build.platforms.iter().find(|listed| same(listed, &host)).or(build.platforms.first());
    Ok(own.or(usual).cloned().into_iter().collect())
}

/// Returns whether two platforms are one, however they are written. What is no platform is found out by the build.
fn same(one: &str, other: &str) -> bool {
    one == other || one.parse::<Platform>().is_ok_and(|one| other.parse() == Ok(one))
}

fn reference(service: &Service, name: &str) -> Result<Reference, RecipeError> {
    name.parse().map_err(|source| RecipeError::Reference {
        service: service.name.clone(),
        reference: name.to_owned(),
        source,
    })
}
