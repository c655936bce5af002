//! The order of things: documents, `extends`, `include`, merging, checking, long forms.

use std::collections::HashMap;
use std::rc::Rc;

use super::confine::Confines;
use super::discover::{self, Discovered};
use super::environment::Environment;
use super::files::Files;
use super::node::{self, Map, Node, Value};
use super::path::Path;
use super::remote::Remote;
use super::source::{Origin, SourceFile, Span};
use super::yaml::{Document, ParseError};
use super::{
    Diagnostic, Faults, LoadOptions, NAMES, canonical, cast, checks, gopath, merge, normalize, paths, schema, suggest,
    unique, yaml,
};

/// A project as a tree: merged, in its long form, named and with its paths resolved; types are still the file's.
pub(super) struct Model {
    /// The tree.
    pub root: Node,
    /// The project's name; empty where normalisation is off and none is given.
    pub name: String,
    /// What was found before.
    pub discovered: Discovered,
    /// How deep the trees are nested.
    pub depth: usize,
}

/// What became of loading.
pub(super) enum Outcome {
    /// There is a tree (and there may be faults all the same).
    Model(Box<Model>),
    /// There is none; the faults say why.
    Failed,
    /// There is none, because the files are nested so deeply that they must be loaded with [`deep::run`](super::deep::run).
    NeedsStack,
}

/// Loads the project's tree.
pub(super) fn load(
    options: &LoadOptions,
    files: &dyn Files,
    faults: &mut Faults,
    deep_stack: bool,
    inherit: bool,
) -> Outcome {
    let Some(mut discovered) = discover::discover(options, files, faults) else { return Outcome::Failed };
    let mut loader = Loader {
        options,
        files,
        faults,
        extended: HashMap::new(),
        included: 0,
        depth: 0,
        inherit,
        deep_stack,
        needs_stack: false,
    };
    let root = loader.project(&mut discovered);
    let (depth, needs_stack) = (loader.depth, loader.needs_stack);
    if needs_stack {
        return Outcome::NeedsStack;
    }
    match root {
        Some((root, name)) => Outcome::Model(Box::new(Model { root, name, discovered, depth })),
        None => Outcome::Failed,
    }
}

/// A file whose documents have been read.
#[derive(Clone)]
struct Source {
    path: String,
    documents: Rc<Vec<Document>>,
}

/// In whose name files are loaded: the project itself, or an included one.
#[derive(Clone)]
struct Context {
    /// What relative paths are joined to; for included projects relative to the including one.
    base: String,
    /// The directory that files named by `extends` and `include` are looked for in, absolute.
    directory: String,
    environment: Rc<Environment>,
    resolve: bool,
    /// The project directory.
    home: String,
}

impl Context {
    /// What files from elsewhere may name.
    fn confines(&self) -> Confines<'_> {
        Confines { directory: &self.directory, home: &self.home }
    }
}

/// The services of a file that others extend.
#[derive(Clone)]
struct Extended {
    services: Rc<Map>,
    resets: Rc<Vec<Vec<String>>>,
}

struct Loader<'l> {
    options: &'l LoadOptions,
    files: &'l dyn Files,
    faults: &'l mut Faults,
    /// Files that were extended before, by path and by whose variables they were read with.
    extended: HashMap<(String, usize), Option<Extended>>,
    /// How many files were included so far.
    included: usize,
    depth: usize,
    /// Whether values are taken from the environment.
    inherit: bool,
    /// Whether this thread has room for recursion over any tree, and whether that turned out to be needed.
    deep_stack: bool,
    needs_stack: bool,
}

/// How many steps a chain of `extends` may have, and how many files may be below each other by `include`; each step takes stack.
const LONGEST_CHAIN: usize = 100;
/// How many files may be read by `include`; a file that is included twice by one that is included twice is read four times.
const MOST_INCLUDED: usize = 1_000;

/// Where a chain of `extends` has been: file and service.
type Trail = Vec<(String, String)>;

