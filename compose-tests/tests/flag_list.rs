//! The list of flags and their tests (`compose-tests/flags`) is true, and no flag of its commands is missing.

use std::{collections::BTreeSet, fs, path::Path};

use compose_tests::{help, stack::Stack};

/// The options before the command, and a command without options, as the list names them.
const GLOBAL: &str = "rcompose";
const NONE: &str = "-";

/// A line of the list.
struct Entry {
    line: String,
    command: String,
    flag: String,
    test: String,
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn entries() -> Vec<Entry> {
    let list = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("flags"));
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_else(|| panic!("incomplete: {line}"));
        Entry { command: next(), flag: next(), test: next(), line: line.to_owned() }
    };
    lines.map(entry).collect()
}

/// Returns the text of all files of a folder.
fn files(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let contents = files.flatten().filter_map(|file| fs::read(file.path()).ok());
    contents.map(|content| String::from_utf8_lossy(&content).into_owned()).collect()
}

/// Returns the text of the test that an entry names.
fn text(entry: &Entry) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    match entry.test.split_once(' ') {
        Some(("scenario", name)) => {
            let scenario = read(&folder.join("commands/scenarios").join(name));
            // A flag of another command is none of this one.
            let of_it = |line: &&str| entry.command == GLOBAL || line.split(' ').any(|word| word == entry.command);
            scenario.lines().filter(of_it).collect::<Vec<_>>().join("\n")
        }
        Some(("case", name)) => files(&folder.join("cases").join(name)),
        Some(("watching", name)) => files(&folder.join("watching").join(name)),
        _ => {
            let (file, function) = entry.test.split_once("::").unwrap_or_else(|| panic!("no test: {}", entry.line));
            let text = read(&folder.join("tests").join(file).with_extension("rs"));
            assert!(text.contains(&format!("fn {function}()")), "there is no such test: {}", entry.line);
            text
        }
    }
}

#[test]
fn every_flag_has_a_test_that_uses_it() {
    let stack = Stack::on_host("flags");
    let entries = entries();
    let known = help::flags(&stack.run(&["--help"]).ok().stdout);
    let global: BTreeSet<_> = known.iter().map(|(long, _)| long.clone()).collect();
    let mut wrong = Vec::new();
    for command in entries.iter().map(|entry| entry.command.as_str()).collect::<BTreeSet<_>>() {
        let own = match command {
            GLOBAL => known.clone(),
            command => help::flags(&stack.run(&[command, "--help"]).ok().stdout)
                .into_iter()
                .filter(|(long, _)| !global.contains(long))
                .collect(),
        };
        let listed = || entries.iter().filter(|entry| entry.command == command);
        for (long, _) in own.iter().filter(|(long, _)| listed().all(|entry| entry.flag != *long)) {
            wrong.push(format!("no test is named: {command} {long}"));
        }
        for entry in listed() {
            if entry.flag == NONE {
                assert!(text(entry).contains(command), "the test does not call it: {}", entry.line);
                continue;
            }
            let Some((long, short)) = own.iter().find(|(long, _)| *long == entry.flag) else {
                wrong.push(format!("there is no such flag: {}", entry.line));
                continue;
            };
            let text = text(entry);
            let mut words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
            if !words.any(|word| word == long || Some(word) == short.as_deref()) {
                wrong.push(format!("the test does not use it: {}", entry.line));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    stack.finish();
}
