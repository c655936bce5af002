//! `image build`: one image from a directory and its Dockerfile, without a compose file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use rcompose_engine::build::Secret;
use rcompose_engine::build::graph::RunNetwork;
use rcompose_engine::container::config::Ulimit;
use rcompose_engine::error::chain;
use serde_json::json;

use super::call::{Call, Method, answer};
use super::reference;
use crate::cli::build::{self, arguments};
use crate::cli::context::Context;
use crate::cli::debug::with_shell;
use crate::cli::error::Error;
use crate::cli::ignored::Ignored;
use crate::project::build::Delivered;
use crate::project::build::output::{Annotation, Output, Push};
use crate::project::build::recipe::{Contents, Recipe};
use crate::ui::progress::{Form, Progress};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image build -t shop/web:1 --build-arg VERSION=1 .")]
pub struct BuildArgs {
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Allow extra privileged entitlement (e.g., "network.host", "security.insecure")
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Add annotation to the image (format: "[where:]key=value")
    #[arg(long, value_name = "ANNOTATION")]
    annotation: Vec<String>,
    /// Attestation parameters (format: "type=sbom,generator=image", "type=provenance,mode=max")
    #[arg(long, value_name = "ATTESTATION")]
    attest: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "KEY[=VALUE]")]
    build_arg: Vec<String>,
    /// Additional build contexts (e.g., name=path)
    #[arg(long, value_name = "NAME=PATH")]
    build_context: Vec<String>,
    /// Set builder to use: there is one, "default"
    #[arg(long, value_parser = build::builder, value_name = "NAME")]
    builder: Option<String>,
    /// External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,
    /// Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
    /// Set method for evaluating build ("build", "check", "outline", "targets"; with ",format=json")
    #[arg(long, value_name = "METHOD", value_parser = Call::parse, default_value = "build")]
    call: Call,
    /// Shorthand for "--call=check"
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// Set the parent cgroup for the "RUN" instructions during build
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// Open a shell in the state before the command that fails
    #[arg(long)]
    debug: bool,
    /// Name of the Dockerfile (default: "PATH/Dockerfile"; -: standard input; or a URL)
    #[arg(short, long, value_name = "PATH")]
    file: Option<String>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Shorthand for "--output=type=docker"
    #[arg(long)]
    load: bool,
    /// Set memory limit for the commands of the build
    #[arg(short, long, value_name = "BYTES", value_parser = build::memory)]
    memory: Option<u64>,
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
    /// Output destination (format: "type=local,dest=path"; types: image, registry, oci, docker, local, tar, cacheonly)
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<String>,
    /// Set target platforms for build
    #[arg(long, value_delimiter = ',')]
    platform: Vec<String>,
    /// Set type of progress output
    #[arg(long, value_enum)]
    progress: Option<Form>,
    /// Shorthand for "--attest=type=provenance"
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    provenance: Option<String>,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pull: bool,
    /// Shorthand for "--output=type=registry"
    #[arg(long)]
    push: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Shorthand for "--attest=type=sbom"
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<String>,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret|,env=VARIABLE]")
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Shared memory size for build containers
    #[arg(long, value_name = "BYTES", value_parser = build::memory)]
    shm_size: Option<u64>,
    /// SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")
    #[arg(long, value_name = "ID[=SOCKET|KEY]")]
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
    #[command(flatten)]
    ignored: Ignored,
    /// What is built: a directory, the URL of a repository, an archive or a Dockerfile, or - for standard input
    #[arg(value_name = "PATH|URL|-")]
    context: String,
}

pub fn run(context: &Context, args: &BuildArgs) -> Result<(), Error> {
    let context = &context.with_form(args.progress);
    args.ignored.remarks().for_each(|remark| context.ui.warn(&remark));
    let recipe = recipe(args)?;
    let call = if args.check { Call { method: Method::Check, json: false } } else { args.call };
    if call.method != Method::Build {
        return answer(context, recipe, call);
    }
    let root = context.root()?;
    let mut built = with_shell(context, args.debug, |halted| {
        let recipe = Recipe { halted: halted.cloned(), ..recipe };
        let progress = if args.quiet { Progress::quiet() } else { context.ui.progress("Building") };
        let built = context.block_on(build::build(context.ui, &root, vec![vec![recipe]], &progress, false));
        progress.finish();
        built
    })?;
    let Some((_, outcome)) = built.pop_first() else { return Ok(()) };
    let id = outcome.delivered.id().map(|id| id.to_string());
    if let (Some(path), Some(id)) = (&args.iidfile, &id) {
        write(path, id)?;
    }
    if let Some(path) = &args.metadata_file {
        write(path, &format!("{:#}\n", metadata(args, &outcome.delivered)))?;
    }
    match id {
        Some(id) if args.quiet => Ok(context.ui.out(&format!("{id}\n"))?),
        _ => Ok(()),
    }
}

