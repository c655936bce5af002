//! Opens addresses in the user's browser: the one that `BROWSER` names, or what the desktop has for it.
//!
//! Most commands run as root, by `sudo`: a browser is the user's, and runs as that.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::compose::shell;

/// What desktops have for it.
const DESKTOP: &str = "xdg-open";

/// Opens what a browser can open of these addresses, if there is something that opens them. Returns how many.
pub fn open<'u>(urls: impl Iterator<Item = &'u str>) -> io::Result<usize> {
    let Some(opener) = opener(|variable| env::var(variable).ok()) else { return Ok(0) };
    let mut opened = 0;
    for url in urls.filter(|url| url.starts_with("http://") || url.starts_with("https://")) {
        start(words(&opener, url))?;
        opened += 1;
    }
    Ok(opened)
}

/// Returns the words of the command that opens an address, which stands where `%s` does, or at the end.
fn opener(variable: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    let listed = given("BROWSER");
    // Of several the first; the others are for where that is not there.
    let listed = listed.as_deref().and_then(|list| list.split(':').next()).and_then(|line| shell::split(line).ok());
    if let Some(words) = listed.filter(|words| !words.is_empty()) {
        return Some(words);
    }
    given("DISPLAY").or_else(|| given("WAYLAND_DISPLAY"))?;
    let path = given("PATH")?;
    env::split_paths(&path).any(|folder| folder.join(DESKTOP).is_file()).then(|| vec![DESKTOP.to_owned()])
}

fn words(opener: &[String], url: &str) -> Vec<String> {
    if opener.iter().any(|word| word.contains("%s")) {
        return opener.iter().map(|word| word.replace("%s", url)).collect();
    }
    opener.iter().cloned().chain([url.to_owned()]).collect()
}

/// Starts a command that has nothing to do with this terminal, and that goes on when this process ends.
fn start(words: Vec<String>) -> io::Result<()> {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    as_user(&mut command);
    let mut child = command.spawn()?;
    // So that it is no zombie when it has ended.
    thread::Builder::new().name("opener".to_owned()).spawn(move || child.wait())?;
    Ok(())
}

/// Lets a command run as whoever called `sudo`.
fn as_user(command: &mut Command) {
    let id = |name| env::var(name).ok().and_then(|id| id.parse::<u32>().ok());
    let (Some(user), Some(group), true) = (id("SUDO_UID"), id("SUDO_GID"), nix::unistd::geteuid().is_root()) else {
        return;
    };
    command.uid(user).gid(group);
    if let Some(home) = home(&fs::read_to_string("/etc/passwd").unwrap_or_default(), user) {
        command.env("HOME", home);
    }
    let runtime = PathBuf::from(format!("/run/user/{user}"));
    if runtime.is_dir() {
        command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", runtime.join("bus").display()));
        command.env("XDG_RUNTIME_DIR", runtime);
    }
}

/// Returns the home directory of a user (`passwd(5)`).
fn home(users: &str, user: u32) -> Option<&Path> {
    let own = users.lines().find(|line| line.split(':').nth(2).is_some_and(|id| id.parse() == Ok(user)))?;
    own.split(':').nth(5).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_what_the_environment_names() {
        let with = |given: &[(&str, &str)]| {
            let known = |name: &str| given.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
            opener(known).map(|opener| words(&opener, "http://h:1").join(" "))
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("BROWSER", "")]), None);
        assert_eq!(with(&[("BROWSER", "firefox --new-tab:w3m")]).as_deref(), Some("firefox --new-tab http://h:1"));
        assert_eq!(with(&[("BROWSER", "open '%s' now")]).as_deref(), Some("open http://h:1 now"));
        assert_eq!(with(&[("DISPLAY", ":0"), ("PATH", "/nowhere")]), None);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(DESKTOP), "").unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(with(&[("WAYLAND_DISPLAY", "wayland-0"), ("PATH", path)]).as_deref(), Some("xdg-open http://h:1"));
        assert_eq!(with(&[("PATH", path)]), None, "there is no display");
    }

    #[test]
    fn a_user_has_a_home() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:1000:Ada,,,:/home/ada:/bin/bash\n";
        assert_eq!(home(users, 1000), Some(Path::new("/home/ada")));
        assert_eq!(home(users, 1001), None);
    }
}
