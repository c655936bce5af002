//! The documentation is true: its commands run and print what it shows, what it names is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use compose_tests::{
    expect::glob,
    help::{self, Flag},
    markdown::{self, Page},
    stack::{self, Stack},
    trials, walk,
};

/// What blocks may be in.
const LANGUAGES: [&str; 9] = ["console", "dockerfile", "ini", "json", "sh", "text", "toml", "xml", "yaml"];

type Look = fn(&[Page]);

/// The tests that look at all pages, beside `docs/commands/PAGE`.
const ALL_PAGES: [(&str, Look); 7] = [
    ("blocks", blocks_say_what_they_are),
    ("links", links_lead_somewhere),
    ("paths", paths_exist),
    ("folders", folders_are_on_the_map),
    ("functions", functions_exist),
    ("flags", flags_exist),
    ("files", compose_files_are_accepted),
];

fn main() -> ExitCode {
    let pages = markdown::pages();
    let with_commands = pages.iter().filter(|page| !walk::commands(page).is_empty());
    let commands = with_commands.map(|page| format!("docs/commands/{}", page.name()));
    let all_pages = ALL_PAGES.iter().map(|(name, _)| format!("docs/{name}"));
    trials::run(all_pages.chain(commands).collect(), run)
}

fn run(test: &str) {
    let pages = markdown::pages();
    let name = test.strip_prefix("docs/").expect("the test is one of ours");
    match name.strip_prefix("commands/") {
        Some(name) => walk::run(pages.iter().find(|page| page.name() == name).expect("the test is of a page")),
        None => ALL_PAGES.iter().find(|(look, _)| *look == name).expect("the test is one of ours").1(&pages),
    }
}

