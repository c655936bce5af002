//! `watch`, and `up --watch`: files that change beside a project that runs.
//!
//! A scenario is a folder below `compose-tests/watching`: a project, what is done to its files, and what is seen then.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use compose_tests::output::Output;
use compose_tests::stack::{Running, Stack};
use compose_tests::victim::Victim;
use compose_tests::wait;
use nix::sys::signal::Signal;
use serde::Deserialize;

/// `scenario.json`. Lines are of shell, in the project's folder, with `dc` for rcompose and `{watch}` for its output.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// What watches; `watch` where nothing is said.
    #[serde(default)]
    command: Vec<String>,
    /// The command stands still while something is done, so that all of that is one change.
    #[serde(default)]
    frozen: bool,
    /// What is done before.
    before: String,
    steps: Vec<Step>,
    /// What the command has said in the end, on either stream.
    #[serde(default)]
    said: Vec<String>,
    /// How many lines of its standard output contain something.
    #[serde(default)]
    counts: BTreeMap<String, usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    r#do: String,
    /// A line, and what it prints once what was done has come through.
    look: String,
    see: String,
}

fn watch(stack: &Stack, command: &[&str]) -> Running {
    let running = stack.spawn(command);
    running.wait_output("the beginning of the watch", |output| output.stdout.contains("Watch enabled"));
    running
}

fn wait_to_see(stack: &Stack, look: &str, see: &str, running: &Running) {
    wait::until(wait::PATIENCE, look, || {
        let seen = stack.shell(look);
        if seen.stdout == see { Ok(()) } else { Err(Box::new((seen, running.so_far()))) }
    });
}

