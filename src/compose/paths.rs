//! Relative paths → paths that do not depend on which file they stand in.

use super::files::Files;
use super::node::{Node, Value};
use super::remote::Remote;
use super::{Diagnostic, Faults, LoadOptions, gopath};

struct Resolver<'r> {
    base: &'r str,
    home: Option<&'r str>,
    files: &'r dyn Files,
}

/// Joins all relative paths of a project to a directory.
pub(super) fn resolve(root: &mut Node, base: &str, options: &LoadOptions, files: &dyn Files, faults: &mut Faults) {
    let home = options.environment.get("HOME").map(String::as_str).filter(|home| !home.is_empty());
    let resolver = Resolver { base, home, files };
    for (_, service) in section(root, "services") {
        if let Some(build) = service.get_mut("build") {
            on(build.get_mut("context"), |path| resolver.context(path));
            for (_, context) in section(build, "additional_contexts") {
                on(Some(context), |path| resolver.context(path));
            }
            for (_, key) in section(build, "ssh") {
                on(Some(key), |path| resolver.any(path));
            }
        }
        for file in items(service.get_mut("env_file")) {
            on(file.get_mut("path"), |path| resolver.plain(path));
        }
        for file in items(service.get_mut("label_file")) {
            on(Some(file), |path| resolver.plain(path));
        }
        if let Some(extends) = service.get_mut("extends") {
            on(extends.get_mut("file"), |path| {
                if Remote::parse(path).is_some() { path.to_owned() } else { resolver.plain(path) }
            });
        }
        for rule in items(service.get_mut("develop").and_then(|develop| develop.get_mut("watch"))) {
            on(rule.get_mut("path"), |path| resolver.without_links(&resolver.plain(path)));
        }
        for mount in items(service.get_mut("volumes")) {
            if mount.get("type").and_then(Node::as_str) != Some("bind") {
                continue;
            }
            if mount.get("source").is_none() {
                faults.push(
                    Diagnostic::error(
                        "missing-key",
                        "invalid mount config for type \"bind\": field Source must not be empty",
                    )
                    .label(&faults.sources, mount.place(), "needs `source`"),
                );
            }
            on(mount.get_mut("source"), |path| resolver.any(path));
        }
    }
    for kind in ["configs", "secrets"] {
        for (_, object) in section(root, kind) {
            on(object.get_mut("file"), |path| resolver.any(path));
        }
    }
    for (_, volume) in section(root, "volumes") {
        if volume.get("driver").and_then(Node::as_str) != Some("local") {
            continue;
        }
        if let Some(options) = volume.get_mut("driver_opts")
            && options.get("o").and_then(Node::as_str) == Some("bind")
        {
            on(options.get_mut("device"), |path| resolver.any(path));
        }
    }
}

fn section<'n>(node: &'n mut Node, key: &str) -> impl Iterator<Item = (&'n String, &'n mut Node)> {
    node.get_mut(key).and_then(Node::as_map_mut).into_iter().flatten()
}

fn items(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    node.and_then(Node::as_list_mut).into_iter().flatten()
}

#[expect(clippy::needless_pass_by_value, reason = "what `get_mut` gives, passed on as it is")]
fn on(node: Option<&mut Node>, change: impl FnOnce(&str) -> String) {
    if let Some(Node { value: Value::String(path), .. }) = node {
        *path = change(path);
    }
}

/// Replaces `~`.
fn at_home(path: &str, home: Option<&str>) -> String {
    match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) => gopath::join(home, rest),
        _ => path.to_owned(),
    }
}

/// Joins a relative path to a directory.
pub(super) fn plain(path: &str, base: &str, home: Option<&str>) -> String {
    let path = at_home(path, home);
    if path.is_empty() || path.starts_with('/') { path } else { gopath::join(base, &path) }
}

impl Resolver<'_> {
    fn plain(&self, path: &str) -> String {
        plain(path, self.base, self.home)
    }

    /// A path that may be one of Windows.
    fn any(&self, path: &str) -> String {
        let path = at_home(path, self.home);
        if path.starts_with('/') || gopath::is_windows_absolute(&path) { path } else { gopath::join(self.base, &path) }
    }

    /// A build context, which may be something else than a directory.
    fn context(&self, path: &str) -> String {
        if path.contains("://") || path.starts_with("service:") || Remote::parse(path).is_some() {
            path.to_owned()
        } else {
            self.plain(path)
        }
    }

    /// Replaces the first part of a path that is a symbolic link.
    fn without_links(&self, path: &str) -> String {
        let mut current = if path.starts_with('/') { "/".to_owned() } else { String::new() };
        for part in path.split('/').filter(|part| !part.is_empty()) {
            current = gopath::join(&current, part);
            if self.files.is_symlink(current.as_ref())
                && let Ok(target) = self.files.canonicalize(current.as_ref())
            {
                return path.replacen(&current, &target.to_string_lossy(), 1);
            }
        }
        path.to_owned()
    }
}
