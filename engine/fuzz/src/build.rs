//! What the fuzz targets of builds do with their input. `engine/tests/build_hostile.rs` does the same with the Dockerfiles of
//! all cases and what grows from them, so that a machine without libFuzzer sees them too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rcompose_engine::build::dispatch::{Dispatched, Options, dispatch};
use rcompose_engine::build::dockerfile::Dockerfile;
use rcompose_engine::build::graph::{Base, ImageRequest, ImageSource, Span};
use rcompose_engine::build::ignore::{DirectoryMatch, Patterns, read_lines};
use rcompose_engine::container::files::{Owner, Rules, lay};
use rcompose_engine::image::{Digest, ImportedConfig, Platform};

/// How often a Dockerfile may ask for images: what a base triggers may need more.
const ROUNDS: usize = 4;

/// A Dockerfile: what it makes is a graph in which everything stands behind what it needs, and what is said of it is said of a
/// place in it. Returns whether it is one.
///
/// # Panics
/// Where that does not hold.
pub fn dockerfile(data: &[u8]) -> bool {
    let lines = u32::try_from(data.split(|byte| *byte == b'\n').count()).expect("inputs are short");
    let is_within = |span: Span| {
        assert!(span.start.line >= 1 && span.start <= span.end && span.end.line <= lines, "{span:?} of {lines} lines");
    };
    let dockerfile = match Dockerfile::parse(data) {
        Ok(dockerfile) => dockerfile,
        Err(fault) => {
            fault.span.into_iter().for_each(is_within);
            return false;
        }
    };
    let options = Options {
        arguments: BTreeMap::from([("A".to_owned(), "value".to_owned()), ("B".to_owned(), String::new())]),
        all_stages: true,
        ..Options::default()
    };
    let mut bases = BTreeMap::new();
    for _ in 0..ROUNDS {
        match dispatch(&dockerfile, &options, &bases) {
            Err(refused) => {
                // A trigger of a base is no part of the file.
                assert!(!refused.fault.to_string().is_empty());
                return false;
            }
            Ok(Dispatched::Needs(requests)) => {
                for asked in requests.values() {
                    is_within(asked.at);
                }
                bases.extend(requests.into_keys().map(|request| (request.clone(), base(&request))));
            }
            Ok(Dispatched::Graph(plan)) => {
                let graph = &plan.graph;
                assert!(graph.target.0 < graph.vertices.len());
                for (number, vertex) in graph.vertices.iter().enumerate() {
                    assert!(vertex.operation.inputs().iter().all(|input| input.0 < number));
                    vertex.at.into_iter().for_each(is_within);
                }
                plan.warnings.iter().for_each(|warning| is_within(warning.span));
                return true;
            }
        }
    }
    false
}

fn base(request: &ImageRequest) -> Base {
    let mut config = ImportedConfig { env: vec!["FROM_BASE=1".to_owned()], ..ImportedConfig::default() };
    config.docker.on_build = Some(vec!["RUN echo $A".to_owned(), "COPY one .".to_owned()]);
    let source = ImageSource {
        reference: request.reference.clone(),
        digest: Digest::of(request.reference.as_bytes()),
        platform: Platform::host(),
    };
    Base { source, config, author: None }
}

/// A `.dockerignore` and, after an empty line, paths: a directory that need not be looked into has nothing in it that counts.
///
/// # Panics
/// Where that does not hold.
pub fn ignore(data: &[u8]) {
    let at = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let Ok(patterns) = Patterns::new(&read_lines(&data[..at])) else { return };
    for path in data[at..].split(|byte| *byte == b'\n').take(50) {
        let ignored = patterns.matches(path);
        let mut parent = DirectoryMatch::default();
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let directory = &path[..end];
            parent = patterns.enter(directory, &parent);
            if patterns.can_skip(directory, &parent) {
                assert!(ignored, "{:?} is skipped", String::from_utf8_lossy(directory));
            }
        }
        assert_eq!(patterns.enter(path, &parent).is_ignored(), ignored);
    }
}

/// An archive that is a build context, laid into a directory beside which there is something that must stay as it is.
///
/// # Panics
/// Where it does not.
pub fn context(data: &[u8]) {
    let world = tempfile::tempdir().expect("a directory can be made");
    let path = |name: &str| world.path().join(name);
    fs::create_dir(path("root")).expect("a directory can be made");
    fs::write(path("victim"), "victim").expect("a file can be written");
    let describe = |path: &Path| {
        let found = fs::symlink_metadata(path).expect("it is there");
        (found.ino(), found.nlink(), found.mode(), found.uid(), found.ctime(), found.ctime_nsec())
    };
    let before = describe(&path("victim"));
    let root = File::open(path("root")).expect("it can be opened");
    drop(lay(root.as_fd(), data, Rules { owner: Owner::Archive, devices: false }));
    assert_eq!(describe(&path("victim")), before, "the victim was touched");
    assert_eq!(fs::read_dir(world.path()).expect("it can be listed").count(), 2, "something came out");
}
