//! Sessions in a terminal, as a person has them: what is typed, Control-C, the size of the window, the keys that leave, the
//! exit code, and the terminal as it was before.
//!
//! All but what is marked runs with Docker Compose as well:
//! `RCOMPOSE_TEST_PEER=1 RCOMPOSE_BIN=…/docker-compose cargo test --test terminals`.

use compose_tests::{
    stack,
    stack::Stack,
    terminal::{DETACH, INTERRUPT, Terminal},
    wait,
};
use serde_json::json;

const SERVICES: &str = "services:
  web: {image: busybox, command: sleep 1000, stop_grace_period: 0s}
  reaped: {image: busybox, command: sleep 1000, init: true, stop_grace_period: 0s}
  shell: {image: busybox, command: sh, tty: true, stdin_open: true, stop_grace_period: 0s}
";

fn stack(name: &str) -> Stack {
    let stack = Stack::new(name);
    stack.write("compose.yaml", SERVICES);
    stack
}

fn start(stack: &Stack, arguments: &[&str]) -> Terminal {
    Terminal::start(&stack.command(arguments), 33, 91)
}

#[test]
fn a_shell_of_run() {
    let stack = stack("run-shell");
    start(&stack, &["run", "--rm", "web", "sh"]).talk_to_shell();
    assert_eq!(stack.containers().len(), 0);
    stack.finish();
}

#[test]
fn a_shell_of_exec() {
    let stack = stack("exec-shell");
    stack.run(&["up", "-d", "web"]).ok();
    start(&stack, &["exec", "web", "sh"]).talk_to_shell();
    stack.wait_for("web", &json!({"State": "running"}));
    stack.finish();
}

#[test]
fn control_c_ends_what_runs_in_the_foreground() {
    let stack = stack("interrupts");
    stack.run(&["up", "-d", "web"]).ok();
    let exec = start(&stack, &["exec", "web", "sh", "-c", "echo begun; exec sleep 1000"]);
    exec.wait_for("begun");
    exec.type_in(INTERRUPT);
    let (code, shown) = exec.finish();
    assert_eq!(code, 130, "{shown}");
    // Without `init` the kernel keeps the signal from PID 1, which has no handler.
    let run = start(&stack, &["run", "--rm", "reaped", "sh", "-c", "echo begun; exec sleep 1000"]);
    run.wait_for("begun");
    run.type_in(INTERRUPT);
    let (code, shown) = run.finish();
    assert_eq!(code, 130, "{shown}");
    let run = start(
        &stack,
        &["run", "--rm", "web", "sh", "-c", "trap 'exit 9' INT; echo begun; while :; do sleep 0.1; done"],
    );
    run.wait_for("begun");
    run.type_in(INTERRUPT);
    let (code, shown) = run.finish();
    assert_eq!(code, 9, "{shown}");
    stack.finish();
}

#[test]
fn a_terminal_is_left_by_its_keys() {
    let stack = stack("leave");
    stack.run(&["up", "-d", "shell"]).ok();
    for (keys, options) in [(DETACH, &[][..]), ("x\x01", &["--detach-keys", "x,ctrl-a"])] {
        let attach = start(&stack, &[&["attach"], options, &["shell"]].concat());
        attach.wait_until_raw();
        attach.ask_until("stty size", "33 91");
        attach.resize(44, 99);
        attach.ask_until("stty size", "44 99");
        // A part of the keys is a part of what is typed, where the rest does not come.
        attach.ask_until("echo max-$((1 + 1))", "max-2");
        attach.type_in(keys);
        let (code, shown) = attach.finish();
        // Docker Compose says it most of the time, and else ends with 0.
        assert!(code == 1 && shown.contains("read escape sequence") || stack::is_peer(), "{code}: {shown}");
        stack.wait_for("shell", &json!({"State": "running"}));
    }
    // Who leaves a container of `run` has got what was asked for.
    let run = start(&stack, &["run", "--name", &format!("{}-left", stack.project), "web", "sh"]);
    run.ask_until("stty size", "33 91");
    run.type_in(DETACH);
    let (code, shown) = run.finish();
    assert_eq!(code, 0, "{shown}");
    let left = stack.containers().into_iter().find(|container| container["Name"] == format!("{}-left", stack.project));
    assert_eq!(left.map(|left| left["State"].clone()), Some(json!("running")));
    // The container's exit code is that of who is attached to it.
    let attach = start(&stack, &["attach", "shell"]);
    attach.wait_until_raw();
    attach.ask_until("echo there-$((1 + 1))", "there-2");
    attach.type_in("exit 5\n");
    let (code, shown) = attach.finish();
    assert_eq!(code, 5, "{shown}");
    stack.wait_for("shell", &json!({"State": "exited", "ExitCode": 5}));
    stack.finish();
}

#[test]
fn statistics_are_a_live_table() {
    let stack = stack("live");
    stack.run(&["up", "-d", "web"]).ok();
    let table = start(&stack, &["stats"]);
    let heads = |shown: &str| shown.matches("MEM USAGE").count();
    table.wait_until("the table, several times", |shown| heads(shown) >= 3);
    let shown = table.shown();
    assert!(shown.contains(&format!("{}-web-1", stack.project)) && shown.contains("\x1b["), "{shown}");
    // What starts and ends while it is shown comes and goes.
    stack.run(&["up", "-d", "shell"]).ok();
    let name = format!("{}-shell-1", stack.project);
    table.wait_for(&name);
    stack.run(&["rm", "-fs", "shell"]).ok();
    table.wait_until("a table without it", |shown| {
        let last = shown.rmatch_indices("MEM USAGE").nth(1).map(|(at, _)| &shown[at..]);
        last.is_some_and(|last| !last.contains(&name))
    });
    table.type_in(INTERRUPT);
    let (code, shown) = table.finish();
    assert!(code == 130 || stack::is_peer(), "{code}: {shown}");
    stack.finish();
}

#[test]
fn one_control_c_stops_what_up_shows() {
    let stack = stack("up");
    let up = start(&stack, &["up", "web", "reaped"]);
    up.wait_for("Attaching to");
    stack.wait_for("web", &json!({"State": "running"}));
    up.type_in(INTERRUPT);
    let (code, shown) = up.finish();
    assert!(shown.contains("Gracefully Stopping") || shown.contains("Gracefully stopping"), "{shown}");
    assert!([0, 130].contains(&code), "{code}: {shown}");
    for service in ["web", "reaped"] {
        assert_eq!(stack.container(service)["State"], json!("exited"));
    }
    stack.finish();
}

/// Only ours: a build that failed is entered before the command that did.
#[test]
fn a_build_that_failed_is_entered() {
    if stack::is_peer() {
        return;
    }
    let stack = stack("terminal-debug");
    stack.write(
        "context/Dockerfile",
        "FROM busybox\nENV WHO=me\nWORKDIR /in\nRUN echo before >made\nRUN echo after >made; exit 3\n",
    );
    let terminal = start(&stack, &["image", "build", "--debug", "context"]);
    terminal.wait_for("Leave it with \"exit\"");
    terminal.ask_until("echo $WHO in $PWD: $(cat made)", "me in /in: before");
    terminal.ask_until("stty size", "33 91");
    terminal.type_in("exit 5\n");
    let (code, shown) = terminal.finish();
    assert!(code == 1 && shown.contains("exit code: 3"), "{code}: {shown}");
    assert_eq!(stack.run(&["image", "ls", "-q", "localhost/build-halted"]).ok().stdout, "");
    wait::until(wait::PATIENCE, "every process of the build to end", || {
        let left = stack.own_processes();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    stack.finish();
}
