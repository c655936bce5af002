//! Commands and their flags beside Docker Compose: what it answered is recorded in `compose-tests/commands`, and ours must
//! be the same, but for what the file `differences` says.

use std::{
    fs,
    path::{Path, PathBuf},
};

use compose_tests::{expect::glob, stack::Stack};

/// The project's name in the recordings.
const RECORDED: &str = "recordedproject";

/// A command of a scenario, and what was answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    line: String,
    stdout: Vec<String>,
    stderr: Vec<String>,
    code: i32,
}

/// A difference that is known: which part of the answers to which commands (a pattern).
struct Difference {
    part: String,
    line: String,
    needed: bool,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("commands")
}

fn read(path: &str) -> String {
    let path = folder().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Reads a recording (see the script `record`).
fn answers(text: &str) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for line in text.lines() {
        let (kind, rest) = line.split_at_checked(2).unwrap_or((line, ""));
        if kind == "$ " {
            answers.push(Answer { line: rest.to_owned(), ..Answer::default() });
            continue;
        }
        let last = answers.last_mut().expect("a recording begins with a command");
        match kind.trim_end() {
            ">" => last.stdout.push(rest.to_owned()),
            "!" => last.stderr.push(rest.to_owned()),
            "=" => last.code = rest.parse().expect("an exit code is a number"),
            _ => panic!("not a line of a recording: {line}"),
        }
    }
    answers
}

/// Returns the known differences of a scenario: its name, the part (`exit`, `out`, `err`), and the command.
fn differences(scenario: &str) -> Vec<Difference> {
    let text = read("differences");
    let entries = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entries = entries.map(|line| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_else(|| panic!("incomplete: {line}"));
        (next(), Difference { part: next(), line: next(), needed: false })
    });
    entries.filter(|(of, _)| of == scenario).map(|(_, difference)| difference).collect()
}

/// Brings a line to what two runs can have in common: no ids, one project, one way to warn, no reasons that only we give, no
/// colours, and blanks count as one.
fn comparable(line: &str, project: &str) -> String {
    let line = without_escapes(line);
    let reason = [" (killed at once: ", " (network "].into_iter().find_map(|begin| line.split_once(begin));
    let line = match reason.map(|(said, why)| (said, why.split_once(')'))) {
        Some((said, Some((_, rest)))) => format!("{said}{rest}"),
        _ => line,
    };
    let line = line.replace(project, RECORDED);
    let line = match line.split_once(" level=warning msg=\"") {
        Some((time, message)) if time.starts_with("time=") => {
            format!("warning: {}", message.trim_end_matches('"').replace("\\\"", "\""))
        }
        _ => line,
    };
    line.split_whitespace().map(without_ids).collect::<Vec<_>>().join(" ")
}

/// Leaves out what a terminal would obey (ECMA-48, control sequences), which Docker Compose sends to files too.
fn without_escapes(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.find(|letter| matches!(letter, '@'..='~')).map_or("", |end| &part[end + 1..]));
    }
    text
}

/// Replaces ids, whole and short.
fn without_ids(word: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let part = &rest[..end];
        let is_id = [12, 64].contains(&end) && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        text.push_str(if is_id { "ID" } else { part });
        let next = rest[end..].chars().next().map_or(0, char::len_utf8);
        text.push_str(&rest[end..end + next]);
        rest = &rest[end + next..];
    }
    text
}

