//! Containers on disk: one OCI bundle each, found by name and by project.
//!
//! `containers/<id>/` is the bundle. `names/<name>` is a symbolic link whose *target* is data (the id), never followed:
//! making one is atomic and fails where it exists, which is what makes names unique on a host over all projects.
//! `projects/<project>/containers/<id>` is a second name of that link, so that it costs no inode. Only the project's
//! supervisor writes; everybody may read at any time.
//!
//! A container is made in the order name, project's link, bundle, and taken away in the order bundle, name, link. So
//! whatever a crash leaves half done has its link, by which the project's next supervisor finds it ([`sweep`]). Nobody
//! waits for the disk: the supervisor makes durable what it has written a moment later ([`sync`]), and a file that a
//! power cut left empty, which is what file systems leave of one that was not written in time, counts as absent.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::config::ContainerConfig;
use super::state::{ContainerState, ProcessStart, Status};
use crate::host;
use crate::id::Id;
use crate::image::Digest;
use crate::root::{Root, make_directory, make_directory_of_many};
use crate::shim;
use crate::shim::client::Client;
use crate::shim::config::ShimConfig;
use crate::shim::protocol::Exit;

/// A container as it is known on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub config: ContainerConfig,
    pub state: ContainerState,
}

/// A file or directory of the store that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {verb} {}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the container name \"{name}\" is already in use by container {id}{}", of(project.as_deref()))]
    NameInUse { name: String, id: String, project: Option<String> },
    #[error("container name `{0}` is not valid: two or more of [a-zA-Z0-9_.-], the first a letter or digit")]
    InvalidName(String),
}

fn of(project: Option<&str>) -> String {
    project.map(|project| format!(" of project {project}")).unwrap_or_default()
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { verb, path: path.to_owned(), source }
}

/// Returns the containers of a project, or of all projects, sorted by name.
///
/// A container that disappears meanwhile is left out; so is the half-made rest of a crash.
pub fn list(root: &Root, project: Option<&str>) -> Result<Vec<Container>, StoreError> {
    let directory = match project {
        Some(project) => root.project(project).join("containers"),
        None => root.containers(),
    };
    let mut containers = Vec::new();
    for id in ids(&directory)? {
        if let Some(container) = load(root, &id)? {
            containers.push(container);
        }
    }
    containers.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    Ok(containers)
}

/// Returns the containers of a project with the states as they were written, which for its supervisor are its own.
pub(crate) fn list_as_written(root: &Root, project: &str) -> Result<Vec<Container>, StoreError> {
    let mut containers = Vec::new();
    for id in ids(&root.project(project).join("containers"))? {
        containers.extend(load_as_written(root, &id)?);
    }
    Ok(containers)
}

/// Returns the layers that containers are made of, whatever became of the images they came from.
pub fn layers(root: &Root) -> Result<Vec<Digest>, StoreError> {
    let mut layers = Vec::new();
    for id in ids(&root.containers())? {
        layers.extend(layers_of(root, &id)?);
    }
    Ok(layers)
}

/// Returns the layers that a container is made of and that it mounts; none of one that goes meanwhile.
pub(crate) fn layers_of(root: &Root, id: &Id) -> Result<Vec<Digest>, StoreError> {
    let path = root.container(id).join(shim::config::FILE);
    let Some(shim) = read_if_written::<ShimConfig>(&path)? else { return Ok(Vec::new()) };
    let mounted = shim.mounts.values().flat_map(|mount| &mount.layers);
    let names = shim.rootfs.layers.iter().chain(mounted).filter_map(|layer| layer.file_name()?.to_str());
    Ok(names.filter_map(Digest::from_hex).collect())
}

