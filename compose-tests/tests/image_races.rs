//! Several commands work on one image store at once: some remove images and collect garbage while others pull them and make
//! containers of them.

use std::{fs, thread};

use compose_tests::{census, stack::Stack};

const ROUNDS: usize = 8;

const SERVICE: &str = "services:
  web:
    image: busybox
    command: [sleep, '100000']
";

/// Runs a command of one of the projects that share the stack's root.
fn run(stack: &Stack, project: &str, arguments: &[&str]) {
    let mut command = stack.command(&["-p", project]);
    command.args(arguments);
    compose_tests::stack::finish(command, "").ok();
}

#[test]
fn images_are_removed_while_others_use_them() {
    let stack = Stack::new("races");
    stack.write("compose.yaml", SERVICE);
    thread::scope(|scope| {
        for number in 0..3 {
            let stack = &stack;
            scope.spawn(move || {
                let project = format!("{}-{number}", stack.project);
                for round in 0..ROUNDS {
                    // Whatever the others remove meanwhile, it is found or fetched, and whole.
                    run(stack, &project, &["up", "-d"]);
                    run(stack, &project, &["exec", "-T", "web", "sh", "-c", "ls -l /bin/busybox >/dev/null && echo"]);
                    let removes = if (round + number) % 3 == 2 {
                        &["down", "-t", "0"][..]
                    } else {
                        &["down", "-t", "0", "--rmi", "all"]
                    };
                    run(stack, &project, removes);
                }
            });
        }
        let puller = &stack;
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                run(puller, &format!("{}-pull", puller.project), &["pull", "-q"]);
            }
        });
    });
    // Once nothing refers to them any more, nothing of them is left.
    run(&stack, &format!("{}-0", stack.project), &["up", "-d"]);
    run(&stack, &format!("{}-0", stack.project), &["down", "-t", "0", "--rmi", "all"]);
    for directory in ["images/blobs/sha256", "layers", "layers/.tmp", "layers/.meta", "images/.rcompose/tmp"] {
        let directory = stack.root().join("lib").join(directory);
        let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let names = entries.map(|entry| entry.expect("it can be listed").file_name());
        let left: Vec<_> = names.filter(|name| !name.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{}: {left:?}", directory.display());
    }
    let containers = census::container_ids(&stack.root());
    stack.finish_without_down(&containers);
}
