//! Commands that stay: attached `up`, `logs -f`, `attach`, and `exec` and `run` with a terminal.

use std::{process::Command, time::Duration};

use compose_tests::{stack, stack::Stack, wait};
use nix::sys::signal::Signal;
use serde_json::json;

const TALKERS: &str = "services:
  one:
    image: busybox
    command: [sh, -c, 'trap \"echo one ends; exit 0\" TERM; echo one starts; while :; do sleep 0.1; done']
  two:
    image: busybox
    command: [sh, -c, 'trap \"echo two ends; exit 0\" TERM; echo two starts >&2; while :; do sleep 0.1; done']
";

#[test]
fn up_shows_logs_and_one_interrupt_stops_gracefully() {
    let stack = Stack::new("attached");
    stack.write("compose.yaml", TALKERS);
    let up = stack.spawn(&["up"]);
    // What a service writes to its standard error comes out at that of `up`.
    up.wait_output("both services' lines", |output| {
        output.stdout.contains("one-1  | one starts") && output.stderr.contains("two-1  | two starts")
    });
    up.signal(Signal::SIGINT);
    let output = up.wait();
    assert!(output.stdout.contains("one ends") && output.stdout.contains("two ends"), "{output:?}");
    for service in ["one", "two"] {
        let container = stack.container(service);
        assert_eq!((&container["State"], &container["ExitCode"]), (&json!("exited"), &json!(0)), "{container:#}");
    }
    stack.finish();
}

#[test]
fn a_second_interrupt_kills() {
    let stack = Stack::new("killed");
    stack.write("compose.yaml", "services:\n  deaf: {image: test/ignores-term, stop_grace_period: 60s}\n");
    let up = stack.spawn(&["up"]);
    up.wait_output("the service's line", |output| output.stdout.contains("ready"));
    up.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    up.signal(Signal::SIGINT);
    let output = up.wait();
    assert!(output.took < Duration::from_secs(20), "{output:?}");
    stack.wait_for("deaf", &json!({"State": "exited", "ExitCode": 137}));
    stack.finish();
}

#[test]
fn up_ends_when_the_last_service_has() {
    let stack = Stack::new("ends");
    stack.write("compose.yaml", "services:\n  quick: {image: busybox, command: sh -c 'echo done; exit 3'}\n");
    let output = stack.run(&["up"]);
    assert!(output.stdout.contains("quick-1  | done"), "{output:?}");
    assert!(output.stdout.contains("exited with code 3") || output.stderr.contains("exited with code 3"), "{output:?}");
    stack.finish();
}

#[test]
fn logs_follow_until_the_end() {
    let stack = Stack::new("follow");
    stack.write(
        "compose.yaml",
        "services:
  web:
    image: busybox
    command: [sh, -c, 'echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second; exit 0']
",
    );
    stack.run(&["up", "-d"]).ok();
    let logs = stack.spawn(&["logs", "-f", "web"]);
    logs.wait_output("the first line", |output| output.stdout.contains("first"));
    stack.run(&["exec", "-T", "web", "touch", "/go"]).ok();
    let output = logs.wait().ok();
    assert!(output.stdout.contains("web-1  | second"), "{output:?}");
    stack.finish();
}

#[test]
fn logs_of_several_services_come_in_the_order_of_time() {
    let stack = Stack::new("order");
    let service = "{image: busybox, init: true, stop_grace_period: 0s, command: [sh, -c, 'for i in $$(seq 40); do echo line $$i; \
                   sleep 0.01; done; exec sleep 1000']}";
    stack.write("compose.yaml", &format!("services:\n  one: {service}\n  two: {service}\n"));
    stack.run(&["up", "-d"]).ok();
    let sorted = wait::until(wait::PATIENCE, "both services' last lines", || {
        let output = stack.run(&["logs", "-t"]).ok();
        if output.stdout.matches("line 40\n").count() == 2 { Ok(output.stdout) } else { Err(output) }
    });
    assert_eq!(sorted.lines().count(), 80, "{sorted}");
    // What is shown as it grows is in the same order.
    let logs = stack.spawn(&["logs", "-f", "-t"]);
    logs.wait_output("all lines", |output| output.stdout.lines().count() >= 80);
    logs.signal(Signal::SIGINT);
    assert_eq!(logs.wait().stdout, sorted);
    stack.finish();
}

