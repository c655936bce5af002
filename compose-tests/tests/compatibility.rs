//! The tables of docs/compatibility.md are what tests know: which commands and flags there are (`--help`), which Docker
//! Compose has (`commands/docker-flags`, recorded), which test uses each (`flags`), what becomes of each attribute of a
//! service and of the rest of a project, and which test shows it (`attributes`, `elements`). `RCOMPOSE_UPDATE=1` writes them; without it they must be as written.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use compose_tests::{
    help, lists,
    stack::{Stack, repository},
};

/// Returns words as a cell of a table.
fn cell<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" ")
}

/// Returns the flags of commands: of Docker Compose's first, in its order, and then of those that only we have.
fn commands() -> String {
    let stack = Stack::on_host("compatibility");
    let ours = help::commands(&stack);
    stack.finish();
    let mut dockers: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in lists::lines("commands/docker-flags") {
        let (command, flag) = line.split_once(' ').map_or((&*line, None), |(command, flag)| (command, Some(flag)));
        if dockers.last().is_none_or(|(last, _)| last != command) {
            dockers.push((command.to_owned(), BTreeSet::new()));
        }
        // It stands before commands as well as behind them.
        let flag = flag.filter(|flag| *flag != "--dry-run" || command == ".");
        dockers.last_mut().expect("one was added").1.extend(flag.map(str::to_owned));
    }
    let mut tested = BTreeMap::<String, Vec<(String, String)>>::new();
    for line in lists::lines("flags") {
        let [command, flag, test] = lists::entry(&line).map(str::to_owned);
        tested.entry(command.replace("rcompose", ".")).or_default().push((flag, test));
    }
    let only_ours = tested.keys().filter(|command| dockers.iter().all(|(docker, _)| docker != *command));
    let only_ours: Vec<_> = only_ours.map(|command| (command.clone(), BTreeSet::new())).collect();
    let mut table =
        "| command | state | flags that a test uses | of Docker's, not there | shown by |\n|---|---|---|---|---|\n"
            .to_owned();
    for (is_dockers, (command, dockers)) in
        dockers.into_iter().map(|row| (true, row)).chain(only_ours.into_iter().map(|row| (false, row)))
    {
        let name = if command == "." { String::new() } else { command.clone() };
        let title = if command == "." { "before the command".to_owned() } else { format!("`{command}`") };
        let Some(flags) = ours.get(&name) else {
            writeln!(table, "| {title} | not there | | | |").expect("a string takes everything");
            continue;
        };
        let own: BTreeSet<&str> = flags.iter().map(|(long, _)| long.as_str()).collect();
        let entries = tested.get(&command).map(Vec::as_slice).unwrap_or_default();
        let state = match (entries.is_empty(), is_dockers) {
            (true, _) => "there, not tested",
            (false, true) => "works",
            (false, false) => "works (not in Docker Compose)",
        };
        let used = cell(entries.iter().map(|(flag, _)| flag.as_str()).filter(|flag| *flag != "-"));
        let missing = cell(dockers.iter().map(String::as_str).filter(|flag| !own.contains(flag)));
        let tests: BTreeSet<&str> = entries.iter().map(|(_, test)| test.as_str()).collect();
        writeln!(table, "| {title} | {state} | {used} | {missing} | {} |", cell(tests))
            .expect("a string takes everything");
    }
    table
}

/// Returns what becomes of the attributes of a list: a row for each, and one for those of its keys with another fate.
fn attributes(list: &str) -> String {
    let mut rows = BTreeMap::<(String, String), (BTreeSet<String>, BTreeSet<String>)>::new();
    for line in lists::lines(list) {
        let [attribute, state, test] = lists::entry(&line);
        let (first, key) = attribute.split_once('.').unwrap_or((attribute, ""));
        let (keys, tests) = rows.entry((first.to_owned(), state.to_owned())).or_default();
        keys.extend((!key.is_empty()).then(|| key.to_owned()));
        tests.insert(test.to_owned());
    }
    let mut table = "| attribute | state | keys | shown by |\n|---|---|---|---|\n".to_owned();
    for ((attribute, state), (keys, tests)) in &rows {
        let state = match state.as_str() {
            "works" => "works",
            "warned" => "no effect, a warning says so",
            "refused" => "an error",
            other => panic!("{attribute}: there is no state {other:?}"),
        };
        let (keys, tests) = (cell(keys.iter().map(String::as_str)), cell(tests.iter().map(String::as_str)));
        writeln!(table, "| `{attribute}` | {state} | {keys} | {tests} |").expect("a string takes everything");
    }
    table
}

fn check(name: &str, table: &str) {
    let path: PathBuf = repository().join("docs/compatibility.md");
    let page = fs::read_to_string(&path).expect("the page is there");
    let (begin, end) = (
        format!("<!-- {name}: made by RCOMPOSE_UPDATE=1 compose-tests/run compatibility -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let (head, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the page lacks {begin:?}"));
    let (old, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("the page lacks {end:?}"));
    let new = format!("\n{table}\n");
    if env::var_os("RCOMPOSE_UPDATE").is_some_and(|value| value == "1") {
        fs::write(&path, format!("{head}{begin}{new}{end}{tail}")).expect("the page can be written");
    } else {
        assert!(old == new, "docs/compatibility.md is not what tests know: run them with RCOMPOSE_UPDATE=1\n{new}");
    }
}

#[test]
fn compatibility_is_what_tests_know() {
    check("commands", &commands());
    check("attributes", &attributes("attributes"));
    check("elements", &attributes("elements"));
}
