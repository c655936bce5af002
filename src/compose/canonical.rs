//! Short forms → long forms, and the defaults that belong to the long ones.

use super::node::{Map, Node, Value};
use super::path::Path;
use super::source::Span;
use super::{Diagnostic, Faults, gopath, short};

/// What one port of a range counts for; a line of a file may be a range of 65,535.
const PORT_BYTES: usize = 128;

/// Gives every attribute its long form. With `lenient` a short form that cannot be read stays as it is (variables in it have
/// not been replaced).
pub(super) fn canonical(node: &mut Node, path: &Path<'_>, lenient: bool, faults: &mut Faults) {
    let parts = path.parts();
    let result = match parts.as_slice() {
        ["services", _, "ports"] => ports(node, path, lenient, faults),
        ["services", _, "volumes", _] => volume(node, lenient),
        ["services", _, "devices", _] => device(node, lenient),
        ["services", _, "depends_on"] => depends_on(node),
        ["services", _, "env_file"] => env_file(node),
        ["services", _, "networks" | "models"] => names(node),
        ["services", _, "gpus"] => gpus(node),
        ["services", _, "label_file" | "dns"] | ["services", _, "develop", "watch", _, "ignore" | "include"] => {
            listed(node);
            Ok(())
        }
        ["services", _, "extends"] => wrapped(node, "service"),
        ["services", _, "secrets" | "configs", _] | ["services", _, "build", "secrets", _] => wrapped(node, "source"),
        ["services", _, "ulimits", _] | ["services", _, "build", "ulimits", _] => match node.value {
            Value::Map(_) | Value::Int(_) => Ok(()),
            _ => Err("must be a whole number, or have `soft` and `hard`".to_owned()),
        },
        ["services", _, "build", "provenance" | "sbom"] => {
            if let Some(text) = node.value.print() {
                node.value = Value::String(text);
            }
            Ok(())
        }
        ["services", _, "build", "additional_contexts"] => key_values(node, lenient),
        ["services", _, "build", "ssh"] => ssh(node),
        ["include", _] => wrapped(node, "path"),
        ["services", _, "build"] => {
            let result = wrapped(node, "context");
            members(node, path, lenient, faults);
            result
        }
        ["volumes" | "networks" | "secrets" | "configs", _] => {
            members(node, path, lenient, faults);
            external(node, path, faults)
        }
        _ => {
            members(node, path, lenient, faults);
            Ok(())
        }
    };
    if let Err(message) = result {
        faults.taint(path);
        faults.push(Diagnostic::error("invalid-form", format!("{path}: {message}")).at_path(path.to_string()).label(
            &faults.sources,
            node.span.or(node.key),
            "",
        ));
        node.value = Value::Null;
    }
}

fn members(node: &mut Node, path: &Path<'_>, lenient: bool, faults: &mut Faults) {
    let before = faults.errors();
    match &mut node.value {
        Value::Map(map) => {
            for (key, node) in map.iter_mut() {
                if key.starts_with("x-")
                    && !matches!(path.parts().as_slice(), ["services" | "networks" | "volumes" | "configs" | "secrets"])
                {
                    continue;
                }
                canonical(node, &path.key(key), lenient, faults);
            }
        }
        Value::List(list) => {
            for (index, node) in list.iter_mut().enumerate() {
                canonical(node, &path.index(index), lenient, faults);
            }
            // What could not be read became null; nothing else may be null in these lists.
            if faults.errors() > before {
                list.retain(|node| !node.is_null());
            }
        }
        _ => {}
    }
}

fn text(value: impl Into<String>, span: Span) -> Node {
    Node { value: Value::String(value.into()), span, key: span }
}

