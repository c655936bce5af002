//! Dockerfiles beside BuildKit: what it said of the cases of `compose-tests/dockerfiles` is recorded there, and ours must say
//! the same: build checks, faults with their lines, the steps, the history and the configuration of the image.
//!
//! What differs on purpose is in the file `differences`, with the reason: a pattern of lines of recordings that ours does not
//! have, or has otherwise. An entry that is not needed any more is a failure.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rcompose_engine::build::check::Warning;
use rcompose_engine::build::dispatch::{Dispatched, NamedContext, Options, Plan, Refused, dispatch};
use rcompose_engine::build::dockerfile::{Dockerfile, Fault};
use rcompose_engine::build::graph::{Base, ImageRequest, ImageSource};
use rcompose_engine::build::ignore::{self, DirectoryMatch, Patterns};
use rcompose_engine::image::{Digest, ImportedConfig, Platform};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose-tests/dockerfiles")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = folder().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The options of a case, which are words of `docker build`, as ours.
fn options(case: &str) -> Options {
    let platform = Platform { architecture: "amd64".to_owned(), os: "linux".to_owned(), variant: None };
    let mut options = Options { platform: platform.clone(), build_platform: platform, ..Options::default() };
    let given = fs::read_to_string(folder().join(format!("cases/{case}.args"))).unwrap_or_default();
    let words: Vec<&str> = given.split_whitespace().collect();
    for pair in words.chunks_exact(2) {
        let (name, value) = pair[1].split_once('=').map_or((pair[1], ""), |(name, value)| (name, value));
        let (name, value) = (name.to_owned(), value.to_owned());
        match pair[0] {
            "--build-arg" => drop(options.arguments.insert(name, value)),
            "--label" => drop(options.labels.insert(name, value)),
            "--build-context" => drop(options.contexts.insert(name, NamedContext::parse(&value).unwrap())),
            "--target" => options.target = Some(name),
            "--platform" => options.platform = name.parse().unwrap(),
            other => panic!("{case} has an option that is not known here: {other}"),
        }
    }
    let ignored = fs::read_to_string(folder().join(format!("cases/{case}.dockerignore"))).unwrap_or_default();
    options.ignore = ignore::read_lines(ignored);
    options
}

/// The images that the cases are built on, as they were when BuildKit was asked.
fn base(request: &ImageRequest, configs: &BTreeMap<String, ImportedConfig>) -> Base {
    let name = request.reference.split(':').next().unwrap_or_default();
    let config = configs.get(name).unwrap_or_else(|| panic!("{name} was not recorded")).clone();
    let source = ImageSource {
        reference: request.reference.clone(),
        digest: Digest::of(name.as_bytes()),
        platform: request.platform.parse().unwrap(),
    };
    Base { source, config, author: None }
}

fn plan(
    dockerfile: &Dockerfile,
    options: &Options,
    configs: &BTreeMap<String, ImportedConfig>,
) -> Result<Plan, Refused> {
    let mut bases = BTreeMap::new();
    loop {
        match dispatch(dockerfile, options, &bases)? {
            Dispatched::Graph(plan) => return Ok(*plan),
            Dispatched::Needs(requests) => bases.extend(requests.into_keys().map(|request| {
                let base = base(&request, configs);
                (request, base)
            })),
        }
    }
}

fn show_warnings(warnings: &[Warning]) -> BTreeSet<String> {
    let show =
        |warning: &Warning| format!("warning {} {} {}", warning.span.start.line, warning.rule.name(), warning.message);
    warnings.iter().map(show).collect()
}

fn show_fault(fault: &Fault) -> String {
    format!("error {} {fault}", fault.span.map_or(0, |span| span.start.line))
}

/// Says of a case what its recording says.
fn ours(case: &str, configs: &BTreeMap<String, ImportedConfig>) -> Vec<String> {
    let text = read(format!("cases/{case}"));
    let dockerfile = match Dockerfile::parse(text.as_bytes()) {
        Ok(dockerfile) => dockerfile,
        Err(fault) => return vec![show_fault(&fault)],
    };
    let options = options(case);
    let checked = Options { all_stages: options.target.is_none(), ..options.clone() };
    let warnings = match plan(&dockerfile, &checked, configs) {
        Ok(plan) => plan.warnings,
        Err(refused) => refused.warnings,
    };
    let mut lines: Vec<String> = show_warnings(&warnings).into_iter().collect();
    let plan = match plan(&dockerfile, &options, configs) {
        Ok(plan) => plan,
        Err(refused) => {
            lines.push(show_fault(&refused.fault));
            return lines;
        }
    };
    let names = plan.graph.vertices.iter().map(|vertex| &vertex.name);
    let steps: BTreeSet<String> = names.filter(|name| is_numbered(name)).map(|name| format!("step {name}")).collect();
    lines.extend(steps);
    for entry in &plan.graph.history {
        let created_by = serde_json::to_string(&entry.created_by).unwrap();
        lines.push(format!("history {} {created_by}", entry.layer.is_none()));
    }
    lines.push(format!("config {}", serde_json::to_string(&plan.graph.config).unwrap()));
    lines
}

/// Returns whether a step has a number, as in `[stage 1/2] RUN true`; only these are recorded.
fn is_numbered(name: &str) -> bool {
    let prefix = name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("", |(prefix, _)| prefix);
    let number = prefix.rsplit(' ').next().and_then(|number| number.split_once('/'));
    number.is_some_and(|(at, total)| at.parse::<u32>().is_ok() && total.parse::<u32>().is_ok())
}