/// A block of which nobody knows what it is would be looked at by no test. And what is prepared for a page is for one that
/// there is.
fn blocks_say_what_they_are(pages: &[Page]) {
    let blocks = pages.iter().flat_map(|page| page.blocks.iter().map(move |block| (page, block)));
    let unknown = blocks.filter(|(_, block)| !LANGUAGES.contains(&block.language.as_str()));
    let mut wrong: Vec<String> = unknown
        .map(|(page, block)| format!("{}:{}: say behind ``` what it is", page.path.display(), block.line))
        .collect();
    let names: BTreeSet<&str> = pages.iter().filter(|page| !walk::commands(page).is_empty()).map(Page::name).collect();
    let prepared =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("it can be listed").flatten();
    let prepared = prepared.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
    let stale = prepared.filter(|name| name.to_str().is_none_or(|name| !names.contains(name)));
    wrong.extend(stale.map(|name| format!("no page with commands is called {}", name.display())));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn links_lead_somewhere(pages: &[Page]) {
    let mut dead = Vec::new();
    for page in pages {
        let folder = page.path.parent().expect("a page lies in a folder");
        for link in page.links.iter().filter(|link| !link.text.contains("://")) {
            let (path, anchor) = link.text.split_once('#').map_or((&*link.text, None), |(path, to)| (path, Some(to)));
            let target = if path.is_empty() { page.path.clone() } else { plain(&folder.join(path)) };
            let known = anchor
                .is_none_or(|anchor| pages.iter().any(|page| page.path == target && page.anchors.contains(anchor)));
            if !stack::repository().join(&target).exists() || !known {
                dead.push(format!("{}:{}: {}", page.path.display(), link.line, link.text));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// Returns a path without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        if part.as_os_str() == ".." {
            path.pop();
        } else {
            path.push(part);
        }
        path
    })
}

/// Files and folders of the repository that the text names: what begins with one of its folders, and source files, which
/// may be named by the end of their path.
fn paths_exist(pages: &[Page]) {
    let known = tracked();
    let of_ours = ["src/", "engine/", "compose-tests/", "docs/", "examples/", ".ci/", "tests/"];
    let mut missing = Vec::new();
    for (page, code) in pages.iter().flat_map(|page| page.codes.iter().map(move |code| (page, code))) {
        let text = code.text.split(':').next().unwrap_or_default().trim_end_matches('/');
        let is_source = Path::new(text).extension().is_some_and(|extension| extension == "rs");
        let is_named = is_source || of_ours.iter().any(|start| text.starts_with(start));
        if !is_named || text.contains(['<', '…', '$', ' ']) {
            continue;
        }
        for path in alternatives(text) {
            let ends = format!("*/{path}");
            if !known.iter().any(|known| glob(&path, known) || glob(&ends, known)) {
                missing.push(format!("{}:{}: {path}", page.path.display(), code.line));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Every folder of the sources is on the map in docs/architecture.md.
fn folders_are_on_the_map(pages: &[Page]) {
    let page = pages.iter().find(|page| page.name() == "architecture").expect("there is such a page");
    let map = page.blocks.iter().find(|block| block.text.starts_with("Cargo.toml")).expect("it has a map");
    let mut missing = Vec::new();
    for (folder, start) in [("src", "  "), ("engine/src", "  src/")] {
        let entries = fs::read_dir(stack::repository().join(folder)).expect("sources can be listed").flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        let lines = folders.map(|entry| format!("{start}{}/ ", entry.file_name().display()));
        missing.extend(lines.filter(|line| map.text.lines().all(|known| !known.starts_with(line))));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Tests that pages name are there: names of four words or more, also with `…` for their end and behind `FILE::`.
fn functions_exist(pages: &[Page]) {
    let sources = tracked().into_iter().filter(|path| Path::new(path).extension().is_some_and(|end| end == "rs"));
    let sources: String =
        sources.map(|path| fs::read_to_string(stack::repository().join(path)).expect("a source can be read")).collect();
    let mut missing = Vec::new();
    for (page, code) in pages.iter().flat_map(|page| page.codes.iter().map(move |code| (page, code))) {
        let name = code.text.rsplit("::").next().unwrap_or_default();
        let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        let known = match name.strip_suffix('…') {
            Some(start) => format!("fn {start}"),
            None => format!("fn {name}("),
        };
        let is_test = name.trim_end_matches('…').chars().all(is_letter) && name.matches('_').count() >= 3;
        if is_test && !sources.contains(&known) {
            missing.push(format!("{}:{}: {}", page.path.display(), code.line, code.text));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Returns the files of the repository, and their folders.
fn tracked() -> BTreeSet<String> {
    let output =
        Command::new("git").args(["ls-files"]).current_dir(stack::repository()).output().expect("git is there");
    let files = String::from_utf8(output.stdout).expect("our files have plain names");
    let with_folders = files.lines().flat_map(|file| Path::new(file).ancestors().filter_map(Path::to_str));
    with_folders.map(str::to_owned).collect()
}

/// Returns what `{a,b}` stands for.
fn alternatives(path: &str) -> Vec<String> {
    let Some((head, (inner, tail))) = path.split_once('{').and_then(|(head, rest)| Some((head, rest.split_once('}')?)))
    else {
        return vec![path.to_owned()];
    };
    inner.split(',').flat_map(|word| alternatives(&format!("{head}{word}{tail}"))).collect()
}

/// Options that the pages name are those of their command; `docs/not-ours` lists those of others. The page on compatibility
/// names those of Docker Compose that are not there, which another test takes care of.
fn flags_exist(pages: &[Page]) {
    let stack = Stack::on_host("docs-flags");
    let commands = help::commands(&stack);
    let list = include_str!("../docs/not-ours");
    let dockers = include_str!("../commands/docker-flags");
    let mut not_ours: BTreeMap<&str, bool> =
        list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| (line, false)).collect();
    let mut wrong = Vec::new();
    for page in pages {
        let codes = page.codes.iter().map(|code| (code.line, code.text.clone()));
        let typed = walk::commands(page).into_iter().map(|command| (command.line, command.text));
        for (line, text) in codes.chain(typed) {
            for flag in unknown_flags(&text, &commands) {
                if page.name() == "compatibility" && dockers.lines().any(|line| line.ends_with(&format!(" {flag}"))) {
                    continue;
                }
                match not_ours.get_mut(format!("{} {flag}", page.name()).as_str()) {
                    Some(seen) => *seen = true,
                    None => wrong.push(format!("{}:{line}: {flag} in {text}", page.path.display())),
                }
            }
        }
    }
    wrong.extend(
        not_ours.iter().filter(|(_, seen)| !**seen).map(|(entry, _)| format!("not needed any more: {entry:?}")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    stack.finish();
}

/// Returns the options in a text that its command does not have. A text that begins with an option may be of any command;
/// of other programs nothing is known.
fn unknown_flags(text: &str, commands: &BTreeMap<String, Vec<Flag>>) -> Vec<String> {
    let words = text.split_whitespace().skip_while(|word| ["sudo", "-E"].contains(word)).collect::<Vec<_>>();
    let Some(first) = words.first() else { return Vec::new() };
    let ours = ["rcompose", "docker-compose"].contains(first);
    let begins_with_command = commands.contains_key(*first) && words.len() > 1;
    if !(ours || first.starts_with('-') || begins_with_command) {
        return Vec::new();
    }
    let mut command = String::new();
    let mut named = Vec::new();
    for word in &words[usize::from(ours)..] {
        if *word == "--" || word.starts_with('$') {
            break;
        }
        if word.starts_with('-') {
            let end = word.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-').unwrap_or(word.len());
            // Neither a number, nor several letters in one.
            let is_flag = end == 2 || word.starts_with("--");
            named.extend(
                Some(&word[..end]).filter(|flag| is_flag && flag.ends_with(|end: char| end.is_ascii_alphabetic())),
            );
            continue;
        }
        let longer = format!("{command} {word}").trim().to_owned();
        if commands.contains_key(&longer) {
            command = longer;
        } else if ["exec", "run"].contains(&command.as_str()) || ["|", "&&", ">", ";"].contains(word) {
            // What follows is of the program that is executed.
            break;
        }
    }
    let of = |command: &str| commands.get(command).into_iter().flatten();
    let any = first.starts_with('-');
    let candidates: Vec<&Flag> =
        if any { commands.values().flatten().collect() } else { of(&command).chain(of("")).collect() };
    let known = |word: &str| candidates.iter().any(|(long, short)| long == word || short.as_deref() == Some(word));
    let unknown = named.into_iter().filter(|word| *word != "--help" && *word != "-h" && !known(word));
    unknown.map(str::to_owned).collect()
}

/// Whole projects that pages show are accepted by the loader.
fn compose_files_are_accepted(pages: &[Page]) {
    let stack = Stack::on_host("docs-files");
    let mut wrong = Vec::new();
    for (page, block) in pages.iter().flat_map(|page| page.blocks.iter().map(move |block| (page, block))) {
        let is_project = block.text.lines().any(|line| line == "services:");
        if block.language == "yaml" && is_project {
            stack.write("compose.yaml", &block.text);
            let output = stack.run(&["config", "--quiet"]);
            if output.code != 0 {
                wrong.push(format!("{}:{}: {output:?}", page.path.display(), block.line));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    stack.finish_without_down(&BTreeSet::new());
}