fn play(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("watching").join(name);
    let text = fs::read(folder.join("scenario.json")).expect("a scenario is there");
    let scenario = serde_json::from_slice::<Scenario>(&text).expect("a scenario has its form");
    let stack = Stack::new(&format!("watch-{name}"));
    stack.copy(&folder);
    stack.shell(&scenario.before).ok();
    let command = scenario.command.iter().map(String::as_str).collect::<Vec<_>>();
    let running = watch(&stack, if command.is_empty() { &["watch"] } else { &command });
    let fill = |line: &str| line.replace("{watch}", &running.stdout().display().to_string());
    for step in &scenario.steps {
        if scenario.frozen {
            running.signal(Signal::SIGSTOP);
        }
        stack.shell(&fill(&step.r#do)).ok();
        if scenario.frozen {
            running.signal(Signal::SIGCONT);
        }
        wait_to_see(&stack, &fill(&step.look), &step.see, &running);
    }
    let lines = |output: &Output, what: &str| output.stdout.lines().filter(|line| line.contains(what)).count();
    running.wait_output("all that is to be said", |output| {
        scenario.said.iter().all(|said| output.stdout.contains(said) || output.stderr.contains(said))
            && scenario.counts.iter().all(|(what, count)| lines(output, what) >= *count)
    });
    running.signal(Signal::SIGINT);
    let output = running.wait();
    assert_eq!(output.code, 130, "{output:?}");
    for (what, count) in &scenario.counts {
        assert_eq!(lines(&output, what), *count, "lines with {what} in {output:?}");
    }
    stack.finish();
}

#[test]
fn files_come_as_they_are() {
    play("sync");
}

#[test]
fn restarts_and_commands_follow_once() {
    play("restart");
}

#[test]
fn all_replicas_get_everything_however_late_they_come() {
    play("checkout");
}

#[test]
fn nothing_is_needed_in_the_container() {
    play("bare");
}

#[test]
fn an_image_is_built_again() {
    play("rebuild");
}

#[test]
fn up_watches_beside_the_logs() {
    play("attached");
}

#[test]
fn files_can_be_looked_at_instead() {
    play("polling");
}

const SYNC: &str = "services:
  web:
    image: busybox
    command: sleep 1000
    stop_grace_period: 0s
    develop:
      watch:
        - {path: ./src, action: sync, target: /app}
";

#[test]
fn what_the_kernel_forgot_to_tell_is_found() {
    let stack = Stack::new("watch-overflow");
    stack.write("compose.yaml", SYNC);
    stack.write("src/a", "");
    stack.write("src/b", "");
    let b = stack.project_folder().join("src/b");
    let running = watch(&stack, &["watch"]);
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    running.signal(Signal::SIGSTOP);
    // Only what is the same as the event before it is not kept.
    let modes = [0o600, 0o644].map(fs::Permissions::from_mode);
    let a = stack.project_folder().join("src/a");
    for number in 0..most.trim().parse::<usize>().unwrap().min(200_000) {
        let name = if number % 2 == 0 { &a } else { &b };
        fs::set_permissions(name, modes[number / 2 % 2].clone()).unwrap();
    }
    stack.write("src/late/file", "late\n");
    fs::remove_file(b).unwrap();
    running.signal(Signal::SIGCONT);
    wait_to_see(&stack, "dc exec -T web sh -c 'ls /app; cat /app/late/file'", "a\nlate\nlate\n", &running);
    running.signal(Signal::SIGINT);
    running.wait();
    stack.finish();
}

#[test]
fn a_project_behind_a_link_is_watched() {
    let stack = Stack::new("watch-link");
    stack.write("real/compose.yaml", SYNC);
    stack.write("real/src/a", "1\n");
    symlink("real", stack.project_folder().join("link")).unwrap();
    let running = watch(&stack, &["--project-directory", "link", "-f", "link/compose.yaml", "watch"]);
    stack.write("link/src/a", "2\n");
    let look = "dc --project-directory link -f link/compose.yaml exec -T web cat /app/a";
    wait_to_see(&stack, look, "2\n", &running);
    running.signal(Signal::SIGINT);
    let output = running.wait();
    assert!(output.stdout.contains("Synced service \"web\": "), "{output:?}");
    stack.finish();
}

#[test]
fn what_cannot_be_watched_is_said() {
    let stack = Stack::new("watch-faults");
    let service = |rest: &str| format!("services:\n  web:\n    image: busybox\n    command: sleep 1000\n{rest}");
    for (rest, command, said) in [
        ("", "watch", "none of the selected services is configured for watch, consider setting a 'develop' section"),
        (
            "    develop: {watch: [{path: ., action: rebuild}]}\n",
            "watch",
            "can't watch service \"web\" with action rebuild without a build context",
        ),
        (
            "    develop: {watch: [{path: ., action: sync+exec, target: /x}]}\n",
            "watch",
            "can't watch service \"web\" with action sync+exec without a command",
        ),
        (
            "    volumes: ['./src:/app']\n    develop: {watch: [{path: ./src/sub, action: sync, target: /app}]}\n",
            "watch",
            "/src/sub' also declared by a bind mount volume, this path won't be monitored!",
        ),
        (
            "    build: .\n    develop: {watch: [{path: ., action: rebuild}]}\n",
            "up --watch --no-build",
            "--no-build is incompatible with watch action rebuild in service web",
        ),
        ("    develop: {watch: [{path: ., action: sync, target: /x}]}\n", "up --watch -d", "--watch"),
        ("    develop: {watch: [{path: ., action: sync, target: /x}]}\n", "watch --poll never", "a number of seconds"),
        (
            "    develop: {watch: [{path: ., action: sync, target: /x}]}\n",
            "up --watch --poll never",
            "a number of seconds",
        ),
    ] {
        stack.write("compose.yaml", &service(rest));
        let output = stack.shell(&format!("dc {command}"));
        assert!(output.code != 0 && output.stderr.contains(said), "{said} is not in {output:?}");
        assert!(stack.containers().is_empty(), "{output:?}");
    }
    stack.finish();
}

/// A user namespace has limits of its own (`user_namespaces(7)`), so that nobody else on this machine meets them.
#[test]
fn the_limits_of_inotify_are_named_and_files_can_be_looked_at_then() {
    let stack = Stack::new("watch-limits");
    stack.write("compose.yaml", SYNC);
    for folder in ["a", "b", "c"] {
        stack.write(&format!("src/{folder}/file"), "1\n");
    }
    stack.run(&["up", "-d"]).ok();
    let limits = BTreeMap::from([("instances", 0), ("watches", 2)]);
    let limited = |limit: &str, command: &str| {
        let inside =
            format!("echo {} >/proc/sys/user/max_inotify_{limit} && exec \"$PROGRAM\" {command}", limits[limit]);
        format!("exec unshare --user --map-root-user sh -c '{inside}'")
    };
    for limit in limits.keys() {
        let output = stack.shell(&limited(limit, "watch --no-up"));
        let named = format!("the limit fs.inotify.max_user_{limit}");
        assert!(output.code == 1 && output.stderr.contains(&named), "{named} is not in {output:?}");
        let cure = format!("sysctl fs.inotify.max_user_{limit}=");
        assert!(output.stderr.contains(&cure) && output.stderr.contains("--poll 1"), "{output:?}");
    }
    let running = stack.spawn_shell(&limited("watches", "watch --no-up --poll 1"));
    running.wait_output("the beginning of the watch", |output| output.stdout.contains("Watch enabled"));
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait().code, 130);
    stack.finish();
}

#[test]
fn a_dry_run_says_what_it_would_do() {
    let stack = Stack::new("watch-dry");
    stack.write("compose.yaml", SYNC);
    stack.write("src/a", "1\n");
    stack.run(&["up", "-d"]).ok();
    let running = watch(&stack, &["--dry-run", "watch", "--no-up"]);
    stack.write("src/a", "2\n");
    running.wait_output("what would be done", |output| {
        output.stdout.contains("DRY-RUN MODE - Synced service \"web\": src/a (")
    });
    running.signal(Signal::SIGINT);
    running.wait();
    assert_eq!(stack.run(&["exec", "-T", "web", "ls", "/app"]).code, 1);
    stack.finish();
}

#[test]
fn a_container_that_exchanges_directories_gets_nothing_out_of_its_root() {
    let stack = Stack::new("watch-race");
    let victim = Victim::new(&stack);
    let rule = "    develop: {watch: [{path: ./src, action: sync, target: /race/x}]}\n";
    stack.write("compose.yaml", &victim.project(rule));
    stack.write("src/passwd", "");
    let running = watch(&stack, &["watch"]);
    for number in 1..=60 {
        stack.write("src/passwd", &format!("evil {number}\n"));
        stack.write("src/new", &format!("evil {number}\n"));
        running.wait_output("the change to be seen", |output| output.stdout.matches("Syncing").count() >= number);
    }
    running.signal(Signal::SIGINT);
    running.wait();
    victim.is_unharmed();
    stack.finish();
}
