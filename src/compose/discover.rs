//! Which files make the project, where its directory is, and which variables it sees.

use super::environment::Environment;
use super::files::{Files, NotFetched, is_absent};
use super::remote::Remote;
use super::source::Span;
use super::{Diagnostic, Faults, LoadOptions, gopath};

/// Names of compose files, the best first.
pub const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// Names of files that are laid over a compose file that was found.
pub(super) const OVERRIDES: [&str; 4] =
    ["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// What to load.
#[derive(Debug, Default)]
pub(super) struct Discovered {
    /// Absolute paths, or `-`.
    pub files: Vec<String>,
    /// The directory that relative paths begin at, absolute.
    pub directory: String,
    /// The directory that the project is named after; differs where the files came from elsewhere.
    pub home: String,
    /// All variables.
    pub environment: Environment,
    /// The active profiles.
    pub profiles: Vec<String>,
}

/// Finds everything that comes before the first compose file is read.
pub(super) fn discover(options: &LoadOptions, files: &dyn Files, faults: &mut Faults) -> Option<Discovered> {
    let here = options.working_dir.to_string_lossy().into_owned();
    let absolute = |path: &str| if path.starts_with('/') { gopath::clean(path) } else { gopath::join(&here, path) };
    let mut environment = Environment::of_process(&options.environment);
    environment.set("PWD", &here, "set by Compose");

    let mut paths: Vec<String> = options
        .files
        .iter()
        .map(|path| if path == "-" || Remote::parse(path).is_some() { path.clone() } else { absolute(path) })
        .collect();
    let directory = |paths: &[String]| match &options.project_directory {
        Some(directory) if !directory.as_os_str().is_empty() => absolute(&directory.to_string_lossy()),
        _ => match paths.iter().find(|path| *path != "-") {
            Some(path) if Remote::parse(path).is_none() => gopath::parent(path),
            _ => here.clone(),
        },
    };

    let env_files: Vec<String> = if options.env_files.is_empty() {
        let listed = options.environment.get("COMPOSE_ENV_FILES").filter(|list| !list.is_empty());
        listed.map(|list| list.split(',').map(&absolute).collect()).unwrap_or_default()
    } else {
        options.env_files.iter().map(|path| absolute(&path.to_string_lossy())).collect()
    };
    let disabled = match options.environment.get("COMPOSE_DISABLE_ENV_FILE").map(String::as_str) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(other) => {
            faults.push(Diagnostic::error(
                "invalid-value",
                format!("COMPOSE_DISABLE_ENV_FILE must be true or false, not {other:?}"),
            ));
            false
        }
    };
    let dotenv = |directory: &str, environment: &mut Environment, faults: &mut Faults| {
        if !env_files.is_empty() || disabled {
            return;
        }
        let path = gopath::join(directory, ".env");
        if files.is_for_reading(path.as_ref()) {
            environment.add_files(&[path], Span::NONE, files, faults);
        }
    };
    environment.add_files(&env_files, Span::NONE, files, faults);
    let first = directory(&paths);
    dotenv(&first, &mut environment, faults);

    if paths.is_empty() {
        paths = listed(&environment, &absolute, files, faults);
    }
    if paths.is_empty() {
        paths = find(&directory(&[]), files, faults);
    }
    let home = directory(&paths);
    if home != first {
        dotenv(&home, &mut environment, faults);
    }
    let mut elsewhere = None;
    for path in &mut paths {
        if let Some(remote) = Remote::parse(path) {
            *path = fetch(&remote, Span::NONE, files, faults)?;
            elsewhere.get_or_insert_with(|| gopath::parent(path));
        }
    }
    let directory = elsewhere.unwrap_or_else(|| home.clone());
    if paths.is_empty() {
        faults.push(
            Diagnostic::error("no-file", "no configuration file provided: not found")
                .help(format!("looked for {} in {here} and its parents", NAMES.join(", ")))
                .help("name a file with -f"),
        );
        return None;
    }
    let profiles = if options.profiles.is_empty() {
        environment.get("COMPOSE_PROFILES").unwrap_or("").split(',').map(|profile| profile.trim().to_owned()).collect()
    } else {
        options.profiles.clone()
    };
    Some(Discovered { files: paths, directory, home, environment, profiles })
}

