//! The keys of attached `up` in a terminal: what they do, and that the terminal is as it was before.

use std::{fs, os::unix::fs::PermissionsExt as _};

use compose_tests::{
    stack::Stack,
    terminal::{INTERRUPT, Terminal},
    wait,
};
use serde_json::json;

/// Control-\, which ends a program where it stands.
const QUIT: &str = "\x1c";

const SERVICES: &str = "services:
  web:
    image: busybox
    command: [sh, -c, 'echo begun; exec sleep 1000']
    init: true
    stop_grace_period: 0s
    ports: ['127.0.0.1:8080:80', '127.0.0.1:5433:5432']
    develop: {watch: [{path: ./src, action: sync, target: /app}]}
";

/// Starts `up` with further arguments in a terminal, and waits until the service says that it has begun.
fn up(stack: &Stack, arguments: &[&str]) -> Terminal {
    stack.write("compose.yaml", SERVICES);
    stack.write("src/first", "1");
    let up = Terminal::start(&stack.command(&[&["up"], arguments].concat()), 33, 91);
    up.wait_for("web-1  | begun");
    up
}

#[test]
fn everything_goes_on_when_it_is_left_by_its_key() {
    let mut stack = Stack::new("keys-detach");
    let folder = stack.project_folder();
    stack.write("browser", "#!/bin/sh\necho \"$1\" >>\"${0%/*}/opened\"\n");
    fs::set_permissions(folder.join("browser"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    stack.set("BROWSER", &format!("{}/browser %s", folder.display()));
    let up = up(&stack, &[]);
    up.wait_for("d Detach   w Enable Watch   o URLs   q Stop");
    // Where there is no room for all of them, the last are left out.
    up.resize(33, 30);
    up.wait_until("a line for a narrow window", |shown| shown.ends_with("d Detach   w Enable Watch"));
    up.type_in("o");
    up.wait_for("web-1  http://127.0.0.1:8080");
    up.wait_for("web-1  postgresql://127.0.0.1:5433");
    let opened =
        || Some(fs::read_to_string(folder.join("opened")).unwrap_or_default()).filter(|urls| urls.ends_with('\n'));
    let opened = wait::until(wait::PATIENCE, "a browser", || opened().ok_or("nothing was opened"));
    assert_eq!(opened, "http://127.0.0.1:8080\n", "a database is nothing for a browser");
    up.type_in("d");
    let (code, shown) = up.finish();
    assert_eq!(code, 0, "{shown}");
    assert_eq!(stack.container("web")["State"], json!("running"), "{shown}");
    stack.finish();
}

#[test]
fn a_key_stops_everything() {
    let stack = Stack::new("keys-quit");
    let up = up(&stack, &[]);
    up.type_in("q");
    let (code, shown) = up.finish();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("web-1 exited with code"), "{shown}");
    assert_eq!(stack.container("web")["State"], json!("exited"));
    stack.finish();
}

#[test]
fn a_key_begins_to_watch_and_ends_it() {
    let stack = Stack::new("keys-watch");
    let up = up(&stack, &[]);
    up.type_in("w");
    up.wait_for("Watch enabled");
    up.wait_for("w Disable Watch");
    stack.write("src/first", "2");
    up.wait_for("Synced service \"web\": src/first (");
    up.type_in("w");
    up.wait_for("Watch disabled");
    stack.write("src/second", "unseen");
    up.type_in("w");
    up.wait_until("the second beginning", |shown| shown.matches("Watch enabled").count() == 2);
    stack.write("src/third", "seen");
    up.wait_for("Synced service \"web\": src/third (");
    let files = stack.run(&["exec", "-T", "web", "ls", "/app"]).ok();
    assert_eq!(files.stdout, "first\nthird\n", "what changed while nobody watched is not brought over");
    // Watching ends with everything else.
    up.type_in(INTERRUPT);
    let (code, shown) = up.finish();
    assert_eq!(code, 130, "{shown}");
    assert_eq!(stack.container("web")["State"], json!("exited"));
    stack.finish();
}

#[test]
fn without_a_menu_keys_mean_nothing() {
    for (variable, arguments) in [(None, &["--menu=false"][..]), (Some("false"), &[])] {
        let mut stack = Stack::new("keys-none");
        if let Some(value) = variable {
            stack.set("COMPOSE_MENU", value);
        }
        let up = up(&stack, arguments);
        up.type_in("d\nq\n");
        up.type_in(INTERRUPT);
        let (code, shown) = up.finish();
        assert_eq!(code, 130, "{shown}");
        assert!(!shown.contains("Enable Watch"), "{shown}");
        stack.finish();
    }
}

#[test]
fn a_program_that_is_killed_leaves_the_terminal_as_it_was() {
    let stack = Stack::new("keys-killed");
    let up = up(&stack, &[]);
    up.wait_for("d Detach");
    up.type_in(QUIT);
    let (code, shown) = up.finish();
    assert_eq!(code, 131, "{shown}");
    assert_eq!(stack.container("web")["State"], json!("running"), "{shown}");
    stack.finish();
}

#[test]
fn addresses_are_said_on_a_terminal_only() {
    let stack = Stack::new("keys-urls");
    stack.write("compose.yaml", SERVICES);
    let (code, shown) = Terminal::start(&stack.command(&["up", "-d"]), 33, 91).finish();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains(" web-1  http://127.0.0.1:8080"), "{shown}");
    let quiet = Terminal::start(&stack.command(&["--progress", "quiet", "up", "-d"]), 33, 91).finish().1;
    let piped = stack.run(&["up", "-d"]).ok();
    assert!(!format!("{quiet}{piped:?}").contains("http://"), "{quiet} {piped:?}");
    stack.finish();
}

#[test]
fn tables_fit_the_terminal() {
    let stack = Stack::new("keys-tables");
    stack.write("compose.yaml", SERVICES);
    stack.run(&["up", "-d"]).ok();
    for (command, dropped) in [("ps", "COMMAND"), ("images", "PLATFORM"), ("ls", "")] {
        let shown = |columns, arguments: &[&str]| {
            let arguments = [&[command], arguments].concat();
            Terminal::start(&stack.command(&arguments), 33, columns).finish().1.replace('\r', "")
        };
        for columns in [40, 60, 80] {
            let text = shown(columns, &[]);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(columns)), "{command} in {columns} columns: {text}");
        }
        let narrow = shown(60, &[]);
        assert!(dropped.is_empty() || !narrow.contains(dropped), "{narrow}");
        let whole = stack.run(&[command]).ok().stdout;
        assert!(whole.contains(dropped), "{whole}");
        // The first column tells one project from the other, and is the same there.
        let heading = |text: &str| text.lines().next().unwrap_or_default().split_whitespace().count();
        assert_eq!(heading(&shown(60, &["--no-trunc"])), heading(&whole), "{command}");
    }
    stack.finish();
}
