//! What must agree: attributes with each other, references with what they refer to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::node::{Map, Node, Value};
use super::source::Span;
use super::{Diagnostic, Faults, short, suggest};

fn members<'n>(root: &'n Node, section: &str) -> impl Iterator<Item = (&'n String, &'n Node)> {
    root.get(section).and_then(Node::as_map).into_iter().flatten()
}

fn items<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Node> {
    node.get(key).and_then(Node::as_list).into_iter().flatten()
}

fn text<'n>(node: &'n Node, key: &str) -> &'n str {
    node.get(key).and_then(Node::as_str).unwrap_or("")
}

/// A fault before it is reported: its path, its words, and its places with theirs.
type Found = (String, String, Vec<(Span, String)>);

/// Checks attributes that exclude each other, in a tree in its long form.
pub(super) fn values(root: &mut Node, faults: &mut Faults) {
    let mut found: Vec<Found> = Vec::new();
    for (name, volume) in members(root, "volumes") {
        if volume.get("external").and_then(Node::as_bool) != Some(true) {
            continue;
        }
        for (key, node) in volume.as_map().into_iter().flatten() {
            if !matches!(key.as_str(), "name" | "external") && !key.starts_with("x-") {
                let external = volume.get("external").map_or(Span::NONE, Node::place);
                found.push((
                    format!("volumes.{name}"),
                    format!("conflicting parameters \"external\" and {key:?} specified"),
                    vec![
                        (node.place(), "belongs to who made the volume".to_owned()),
                        (external, "not made by this project".to_owned()),
                    ],
                ));
            }
        }
    }
    let objects: [(&str, &[&str]); 2] =
        [("configs", &["file", "environment", "content"]), ("secrets", &["file", "environment"])];
    for (section, keys) in objects {
        for (name, object) in members(root, section) {
            let Some(map) = object.as_map() else { continue };
            let given: Vec<&&str> = keys.iter().filter(|key| map.contains_key(**key)).collect();
            let path = format!("{section}.{name}");
            if given.len() > 1 {
                let places = given.iter().filter_map(|key| Some((map.get(**key)?.place(), String::new()))).collect();
                found.push((path, format!("{} attributes are mutually exclusive", keys.join("|")), places));
            } else if given.is_empty() && !map.contains_key("driver") && !map.contains_key("external") {
                found.push((
                    path,
                    format!("one of {} must be set", keys.join("|")),
                    vec![(object.place(), "has no content".to_owned())],
                ));
            }
        }
    }
    for (name, service) in members(root, "services") {
        for (index, port) in items(service, "ports").enumerate() {
            if let Some(address) = port.get("host_ip")
                && !address.as_str().is_some_and(short::is_ip_address)
            {
                found.push((
                    format!("services.{name}.ports[{index}]"),
                    format!("invalid ip address: {}", address.value.print().unwrap_or_default()),
                    vec![(address.span, String::new())],
                ));
            }
        }
        for (index, rule) in service.get("develop").into_iter().flat_map(|develop| items(develop, "watch")).enumerate()
        {
            if let Some(path) = rule.get("path")
                && path.as_str() == Some("")
            {
                found.push((
                    format!("services.{name}.develop.watch[{index}].path"),
                    "value can't be blank".to_owned(),
                    vec![(path.place(), String::new())],
                ));
            }
        }
        let reserved = ["deploy", "resources", "reservations"].iter().try_fold(service, |node, key| node.get(key));
        for request in
            items(service, "gpus").chain(reserved.into_iter().flat_map(|reserved| items(reserved, "devices")))
        {
            if let (Some(count), Some(ids)) = (request.get("count"), request.get("device_ids")) {
                found.push((
                    format!("services.{name}"),
                    "\"count\" and \"device_ids\" attributes are exclusive".to_owned(),
                    vec![(count.place(), String::new()), (ids.place(), String::new())],
                ));
            }
        }
    }
    for (path, message, places) in found {
        let mut diagnostic = Diagnostic::error("conflict", format!("{path}: {message}")).at_path(path);
        for (span, label) in places {
            diagnostic = diagnostic.label(&faults.sources, span, label);
        }
        faults.push(diagnostic);
    }
}

