//! What is attested of an image or of files, in in-toto statements, as BuildKit writes them: where it comes from (SLSA
//! provenance 0.2), and what is in it (`sbom`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::error::BuildError;
use super::execute::Builder;
use super::graph::Operation;
use super::output::Built;
use super::request::Request;
use crate::id::Id;
use crate::image::{ATTESTED, Descriptor, Digest, Platform, Reference, media};

/// The type of the statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
/// The type of what is said of where an image comes from.
const PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";

/// How much is attested of where an image comes from, beside what its steps say.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// Also the values of arguments.
    pub max: bool,
    /// The Dockerfile.
    pub entry_point: String,
    /// Build arguments, the target and so on, as BuildKit names them.
    pub arguments: BTreeMap<String, String>,
    /// When the build began.
    pub started: Timestamp,
}

/// Something that is said of what was built.
#[derive(Debug, Clone)]
pub struct Predicate {
    /// What kind of thing it is: a URL.
    pub kind: String,
    /// What a file is called that has it.
    pub file: String,
    /// What is said.
    pub content: Value,
}

/// What something is said of: its name, and the digest of its content.
pub(super) struct Subject(pub(super) String, pub(super) Digest);

impl Builder {
    /// Attests what is said of an image. Returns what an index is to have beside the image.
    pub fn attest(
        &self,
        request: &Request,
        image: &Built,
        names: &[Reference],
        predicates: &[Predicate],
    ) -> Result<Descriptor, BuildError> {
        let store = &self.shop().store;
        let platform = request.graph.platform.to_string();
        let mut subjects: Vec<Subject> =
            names.iter().map(|name| Subject(package(name, &platform), image.digest)).collect();
        if subjects.is_empty() {
            subjects.push(Subject("_".to_owned(), image.digest));
        }
        let mut layers = Vec::new();
        for predicate in predicates {
            let statement = predicate.statement(&subjects).to_string().into_bytes();
            let layer = Descriptor::new(media::IN_TOTO, store.put_blob(&statement)?, statement.len() as u64);
            layers.push(layer.with_annotation("in-toto.io/predicate-type", &predicate.kind));
        }
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest).collect();
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let unknown = Platform { architecture: "unknown".to_owned(), os: "unknown".to_owned(), variant: None };
        let (_, manifest) = store.put_image(&config, layers, unknown, BTreeMap::new())?;
        Ok(manifest
            .with_annotation(ATTESTED, image.digest.to_string())
            .with_annotation("vnd.docker.reference.type", "attestation-manifest"))
    }
}

impl Predicate {
    /// Says it of something.
    pub(super) fn statement(&self, subjects: &[Subject]) -> Value {
        let subject = |Subject(name, digest): &Subject| json!({"name": name, "digest": {"sha256": digest.hex()}});
        let subjects: Vec<Value> = subjects.iter().map(subject).collect();
        json!({"_type": STATEMENT, "predicateType": self.kind, "subject": subjects, "predicate": self.content})
    }
}

impl Provenance {
    /// Says where the image of a build comes from.
    pub fn predicate(&self, request: &Request) -> Predicate {
        let mut materials: Vec<Value> = Vec::new();
        for vertex in &request.graph.vertices {
            if let Operation::Image(source) = &vertex.operation {
                let uri = source.reference.parse().map_or_else(
                    |_| source.reference.clone(),
                    |name: Reference| package(&name, &source.platform.to_string()),
                );
                let material = json!({"uri": uri, "digest": {"sha256": source.digest.hex()}});
                if !materials.contains(&material) {
                    materials.push(material);
                }
            }
        }
        let mut parameters =
            json!({"frontend": "dockerfile.v0", "locals": [{"name": "context"}, {"name": "dockerfile"}]});
        if self.max {
            parameters["args"] = json!(self.arguments);
        }
        let content = json!({
            "builder": {"id": ""},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": materials,
            "invocation": {
                "configSource": {"entryPoint": self.entry_point},
                "parameters": parameters,
                "environment": {"platform": Platform::host().to_string()},
            },
            "metadata": {
                "buildInvocationID": Id::random().as_str(),
                "buildStartedOn": self.started,
                "buildFinishedOn": Timestamp::now(),
                "completeness": {"parameters": self.max, "environment": true, "materials": false},
                "reproducible": false,
            },
        });
        Predicate { kind: PROVENANCE.to_owned(), file: "provenance.json".to_owned(), content }
    }
}

/// Returns the package URL of an image.
fn package(name: &Reference, platform: &str) -> String {
    let version = name.tag().map_or_else(String::new, |tag| format!("@{tag}"));
    format!("pkg:docker/{}{version}?platform={}", name.familiar_name(), platform.replace('/', "%2F"))
}
