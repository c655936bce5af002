//! From the typed tree to the [`Project`].

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::model::{Config, Model, Network, Project, Secret, Service, Volume};
use super::node::{Map, Node, Value};
use super::normalize::SECRET_CONTENT;
use super::shape::{Flavour, Out, emit_section, emit_service};
use super::{Diagnostic, Faults, Resolved, deep, print};

/// Makes the project of a resolved tree.
pub(super) fn project(resolved: &Resolved, faults: &mut Faults) -> Project {
    let root = &resolved.tree.0;
    let mut project = Project {
        name: resolved.name.clone(),
        working_dir: resolved.directory.clone().into(),
        compose_files: resolved.files.iter().map(Into::into).collect(),
        environment: resolved.environment.values.clone(),
        compatibility: resolved.compatibility,
        profiles: resolved.profiles.clone(),
        ..Project::default()
    };
    if let Some(services) = root.get("services").and_then(Node::as_map) {
        project.services = self::services(services, faults);
    }
    project.disabled_services = services(&resolved.disabled, faults);
    project.networks = section(root, "networks", faults, |network: &mut Network, out| network.config_hash = hash(out));
    project.volumes = section(root, "volumes", faults, |volume: &mut Volume, out| {
        let mut out = out.clone();
        if volume.driver.is_none()
            && let Out::Map(entries) = &mut out
        {
            // Docker Compose hashes a volume without a driver as one of `local`.
            let at = entries.iter().position(|(key, _)| key != "name").unwrap_or(entries.len());
            entries.insert(at, ("driver".to_owned(), Out::Text("local".to_owned())));
        }
        volume.config_hash = hash(&out);
    });
    project.configs = section(root, "configs", faults, |_: &mut Config, _| {});
    project.secrets = section(root, "secrets", faults, |_: &mut Secret, _| {});
    project.models = section(root, "models", faults, |_: &mut Model, _| {});
    let content =
        |section: &str, key: &str, content: &str| Some(root.get(section)?.get(key)?.get(content)?.as_str()?.to_owned());
    for (key, config) in &mut project.configs {
        config.content = content("configs", key, "content");
    }
    for (key, secret) in &mut project.secrets {
        secret.content = content("secrets", key, SECRET_CONTENT);
    }
    // Values that are nested too deeply for everybody's stack are of no use to anyone here; `config` prints them all the same.
    if resolved.depth <= deep::SHALLOW {
        let extensions = root.as_map().into_iter().flatten().filter(|(key, _)| key.starts_with("x-"));
        project.extensions = extensions.map(|(key, node)| (key.clone(), raw_json(node))).collect();
    }
    project
}

fn services(services: &Map, faults: &mut Faults) -> BTreeMap<String, Service> {
    let mut typed = BTreeMap::new();
    for (name, node) in services {
        if let Some(mut service) =
            convert::<Service>(&emit_service(node, &[], Flavour::Yaml), "services", name, node, faults)
        {
            service.name.clone_from(name);
            service.definition = definition(node);
            service.config_hash = sha256(&service.definition);
            typed.insert(name.clone(), service);
        }
    }
    typed
}

fn section<T: DeserializeOwned>(
    root: &Node,
    name: &str,
    faults: &mut Faults,
    finish: impl Fn(&mut T, &Out),
) -> BTreeMap<String, T> {
    let mut typed = BTreeMap::new();
    let Out::Map(members) = emit_section(root, name, Flavour::Json) else { return typed };
    for (key, out) in members {
        let Some(node) = root.get(name).and_then(|section| section.get(&key)) else { continue };
        if let Some(mut value) = convert::<T>(&out, name, &key, node, faults) {
            finish(&mut value, &out);
            typed.insert(key, value);
        }
    }
    typed
}

fn convert<T: DeserializeOwned>(out: &Out, section: &str, name: &str, node: &Node, faults: &mut Faults) -> Option<T> {
    match serde_json::from_value(json(out)) {
        Ok(value) => Some(value),
        Err(error) => {
            let path = format!("{section}.{name}");
            faults.push(Diagnostic::error("invalid-value", format!("{path}: {error}")).at_path(path).label(
                &faults.sources,
                node.place(),
                "",
            ));
            None
        }
    }
}

/// A service's definition, as JSON, without what does not make its containers different.
fn definition(service: &Node) -> String {
    let mut out = emit_service(service, &["build", "pull_policy", "scale", "depends_on", "profiles"], Flavour::Json);
    if let Out::Map(entries) = &mut out {
        for (_, deploy) in entries.iter_mut().filter(|(key, _)| key == "deploy") {
            if let Out::Map(deploy) = deploy {
                deploy.retain(|(key, _)| key != "replicas");
            }
        }
    }
    print::json(&out, false)
}

fn hash(out: &Out) -> String {
    sha256(&print::json(out, false))
}

fn sha256(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn json(out: &Out) -> Json {
    let number = |number: f64| serde_json::Number::from_f64(number).map_or(Json::Null, Json::Number);
    match out {
        Out::Null => Json::Null,
        Out::Bool(value) => Json::Bool(*value),
        Out::Int(value) => (*value).into(),
        Out::Uint(value) => (*value).into(),
        Out::Float(value) => number(*value),
        Out::Float32(value) => number(f64::from(*value)),
        Out::Text(text) | Out::Time(text) => Json::String(text.clone()),
        Out::List(items) => Json::Array(items.iter().map(json).collect()),
        Out::Map(entries) => Json::Object(entries.iter().map(|(key, value)| (key.clone(), json(value))).collect()),
    }
}

fn raw_json(node: &Node) -> Json {
    match &node.value {
        Value::List(list) => Json::Array(list.iter().map(raw_json).collect()),
        Value::Map(map) => Json::Object(map.iter().map(|(key, node)| (key.clone(), raw_json(node))).collect()),
        _ => json(&super::shape::emit_raw(node, Flavour::Json)),
    }
}
