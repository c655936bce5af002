//! What `--help` says that there is: commands and their options.

use std::collections::BTreeMap;

use crate::stack::Stack;

/// An option, and the letter that it has beside its name.
pub type Flag = (String, Option<String>);

/// Returns the options of every command, by its words (`image build`); those of the empty one stand before commands.
pub fn commands(stack: &Stack) -> BTreeMap<String, Vec<Flag>> {
    let mut commands = BTreeMap::new();
    let mut left = vec![String::new()];
    while let Some(command) = left.pop() {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = stack.run(&words).ok().stdout;
        left.extend(below(&help).map(|name| format!("{command} {name}").trim().to_owned()));
        commands.insert(command, flags(&help));
    }
    commands
}

/// Returns the names that a help lists below `Commands:`.
fn below(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !["", "help"].contains(name))
}

/// Returns the options that a help names, but those that only print something about the command itself.
pub fn flags(help: &str) -> Vec<Flag> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let flag = |line: &str| {
        let end = |word: &str| word.find([' ', ',', '=', '[']).map_or(word.len(), |end| end);
        let long = line.find("--").map(|start| &line[start..])?;
        let short = line.strip_prefix("--").is_none().then(|| line[..end(line)].to_owned());
        Some((long[..end(long)].to_owned(), short))
    };
    lines.filter_map(flag).filter(|(long, _)| !["--help", "--version"].contains(&long.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_from_the_help() {
        let help =
            "Options:\n  -d, --detach            Detached\n      --scale <SERVICE=NUM>  Scale\n  -h, --help  Help\n";
        let read = flags(help);
        assert_eq!(read, [("--detach".to_owned(), Some("-d".to_owned())), ("--scale".to_owned(), None)]);
    }

    #[test]
    fn commands_are_read_from_the_help() {
        let help = "About\n\nCommands:\n  ls       List\n           of all\n  inspect  Show\n  help     Print\n\nOptions:\n  -h\n";
        assert_eq!(below(help).collect::<Vec<_>>(), ["ls", "inspect"]);
    }
}
