//! What is attested of an image: its provenance (SLSA provenance 0.2 in an in-toto statement), as BuildKit writes it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::error::BuildError;
use super::execute::Builder;
use super::graph::Operation;
use super::output::Built;
use super::request::Request;
use crate::id::Id;
use crate::image::{Descriptor, Platform, Reference, media};

/// The type of the statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
/// The type of what it says.
const PREDICATE: &str = "https://slsa.dev/provenance/v0.2";

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

impl Builder {
    /// Attests where an image comes from. Returns what an index is to have beside the image.
    pub fn attest(
        &self,
        request: &Request,
        image: &Built,
        names: &[Reference],
        provenance: &Provenance,
    ) -> Result<Descriptor, BuildError> {
        let store = &self.shop().store;
        let statement = statement(request, image, names, provenance).to_string().into_bytes();
        let layer = Descriptor::new(media::IN_TOTO, store.put_blob(&statement)?, statement.len() as u64);
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        });
        let layers = vec![layer.with_annotation("in-toto.io/predicate-type", PREDICATE)];
        let unknown = Platform { architecture: "unknown".to_owned(), os: "unknown".to_owned(), variant: None };
        let (_, manifest) = store.put_image(&config, layers, unknown, BTreeMap::new())?;
        Ok(manifest
            .with_annotation("vnd.docker.reference.digest", image.digest.to_string())
            .with_annotation("vnd.docker.reference.type", "attestation-manifest"))
    }
}

fn statement(request: &Request, image: &Built, names: &[Reference], provenance: &Provenance) -> Value {
    let platform = request.graph.platform.to_string();
    let subject =
        |name: &Reference| json!({"name": package(name, &platform), "digest": {"sha256": image.digest.hex()}});
    let subjects: Vec<Value> = if names.is_empty() {
        vec![json!({"name": "_", "digest": {"sha256": image.digest.hex()}})]
    } else {
        names.iter().map(subject).collect()
    };
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
    let mut parameters = json!({"frontend": "dockerfile.v0", "locals": [{"name": "context"}, {"name": "dockerfile"}]});
    if provenance.max {
        parameters["args"] = json!(provenance.arguments);
    }
    json!({
        "_type": STATEMENT,
        "predicateType": PREDICATE,
        "subject": subjects,
        "predicate": {
            "builder": {"id": ""},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": materials,
            "invocation": {
                "configSource": {"entryPoint": provenance.entry_point},
                "parameters": parameters,
                "environment": {"platform": Platform::host().to_string()},
            },
            "metadata": {
                "buildInvocationID": Id::random().as_str(),
                "buildStartedOn": provenance.started,
                "buildFinishedOn": Timestamp::now(),
                "completeness": {"parameters": provenance.max, "environment": true, "materials": false},
                "reproducible": false,
            },
        },
    })
}

/// Returns the package URL of an image.
fn package(name: &Reference, platform: &str) -> String {
    let version = name.tag().map_or_else(String::new, |tag| format!("@{tag}"));
    format!("pkg:docker/{}{version}?platform={}", name.familiar_name(), platform.replace('/', "%2F"))
}