/// Checks the active services of a typed tree against each other and against the resources.
pub(super) fn consistency(root: &mut Node, disabled: &Map, faults: &mut Faults) {
    for service in root.get_mut("services").and_then(Node::as_map_mut).into_iter().flat_map(Map::values_mut) {
        // `scale` is the older name of the same thing.
        if let (Some(scale), Some(deploy)) =
            (service.get("scale").cloned(), service.get_mut("deploy").and_then(Node::as_map_mut))
        {
            deploy.entry("replicas".to_owned()).or_insert(scale);
        }
    }
    let root = &*root;
    let Some(services) = root.get("services").and_then(Node::as_map) else { return };
    for (name, service) in services {
        Check { root, services, disabled, name, service, faults }.all();
    }
    for (name, secret) in members(root, "secrets") {
        let external = secret.get("external").and_then(Node::as_bool).unwrap_or(false);
        if !external
            && text(secret, "file").is_empty()
            && text(secret, "environment").is_empty()
            && !faults.is_section_tainted("secrets")
        {
            let message = format!("secret {name:?} must declare either `file` or `environment`");
            faults.push(Diagnostic::error("missing-key", message).at_path(format!("secrets.{name}")).label(
                &faults.sources,
                secret.place(),
                "",
            ));
        }
    }
    cycles(services, faults);
}

/// Two services that are wanted together cannot have the same container name.
pub(super) fn container_names(root: &Node, faults: &mut Faults) {
    let Some(services) = root.get("services").and_then(Node::as_map) else { return };
    let mut seen: HashMap<&str, (&str, Span)> = HashMap::new();
    for (name, service) in services {
        let Some(node) =
            service.get("container_name").filter(|node| node.as_str().is_some_and(|name| !name.is_empty()))
        else {
            continue;
        };
        if let Some((other, span)) = seen.insert(node.as_str().unwrap_or_default(), (name, node.span)) {
            let message = format!(
                "services.{name}: container name {:?} is already in use by service {other}",
                node.as_str().unwrap_or_default()
            );
            faults.push(
                Diagnostic::error("conflict", message)
                    .at_path(format!("services.{name}.container_name"))
                    .label(&faults.sources, node.span, "used again")
                    .label(&faults.sources, span, "first used here"),
            );
        }
    }
}

struct Check<'c> {
    root: &'c Node,
    services: &'c Map,
    disabled: &'c Map,
    name: &'c str,
    service: &'c Node,
    faults: &'c mut Faults,
}

