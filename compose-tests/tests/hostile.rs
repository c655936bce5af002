//! Files made to hurt: each ends in an error within bounded memory, and none in a panic, a hang or a dead program.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use compose_tests::stack;

/// Address space of the program. The stack for deep trees reserves half a GiB of it.
const MEMORY: &str = "--as=1610612736";
/// A program that hangs is killed after this; nothing is measured by it.
const HANGS: &str = "120";

/// What lies in a project's folder.
enum Entry {
    Text(String),
    Raw(Vec<u8>),
    Fifo,
    Folder,
    Link(&'static str),
    /// A file that its owner alone could read, if it had one.
    Closed,
}
use Entry::{Closed, Fifo, Folder, Link, Raw, Text};

/// What a file is called in messages, the files of a project, and words that the error has.
type Case<'c> = (&'c str, Vec<(String, Entry)>, &'c str);

fn lay(folder: &Path, files: &[(String, Entry)]) {
    for (name, entry) in files {
        let path = folder.join(name);
        match entry {
            Text(text) => fs::write(&path, text).expect("a file can be written"),
            Raw(bytes) => fs::write(&path, bytes).expect("a file can be written"),
            Fifo => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO can be made"),
            Folder => fs::create_dir(&path).expect("a folder can be made"),
            Link(target) => symlink(target, &path).expect("a link can be made"),
            Closed => {
                fs::write(&path, "").expect("a file can be written");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("modes can be changed");
            }
        }
    }
}

/// Runs `config -q` with the files; returns what it says if it ended with status 1.
fn refuse(files: &[(String, Entry)], as_nobody: bool) -> Result<String, String> {
    let scratch = tempfile::Builder::new().prefix("rct-").permissions(fs::Permissions::from_mode(0o755)).tempdir();
    let scratch = scratch.expect("a folder");
    lay(scratch.path(), files);
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", HANGS, "prlimit", MEMORY, "--core=0"]);
    let mut binary = stack::binary();
    if as_nobody {
        // The way to the binary must be open to that user.
        let copy = scratch.path().join("rcompose");
        fs::copy(&binary, &copy).expect("the binary can be copied");
        binary = copy;
        command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(binary).args(["config", "-q"]).current_dir(scratch.path());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/nonexistent");
    let output = command.stdin(std::process::Stdio::null()).output().expect("util-linux and coreutils are there");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(1) && !stderr.contains("panicked") && stderr.len() < 100_000 {
        Ok(stderr)
    } else {
        let shown: String = stderr.chars().take(2_000).collect();
        Err(format!("{:?}, {} bytes of errors: {shown}", output.status, stderr.len()))
    }
}

fn check(cases: Vec<Case<'_>>) {
    let faults: Vec<String> = cases
        .into_iter()
        .filter_map(|(name, files, words)| match refuse(&files, false) {
            Ok(stderr) if stderr.contains(words) => None,
            Ok(stderr) => Some(format!("{name}: no {words:?} in {}", stderr.chars().take(2_000).collect::<String>())),
            Err(fault) => Some(format!("{name}: {fault}")),
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

const ONE: &str = "services: {a: {image: x}}\n";

fn compose(text: String) -> Vec<(String, Entry)> {
    vec![("compose.yaml".to_owned(), Text(text))]
}

fn image(text: &str) -> Vec<(String, Entry)> {
    compose(format!("services: {{a: {{image: \"{text}\"}}}}\n"))
}

fn with(compose_file: &str, name: &str, entry: Entry) -> Vec<(String, Entry)> {
    vec![("compose.yaml".to_owned(), Text(compose_file.to_owned())), (name.to_owned(), entry)]
}

/// `part(0)`, `part(1)`, … in one text.
fn repeat(count: usize, part: impl Fn(usize) -> String) -> String {
    (0..count).map(part).collect()
}

#[test]
fn what_grows() {
    let names: Vec<char> = ('A'..='K').collect();
    let laughs = repeat(names.len() - 1, |n| format!("{}={}\n", names[n + 1], format!("${{{}}}", names[n]).repeat(10)));
    let chain = |file: &str, line: &dyn Fn(usize) -> String| -> Vec<(String, Entry)> {
        let mut files = compose(file.to_owned());
        files.extend((0..300).map(|n| (format!("f{n}.yaml"), Text(line(n + 1)))));
        files.push(("f300.yaml".to_owned(), Text(ONE.to_owned())));
        files
    };
    let service = |n: usize| format!("services: {{a: {{extends: {{file: f{n}.yaml, service: a}}}}}}\n");
    check(vec![
        ("nested variables", image(&format!("{}x{}", "${A:-".repeat(10_000), "}".repeat(10_000))), "nested more than"),
        ("nested messages", image(&format!("{}x{}", "${A:?".repeat(2_000), "}".repeat(2_000))), "nested more than"),
        ("open variables", image(&format!("}}{}", "${A:-".repeat(100_000))), "invalid interpolation format"),
        (
            "unset variables",
            image(&format!("{}${{", repeat(5_000, |n| format!("${{V{n}}}")))),
            "invalid interpolation format",
        ),
        ("a billion laughs of variables", with(ONE, ".env", Text(format!("A=xxxxxxxxxx\n{laughs}"))), "MiB"),
        (
            "a long variable, many times",
            with(
                &format!("services: {{a: {{image: x, labels: {{{}}}}}}}\n", repeat(5_000, |n| format!("l{n}: $A, "))),
                ".env",
                Text(format!("A={}\n", "x".repeat(1_000_000))),
            ),
            "more than 16 MiB",
        ),
        (
            "a long alias, many times",
            compose(format!("x-a: &a \"{}\"\nx-l: [{}]\n{ONE}", "y".repeat(1_000_000), "*a,".repeat(10_000))),
            "aliases expand to too many values",
        ),
        ("values", compose(format!("x-a: [{}]\n{ONE}", "a,".repeat(100_100))), "more than 100000 values"),
        ("a large file", compose(format!("#{}\n{ONE}", "c".repeat(4 << 20))), "is larger than 4 MiB"),
        (
            "levels of indentation",
            compose(repeat(1_100, |n| format!("{}x:\n", " ".repeat(n))) + ONE),
            "nested more than 1000 levels",
        ),
        (
            "a long line that is not UTF-8",
            vec![("compose.yaml".to_owned(), Raw([b"x-a: ".as_slice(), &b"y".repeat(3 << 20), b"\xff\n"].concat()))],
            "is not UTF-8",
        ),
        (
            "brackets that stand too far left",
            compose(repeat(1_000, |n| format!("x-{n}: {{\n  a: [\n1]\n}}\n")) + ONE),
            "invalid indentation",
        ),
        (
            "aliases below names with dots",
            compose(format!(
                "x-a: &a [1]\nx-m:\n{}services: {{a: {{}}}}\n",
                repeat(2_000, |n| format!("  k.{n}: *a\n"))
            )),
            "neither an image",
        ),
        (
            "ranges of ports",
            compose(format!(
                "services: {{a: {{image: x, ports: [{}]}}}}\n",
                repeat(20, |n| format!("\"127.0.0.{n}:1-65535:1-65535\", "))
            )),
            "more than 16 MiB",
        ),
        (
            "services that extend each other",
            compose(format!(
                "services:\n  s0: {{image: x}}\n{}",
                repeat(2_000, |n| format!("  s{}: {{extends: s{}}}\n", 2_000 - n, 1_999 - n))
            )),
            "a chain of `extends`",
        ),
        (
            "files that extend each other",
            chain("services: {a: {extends: {file: f0.yaml, service: a}}}\n", &service),
            "a chain of `extends`",
        ),
        (
            "files that include each other",
            chain("include: [f0.yaml]\n", &|n| format!("include: [f{n}.yaml]\n")),
            "levels deep",
        ),
        (
            "files that are included twice by such",
            chain("include: [f285.yaml, f285.yaml]\n", &|n| format!("include: [f{n}.yaml, f{n}.yaml]\n")),
            "more than 1000 files",
        ),
        (
            "services that need the next",
            compose(format!(
                "services:\n{}  s1000: {{image: x, depends_on: [s0]}}\n",
                repeat(1_000, |n| format!("  s{n}: {{image: x, depends_on: [s{}]}}\n", n + 1))
            )),
            "dependency cycle",
        ),
        (
            "faults",
            compose(format!("services:\n{}", repeat(1_000, |n| format!("  s{n}: {{imgae: x, depends_on: [t{n}]}}\n")))),
            "errors more",
        ),
        (
            "a long value in a message",
            compose(format!("services: {{a: {{image: x, ports: [\"{}\"]}}}}\n", "y".repeat(1_000_000))),
            "invalid containerPort",
        ),
        (
            "terminal codes in a message",
            compose("services: {a: {image: x, \"\\e]0;x\\a\": 1}}\n".to_owned()),
            "\\u{1b}]0;x\\u{7}",
        ),
    ]);
}

#[test]
fn what_goes_round() {
    let two = |attribute: &str, prefix: &str| {
        compose(format!(
            "services: {{a: {{image: x, {attribute}: {prefix}b{end}}}, b: {{image: x, {attribute}: {prefix}a{end}}}}}\n",
            end = if prefix.starts_with('[') { "]" } else { "" },
        ))
    };
    let included_again = with("include: [{path: [b.yaml]}]\n", "b.yaml", Text("include: [compose.yaml]\n".to_owned()));
    check(vec![
        ("depends_on", two("depends_on", "["), "dependency cycle detected"),
        ("links", two("links", "["), "dependency cycle detected"),
        ("network_mode", two("network_mode", "service:"), "dependency cycle detected"),
        ("ipc", two("ipc", "service:"), "dependency cycle detected"),
        ("pid", two("pid", "service:"), "dependency cycle detected"),
        ("volumes_from", two("volumes_from", "["), "dependency cycle detected"),
        ("extends", compose("services: {a: {extends: b}, b: {extends: a}}\n".to_owned()), "Circular reference"),
        (
            "extends through files",
            with(
                "services: {a: {extends: {file: b.yaml, service: a}}}\n",
                "b.yaml",
                Text("services: {a: {extends: {file: compose.yaml, service: a}}}\n".to_owned()),
            ),
            "Circular reference",
        ),
        ("include of itself", compose("include: [compose.yaml]\n".to_owned()), "include cycle detected"),
        ("include through files", included_again, "include cycle detected"),
        ("include through a link", with("include: [a/compose.yaml]\n", "a", Link(".")), "cannot read"),
        ("an anchor in itself", compose(format!("x-a: &a [*a]\n{ONE}")), "an anchor contains an alias of itself"),
    ]);
}

/// Every way to name a file, and everything that is none.
#[test]
fn what_is_no_file() {
    let ways = [
        ("compose.yaml", ""),
        ("e.env", "services: {a: {image: x, env_file: e.env}}\n"),
        ("labels", "services: {a: {image: x, label_file: labels}}\n"),
        ("i.yaml", "include: [i.yaml]\n"),
        ("x.yaml", "services: {a: {extends: {file: x.yaml, service: a}}}\n"),
        ("i.env", "include: [{path: b.yaml, env_file: i.env}]\n"),
    ];
    let mut cases = Vec::new();
    for (name, text) in ways {
        let kinds = [
            (Fifo, "is not a regular file"),
            (Folder, "is a directory"),
            (Link("/dev/zero"), "is not a regular file"),
            (Link("/proc/self/mem"), "cannot read"),
            (Link("/"), "is a directory"),
            (Link("/proc/self/pagemap"), "cannot read"),
        ];
        for (entry, words) in kinds {
            let mut files = vec![(name.to_owned(), entry), ("b.yaml".to_owned(), Text(ONE.to_owned()))];
            if name != "compose.yaml" {
                files.push(("compose.yaml".to_owned(), Text(text.to_owned())));
            }
            cases.push((name, files, words));
        }
    }
    cases.push((".env", with(ONE, ".env", Fifo), "is not a regular file"));
    cases.push((".env", with("services: {a: {image: x, env_file: l}}\n", "l", Link("l")), "cannot read"));
    cases.push((
        "latin 1",
        vec![("compose.yaml".to_owned(), Raw(b"services: {a: {image: \xe9}}\n".to_vec()))],
        "is not UTF-8",
    ));
    check(cases);

    for (name, text) in ways {
        let mut files = vec![(name.to_owned(), Closed), ("b.yaml".to_owned(), Text(ONE.to_owned()))];
        if name != "compose.yaml" {
            files.push(("compose.yaml".to_owned(), Text(text.to_owned())));
        }
        let said = refuse(&files, true).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert!(said.contains("Permission denied"), "{name}: {said}");
    }
}
