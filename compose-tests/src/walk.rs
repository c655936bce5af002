//! Does what a page of the documentation says, in its order, as a reader would: writes the files that it shows, runs its
//! commands, and compares what it shows of their output.
//!
//! A block whose first line is a comment with nothing but a path (`# compose.yaml`) is that file. `docs/PAGE/` has what the page takes for granted: the project's files, and in `page.json` what is special about commands.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock, time::Duration};

use nix::sys::signal::Signal;
use regex::Regex;
use serde::Deserialize;

use crate::{
    expect::glob,
    markdown::{Block, Page},
    stack::{Running, Stack, repository},
    wait,
};

/// `page.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Setting {
    /// A folder of `examples/` that the reader is in.
    example: Option<String>,
    /// A line of shell before the first command.
    first: Option<String>,
    /// Names and places of the test (`{project}`, `{folder}`), and what the page has instead.
    shown: BTreeMap<String, String>,
    /// By the command as it stands on the page, without the comment behind it.
    commands: BTreeMap<String, Special>,
}

/// What is special about a command.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Special {
    /// Why it is not run.
    not_run: Option<String>,
    /// A line of shell before it.
    before: Option<String>,
    /// Its exit code.
    exit: i32,
    /// It is run until it ends so: what it asks for is there a moment later.
    retry: bool,
    /// It is left running until it has said this, and then interrupted.
    until: Option<String>,
    /// A line of shell while it runs, and what it says of that.
    meanwhile: Option<(String, String)>,
}

/// A command of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Where its block begins.
    pub line: usize,
    pub text: String,
    /// What the page shows of its output, if it does.
    output: Option<String>,
}

/// Returns the commands of a page: the lines of blocks in `sh`, and in `console` those behind `$ `, with their output.
pub fn commands(page: &Page) -> Vec<Command> {
    page.blocks.iter().flat_map(of_block).collect()
}

/// Returns the path of the file that a block is.
fn file(block: &Block) -> Option<&str> {
    let path = block.text.lines().next()?.strip_prefix("# ")?;
    let is_path = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
    let is_file = Path::new(path).extension().is_some() || path.ends_with("Dockerfile");
    (path.chars().all(is_path) && is_file && block.language != "sh").then_some(path)
}

fn of_block(block: &Block) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut continued = false;
    let with_output = match block.language.as_str() {
        "sh" => false,
        "console" => true,
        _ => return commands,
    };
    for text in block.text.lines() {
        let begins = if with_output { text.strip_prefix("$ ") } else { Some(text) };
        match (begins, commands.last_mut()) {
            (_, Some(last)) if continued => {
                last.text.push('\n');
                last.text.push_str(text);
            }
            (Some(text), _) if text.trim().is_empty() || text.starts_with('#') => continue,
            (Some(text), _) => {
                let output = with_output.then(String::new);
                commands.push(Command { line: block.line, text: text.to_owned(), output });
            }
            (None, Some(last)) => {
                let output = last.output.get_or_insert_default();
                output.push_str(text);
                output.push('\n');
                continue;
            }
            (None, None) => panic!("line {}: a block in `console` begins with a command", block.line),
        }
        continued = text.ends_with('\\');
    }
    for command in &mut commands {
        let end = command.text.find(" #").unwrap_or(command.text.len());
        command.text.truncate(command.text[..end].trim_end().len());
    }
    commands
}

/// Runs the commands of a page; panics when something is not as the page says.
pub fn run(page: &Page) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page.name());
    let setting = setting(&folder);
    let commands = commands(page);
    let unknown: Vec<_> = setting.commands.keys().filter(|key| commands.iter().all(|one| one.text != **key)).collect();
    assert!(
        unknown.is_empty(),
        "page.json speaks of commands that {} does not have: {unknown:#?}",
        page.path.display()
    );

    let mut stack = Stack::new(&page.name().to_lowercase());
    if let Some(example) = &setting.example {
        stack.copy_example(example);
    }
    if folder.exists() {
        stack.copy(&folder);
    }
    stack.be_installed();
    stack.set("REPOSITORY", &repository().display().to_string());
    if let Some(line) = &setting.first {
        stack.shell(line).ok();
    }
    let here = Here::new(&stack);
    for block in &page.blocks {
        if let Some(path) = file(block) {
            stack.write(path, &block.text);
        }
        for command in of_block(block) {
            let place = format!("{}:{}: {}", page.path.display(), command.line, command.text);
            follow(&stack, &here, &setting, &command, &place);
        }
    }
    stack.finish();
}

