//! `config`: the project in canonical form, and lists of what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rcompose_engine::error::chain;

use super::GlobalArgs;
use crate::compose::node::{Map, Node, Value};
use crate::compose::shape::{self, Flavour, Out};
use crate::compose::source::Span;
use crate::compose::{
    Diagnostic, LoadOptions, Project, Resolved, deep, interpolate, load, load_resolved, load_untyped, print, units,
};

use crate::project::pin;
use crate::project::pull::Sources;
use crate::remote::Reader;

/// The flags of `config`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  rcompose config --services
  rcompose config --format json
  rcompose config --lock-image-digests -o compose.lock.yaml")]
pub struct ConfigArgs {
    /// The services to show, with what they depend on
    pub services: Vec<String>,
    /// Format the output (yaml or json); errors and warnings come as JSON lines with json
    #[arg(long)]
    pub format: Option<String>,
    /// Only validate the configuration, print nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// Save to a file (default: print)
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the service names, one per line
    #[arg(long = "services")]
    pub list_services: bool,
    /// Print the volume names, one per line
    #[arg(long)]
    pub volumes: bool,
    /// Print the network names, one per line
    #[arg(long)]
    pub networks: bool,
    /// Print the model names, one per line
    #[arg(long)]
    pub models: bool,
    /// Print the image names, one per line
    #[arg(long)]
    pub images: bool,
    /// Print the profile names, one per line
    #[arg(long)]
    pub profiles: bool,
    /// Print the service config hash, one per line; `*` for all services
    #[arg(long, value_name = "SERVICES")]
    pub hash: Option<String>,
    /// Print model variables and default values
    #[arg(long)]
    pub variables: bool,
    /// Print environment used for interpolation
    #[arg(long)]
    pub environment: bool,
    /// Print every place that gives a variable a value, and which one counts
    #[arg(long, value_name = "VARIABLE")]
    pub explain: Vec<String>,
    /// Print the file, line and column that each value comes from
    #[arg(long)]
    pub provenance: bool,
    /// Don't interpolate environment variables
    #[arg(long)]
    pub no_interpolate: bool,
    /// Don't normalize compose model
    #[arg(long)]
    pub no_normalize: bool,
    /// Don't resolve file paths
    #[arg(long)]
    pub no_path_resolution: bool,
    /// Don't check model consistency
    #[arg(long)]
    pub no_consistency: bool,
    /// Accepted for compatibility; env files are resolved all the same, as in Docker Compose
    #[arg(long)]
    pub no_env_resolution: bool,
    /// Pin image tags to digests
    #[arg(long)]
    pub resolve_image_digests: bool,
    /// Produces an override file with image digests
    #[arg(long)]
    pub lock_image_digests: bool,
}

impl ConfigArgs {
    /// Returns whether something else is wanted than the project itself.
    fn is_list(&self) -> bool {
        self.list_services
            || self.volumes
            || self.networks
            || self.models
            || self.images
            || self.profiles
            || self.hash.is_some()
            || self.environment
    }
}

/// Runs `config`.
pub fn run(global: &GlobalArgs, arguments: &ConfigArgs) -> ExitCode {
    let json = arguments.format.as_deref() == Some("json");
    match output(global, arguments) {
        Ok((text, warnings)) => {
            super::show(&warnings, global.colours(), json);
            deliver(&text, arguments)
        }
        Err(found) => {
            super::show(&found, global.colours(), json);
            ExitCode::FAILURE
        }
    }
}

fn deliver(text: &str, arguments: &ConfigArgs) -> ExitCode {
    // Lists are what was asked for.
    if arguments.quiet && !arguments.is_list() && !arguments.variables {
        return ExitCode::SUCCESS;
    }
    let written = match &arguments.output {
        Some(path) if !text.is_empty() => {
            std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
        }
        _ => std::io::stdout()
            .lock()
            .write_all(text.as_bytes())
            .or_else(ignore_closed)
            .map_err(|error| format!("cannot write: {error}")),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            super::show(&[Diagnostic::error("output", message)], false, false);
            ExitCode::FAILURE
        }
    }
}