/// The local copy of a file that lies elsewhere; what it needs to know of the caller is where it is named.
pub(super) fn fetch(remote: &Remote, named: Span, files: &dyn Files, faults: &mut Faults) -> Option<String> {
    match files.fetch(remote) {
        Ok(path) => Some(path.to_string_lossy().into_owned()),
        Err(NotFetched { message, help }) => {
            let diagnostic = Diagnostic::error("remote-file", message).label(&faults.sources, named, "named here");
            faults.push(help.into_iter().fold(diagnostic, Diagnostic::help));
            None
        }
    }
}

/// The files of `COMPOSE_FILE`.
fn listed(
    environment: &Environment,
    absolute: &dyn Fn(&str) -> String,
    files: &dyn Files,
    faults: &mut Faults,
) -> Vec<String> {
    let Some(list) = environment.get("COMPOSE_FILE") else { return Vec::new() };
    let separator = environment.get("COMPOSE_PATH_SEPARATOR").filter(|separator| !separator.is_empty()).unwrap_or(":");
    list.split(separator)
        .map(|path| {
            if path == "-" {
                return path.to_owned();
            }
            let path = absolute(path);
            if let Err(error) = files.is_directory(path.as_ref()) {
                faults.push(
                    Diagnostic::error("unreadable-file", format!("cannot read {path}: {error}"))
                        .help("it is named by COMPOSE_FILE"),
                );
            }
            path
        })
        .collect()
}

/// Looks for a compose file here and in the directories above. What has the name of one and cannot be read is passed over, as
/// Docker Compose does; where nothing else is found, it is the one, and reading it says what is wrong.
fn find(start: &str, files: &dyn Files, faults: &mut Faults) -> Vec<String> {
    let mut directory = start.to_owned();
    let mut broken: Option<(String, std::io::Error)> = None;
    loop {
        let mut present = |names: &[&str], kind: &str| -> Option<String> {
            let mut found = Vec::new();
            for path in names.iter().map(|name| gopath::join(&directory, name)) {
                match files.is_directory(path.as_ref()) {
                    Ok(_) => found.push(path),
                    Err(error) if !is_absent(&error) || files.is_symlink(path.as_ref()) => {
                        broken.get_or_insert((path, error));
                    }
                    Err(_) => {}
                }
            }
            if found.len() > 1 {
                faults.push(Diagnostic::warning(
                    "several-files",
                    format!(
                        "Found multiple {kind} files with supported names: {}; using {}",
                        found.join(", "),
                        found[0]
                    ),
                ));
            }
            found.into_iter().next()
        };
        if let Some(file) = present(&NAMES, "config") {
            let found: Vec<String> = std::iter::once(file).chain(present(&OVERRIDES, "override")).collect();
            if let Some((path, error)) = broken {
                let message = format!("{path} is passed over: {error}");
                faults.push(Diagnostic::warning("unreadable-file", message).help(format!("{} is used", found[0])));
            }
            return found;
        }
        let parent = gopath::parent(&directory);
        let parent = if parent.len() > 1 { parent.trim_end_matches('/').to_owned() } else { parent };
        if parent == directory {
            return broken.map(|(path, _)| path).into_iter().collect();
        }
        directory = parent;
    }
}

/// The compose file in a directory, for who named the directory itself or another usual name.
pub(super) fn beside(directory: &str, files: &dyn Files) -> Option<String> {
    let paths = NAMES.iter().map(|name| gopath::join(directory, name));
    paths.into_iter().find(|path| files.is_directory(path.as_ref()).is_ok_and(|is_directory| !is_directory))
}

/// Leaves the characters that a project's name may have.
pub(super) fn normalize_name(name: &str) -> String {
    let kept: String = name
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}