/// Runs one command.
fn follow(stack: &Stack, here: &Here, setting: &Setting, command: &Command, place: &str) {
    let usual = Special::default();
    let special = setting.commands.get(&command.text).unwrap_or(&usual);
    if special.not_run.is_some() {
        return;
    }
    if let Some(line) = &special.before {
        stack.shell(&here.line(line)).ok();
    }
    let printed = if let Some(said) = &special.until {
        interrupted(stack, here, command, said, special)
    } else {
        let run = || {
            let output = stack.shell(&format!("exec 2>&1; {}", here.line(&command.text)));
            if output.code == special.exit { Ok(output.stdout) } else { Err(output) }
        };
        let patience = if special.retry { wait::PATIENCE } else { Duration::ZERO };
        wait::until(patience, place, run)
    };
    if let Some(shown) = &command.output {
        let names = |text: String, (ours, its): (&String, &String)| text.replace(&stack.fill(ours), its);
        let printed = setting.shown.iter().fold(printed, names);
        assert!(is_shown(shown, &printed), "{place}\nthe page shows\n{shown}\nit is\n{printed}");
    }
}

fn setting(folder: &Path) -> Setting {
    match fs::read_to_string(folder.join("page.json")) {
        Ok(text) => {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("page.json of {}: {error}", folder.display()))
        }
        Err(_) => Setting::default(),
    }
}

/// The directory that the reader is in; `cd` changes it for the next command.
struct Here {
    file: String,
}

impl Here {
    fn new(stack: &Stack) -> Here {
        let file = stack.root().with_file_name("here").display().to_string();
        fs::write(&file, stack.project_folder().display().to_string()).expect("a file can be written in our folder");
        Here { file }
    }

    fn line(&self, command: &str) -> String {
        let file = &self.file;
        format!("cd \"$(cat {file})\"; {{ {command}\n}}; code=$?; pwd >{file}; exit $code")
    }
}

/// Runs a command that does not end by itself, and returns what it printed.
fn interrupted(stack: &Stack, here: &Here, command: &Command, said: &str, special: &Special) -> String {
    let running = stack.spawn_shell(&format!("cd \"$(cat {})\"; exec 2>&1 {}", here.file, command.text));
    let wait = |running: &Running, said: &str| {
        running.wait_output(&format!("{said:?} of {}", command.text), |output| output.stdout.contains(said));
    };
    wait(&running, said);
    if let Some((line, said)) = &special.meanwhile {
        stack.shell(&here.line(line)).ok();
        wait(&running, said);
    }
    running.signal(Signal::SIGINT);
    let output = running.wait();
    assert_eq!(output.code, special.exit, "{output:?}");
    output.stdout
}

/// Whether what was printed is what a page shows. In what it shows, `…` stands for any text, and alone in a line for any
/// lines. Times, sizes and ids may be others.
fn is_shown(shown: &str, printed: &str) -> bool {
    let lines = |text: &str| text.trim().lines().map(usual_form).collect::<Vec<_>>();
    fits(&lines(shown), &lines(printed))
}

fn fits(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => (0..=printed.len()).any(|count| fits(rest, &printed[count..])),
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| glob(&line.replace('…', "*"), first) && fits(rest, others)),
    }
}

/// Returns a line with what differs from one time to the next replaced: blanks, ids, durations, sizes.
fn usual_form(line: &str) -> String {
    static FORMS: LazyLock<[(Regex, &str); 5]> = LazyLock::new(|| {
        [
            (r"\b[0-9a-f]{12,64}\b", "ID"),
            (r"\b\d+(\.\d+)? ?(µs|ms|s)\b", "TIME"),
            (r"\b(\d+ (second|minute)s?|Less than a second|About a minute)", "TIME"),
            (r"\b\d+(\.\d+)? ?[kMG]?i?B\b", "SIZE"),
            (r"\s+", " "),
        ]
        .map(|(pattern, form)| (Regex::new(pattern).expect("a pattern of ours"), form))
    });
    let line =
        FORMS.iter().fold(line.to_owned(), |line, (pattern, form)| pattern.replace_all(&line, *form).into_owned());
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found() {
        let of =
            |language: &str, text: &str| of_block(&Block { line: 1, language: language.into(), text: text.into() });
        let command = |text: &str, output: Option<&str>| Command {
            line: 1,
            text: text.to_owned(),
            output: output.map(str::to_owned),
        };
        assert_eq!(of("sh", "# first\na b   # why\n\nc \\\n  d\n"), [command("a b", None), command("c \\\n  d", None)]);
        assert_eq!(of("console", "$ a\none\n$ b\n"), [command("a", Some("one\n")), command("b", Some(""))]);
        assert_eq!(of("yaml", "a: b\n"), []);
    }

    #[test]
    fn output_is_compared_by_its_form() {
        for (shown, printed) in [
            ("a  1.5 ms", "a 20 s"),
            ("a\n…\nz", "a\nb\nc\nz\n"),
            ("id 0123456789ab", "id ba9876543210"),
            ("Up 3 seconds (…)", "Up Less than a second (healthy)"),
            ("8.2kB", "1MB"),
        ] {
            assert!(is_shown(shown, printed), "{shown} {printed}");
        }
        assert!(!is_shown("a\nb", "a\nb\nc") && !is_shown("a 80", "a 81"));
    }
}
