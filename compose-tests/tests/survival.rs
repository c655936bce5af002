//! kill -9 of our own processes, at any moment: containers go on and no log line is lost or doubled.

use std::{
    thread,
    time::{Duration, Instant},
};

use compose_tests::{census, process, stack::Stack, wait};
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
    let containers = census::container_ids(&stack.root());
    stack.run(&["down", "-t", "0"]).ok();
    wait::until(
        wait::PATIENCE,
        "the supervisor to end",
        || if supervisor.is_alive() { Err(&supervisor) } else { Ok(()) },
    );
    stack.finish_without_down(&containers);
}

#[test]
fn down_finishes_what_a_killed_supervisor_left() {
    let stack = Stack::new("cut-short");
    stack.write("compose.yaml", "services:\n  a: {image: busybox, command: sleep 1000}\n");
    // The kernel takes longer for the bridge than `down` for the rest: most supervisors are still at it.
    for _ in 0..3 {
        stack.run(&["up", "-d"]).ok();
        let supervisor = stack.supervisor();
        let containers = census::container_ids(&stack.root());
        stack.run(&["down", "-t", "0"]).ok();
        supervisor.signal(Signal::SIGKILL);
        stack.run(&["down"]).ok();
        stack.assert_nothing_left(&containers);
    }
    stack.finish();
}

#[test]
fn what_a_slow_reader_has_not_seen_outlives_the_container() {
    let stack = Stack::new("slow");
    stack.write("compose.yaml", "services:\n  a: {image: busybox}\n");
    // It fits into the pipes on its way: the container ends, and is removed, before anything but the first line is read.
    let reader = r#"{ dd bs=1 count=2 2>&-; until test -z "$(dc ps -aq)"; do :; done; cat; }"#;
    for _ in 0..3 {
        let output = stack.shell(&format!("dc run --rm -T a seq 1 30000 | {reader}")).ok();
        assert_eq!(output.stdout.lines().count(), 30000, "lines were lost");
    }
    stack.finish();
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
fn of_two_first_ups_in_two_places_one_is_refused() {
    let stack = Stack::new("two-places");
    let service = |name| format!("  {name}: {{image: busybox, command: sleep 1000, stop_grace_period: 0s}}\n");
    let project = format!("services:\n{}", ["a", "b", "c", "d"].map(service).concat());
    let places = ["one", "two"].map(|folder| stack.project_folder().join(folder));
    for folder in ["one", "two"] {
        stack.write(&format!("{folder}/compose.yaml"), &project);
    }
    stack.run(&["-f", "one/compose.yaml", "pull", "-q"]).ok();
    for _ in 0..5 {
        let both = ["one", "two"].map(|folder| stack.spawn(&["-f", &format!("{folder}/compose.yaml"), "up", "-d"]));
        let [one, two] = both.map(compose_tests::stack::Running::wait);
        let (won, refused) = if one.code == 0 { (&one, &two) } else { (&two, &one) };
        assert_eq!((won.code, refused.code), (0, 1), "{one:?}\n{two:?}");
        for place in &places {
            assert!(refused.stderr.contains(&place.display().to_string()), "{refused:?}");
        }
        let containers = stack.containers();
        assert_eq!(containers.len(), 4, "{containers:#?}");
        stack.run(&["-p", &stack.project, "down"]).ok();
    }
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

#[test]
fn a_container_that_nobody_can_reach_any_more_is_ended() {
    let stack = Stack::new("unattended");
    stack.write(
        "compose.yaml",
        "services:\n  a: {image: busybox, command: sleep 1000}\n  b: {image: busybox, command: sleep 1000}\n",
    );
    stack.run(&["up", "-d"]).ok();
    let pid = stack.run(&["inspect", "-f", "{{.State.Pid}}", "a"]).ok();
    let process = process::read(pid.text().parse().expect("it is a number")).expect("it runs");
    let (id, shim) = (stack.container("a")["ID"].clone(), stack.shim("a"));
    let supervisor = stack.supervisor();
    // Somebody removes by hand all that is known of it, and another shim cannot take it over without that.
    let bundles = stack.root().join("lib/containers");
    let known = census::container_ids(&stack.root());
    let whole = known.iter().find(|whole| whole.starts_with(id.as_str().expect("it is a text"))).expect("it is there");
    std::fs::remove_dir_all(bundles.join(whole)).expect("it can be removed");
    shim.signal(Signal::SIGKILL);
    wait::until(wait::PATIENCE, "its end", || if process.is_alive() { Err(&process) } else { Ok(()) });
    // It was given up once, not again and again: what is left is the other one's.
    wait::until(wait::PATIENCE, "only one shim", || {
        let shims = stack.own_processes().into_iter().filter(|process| process.name == "rcompose-shim").count();
        if shims == 1 { Ok(()) } else { Err(shims) }
    });
    assert_eq!(stack.supervisor().pid, supervisor.pid);
    stack.run(&["exec", "-T", "b", "true"]).ok();
    // The next command makes another one.
    stack.run(&["up", "-d"]).ok();
    assert_ne!(stack.container("a")["ID"], id);
    stack.finish();
}

/// How often the next test starts a container; a thousand times by `RCOMPOSE_TEST_STARTS=1000`.
fn starts() -> u64 {
    std::env::var("RCOMPOSE_TEST_STARTS").map_or(25, |count| count.parse().expect("RCOMPOSE_TEST_STARTS is a number"))
}

/// What could add up in a supervisor that has started and stopped many containers.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    /// Of which a few come and go with the work.
    threads: u64,
    /// Memory of its own, in KiB.
    memory: u64,
    /// Processes, mounts, links, tables, cgroups and files of the project.
    items: usize,
}

impl Held {
    fn by(stack: &Stack) -> Held {
        let process = format!("/proc/{}", stack.supervisor().pid);
        let status = std::fs::read_to_string(format!("{process}/status")).expect("the supervisor lives");
        let field = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
            rest.split_whitespace().next().and_then(|word| word.parse().ok()).expect("it is a number")
        };
        Held {
            descriptors: std::fs::read_dir(format!("{process}/fd")).expect("the supervisor lives").count(),
            threads: field("Threads:"),
            memory: field("RssAnon:"),
            items: stack.census().items.len(),
        }
    }
}

