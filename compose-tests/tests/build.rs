//! Builds that end early, and what builds leave on the disk.

use std::fs;
use std::path::Path;

use compose_tests::{process, stack::Stack, wait};
use nix::sys::signal::Signal;

/// A service whose build stays at a command until somebody ends it.
const SLOW: &str = "services:
  slow:
    build:
      dockerfile_inline: |
        FROM busybox:musl
        RUN --mount=type=cache,target=/cache echo begun; exec sleep 1000
";

/// The same without the wait.
const QUICK: &str = "services:
  slow:
    build:
      dockerfile_inline: |
        FROM busybox:musl
        RUN --mount=type=cache,target=/cache echo begun
";

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.expect("a directory can be listed").file_name().to_string_lossy().into_owned()).collect()
}

/// Whatever a build has at work: commands, drafts of layers, networks.
fn at_work(stack: &Stack) -> Vec<String> {
    let data = stack.root().join("lib");
    let mut found = names(&data.join("build/tmp"));
    found.extend(names(&data.join("layers/.tmp")));
    found.extend(names(&data.join("networks")).into_iter().filter(|name| name != "lock"));
    let commands = process::of_root(&stack.root()).into_iter().filter(|process| process.name == "sleep");
    found.extend(commands.map(|process| format!("{process:?}")));
    found
}

fn interrupted_by(name: &str, signal: Signal) -> Stack {
    let stack = Stack::new(name);
    stack.write("compose.yaml", SLOW);
    let build = stack.spawn(&["--progress", "plain", "build"]);
    build.wait_output("the command", |output| output.stderr.contains(" begun"));
    build.signal(signal);
    build.wait();
    stack
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let stack = interrupted_by("build-interrupted", Signal::SIGINT);
    assert_eq!(at_work(&stack), Vec::<String>::new());
    stack.finish();
}

#[test]
fn what_a_killed_build_leaves_is_removed_by_the_next() {
    let stack = interrupted_by("build-killed", Signal::SIGKILL);
    // Its command ends with it, and then the cache mount is free again.
    stack.write("compose.yaml", QUICK);
    stack.run(&["build"]).ok();
    wait::until(wait::PATIENCE, "nothing at work", || {
        let found = at_work(&stack);
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
    stack.finish();
}

#[test]
fn secrets_are_nowhere_in_the_store() {
    let stack = Stack::new("build-secrets");
    let secret = "correct-horse-battery-staple";
    stack.write("secret", secret);
    stack.write(
        "compose.yaml",
        "services:
  web:
    build:
      dockerfile_inline: |
        FROM busybox:musl
        RUN --mount=type=secret,id=s,env=S --mount=type=secret,id=s,target=/deep/down/s test \"$$S\" = \"$$(cat /deep/down/s)\"
      secrets: [s]
secrets:
  s:
    file: ./secret
",
    );
    stack.run(&["build"]).ok();
    let mut rest = vec![stack.root().join("lib"), stack.root().join("run")];
    while let Some(directory) = rest.pop() {
        for name in names(&directory) {
            let path = directory.join(name);
            let metadata = fs::symlink_metadata(&path).expect("what was listed is there");
            if metadata.is_dir() {
                rest.push(path);
            } else if metadata.is_file() {
                let bytes = fs::read(&path).expect("a file of the store can be read");
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{} has the secret", path.display());
            }
        }
    }
    stack.finish();
}
