//! The command line in Docker Compose's place: what only rcompose has works, but is not spoken of.

use clap::{Arg, Command};

use super::cp;
use crate::ui::name::Name;

/// Commands that Docker Compose does not have, or does not speak of.
const OWN: [&str; 17] = [
    "autostart",
    "blame",
    "builder",
    "completion",
    "doctor",
    "graph",
    "image",
    "inspect",
    "lint",
    "login",
    "logout",
    "man",
    "network",
    "oci",
    "plan",
    "system",
    "with",
];

/// Likewise flags, by their ids.
const OWN_FLAGS: [&str; 4] = ["instance", "plan", "poll", "trace"];

const ABOUT: &str = "Define and run multi-container applications with Docker";

/// What asks a plugin of Docker's command who it is.
pub const METADATA: &str = "docker-cli-plugin-metadata";

/// Returns the command line that this program has under a name.
pub fn command(command: Command, name: Name) -> Command {
    if !name.is_dockers() {
        return command;
    }
    let command = command.bin_name(name.as_str()).about(ABOUT).mut_subcommand("cp", |command| {
        let usage = name.in_text(cp::USAGE);
        command.override_usage(usage)
    });
    renamed(command, name).mut_subcommands(|command| {
        let own = OWN.contains(&command.get_name());
        if own { command.hide(true) } else { command }
    })
}

/// Returns a command whose texts call this program by its name, and so for those below it.
fn renamed(command: Command, name: Name) -> Command {
    let texts = command.mut_args(|argument| {
        let argument = if OWN_FLAGS.contains(&argument.get_id().as_str()) { argument.hide(true) } else { argument };
        match argument.get_help().map(|help| name.in_text(&help.to_string())) {
            Some(help) => Arg::help(argument, help),
            None => argument,
        }
    });
    let examples = texts.get_after_help().map(|text| name.in_text(&text.to_string()));
    let texts = match examples {
        Some(examples) => texts.after_help(examples),
        None => texts,
    };
    texts.mut_subcommands(|command| renamed(command, name))
}

/// Returns what Docker's command wants to know of a plugin.
pub fn metadata(version: &str) -> String {
    let metadata = serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "compatible",
        "Version": format!("v{version}"),
        "ShortDescription": "Docker Compose",
    });
    format!("{metadata}\n")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// Returns the help of a command and of all that is below it, but of what is not spoken of.
    fn help(command: &mut Command, all: &mut String) {
        all.push_str(&command.render_long_help().to_string());
        for command in command.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
            help(command, all);
        }
    }

    #[test]
    fn in_dockers_place_nothing_names_this_program() {
        for name in [Name::DockerCompose, Name::DockerPlugin] {
            let mut command = command(Cli::command(), name);
            command.build();
            let mut text = String::new();
            help(&mut command, &mut text);
            assert!(text.contains(&format!("Usage: {} up", name.as_str())), "{text}");
            let named = text.lines().filter(|line| line.contains("rcompose")).collect::<Vec<_>>();
            assert!(named.is_empty(), "{named:#?}");
            for own in OWN {
                assert!(command.find_subcommand(own).is_some_and(Command::is_hide_set), "{own}");
            }
        }
    }
}
