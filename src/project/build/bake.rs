//! Builds of services as `docker buildx bake` reads them (`build --print`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::service::Overrides;
use crate::compose::model::{Build, Project, Service};
use crate::project::{labels, names};

/// Returns the bake file of services.
pub fn bake(project: &Project, services: &BTreeSet<String>, overrides: &Overrides) -> Value {
    let targets: Map<String, Value> = services
        .iter()
        .filter_map(|name| {
            let service = &project.services[name];
            Some((name.clone(), target(project, service, service.build.as_ref()?, overrides)))
        })
        .collect();
    json!({"group": {"default": {"targets": services}}, "target": targets})
}

fn target(project: &Project, service: &Service, build: &Build, overrides: &Overrides) -> Value {
    let mut target = Map::new();
    let mut set = |key: &str, value: Value| {
        let is_empty = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            Value::Number(number) => number.as_i64() == Some(0),
            Value::Bool(true) => false,
        };
        if !is_empty {
            target.insert(key.to_owned(), value);
        }
    };
    set("context", json!(build.context));
    set("contexts", contexts(build));
    if build.dockerfile_inline.is_none() {
        let name = if build.dockerfile.is_empty() { "Dockerfile" } else { &build.dockerfile };
        set("dockerfile", json!(std::path::Path::new(&build.context).join(name)));
    }
    set("dockerfile-inline", json!(build.dockerfile_inline));
    let given = build.args.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    set("args", json!(given.chain(overrides.arguments.clone()).collect::<BTreeMap<_, _>>()));
    let mut labels = build.labels.clone();
    labels.insert(labels::PROJECT.to_owned(), project.name.clone());
    labels.insert(labels::SERVICE.to_owned(), service.name.clone());
    labels.insert(labels::VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    set("labels", json!(labels));
    set("tags", build.tags.iter().cloned().chain([names::image(project, service)]).collect());
    set("cache-from", json!(build.cache_from));
    set("cache-to", json!(build.cache_to));
    set("target", json!(build.target));
    set("secret", secrets(project, build));
    set(
        "ssh",
        json!(
            build
                .ssh
                .iter()
                .map(|key| match &key.path {
                    Some(path) => format!("{}={path}", key.id),
                    None => key.id.clone(),
                })
                .chain(overrides.ssh.clone())
                .collect::<Vec<_>>()
        ),
    );
    set("platforms", json!(build.platforms));
    set("pull", json!(build.pull || overrides.pull));
    set("no-cache", json!(build.no_cache || overrides.no_cache));
    set("network", json!(build.network));
    set("shm-size", json!(build.shm_size));
    let limit =
        |(name, limit): (&String, &crate::compose::model::Ulimit)| format!("{name}={}:{}", limit.soft, limit.hard);
    set("ulimits", json!(build.ulimits.iter().map(limit).collect::<Vec<_>>()));
    set("entitlements", json!(build.entitlements));
    let hosts = build.extra_hosts.iter().filter_map(|host| host.split_once('='));
    set("extra-hosts", json!(hosts.collect::<BTreeMap<_, _>>()));
    let attested = |kind: &str, value: &Option<String>| match value.as_deref() {
        None | Some("false") => None,
        Some("true") => Some(format!("type={kind}")),
        Some(other) => Some(format!("type={kind},{other}")),
    };
    let provenance =
        attested("provenance", overrides.provenance.as_ref().map_or(&build.provenance, |_| &overrides.provenance));
    let sbom = attested("sbom", overrides.sbom.as_ref().map_or(&build.sbom, |_| &overrides.sbom));
    set("attest", json!(provenance.into_iter().chain(sbom).collect::<Vec<_>>()));
    set("output", json!([if overrides.push { "type=registry" } else { "type=docker" }]));
    Value::Object(target)
}

/// Named contexts; another service's is the target of its name.
fn contexts(build: &Build) -> Value {
    let context = |(name, value): (&String, &String)| {
        let value = match value.strip_prefix("service:") {
            Some(service) => format!("target:{service}"),
            None => value.clone(),
        };
        (name.clone(), value)
    };
    json!(build.additional_contexts.iter().map(context).collect::<BTreeMap<_, _>>())
}

fn secrets(project: &Project, build: &Build) -> Value {
    let secret = |mount: &crate::compose::model::FileMount| {
        let known = project.secrets.get(&mount.source)?;
        let id = mount.target.clone().filter(|target| !target.is_empty()).unwrap_or_else(|| mount.source.clone());
        match (&known.file, &known.environment) {
            (Some(file), _) => Some(format!("id={id},type=file,src={file}")),
            (None, Some(variable)) => Some(format!("id={id},type=env,env={variable}")),
            (None, None) => None,
        }
    };
    json!(build.secrets.iter().filter_map(secret).collect::<Vec<_>>())
}