#[test]
fn starts_and_stops_do_not_add_up() {
    let stack = Stack::new("growth");
    stack.write(
        "compose.yaml",
        "services:
  keeper: {image: busybox, command: sleep 1000}
  churned: {image: busybox, command: sh -c 'echo a line; exec sleep 1000', healthcheck: {test: [CMD, 'true'], interval: 1s}}
",
    );
    stack.run(&["up", "-d"]).ok();
    let supervisor = stack.supervisor().pid;
    let start = |number: u64| {
        // Every fifth time it is another container.
        if number.is_multiple_of(5) {
            stack.run(&["rm", "-s", "-f", "churned"]).ok();
            stack.run(&["up", "-d"]).ok();
        } else {
            stack.run(&["restart", "-t", "0", "churned"]).ok();
        }
    };
    (0..5).for_each(start);
    let before = Held::by(&stack);
    let starts = starts();
    (0..starts).for_each(start);
    // Some of it goes away a moment after the command has returned; threads without work end seconds later.
    wait::until(wait::PATIENCE, "everything to be as before", || {
        let now = Held::by(&stack);
        // The allocator's and the kernel's bookkeeping goes up and down by some hundred KiB.
        let memory = before.memory + 2048 + 2 * starts;
        let is_bounded = now.descriptors <= before.descriptors && now.threads <= 32 && now.memory <= memory;
        // Something was still on its way out when it was looked at before.
        if is_bounded && now.items <= before.items { Ok(()) } else { Err((now, &before)) }
    });
    assert_eq!(stack.supervisor().pid, supervisor, "it is the same supervisor that was looked at");
    stack.finish();
}

#[test]
fn events_go_on_after_the_supervisor_is_killed() {
    let stack = Stack::new("events");
    stack.write("compose.yaml", "services:\n  a: {image: busybox, command: sleep 1000}\n");
    stack.run(&["up", "-d"]).ok();
    let events = stack.spawn(&["events"]);
    let hears_of = |word: &str| {
        // It may not listen yet, or again.
        wait::until(wait::PATIENCE, "an event", || {
            stack.run(&["exec", "-T", "a", "true", word]).ok();
            let output = events.so_far();
            if output.stdout.contains(&format!("exec_create: true {word}")) { Ok(()) } else { Err(output) }
        });
    };
    hears_of("before");
    stack.supervisor().signal(Signal::SIGKILL);
    hears_of("after");
    events.signal(Signal::SIGINT);
    events.wait();
    stack.finish();
}