impl Loader<'_> {
    /// The tree and the name of the whole project.
    fn project(&mut self, discovered: &mut Discovered) -> Option<(Node, String)> {
        let sources: Vec<Option<Source>> = discovered.files.iter().map(|path| self.open(path, Origin::Given)).collect();
        // What the project is called may depend on every file, so a file that cannot be read ends it here.
        let sources: Vec<Source> = sources.into_iter().collect::<Option<_>>()?;
        let name = self.project_name(&sources, discovered);
        discovered.environment.set("COMPOSE_PROJECT_NAME", &name, "the project's name");
        let environment = Rc::new(if self.inherit { discovered.environment.clone() } else { Environment::default() });
        let context = Context {
            base: discovered.directory.clone(),
            directory: discovered.directory.clone(),
            environment: environment.clone(),
            resolve: !self.options.no_path_resolution,
            home: discovered.home.clone(),
        };
        let mut root = self.model(sources, &context, &[]);
        if root.as_map().is_none_or(Map::is_empty) {
            if self.faults.errors() == 0 {
                self.faults.push(Diagnostic::error("empty", "empty compose file").help("a project needs `services:`"));
            }
            return None;
        }
        if name.is_empty() && self.faults.errors() == 0 {
            self.faults.push(Diagnostic::error("no-name", "project name must not be empty").help(
                "a project's name has lower-case letters, digits, hyphens and underscores; give one with `name:` or -p",
            ));
        }
        if !self.options.no_normalize {
            if let Some(map) = root.as_map_mut() {
                let mut node = Node::string(name.clone(), Span::NONE);
                if let Some(given) = map.get("name") {
                    node = node.placed_as(given);
                }
                map.insert("name".to_owned(), node);
            }
            normalize::normalize(&mut root, &name, &environment);
        }
        Some((root, name))
    }

    fn open(&mut self, path: &str, origin: Origin) -> Option<Source> {
        let cited = match origin {
            Origin::Given => Span::NONE,
            Origin::Included(span) | Origin::Extended(span) | Origin::Variables(span) => span,
        };
        let read = if path == "-" { self.files.read_stdin() } else { self.files.read(path.as_ref()) };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = match error.kind() {
                    std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                    _ => error.to_string(),
                };
                let other = match error.kind() {
                    std::io::ErrorKind::IsADirectory => discover::beside(path, self.files),
                    std::io::ErrorKind::NotFound if NAMES.contains(&path.rsplit('/').next().unwrap_or("")) => {
                        discover::beside(&gopath::parent(path), self.files)
                    }
                    _ => None,
                };
                let diagnostic = Diagnostic::error("unreadable-file", format!("cannot read {path}: {reason}"));
                let diagnostic = diagnostic.label(&self.faults.sources, cited, "named here");
                let help = other.map(|other| format!("did you mean {other}?"));
                self.faults.push(help.into_iter().fold(diagnostic, Diagnostic::help));
                return None;
            }
        };
        let (text, fault) = yaml::decode(&bytes);
        let number = self.faults.sources.add(SourceFile { path: path.into(), text, origin });
        if let Some(at) = fault {
            let span = Span::new(number, at, at + char::REPLACEMENT_CHARACTER.len_utf8());
            self.faults.push(Diagnostic::error("not-utf8", format!("{path} is not UTF-8")).label(
                &self.faults.sources,
                span,
                "invalid bytes",
            ));
            return None;
        }
        match yaml::parse(&self.faults.sources, number, self.deep_stack) {
            Ok(documents) => {
                self.depth = documents.iter().map(|document| document.depth).fold(self.depth, usize::max);
                Some(Source { path: path.to_owned(), documents: Rc::new(documents) })
            }
            Err(ParseError::Fault(diagnostic)) => {
                self.faults.push(*diagnostic);
                None
            }
            Err(ParseError::NeedsStack) => {
                self.needs_stack = true;
                None
            }
        }
    }

    /// `-p`, else `COMPOSE_PROJECT_NAME`, else the last `name:`, else the directory.
    fn project_name(&mut self, sources: &[Source], discovered: &Discovered) -> String {
        let given = self.options.project_name.clone().filter(|name| !name.is_empty());
        let given = given.or_else(|| {
            discovered.environment.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty()).map(ToOwned::to_owned)
        });
        if let Some(name) = given {
            if discover::normalize_name(&name) != name {
                self.faults.push(
                    Diagnostic::error("invalid-name", format!("invalid project name {name:?}: must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number"))
                        .help(format!("{:?} would do", discover::normalize_name(&name))),
                );
            }
            return name;
        }
        let mut names =
            sources.iter().flat_map(|source| source.documents.iter()).filter_map(|document| document.root.get("name"));
        if let Some(named) = names.rfind(|node| node.as_str().is_some_and(|name| !name.is_empty())) {
            let mut named = named.clone();
            if !self.options.no_interpolate {
                cast::interpolate(&mut named, &Path::ROOT.key("name"), &discovered.environment, self.faults);
            }
            let name = named.as_str().unwrap_or_default();
            return if self.options.no_normalize { name.to_owned() } else { discover::normalize_name(name) };
        }
        discover::normalize_name(discovered.home.rsplit('/').next().unwrap_or(""))
    }

    /// Loads files over each other.
    fn model(&mut self, sources: Vec<Source>, context: &Context, including: &[String]) -> Node {
        let mut root = Node::new(Value::Map(Map::new()), Span::NONE);
        for source in sources {
            for document in source.documents.iter() {
                root = self.document(document, &source.path, root, context, including);
            }
        }
        canonical::defaults(&mut root);
        checks::values(&mut root, self.faults);
        if context.resolve {
            paths::resolve(&mut root, &context.base, self.options, self.files, self.faults);
        }
        normalize::resolve_environment(&mut root, &context.environment);
        root
    }

    fn is_mapping(&mut self, document: &Document, path: &str) -> bool {
        if document.root.as_map().is_some() {
            return true;
        }
        self.faults.push(
            Diagnostic::error(
                "not-a-mapping",
                format!("{path}: top-level object must be a mapping, not {}", document.root.value.kind()),
            )
            .label(&self.faults.sources, document.root.span, "")
            .help("a compose file begins with keys such as `services:`"),
        );
        false
    }

    fn document(
        &mut self,
        document: &Document,
        path: &str,
        mut base: Node,
        context: &Context,
        including: &[String],
    ) -> Node {
        if !self.is_mapping(document, path) {
            return base;
        }
        let mut root = document.root.clone();
        if !self.options.no_interpolate {
            cast::interpolate(&mut root, &Path::ROOT, &context.environment, self.faults);
        }
        self.extends(&mut root, path, &document.resets, context);
        apply_resets(&mut base, &document.resets);
        self.include(&mut root, path, context, including);

        let mut merged = merge::merge(base, root, &Path::ROOT, self.faults);
        unique::enforce(&mut merged, &Path::ROOT, self.faults);
        schema::validate(&mut merged, self.faults);
        if let Some(version) = merged.as_map_mut().and_then(|map| map.shift_remove("version")) {
            let message = format!(
                "{path}: the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion"
            );
            self.faults.push(Diagnostic::warning("obsolete-version", message).label(
                &self.faults.sources,
                version.place(),
                "",
            ));
        }
        let services = merged.get_mut("services").and_then(Node::as_map_mut);
        for (name, service) in services.into_iter().flatten() {
            if let Some(given) = service.as_map_mut().and_then(|map| map.shift_remove("pull_refresh_after")) {
                let message = format!(
                    "service \"{name}\": pull_refresh_after has no effect; `pull_policy: every_…` says how old an image may be"
                );
                self.faults.push(Diagnostic::warning("no-effect", message).label(
                    &self.faults.sources,
                    given.place(),
                    "",
                ));
            }
        }
        canonical::canonical(&mut merged, &Path::ROOT, self.options.no_interpolate, self.faults);
        canonical::omit_empty(&mut merged);
        unique::enforce(&mut merged, &Path::ROOT, self.faults);
        merged
    }

    // ---- extends

    fn extends(&mut self, root: &mut Node, path: &str, resets: &[Vec<String>], context: &Context) {
        let Some(services) = root.get_mut("services") else { return };
        let Some(map) = services.as_map_mut() else {
            let (span, kind) = (services.place(), services.value.kind());
            self.faults.push(
                Diagnostic::error("wrong-type", format!("services must be a mapping, not {kind}"))
                    .at_path("services")
                    .label(&self.faults.sources, span, kind),
            );
            if let Some(map) = root.as_map_mut() {
                map.shift_remove("services");
            }
            return;
        };
        if !map.values().any(|service| service.get("extends").is_some()) {
            return;
        }
        let names: Vec<String> = map.keys().cloned().collect();
        for name in names {
            self.extend_service(&name, map, path, resets, context, &mut Trail::new());
        }
    }

    /// Puts what a service extends below it; the service has no `extends` afterwards.
    fn extend_service(
        &mut self,
        name: &str,
        services: &mut Map,
        path: &str,
        resets: &[Vec<String>],
        context: &Context,
        trail: &mut Trail,
    ) {
        let Some(service) = services.get_mut(name) else { return };
        let Some(map) = service.as_map_mut() else { return };
        let Some(extends) = map.get("extends").cloned() else { return };
        let (reference, file) = match &extends.value {
            Value::String(reference) => (Node::string(reference.clone(), extends.span), None),
            Value::Map(keys) => {
                let Some(reference) = keys.get("service").filter(|node| node.as_str().is_some()) else {
                    self.fault_of(
                        name,
                        Diagnostic::error("missing-key", format!("services.{name}.extends: service is required")),
                        extends.place(),
                    );
                    map.shift_remove("extends");
                    return;
                };
                (reference.clone(), keys.get("file").filter(|file| !file.is_null()).cloned())
            }
            // Validation says what is wrong with it.
            _ => return,
        };
        map.shift_remove("extends");
        let target = reference.as_str().unwrap_or_default().to_owned();

        let mut other;
        let (base_services, base_path, base_resets) = match &file {
            None => (&mut *services, path.to_owned(), None),
            Some(file) => {
                let Some(named) = file.as_str() else {
                    self.fault_of(
                        name,
                        Diagnostic::error(
                            "wrong-type",
                            format!("services.{name}.extends.file must be a string, not {}", file.value.kind()),
                        ),
                        file.place(),
                    );
                    return;
                };
                let Some((full, is_remote)) = self.extends_path(named, file.span, context) else {
                    self.faults.taint(&Path::ROOT.key("services").key(name));
                    return;
                };
                let Some(extended) = self.extended_file(&full, file.span, is_remote, context) else {
                    self.faults.taint(&Path::ROOT.key("services").key(name));
                    return;
                };
                // A service that extends nothing itself is all that is needed.
                other = match extended.services.get(&target) {
                    Some(service) if service.get("extends").is_none() => Map::from([(target.clone(), service.clone())]),
                    _ => (*extended.services).clone(),
                };
                (&mut other, full, Some(extended.resets))
            }
        };
        if !base_services.contains_key(&target) {
            let place = file.as_ref().map_or(String::new(), |_| format!(" in {base_path}"));
            let mut diagnostic = Diagnostic::error(
                "undefined-service",
                format!("cannot extend service {name:?} in {path}: service {target:?} not found{place}"),
            );
            if let Some(known) = suggest::closest(&target, base_services.keys().map(String::as_str)) {
                diagnostic = diagnostic.help(format!("did you mean {known:?}?"));
            }
            self.fault_of(name, diagnostic, reference.span);
            return;
        }
        trail.push((path.to_owned(), name.to_owned()));
        if trail.len() > LONGEST_CHAIN {
            let message = format!("a chain of `extends` with more than {LONGEST_CHAIN} services");
            self.fault_of(name, Diagnostic::error("too-deep", message), extends.place());
            return;
        }
        if trail.contains(&(base_path.clone(), target.clone())) {
            let steps: Vec<String> =
                trail.iter().skip(1).map(|(file, service)| format!("  extends {service} in {file}")).collect();
            let message = format!(
                "Circular reference:\n  {} in {}\n{}\n  extends {target} in {base_path}",
                trail[0].1,
                trail[0].0,
                steps.join("\n")
            );
            self.fault_of(name, Diagnostic::error("extends-cycle", message.replace("\n\n", "\n")), extends.place());
            return;
        }
        self.extend_service(
            &target,
            base_services,
            &base_path,
            base_resets.as_deref().map_or(resets, Vec::as_slice),
            context,
            trail,
        );
        trail.pop();
        if self.faults.is_tainted(&target) {
            // Nor is whole what extends what is not.
            self.faults.taint(&Path::ROOT.key("services").key(name));
        }
        let Some(base) = base_services.get(&target).filter(|base| !base.is_null()).cloned() else { return };
        let Some(service) = services.get_mut(name) else { return };
        let over = std::mem::replace(service, Node::new(Value::Null, Span::NONE));
        let (span, key) = (over.span, over.key);

        let mut wrapped = wrap(name, base);
        apply_resets(&mut wrapped, resets);
        let base = unwrap(wrapped, name);
        if !matches!(base.value, Value::Map(_)) {
            // What is no service cannot be extended; validation says so where it stands.
            *service = over;
            return;
        }
        let mut merged = merge::merge(base, over, &Path::ROOT.key("services").key(name), self.faults);
        (merged.span, merged.key) = (span, key);
        if let Some(map) = merged.as_map_mut() {
            map.shift_remove("extends");
        }
        *service = merged;
    }

    /// The absolute path of a file that is extended, and whether it came from elsewhere.
    fn extends_path(&mut self, named: &str, span: Span, context: &Context) -> Option<(String, bool)> {
        if let Some(remote) = Remote::parse(named) {
            return Some((discover::fetch(&remote, span, self.files, self.faults)?, true));
        }
        let full = if named.starts_with('/') { named.to_owned() } else { gopath::join(&context.directory, named) };
        context.confines().allow(&full, span, self.files, self.faults).then_some((full, false))
    }

    /// Reads a file that is extended: interpolated and in its long form, but not checked.
    fn extended_file(&mut self, path: &str, cited: Span, is_remote: bool, context: &Context) -> Option<Extended> {
        let key = (path.to_owned(), Rc::as_ptr(&context.environment) as usize);
        if let Some(known) = self.extended.get(&key) {
            return known.clone();
        }
        let loaded = self.load_extended(path, cited, is_remote, context);
        self.extended.insert(key, loaded.clone());
        loaded
    }

    fn load_extended(&mut self, path: &str, cited: Span, is_remote: bool, context: &Context) -> Option<Extended> {
        let source = self.open(path, Origin::Extended(cited))?;
        let mut base = Node::new(Value::Map(Map::new()), Span::NONE);
        let mut resets = Vec::new();
        for document in source.documents.iter() {
            if !self.is_mapping(document, path) {
                continue;
            }
            let mut root = document.root.clone();
            if !self.options.no_interpolate {
                cast::interpolate(&mut root, &Path::ROOT, &context.environment, self.faults);
            }
            apply_resets(&mut base, &document.resets);
            base = merge::merge(base, root, &Path::ROOT, self.faults);
            unique::enforce(&mut base, &Path::ROOT, self.faults);
            canonical::canonical(&mut base, &Path::ROOT, self.options.no_interpolate, self.faults);
            canonical::omit_empty(&mut base);
            unique::enforce(&mut base, &Path::ROOT, self.faults);
            resets.clone_from(&document.resets);
        }
        // Relative paths of the file become relative to the file that extends it.
        let directory = if path == gopath::parent(path) { path.to_owned() } else { gopath::parent(path) };
        let base_path = if is_remote { directory } else { gopath::relative(&context.directory, &directory) };
        paths::resolve(&mut base, &base_path, self.options, self.files, self.faults);
        let Some(services) = base.as_map_mut().and_then(|map| map.shift_remove("services")) else {
            self.faults.push(
                Diagnostic::error("undefined-service", format!("cannot extend from {path}: no services section"))
                    .label(&self.faults.sources, cited, "this file"),
            );
            return None;
        };
        let Value::Map(services) = services.value else {
            self.faults.push(Diagnostic::error("wrong-type", format!("services of {path} must be a mapping")).label(
                &self.faults.sources,
                services.place(),
                "",
            ));
            return None;
        };
        Some(Extended { services: Rc::new(services), resets: Rc::new(resets) })
    }

    fn fault_of(&mut self, service: &str, diagnostic: Diagnostic, span: Span) {
        self.faults.taint(&Path::ROOT.key("services").key(service));
        let diagnostic =
            diagnostic.at_path(format!("services.{service}.extends")).label(&self.faults.sources, span, "");
        self.faults.push(diagnostic);
    }

    // ---- include

    fn include(&mut self, root: &mut Node, path: &str, context: &Context, including: &[String]) {
        let Some(map) = root.as_map_mut() else { return };
        let Some(include) = map.shift_remove("include") else { return };
        let entries = match include.value {
            Value::Null => return,
            Value::List(entries) => entries,
            other => {
                let diagnostic =
                    Diagnostic::error("wrong-type", format!("`include` must be a list, got {}", other.kind()));
                self.faults.push(
                    diagnostic
                        .at_path("include")
                        .label(&self.faults.sources, include.key.or(include.span), other.kind())
                        .help("write `- file.yaml` below it"),
                );
                return;
            }
        };
        let mut trail = including.to_vec();
        trail.push(path.to_owned());
        for entry in entries {
            let errors = self.faults.errors();
            match self.included(&entry, context, &trail) {
                Some(imported) => self.import(imported, root, &entry),
                None if self.faults.errors() == errors => self.faults.push(
                    Diagnostic::error("wrong-type", "an entry of `include` must be a path, or a mapping with `path`")
                        .at_path("include")
                        .label(&self.faults.sources, entry.place(), entry.value.kind()),
                ),
                // What should have come from there is unknown: references to it cannot be checked.
                None => self.faults.taint(&Path::ROOT.key("include")),
            }
        }
    }

    /// Loads one included project.
    fn included(&mut self, entry: &Node, context: &Context, trail: &[String]) -> Option<Node> {
        let list = |key: &str| -> Option<Vec<Node>> {
            match entry.get(key).map(|node| (&node.value, node)) {
                None | Some((Value::Null, _)) => Some(Vec::new()),
                Some((Value::String(_), node)) => Some(vec![node.clone()]),
                Some((Value::List(list), _)) => Some(list.clone()),
                Some(_) => None,
            }
        };
        let named: Vec<Node> = match &entry.value {
            Value::String(_) => vec![entry.clone()],
            Value::Map(_) | Value::Null => list("path")?,
            _ => return None,
        };
        let text = |node: &Node| node.as_str().map(ToOwned::to_owned);
        let given = match entry.get("project_directory").map(|node| &node.value) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(given)) => given.clone(),
            Some(Value::Int(number)) => number.to_string(),
            Some(_) => return None,
        };
        let full =
            |path: &str| if path.starts_with('/') { path.to_owned() } else { gopath::join(&context.directory, path) };
        self.included += named.len();
        let too_much = if trail.len() > LONGEST_CHAIN {
            Some(format!("files include each other more than {LONGEST_CHAIN} levels deep"))
        } else if self.included > MOST_INCLUDED {
            Some(format!("more than {MOST_INCLUDED} files are included"))
        } else {
            None
        };
        if let Some(message) = too_much {
            self.faults.push(Diagnostic::error("too-deep", message).at_path("include").label(
                &self.faults.sources,
                entry.place(),
                "here",
            ));
            return None;
        }
        let mut sources = Vec::new();
        let (mut directory, mut base) = (context.directory.clone(), ".".to_owned());
        for (index, node) in named.iter().enumerate() {
            let name = text(node)?;
            let remote = Remote::parse(&name);
            let path = match &remote {
                Some(remote) => discover::fetch(remote, node.span, self.files, self.faults)?,
                None => full(&name),
            };
            if remote.is_none() && !context.confines().allow(&path, node.span, self.files, self.faults) {
                return None;
            }
            if index == 0 {
                let own = gopath::parent(&path);
                if given.is_empty() {
                    base = if remote.is_some() { own.clone() } else { gopath::relative(&context.directory, &own) };
                    directory = own;
                } else {
                    directory = full(&given);
                    base = if given.starts_with('/') {
                        given.clone()
                    } else {
                        gopath::relative(&context.directory, &directory)
                    };
                }
                if trail.contains(&path) {
                    let message = format!("include cycle detected:\n{}\n include {path}", trail.join("\n include "));
                    self.faults.push(Diagnostic::error("include-cycle", message).at_path("include").label(
                        &self.faults.sources,
                        node.span,
                        "included here again",
                    ));
                    return None;
                }
            }
            sources.push(self.open(&path, Origin::Included(node.span)));
        }
        let mut environment = (*context.environment).clone();
        let env_files = list("env_file")?;
        let paths: Vec<String> = if env_files.is_empty() {
            let path = gopath::join(&directory, ".env");
            if self.files.is_for_reading(path.as_ref()) { vec![path] } else { Vec::new() }
        } else {
            env_files.iter().map(|node| text(node).map(|path| full(&path))).collect::<Option<_>>()?
        };
        let cited = env_files.first().map_or(Span::NONE, |node| node.span);
        for (path, node) in paths.iter().zip(&env_files) {
            if !context.confines().allow(path, node.span, self.files, self.faults) {
                return None;
            }
        }
        if !paths.is_empty() {
            environment.add_files(&paths, cited, self.files, self.faults);
        }
        let sources: Vec<Source> = sources.into_iter().collect::<Option<_>>()?;
        let inner =
            Context { base, directory, environment: Rc::new(environment), resolve: true, home: context.home.clone() };
        Some(self.model(sources, &inner, trail))
    }

    /// Adds the resources of an included project.
    fn import(&mut self, imported: Node, root: &mut Node, entry: &Node) {
        let (Value::Map(mut imported), Some(map)) = (imported.value, root.as_map_mut()) else { return };
        for section in ["services", "volumes", "networks", "secrets", "configs", "models"] {
            let Some(Value::Map(resources)) = imported.shift_remove(section).map(|node| node.value) else { continue };
            let target = map.entry(section.to_owned()).or_insert_with(|| Node::new(Value::Map(Map::new()), entry.span));
            if target.is_null() {
                target.value = Value::Map(Map::new());
            }
            let Value::Map(target) = &mut target.value else { continue };
            for (name, resource) in resources {
                match target.get(&name) {
                    None => {
                        target.insert(name, resource);
                    }
                    Some(present) if node::same(present, &resource) => {}
                    Some(present) => {
                        let path = format!("{section}.{name}");
                        self.faults.push(
                            Diagnostic::error("include-conflict", format!("{path} conflicts with imported resource"))
                                .at_path(path)
                                .label(&self.faults.sources, present.place(), "defined here")
                                .label(&self.faults.sources, resource.place(), "and, differently, in the included file")
                                .help("to change what is included, list an override file in the `path` of the include, or put the change into a compose.override.yaml"),
                        );
                    }
                }
            }
        }
    }
}

fn wrap(name: &str, service: Node) -> Node {
    let span = service.span;
    let services = Node::new(Value::Map(Map::from([(name.to_owned(), service)])), span);
    Node::new(Value::Map(Map::from([("services".to_owned(), services)])), span)
}

fn unwrap(mut root: Node, name: &str) -> Node {
    let service = root.get_mut("services").and_then(|services| services.as_map_mut()?.shift_remove(name));
    service.unwrap_or_else(|| Node::new(Value::Map(Map::new()), Span::NONE))
}

/// Removes what `!reset` and `!override` stand for from what was there before.
fn apply_resets(base: &mut Node, resets: &[Vec<String>]) {
    for reset in resets {
        remove(base, reset);
    }
}

fn remove(node: &mut Node, path: &[String]) {
    let Some(map) = node.as_map_mut() else { return };
    match path {
        [] => {}
        [last] => {
            map.shift_remove(last);
        }
        [first, rest @ ..] => {
            if let Some(node) = map.get_mut(first) {
                remove(node, rest);
            }
        }
    }
}