fn ports(node: &mut Node, path: &Path<'_>, lenient: bool, faults: &mut Faults) -> Result<(), String> {
    let Value::List(list) = &node.value else { return Err(format!("must be a list, not {}", node.value.kind())) };
    // All are read before one is made, so that what is far too much is noticed early.
    let mut read = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let spec = match &item.value {
            Value::Map(_) => {
                read.push((item, None));
                continue;
            }
            Value::Int(number) => number.to_string(),
            Value::String(text) => text.clone(),
            other => return Err(format!("{} is no port", other.print().unwrap_or_default())),
        };
        match short::ports(&spec) {
            Ok(found) if found.len() > 1 && !faults.expand(found.len() * PORT_BYTES) => {
                faults.taint(path);
                node.value = Value::List(Vec::new());
                return Ok(());
            }
            Ok(found) => read.push((item, Some(found))),
            Err(_) if lenient => return Ok(()),
            Err(message) => {
                let path = path.index(index);
                faults.taint(&path);
                faults.push(
                    Diagnostic::error("invalid-port", format!("{path}: {message}"))
                        .at_path(path.to_string())
                        .label(&faults.sources, item.span, "not a port")
                        .help("the form is \"[IP:]HOST:CONTAINER[/PROTOCOL]\", such as \"8080:80\""),
                );
            }
        }
    }
    let mut ports = Vec::with_capacity(read.len());
    for (item, found) in read {
        match found {
            None => ports.push(item.clone()),
            Some(found) => ports.extend(found.into_iter().map(|port| long_port(port, item))),
        }
    }
    node.value = Value::List(ports);
    Ok(())
}

fn long_port(port: short::ShortPort, item: &Node) -> Node {
    let mut map = Map::with_capacity(5);
    map.insert("mode".to_owned(), text("ingress", item.span));
    if !port.host_ip.is_empty() {
        map.insert("host_ip".to_owned(), text(port.host_ip, item.span));
    }
    if port.target != 0 {
        map.insert(
            "target".to_owned(),
            Node { value: Value::Int(port.target.into()), span: item.span, key: item.span },
        );
    }
    if !port.published.is_empty() {
        map.insert("published".to_owned(), text(port.published, item.span));
    }
    map.insert("protocol".to_owned(), text(port.protocol, item.span));
    Node { value: Value::Map(map), span: item.span, key: item.key }
}

fn volume(node: &mut Node, lenient: bool) -> Result<(), String> {
    let Value::String(spec) = &node.value else {
        return if node.as_map().is_some() { Ok(()) } else { Err(format!("{} is no volume", node.value.kind())) };
    };
    let volume = match short::volume(spec) {
        Ok(volume) => volume,
        Err(_) if lenient => return Ok(()),
        Err(message) => return Err(message),
    };
    let span = node.span;
    let flag = || Node { value: Value::Bool(true), span, key: span };
    let mut map = Map::with_capacity(5);
    map.insert("type".to_owned(), text(if volume.bind { "bind" } else { "volume" }, span));
    if !volume.source.is_empty() {
        map.insert("source".to_owned(), text(volume.source, span));
    }
    if !volume.target.is_empty() {
        map.insert("target".to_owned(), text(gopath::clean(&volume.target), span));
    }
    if volume.read_only {
        map.insert("read_only".to_owned(), flag());
    }
    let mut bind = Map::new();
    if let Some(selinux) = volume.selinux {
        bind.insert("selinux".to_owned(), text(selinux, span));
    }
    if let Some(propagation) = volume.propagation {
        bind.insert("propagation".to_owned(), text(propagation, span));
    }
    if volume.bind {
        bind.insert("create_host_path".to_owned(), flag());
    }
    if volume.bind || !bind.is_empty() {
        map.insert("bind".to_owned(), Node { value: Value::Map(bind), span, key: span });
    }
    let mut options = Map::new();
    if volume.nocopy {
        options.insert("nocopy".to_owned(), flag());
    }
    if volume.nocopy || !(volume.bind || volume.tiny) {
        map.insert("volume".to_owned(), Node { value: Value::Map(options), span, key: span });
    }
    node.value = Value::Map(map);
    Ok(())
}

