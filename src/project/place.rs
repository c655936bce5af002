//! Where a project is: two of the same name in two places are two projects, and one must not touch the other's containers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rcompose_engine::container::store::Container;

use super::labels::{CONFIG_FILES, Labelled, ProjectLabels, WORKING_DIR};

/// A project of the same name that was started from another place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("project \"{name}\" was started from {there}, and this is {here}: two projects with one name would be one")]
pub struct Elsewhere {
    name: String,
    here: String,
    there: String,
}

impl Elsewhere {
    /// Returns what can be done about it.
    pub fn hint(&self) -> String {
        format!(
            "give this one another name, with -p, COMPOSE_PROJECT_NAME or the top-level `name:`; \
             or take the other one away first: rcompose -p {} down",
            self.name
        )
    }
}

/// Returns the other place that containers under a project's name come from, if that is still there.
///
/// The same directory by another path, the same compose file from another directory and with other override files, and what
/// was moved since are the same place. What comes from a URL lies in the `cache` by its revision, and has no place.
pub fn elsewhere(own: &ProjectLabels, containers: &[Container], cache: Option<&Path>) -> Option<Elsewhere> {
    containers.iter().find_map(|container| {
        let there = container.label(WORKING_DIR)?;
        another(own, there, container.label(CONFIG_FILES).unwrap_or_default(), cache)
    })
}

/// Returns the other place that somebody has claimed who makes containers under the project's name right now.
pub fn claimed(own: &ProjectLabels, claim: &str, cache: Option<&Path>) -> Option<Elsewhere> {
    let (there, files) = claim.split_once('\n')?;
    another(own, there, files, cache)
}

/// Returns a project's place in the form of a claim.
pub fn claim(own: &ProjectLabels) -> String {
    format!("{}\n{}", own.working_dir, own.config_files.join(","))
}

/// Returns the place with this directory and these files, with commas between them, if it is another one and still there.
fn another(own: &ProjectLabels, there: &str, files: &str, cache: Option<&Path>) -> Option<Elsewhere> {
    let cached = |path: &str| cache.is_some_and(|cache| Path::new(path).starts_with(cache));
    let files = files.split(',').filter(|file| file.starts_with('/')).collect::<Vec<_>>();
    let same = is_same(there, &own.working_dir)
        || files.iter().any(|file| own.config_files.iter().any(|other| is_same(file, other)))
        || (cached(there) && cached(&own.working_dir));
    let elsewhere = || Elsewhere { name: own.name.clone(), here: own.working_dir.clone(), there: there.to_owned() };
    (!same && is_there(there, &files)).then(elsewhere)
}

/// Returns whether two paths lead to the same thing.
fn is_same(one: &str, other: &str) -> bool {
    let identity = |path: &str| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    one == other || identity(one).is_some_and(|found| identity(other) == Some(found))
}

/// Returns whether a project is still where it was: one of its files is there, or, of one without, its directory.
fn is_there(directory: &str, files: &[&str]) -> bool {
    match files {
        [] => Path::new(directory).is_dir(),
        files => files.iter().any(|file| Path::new(file).exists()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rcompose_engine::container::config::ContainerConfig;
    use rcompose_engine::container::state::{ContainerState, Status};

    use super::*;

    /// A project in `directory`, which is made with the file.
    fn project(directory: &Path, file: &str) -> ProjectLabels {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join(file), "").unwrap();
        ProjectLabels {
            name: "shop".into(),
            working_dir: directory.display().to_string(),
            config_files: vec![directory.join(file).display().to_string()],
            environment_files: Vec::new(),
        }
    }

    fn made_by(project: &ProjectLabels) -> Vec<Container> {
        let mut config = ContainerConfig::new("shop-web-1".into(), "shop".into(), "busybox".into(), "sha256:1".into());
        config.labels.insert(WORKING_DIR.into(), project.working_dir.clone());
        config.labels.insert(CONFIG_FILES.into(), project.config_files.join(","));
        vec![Container { config, state: ContainerState::new(Status::Exited) }]
    }

    #[test]
    fn another_directory_is_another_place() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let [first, second] = [&one, &two].map(|directory| project(directory, "compose.yaml"));
        let found = elsewhere(&second, &made_by(&first), None).unwrap();
        assert_eq!((Path::new(&found.there), Path::new(&found.here)), (one.as_path(), two.as_path()));
        assert_eq!(elsewhere(&second, &made_by(&second), None), None);
        assert_eq!(claimed(&second, &claim(&first), None), Some(found));
        assert_eq!(claimed(&first, &claim(&first), None), None);
        assert_eq!(elsewhere(&second, &made_by(&first), Some(folder.path())), None, "both lie in the cache");
        fs::remove_dir_all(&one).unwrap();
        assert_eq!(elsewhere(&second, &made_by(&first), None), None, "it was moved");
    }

    #[test]
    fn the_same_place_has_many_paths() {
        let folder = tempfile::tempdir().unwrap();
        let real = project(&folder.path().join("real"), "compose.yaml");
        symlink("real", folder.path().join("link")).unwrap();
        let link = project(&folder.path().join("link"), "compose.yaml");
        assert_eq!(elsewhere(&link, &made_by(&real), None), None);
        let moved = project(&folder.path().join("real/deploy"), "compose.yaml");
        fs::remove_file(&real.config_files[0]).unwrap();
        assert_eq!(elsewhere(&moved, &made_by(&real), None), None, "its file went to a subdirectory");
    }

    #[test]
    fn the_same_file_is_the_same_project() {
        let folder = tempfile::tempdir().unwrap();
        let plain = project(&folder.path().join("plain"), "compose.yaml");
        let mut other = project(&folder.path().join("other"), "override.yaml");
        other.config_files.insert(0, plain.config_files[0].clone());
        assert_eq!(elsewhere(&other, &made_by(&plain), None), None, "--project-directory and one more -f");
        let mut typed = project(&folder.path().join("typed"), "compose.yaml");
        typed.config_files = vec!["-".into()];
        assert!(elsewhere(&plain, &made_by(&typed), None).is_some());
    }
}