impl Check<'_> {
    fn report(
        &mut self,
        code: &'static str,
        attribute: &str,
        message: String,
        places: &[(Span, &str)],
        help: Option<String>,
    ) {
        let path = if attribute.is_empty() {
            format!("services.{}", self.name)
        } else {
            format!("services.{}.{attribute}", self.name)
        };
        let mut diagnostic = Diagnostic::error(code, message).at_path(path);
        for (span, label) in places {
            diagnostic = diagnostic.label(&self.faults.sources, *span, *label);
        }
        if let Some(help) = help {
            diagnostic = diagnostic.help(help);
        }
        self.faults.push(diagnostic);
    }

    fn all(&mut self) {
        let (service, name) = (self.service, self.name);
        let place = service.place();
        let build = service.get("build");
        let has_origin = build.is_some() || !text(service, "image").is_empty() || service.get("provider").is_some();
        // Of a service that lost something it is not known whether that was its image.
        if !has_origin && !self.faults.is_tainted(name) {
            let message = format!("service {name:?} has neither an image nor a build context specified");
            self.report("no-image", "", message, &[(place, "needs `image` or `build`")], None);
        }
        if let Some(build) = build {
            self.build(build);
        }
        self.networks();
        self.healthcheck();
        self.dependencies();
        self.references();
        self.resources();
        self.mounts();
        for (index, rule) in service.get("develop").into_iter().flat_map(|develop| items(develop, "watch")).enumerate()
        {
            if text(rule, "target").is_empty() && !matches!(text(rule, "action"), "rebuild" | "restart") {
                let message = format!("services.{name}.develop.watch: target is required for non-rebuild actions");
                self.report(
                    "missing-key",
                    &format!("develop.watch[{index}]"),
                    message,
                    &[(rule.span, "needs `target`")],
                    None,
                );
            }
        }
    }

    fn build(&mut self, build: &Node) {
        let (service, name) = (self.service, self.name);
        if let (Some(inline), Some(file)) = (build.get("dockerfile_inline"), build.get("dockerfile"))
            && !text(build, "dockerfile_inline").is_empty()
            && !text(build, "dockerfile").is_empty()
        {
            let message = format!("service {name:?} declares mutually exclusive dockerfile and dockerfile_inline");
            self.report(
                "conflict",
                "build",
                message,
                &[(inline.place(), "the Dockerfile's text"), (file.place(), "and its path")],
                Some("keep one of them".to_owned()),
            );
        }
        for (context, node) in members(build, "additional_contexts") {
            let Some(target) = node.as_str().and_then(|text| text.strip_prefix("service:")) else { continue };
            match self.services.get(target) {
                None => {
                    let message = format!(
                        "service {name:?} declares unknown service {target:?} as additional contexts {context}"
                    );
                    let help = self.did_you_mean_service(target);
                    self.report(
                        "undefined-service",
                        &format!("build.additional_contexts.{context}"),
                        message,
                        &[(node.span, "no such service")],
                        help,
                    );
                }
                Some(other) if other.get("build").is_none() => {
                    let message = format!(
                        "service {name:?} declares non-buildable service {target:?} as additional contexts {context}"
                    );
                    self.report(
                        "conflict",
                        &format!("build.additional_contexts.{context}"),
                        message,
                        &[(node.span, ""), (other.place(), "has no `build`")],
                        None,
                    );
                }
                Some(_) => {}
            }
        }
        let platform = text(service, "platform");
        let platforms: Vec<&str> = items(build, "platforms").filter_map(Node::as_str).collect();
        if !platforms.is_empty() && !platform.is_empty() && !platforms.contains(&platform) {
            let spans =
                [service.get("platform"), build.get("platforms")].map(|node| node.map_or(Span::NONE, |node| node.span));
            let message = format!("service.build.platforms MUST include service.platform {platform:?}");
            self.report(
                "conflict",
                "build.platforms",
                message,
                &[(spans[1], "does not have it"), (spans[0], "wanted here")],
                None,
            );
        }
    }

    fn networks(&mut self) {
        let (service, name) = (self.service, self.name);
        let networks = service.get("networks").and_then(Node::as_map);
        if let (Some(mode), Some(networks)) = (service.get("network_mode"), service.get("networks"))
            && !text(service, "network_mode").is_empty()
            && networks.as_map().is_some_and(|networks| !networks.is_empty())
        {
            let message = format!("service {name} declares mutually exclusive `network_mode` and `networks`");
            self.report(
                "conflict",
                "networks",
                message,
                &[(mode.place(), "the whole network of the service"), (networks.place(), "and single networks")],
                Some("keep one of them".to_owned()),
            );
        }
        for (network, node) in networks.into_iter().flatten() {
            if network.starts_with("x-") {
                let message = format!("service {name:?} refers to undefined network {network}");
                let help =
                    "in a service's networks a key that begins with x- is an extension; give the network another key"
                        .to_owned();
                self.report(
                    "undefined-network",
                    "networks",
                    message,
                    &[(node.place(), "an extension, not a network")],
                    Some(help),
                );
                continue;
            }
            self.defined("networks", "network", network, node.place(), &format!("networks.{network}"));
        }
        if let Some(mode) = service.get("network_mode")
            && let Some(target) = mode.as_str().and_then(|mode| mode.strip_prefix("service:"))
            && !self.services.contains_key(target)
        {
            let message = format!("service {target:?} not found for network_mode 'service:{target}'");
            let help = self.did_you_mean_service(target);
            self.report("undefined-service", "network_mode", message, &[(mode.span, "no such service")], help);
        }
    }

    fn defined(&mut self, section: &str, what: &str, key: &str, span: Span, attribute: &str) {
        let defined = self.root.get(section).and_then(Node::as_map);
        if defined.is_some_and(|defined| defined.contains_key(key))
            || self.faults.is_section_tainted(section)
            || self.faults.is_section_tainted("include")
        {
            return;
        }
        let message = format!("service {:?} refers to undefined {what} {key}", self.name);
        let known = defined.into_iter().flatten().map(|(key, _)| key.as_str());
        let known = if self.faults.is_full() { None } else { suggest::closest(key, known) };
        let help = match known {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("define it at the top level: `{section}:` with `{key}:` below it"),
        };
        self.report(undefined(section), attribute, message, &[(span, "not defined")], Some(help));
    }

    fn healthcheck(&mut self) {
        let Some(test) = self.service.get("healthcheck").and_then(|healthcheck| healthcheck.get("test")) else {
            return;
        };
        if let Some(first) = test.as_list().and_then(<[Node]>::first)
            && !matches!(first.as_str(), Some("CMD" | "CMD-SHELL" | "NONE"))
        {
            let message = "healthcheck.test must start either by \"CMD\", \"CMD-SHELL\" or \"NONE\"".to_owned();
            let help = "put \"CMD\" before the program and its arguments, or write the line as one string".to_owned();
            self.report("invalid-value", "healthcheck.test", message, &[(first.span, "")], Some(help));
        }
    }

    fn did_you_mean_service(&self, name: &str) -> Option<String> {
        if self.faults.is_full() {
            return None;
        }
        suggest::closest(name, self.services.keys().map(String::as_str)).map(|known| format!("did you mean {known:?}?"))
    }

    fn dependencies(&mut self) {
        let name = self.name;
        for (target, dependency) in self.service.get("depends_on").and_then(Node::as_map).into_iter().flatten() {
            if self.services.contains_key(target) || self.faults.is_section_tainted("include") {
                continue;
            }
            let disabled = self.disabled.get(target);
            let required = dependency.get("required").and_then(Node::as_bool).unwrap_or(true);
            if disabled.is_some() && !required {
                continue;
            }
            let message = format!("service {name:?} depends on undefined service {target:?}");
            let profiles: Option<Vec<&str>> =
                disabled.map(|service| items(service, "profiles").filter_map(Node::as_str).collect());
            let help = match profiles {
                Some(profiles) => Some(format!(
                    "{target:?} has the profile {}, which is not active: use --profile, or `required: false`",
                    profiles.join(", ")
                )),
                None => self.did_you_mean_service(target),
            };
            let mut places =
                vec![(dependency.place(), if disabled.is_some() { "not active" } else { "no such service" })];
            if let Some(service) = disabled {
                places.push((service.place(), "only in a profile"));
            }
            self.report("undefined-service", &format!("depends_on.{target}"), message, &places, help);
        }
    }

    fn references(&mut self) {
        let service = self.service;
        for (index, mount) in items(service, "volumes").enumerate() {
            let source = text(mount, "source");
            if text(mount, "type") == "volume" && !source.is_empty() {
                let span = mount.get("source").map_or(mount.span, |source| source.span);
                self.defined("volumes", "volume", source, span, &format!("volumes[{index}]"));
            }
        }
        for (index, secret) in service.get("build").into_iter().flat_map(|build| items(build, "secrets")).enumerate() {
            self.defined(
                "secrets",
                "build secret",
                text(secret, "source"),
                secret.span,
                &format!("build.secrets[{index}]"),
            );
        }
        for (section, what) in [("configs", "config"), ("secrets", "secret")] {
            for (index, object) in items(service, section).enumerate() {
                let span = object.get("source").map_or(object.span, |source| source.span);
                self.defined(section, what, text(object, "source"), span, &format!("{section}[{index}]"));
            }
        }
        for (model, node) in members(service, "models") {
            self.defined("models", "model", model, node.place(), &format!("models.{model}"));
        }
    }

    fn resources(&mut self) {
        let (service, name) = (self.service, self.name);
        let deploy = service.get("deploy");
        let replicas = deploy.and_then(|deploy| deploy.get("replicas"));
        let scale = service.get("scale");
        let number = |node: Option<&Node>| node.and_then(Node::as_int);
        if let (Some(scale), Some(replicas)) = (scale, replicas)
            && scale.as_int() != replicas.as_int()
        {
            let message = format!("services.{name}: can't set distinct values on 'scale' and 'deploy.replicas'");
            self.report("conflict", "scale", message, &[(scale.span, "here"), (replicas.span, "and here")], None);
        }
        for (attribute, node) in [("scale", scale), ("deploy.replicas", replicas)] {
            if let Some(node) = node
                && node.as_int().is_some_and(|number| number < 0)
            {
                self.report(
                    "out-of-range",
                    attribute,
                    format!("services.{name}.{attribute}: must be greater than or equal to 0"),
                    &[(node.span, "")],
                    None,
                );
            }
        }
        let resources = deploy.and_then(|deploy| deploy.get("resources"));
        let limits = resources.and_then(|resources| resources.get("limits"));
        let reservations = resources.and_then(|resources| resources.get("reservations"));
        let pairs = [
            ("cpus", limits, "limits", "cpus"),
            ("mem_limit", limits, "limits", "memory"),
            ("mem_reservation", reservations, "reservations", "memory"),
            ("pids_limit", limits, "limits", "pids"),
        ];
        for (attribute, group, group_name, key) in pairs {
            let (Some(own), Some(group)) = (service.get(attribute), group) else { continue };
            let own_amount = amount(Some(own));
            if own_amount == 0.0 || amount(group.get(key)).total_cmp(&own_amount).is_eq() {
                continue;
            }
            let message = format!(
                "services.{name}: can't set distinct values on '{attribute}' and 'deploy.resources.{group_name}.{key}'"
            );
            let other = group.get(key).map_or(group.place(), |node| node.span);
            self.report(
                "conflict",
                attribute,
                message,
                &[(own.span, "here"), (other, "and here")],
                Some("set both to the same value, or only one of them".to_owned()),
            );
        }
        let count = number(scale).or(number(replicas)).unwrap_or(1);
        if count > 1
            && let Some(container_name) = service.get("container_name")
            && !text(service, "container_name").is_empty()
        {
            let (attribute, node) = if scale.is_some() { ("scale", scale) } else { ("deploy.replicas", replicas) };
            let message =
                format!("services.{name}: can't set container_name and {attribute} as container name must be unique");
            let several = node.map_or(Span::NONE, |node| node.span);
            self.report(
                "conflict",
                "container_name",
                message,
                &[(container_name.place(), "one name"), (several, "several containers")],
                None,
            );
        }
    }

    fn mounts(&mut self) {
        let (service, name) = (self.service, self.name);
        let mut seen: HashMap<&str, (String, Span)> = HashMap::new();
        let tmpfs = items(service, "tmpfs").enumerate().map(|(index, node)| {
            ("tmpfs", index, node.as_str().unwrap_or("").split(':').next().unwrap_or(""), node.span)
        });
        let volumes = items(service, "volumes").enumerate().map(|(index, node)| {
            ("volumes", index, text(node, "target"), node.get("target").map_or(node.span, |target| target.span))
        });
        for (attribute, index, target, span) in tmpfs.chain(volumes).collect::<Vec<_>>() {
            let path = format!("services.{name}.{attribute}[{index}]");
            if let Some((other, first)) = seen.get(target) {
                let message = format!("{path}: target {target} already mounted as {other}");
                self.report(
                    "conflict",
                    &format!("{attribute}[{index}]"),
                    message,
                    &[(span, "mounted again"), (*first, "mounted here")],
                    None,
                );
            }
            seen.insert(target, (path, span));
        }
    }
}

