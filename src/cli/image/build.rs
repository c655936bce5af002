//! `image build`: one image from a directory and its Dockerfile, without a compose file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use rcompose_engine::build::Secret;
use rcompose_engine::build::graph::RunNetwork;
use rcompose_engine::container::config::Ulimit;
use serde_json::json;

use super::reference;
use crate::cli::build::{self, arguments};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::compose::units::parse_bytes;
use crate::project::build::recipe::Recipe;
use crate::project::build::service::agent;
use crate::ui::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image build -t shop/web:1 --build-arg VERSION=1 .")]
pub struct BuildArgs {
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Allow extra privileged entitlement (e.g., "network.host", "security.insecure")
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "KEY[=VALUE]")]
    build_arg: Vec<String>,
    /// Additional build contexts (e.g., name=path)
    #[arg(long, value_name = "NAME=PATH")]
    build_context: Vec<String>,
    /// Set the parent cgroup for the "RUN" instructions during build
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// Name of the Dockerfile (default: "PATH/Dockerfile"; -: standard input)
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Write build result metadata to a file
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Set the networking mode for the "RUN" instructions during build
    #[arg(long, value_parser = network, default_value = "default", value_name = "default|none|host")]
    network: RunNetwork,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Set target platform for build
    #[arg(long)]
    platform: Option<String>,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pull: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret|,env=VARIABLE]")
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Shared memory size for build containers
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// SSH agent socket to expose to the build (format: "default|<id>[=<socket>]")
    #[arg(long, value_name = "ID[=SOCKET]")]
    ssh: Vec<String>,
    /// Name and optionally a tag (format: "name:tag")
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Ulimit options (format: "name=soft[:hard]")
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// The directory that is built
    #[arg(value_name = "PATH")]
    context: String,
}

pub fn run(context: &Context, args: &BuildArgs) -> Result<(), Error> {
    let recipe = recipe(args)?;
    let root = context.root()?;
    let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Building") };
    let built = context.block_on(build::build(context.ui, &root, vec![vec![recipe]], &progress, false));
    progress.finish();
    let Some((_, outcome)) = built?.pop_first() else { return Ok(()) };
    let id = outcome.built.id.to_string();
    if let Some(path) = &args.iidfile {
        write(path, &id)?;
    }
    if let Some(path) = &args.metadata_file {
        let names: Vec<&str> = args.tag.iter().map(String::as_str).collect();
        let metadata = json!({
            "containerimage.config.digest": id,
            "containerimage.descriptor": outcome.built.descriptor,
            "containerimage.digest": outcome.built.digest,
            "image.name": names.join(","),
        });
        write(path, &format!("{metadata:#}\n"))?;
    }
    if args.quiet { Ok(context.ui.out(&format!("{id}\n"))?) } else { Ok(()) }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|error| Error::new(format!("cannot write {}: {error}", path.display())))
}

fn network(text: &str) -> Result<RunNetwork, String> {
    match text {
        "default" => Ok(RunNetwork::Default),
        "none" => Ok(RunNetwork::None),
        "host" => Ok(RunNetwork::Host),
        other => Err(format!("network mode {other:?} is not supported by buildkit")),
    }
}

fn recipe(args: &BuildArgs) -> Result<Recipe, Error> {
    let unsupported = args.context == "-" || args.context.contains("://");
    if unsupported {
        return Err(Error::new(format!(
            "the build context {:?} is not supported yet: only directories are",
            args.context
        )));
    }
    let mut recipe = Recipe::new("", std::path::absolute(&args.context)?);
    if args.file.as_deref() == Some(Path::new("-")) {
        recipe.dockerfile_text = Some(std::io::read_to_string(std::io::stdin())?);
    } else if let Some(file) = &args.file {
        // Relative to where the command is run, and not to the context.
        recipe.dockerfile = std::path::absolute(file)?.display().to_string();
    }
    recipe.target.clone_from(&args.target);
    recipe.arguments = arguments(&args.build_arg);
    recipe.platform.clone_from(&args.platform);
    recipe.contexts = pairs("--build-context", &args.build_context)?;
    recipe.labels = pairs("--label", &args.label)?;
    recipe.tags = args.tag.iter().map(|tag| reference(tag)).collect::<Result<_, _>>()?;
    recipe.no_cache = args.no_cache;
    recipe.no_cache_filter = args.no_cache_filter.iter().cloned().collect::<BTreeSet<_>>();
    recipe.pull = args.pull;
    for secret in &args.secret {
        let (id, secret) = parse_secret(secret)?;
        recipe.secrets.insert(id, secret);
    }
    for text in &args.ssh {
        let (id, path) = text.split_once('=').map_or((text.as_str(), None), |(id, path)| (id, Some(path.to_owned())));
        let socket = agent(path).map_err(|reason| Error::new(format!("--ssh: {reason}")))?;
        recipe.ssh.insert(id.to_owned(), socket);
    }
    recipe.network = args.network;
    for host in &args.add_host {
        let parsed =
            host.split_once(['=', ':']).ok_or_else(|| Error::new(format!("bad format for add-host: {host:?}")))?;
        recipe.hosts.push((parsed.0.to_owned(), parsed.1.to_owned()));
    }
    if let Some(size) = &args.shm_size {
        let parsed = parse_bytes(size).ok().and_then(|size| u64::try_from(size).ok());
        recipe.shm_size = Some(parsed.ok_or_else(|| Error::new(format!("invalid size: {size:?}")))?);
    }
    recipe.ulimits = args.ulimit.iter().map(|limit| parse_ulimit(limit)).collect::<Result<_, _>>()?;
    recipe.cgroup_parent.clone_from(&args.cgroup_parent);
    let allowed = |what: &str| args.allow.iter().any(|given| given == what);
    recipe.insecure = allowed("security.insecure");
    recipe.host_network = allowed("network.host") || args.network == RunNetwork::Host;
    Ok(recipe)
}

fn pairs(flag: &str, given: &[String]) -> Result<BTreeMap<String, String>, Error> {
    given
        .iter()
        .map(|text| {
            let (name, value) =
                text.split_once('=').ok_or_else(|| Error::new(format!("{flag}: {text:?} should be NAME=VALUE")))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

fn parse_secret(text: &str) -> Result<(String, Secret), Error> {
    let (mut id, mut file, mut variable) = (None, None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => file = Some(value.to_owned()),
            Some(("env", value)) => variable = Some(value.to_owned()),
            Some(("type", "file" | "env")) => {}
            _ => return Err(Error::new(format!("--secret: unexpected {part:?} in {text:?}"))),
        }
    }
    let id = id.ok_or_else(|| Error::new(format!("--secret: {text:?} has no id")))?;
    // Without a source it is the variable of its name, or the file.
    let variable = variable.or_else(|| (file.is_none() && std::env::var_os(&id).is_some()).then(|| id.clone()));
    let secret = match variable {
        Some(name) => {
            use std::os::unix::ffi::OsStringExt as _;
            let value = std::env::var_os(&name)
                .ok_or_else(|| Error::new(format!("--secret: the variable {name} of secret {id} is not set")))?;
            Secret::Value(value.into_vec())
        }
        None => Secret::File(std::path::absolute(file.unwrap_or_else(|| id.clone()))?),
    };
    Ok((id, secret))
}

fn parse_ulimit(text: &str) -> Result<Ulimit, Error> {
    let invalid = || Error::new(format!("invalid ulimit argument: {text}"));
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse().map_err(|_| invalid());
    Ok(Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? })
}
