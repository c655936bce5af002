//! `with`: a stack that lives as long as a command, whatever ends the command.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
};

use compose_tests::{census, http, output::Output, stack::Stack, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const SHOP: &str = "name: fixed
services:
  web:
    image: rcompose.local/whoami
    container_name: front
    ports: ['127.0.0.1:8080:80']
    depends_on: {db: {condition: service_healthy}}
  db:
    image: busybox
    command: [sh, -c, 'echo db writes; touch /ready; exec sleep 1000']
    stop_grace_period: 0s
    healthcheck: {test: test -e /ready, interval: 1h}
    volumes: ['data:/data']
volumes: {data: {name: everybodys}}
networks: {default: {name: shared}}
";

/// Returns what the command printed, which is variables.
fn variables(output: &Output) -> BTreeMap<String, String> {
    let pairs = output.stdout.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_command_finds_its_stack_and_nothing_is_left_after_it() {
    let stack = Stack::new("with");
    stack.write("compose.yaml", SHOP);
    let own = stack.spawn(&["up", "-d"]).wait();
    assert_eq!(own.code, 0, "{own:?}");
    let before = stack.census();
    let script = "env | grep -e ^WEB_ -e ^COMPOSE_PROJECT_NAME=; \"$0\" ps --services; exit 7";
    let binary = compose_tests::stack::binary().display().to_string();
    let flags = ["--junit", "out.xml", "--events", "events.json", "--logs", "logs"];
    let output = stack.run(&[&["with"], flags.as_slice(), &["--", "sh", "-c", script, &binary]].concat());
    assert_eq!(output.code, 7, "{output:?}");
    let found = variables(&output);
    assert_eq!(found["WEB_HOST"], "127.0.0.1");
    assert_eq!(found["WEB_ADDRESS_80"], format!("127.0.0.1:{}", found["WEB_PORT"]));
    assert_ne!(found["WEB_PORT"], "8080", "the stack beside it has that");
    assert!(found["COMPOSE_PROJECT_NAME"].starts_with(&format!("{}-", stack.project)), "{found:?}");
    assert!(output.stdout.ends_with("db\nweb\n"), "{output:?}");
    // What the stack beside it has is as it was.
    wait::until(wait::PATIENCE, "everything of the copy to be gone", || {
        let left = stack.census().beyond(&before);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    let read = |path: &str| fs::read_to_string(stack.project_folder().join(path)).unwrap();
    let report = read("out.xml");
    assert!(report.contains("name=\"service web\"") && report.contains("tests=\"3\" failures=\"1\""), "{report}");
    assert!(report.contains("<failure message=\"exit code 7\">"), "{report}");
    let events = read("events.json");
    for action in ["create", "start", "health_status: healthy", "die", "destroy"] {
        assert!(events.contains(&format!("\"action\":\"{action}\"")), "{action}: {events}");
    }
    assert_eq!(read("logs/db-1.log"), "db writes\n");
    stack.finish();
}

#[test]
fn the_stack_is_ready_when_the_command_begins() {
    let stack = Stack::new("ready");
    stack.write("compose.yaml", SHOP);
    let with = stack.spawn(&["with", "--", "sh", "-c", "echo \"$WEB_ADDRESS\"; exec sleep 1000"]);
    let seen = with.wait_output("the address", |output| output.stdout.ends_with('\n'));
    let address: SocketAddr = seen.stdout.trim().parse().unwrap();
    let answer = http::get(address, "/").unwrap();
    assert_eq!(answer.status, 200);
    // It is handed on to the command, which ends by it.
    with.signal(Signal::SIGTERM);
    let output = with.wait();
    assert_eq!(output.code, 143, "{output:?}");
    stack.assert_nothing_left(&census::container_ids(&stack.root()));
    stack.finish();
}

#[test]
fn what_does_not_come_up_is_taken_away_and_the_command_does_not_run() {
    let stack = Stack::new("never");
    stack.write(
        "compose.yaml",
        "services: {web: {image: busybox, command: [sh, -c, 'echo no configuration; exit 3']}}\n",
    );
    let output = stack.run(&[
        "with",
        "--pull",
        "missing",
        "--timeout",
        "0",
        "--wait-timeout",
        "60",
        "--junit",
        "out.xml",
        "--",
        "touch",
        "ran",
    ]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("exited (3)") && output.stderr.contains("no configuration"), "{output:?}");
    assert!(!stack.project_folder().join("ran").exists());
    let report = fs::read_to_string(stack.project_folder().join("out.xml")).unwrap();
    assert!(report.contains("name=\"service web\"") && report.contains("exited (3)"), "{report}");
    stack.write("compose.yaml", "services: {web: {image: busybox, command: sleep 1000, stop_grace_period: 0s}}\n");
    let output = stack.run(&["with", "--", "/surely/not/there"]);
    assert!(output.code == 1 && output.stderr.contains("cannot run /surely/not/there"), "{output:?}");
    stack.finish();
}

#[test]
fn a_killed_with_leaves_nothing() {
    let stack = Stack::new("killed-with");
    stack.write("compose.yaml", SHOP);
    let with = stack.spawn(&["with", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    let seen = with.wait_output("the command", |output| output.stdout.ends_with('\n'));
    let command: i32 = seen.stdout.trim().parse().unwrap();
    let containers = census::container_ids(&stack.root());
    assert_eq!(containers.len(), 2);
    with.signal(Signal::SIGKILL);
    with.wait();
    // The command is nobody's any more, and not what this is about.
    kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
    stack.assert_nothing_left(&containers);
    stack.finish();
}

#[test]
fn a_caller_that_is_killed_takes_the_stack_along() {
    let stack = Stack::new("killed-caller");
    stack.write("compose.yaml", SHOP);
    let inner = stack.command(&["with", "--", "sh", "-c", "echo begun >begun; exec sleep 1000"]);
    let mut caller = Command::new("sh");
    caller.args(["-c", "\"$@\" & wait", "sh"]).arg(inner.get_program()).args(inner.get_args());
    caller.current_dir(stack.project_folder()).env_clear();
    caller.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut caller =
        caller.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell runs");
    let begun = stack.project_folder().join("begun");
    wait::until(wait::PATIENCE, "the command", || if begun.exists() { Ok(()) } else { Err("it has not begun") });
    let containers = census::container_ids(&stack.root());
    caller.kill().unwrap();
    caller.wait().unwrap();
    stack.assert_nothing_left(&containers);
    stack.finish();
}

#[test]
fn an_instance_runs_beside_the_stack_with_the_same_ports() {
    let stack = Stack::new("instance");
    stack.write("compose.yaml", SHOP);
    stack.run(&["up", "-d"]).ok();
    stack.run(&["--instance", "two", "up", "-d"]).ok();
    let port = |arguments: &[&str]| stack.run(arguments).ok().stdout.trim().to_owned();
    assert_eq!(port(&["port", "web", "80"]), "127.0.0.1:8080");
    let second = port(&["--instance", "two", "port", "web", "80"]);
    assert!(second.starts_with("127.") && !second.starts_with("127.0.0.") && second.ends_with(":8080"), "{second}");
    let answer = http::get(second.parse().unwrap(), "/").unwrap();
    assert_eq!(answer.status, 200);
    stack.run(&["exec", "-T", "--instance", "two", "db", "true"]).ok();
    stack.run(&["up", "--instance", "two", "-d"]).ok();
    stack.run(&["--instance", "two", "down", "-v"]).ok();
    assert_eq!(stack.containers().len(), 2, "the first one is as it was");
    stack.finish();
}

#[test]
fn an_instance_runs_beside_a_stack_that_publishes_at_every_address() {
    let stack = Stack::new("wildcard");
    stack.write("compose.yaml", "services: {web: {image: rcompose.local/whoami, ports: ['8080:80']}}\n");
    let instance = |arguments: &[&str]| stack.run(&[&["--instance", "two"], arguments].concat()).ok();
    let host = |address: &str| {
        let text = wait::until(wait::PATIENCE, "an answer", || http::get(address.parse().unwrap(), "/")).text();
        text.lines().find_map(|line| line.strip_prefix("Hostname: ")).expect("it tells its name").to_owned()
    };
    // Whichever comes first.
    for instance_first in [false, true] {
        if instance_first {
            instance(&["up", "-d"]);
            stack.run(&["up", "-d"]).ok();
        } else {
            stack.run(&["up", "-d"]).ok();
            instance(&["up", "-d"]);
        }
        let own = instance(&["port", "web", "80"]).stdout.trim().to_owned();
        let (first, second) = (host("127.0.0.1:8080"), host(&own));
        assert_ne!(first, second, "{own}");
        instance(&["restart", "-t", "0"]);
        assert_eq!((host("127.0.0.1:8080"), host(&own)), (first, second));
        instance(&["down"]);
        stack.run(&["down"]).ok();
    }
    stack.finish();
}

#[test]
fn a_port_of_an_instance_is_taken_once() {
    let stack = Stack::new("instance-port");
    let service = |name| format!("  {name}: {{image: rcompose.local/whoami, ports: ['8080:80']}}\n");
    stack.write("compose.yaml", &format!("services:\n{}", ["a", "b"].map(service).concat()));
    let output = stack.run(&["--instance", "two", "up", "-d"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains(":8080/tcp is already in use"), "{output:?}");
    stack.run(&["--instance", "two", "down"]).ok();
    stack.finish();
}
