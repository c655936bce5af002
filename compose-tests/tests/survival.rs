//! kill -9 of our own processes, at any moment: containers go on and no log line is lost or doubled.

use std::{
    thread,
    time::{Duration, Instant},
};

use compose_tests::{stack::Stack, wait};
use nix::sys::signal::Signal;
use serde_json::json;

/// A service that writes numbered lines as fast as a shell can, and then waits.
const COUNTER: &str = "services:
  counter:
    image: busybox
    command: [sh, -c, 'i=0; while [ $$i -lt 60000 ]; do echo $$i; i=$$((i+1)); done; echo the-end; exec sleep 1000']
";

fn assert_complete(stack: &Stack) {
    let output = wait::until(Duration::from_mins(1), "the last line", || {
        let output = stack.run(&["logs", "--no-log-prefix", "counter"]).ok();
        let tail: Vec<String> = output.stdout.lines().rev().take(2).map(str::to_owned).collect();
        if tail.first().is_some_and(|line| line == "the-end") { Ok(output) } else { Err(tail) }
    });
    let mut expected = 0;
    for line in output.stdout.lines() {
        if line == "the-end" {
            break;
        }
        assert_eq!(line, expected.to_string(), "a line was lost, doubled or torn");
        expected += 1;
    }
    assert_eq!(expected, 60000);
}

#[test]
fn shims_killed_while_a_container_writes() {
    let stack = Stack::new("shims");
    stack.write("compose.yaml", COUNTER);
    stack.run(&["up", "-d"]).ok();
    let id = stack.container("counter")["ID"].clone();
    for round in 0..10 {
        let shim = stack.shim("counter");
        // Not always at the same point of the writer's work.
        thread::sleep(Duration::from_millis(17 * round));
        shim.signal(Signal::SIGKILL);
        wait::until(wait::PATIENCE, "another shim", || {
            let now = stack.shim("counter");
            if now.pid == shim.pid { Err(now) } else { Ok(()) }
        });
    }
    assert_complete(&stack);
    let container = stack.container("counter");
    assert_eq!((&container["ID"], &container["State"]), (&id, &json!("running")));
    stack.finish();
}

#[test]
fn supervisors_killed_while_a_container_writes() {
    let stack = Stack::new("supervisors");
    stack.write("compose.yaml", COUNTER);
    stack.run(&["up", "-d"]).ok();
    for round in 0..10 {
        let supervisor = stack.supervisor();
        thread::sleep(Duration::from_millis(13 * round));
        supervisor.signal(Signal::SIGKILL);
        wait::until(wait::PATIENCE, "another supervisor", || {
            let now = stack.supervisor();
            if now.pid == supervisor.pid { Err(now) } else { Ok(()) }
        });
    }
    assert_complete(&stack);
    stack.wait_for("counter", &json!({"State": "running"}));
    stack.finish();
}

#[test]
fn everything_of_ours_killed_at_once() {
    let stack = Stack::new("both");
    stack.write(
        "compose.yaml",
        "services:
  a: {image: busybox, command: sh -c 'echo up; exec sleep 1000'}
  b:
    image: busybox
    command: sleep 1000
    restart: always
  c:
    image: busybox
    command: [sh, -c, 'while [ ! -e /die ]; do sleep 0.05; done; exit 9']
",
    );
    stack.run(&["up", "-d"]).ok();
    for process in stack.own_processes() {
        process.signal(Signal::SIGKILL);
    }
    // Nothing of ours is left that could bring the rest back; the next command does.
    let containers = wait::until(wait::PATIENCE, "ps to list all three as running", || {
        let containers = stack.containers();
        let running = containers.iter().filter(|container| container["State"] == "running").count();
        if running == 3 { Ok(containers) } else { Err(containers) }
    });
    assert_eq!(containers.len(), 3);
    stack.run(&["exec", "-T", "c", "touch", "/die"]).ok();
    stack.wait_for("c", &json!({"State": "exited", "ExitCode": 9}));
    let output = stack.run(&["logs", "--no-log-prefix", "a"]).ok();
    assert_eq!(output.text(), "up");
    stack.finish();
}

#[test]
fn the_supervisor_ends_with_its_project() {
    let stack = Stack::new("ends");
    stack.write("compose.yaml", "services:\n  a: {image: busybox, command: sleep 1000}\n");
    stack.run(&["up", "-d"]).ok();
    let supervisor = stack.supervisor();
    let containers = compose_tests::census::container_ids(&stack.root());
    stack.run(&["down", "-t", "0"]).ok();
    wait::until(
        wait::PATIENCE,
        "the supervisor to end",
        || if supervisor.is_alive() { Err(&supervisor) } else { Ok(()) },
    );
    stack.finish_without_down(&containers);
}

#[test]
fn two_commands_at_once_do_not_harm_each_other() {
    let stack = Stack::new("twice");
    let service = |name| format!("  {name}: {{image: busybox, command: sleep 1000}}\n");
    stack.write("compose.yaml", &format!("services:\n{}", ["a", "b", "c", "d"].map(service).concat()));
    let running: Vec<_> = (0..3).map(|_| stack.spawn(&["up", "-d"])).collect();
    for running in running {
        // Who comes second may find a name taken, and says so; the next one finds everything there.
        let output = running.wait();
        assert!(output.code == 0 || output.stderr.contains("already in use"), "{output:?}");
    }
    stack.run(&["up", "-d"]).ok();
    let containers = stack.containers();
    assert_eq!(containers.iter().filter(|container| container["State"] == "running").count(), 4, "{containers:#?}");
    assert_eq!(containers.len(), 4, "{containers:#?}");
    let running: Vec<_> = (0..3).map(|_| stack.spawn(&["down", "-t", "0"])).collect();
    for running in running {
        running.wait().ok();
    }
    assert_eq!(stack.containers().len(), 0);
    stack.finish();
}

#[test]
fn stopping_fifty_takes_no_longer_than_stopping_one() {
    let stack = Stack::new("fifty");
    stack.write("compose.yaml", "services:\n  s: {image: busybox, command: sleep 1000, scale: 50}\n");
    stack.run(&["up", "-d"]).ok();
    assert_eq!(stack.containers().len(), 50);
    let started = Instant::now();
    stack.run(&["down"]).ok();
    // One grace period is ten seconds; a PID 1 that never sees the signal is not worth a single one.
    assert!(started.elapsed() < Duration::from_secs(8), "down took {:?}", started.elapsed());
    stack.finish();
}