/// Returns the names of projects that have a container.
pub fn projects(root: &Root) -> Result<Vec<String>, StoreError> {
    let directory = root.data().join("projects");
    let mut names = Vec::new();
    for name in names_in(&directory)? {
        if !ids(&directory.join(&name).join("containers"))?.is_empty() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn names_in(directory: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", directory))?;
        // Names that are not text are none of ours.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn ids(directory: &Path) -> Result<Vec<Id>, StoreError> {
    Ok(names_in(directory)?.into_iter().filter_map(|name| Id::try_from(name).ok()).collect())
}

/// Returns one container, or `None` if there is none of this id.
pub fn load(root: &Root, id: &Id) -> Result<Option<Container>, StoreError> {
    let Some(Container { config, state }) = load_as_written(root, id)? else { return Ok(None) };
    Ok(Some(Container { config, state: seen(root, id, state)? }))
}

fn load_as_written(root: &Root, id: &Id) -> Result<Option<Container>, StoreError> {
    let bundle = root.container(id);
    let Some(config) = read_if_written::<ContainerConfig>(&bundle.join("container.json"))? else { return Ok(None) };
    let state = match read_if_written(&bundle.join("state.json"))? {
        Some(state) => state,
        // It is gone in this moment, or a power cut took the state.
        None if bundle.try_exists().map_err(failed("look for", &bundle))? => ContainerState::lost(),
        None => return Ok(None),
    };
    Ok(Some(Container { config, state }))
}

/// Takes away what is left of containers of a project that were being made or removed in a crash.
///
/// For the project's supervisor before it does anything else: nobody else makes or removes its containers.
pub(crate) fn sweep(root: &Root, project: &str) -> Result<(), StoreError> {
    let links = root.project(project).join("containers");
    for id in ids(&links)? {
        if load_as_written(root, &id)?.is_some() {
            continue;
        }
        tracing::warn!(id = id.short(), "removing what a crash left of a container");
        let bundle = root.container(&id);
        absent(fs::remove_dir_all(&bundle), &bundle)?;
        // Only its configuration knew under which name it is found.
        take_away(root, project, &id, &names_in(&names(root))?)?;
    }
    remove_emptied(root, project)
}

/// Makes durable what is known of a container. One that is gone meanwhile needs nothing.
pub(crate) fn sync(root: &Root, id: &Id) -> Result<(), StoreError> {
    let bundle = root.container(id);
    let names = ["container.json", "state.json", "config.json", shim::config::FILE];
    for path in names.map(|name| bundle.join(name)).iter().chain([&bundle, &root.containers()]) {
        match fs::File::open(path).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("sync", path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the container of this name.
pub fn find(root: &Root, name: &str) -> Result<Option<Container>, StoreError> {
    match owner(root, name)? {
        Some(id) => load(root, &id),
        None => Ok(None),
    }
}

/// Corrects a state that says "running" of a process that is no more, as after a reboot: the supervisor that would
/// have written the truth was not there.
pub(crate) fn seen(root: &Root, id: &Id, mut state: ContainerState) -> Result<ContainerState, StoreError> {
    let lives = match (state.pid, &state.pid_started) {
        (Some(pid), Some(started)) => {
            let now = ProcessStart::of(pid).map_err(failed("read", Path::new(&format!("/proc/{pid}/stat"))))?;
            now.as_ref() == Some(started)
        }
        _ => false,
    };
    if state.status.is_running() && !lives {
        let record = || read_if_written::<Exit>(&root.container(id).join(shim::EXIT));
        let exit = match record()? {
            // Its shim is about to write down how it ended, and until then nobody knows more than that it ran.
            None if Client::connect(&root.container_run(id)).is_ok() => return Ok(state),
            None => record()?,
            exit => exit,
        };
        state.status = Status::Exited;
        state.pid = None;
        state.pid_started = None;
        // 255 is what Docker says of a container that was running when its host went down.
        state.exit_code = exit.as_ref().map_or(255, |exit| exit.code);
        state.oom_killed = exit.as_ref().is_some_and(|exit| exit.oom_killed);
        state.finished_at = exit.map(|exit| exit.finished_at);
    }
    Ok(state)
}

impl ProcessStart {
    /// Returns when a process was started; `None` if there is none.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It ended between open and read.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(ticks) = ticks(&stat) else { return Ok(None) };
        Ok(Some(Self { boot: host::boot_id()?, ticks }))
    }
}

/// Returns when a process was started, in clock ticks since boot (field 22 of `proc_pid_stat(5)`).
fn ticks(stat: &str) -> Option<u64> {
    // The command's name is in parentheses and may have blanks and parentheses itself.
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    // A zombie is no process any more.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Makes a container's bundle with everything in `files` (name and content), and takes its name.
///
/// Nothing is left behind when it fails.
pub fn create(
    root: &Root,
    config: &ContainerConfig,
    state: &ContainerState,
    files: &[(&str, Vec<u8>)],
) -> Result<(), StoreError> {
    take_name(root, &config.name, &config.id)?;
    let made = make_bundle(root, config, state, files);
    if made.is_err() {
        release_name(root, &config.name)?;
    }
    made
}

fn make_bundle(
    root: &Root,
    config: &ContainerConfig,
    state: &ContainerState,
    files: &[(&str, Vec<u8>)],
) -> Result<(), StoreError> {
    let containers = root.containers();
    make_directory_of_many(&containers).map_err(failed("make", &containers))?;
    let aside = containers.join(format!(".{}", config.id));
    let links = root.project(&config.project).join("containers");
    let link = links.join(config.id.as_str());
    let made = (|| {
        // Before anything else, so that what a crash leaves is found.
        loop {
            make_directory(&links).map_err(failed("make", &links))?;
            match fs::hard_link(names(root).join(&config.name), &link) {
                // The project's last container went at this moment, and the directory with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !links.exists() => {}
                made => break made.map_err(failed("make", &link))?,
            }
        }
        fs::DirBuilder::new().mode(0o700).create(&aside).map_err(failed("make", &aside))?;
        let own = [("container.json", encode(config)), ("state.json", encode(state))];
        for (name, content) in own.iter().chain(files) {
            let path = aside.join(name);
            let put = || {
                let mut file = fs::File::create_new(&path)?;
                file.write_all(content)?;
                // Some are bound into the container, where every user reads them; here the directory keeps others out.
                file.set_permissions(fs::Permissions::from_mode(0o644))
            };
            put().map_err(failed("write", &path))?;
        }
        let bundle = root.container(&config.id);
        fs::rename(&aside, &bundle).map_err(failed("make", &bundle))
    })();
    if made.is_err() {
        let _ = fs::remove_dir_all(&aside);
        let _ = fs::remove_file(&link);
    }
    made
}

/// Removes a container's bundle, links and name. What is already gone is no error.
pub fn remove(root: &Root, config: &ContainerConfig) -> Result<(), StoreError> {
    let bundle = root.container(&config.id);
    let aside = root.containers().join(format!(".{}", config.id));
    // First out of sight in one step, then away.
    match fs::rename(&bundle, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove", &bundle)(error)),
    }
    take_away(root, &config.project, &config.id, std::slice::from_ref(&config.name))
}

/// Removes what is left of a container whose bundle is out of sight, with those of these names that are its own.
fn take_away(root: &Root, project: &str, id: &Id, names: &[String]) -> Result<(), StoreError> {
    let aside = root.containers().join(format!(".{id}"));
    let run = root.container_run(id);
    for directory in [&aside, &run] {
        // What is in it may be in use for another moment. What cannot be removed the next supervisor tries again.
        let removed = fs::remove_dir_all(directory).or_else(|_| fs::remove_dir_all(directory));
        absent(removed, directory)?;
    }
    for name in names {
        if owner(root, name)?.as_ref() == Some(id) {
            release_name(root, name)?;
        }
    }
    let link = root.project(project).join("containers").join(id.as_str());
    absent(fs::remove_file(&link), &link)?;
    remove_emptied(root, project)
}

/// Removes a project's directories, which its last container takes along; they stay while they have something in them.
fn remove_emptied(root: &Root, project: &str) -> Result<(), StoreError> {
    let directory = root.project(project);
    for emptied in [&directory.join("containers"), &directory] {
        match fs::remove_dir(emptied) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
            removed => absent(removed, emptied)?,
        }
    }
    Ok(())
}

/// Takes another name for a container and gives the old one up.
pub fn rename(root: &Root, config: &ContainerConfig, name: &str) -> Result<ContainerConfig, StoreError> {
    take_name(root, name, &config.id)?;
    let renamed = ContainerConfig { name: name.to_owned(), ..config.clone() };
    let written = configure(root, &renamed);
    release_name(root, if written.is_ok() { &config.name } else { name })?;
    written.map(|()| renamed)
}

/// Writes what a container that exists is to be from now on.
pub fn configure(root: &Root, config: &ContainerConfig) -> Result<(), StoreError> {
    write(&root.container(&config.id).join("container.json"), &encode(config))
}

/// Writes a container's state.
pub fn save(root: &Root, id: &Id, state: &ContainerState) -> Result<(), StoreError> {
    write(&root.container(id).join("state.json"), &encode(state))
}

fn absent(result: io::Result<()>, path: &Path) -> Result<(), StoreError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn names(root: &Root) -> PathBuf {
    root.data().join("names")
}

/// Returns who has a name; an owner whose bundle is gone has lost it.
fn owner(root: &Root, name: &str) -> Result<Option<Id>, StoreError> {
    let link = names(root).join(name);
    match fs::read_link(&link) {
        Ok(target) => Ok(target.to_str().and_then(|id| id.parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &link)(error)),
    }
}

fn take_name(root: &Root, name: &str, id: &Id) -> Result<(), StoreError> {
    let mut characters = name.chars();
    let good = characters.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() >= 2
        && name.len() <= 250
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !good {
        return Err(StoreError::InvalidName(name.to_owned()));
    }
    let directory = names(root);
    make_directory(&directory).map_err(failed("make", &directory))?;
    let link = directory.join(name);
    loop {
        match std::os::unix::fs::symlink(id.as_str(), &link) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make", &link)(error)),
            Err(_) => {}
        }
        let Some(owner) = owner(root, name)? else { continue };
        let bundle = root.container(&owner);
        let aside = root.containers().join(format!(".{owner}"));
        if [bundle, aside].iter().any(|path| path.try_exists().unwrap_or(true)) {
            let project = load(root, &owner)?.map(|container| container.config.project);
            return Err(StoreError::NameInUse { name: name.to_owned(), id: owner.short().to_owned(), project });
        }
        // Its owner died between taking the name and making its bundle.
        absent(fs::remove_file(&link), &link)?;
    }
}

fn release_name(root: &Root, name: &str) -> Result<(), StoreError> {
    let link = names(root).join(name);
    absent(fs::remove_file(&link), &link)
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have string keys only and always serialise")
}

/// Reads a JSON document; `None` if the file is not there.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StoreError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Reads a JSON document; `None` if the file is not there, or is empty because a power cut came before its content.
pub(crate) fn read_if_written<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match read(path) {
        Err(StoreError::Damaged { .. }) if fs::metadata(path).is_ok_and(|file| file.len() == 0) => Ok(None),
        read => read,
    }
}

/// Replaces a file in one step, so that a reader sees the old content or the new. It is not forced to the disk: after a
/// power cut it may be empty, which is for its reader to know.
pub fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let aside = path.with_extension("new");
    let written = fs::File::create(&aside).and_then(|mut file| file.write_all(content));
    written.and_then(|()| fs::rename(&aside, path)).map_err(|error| {
        let _ = fs::remove_file(&aside);
        failed("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, project: &str) -> ContainerConfig {
        ContainerConfig::new(name.into(), project.into(), "busybox".into(), "sha256:0".into())
    }

    fn every_file(root: &Root) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![root.data().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else {
                    files.push(entry.path());
                }
            }
        }
        files
    }

    #[test]
    fn a_container_is_found_by_project_and_name_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        let (one, two) = (config("shop-db-1", "shop"), config("other-db-1", "other"));
        create(&root, &two, &ContainerState::new(Status::Created), &[]).unwrap();
        create(&root, &one, &ContainerState::new(Status::Created), &[("config.json", b"{}".to_vec())]).unwrap();
        assert_eq!(fs::read(root.container(&one.id).join("config.json")).unwrap(), b"{}");
        let names = |project| -> Vec<String> {
            list(&root, project).unwrap().into_iter().map(|container| container.config.name).collect()
        };
        assert_eq!(names(Some("shop")), ["shop-db-1"]);
        assert_eq!(names(None), ["other-db-1", "shop-db-1"]);
        assert_eq!(projects(&root).unwrap(), ["other", "shop"]);
        assert_eq!(find(&root, "shop-db-1").unwrap().unwrap().config, one);
        assert_eq!(find(&root, "shop-db-2").unwrap(), None);
        remove(&root, &one).unwrap();
        remove(&root, &one).unwrap();
        remove(&root, &two).unwrap();
        assert_eq!(every_file(&root), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_name_is_taken_once_on_a_host() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        create(&root, &config("db", "shop"), &ContainerState::new(Status::Created), &[]).unwrap();
        let error = create(&root, &config("db", "other"), &ContainerState::new(Status::Created), &[]).unwrap_err();
        assert!(error.to_string().contains("\"db\" is already in use by container"), "{error}");
        assert!(error.to_string().ends_with("of project shop"), "{error}");
        assert_eq!(list(&root, Some("other")).unwrap().len(), 0);
    }

    #[test]
    fn a_name_whose_owner_died_half_made_can_be_taken() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        take_name(&root, "db", &Id::random()).unwrap();
        create(&root, &config("db", "shop"), &ContainerState::new(Status::Created), &[]).unwrap();
    }

    #[test]
    fn renaming_moves_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        let (one, two) = (config("one", "shop"), config("two", "shop"));
        create(&root, &one, &ContainerState::new(Status::Created), &[]).unwrap();
        create(&root, &two, &ContainerState::new(Status::Created), &[]).unwrap();
        assert!(matches!(rename(&root, &one, "two"), Err(StoreError::NameInUse { .. })));
        let renamed = rename(&root, &one, "three").unwrap();
        assert_eq!(find(&root, "three").unwrap().unwrap().config, renamed);
        assert_eq!(find(&root, "one").unwrap(), None);
    }

    #[test]
    fn a_state_that_outlived_its_process_is_corrected() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        let one = config("one", "shop");
        let me = i32::try_from(std::process::id()).unwrap();
        let running = ContainerState {
            pid: Some(me),
            pid_started: ProcessStart::of(me).unwrap(),
            ..ContainerState::new(Status::Running)
        };
        create(&root, &one, &running, &[]).unwrap();
        assert_eq!(load(&root, &one.id).unwrap().unwrap().state.status, Status::Running);
        let began = running.pid_started.clone().unwrap();
        let others =
            [ProcessStart { ticks: 1, ..began.clone() }, ProcessStart { boot: "the one before".to_owned(), ..began }];
        for other in others {
            let other = ContainerState { pid_started: Some(other), ..running.clone() };
            save(&root, &one.id, &other).unwrap();
            let seen = load(&root, &one.id).unwrap().unwrap().state;
            assert_eq!((seen.status, seen.exit_code, seen.pid), (Status::Exited, 255, None));
        }
    }

    #[test]
    fn a_state_that_a_power_cut_took_is_that_of_a_container_that_ended() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        let one = config("one", "shop");
        create(&root, &one, &ContainerState::new(Status::Running), &[]).unwrap();
        fs::write(root.container(&one.id).join("state.json"), "").unwrap();
        let seen = load(&root, &one.id).unwrap().unwrap().state;
        assert_eq!((seen.status, seen.exit_code), (Status::Exited, 255));
    }

    #[test]
    fn what_a_power_cut_left_of_a_container_is_swept_away() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::below(directory.path());
        let (good, empty) = (config("good", "shop"), config("empty", "shop"));
        create(&root, &good, &ContainerState::new(Status::Created), &[]).unwrap();
        create(&root, &empty, &ContainerState::new(Status::Created), &[]).unwrap();
        fs::write(root.container(&empty.id).join("container.json"), "").unwrap();
        // One whose bundle had not been renamed into place.
        let half = config("half", "shop");
        create(&root, &half, &ContainerState::new(Status::Created), &[]).unwrap();
        fs::rename(root.container(&half.id), root.containers().join(format!(".{}", half.id))).unwrap();
        assert_eq!(list(&root, None).unwrap().len(), 1);
        sweep(&root, "shop").unwrap();
        create(&root, &config("empty", "other"), &ContainerState::new(Status::Created), &[]).unwrap();
        create(&root, &config("half", "other"), &ContainerState::new(Status::Created), &[]).unwrap();
        remove(&root, &good).unwrap();
        for container in list(&root, None).unwrap() {
            remove(&root, &container.config).unwrap();
        }
        assert_eq!(every_file(&root), Vec::<PathBuf>::new());
        // Directories that could not be removed with the last container.
        fs::create_dir_all(root.project("shop").join("containers")).unwrap();
        sweep(&root, "shop").unwrap();
        assert!(!root.project("shop").exists());
    }

    #[test]
    fn names_cannot_be_paths() {
        for name in ["..", "a/b", "/a", "", "a", ".ab", "a b", "ä1"] {
            let directory = tempfile::tempdir().unwrap();
            let root = Root::below(directory.path());
            assert!(matches!(take_name(&root, name, &Id::random()), Err(StoreError::InvalidName(_))), "{name}");
        }
    }
}
