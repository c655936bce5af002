//! SBOMs by a generator: an image whose program looks at what was built and writes statements about it, by BuildKit's
//! protocol (`docs/attestations/sbom-protocol.md` there).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::Value;

use super::extra;
use crate::build::attest::Predicate;
use crate::build::error::StepError;
use crate::build::execute::{Builder, Solved};
use crate::build::graph::{Base, Graph, MakeDirectory, Mount, MountKind, Operation, Run, RunNetwork, Vertex, VertexId};
use crate::build::tree::{Tree, TreeError, kind};

/// Where a generator finds what was built.
const SOURCE: &str = "/run/src/core/sbom";
/// Where it finds the build's context and further stages.
const EXTRAS: &str = "/run/src/extras";
/// Where it writes.
const DESTINATION: &str = "/run/out";
/// What the names of the variables that tell it so, and of its settings, begin with.
const PREFIX: &str = "BUILDKIT_SCAN_";
/// The longest statement, in bytes.
const LONGEST: u64 = 64 << 20;

impl Graph {
    /// Adds a step in which a generator looks at what the target has made. Its layer has the statements.
    ///
    /// # Errors
    /// Where the image has no program.
    pub fn scan_with(&mut self, generator: &Base, settings: &BTreeMap<String, String>) -> Result<VertexId, StepError> {
        let (config, image) = (&generator.config, &generator.source.reference);
        let arguments: Vec<String> =
            [&config.entrypoint, &config.cmd].into_iter().flatten().flatten().cloned().collect();
        if arguments.is_empty() {
            return Err(StepError::NoGenerator(image.clone()));
        }
        let mut environment = config.env.clone();
        environment.push(format!("{PREFIX}DESTINATION={DESTINATION}/"));
        environment.push(format!("{PREFIX}SOURCE={SOURCE}"));
        if !self.extras.is_empty() {
            environment.push(format!("{PREFIX}SOURCE_EXTRAS={EXTRAS}"));
        }
        environment.extend(settings.iter().map(|(name, value)| format!("{PREFIX}{name}={value}")));
        let shown = |target: String, from| {
            let kind = MountKind::Bind { from, source: "/".to_owned(), writable: false };
            Mount { target, kind }
        };
        let tmp = Mount { target: "/tmp".to_owned(), kind: MountKind::Tmpfs { size: None } };
        let mut mounts = vec![tmp, shown(SOURCE.to_owned(), self.target)];
        mounts.extend(self.extras.iter().map(|(name, at)| shown(format!("{EXTRAS}/{}", extra(name)), *at)));
        let on = self.add(Operation::Image(generator.source.clone()), format!("[sbom] FROM {image}"));
        let directory = MakeDirectory { on, path: DESTINATION.to_owned(), owner: String::new() };
        let on = self.add(Operation::MakeDirectory(directory), format!("[sbom] WORKDIR {DESTINATION}"));
        let run = Run {
            on,
            arguments,
            environment,
            uncached: BTreeMap::new(),
            user: String::new(),
            directory: if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() },
            mounts,
            network: RunNetwork::Default,
            insecure: false,
            devices: Vec::new(),
        };
        let name = format!("[{}] generating sbom using {image}", self.platform);
        Ok(self.add(Operation::Run(run), name))
    }

    fn add(&mut self, operation: Operation, name: String) -> VertexId {
        self.vertices.push(Vertex { operation, name, stage: None, at: None, no_cache: false });
        VertexId(self.vertices.len() - 1)
    }
}

impl Builder {
    /// Reads what a generator has written, in the order of the files' names.
    pub(super) fn scanned(&self, solved: &Solved, scan: VertexId) -> Result<Vec<Predicate>, StepError> {
        let step = solved.done(scan).and_then(|done| done.step.as_ref());
        let layer = step.ok_or(StepError::Worker)?.layer;
        // Only what this one step wrote.
        let mut predicates = Vec::new();
        for directory in self.shop().store.stack(&[layer]) {
            let root = File::open(&directory).map_err(|source| io_failed(&directory, source))?;
            predicates.extend(statements(&Tree::plain(root.into()))?);
        }
        if predicates.is_empty() {
            return Err(StepError::NoStatement);
        }
        Ok(predicates)
    }
}

fn statements(tree: &Tree) -> Result<Vec<Predicate>, StepError> {
    let found = match tree.find(DESTINATION, true) {
        Err(TreeError::NotFound { .. }) => return Ok(Vec::new()),
        found => found?,
    };
    let mut predicates = Vec::new();
    for found in &found {
        let is_statement =
            |path: &Path| path.components().count() == 1 && path.extension().is_some_and(|end| end == "json");
        let files = found.found.iter().filter(|file| kind(&file.stat) == libc::S_IFREG && is_statement(&file.path));
        for file in files {
            let name = || file.path.display().to_string();
            let mut content = Vec::new();
            let opened = tree.open_file(&found.base, file)?;
            opened.take(LONGEST + 1).read_to_end(&mut content).map_err(|source| io_failed(&file.path, source))?;
            if content.len() as u64 > LONGEST {
                return Err(StepError::TooLong { path: file.path.clone(), limit: LONGEST });
            }
            let mut statement: Value =
                serde_json::from_slice(&content).map_err(|source| StepError::Statement { file: name(), source })?;
            // The subject is ours to say.
            let Some(kind) = statement["predicateType"].as_str().map(str::to_owned) else {
                return Err(StepError::Untyped(name()));
            };
            predicates.push(Predicate { kind, file: name(), content: statement["predicate"].take() });
        }
    }
    Ok(predicates)
}

fn io_failed(path: &Path, source: io::Error) -> StepError {
    StepError::Io { action: "read", path: path.to_owned(), source }
}
