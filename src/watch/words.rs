//! What is said of changes and of what follows, in Docker Compose's words where it has some.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As many paths are named.
const NAMED: usize = 3;

pub const ENABLED: &str = "Watch enabled";
pub const DISABLED: &str = "Watch disabled";

pub fn syncing(service: &str, count: usize) -> String {
    format!("Syncing service {service:?} after {count} changes were detected")
}

/// Says what was brought where.
pub fn synced(service: &str, paths: &str, containers: usize, took: Duration) -> String {
    let containers = if containers == 1 { String::new() } else { format!(" in {containers} containers") };
    format!("Synced service {service:?}: {paths}{containers} ({})", milliseconds(took))
}

pub fn rebuilding(services: &BTreeSet<String>) -> String {
    format!("Rebuilding service(s) {} after changes were detected...", list(services))
}

pub fn rebuilt(services: &BTreeSet<String>, took: Duration) -> String {
    format!("service(s) {} successfully built ({})", list(services), milliseconds(took))
}

pub fn recreated(services: &BTreeSet<String>, took: Duration) -> String {
    format!("service(s) {} recreated ({})", list(services), milliseconds(took))
}

pub fn restarted(services: &BTreeSet<String>, took: Duration) -> String {
    format!("service(s) {} restarted ({})", list(services), milliseconds(took))
}

pub fn executed(service: &str, command: &[String], took: Duration) -> String {
    format!("Executed in service {service:?}: {} ({})", command.join(" "), milliseconds(took))
}

/// Names paths as the user knows them.
pub fn paths(paths: &BTreeSet<PathBuf>, directory: &Path) -> String {
    let name = |path: &PathBuf| path.strip_prefix(directory).unwrap_or(path).display().to_string();
    let named = paths.iter().take(NAMED).map(name).collect::<Vec<_>>().join(", ");
    match paths.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn milliseconds(took: Duration) -> String {
    format!("{} ms", took.as_millis().max(1))
}

/// Returns a list as Go prints it (`%q`).
fn list(services: &BTreeSet<String>) -> String {
    let quoted = services.iter().map(|service| format!("{service:?}")).collect::<Vec<_>>();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_paths_are_named() {
        let all = ["/p/a", "/p/b/c", "/elsewhere", "/p/d", "/p/e"].map(PathBuf::from);
        let of = |count: usize| paths(&all[..count].iter().cloned().collect(), Path::new("/p"));
        assert_eq!(of(1), "a");
        assert_eq!(of(3), "/elsewhere, a, b/c");
        assert_eq!(of(5), "/elsewhere, a, b/c and 2 more");
    }

    #[test]
    fn lists_are_gos() {
        let services = ["web", "api"].map(str::to_owned).into();
        let took = Duration::from_millis(1234);
        assert_eq!(restarted(&services, took), "service(s) [\"api\" \"web\"] restarted (1234 ms)");
        assert_eq!(synced("web", "a", 1, Duration::ZERO), "Synced service \"web\": a (1 ms)");
        assert_eq!(synced("web", "a", 2, Duration::ZERO), "Synced service \"web\": a in 2 containers (1 ms)");
    }
}