/// Runs a shell line in a terminal of 33 rows and 91 columns, and returns what it showed.
fn in_terminal(stack: &Stack, line: &str) -> String {
    typing_in_terminal(stack, line, "")
}

/// Likewise, while this is typed.
fn typing_in_terminal(stack: &Stack, line: &str, typed: &str) -> String {
    let binary = stack::binary();
    let mut command = Command::new("script");
    let line = line.replace("rcompose", &binary.display().to_string());
    command
        .args(["--quiet", "--return", "--command", &format!("stty rows 33 cols 91; {line}"), "/dev/null"])
        .current_dir(stack.project_folder());
    // The environment that every command of this stack gets.
    let template = stack.command::<&str>(&[]);
    command.env_clear();
    for (name, value) in template.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("TERM", "xterm");
    let output = stack::finish(command, typed);
    assert_eq!(output.code, 0, "{output:?}");
    output.stdout
}

#[test]
fn exec_has_a_terminal_of_the_right_size() {
    let stack = Stack::new("terminal");
    stack.write("compose.yaml", "services:\n  web: {image: busybox, command: sleep 1000}\n");
    stack.run(&["up", "-d"]).ok();
    let shown = in_terminal(
        &stack,
        "rcompose exec web sh -c 'tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all'",
    );
    assert!(shown.contains("/dev/pts/"), "{shown}");
    assert!(shown.contains("33 91"), "{shown}");
    assert!(shown.contains("all"), "{shown}");
    let code = in_terminal(&stack, "rcompose exec web sh -c 'exit 5' || echo code-$?");
    assert!(code.contains("code-5"), "{code}");
    // A resize while it runs: the inner program waits for the signal.
    let resized = in_terminal(
        &stack,
        "(sleep 1; stty rows 44 cols 99 </dev/tty; kill -WINCH $$) & \
         rcompose exec web sh -c 'trap \"stty size; exit 0\" WINCH; while :; do sleep 0.1; done'",
    );
    assert!(resized.contains("44 99"), "{resized}");
    // The terminal is as it was before.
    let after =
        in_terminal(&stack, "stty -a >before; rcompose exec web true; stty -a >after; cmp before after && echo same");
    assert!(after.contains("same"), "{after}");
    stack.finish();
}

#[test]
fn logs_are_coloured_on_a_terminal_only() {
    let stack = Stack::new("colour");
    stack.write("compose.yaml", "services:\n  web: {image: busybox, command: sh -c 'echo hello; exec sleep 1000'}\n");
    stack.run(&["up", "-d"]).ok();
    wait::until(wait::PATIENCE, "the line", || {
        let output = stack.run(&["logs"]).ok();
        if output.stdout.contains("hello") { Ok(()) } else { Err(output) }
    });
    let shown = in_terminal(&stack, "env -u NO_COLOR rcompose logs");
    assert!(shown.contains("\u{1b}["), "{shown:?}");
    assert!(!in_terminal(&stack, "rcompose logs").contains("\u{1b}["), "NO_COLOR is not obeyed");
    assert!(!stack.run(&["logs"]).stdout.contains("\u{1b}["), "colours in a pipe");
    stack.finish();
}

