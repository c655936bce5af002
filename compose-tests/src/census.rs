//! Counts what rcompose has on the host, so that a test can say that nothing of it was left.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::process;

/// What there is, in words; two censuses are compared line by line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    pub items: BTreeSet<String>,
}

/// What a census looks at.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    /// `RCOMPOSE_ROOT`.
    pub root: &'a Path,
    pub project: &'a str,
    /// The containers that were seen while the test ran; their cgroups carry these names.
    pub containers: &'a BTreeSet<String>,
    /// Whether the calling thread is in a network namespace of its own, where everything found is ours.
    pub own_network: bool,
}

impl Census {
    /// Looks everywhere.
    pub fn take(scope: &Scope<'_>) -> Census {
        let mut items = BTreeSet::new();
        for process in process::of_root(scope.root) {
            items.insert(format!(
                "process {} {} (parent {}): {}",
                process.pid,
                process.name,
                process.parent,
                process.words.join(" ")
            ));
        }
        for line in fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default().lines() {
            if line.contains(&*scope.root.to_string_lossy()) {
                items.insert(format!("mount {line}"));
            }
        }
        items.extend(links(scope).into_iter().map(|link| format!("link {link}")));
        items.extend(nft(scope).into_iter().map(|table| format!("nft table {table}")));
        items.extend(cgroups(scope).into_iter().map(|path| format!("cgroup {}", path.display())));
        items.extend(state(scope.root).into_iter().map(|path| format!("state {}", path.display())));
        Census { items }
    }

    /// Returns what is here and was not in `before`.
    pub fn beyond(&self, before: &Census) -> Vec<String> {
        self.items.difference(&before.items).cloned().collect()
    }
}

/// Network links by name. Names of rcompose start with `rc`; in a namespace of the test's own every link counts.
fn links(scope: &Scope<'_>) -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| if scope.own_network { name != "lo" } else { name.starts_with("rc") })
        .collect()
}

/// nftables tables; on the host only those with our name, as others make tables of their own at any time.
fn nft(scope: &Scope<'_>) -> Vec<String> {
    let Ok(output) = Command::new("nft").args(["list", "tables"]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|table| scope.own_network || table.contains("rcompose"))
        .map(str::to_owned)
        .collect()
}

/// Cgroup folders that carry the name of the project or of one of its containers, in whatever hierarchy.
fn cgroups(scope: &Scope<'_>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(scope.project) || scope.containers.iter().any(|id| name.contains(id)) {
                found.push(entry.path());
            }
            if depth < 8 {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Files of run-time state and of containers, networks, volumes and projects; images and layers may stay.
fn state(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for kind in ["containers", "volumes", "networks", "projects"] {
        walk(&root.join("lib").join(kind), 2, &mut found);
    }
    walk(&root.join("run"), 6, &mut found);
    // A lock that all projects take is no project's: deleting it would let two take it at once.
    found.retain(|path| !(path.ends_with("networks/lock") || path.ends_with("volumes/lock")));
    found
}

/// Lists everything but folders, and folders that have nothing in them below the first level.
fn walk(folder: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth > 0 {
            let before = found.len();
            walk(&path, depth - 1, found);
            let in_top = folder.file_name().is_some_and(|name| name == "run");
            if found.len() == before && !in_top {
                found.push(path);
            }
        } else {
            found.push(path);
        }
    }
}

/// Returns the ids of the containers of a root: the names of their folders.
pub fn container_ids(root: &Path) -> BTreeSet<String> {
    fs::read_dir(root.join("lib/containers"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