/// Who closes the pipe has seen enough.
fn ignore_closed(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

type Output = Result<(String, Vec<Diagnostic>), Vec<Diagnostic>>;

fn output(global: &GlobalArgs, arguments: &ConfigArgs) -> Output {
    let mut options = global.load_options();
    options.no_interpolate = arguments.no_interpolate;
    options.no_normalize |= arguments.no_normalize;
    options.no_path_resolution = arguments.no_path_resolution;
    options.no_consistency = arguments.no_consistency;
    options.names_may_clash = arguments.is_list();

    if arguments.list_services {
        if arguments.no_interpolate {
            let untyped = load_untyped(&options, &Reader::of_host())?;
            let names = untyped
                .tree
                .0
                .get("services")
                .and_then(Node::as_map)
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone());
            return Ok((lines(names), untyped.warnings));
        }
        return list(&options, |project| project.services.keys().cloned().collect());
    }
    if arguments.volumes {
        return list(&options, |project| project.volumes.keys().cloned().collect());
    }
    if arguments.networks {
        return list(&options, |project| project.networks.keys().cloned().collect());
    }
    if arguments.models {
        return list(&options, |project| {
            project.models.values().map(|model| model.model.clone()).filter(|model| !model.is_empty()).collect()
        });
    }
    if let Some(names) = &arguments.hash {
        return hashes(&options, names);
    }
    options.services.clone_from(&arguments.services);
    if arguments.profiles {
        return list(&options, |project| {
            let services = project.services.values().chain(project.disabled_services.values());
            services.flat_map(|service| service.profiles.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
        });
    }
    if arguments.images {
        return list(&options, |project| project.services.values().map(|service| image(project, service)).collect());
    }
    if arguments.variables {
        return variables(options, arguments);
    }
    if arguments.environment {
        return list(&options, |project| {
            project.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
        });
    }
    if !arguments.explain.is_empty() {
        let loaded = load_resolved(&options, &Reader::of_host())?;
        return Ok((explain(&loaded, &arguments.explain), loaded.warnings));
    }
    if arguments.provenance {
        let loaded = load_resolved(&options, &Reader::of_host())?;
        let text = with_stack(loaded.depth, || provenance(&loaded));
        return Ok((text, loaded.warnings));
    }
    project(&options, arguments)
}

fn with_stack<T: Send>(depth: usize, function: impl FnOnce() -> T + Send) -> T {
    if depth > deep::SHALLOW { deep::run(function) } else { function() }
}

fn lines(all: impl IntoIterator<Item = String>) -> String {
    all.into_iter().fold(String::new(), |mut text, line| {
        text.push_str(&line);
        text.push('\n');
        text
    })
}

fn list(options: &LoadOptions, what: impl Fn(&Project) -> Vec<String>) -> Output {
    let loaded = load(options, &Reader::of_host())?;
    Ok((lines(what(&loaded.project)), loaded.warnings))
}

/// The image of a service: as written, or the name that a build gives it.
fn image(project: &Project, service: &crate::compose::Service) -> String {
    service.image.clone().unwrap_or_else(|| format!("{}-{}", project.name, service.name))
}

fn hashes(options: &LoadOptions, names: &str) -> Output {
    let loaded = load(options, &Reader::of_host())?;
    let services = &loaded.project.services;
    let names: Vec<&str> =
        if names == "*" { services.keys().map(String::as_str).collect() } else { names.split(',').collect() };
    let mut text = String::new();
    for name in names.into_iter().collect::<BTreeSet<_>>() {
        let Some(service) = services.get(name) else {
            return Err(vec![Diagnostic::error("undefined-service", format!("no such service: {name}"))]);
        };
        let _ = writeln!(text, "{name} {}", service.config_hash);
    }
    Ok((text, loaded.warnings))
}

fn unsupported_format(format: &str) -> Vec<Diagnostic> {
    vec![Diagnostic::error("usage", format!("unsupported format {format:?}")).help("the formats are yaml and json")]
}

/// The project itself.
fn project(options: &LoadOptions, arguments: &ConfigArgs) -> Output {
    let flavour = match arguments.format.as_deref() {
        None | Some("" | "yaml") => Flavour::Yaml,
        Some("json") => Flavour::Json,
        Some(other) => return Err(unsupported_format(other)),
    };
    if arguments.no_interpolate {
        let mut untyped = load_untyped(options, &Reader::of_host())?;
        pin(&mut untyped.tree.0, arguments)?;
        if arguments.lock_image_digests {
            keep_images(&mut untyped.tree.0);
        }
        let text = with_stack(untyped.depth, || write(&shape::emit_untyped(&untyped.tree.0, flavour), flavour));
        return Ok((text, untyped.warnings));
    }
    let mut loaded = load_resolved(options, &Reader::of_host())?;
    pin(&mut loaded.tree.0, arguments)?;
    if arguments.lock_image_digests {
        keep_images(&mut loaded.tree.0);
        if let (Flavour::Json, Some(root)) = (flavour, loaded.tree.0.as_map_mut()) {
            root.insert("name".to_owned(), Node::string(String::new(), Span::NONE));
        }
    }
    if flavour == Flavour::Json
        && let Some(name) = with_ssh_path(&loaded.tree.0)
    {
        return Err(vec![
            Diagnostic::error("no-json", format!("services.{name}.build.ssh has no form in JSON"))
                .help("Docker Compose cannot print it either; use --format yaml"),
        ]);
    }
    let text = with_stack(loaded.depth, || write(&shape::emit_project(&loaded.tree.0, flavour), flavour));
    // The output can be loaded again: dollars in it stand for themselves.
    Ok((text.replace('$', "$$"), loaded.warnings))
}

/// Replaces the images of all services by what their registries have under these names now.
fn pin(root: &mut Node, arguments: &ConfigArgs) -> Result<(), Vec<Diagnostic>> {
    if !arguments.resolve_image_digests && !arguments.lock_image_digests {
        return Ok(());
    }
    let mut images = Vec::new();
    for service in root.get_mut("services").and_then(Node::as_map_mut).into_iter().flat_map(Map::values_mut) {
        if let Some(Node { value: Value::String(image), .. }) = service.get_mut("image")
            && !image.is_empty()
        {
            images.push(image);
        }
    }
    let wanted = images.iter().map(|image| (**image).clone()).collect();
    let failed = |message: String| Diagnostic::error("no-digest", message);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| vec![failed(format!("cannot ask registries: {error}"))])?;
    let pinned = runtime
        .block_on(pin::pin(wanted, &Sources::of_host()))
        .map_err(|failures| failures.iter().map(|failure| failed(chain(failure))).collect::<Vec<_>>())?;
    for image in images {
        if let Some(by_digest) = pinned.get(image) {
            image.clone_from(by_digest);
        }
    }
    Ok(())
}