#[test]
fn run_has_a_terminal_of_the_right_size_and_what_is_typed() {
    let stack = Stack::new("run-terminal");
    stack.write("compose.yaml", "services:\n  web: {image: busybox, command: sleep 1000}\n");
    let shown = in_terminal(
        &stack,
        "rcompose run --rm web sh -c 'tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all'",
    );
    for part in ["/dev/", "33 91", "all"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown = typing_in_terminal(&stack, "rcompose run --rm web sh -c 'read line; echo got-$line'", "word\n");
    assert!(shown.contains("got-word"), "{shown}");
    let shown = in_terminal(&stack, "rcompose run --rm web sh -c 'exit 6' || echo code-$?");
    assert!(shown.contains("code-6"), "{shown}");
    let shown = in_terminal(&stack, "rcompose run --rm -T web sh -c 'test -t 1 || echo none'");
    assert!(shown.contains("none"), "{shown}");
    // The terminal is as it was before.
    let after = in_terminal(
        &stack,
        "stty -a >before; rcompose run --rm web true; stty -a >after; cmp before after && echo same",
    );
    assert!(after.contains("same"), "{after}");
    stack.finish();
}

const TICKER: &str = "services:
  ticker:
    image: busybox
    command: [sh, -c, 'trap \"echo bye; exit 4\" TERM; while :; do echo tick; [ -e /go ] && echo went; sleep 0.05; done']
  reader:
    image: busybox
    stdin_open: true
    command: [sh, -c, 'while read x; do echo got $$x; [ \"$$x\" = end ] && exit 7; done']
  terminal: {image: busybox, stdin_open: true, tty: true, stop_grace_period: 0s, command: cat}
";

#[test]
fn attach_shows_what_is_written_and_passes_signals_on() {
    let stack = Stack::new("attach");
    stack.write("compose.yaml", TICKER);
    stack.run(&["up", "-d"]).ok();
    // Without the signals it is only this command that ends.
    let attach = stack.spawn(&["attach", "--sig-proxy=false", "ticker"]);
    attach.wait_output("a tick", |output| output.stdout.contains("tick"));
    attach.signal(Signal::SIGTERM);
    attach.wait();
    stack.wait_for("ticker", &json!({"State": "running"}));
    let attach = stack.spawn(&["attach", "ticker"]);
    attach.wait_output("a tick", |output| output.stdout.contains("tick"));
    // Another shim takes the place of one that is killed.
    let shim = stack.shim("ticker");
    shim.signal(Signal::SIGKILL);
    wait::until(wait::PATIENCE, "its death", || if shim.is_alive() { Err(&shim) } else { Ok(()) });
    stack.run(&["exec", "-T", "ticker", "touch", "/go"]).ok();
    attach.wait_output("what came after the shim's death", |output| output.stdout.contains("went"));
    attach.signal(Signal::SIGTERM);
    let output = attach.wait();
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("bye"), "{output:?}");
    assert!(stack.run(&["attach", "ticker"]).code != 0, "it does not run any more");
    stack.finish();
}

#[test]
fn attach_writes_to_standard_input() {
    let stack = Stack::new("attach-stdin");
    stack.write("compose.yaml", TICKER);
    stack.run(&["up", "-d", "reader", "terminal"]).ok();
    let nothing = std::collections::BTreeMap::new();
    // The end of ours is none of the container's, which is there for the next one.
    let first = stack.spawn(&["attach", "--no-stdin", "reader"]);
    let output = stack.run_with(&["attach", "reader"], &nothing, "one\nend\n");
    assert_eq!((output.code, output.stdout.as_str()), (7, "got one\ngot end\n"), "{output:?}");
    let first = first.wait();
    assert!(first.code == 7 || first.stderr.contains("not running"), "{first:?}");
    let output = stack.run(&["attach", "terminal"]);
    assert!(output.code != 0 && output.stderr.contains("the input device is not a TTY"), "{output:?}");
    let shown = typing_in_terminal(&stack, "rcompose attach --detach-keys x,y terminal; echo left-$?", "hello\nxy");
    for part in ["hello", "read escape sequence", "left-1"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    stack.wait_for("terminal", &json!({"State": "running"}));
    assert_eq!(stack.run(&["attach", "--detach-keys", "nonsense", "terminal"]).code, 1);
    stack.finish();
}
