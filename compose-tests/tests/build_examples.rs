//! Real Dockerfiles: the projects of `examples/build` and `examples/full` are built with packages of the registries that
//! this machine reaches, and run. The images that they are built on are the factory's.

use std::fs;
use std::process::Command;

use compose_tests::factory::apt;
use compose_tests::stack::{self, Stack};
use compose_tests::{expect, http, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What tells a host's programs how registries are reached; builds are handed it as a user would.
const HANDED: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY"];

/// Returns where the registry that npm uses has npm itself.
fn npm() -> String {
    let output = Command::new("npm").args(["config", "get", "registry"]).output().expect("npm is installed");
    let registry = String::from_utf8(output.stdout).expect("an address is text");
    format!("{}/npm/-/npm-10.9.2.tgz", registry.trim().trim_end_matches('/'))
}

/// Returns a project on the host's network, by which registries are reached, with a `node` that has npm.
fn project(example: &str) -> Stack {
    let mut stack = Stack::on_host(&format!("example-{example}"));
    stack.copy_example(example);
    for (name, value) in HANDED.iter().filter_map(|name| Some((name, std::env::var(name).ok()?))) {
        stack.set(name, &value);
    }
    stack.set("WEB_PORT", "0");
    let node = stack::repository().join("compose-tests/dockerfiles/node-with-npm").display().to_string();
    let npm = format!("NPM={}", npm());
    stack.run(&["image", "build", "-t", "node:22-bookworm", "--build-arg", &npm, &node]).ok();
    stack
}

#[test]
fn real_projects_are_built_and_run() {
    let mut stack = project("build");
    stack.set("APT_SOURCES", &apt::sources().expect("the host has sources of Debian"));

    stack.run(&["--progress", "plain", "build"]).ok();
    let again = stack.run(&["--progress", "plain", "build"]).ok();
    let steps = |word: &str| again.stderr.lines().filter(|line| line.ends_with(word)).count();
    let made = again.stderr.lines().filter(|line| line.contains("] RUN ")).count();
    assert!(made > 0 && steps(" CACHED") >= made, "{again:?}");

    let run = stack.run(&["up", "-d", "--wait", "web", "api", "hello"]).ok();
    assert!(run.stderr.contains("Healthy"), "{run:?}");
    let page = stack.get("web", 80, "/").text();
    let script = page.split('"').find(|part| part.starts_with("/assets/")).unwrap_or_else(|| panic!("{page}"));
    assert!(stack.get("web", 80, script).text().contains("/api/greeting/"), "the bundle has the page's own code");
    let greeting = stack.get("web", 80, "/api/greeting/reader").text();
    assert_eq!(expect::objects(&greeting).expect("JSON")[0]["message"], "Hello, reader!");
    assert_eq!(expect::objects(&greeting).expect("JSON")[0]["user"], 10001);
    let report = stack.run(&["run", "--rm", "-T", "report"]).ok();
    assert_eq!(report.stdout, "Hello, report!\nhello from user 65534\n");

    // What was handed to the builds is in no image.
    let files = stack
        .run(&[
            "run",
            "--rm",
            "-T",
            "--no-deps",
            "report",
            "sh",
            "-c",
            "ls -A /etc/apt/sources.list.d /run/secrets; env",
        ])
        .ok();
    for word in ["host.sources", "APT_SOURCES", "certificates"] {
        assert!(!files.stdout.contains(word), "{files:?}");
    }
    stack.finish();
}

/// Replaces something in a file of the project, as an editor does: aside, and renamed.
fn edit(stack: &Stack, path: &str, old: &str, new: &str) {
    let file = stack.project_folder().join(path);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(text.contains(old), "no {old:?} in {path}");
    let aside = file.with_extension("new");
    fs::write(&aside, text.replace(old, new)).expect("a file of the project can be written");
    fs::rename(aside, file).expect("a file of the project can be replaced");
}

/// Returns what the API says through the page's server, once that is what is wanted. A server that is restarted refuses.
fn notes(stack: &Stack, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let address = stack.published("web", 80);
    wait::until(wait::PATIENCE, what, || {
        let answer = http::get(address, "/api/notes").map_err(|error| format!("{error:#}"))?;
        let value = serde_json::from_slice::<Value>(&answer.body).map_err(|_| answer.text())?;
        if wanted(&value) { Ok(value) } else { Err(value.to_string()) }
    })
}

#[test]
fn a_full_stack_is_developed_and_shipped() {
    let mut stack = project("full");
    stack.set("DB_PORT", "0");
    let watch = stack.spawn(&["--progress", "plain", "up", "--watch"]);
    // What has to be fetched and built first takes its time.
    wait::until(5 * wait::PATIENCE, "the watch", || {
        let output = watch.so_far();
        if output.stdout.contains("Watch enabled") { Ok(()) } else { Err(output) }
    });
    assert!(stack.get("web", 80, "/").text().contains("/src/main.jsx"), "Vite serves the page as it is written");
    notes(&stack, "an answer of the API", |answer| answer["title"] == "Notes");
    let body = json!({"text": "buy milk"}).to_string();
    let kept = http::post(stack.published("web", 80), "/api/notes", "application/json", &body).expect("an answer");
    assert_eq!(kept.status, 201, "{}", kept.text());

    edit(&stack, "web/src/main.jsx", "Looked at", "Seen");
    wait::until(wait::PATIENCE, "the page that was saved", || {
        let page = stack.get("web", 80, "/src/main.jsx").text();
        if page.contains("Seen") { Ok(()) } else { Err(page) }
    });
    edit(&stack, "api/main.py", "looks=cache", "looks=1000 + cache");
    notes(&stack, "the API that was saved", |answer| answer["looks"].as_u64() > Some(1000));
    edit(&stack, "api/settings.toml", "\"Notes\"", "\"To do\"");
    notes(&stack, "the setting that was saved", |answer| answer["title"] == "To do");
    let before = stack.container("api")["ID"].clone();
    edit(&stack, "api/requirements.txt", "redis==5.2.1", "redis==5.2.0");
    wait::until(5 * wait::PATIENCE, "another container of the API", || {
        let now = stack.containers();
        let renewed =
            now.iter().any(|one| one["Service"] == "api" && one["ID"] != before && one["Health"] == "healthy");
        if renewed { Ok(()) } else { Err((now, watch.so_far())) }
    });
    let seen = notes(&stack, "the API that was built again", |answer| answer["looks"].as_u64() > Some(1000));
    assert_eq!((&seen["title"], &seen["notes"]), (&json!("To do"), &json!(["buy milk"])));
    watch.signal(Signal::SIGINT);
    watch.wait();

    let query = ["run", "--rm", "-T", "psql", "--tuples-only", "--no-align", "--command", "select text from note"];
    assert_eq!(stack.run(&query).ok().text(), "buy milk");
    assert_eq!(stack.run(&["run", "--rm", "-T", "redis-cli", "exists", "looks"]).ok().text(), "1");

    stack.run(&["-f", "compose.yaml", "--progress", "plain", "up", "-d", "--wait", "--build"]).ok();
    assert!(stack.get("web", 80, "/").text().contains("/assets/"), "nginx serves the page that was built");
    let shipped = notes(&stack, "an answer of what is shipped", |answer| answer["title"] == "To do");
    assert_eq!(shipped["notes"], json!(["buy milk"]));
    stack.finish();
}