/// Returns which parts of two answers differ, and how. What a command that fails says is its own affair, and so is the order in
/// which progress is told.
fn compare(theirs: &Answer, ours: &Answer, project: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if theirs.code != ours.code {
        found.push(("exit", format!("{} instead of {}", ours.code, theirs.code)));
    }
    let all = |lines: &[String]| {
        let lines = lines.iter().map(|line| comparable(line, project));
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let (out, wanted) = (all(&ours.stdout), all(&theirs.stdout));
    if out != wanted {
        found.push(("out", from_the_first_difference(&out, &wanted)));
    }
    let (mut said, mut wanted) = (all(&ours.stderr), all(&theirs.stderr));
    said.sort();
    wanted.sort();
    let differ = if theirs.code == 0 && ours.code == 0 { said != wanted } else { said.is_empty() != wanted.is_empty() };
    if differ {
        found.push(("err", from_the_first_difference(&said, &wanted)));
    }
    found
}

fn from_the_first_difference(ours: &[String], theirs: &[String]) -> String {
    let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
    format!("{:#?} instead of {:#?}", &ours[same..], &theirs[same..])
}

/// Does what is recorded, and says what is answered otherwise.
fn replay(scenario: &str) {
    let recorded = answers(&read(&format!("docker/{scenario}")));
    let commands: Vec<String> = recorded.iter().map(|answer| answer.line.clone()).collect();
    let asked = read(&format!("scenarios/{scenario}"));
    assert!(commands.iter().eq(asked.lines()), "the scenario has changed: record it again");
    let mut known = differences(scenario);
    let stack = Stack::new(scenario);
    let own = format!("{scenario}.yaml");
    stack.write("compose.yaml", &read(if folder().join(&own).exists() { &own } else { "compose.yaml" }));
    stack.run(&["pull", "-q", "web"]).ok();
    let mut unknown = Vec::new();
    for theirs in recorded {
        let output = stack.shell(&theirs.line);
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        let (stdout, stderr) = (lines(&output.stdout), lines(&output.stderr));
        let ours = Answer { line: theirs.line.clone(), stdout, stderr, code: output.code };
        for (part, how) in compare(&theirs, &ours, &stack.project) {
            let fits = |difference: &Difference| difference.part == part && glob(&difference.line, &theirs.line);
            let mut entries = known.iter_mut().filter(|entry| fits(entry)).peekable();
            if entries.peek().is_none() {
                unknown.push(format!("{scenario} {part} {}\n{how}", theirs.line));
            }
            entries.for_each(|entry| entry.needed = true);
        }
    }
    stack.run(&["--profile", "*", "rm", "-sf"]).ok();
    stack.finish();
    assert!(unknown.is_empty(), "not as Docker Compose, and not in the file of differences:\n{}", unknown.join("\n\n"));
    let unneeded = known.iter().filter(|entry| !entry.needed).map(|entry| format!("{} {}", entry.part, entry.line));
    let unneeded = unneeded.collect::<Vec<_>>();
    assert!(unneeded.is_empty(), "differences that are none any more: {unneeded:#?}");
}

#[test]
fn exec() {
    replay("exec");
}

#[test]
fn run() {
    replay("run");
}

#[test]
fn lifecycle() {
    replay("lifecycle");
}

#[test]
fn up() {
    replay("up");
}

#[test]
fn create() {
    replay("create");
}

#[test]
fn down() {
    replay("down");
}

#[test]
fn build() {
    replay("build");
}

#[test]
fn ls() {
    replay("ls");
}

#[test]
fn cp() {
    replay("cp");
}

#[test]
fn events() {
    replay("events");
}

#[test]
fn look() {
    replay("look");
}

#[test]
fn answers_are_read_as_they_are_recorded() {
    let read = answers("$ dc ps\n> one\n> \n! two\n= 3\n$ dc ls\n= 0\n");
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let first = Answer { line: "dc ps".into(), stdout: texts(&["one", ""]), stderr: texts(&["two"]), code: 3 };
    assert_eq!(read, [first, Answer { line: "dc ls".into(), ..Answer::default() }]);
}

#[test]
fn ids_and_the_project_are_nobodys_business() {
    let line = comparable("Container  mine-web-run-0123456789ab  is abcdef012345: Up", "mine");
    assert_eq!(line, "Container recordedproject-web-run-ID is ID: Up");
    assert_eq!(comparable("\u{1b}[31m\u{1b}[1mone\u{1b}[0m", "mine"), "one");
    assert_eq!(comparable("time=\"x\" level=warning msg=\"a \\\"b\\\" c\"", "mine"), "warning: a \"b\" c");
}
