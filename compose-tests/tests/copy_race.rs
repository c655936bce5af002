//! `cp` and `export` of a container that changes at that moment: it exchanges a directory for a link out of it all the time
//! (CVE-2018-15664, CVE-2019-14271), or it ends.

use std::fs;

use compose_tests::stack::Stack;
use compose_tests::victim::Victim;
use compose_tests::{process, wait};
use nix::sys::signal::Signal;

/// How often each direction is tried: `RCOMPOSE_RACES`, as for the other races (`docs/security.md`).
fn times() -> u32 {
    std::env::var("RCOMPOSE_RACES").ok().and_then(|count| count.parse().ok()).unwrap_or(500)
}

#[test]
fn a_container_that_changes_its_directories_gets_nothing_of_the_host() {
    let stack = Stack::new("race");
    let victim = Victim::new(&stack);
    stack.write("compose.yaml", &victim.project(""));
    stack.write("evil", "evil\n");
    stack.run(&["up", "-d"]).ok();
    let (mut read, mut written) = (0, 0);
    let out = stack.project_folder().join("out");
    for _ in 0..times() {
        if stack.run(&["cp", "racer:/race/x/passwd", "out"]).code == 0 {
            let content = fs::read_to_string(&out).unwrap();
            assert!(content == "inside\n" || content == "evil\n", "{content}");
            fs::remove_file(&out).unwrap();
            read += 1;
        }
        // The directory itself: whatever comes of it, it is not the host's.
        if stack.run(&["cp", "-L", "racer:/race/x", "out"]).code == 0 {
            let content = fs::read_to_string(out.join("passwd")).unwrap_or_default();
            assert!(!content.contains("secret"), "{content}");
            if out.is_dir() { fs::remove_dir_all(&out).unwrap() } else { fs::remove_file(&out).unwrap() }
        }
        written += u32::from(stack.run(&["cp", "evil", "racer:/race/x/passwd"]).code == 0);
    }
    victim.is_unharmed();
    assert!(read > 0 && written > 0, "the race was never run: {read} {written}");
    stack.finish();
}

#[test]
fn what_a_container_left_is_had_before_its_end_is_written_down() {
    let stack = Stack::new("ending");
    stack.write(
        "compose.yaml",
        "services:
  app: {image: busybox, command: [sh, -c, 'echo own > /made; exec sleep 1000'], network_mode: none}
",
    );
    stack.run(&["up", "-d"]).ok();
    wait::until(wait::PATIENCE, "the file", || {
        let output = stack.run(&["exec", "-T", "app", "test", "-s", "/made"]);
        if output.code == 0 { Ok(()) } else { Err(output) }
    });
    let pid = stack.run(&["inspect", "--format", "{{.State.Pid}}", "app"]).ok();
    let program = process::read(pid.text().parse().unwrap()).unwrap();
    // It cannot tell of the end.
    let shim = stack.shim("app");
    shim.signal(Signal::SIGSTOP);
    program.signal(Signal::SIGKILL);
    wait::until(wait::PATIENCE, "the end", || if program.is_alive() { Err(&program) } else { Ok(()) });
    stack.run(&["export", "--bundle", "bundle", "app"]).ok();
    assert_eq!(fs::read_to_string(stack.project_folder().join("bundle/rootfs/made")).unwrap(), "own\n");
    stack.run(&["cp", "app:/made", "copy"]).ok();
    assert_eq!(fs::read_to_string(stack.project_folder().join("copy")).unwrap(), "own\n");
    // Whether it is started anew nobody knows yet, and then it would not see what was written below it.
    stack.run(&["cp", "copy", "app:/other"]).fails().complains("it has just ended");
    shim.signal(Signal::SIGCONT);
    stack.wait_for("app", &serde_json::json!({"State": "exited", "ExitCode": 137}));
    stack.run(&["cp", "copy", "app:/other"]).ok();
    stack.finish();
}