fn device(node: &mut Node, lenient: bool) -> Result<(), String> {
    let Value::String(spec) = &node.value else { return Ok(()) };
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, "", "rwm"),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] => (*source, *target, *permissions),
        _ if lenient => ("", "", "rwm"),
        _ => return Err(format!("confusing device mapping, please use long syntax: {spec}")),
    };
    let target = if target.is_empty() { source } else { target };
    let span = node.span;
    node.value = Value::Map(Map::from([
        ("source".to_owned(), text(source, span)),
        ("target".to_owned(), text(target, span)),
        ("permissions".to_owned(), text(permissions, span)),
    ]));
    Ok(())
}

fn depends_on(node: &mut Node) -> Result<(), String> {
    let started = |span| text("service_started", span);
    let required = |span| Node { value: Value::Bool(true), span, key: span };
    match &mut node.value {
        Value::Map(map) => {
            for (name, dependency) in map.iter_mut() {
                let span = dependency.place();
                let Value::Map(dependency) = &mut dependency.value else {
                    return Err(format!("{name} must be a mapping with a `condition`"));
                };
                dependency.entry("condition".to_owned()).or_insert_with(|| started(span));
                dependency.entry("required".to_owned()).or_insert_with(|| required(span));
            }
        }
        Value::List(list) => {
            let mut map = Map::with_capacity(list.len());
            for item in list {
                let Some(name) = item.as_str() else { return Err("must be a list of service names".to_owned()) };
                let value = Value::Map(Map::from([
                    ("condition".to_owned(), started(item.span)),
                    ("required".to_owned(), required(item.span)),
                ]));
                map.insert(name.to_owned(), Node { value, span: item.span, key: item.span });
            }
            node.value = Value::Map(map);
        }
        other => return Err(format!("must be a list or a mapping, not {}", other.kind())),
    }
    Ok(())
}

fn env_file(node: &mut Node) -> Result<(), String> {
    listed(node);
    let Value::List(list) = &mut node.value else {
        return Err(format!("must be a string or a list, not {}", node.value.kind()));
    };
    for item in list {
        let span = item.span;
        wrapped(item, "path")?;
        if let Value::Map(map) = &mut item.value {
            map.entry("required".to_owned()).or_insert_with(|| Node { value: Value::Bool(true), span, key: span });
        }
    }
    Ok(())
}

/// A list of names → a mapping of them to null.
fn names(node: &mut Node) -> Result<(), String> {
    if let Value::List(list) = &node.value {
        let mut map = Map::with_capacity(list.len());
        for item in list {
            let Some(name) = item.as_str() else { return Err("must be a list of names".to_owned()) };
            map.insert(name.to_owned(), Node { value: Value::Null, span: item.span, key: item.span });
        }
        node.value = Value::Map(map);
    }
    Ok(())
}

fn gpus(node: &mut Node) -> Result<(), String> {
    match &node.value {
        Value::List(_) => Ok(()),
        Value::String(_) => {
            let span = node.span;
            let request = Value::Map(Map::from([("count".to_owned(), text("all", span))]));
            node.value = Value::List(vec![Node::new(request, span)]);
            Ok(())
        }
        other => Err(format!("must be `all` or a list, not {}", other.kind())),
    }
}

/// A string → a list of it.
fn listed(node: &mut Node) {
    if let Value::String(text) = &mut node.value {
        let item = Node::string(std::mem::take(text), node.span);
        node.value = Value::List(vec![item]);
    }
}

/// A string → a mapping with it as the value of one key.
fn wrapped(node: &mut Node, key: &str) -> Result<(), String> {
    let span = node.span;
    match &mut node.value {
        Value::Map(_) => Ok(()),
        Value::String(value) => {
            let value = text(std::mem::take(value), span);
            node.value = Value::Map(Map::from([(key.to_owned(), value)]));
            Ok(())
        }
        other => Err(format!("must be a string or a mapping, not {}", other.kind())),
    }
}