fn undefined(section: &str) -> &'static str {
    match section {
        "networks" => "undefined-network",
        "volumes" => "undefined-volume",
        "configs" => "undefined-config",
        "secrets" => "undefined-secret",
        _ => "undefined-model",
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "compared as the single precision that these attributes have, or as exact sizes"
)]
fn amount(node: Option<&Node>) -> f64 {
    match node.map(|node| &node.value) {
        Some(Value::Int(number)) => *number as f64,
        Some(Value::Float(number)) => f64::from(*number as f32),
        _ => 0.0,
    }
}

/// How many services of a cycle are shown.
const LONGEST_CYCLE: usize = 20;

/// Reports the cycles of `depends_on`.
fn cycles(services: &Map, faults: &mut Faults) {
    let mut graph: petgraph::graphmap::DiGraphMap<&str, ()> = petgraph::graphmap::DiGraphMap::new();
    let mut places: BTreeMap<(&str, &str), Span> = BTreeMap::new();
    for (name, service) in services {
        for (target, dependency) in members(service, "depends_on") {
            graph.add_edge(name, target, ());
            places.insert((name, target), dependency.place());
        }
    }
    // Not Tarjan's, which is recursive here: a long chain of services would need as much stack.
    for component in petgraph::algo::kosaraju_scc(&graph) {
        let members: BTreeSet<&str> = component.into_iter().collect();
        let Some(start) = members.first().copied() else { continue };
        if members.len() == 1 && !graph.contains_edge(start, start) {
            continue;
        }
        let chain = shortest_cycle(&graph, start, &members);
        let shown = if chain.len() > LONGEST_CYCLE {
            let (first, last) = (&chain[..LONGEST_CYCLE - 1], &chain[chain.len() - 1]);
            format!("{} -> … -> {last}", first.join(" -> "))
        } else {
            chain.join(" -> ")
        };
        let mut diagnostic = Diagnostic::error("dependency-cycle", format!("dependency cycle detected: {shown}"))
            .at_path(format!("services.{start}.depends_on"));
        for pair in chain.windows(2).take(LONGEST_CYCLE) {
            let span = places.get(&(pair[0], pair[1])).copied().unwrap_or(Span::NONE);
            diagnostic = diagnostic.label(&faults.sources, span, format!("{} needs {}", pair[0], pair[1]));
        }
        faults.push(diagnostic.help("one of them must start without the other"));
    }
}

/// The shortest way from a service back to itself.
fn shortest_cycle<'g>(
    graph: &petgraph::graphmap::DiGraphMap<&'g str, ()>,
    start: &'g str,
    members: &BTreeSet<&'g str>,
) -> Vec<&'g str> {
    let mut before: HashMap<&str, &str> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for next in graph.neighbors(node).filter(|next| members.contains(next)) {
            if next == start {
                let mut chain = vec![start, node];
                let mut at = node;
                while at != start {
                    at = before[at];
                    chain.push(at);
                }
                if node == start {
                    chain.pop();
                    chain = vec![start, start];
                }
                chain.reverse();
                return chain;
            }
            before.entry(next).or_insert_with(|| {
                queue.push_back(next);
                node
            });
        }
    }
    vec![start, start]
}
