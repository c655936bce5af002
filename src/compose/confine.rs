//! What files from elsewhere may name on this machine: what is in their own tree, and what is in the project directory.
//!
//! The loader itself reads includes, extended files, env files and label files, and `config` prints what is in them. A file
//! that somebody else wrote must not choose which of this machine's files that are.

use super::diagnostic::Diagnostic;
use super::faults::Faults;
use super::files::Files;
use super::gopath;
use super::node::Node;
use super::source::Span;

/// The directories that everything may be in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confines<'c> {
    /// Where relative paths begin.
    pub directory: &'c str,
    /// Where the command was run, or `--project-directory`.
    pub home: &'c str,
}

impl Confines<'_> {
    /// Reports a path that its author may not name. Returns whether it is fine.
    pub(super) fn allow(self, path: &str, named: Span, files: &dyn Files, faults: &mut Faults) -> bool {
        let author = faults.sources.of(named).and_then(|source| files.tree_of(&source.path));
        let Some(tree) = author else { return true };
        let path = if path.starts_with('/') { gopath::clean(path) } else { gopath::join(self.directory, path) };
        let path = std::path::Path::new(&path);
        if path == std::path::Path::new("/dev/null")
            || path.starts_with(&tree)
            || path.starts_with(self.directory)
            || path.starts_with(self.home)
        {
            return true;
        }
        faults.push(
            Diagnostic::error("outside", format!("{} is outside of the remote project that names it", path.display()))
                .label(&faults.sources, named, "named here")
                .help("files that come from elsewhere may only name files beside them and in the project directory")
                .help("clone the repository and give its path, if you trust it"),
        );
        false
    }

    /// Reports what services may not name.
    pub(super) fn check_services(self, root: &Node, files: &dyn Files, faults: &mut Faults) {
        let services = root.get("services").and_then(Node::as_map);
        for service in services.into_iter().flat_map(|services| services.values()) {
            let listed = |key: &str| service.get(key).and_then(Node::as_list).into_iter().flatten();
            let env_files = listed("env_file").filter_map(|file| file.get("path"));
            for file in env_files.chain(listed("label_file")) {
                if let Some(path) = file.as_str() {
                    self.allow(path, file.span, files, faults);
                }
            }
        }
    }
}
