//! The list of flags and their tests (`compose-tests/flags`) is true, and no flag of its commands is missing.

use std::collections::BTreeSet;

use compose_tests::{help, lists, stack::Stack};

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

fn entries() -> Vec<Entry> {
    let entry = |line: String| {
        let [command, flag, test] = lists::entry(&line).map(str::to_owned);
        Entry { line, command, flag, test }
    };
    lists::lines("flags").into_iter().map(entry).collect()
}

/// Returns the text of the test that an entry names.
fn text(entry: &Entry) -> String {
    let text = lists::text(&entry.test);
    if !entry.test.starts_with("scenario ") || entry.command == GLOBAL {
        return text;
    }
    // A flag of another command is none of this one.
    let of_it = |line: &&str| line.split(' ').any(|word| word == entry.command);
    text.lines().filter(of_it).collect::<Vec<_>>().join("\n")
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