/// Returns what is said of what was built, in the words of BuildKit.
fn metadata(args: &BuildArgs, delivered: &Delivered) -> serde_json::Value {
    let mut metadata = json!({});
    if let (Some(image), None) = (&delivered.image, &delivered.index) {
        metadata["containerimage.config.digest"] = json!(image.id);
    }
    if let Some(descriptor) = delivered.descriptor() {
        metadata["containerimage.descriptor"] = json!(descriptor);
        metadata["containerimage.digest"] = json!(descriptor.digest);
        metadata["image.name"] = args.tag.join(",").into();
    }
    metadata
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
    let mut contents = Contents::parse(&args.context).map_err(|fault| Error::new(fault.to_string()))?;
    let arguments = arguments(&args.build_arg);
    contents.keep_git_directory(&arguments);
    if let Contents::Directory(directory) = &mut contents {
        *directory = std::path::absolute(&directory)?;
    }
    let mut recipe = Recipe::new("", contents);
    match args.file.as_deref() {
        Some("-") if recipe.context == Contents::Stdin => {
            return Err(Error::new("invalid argument: can't use stdin for both build context and dockerfile"));
        }
        Some("-") => recipe.dockerfile_text = Some(std::io::read_to_string(std::io::stdin())?),
        // Relative to where the command is run, and not to the context.
        Some(file) if matches!(recipe.context, Contents::Directory(_)) && !file.contains("://") => {
            recipe.dockerfile = std::path::absolute(file)?.display().to_string();
        }
        Some(file) => file.clone_into(&mut recipe.dockerfile),
        None => {}
    }
    recipe.target.clone_from(&args.target);
    recipe.arguments.extend(arguments);
    recipe.platforms.clone_from(&args.platform);
    recipe.outputs = outputs(args)?;
    recipe.memory = args.memory;
    for attestation in &args.attest {
        recipe.attest_as(attestation).map_err(Error::new)?;
    }
    recipe.attest(args.provenance.as_deref(), args.sbom.as_deref()).map_err(Error::new)?;
    recipe.use_caches(&args.cache_from, &args.cache_to).map_err(Error::new)?;
    for annotation in &args.annotation {
        recipe.annotations.extend(Annotation::parse(annotation).map_err(Error::new)?);
    }
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
        recipe.use_ssh(text).map_err(|error| Error::new(format!("--ssh: {}", chain(&error))))?;
    }
    recipe.network = args.network;
    for host in &args.add_host {
        let parsed =
            host.split_once(['=', ':']).ok_or_else(|| Error::new(format!("bad format for add-host: {host:?}")))?;
        recipe.hosts.push((parsed.0.to_owned(), parsed.1.to_owned()));
    }
    recipe.shm_size = args.shm_size;
    recipe.ulimits = args.ulimit.iter().map(|limit| parse_ulimit(limit)).collect::<Result<_, _>>()?;
    recipe.cgroup_parent.clone_from(&args.cgroup_parent);
    let allowed = |what: &str| args.allow.iter().any(|given| given == what);
    recipe.insecure = allowed("security.insecure");
    recipe.host_network = allowed("network.host") || args.network == RunNetwork::Host;
    Ok(recipe)
}

fn outputs(args: &BuildArgs) -> Result<Vec<Output>, Error> {
    let given = args.output.iter().map(|output| Output::parse(output));
    let shorthand = |asked: bool, text: &str| asked.then(|| Output::parse(text));
    let all = given.chain(shorthand(args.push, "type=registry")).chain(shorthand(args.load, "type=docker"));
    let outputs = all.collect::<Result<Vec<_>, _>>().map_err(|reason| Error::new(format!("--output: {reason}")))?;
    if outputs.iter().any(|output| output.push != Push::No && output.names.is_empty()) && args.tag.is_empty() {
        return Err(Error::new("tag is needed when pushing to registry"));
    }
    Ok(outputs)
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