/// Leaves nothing but the services' images.
fn keep_images(root: &mut Node) {
    let Some(root) = root.as_map_mut() else { return };
    root.retain(|section, _| section == "services");
    for service in root.values_mut().filter_map(Node::as_map_mut).flat_map(Map::values_mut) {
        if let Some(service) = service.as_map_mut() {
            service.retain(|key, _| key == "image");
        }
    }
}

/// A service whose build has an SSH key with a path.
fn with_ssh_path(root: &Node) -> Option<&String> {
    let has_path = |service: &Node| {
        let keys = service.get("build").and_then(|build| build.get("ssh")).and_then(Node::as_map);
        keys.into_iter().flatten().any(|(_, path)| !path.is_null())
    };
    let mut services = root.get("services").and_then(Node::as_map).into_iter().flatten();
    services.find(|(_, service)| has_path(service)).map(|(name, _)| name)
}

fn write(out: &Out, flavour: Flavour) -> String {
    match flavour {
        Flavour::Yaml => print::to_yaml(out),
        Flavour::Json => print::json(out, true) + "\n",
    }
}

/// The variables that the files ask for.
fn variables(mut options: LoadOptions, arguments: &ConfigArgs) -> Output {
    options.no_interpolate = true;
    let untyped = load_untyped(&options, &Reader::of_host())?;
    let mut found = Vec::new();
    with_stack(untyped.depth, || collect(&untyped.tree.0, &mut found));
    let mut variables: BTreeMap<String, interpolate::Variable> = BTreeMap::new();
    for variable in found {
        variables.insert(variable.name.clone(), variable);
    }
    let text = if let Some(format @ ("json" | "yaml")) = arguments.format.as_deref() {
        let entry = |variable: &interpolate::Variable| {
            let text = |text: &str| Out::Text(text.to_owned());
            Out::Map(vec![
                ("Name".to_owned(), text(&variable.name)),
                ("DefaultValue".to_owned(), text(&variable.default)),
                ("PresenceValue".to_owned(), text(&variable.alternate)),
                ("Required".to_owned(), Out::Bool(variable.required)),
            ])
        };
        let out = Out::Map(variables.iter().map(|(name, variable)| (name.clone(), entry(variable))).collect());
        write(&out, if format == "json" { Flavour::Json } else { Flavour::Yaml })
    } else {
        let head = ["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"].map(ToOwned::to_owned);
        let row = |variable: &interpolate::Variable| {
            [variable.name.clone(), variable.required.to_string(), variable.default.clone(), variable.alternate.clone()]
        };
        table(&head, &variables.values().map(row).collect::<Vec<_>>())
    };
    Ok((text, untyped.warnings))
}

