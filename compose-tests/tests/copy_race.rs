//! `cp` from and into a container that exchanges a directory for a link out of it all the time (CVE-2018-15664, CVE-2019-14271).

use std::fs;

use compose_tests::stack::Stack;
use compose_tests::victim::Victim;

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