fn key_values(node: &mut Node, lenient: bool) -> Result<(), String> {
    let Value::List(list) = &node.value else { return Ok(()) };
    let mut map = Map::with_capacity(list.len());
    for item in list {
        let entry = item.as_str().unwrap_or_default();
        match entry.split_once('=') {
            Some((key, value)) => {
                map.insert(key.to_owned(), text(value, item.span));
            }
            None if lenient => return Ok(()),
            None => return Err(format!("invalid value {entry}, expected key=value")),
        }
    }
    node.value = Value::Map(map);
    Ok(())
}

fn ssh(node: &mut Node) -> Result<(), String> {
    let Value::List(list) = &node.value else { return Ok(()) };
    let mut map = Map::with_capacity(list.len());
    for item in list {
        let entry = item.as_str().unwrap_or_default();
        // `config` prints `id: path`, as Docker Compose does, which does not read it back.
        match entry.split_once('=').or_else(|| entry.split_once(": ")) {
            Some((id, path)) => map.insert(id.to_owned(), text(path, item.span)),
            None if entry == "default" => {
                map.insert(entry.to_owned(), Node { value: Value::Null, span: item.span, key: item.span })
            }
            None => return Err(format!("invalid ssh key {entry:?}")),
        };
    }
    node.value = Value::Map(map);
    Ok(())
}

/// `external: {name: x}` → `external: true` and `name: x`.
fn external(node: &mut Node, path: &Path<'_>, faults: &mut Faults) -> Result<(), String> {
    let Value::Map(map) = &mut node.value else { return Ok(()) };
    let Some(external) = map.get("external") else { return Ok(()) };
    let Value::Map(reference) = &external.value else { return Ok(()) };
    let (span, key) = (external.span, external.key);
    let given = reference.get("name").cloned();
    map.insert("external".to_owned(), Node { value: Value::Bool(true), span, key });
    let Some(given) = given else { return Ok(()) };
    faults.push(
        Diagnostic::warning(
            "deprecated",
            format!("{path}: external.name is deprecated. Please set name and external: true"),
        )
        .at_path(path.to_string())
        .label(&faults.sources, key.or(span), "deprecated form"),
    );
    match map.get("name") {
        Some(name) if !super::node::same(name, &given) => {
            return Err("name and external.name conflict; only use name".to_owned());
        }
        Some(_) => {}
        None => {
            map.insert("name".to_owned(), given);
        }
    }
    Ok(())
}

/// Removes the empty entries of `dns`, which Docker Compose has always ignored.
pub(super) fn omit_empty(root: &mut Node) {
    let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return };
    for service in services.values_mut() {
        if let Some(list) = service.get_mut("dns").and_then(Node::as_list_mut) {
            list.retain(|node| !node.is_null() && node.as_str() != Some(""));
        }
    }
}

/// Fills in defaults that do not depend on other attributes.
pub(super) fn defaults(root: &mut Node) {
    let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) else { return };
    for service in services.values_mut() {
        if let Some(build) = service.get_mut("build") {
            default(build, "context", ".");
        }
        for secret in service.get_mut("secrets").and_then(Node::as_list_mut).into_iter().flatten() {
            let source = secret.get("source").and_then(Node::as_str).unwrap_or("%!s(<nil>)").to_owned();
            default(secret, "target", &format!("/run/secrets/{source}"));
        }
        for port in service.get_mut("ports").and_then(Node::as_list_mut).into_iter().flatten() {
            default(port, "protocol", "tcp");
            default(port, "mode", "ingress");
        }
        for request in service.get_mut("gpus").and_then(Node::as_list_mut).into_iter().flatten() {
            default_count(request);
        }
        let reserved =
            ["deploy", "resources", "reservations", "devices"].iter().try_fold(service, |node, key| node.get_mut(key));
        for request in reserved.and_then(Node::as_list_mut).into_iter().flatten() {
            default_count(request);
        }
    }
}

fn default_count(request: &mut Node) {
    if request.get("count").is_none() && request.get("device_ids").is_none() {
        default(request, "count", "all");
    }
}

fn default(node: &mut Node, key: &str, value: &str) {
    let span = node.span;
    if let Some(map) = node.as_map_mut() {
        map.entry(key.to_owned()).or_insert_with(|| Node::string(value, span));
    }
}