fn collect(node: &Node, found: &mut Vec<interpolate::Variable>) {
    match &node.value {
        Value::String(text) => interpolate::variables(text, found),
        Value::List(list) => list.iter().for_each(|node| collect(node, found)),
        Value::Map(map) => map.values().for_each(|node| collect(node, found)),
        _ => {}
    }
}

/// Columns that are as wide as their widest cell and three spaces more, twenty at least: that of Docker Compose.
fn table<const COLUMNS: usize>(head: &[String; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let all: Vec<&[String; COLUMNS]> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0; COLUMNS];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row.iter()) {
            *width = (*width).max(cell.chars().count() + 3).max(20);
        }
    }
    let mut text = String::new();
    for row in all {
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            let padding = if index + 1 == COLUMNS { 0 } else { width - cell.chars().count() };
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', padding));
        }
        text.push('\n');
    }
    text
}

/// Every source of some variables.
fn explain(loaded: &Resolved, names: &[String]) -> String {
    let mut text = String::new();
    for name in names {
        let counts = loaded.environment.get(name);
        match counts {
            Some(value) => {
                let _ = writeln!(text, "{name}={value}");
            }
            None => {
                let _ = writeln!(text, "{name} is not set");
            }
        }
        let mut won = false;
        for candidate in loaded.environment.candidates.iter().filter(|candidate| candidate.name == *name) {
            let place = loaded.sources.describe(candidate.span).unwrap_or_else(|| candidate.source.to_owned());
            let mark = if !won && counts == Some(candidate.value.as_str()) { "counts" } else { "hidden" };
            won |= mark == "counts";
            let _ = writeln!(text, "  {mark}  {place}: {}", candidate.value);
        }
    }
    text
}

/// Every value with its path and its place.
fn provenance(loaded: &Resolved) -> String {
    let mut rows = Vec::new();
    trace(&loaded.tree.0, String::new(), loaded, &mut rows);
    table(&["PATH", "VALUE", "FROM"].map(ToOwned::to_owned), &rows)
}

fn trace(node: &Node, path: String, loaded: &Resolved, rows: &mut Vec<[String; 3]>) {
    match &node.value {
        Value::Map(map) if !map.is_empty() => {
            for (key, node) in map.iter().filter(|(key, _)| !key.starts_with('\0')) {
                trace(node, if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, loaded, rows);
            }
        }
        Value::List(list) if !list.is_empty() => {
            for (index, node) in list.iter().enumerate() {
                trace(node, format!("{path}[{index}]"), loaded, rows);
            }
        }
        value => {
            let shown = match value {
                Value::Map(_) => "{}".to_owned(),
                Value::List(_) => "[]".to_owned(),
                Value::Null => "null".to_owned(),
                Value::Int(number)
                    if [
                        "interval",
                        "timeout",
                        "start_period",
                        "start_interval",
                        "stop_grace_period",
                        "delay",
                        "window",
                        "monitor",
                    ]
                    .iter()
                    .any(|key| path.ends_with(&format!(".{key}"))) =>
                {
                    units::format_duration(*number)
                }
                other => other.print().unwrap_or_default().replace('\n', "\\n"),
            };
            let place = loaded
                .sources
                .describe(node.span)
                .or_else(|| loaded.sources.describe(node.key))
                .unwrap_or_else(|| "(set by Compose)".to_owned());
            rows.push([path, shown, place]);
        }
    }
}
