//! Real Dockerfiles: the project of `examples/build` is built with packages of the registries that this machine reaches,
//! and runs. The images that it is built on are the factory's.

use std::path::Path;
use std::process::Command;

use compose_tests::expect;
use compose_tests::factory::apt;
use compose_tests::stack::Stack;

/// What tells a host's programs how registries are reached; builds are handed it as a user would.
const HANDED: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY"];

/// Returns where the registry that npm uses has npm itself.
fn npm() -> String {
    let output = Command::new("npm").args(["config", "get", "registry"]).output().expect("npm is installed");
    let registry = String::from_utf8(output.stdout).expect("an address is text");
    format!("{}/npm/-/npm-10.9.2.tgz", registry.trim().trim_end_matches('/'))
}

#[test]
fn real_projects_are_built_and_run() {
    // Registries are reached by the host's network.
    let mut stack = Stack::on_host("examples");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it lies in the repository");
    stack.copy(&repository.join("examples/build"));
    for (name, value) in HANDED.iter().filter_map(|name| Some((name, std::env::var(name).ok()?))) {
        stack.set(name, &value);
    }
    stack.set("APT_SOURCES", &apt::sources().expect("the host has sources of Debian"));
    stack.set("WEB_PORT", "0");
    let node = repository.join("compose-tests/dockerfiles/node-with-npm").display().to_string();
    let npm = format!("NPM={}", npm());
    stack.run(&["image", "build", "-t", "node:22-bookworm", "--build-arg", &npm, &node]).ok();

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