/// Makes what does not count the same: digests, the order in JSON, and what BuildKit puts before the faults of its parser.
fn normalized(line: &str) -> String {
    if let Some(config) = line.strip_prefix("config ") {
        let mut config: serde_json::Value = serde_json::from_str(config).unwrap();
        config.as_object_mut().unwrap().retain(|key, value| key != "ArgsEscaped" && !value.is_null() && value != "");
        let sorted: BTreeMap<String, serde_json::Value> = serde_json::from_value(config).unwrap();
        let sorted = sorted.into_iter().map(|(key, value)| (key, sort(value))).collect::<BTreeMap<_, _>>();
        return format!("config {}", serde_json::to_string(&sorted).unwrap());
    }
    if let Some(fault) = line.strip_prefix("error ") {
        let (number, message) = fault.split_once(' ').unwrap_or((fault, ""));
        let rest = message.strip_prefix("dockerfile parse error on line ").and_then(|rest| rest.split_once(": "));
        return match rest {
            Some((number, message)) => format!("error {number} {message}"),
            None => format!("error {number} {message}"),
        };
    }
    match line.split_once("@sha256:") {
        Some((name, _)) if line.starts_with("step ") => name.to_owned(),
        _ => line.to_owned(),
    }
}

fn sort(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let sorted: BTreeMap<String, serde_json::Value> = map.into_iter().collect();
            sorted.into_iter().map(|(key, value)| (key, sort(value))).collect()
        }
        other => other,
    }
}

/// A difference that is known: of this case, what ours says instead of what BuildKit says. Either is empty where there is
/// nothing.
#[derive(Debug)]
struct Difference {
    case: String,
    theirs: String,
    ours: String,
}

fn differences() -> Vec<Difference> {
    let text = read("differences");
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut differences = Vec::new();
    while let Some(case) = lines.next() {
        let mut part = |sign: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(sign).unwrap_or_else(|| panic!("{line:?} is not the {sign} of {case}")).trim().to_owned()
        };
        let (theirs, ours) = (part("-"), part("+"));
        differences.push(Difference { case: case.to_owned(), theirs, ours });
    }
    differences
}

#[test]
fn dockerfiles_mean_what_they_mean_to_buildkit() {
    let configs: BTreeMap<String, ImportedConfig> = serde_json::from_str(&read("docker/bases.json")).unwrap();
    let mut known = differences();
    let mut failures = Vec::new();
    let mut cases: Vec<String> = fs::read_dir(folder().join("cases"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains('.'))
        .collect();
    cases.sort();
    assert!(cases.len() > 100, "the cases are missing");
    for case in &cases {
        let mut theirs: Vec<String> = read(format!("docker/{case}")).lines().map(normalized).collect();
        let mut ours: Vec<String> = ours(case, &configs).iter().map(|line| normalized(line)).collect();
        // What only shows when it is executed is not known here.
        if theirs.iter().any(|line| line.contains("failed to compute cache key") || line.contains("did not complete")) {
            theirs.retain(|line| line.starts_with("warning"));
            ours.retain(|line| line.starts_with("warning"));
        }
        // A fault for which BuildKit shows no line has one here.
        let placeless = theirs.iter().any(|line| line.starts_with("error 0 "));
        for line in ours.iter_mut().filter(|line| placeless && line.starts_with("error ")) {
            *line = line
                .splitn(3, ' ')
                .enumerate()
                .map(|(at, part)| if at == 1 { "0" } else { part })
                .collect::<Vec<_>>()
                .join(" ");
        }
        let (their_lines, our_lines) = (theirs.clone(), ours.clone());
        theirs.retain(|line| !our_lines.contains(line));
        ours.retain(|line| !their_lines.contains(line));
        known.retain(|difference| {
            let mut take = |lines: &mut Vec<String>, line: &str| match lines.iter().position(|known| known == line) {
                Some(at) => drop(lines.remove(at)),
                None if line.is_empty() => {}
                None => failures.push(format!("{case}: the difference {line:?} is not needed")),
            };
            if difference.case == *case {
                take(&mut theirs, &difference.theirs);
                take(&mut ours, &difference.ours);
            }
            difference.case != *case
        });
        failures.extend(theirs.iter().map(|line| format!("{case}\n- {line}")));
        failures.extend(ours.iter().map(|line| format!("{case}\n+ {line}")));
    }
    failures.extend(known.iter().map(|difference| format!("there is no case {}", difference.case)));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Lists the files of a directory that patterns leave, the way a build walks through it.
fn walk(directory: &Path, below: &str, patterns: &Patterns, parent: &DirectoryMatch, left: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() { name } else { [below, &name].join("/") };
        let matched = patterns.enter(path.as_bytes(), parent);
        assert_eq!(matched.is_ignored(), patterns.matches(&path), "{path}");
        if entry.file_type().unwrap().is_dir() {
            if !patterns.can_skip(path.as_bytes(), &matched) {
                walk(&entry.path(), &path, patterns, &matched, left);
            }
        } else if !matched.is_ignored() {
            left.push(path);
        }
    }
}

#[test]
fn dockerignore_leaves_out_what_it_leaves_out_in_buildkit() {
    let mut count = 0;
    for entry in fs::read_dir(folder().join("ignore")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let patterns = Patterns::new(&ignore::read_lines(read(format!("ignore/{name}")))).unwrap();
        let mut left = Vec::new();
        walk(&folder().join("tree"), "", &patterns, &DirectoryMatch::default(), &mut left);
        left.sort();
        let recorded = read(format!("docker/ignore-{name}"));
        assert_eq!(left, recorded.lines().collect::<Vec<_>>(), "{name}");
        count += 1;
    }
    assert!(count > 10, "the patterns are missing");
}
